//! Errors with what to do as a part of their own.
//!
//! The text of an error says what happened. What to do is its hint: [`Advised`] has one, and so have the errors of the
//! store, the KEK file and the unlocking. The command line and `doctor` print [`of`] in lines of their own. No code reads
//! a hint out of a text.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use agentrouter_keyring::KeyringError;
use agentrouter_service::UnlockError;
use agentrouter_store::StoreError;
use anyhow::Chain;

/// An error with a hint.
#[derive(Debug)]
pub struct Advised {
    what: String,
    hint: String,
    source: Option<anyhow::Error>,
}

impl Advised {
    /// An error that says what happened, and what to do.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(self, source: impl Into<anyhow::Error>) -> Self {
        Self { source: Some(source.into()), ..self }
    }
}

impl Display for Advised {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The hints of an error and of its causes, the outermost first.
pub fn of(error: &(dyn Error + 'static)) -> Vec<String> {
    Chain::new(error).filter_map(own).collect()
}

/// What happened: the texts of an error and of its causes.
pub fn text(error: &(dyn Error + 'static)) -> String {
    Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn own(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(advised) = error.downcast_ref::<Advised>() {
        Some(advised.hint.clone())
    } else if let Some(error) = error.downcast_ref::<StoreError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = error.downcast_ref::<KeyringError>() {
        error.hint().map(Into::into)
    } else {
        error.downcast_ref::<UnlockError>()?.hint().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_hints_of_all_causes_are_found_and_no_text_has_them() {
        let busy = || StoreError::InUse { holder: "process 1".to_owned() };
        let found = anyhow::Error::from(busy()).context("the directory cannot be used");
        assert_eq!(text(&*found), "the directory cannot be used: the store is in use by process 1");
        assert_eq!(of(&*found), ["stop that process first"]);

        let unlocked = Err::<(), _>(UnlockError::from(busy())).context("no start");
        assert_eq!(of(&*unlocked.expect_err("an error")), ["stop that process first"]);

        let advised = Advised::new("a backup failed", "run it again").because(busy());
        assert_eq!(text(&advised), "a backup failed: the store is in use by process 1");
        assert_eq!(of(&advised), ["run it again", "stop that process first"]);

        let damaged = KeyringError::Malformed { what: "it has no key" };
        assert_eq!(text(&damaged), "the KEK file is damaged: it has no key");
        assert_eq!(of(&damaged), ["put your copy of the KEK file back; a backup does not contain it"]);

        assert_eq!(of(&StoreError::Corrupt("a row")), [""; 0]);
    }
}
