//! The plugin's program against real counterparts, over its socket.
//!
//! `cargo xtask test --only kms` installs the counterparts and runs these tests. Each test starts and stops its own ones,
//! on this machine, and runs the commands of the provider's page in `docs/kek/`.

mod azure;
mod canned;
mod google;
mod kubernetes;
mod moto;
mod openbao;
mod page;
mod plugin;
mod server;
mod softhsm;
