//! The chained record of who did what: append-only files of JSON lines, one per call.
//!
//! Its place: `service` appends a record before it releases or changes anything, and goes no further without an `Ok`;
//! the store keeps [`Audit::synced_head`]; `audit verify` reads the files back with [`verify()`]. A record is built from
//! the fields of [`Record`] alone.
//!
//! # Files
//!
//! `audit.jsonl` (0600) is written at its end only. Before it would grow beyond its size it is fsynced and renamed to
//! `audit-<number of its first record, 20 digits>.jsonl`, and a new one begins; the chain goes on. Nothing is deleted.
//!
//! # A line
//!
//! ```text
//! {"seq":7,"time":"…","request_id":"…", … ,"outcome":"OK","mac":"<64 hexadecimal digits>"}⏎
//! ╰────────────────────── signed ──────────────────────╯
//! mac = HMAC-SHA-256(key, mac of the record before (32 bytes; zeros for record 1) ‖ signed)
//! ```
//!
//! `seq` counts from 1 without gaps and comes first, `mac` comes last; a line has at most 8,192 bytes. Members in
//! between: `time`, `request_id`, `trace_id`, `key_id`, `user`, `rpc`, `owner`, `realm`, `name`, `version`, `phase`,
//! `outcome`, `reason`, `address`, in this order, absent ones left out.
//!
//! The log's own records have `"rpc":"audit"` and one of these outcomes:
//!
//! | outcome | says | members of its own |
//! |---|---|---|
//! | `TORN_LINE` | the bytes since the record before are the rest of a write that a crash or a full disk cut off; a newline closes them | `bytes`, `bytes_mac`: their number and mac (HMAC of a domain string ‖ bytes) |
//! | `CHAIN_BREAK` | at its opening the log did not hold the record that the store remembered, or its last record was not made with this key | `expected`: the number remembered |
//! | `REOPENED` | the file was removed, replaced or changed by somebody else while it was written | |
//! | `RESUMED` | writing failed for `reason`, and works again | |
//! | `SYNC_FAILED` | an fsync failed; the file was put aside and a new one begun | `synced`: the last record known to be on disk |
//! | `WITHDRAWN` | record `of` was written after its caller had been told that it was not, or had gone; nothing was released on its strength. (The outcome of a change is then written again by `service`.) | `of`, `request_id` |
//!
//! All but the last carry `prev`, the mac they are chained to, so that they can be checked even after a gap.
//!
//! # Invariants
//!
//! * `Ok` from [`Audit::append`]: the kernel has the record, in the file that has the log's name.
//! * `Err`, or a dropped future: the record is not in the log, or a later record withdraws it.
//! * A record is fsynced within a second; after a failed fsync the file is never written or fsynced again.
//! * A stuck disk holds up no async worker: callers get their error after 2 s, later ones at once.
//! * The log recovers by itself, and says so in a record.
//!
//! # What `verify` finds, and what it cannot
//!
//! Any record edited, removed, inserted, repeated or moved, any byte changed, and with the store's head any cut of the
//! end. Bytes that are no record are accepted only as exactly those that a genuine `TORN_LINE` record right behind
//! them accounts for. It cannot find a cut behind the store's head (the last seconds before a crash; a record that was
//! torn by hand there looks like one torn by a crash), nor anything done by somebody who holds the key, nor a log and
//! store that were rolled back together.
//!
//! Deliberately absent: a switch that turns the log off, deletion of old files, and any way to write a text that is
//! not a field of [`Record`].

mod audit;
mod chain;
mod disk;
mod error;
mod note;
mod queue;
mod record;
mod repair;
mod scan;
mod verify;
mod writer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use audit::{Audit, Settings, Stats, Sync};
pub use chain::AuditHead;
pub use error::{AuditError, Status};
pub use queue::before_park;
pub use record::{Kept, Phase, Record};
pub use verify::{Problem, ProblemKind, Report, verify};
