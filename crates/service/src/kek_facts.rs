//! Facts of the service about its KEKs, each with its tag: [`KEKS`], [`RESEALED`] and [`SWEEP`].
//!
//! The stored text is the text of the fact, a line feed and its tag (see [`RowTags::fact_tag`]). So a writer to the database
//! cannot shorten the waiting time of a retirement, make a resealing skip versions, or claim a sweep that was not made. A
//! fact that is not authentic is not used, and is counted as a refused row. A fact that was put back as it was earlier
//! has its earlier tag, so it is not refused.

use agentrouter_store::wrapped_keys::{KEKS, RESEALED, SWEEP};
use agentrouter_store::{RowTags, Store, StoreError};

use crate::Service;
use crate::row_tags::{hex, unhex};

/// A fact as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// There is none.
    Absent,
    /// Its text, which is authentic.
    Text(String),
    /// It is not authentic.
    Forged,
}

impl Fact {
    /// The text, if it is authentic.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Forged => None,
        }
    }

    fn verify(tags: &dyn RowTags, name: &str, stored: Option<String>) -> Result<Self, StoreError> {
        let Some(stored) = stored else { return Ok(Self::Absent) };
        let Some((text, tag)) = stored.rsplit_once('\n') else { return Ok(Self::Forged) };
        let is_own = match unhex(tag) {
            Some(tag) => tags.are_equal(&tags.fact_tag(name, text)?, Some(&tag)),
            None => false,
        };
        Ok(if is_own { Self::Text(text.to_owned()) } else { Self::Forged })
    }
}

/// The names of the facts that are not authentic, for an examination.
///
/// # Errors
/// When the store cannot be read.
pub async fn forged_facts(store: &dyn Store, tags: &dyn RowTags) -> Result<Vec<&'static str>, StoreError> {
    let mut forged = Vec::new();
    for name in [KEKS, RESEALED, SWEEP] {
        if Fact::verify(tags, name, store.kek_fact(name).await?)? == Fact::Forged {
            forged.push(name);
        }
    }
    Ok(forged)
}

/// Reads a fact of a store that is examined.
pub(crate) async fn read_fact(
    store: &dyn Store,
    tags: &dyn RowTags,
    name: &'static str,
) -> Result<Fact, StoreError> {
    Fact::verify(tags, name, store.kek_fact(name).await?)
}

impl Service {
    /// Reads a fact. One that is not authentic is counted and logged.
    pub(crate) async fn fact(&self, name: &'static str) -> Result<Fact, StoreError> {
        let fact = read_fact(&*self.store, &*self.row_tags, name).await?;
        if fact == Fact::Forged {
            self.row_tags.count_refusal();
            tracing::error!(
                fact = name,
                "a fact about the KEKs is not authentic and is not used; run 'doctor'"
            );
        }
        Ok(fact)
    }

    /// Stores a fact with its tag.
    pub(crate) async fn set_fact(&self, name: &'static str, text: &str) -> Result<(), StoreError> {
        self.store.set_kek_fact(name, Some(&self.tagged_fact(name, text)?)).await
    }

    /// The text of a fact with its tag, as it is stored.
    pub(crate) fn tagged_fact(&self, name: &'static str, text: &str) -> Result<String, StoreError> {
        Ok(format!("{text}\n{}", hex(&self.row_tags.fact_tag(name, text)?)))
    }
}
