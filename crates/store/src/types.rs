//! Arguments and results of the storage traits.

use std::fmt;

use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, Description, Envelope, Owner, PageCursor, Place, Realm, Secret, SecretId, Slot,
    Status, Tags, Timestamp, Version,
};

use crate::{SealError, StoreError};

/// One version of a secret as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its metadata. The status is the one at the instant of the query if it has one, else the stored one. See
    /// [`Status::at`].
    pub secret: Secret,
    /// The sealed value; none once it is destroyed.
    pub envelope: Option<Envelope>,
}

impl Stored {
    /// A version from the parsed columns of its row.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when half of the sealed value is missing, or all of it in a version that is readable.
    #[inline]
    pub fn new(
        secret: Secret,
        wrapped_dek: Option<&[u8]>,
        sealed: Option<&[u8]>,
    ) -> Result<Self, StoreError> {
        let envelope = match (wrapped_dek, sealed) {
            (Some(wrapped_dek), Some(sealed)) => Some(Envelope {
                kek_id: secret.kek_id.clone(),
                wrapped_dek: wrapped_dek.into(),
                sealed: sealed.into(),
            }),
            (None, None) if !secret.status.is_readable() => None,
            _ => return Err(StoreError::Corrupt("half a sealed value")),
        };
        Ok(Self { secret, envelope })
    }

    /// This version, which must be the active one.
    ///
    /// # Errors
    /// [`StoreError::NO_ACTIVE`] when it is not.
    #[inline]
    pub fn active(self) -> Result<Self, StoreError> {
        if self.secret.status == Status::Active { Ok(self) } else { Err(StoreError::NO_ACTIVE) }
    }

    /// The state that status, expiry and value describe together.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when they contradict each other.
    pub fn state(&self) -> Result<State<'_>, StoreError> {
        match (self.secret.status, self.secret.expires_at, &self.envelope) {
            (Status::Active, None, Some(value)) => Ok(State::Active { value }),
            (Status::RotatedPending, Some(until), Some(value)) => Ok(State::Pending { until, value }),
            (Status::Retired, expires_at, None) => Ok(State::Retired { expires_at }),
            _ => Err(StoreError::Corrupt("half a version")),
        }
    }
}

/// A version's status with the data of that status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// It has a value and no expiry.
    Active {
        /// The sealed value.
        value: &'a Envelope,
    },
    /// It has a value and an expiry.
    Pending {
        /// When it stops being readable.
        until: Timestamp,
        /// The sealed value.
        value: &'a Envelope,
    },
    /// It has no value.
    Retired {
        /// The end of its grace, if it had one.
        expires_at: Option<Timestamp>,
    },
}

/// A version as [`Secrets::examine`](crate::Secrets::examine) finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// It parses. Whether it opens is another question.
    Whole(Box<Stored>),
    /// It does not parse, or is not authentic. Its number, if that parses.
    Damaged(Option<Version>),
}

impl Examined {
    /// Its number, if that parses.
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Whole(stored) => Some(stored.secret.version),
            Self::Damaged(number) => *number,
        }
    }

    /// A version that parsed, or did not; then `version` reads its number.
    ///
    /// # Errors
    /// The error, if it is not [`StoreError::Corrupt`].
    pub fn new(
        parsed: Result<Stored, StoreError>,
        version: impl FnOnce() -> Option<Version>,
    ) -> Result<Self, StoreError> {
        match parsed {
            Ok(stored) => Ok(Self::Whole(Box::new(stored))),
            Err(StoreError::Corrupt(_)) => Ok(Self::Damaged(version())),
            Err(error) => Err(error),
        }
    }
}

/// An API key as [`Keys::examine_keys`](crate::Keys::examine_keys) finds it.
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
    /// It is not authentic, so it does not work. See [`row_tags`](crate::row_tags).
    Refused {
        /// Its id.
        id: ApiKeyId,
        /// Why, in a few fixed words.
        why: &'static str,
    },
}

impl ExaminedKey {
    /// Whether it is damage that an operator has to repair. A damaged key that is revoked needs no repair.
    pub fn is_problem(&self) -> bool {
        matches!(self, Self::Damaged { revoked: false, .. } | Self::Refused { .. })
    }

    /// The key, or why it does not work.
    ///
    /// # Errors
    /// When it does not parse or is not authentic.
    pub fn usable(self) -> Result<ApiKeyRecord, StoreError> {
        match self {
            Self::Whole(key) => Ok(key),
            Self::Damaged { .. } => Err(StoreError::Corrupt("an API key")),
            Self::Refused { why, .. } => Err(StoreError::Corrupt(why)),
        }
    }

    /// Its id, if that parses.
    pub fn id(&self) -> Option<&ApiKeyId> {
        match self {
            Self::Whole(key) => Some(&key.id),
            Self::Damaged { id, .. } => id.as_ref(),
            Self::Refused { id, .. } => Some(id),
        }
    }

    /// Sorts keys: the oldest first, damaged ones last.
    pub fn sort(keys: &mut [Self]) {
        keys.sort_by(|a, b| match (a, b) {
            (Self::Whole(a), Self::Whole(b)) => (a.created_at, &a.id).cmp(&(b.created_at, &b.id)),
            (a, b) => matches!(b, Self::Whole(_)).cmp(&matches!(a, Self::Whole(_))),
        });
    }
}

/// Seals a value for the slot that the store assigns. Called inside the write, when id and version are known, possibly
/// more than once (each time with fresh randomness) and on a thread of the store: it must not block.
pub type Sealer = Box<dyn Fn(Slot<'_>) -> Result<Envelope, SealError> + Send + Sync>;

/// The creation of a secret, or its change if it exists.
pub struct Upsert {
    /// Where.
    pub place: Place,
    /// The id of the secret if it is created; unused otherwise.
    pub new_id: SecretId,
    /// The present.
    pub now: Timestamp,
    /// The expected active version; 0 if the secret must not exist yet. None for no expectation.
    pub expected_version: Option<i32>,
    /// A new description. None keeps the present one; a new secret's is then empty.
    pub description: Option<Description>,
    /// New tags, which replace all present ones. None keeps the present ones; a new secret's are then empty.
    pub tags: Option<Tags>,
    /// A new value, which becomes the next version; needed for a new secret.
    pub seal: Option<Sealer>,
}

/// A new value for an existing secret. The present value stays readable for a while.
pub struct Rotation {
    /// Which secret.
    pub place: Place,
    /// The present.
    pub now: Timestamp,
    /// When the replaced version stops being readable. If that is not after `now`, its ciphertext is destroyed at once.
    pub expires_at: Timestamp,
    /// The expected active version. None for no expectation.
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

/// The realms of an owner that a list covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Realms {
    /// All realms.
    All,
    /// Only these realms.
    Only(Vec<Realm>),
}

/// The owner and realms of the secrets that a list covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListScope {
    /// The owner.
    pub owner: Owner,
    /// The realms.
    pub realms: Realms,
}

/// The versions that a list shows, by their status at [`ListQuery::now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    /// Active versions, one per secret.
    Active,
    /// Versions that a rotation replaced and that are still readable.
    RotatedPending,
    /// Versions that are no longer readable. Their ciphertext is destroyed, or will be by the reaper.
    Retired,
    /// All versions.
    Any,
}

impl StatusFilter {
    /// Whether a version that has this status at [`ListQuery::now`] is shown.
    pub fn covers(self, status: Status) -> bool {
        match self {
            Self::Active => status == Status::Active,
            Self::RotatedPending => status == Status::RotatedPending,
            Self::Retired => status == Status::Retired,
            Self::Any => true,
        }
    }
}

/// A page of a list.
///
/// Every filter must match. Rows are ordered by (realm, name, version). The row that `after` names may no longer exist.
/// Scopes may overlap. Two owners must not have secrets in one realm of one list, because the cursor has no owner.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// The scopes. The list covers their union.
    pub scopes: Vec<ListScope>,
    /// The statuses to show.
    pub statuses: StatusFilter,
    /// The secret must have all of these tags, with these values.
    pub tags: Tags,
    /// The prefix of the name.
    pub name_prefix: Option<String>,
    /// The end of the previous page.
    pub after: Option<PageCursor>,
    /// Most rows.
    pub limit: u32,
    /// Most bytes of the rows, by [`ListQuery::weight`]. A page has at least one row, if there is one.
    pub bytes: usize,
    /// Most steps, such as rows read and look-ups in an index, up to a small number that each page may take.
    pub steps: usize,
    /// The present.
    pub now: Timestamp,
}

impl ListQuery {
    /// The approximate size of a row in a response, in bytes.
    pub fn weight(secret: &Secret) -> usize {
        const FIXED: usize = 384;
        let place = &secret.place;
        let texts =
            [place.owner.as_str(), place.realm.as_str(), place.name.as_str(), secret.description.as_str()];
        let tags = secret.tags.iter().map(|(key, value)| key.as_str().len() + value.as_str().len() + 8);
        FIXED + texts.iter().map(|text| text.len()).sum::<usize>() + tags.sum::<usize>()
    }

    /// Ends a page that has rows of several owners at [`ListQuery::bytes`]. Returns where the list continues if rows were
    /// dropped.
    pub fn cut(&self, rows: &mut Vec<Secret>) -> Option<PageCursor> {
        let mut bytes = 0_usize;
        let fits = |secret: &&Secret| {
            bytes = bytes.saturating_add(Self::weight(secret));
            bytes <= self.bytes
        };
        let count = rows.iter().take_while(fits).count().max(1);
        if count >= rows.len() {
            return None;
        }
        rows.truncate(count);
        rows.last().map(PageCursor::of)
    }
}

/// A page, as a store returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The rows, in order.
    pub rows: Vec<Secret>,
    /// Where the list continues if it ended early, by [`ListQuery::bytes`] or [`ListQuery::steps`]. All rows up to this
    /// position are in the page, or do not match. It need not be the position of a row.
    pub stopped: Option<PageCursor>,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Durable transactions.
    pub commits: u64,
    /// Acknowledged writes. Several can share a commit.
    pub writes: u64,
    /// Rows that did not parse or are not authentic, and were left out of a list.
    pub damaged: u64,
    /// Rows that were refused because they are not authentic.
    pub refused: u64,
}

/// The findings about a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The number of its schema.
    pub schema: i32,
    /// The number of secrets.
    pub secrets: u64,
    /// The number of versions, retired ones included.
    pub versions: u64,
    /// The number of API keys, revoked ones included.
    pub api_keys: u64,
    /// The problems found, a sentence each. No sentence carries stored content.
    pub problems: Vec<String>,
}
