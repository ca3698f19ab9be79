//! Backups, restores, the move from one store into another, and the examination of an instance.
//!
//! A backup is a file (its layout is in [`backup_file::format`]) with all of a store in it, as it was at one moment: values sealed, keys
//! hashed or wrapped, and no KEK, so that it is of no use without the KEK file. It is made beside a running server by this
//! process's own read transaction; the server is told so that its audit log has it. A restore fills an empty store, which
//! is marked until it is whole, and gives it a new epoch and a new key for page tokens. A move does the same from a store
//! that nobody serves, and leaves the old one as it was. Both have on the audit log that they begin before they do, and
//! compare all that is in the store with what was put into it before they say that it is whole.

mod backup;
mod backup_file;
pub mod doctor;
mod import;
mod migrate;
mod restore;
#[cfg(test)]
mod tests;
mod verify;

pub use backup::{Made, make};
pub use migrate::{Moved, migrate};
pub use restore::restore;
pub use verify::{Contents, examine};
