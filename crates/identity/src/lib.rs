//! Identity without stored keys: who a caller is by a token that an issuer signed, or by the certificate of its
//! connection.
//!
//! A platform such as Kubernetes, a CI service or a directory issues tokens (JWT, RFC 7519) to its programs. A program
//! sends its token in the `Authorization` header, as it would send an API key. In a mesh, programs have certificates
//! (mTLS) instead, which the server verifies. An *issuer* of the settings says whose tokens or certificates are
//! accepted, and its *rules* say what their holders may do. Nothing is stored.
//!
//! | file | content |
//! |---|---|
//! | `settings.rs` | issuers and rules, parsed from the config file |
//! | `claims.rs` | the claims of a token |
//! | `key_set.rs` | the public keys of an issuer: a JSON Web Key Set (RFC 7517) |
//! | `issuer.rs` | an issuer in use: its keys and its revocations, and when they are read again |
//! | `issuers.rs` | all issuers; verifies a token, and remembers that it did |
//!
//! Invariants:
//! * The issuer decides which algorithms are accepted, never the token. A symmetric algorithm cannot be named.
//! * A token is accepted after its signature, issuer, audience, times and subject are checked, and a rule matches.
//! * A token that is remembered is forgotten when it expires, and when the rules, the keys or the revocations change.
//! * A token never causes more than one fetch of keys per issuer in 30 seconds, and never a fetch from an address in it.
//!
//! Only `service` calls this crate to authenticate. The server fetches ([`Fetch`]). Deliberately absent: HTTP, sessions,
//! encrypted tokens, and the discovery of an issuer's addresses.

mod claims;
mod issuer;
mod issuers;
mod key_set;
mod settings;

use std::num::NonZeroU32;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use agentrouter_model::{Grant, Owner, Realm, ScopeSet, Timestamp};

pub use issuers::{Issuers, Stats};
pub use settings::{IdentitySettings, SettingsError};

/// Who a caller is, and what a rule lets it do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name of the issuer in the settings.
    pub issuer: Arc<str>,
    /// The subject of the token: the claim `sub`. Of a certificate: its name.
    pub subject: Arc<str>,
    /// The name of the rule that matched.
    pub rule: Arc<str>,
    /// The user as which the caller acts.
    pub user: Owner,
    /// The scopes.
    pub scopes: ScopeSet,
    /// The realm of requests that name none.
    pub realm: Realm,
    /// The realms that the caller is limited to. `None` means all.
    pub realms: Option<Vec<Realm>>,
    /// Requests per second of this subject. `None` means the limit of API keys.
    pub rate: Option<NonZeroU32>,
    /// From when on the token is refused.
    pub expires_at: Timestamp,
}

impl Identity {
    /// What it allows.
    pub fn grant(&self) -> Grant<'_> {
        Grant { user: &self.user, scopes: self.scopes, realm: &self.realm, realms: self.realms.as_deref() }
    }
}

/// The result of a fetch.
pub type Fetched<'a> = Pin<Box<dyn Future<Output = std::io::Result<Vec<u8>>> + Send + 'a>>;

/// Gets documents of issuers by HTTP.
pub trait Fetch: Send + Sync {
    /// The body of the response to a GET of `url`, of at most `most` bytes.
    ///
    /// `ca` is a PEM file with the certificates that are trusted instead of the system's. The content of `token` is sent as
    /// bearer token. Redirects are not followed.
    ///
    /// # Errors
    /// When there is no response with status 200 in time.
    fn fetch<'a>(
        &'a self,
        url: &'a str,
        ca: Option<&'a Path>,
        token: Option<&'a Path>,
        most: usize,
    ) -> Fetched<'a>;
}
