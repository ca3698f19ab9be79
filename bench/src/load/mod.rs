//! The load generator: one thread, one core, any number of connections.
//!
//! ```text
//! Session ── closed(…)  each connection sends its next request after a response: what is the capacity?
//!         └─ open(…)    requests fall due by a clock, not by the responses:         what is the latency?
//!   └ Connection ─ socket ─ TLS ─ http1 | http2
//! ```
//!
//! No existing generator does all of this with the same code, so that its cost cancels out of a ratio: POST bodies that
//! differ per request, HTTP/1.1 and gRPC, TLS, an open loop whose latencies count from the moment at which a request
//! was *due* (so that a stalled server does not hide the requests that were sent late: "coordinated omission"),
//! percentiles, and a verdict on each response. `wrk` has no open loop and no HTTP/2, `h2load` one body for all and no
//! percentiles, `oha` spends more on a request than nginx does.
//!
//! For measurements only: it implements just as much HTTP as the measured servers need.

mod connection;
mod http1;
mod http2;
mod request;
mod session;
mod tally;

pub(crate) use connection::{Endpoint, Wire};
pub(crate) use request::{Draw, Request, Source, scramble};
pub(crate) use session::{Pace, Session, Until};
pub(crate) use tally::{SLOT, Tally};

use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, bail};

/// The body of the response to one request, without TLS.
///
/// # Errors
/// When the status is not 200.
pub(crate) fn body(target: &Endpoint, request: &Request) -> Result<Vec<u8>> {
    let mut socket = std::net::TcpStream::connect(target.address)?;
    socket.write_all(&[request.head.as_slice(), &request.body].concat())?;
    let mut input = Vec::new();
    loop {
        if let Some((verdict, end)) = http1::read(&input)? {
            let head = input.windows(4).position(|part| part == b"\r\n\r\n").context("a head")?;
            match verdict {
                Verdict::Served => return Ok(input[head + 4..end].to_vec()),
                _ => bail!("the server did not serve it"),
            }
        }
        let mut chunk = [0; 4096];
        match socket.read(&mut chunk)? {
            0 => bail!("the server closed the connection"),
            count => input.extend_from_slice(&chunk[..count]),
        }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Served.
    Served,
    /// Shed: 429 or 503, `RESOURCE_EXHAUSTED` or `UNAVAILABLE`.
    Shed,
    /// Anything else: another status, a lost connection, a malformed response.
    Failed,
}
