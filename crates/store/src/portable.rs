//! The whole of a store, taken out of one engine and put into another: for backups, restores and moves.
//!
//! What is taken out is a sequence of [`Item`]s in one order, the same in every engine: KEK check values by id, the
//! service's own keys by purpose, API keys by id, then secrets by (owner, realm, name), each followed by its versions by
//! number. Equal stores give equal sequences. Everything is as it is stored: values sealed, keys wrapped or hashed, and a
//! pending version pending even when its grace is over (it is unreadable from that instant on all the same).
//!
//! Not in it: what an engine keeps for itself, the audit log's head, which belongs to a data directory and not to a store,
//! and what is derived (tags' index).
//!
//! A row that does not parse is one row: it is left out, with all of its secret if it is the secret's own or its active
//! version's, and said to be ([`LeftOut`]). An API key's, which is refused wherever it is, is left out with a warning.
//!
//! A store that is being filled is marked until [`Store::finish_import`](crate::Store::finish_import), so that a crash
//! half-way leaves nothing that could be taken for whole.

use agentrouter_model::{ApiKeyRecord, KekId, Secret};
use async_trait::async_trait;

use crate::{StoreError, Stored};

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

/// A store being read as it was at one moment, whatever is written meanwhile.
#[async_trait]
pub trait Export: Send {
    /// The next items, about `count` of them (a secret and its versions come together); none at the end.
    ///
    /// # Errors
    /// When the store cannot be read; [`StoreError::Corrupt`] where one row does not lead to the next.
    async fn next(&mut self, count: usize) -> Result<Vec<Item>, StoreError>;

    /// What was left out so far.
    fn left_out(&self) -> &LeftOut;
}

/// Things that were left out or do not open, the first of them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many there are.
    pub count: u64,
    /// The first ten by ids and numbers, for people.
    pub named: Vec<String>,
}

impl LeftOut {
    /// One more.
    pub fn note(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < 10 {
            self.named.push(name());
        }
    }
}

/// How far an import has come that was not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// What it is from, as [`Store::begin_import`](crate::Store::begin_import) was told.
    pub source: String,
    /// How many items are in the store.
    pub done: u64,
}

impl Import {
    /// As an engine keeps it: `DONE SOURCE`.
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

/// A secret with its versions, each as it parsed, by number; nothing if the secret's row is damaged or its active version
/// is not there.
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
        let active = found.status == agentrouter_model::Status::Active;
        active == last && (!last || (found.version == secret.version && found.kek_id == secret.kek_id))
    };
    !versions.is_empty() && versions.iter().enumerate().all(|(at, stored)| fits(at, stored))
}
