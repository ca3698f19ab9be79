//! The seven RPCs: their names, their requests and their results.
//!
//! A transport passes a request to `service` borrowed, complete and unchecked, and `service` checks it. An empty string is
//! an absent one, as in proto3. No request type is `Debug`, because two of them carry a value.

use std::fmt;

use crate::{Scope, Secret, SecretValue};

/// One of the seven operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rpc {
    /// Create or update a secret.
    CreateSecret,
    /// Read metadata.
    GetSecret,
    /// Read the metadata of many secrets.
    ListSecrets,
    /// Remove a secret with all its versions.
    DeleteSecret,
    /// Make a new version active. The replaced one stays readable for its grace.
    RotateSecret,
    /// Check that the stored versions open.
    ValidateSecret,
    /// Read the plaintext.
    GetSecretValue,
}

impl Rpc {
    /// All seven operations.
    pub const ALL: [Self; 7] = [
        Self::CreateSecret,
        Self::GetSecret,
        Self::ListSecrets,
        Self::DeleteSecret,
        Self::RotateSecret,
        Self::ValidateSecret,
        Self::GetSecretValue,
    ];

    /// The name in the proto definition, in audit records and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateSecret => "CreateSecret",
            Self::GetSecret => "GetSecret",
            Self::ListSecrets => "ListSecrets",
            Self::DeleteSecret => "DeleteSecret",
            Self::RotateSecret => "RotateSecret",
            Self::ValidateSecret => "ValidateSecret",
            Self::GetSecretValue => "GetSecretValue",
        }
    }

    /// The scope that the caller's key needs.
    pub const fn scope(self) -> Scope {
        match self {
            Self::GetSecret | Self::ListSecrets | Self::ValidateSecret => Scope::Read,
            Self::CreateSecret | Self::DeleteSecret | Self::RotateSecret => Scope::Write,
            Self::GetSecretValue => Scope::ReadInternal,
        }
    }

    /// Whether the operation writes to the store. A write has two audit records: its attempt and its outcome.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::CreateSecret | Self::DeleteSecret | Self::RotateSecret)
    }
}

impl fmt::Display for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The arguments of CreateSecret.
#[derive(Clone, Default)]
pub struct CreateSecret<'a> {
    /// Name of the secret.
    pub name: &'a str,
    /// Realm; empty means the key's current one.
    pub realm: &'a str,
    /// New description. Empty leaves it unchanged unless `update_mask` names it.
    pub description: &'a str,
    /// New value. Empty leaves it unchanged, and is refused for a new secret.
    pub value: &'a str,
    /// New tags. No tags leave them unchanged unless `update_mask` names them.
    pub tags: Vec<(&'a str, &'a str)>,
    /// Owner; empty means the key's user.
    pub user_id: &'a str,
    /// The version that must be current. 0 means that the secret must not exist.
    pub expected_version: Option<i32>,
    /// The fields to write, of `description`, `tags` and `value`.
    pub update_mask: Option<Vec<&'a str>>,
}

/// The arguments of GetSecret.
#[derive(Clone, Copy, Default)]
pub struct GetSecret<'a> {
    /// Name of the secret.
    pub name: &'a str,
    /// Realm; empty means the key's current one.
    pub realm: &'a str,
}

/// The arguments of ListSecrets.
#[derive(Clone, Default)]
pub struct ListSecrets<'a> {
    /// Realm; empty means every realm that the caller may see.
    pub realm: &'a str,
    /// `active`, `rotated_pending`, `retired` or `any`; empty means `active`.
    pub status: &'a str,
    /// Tags that must all match.
    pub tags: Vec<(&'a str, &'a str)>,
    /// The most secrets on this page. 0 means 50, more than 1000 means 1000.
    pub page_size: i32,
    /// The position of the page; empty means the first page.
    pub page_token: &'a str,
    /// The prefix of the name; empty matches every name.
    pub name_prefix: &'a str,
}

/// The arguments of DeleteSecret.
#[derive(Clone, Copy, Default)]
pub struct DeleteSecret<'a> {
    /// Name of the secret.
    pub name: &'a str,
    /// Realm; empty means the key's current one.
    pub realm: &'a str,
}

/// The arguments of RotateSecret.
#[derive(Clone, Copy, Default)]
pub struct RotateSecret<'a> {
    /// Name of the secret.
    pub name: &'a str,
    /// Realm; empty means the key's current one.
    pub realm: &'a str,
    /// The value of the new version.
    pub new_value: &'a str,
    /// The version that must be current.
    pub expected_version: Option<i32>,
    /// How long the replaced version stays readable: the seconds and nanoseconds of a `google.protobuf.Duration`. `None`
    /// means the configured grace.
    pub grace_period: Option<(i64, i32)>,
}

/// The arguments of ValidateSecret.
#[derive(Clone, Copy, Default)]
pub struct ValidateSecret<'a> {
    /// Name of the secret.
    pub name: &'a str,
    /// Realm; empty means the key's current one.
    pub realm: &'a str,
}

/// The arguments of GetSecretValue.
#[derive(Clone, Copy, Default)]
pub struct GetSecretValue<'a> {
    /// Name of the secret.
    pub name: &'a str,
    /// Realm; empty means the key's current one.
    pub realm: &'a str,
    /// Owner; empty means the key's user.
    pub user_id: &'a str,
    /// The version; 0 means the active one.
    pub version: i32,
}

/// The result of ListSecrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The secrets of this page, in order.
    pub secrets: Vec<Secret>,
    /// The position of the next page; empty on the last page.
    pub next_page_token: String,
}

/// The result of ValidateSecret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// Whether every readable version opens.
    pub valid: bool,
    /// The versions that do not open, such as `version 3: corrupt`; empty if valid.
    pub error: String,
}

/// The result of GetSecretValue.
#[derive(Clone, Debug)]
pub struct Revealed {
    /// The plaintext.
    pub value: SecretValue,
    /// The metadata of its version.
    pub secret: std::sync::Arc<Secret>,
}
