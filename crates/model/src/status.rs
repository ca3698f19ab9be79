//! What a version may be used for, and how that changes.

use std::fmt;

use crate::Timestamp;

/// The state of one version.
///
/// ```text
/// (new) ──► Active ──rotate──► RotatedPending ──grace over──► Retired
///              └────────────new value by Create─────────────────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The version that a read without a version number gets; exactly one per secret.
    Active,
    /// Replaced by a rotation; still opens until its grace is over.
    RotatedPending,
    /// Opens no more; its ciphertext is destroyed.
    Retired,
}

/// The text is no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a status")]
pub struct UnknownStatus;

impl Status {
    /// The spelling on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::RotatedPending => "rotated_pending",
            Self::Retired => "retired",
        }
    }

    /// # Errors
    /// When `text` is none of the three spellings, compared exactly.
    pub fn parse(text: &str) -> Result<Self, UnknownStatus> {
        [Self::Active, Self::RotatedPending, Self::Retired]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(UnknownStatus)
    }

    /// The state at `now` of a version stored in this state: a pending one is retired from the very instant
    /// `expires_at`, whether or not its ciphertext is destroyed yet.
    pub fn at(self, now: Timestamp, expires_at: Option<Timestamp>) -> Self {
        match (self, expires_at) {
            (Self::RotatedPending, Some(end)) if now < end => Self::RotatedPending,
            (Self::RotatedPending, _) => Self::Retired,
            (other, _) => other,
        }
    }

    /// Whether a version in this state may be opened.
    pub const fn is_readable(self) -> bool {
        matches!(self, Self::Active | Self::RotatedPending)
    }

    /// What the active version becomes when a rotation replaces it.
    pub const fn rotated(self) -> Option<Self> {
        match self {
            Self::Active => Some(Self::RotatedPending),
            Self::RotatedPending | Self::Retired => None,
        }
    }

    /// What a version becomes when its grace is over, or when Create replaces its value.
    pub const fn retired(self) -> Option<Self> {
        match self {
            Self::Active | Self::RotatedPending => Some(Self::Retired),
            Self::Retired => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_version_is_retired_from_the_instant_it_expires() {
        let end = Timestamp::from_micros(1_000_000);
        let before = Timestamp::from_micros(999_999);
        assert_eq!(Status::RotatedPending.at(before, Some(end)), Status::RotatedPending);
        assert_eq!(Status::RotatedPending.at(end, Some(end)), Status::Retired);
        assert_eq!(Status::RotatedPending.at(before, None), Status::Retired);
        assert_eq!(Status::Active.at(end, None), Status::Active);
    }

    #[test]
    fn nothing_becomes_active_again() {
        for status in [Status::Active, Status::RotatedPending, Status::Retired] {
            assert_ne!(status.rotated(), Some(Status::Active));
            assert_ne!(status.retired(), Some(Status::Active));
            assert_eq!(Status::parse(status.as_str()), Ok(status));
        }
        assert_eq!(Status::Retired.retired(), None);
        assert_eq!(Status::parse("ACTIVE"), Err(UnknownStatus));
    }
}
