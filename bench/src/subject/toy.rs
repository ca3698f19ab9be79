//! The upper bound: see `bench/toy`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Programs, free_address, log, ready};
use crate::load::{Endpoint, Request, Wire};
use crate::operation::{About, Api, Caller, Operation};
use crate::process::Process;

/// A running toy.
pub(crate) struct Toy {
    pub(crate) process: Process,
    pub(crate) target: Endpoint,
    pub(crate) request: Request,
    /// From its start to its first response.
    pub(crate) ready_in: Duration,
}

impl Toy {
    /// Starts a toy that knows `key` and receives the request of `about`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(folder: &Path, programs: &Programs, key: &str, about: About<'_>) -> Result<Self> {
        let caller = Caller { address: free_address()?, key: key.to_owned() };
        let request = caller.request(Api::Rest, Operation::Value, about);
        let target = Endpoint { address: caller.address, tls: None, wire: Wire::Http1 };
        let start = Instant::now();
        let mut command = Command::new(&programs.toy);
        command.args([&caller.address.to_string(), key]);
        let mut process = Process::start(command.stderr(log(folder, "toy")?))?;
        let ready_in = ready(&mut process, start, &target, request.clone())?;
        Ok(Self { process, target, request, ready_in })
    }
}
