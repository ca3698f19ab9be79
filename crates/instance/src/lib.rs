//! An instance of the secret service: its settings, its data directory, its store, and the service built on them.
//!
//! `server` serves an instance, `maintenance` copies and examines one. Both open it here, from the same settings, so
//! that they agree on the store, its lock and its files. Commands reach an instance through [`admin`]: over a socket
//! while a server runs, directly otherwise.
//!
//! Deliberately absent: HTTP, and anything that reads or writes a whole store.

pub mod admin;
pub mod belonging;
pub mod durable_file;
pub mod generation;
pub mod hint;
pub mod instance;
pub mod kek;
pub mod listen_address;
pub mod permissions;
pub mod replica;
pub mod settings;
pub mod storage;
pub mod terminal;

pub use hint::Advised;
pub use instance::Instance;
pub use settings::Settings;
