//! The domain types of the secret service.
//!
//! Every other crate uses these types, and this crate depends on none of them: no I/O, no wire types, no SQL, no
//! cryptography. A value is checked when it is created (`SecretName::parse` and the like), so code that holds one does not
//! check it again.
//!
//! Deliberately absent: conversions that trim, fold or normalise their input. Input that breaks a limit is refused.

mod clock;
mod envelope;
mod forward_clock;
mod key;
mod owner;
mod place;
mod refusal;
mod rng;
pub mod rpc;
mod secret;
mod secret_id;
mod status;
mod text;
mod value;
mod version;

pub use clock::{Clock, SystemClock, Timestamp, TimestampText};
pub use envelope::Envelope;
pub use forward_clock::ForwardClock;
pub use key::{ApiKeyId, ApiKeyRecord, Grant, Scope, ScopeSet, UnknownScope};
pub use owner::{Owner, UserId};
pub use place::{Place, Slot};
pub use refusal::{Code, Reason, Refusal, Violation, Violations};
pub use rng::{Rng, RngError};
pub use rpc::Rpc;
pub use secret::{PageCursor, Secret};
pub use secret_id::{SecretId, SecretIdText};
pub use status::{Status, UnknownStatus};
pub use text::{Description, KekId, ParseError, Realm, SecretName, TagKey, TagValue, Tags};
pub use value::SecretValue;
pub use version::Version;

/// The limits of requests and of stored values. `docs/api.md` documents them for callers.
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
    /// The most tags of one secret.
    pub const TAGS: usize = 64;
    /// Longest tag key, in bytes.
    pub const TAG_KEY_BYTES: usize = 128;
    /// Longest tag value, in bytes of UTF-8.
    pub const TAG_VALUE_BYTES: usize = 256;
    /// Largest request body, in bytes, before and after decompression.
    pub const BODY_BYTES: usize = 256 * 1024;
    /// Page size of a list whose request names none.
    pub const PAGE_SIZE_DEFAULT: u32 = 50;
    /// Largest page size. A request for more gets this many.
    pub const PAGE_SIZE_MAX: u32 = 1000;
}
