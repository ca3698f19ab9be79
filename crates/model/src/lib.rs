//! The vocabulary of the secret service.
//!
//! Every other crate speaks in these types and this crate knows none of them: no I/O, no wire types, no SQL, no
//! cryptography. What can be checked about a value is checked when it is made (`SecretName::parse` and its like), so
//! that whoever holds one need not check again.
//!
//! Deliberately absent: a conversion that trims, folds or normalises its input. What breaks a limit is refused.

mod clock;
mod envelope;
mod key;
mod owner;
mod place;
mod refusal;
mod rng;
pub mod rpc;
mod secret;
mod status;
mod text;
mod value;
mod version;

pub use clock::{Clock, SystemClock, Timestamp, TimestampText};
pub use envelope::Envelope;
pub use key::{ApiKeyId, ApiKeyRecord, Scope, ScopeSet, UnknownScope};
pub use owner::{Owner, UserId};
pub use place::{Place, Slot};
pub use refusal::{Code, Reason, Refusal, Violation};
pub use rng::{Rng, RngError};
pub use rpc::Rpc;
pub use secret::{PageCursor, Secret, SecretId, SecretIdText};
pub use status::{Status, UnknownStatus};
pub use text::{Description, KekId, ParseError, Realm, SecretName, TagKey, TagValue, Tags};
pub use value::SecretValue;
pub use version::Version;

/// The limits of requests and of what is stored, in one place; docs/api.md has them for callers.
pub mod limits {
    /// Longest secret name, in bytes.
    pub const NAME_BYTES: usize = 255;
    /// Longest realm, in bytes.
    pub const REALM_BYTES: usize = 64;
    /// Longest user id, in bytes.
    pub const USER_ID_BYTES: usize = 255;
    /// Largest secret value, in bytes of UTF-8.
    pub const VALUE_BYTES: usize = 64 * 1024;
    /// Longest description, in bytes of UTF-8.
    pub const DESCRIPTION_BYTES: usize = 1024;
    /// Most tags on one secret.
    pub const TAGS: usize = 64;
    /// Longest tag key, in bytes.
    pub const TAG_KEY_BYTES: usize = 128;
    /// Longest tag value, in bytes of UTF-8.
    pub const TAG_VALUE_BYTES: usize = 256;
    /// Largest request body, in bytes, before and after decompression.
    pub const BODY_BYTES: usize = 256 * 1024;
    /// Page size of a list whose caller named none.
    pub const PAGE_SIZE_DEFAULT: u32 = 50;
    /// Largest page; a larger request gets this many.
    pub const PAGE_SIZE_MAX: u32 = 1000;
}
