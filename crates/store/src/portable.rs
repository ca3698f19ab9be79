//! Export and import of a whole store: for backups, restores and moves to another engine.
//!
//! An export is a sequence of [`Item`]s in one order, the same in every engine: KEK check values by id, the service's
//! own keys by purpose, API keys by id, then secrets by (owner, realm, name), each followed by its versions by number.
//! Equal stores give equal sequences. Everything is as it is stored: values sealed, keys wrapped or hashed, and a
//! pending version pending even when its grace is over (it is unreadable from that instant in any case).
//!
//! An export does not contain: an engine's internal data, the audit log's head (it belongs to a data directory, not to
//! a store), and derived data (the index of tags).
//!
//! A row that does not parse is left out and named in [`LeftOut`]. If it is the secret's own row or its active version,
//! the whole secret is left out. A damaged API key, which is refused everywhere, is left out with a warning.
//!
//! A store is marked as unfinished until [`Portable::finish_import`], so that a partly filled store is never served.

use agentrouter_model::{ApiKeyRecord, KekId, Secret, Status};
use async_trait::async_trait;

use crate::{StoreError, Stored};

/// Export and import of the whole store.
#[async_trait]
pub trait Portable: Send + Sync {
    /// Begins an export of the store as it is at this moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn export(&self) -> Result<Box<dyn Export>, StoreError>;

    /// The import that was started here and not finished. Such a store must not be served.
    ///
    /// # Errors
    /// When the store cannot be read, or the mark does not parse.
    async fn unfinished_import(&self) -> Result<Option<Import>, StoreError>;

    /// Begins an import into an empty store from `source` (a line of text that names it), and marks the store as
    /// unfinished. Or continues an interrupted import from the same source. Returns the number of items in the store.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`]; [`StoreError::Unfinished`] when it holds a part of another source; else as any write.
    async fn begin_import(&self, source: &str) -> Result<u64, StoreError>;

    /// Adds items to the store, all or none of them. `from` is how many there were before.
    ///
    /// # Errors
    /// [`StoreError::Unfinished`] when there are more or fewer, or no import was started; else as any write.
    async fn import(&self, from: u64, items: Vec<Item>) -> Result<(), StoreError>;

    /// Finishes an import: the store is whole. A restore gives it a new `epoch`, which replicas compare with the one
    /// they started with.
    ///
    /// # Errors
    /// As any write.
    async fn finish_import(&self, epoch: Option<&str>) -> Result<(), StoreError>;

    /// The epoch of the store: another one after each restore; none if it was never restored.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn epoch(&self) -> Result<Option<String>, StoreError>;
}

/// A part of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The check value of a KEK.
    Kek {
        /// Its id.
        id: KekId,
        /// Its check value.
        check: [u8; 32],
    },
    /// A key of the service's own, wrapped.
    InternalKey {
        /// What it is for.
        purpose: String,
        /// The KEK that wraps it.
        kek: KekId,
        /// The key, wrapped.
        wrapped: Box<[u8]>,
    },
    /// An API key, hashed.
    ApiKey(Box<ApiKeyRecord>),
    /// A secret: its metadata, and its active version's.
    Secret(Box<Secret>),
    /// A version of the secret before it, whose metadata it repeats.
    Version(Box<Stored>),
}

/// An export in progress. It reads a snapshot, which later writes do not change.
#[async_trait]
pub trait Export: Send {
    /// The next items, about `count` of them; none at the end. A secret and its versions are never split.
    ///
    /// # Errors
    /// When the store cannot be read; [`StoreError::Corrupt`] where one row does not lead to the next.
    async fn next(&mut self, count: usize) -> Result<Vec<Item>, StoreError>;

    /// What was left out so far.
    fn left_out(&self) -> &LeftOut;
}

/// The rows that were left out or do not open, the first of them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many there are.
    pub count: u64,
    /// The first ten by ids and numbers, for people.
    pub named: Vec<String>,
}

impl LeftOut {
    /// Adds one.
    pub fn note(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < 10 {
            self.named.push(name());
        }
    }
}

/// The progress of an import that is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// What it is from, the argument of [`Portable::begin_import`].
    pub source: String,
    /// How many items are in the store.
    pub done: u64,
}

impl Import {
    /// The fact under which an engine stores the mark of an import.
    pub const FACT: &'static str = "import";

    /// An import that begins.
    pub fn begin(source: String) -> Self {
        Self { source, done: 0 }
    }

    /// Continues this import from `source`. Returns how many items are there.
    ///
    /// # Errors
    /// [`StoreError::Unfinished`] when it is from another source.
    pub fn resume(&self, source: &str) -> Result<u64, StoreError> {
        if self.source == source { Ok(self.done) } else { Err(StoreError::Unfinished) }
    }

    /// The import `present` after `count` items more.
    ///
    /// # Errors
    /// [`StoreError::Unfinished`] when none was started, or it is not at `from`.
    pub fn advance(present: Option<Self>, from: u64, count: usize) -> Result<Self, StoreError> {
        let mut import = present.filter(|import| import.done == from).ok_or(StoreError::Unfinished)?;
        import.done += count as u64;
        Ok(import)
    }

    /// The text of the mark: `DONE SOURCE`.
    pub fn to_text(&self) -> String {
        format!("{} {}", self.done, self.source)
    }

    /// Reads what [`Import::to_text`] wrote.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for any other text.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let parts = text.split_once(' ').and_then(|(done, source)| Some((done.parse().ok()?, source)));
        let (done, source) = parts.ok_or(StoreError::Corrupt("the mark of an import"))?;
        Ok(Self { source: source.to_owned(), done })
    }
}

/// The fact under which an engine stores the epoch that a restore sets.
pub const EPOCH: &str = "epoch";

/// A secret with its versions, each as it parsed, by number. Empty if the secret's row is damaged or its active version
/// is missing.
///
/// # Errors
/// Those of the rows that are not [`StoreError::Corrupt`].
pub fn whole_secret(
    secret: Result<Secret, StoreError>,
    id: impl FnOnce() -> Option<String>,
    versions: Vec<Result<Stored, StoreError>>,
    left_out: &mut LeftOut,
) -> Result<Vec<Item>, StoreError> {
    let unnamed = |id: Option<String>| {
        id.map_or_else(|| "a secret without an id".to_owned(), |id| format!("secret {id}"))
    };
    let secret = match secret {
        Err(StoreError::Corrupt(_)) => {
            left_out.note(|| unnamed(id()));
            return Ok(Vec::new());
        }
        secret => secret?,
    };
    let (mut whole, mut damaged) = (Vec::new(), 0);
    for version in versions {
        match version {
            Ok(version) => whole.push(version),
            Err(StoreError::Corrupt(_)) => damaged += 1,
            Err(error) => return Err(error),
        }
    }
    if !is_whole(&secret, &whole) {
        left_out.note(|| format!("secret {}", secret.id));
        return Ok(Vec::new());
    }
    for _ in 0..damaged {
        left_out.note(|| format!("an earlier version of secret {}", secret.id));
    }
    let versions = whole.into_iter().map(|version| Item::Version(Box::new(version)));
    Ok(std::iter::once(Item::Secret(Box::new(secret))).chain(versions).collect())
}

/// Whether the versions of a secret, by number, are what its row says: the last one active, and no other.
fn is_whole(secret: &Secret, versions: &[Stored]) -> bool {
    let fits = |at: usize, stored: &Stored| {
        let found = &stored.secret;
        let last = at + 1 == versions.len();
        let active = found.status == Status::Active;
        active == last && (!last || (found.version == secret.version && found.kek_id == secret.kek_id))
    };
    !versions.is_empty() && versions.iter().enumerate().all(|(at, stored)| fits(at, stored))
}
