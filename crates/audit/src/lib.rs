//! The audit log, a chained record of all requests: append-only files of JSON lines, one per request.
//!
//! `service` appends a record before it releases or changes anything, and continues only after `Ok`. It stores the head
//! ([`Audit::keep_head`]). `audit verify` checks the files with [`Verification`]. A record contains only the fields of
//! [`Record`].
//!
//! # Files
//!
//! `audit.jsonl` (0600) is append-only. Before it would exceed its size, it is fsynced and renamed to `audit-<number of its
//! first record, 20 digits>.jsonl`, and a new file starts. The chain continues. A thread compresses full files to
//! `….jsonl.zst` (see `compressor.rs`). Only [`Audit::prune`] deletes files, the oldest first, and leaves a signed note. The
//! file `head` has the last record on disk, as the store does (see `head.rs`).
//!
//! # A line
//!
//! ```text
//! {"seq":7,"time":"…","request_id":"…", … ,"outcome":"OK","mac":"<64 hexadecimal digits>"}⏎
//! ╰────────────────────── signed ──────────────────────╯
//! mac = HMAC-SHA-256(key, mac of the record before (32 bytes; zeros for record 1) ‖ signed)
//! ```
//!
//! `seq` counts from 1 without gaps and is the first member, `mac` is the last; a line has at most 8,192 bytes. Between
//! them: `time`, `request_id`, `trace_id`, `key_id`, `issuer`, `subject`, `rule`, `user`, `rpc`, `owner`, `realm`, `name`,
//! `version`, `kek_id`, `phase`, `outcome`, `reason`, `address`, in this order, absent ones left out.
//!
//! The log's own records have `"rpc":"audit"` and one of these outcomes:
//!
//! | outcome | says | members of its own |
//! |---|---|---|
//! | `TORN_LINE` | the bytes since the previous record are from a write that a crash or a full disk interrupted; a newline closes them | `bytes`, `bytes_mac`: their number and mac (HMAC of a domain string ‖ bytes) |
//! | `CHAIN_BREAK` | when opened, the log did not contain the remembered head, or its last record was not made with this key | `expected`: the number of the head |
//! | `HEAD_FAULT` | when opened, the head in the store or in the file `head` was missing or not authentic | `reason`: which |
//! | `REOPENED` | another process removed, replaced or changed the file while the log was open | |
//! | `RESUMED` | writing failed for `reason`, and works again | |
//! | `SYNC_FAILED` | an fsync failed; the file was retired and a new one started | `synced`: the last record known to be on disk |
//! | `WITHDRAWN` | record `of` was written after its caller had received an error, or had disconnected; nothing was released for it. (`service` writes the outcome of a change again.) | `of`, `request_id` |
//!
//! All but the last have `prev`, the mac that they are chained to, so that they can be checked after a gap.
//!
//! # Invariants
//!
//! * `Ok` from [`Audit::append`]: the kernel has the record, in the file that has the log's name.
//! * `Err`, or a dropped future: the record is not in the log, or a later record withdraws it.
//! * A record is fsynced within a second, and then its head is stored.
//! * After a failed fsync the file is never written or fsynced again.
//! * A stuck disk blocks no async worker: callers receive an error after 2 s, later ones at once.
//! * The log recovers by itself, and records it.
//!
//! # What `verify` finds, and what it does not
//!
//! It finds any record that was edited, removed, inserted, repeated or moved, any changed byte, and with the remembered head
//! any truncation. Bytes that are not a record are accepted only if a genuine `TORN_LINE` record directly after them accounts
//! for exactly them.
//!
//! It does not find a truncation after the remembered head (the last second before a crash; a record that was torn by hand
//! there looks like one torn by a crash), a change by a process with the key, or a data directory and a store that were
//! rolled back together. A checkpoint that another host keeps ([`Audit::checkpoint`]) shows all of these for the records
//! that it covers.
//!
//! Deliberately absent: a switch that turns the log off, deletion of files without a command, and free text outside the
//! fields of [`Record`].

mod anchor;
mod audit;
mod base;
mod chain;
mod checkpoint;
mod compressor;
mod cursor;
mod disk;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod last_time;
mod note;
mod prune;
mod queue;
mod read_ahead;
mod record;
mod repair;
mod scan;
mod ship;
mod tree;
mod verify;
mod writer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use audit::{Audit, Settings};
pub use chain::AuditHead;
pub use error::{AuditError, CheckpointError, Status};
pub use head::{HeadFault, HeadRow, Row};
pub use last_time::last_time;
pub use prune::{PruneError, Pruned};
pub use queue::Stats;
pub use record::{Kept, Phase, Principal, Record};
pub use ship::{ShippedLine, Shipper};
pub use verify::{Problem, ProblemKind, Progress, Report, Verification};
pub use writer::Sync;
