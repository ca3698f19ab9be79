//! Whole-store operations of an operator: backup, restore, migrate, doctor.
//!
//! * A backup is a file with the contents of a store at one moment (`backup_file`, layout in `backup_file::format`).
//!   Values are sealed, keys hashed or wrapped, and there is no KEK in it. It is made beside a running server, in a read
//!   transaction of this process. The server records it in its audit log.
//! * A restore fills an empty store from a backup, under a new epoch and with a new key for page tokens.
//! * A migration fills an empty store from one that no server serves. The old store is not changed.
//! * `doctor` opens an instance read-only and reports what is wrong.
//!
//! Called by the server's command line ([`command`]).
//!
//! Invariants: a restore and a migration record their attempt in the audit log first. A store that is being filled is
//! marked and cannot be served. It is compared with its source before the mark is removed.

mod backup;
mod backup_file;
pub mod command;
mod doctor;
mod import;
mod interrupt;
mod kek_move;
mod migrate;
mod restore;
#[cfg(test)]
mod tests;
mod verify;
