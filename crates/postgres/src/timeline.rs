//! Timelines: detects an old primary after a promotion.
//!
//! Each promotion begins another timeline of the same database. An old primary that was not stopped continues under its
//! own, and accepts connections. So a server that has seen a timeline takes no link to an earlier one, and drops those
//! it has. A database of another origin, such as one that was created again from a backup, has timelines of its own.
//!
//! A server on files that were restored from before a promotion looks like an old primary. It is refused until this
//! server is restarted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Client;

use super::failure::failure;
use super::rows;
use agentrouter_store::StoreError;

const TIMELINE: &str = "SELECT system_identifier, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) \
     FROM pg_control_system()";
const OLD: StoreError = StoreError::unavailable("it is an old primary: another one has taken its place");

/// One history of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    /// The database's system identifier, generated when its files were created.
    origin: i64,
    number: u32,
}

impl Timeline {
    /// The timeline of the connected server.
    pub(super) async fn of(client: &Client) -> Result<Self, StoreError> {
        let row = client.query_typed_one(TIMELINE, &[]).await.map_err(failure)?;
        let number = u32::from_str_radix(rows::column(&row, 1, "a timeline")?, 16);
        let number = number.map_err(|_| StoreError::Corrupt("a timeline"))?;
        Ok(Self { origin: rows::column(&row, 0, "a timeline")?, number })
    }
}

/// The latest timeline that this server has seen.
#[derive(Debug, Default)]
pub(super) struct Timelines {
    latest: Mutex<Option<Timeline>>,
    /// Increases with every change of `latest`.
    turn: AtomicU64,
}

impl Timelines {
    /// The turn of a link to a server of this timeline.
    ///
    /// # Errors
    /// When a later one has been seen.
    pub(super) fn admit(&self, found: Timeline) -> Result<u64, StoreError> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = *latest
            && seen.origin == found.origin
            && seen.number > found.number
        {
            return Err(OLD);
        }
        let other = latest.replace(found) != Some(found);
        Ok(self.turn.fetch_add(u64::from(other), Ordering::AcqRel) + u64::from(other))
    }

    /// The present turn.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn timeline(origin: i64, number: u32) -> Timeline {
        Timeline { origin, number }
    }

    #[test]
    fn an_earlier_timeline_is_refused_and_a_later_one_ends_the_turn() {
        let timelines = Timelines::default();
        let first = timelines.admit(timeline(1, 3)).expect("the first");
        assert_eq!(timelines.admit(timeline(1, 3)).expect("the same"), first);
        assert_eq!(timelines.turn(), first);
        let second = timelines.admit(timeline(1, 4)).expect("a promotion");
        assert!(second > first && timelines.turn() == second);
        assert!(timelines.admit(timeline(1, 3)).is_err());
        assert_eq!(timelines.turn(), second);
    }

    #[test]
    fn another_database_has_its_own_count() {
        let timelines = Timelines::default();
        let first = timelines.admit(timeline(1, 3)).expect("the first");
        assert!(timelines.admit(timeline(2, 1)).expect("another origin") > first);
        assert_eq!(timelines.turn(), first + 1);
    }
}
