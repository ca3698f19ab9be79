//! API keys as stored, and their scopes.

use std::fmt;

use crate::text::{ParseError, text_type};
use crate::{Owner, Realm, Timestamp};

text_type! {
    /// The public part of an API key: 16 characters of base 62. Lists, logs and audit records name a key by it.
    ApiKeyId
}

impl ApiKeyId {
    /// Its length in characters.
    pub const LEN: usize = 16;

    /// # Errors
    /// When `text` is not 16 letters and digits.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() == Self::LEN && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new("must be the 16 letters and digits between 'ak-' and '_' of a key"))
        }
    }
}

/// A permission of a key. Scopes are compared as a whole: none implies another, though some texts are prefixes of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// `secrets/read`: Get, List, Validate.
    Read = 1,
    /// `secrets/write`: Create, Delete, Rotate.
    Write = 2,
    /// `secrets/read/internal`: GetSecretValue, for any `user_id` it names.
    ReadInternal = 4,
    /// `secrets/write/internal`: `user_id` in Create.
    WriteInternal = 8,
}

/// The text is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of secrets/read, secrets/write, secrets/read/internal, secrets/write/internal")]
pub struct UnknownScope;

impl Scope {
    /// All scopes, in the order in which they are written.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::ReadInternal, Self::WriteInternal];

    /// The spelling on the command line, in the store and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "secrets/read",
            Self::Write => "secrets/write",
            Self::ReadInternal => "secrets/read/internal",
            Self::WriteInternal => "secrets/write/internal",
        }
    }

    /// # Errors
    /// When `text` is none of the four spellings, compared exactly.
    pub fn parse(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(u8);

impl ScopeSet {
    /// Every scope.
    pub const ALL: Self = Self(15);

    /// Whether `scope` itself is in the set.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }

    /// Parses a comma-separated list, as [`ScopeSet`]'s `Display` writes it.
    ///
    /// # Errors
    /// When any item is not a scope. A key whose stored scopes do not parse is refused.
    pub fn parse(text: &str) -> Result<Self, UnknownScope> {
        text.split(',').map(Scope::parse).collect()
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | scope as u8))
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

/// The stored record of an API key. The key itself is shown once and not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// The public part of the key.
    pub id: ApiKeyId,
    /// SHA-256 of the whole key, `ak-` included (FIPS 180-4). 256 random bits need no slow hash.
    pub digest: [u8; 32],
    /// A label for people, possibly empty.
    pub name: String,
    /// The key's user. [`Owner::System`] can be set on the server's own command line only.
    pub user: Owner,
    /// The key's scopes.
    pub scopes: ScopeSet,
    /// The realm of requests that name none.
    pub realm: Realm,
    /// The realms that the key is limited to. `None` means all.
    pub realms: Option<Vec<Realm>>,
    /// When the key was issued.
    pub created_at: Timestamp,
    /// When the key expires. `None` means never.
    pub expires_at: Option<Timestamp>,
    /// When the key was revoked. `None` if it was not.
    pub revoked_at: Option<Timestamp>,
}

/// What a caller may do: of an API key, or of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// The user as which it acts.
    pub user: &'a Owner,
    /// Its scopes.
    pub scopes: ScopeSet,
    /// The realm of requests that name none.
    pub realm: &'a Realm,
    /// The realms that it is limited to. `None` means all.
    pub realms: Option<&'a [Realm]>,
}

impl Grant<'_> {
    /// Whether it may be used in `realm`.
    pub fn allows_realm(&self, realm: &Realm) -> bool {
        self.realms.is_none_or(|realms| realms.contains(realm))
    }
}

impl ApiKeyRecord {
    /// What the key allows.
    pub fn grant(&self) -> Grant<'_> {
        Grant { user: &self.user, scopes: self.scopes, realm: &self.realm, realms: self.realms.as_deref() }
    }

    /// Whether the key is valid at `now`: neither revoked nor expired.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_scope_implies_another() {
        for scope in Scope::ALL {
            let set: ScopeSet = [scope].into_iter().collect();
            for other in Scope::ALL {
                assert_eq!(set.contains(other), scope == other);
            }
            assert_eq!(ScopeSet::parse(scope.as_str()), Ok(set));
        }
    }

    #[test]
    fn a_list_with_an_unknown_scope_does_not_parse() {
        assert_eq!(ScopeSet::parse("secrets/read,secrets/admin"), Err(UnknownScope));
        assert_eq!(ScopeSet::parse("secrets/read/"), Err(UnknownScope));
        assert_eq!(ScopeSet::parse(""), Err(UnknownScope));
        assert_eq!(ScopeSet::parse(&ScopeSet::ALL.to_string()), Ok(ScopeSet::ALL));
    }
}
