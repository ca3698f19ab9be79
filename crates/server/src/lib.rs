//! The server of the secret service: the binary's command line, and HTTP.
//!
//! `main` calls [`run`]; everything else is below it. See `ARCHITECTURE.md` for the path of one request.

mod anchors;
mod bootstrap;
mod command;
mod greeting;
mod http;
mod https;
mod issuers;
mod meter;
mod metrics;
mod network;
mod probe;
mod serve;
mod telemetry;
mod tls;
mod urls;

pub use agentrouter_instance::settings;

use std::process::ExitCode;

/// Runs the command line and returns its exit code: 0 for success, 1 for a failure, 2 for an invalid command line.
pub fn run() -> ExitCode {
    harden();
    command::run(&std::env::args_os().collect::<Vec<_>>())
}

/// Hardening of every command: no core dumps, no debugger of another user, and files that only their owner can read.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if setrlimit(Resource::Core, none).is_err()
        || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err()
    {
        tracing::warn!("core dumps could not be turned off");
    }
    umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}
