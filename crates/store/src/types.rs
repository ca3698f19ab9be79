//! What is asked of a store, and what it answers.

use std::fmt;

use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, Description, Envelope, Owner, PageCursor, Place, Realm, Secret, SecretId, Slot,
    Tags, Timestamp, Version,
};

use crate::SealError;

/// One version of a secret as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its metadata. The status is the one at the instant asked about, where one was, and the stored one elsewhere:
    /// see [`Status::at`](agentrouter_model::Status::at).
    pub secret: Secret,
    /// The sealed value; none once it is destroyed.
    pub envelope: Option<Envelope>,
}

/// A version as [`Store::examine`](crate::Store::examine) finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// It parses. Whether it opens is another question.
    Whole(Box<Stored>),
    /// It does not parse; its number, if that does.
    Damaged(Option<Version>),
}

/// An API key as [`Store::examine_keys`](crate::Store::examine_keys) finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExaminedKey {
    /// It parses. Whether it still works is another question.
    Whole(ApiKeyRecord),
    /// It does not parse, so it does not work.
    Damaged {
        /// Its id, if that does.
        id: Option<ApiKeyId>,
        /// Whether it was revoked.
        revoked: bool,
    },
}

/// Seals a value for the slot that the store assigns. Called inside the write, when id and version are known, possibly
/// more than once (each time with fresh randomness) and on a thread of the store: it must not block.
pub type Sealer = Box<dyn Fn(Slot<'_>) -> Result<Envelope, SealError> + Send + Sync>;

/// A secret made, or changed where there is one.
pub struct Upsert {
    /// Where.
    pub place: Place,
    /// The id, if it is made anew; unused otherwise.
    pub new_id: SecretId,
    /// The present.
    pub now: Timestamp,
    /// What the active version must be; 0 for "there must be none yet". None for no matter.
    pub expected_version: Option<i32>,
    /// Written if some; else kept, and empty in a new secret.
    pub description: Option<Description>,
    /// Written if some, in place of all there are; else kept, and empty in a new secret.
    pub tags: Option<Tags>,
    /// A new value, which becomes the next version; needed for a new secret.
    pub seal: Option<Sealer>,
}

/// A new value for a secret that there is, the present one staying readable for a while.
pub struct Rotation {
    /// Which secret.
    pub place: Place,
    /// The present.
    pub now: Timestamp,
    /// When the replaced version stops being readable; if that is not after `now`, its ciphertext is destroyed at once.
    pub expires_at: Timestamp,
    /// What the active version must be. None for no matter.
    pub expected_version: Option<i32>,
    /// The new value.
    pub seal: Sealer,
}

impl fmt::Debug for Upsert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upsert").field("place", &self.place).finish_non_exhaustive()
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Which realms of an owner a list covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Realms {
    /// Every one.
    All,
    /// These alone.
    Only(Vec<Realm>),
}

/// Whose secrets, and in which realms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListScope {
    /// Whose.
    pub owner: Owner,
    /// In which realms.
    pub realms: Realms,
}

/// Which versions a list shows, by their status at [`ListQuery::now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    /// The active ones, one per secret.
    Active,
    /// Those replaced by a rotation and still readable.
    RotatedPending,
    /// Those no longer readable, their ciphertext destroyed or about to be.
    Retired,
    /// All.
    Any,
}

/// A page of a list.
///
/// Every filter must match. Rows come by (realm, name, version); what `after` names need not exist any more. Scopes may
/// overlap. Two owners should not have secrets in one realm of one list, as the cursor does not tell them apart.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// What is covered: the union of these.
    pub scopes: Vec<ListScope>,
    /// Which versions.
    pub statuses: StatusFilter,
    /// Tags that the secret must all have, with these values.
    pub tags: Tags,
    /// What the name must begin with.
    pub name_prefix: Option<String>,
    /// Where the page before ended.
    pub after: Option<PageCursor>,
    /// Most rows.
    pub limit: u32,
    /// The present.
    pub now: Timestamp,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions made durable.
    pub commits: u64,
    /// Writes acknowledged; several can share a commit.
    pub writes: u64,
    /// Rows that did not parse and were left out of a list.
    pub damaged: u64,
}

/// The findings about a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The number of its schema.
    pub schema: i32,
    /// How many secrets there are.
    pub secrets: u64,
    /// How many versions, retired ones included.
    pub versions: u64,
    /// How many API keys, revoked ones included.
    pub api_keys: u64,
    /// What is wrong, a sentence each; empty when all is well. No sentence carries stored content.
    pub problems: Vec<String>,
}
