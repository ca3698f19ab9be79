//! Persistent connections, and the closed and the open loop that send requests on them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustls::ClientConfig;

use super::Verdict;
use super::connection::{Connection, Endpoint, Wire, trusting};
use super::request::{Source, scramble};
use super::tally::Tally;

/// The time limit of the responses to a load's last requests.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most sockets that are processed before the clock is read and requests are sent again. The number is small,
/// because the delay of a late reading is the generator's and not the server's.
const AT_ONCE: usize = 64;

/// The end of a closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After this time.
    Time(Duration),
    /// After this many requests.
    Count(u64),
}

/// The clock of an open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Requests per second on average. They fall due at random, as those of many callers do (a Poisson process).
    pub(crate) rate: f64,
    /// The duration.
    pub(crate) time: Duration,
    /// How long a request waits for a free connection before its caller gives it up. `None`: without a limit. Its
    /// latency counts from when it was due.
    pub(crate) patience: Option<Duration>,
}

/// A number of connections to one target.
pub(crate) struct Session {
    target: Endpoint,
    tls: Option<Arc<ClientConfig>>,
    poll: OwnedFd,
    connections: Vec<Option<Connection>>,
    /// Connections that can send a request, the one used last at the end.
    free: Vec<usize>,
    flying: usize,
    events: Vec<epoll::Event>,
    done: Vec<(usize, Verdict, Instant)>,
}

impl Session {
    /// Opens that many connections.
    ///
    /// # Errors
    /// When the server does not accept them.
    pub(crate) fn open_to(target: &Endpoint, count: usize) -> Result<Self> {
        let http2 = matches!(target.wire, Wire::Http2 { .. });
        let tls = target.tls.as_ref().map(|certificate| trusting(certificate, http2)).transpose()?;
        let mut session = Self {
            target: target.clone(),
            tls,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: (0..count).map(|_| None).collect(),
            free: (0..count).collect(),
            flying: 0,
            events: Vec::with_capacity(AT_ONCE),
            done: Vec::new(),
        };
        for index in 0..count {
            session.connect(index)?;
        }
        Ok(session)
    }

    /// Runs a closed loop: every connection sends its next request as soon as it has a response.
    ///
    /// # Errors
    /// When the server accepts no more connections, or does not respond.
    pub(crate) fn closed(&mut self, source: &mut Source, until: Until) -> Result<Tally> {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        let mut sent = 0_u64;
        let mut done = Vec::new();
        loop {
            let now = Instant::now();
            let more = |sent| match until {
                Until::Time(time) => now.duration_since(start) < time,
                Until::Count(count) => sent < count,
            };
            while more(sent) && !self.free.is_empty() {
                self.launch(source, now)?;
                sent += 1;
            }
            if self.flying == 0 && !more(sent) {
                break;
            }
            self.wait(PATIENCE, &mut done)?;
            ensure!(!done.is_empty() || now.elapsed() < PATIENCE, "the server does not respond");
            Self::tell(&mut tally, &mut done);
        }
        tally.end();
        Ok(tally)
    }

    /// Runs an open loop: requests fall due by the clock, and their latencies count from when they were due.
    ///
    /// # Errors
    /// As [`Session::closed`].
    pub(crate) fn open(&mut self, source: &mut Source, pace: Pace) -> Result<Tally> {
        let start = Instant::now();
        let end = start + pace.time;
        let mut tally = Tally::new(start);
        let (mut due, mut number) = (start, 0);
        let mut done = Vec::new();
        loop {
            let now = Instant::now();
            while due <= now && due < end {
                let late = pace.patience.is_some_and(|patience| now.duration_since(due) > patience);
                if !self.free.is_empty() && !late {
                    self.launch(source, due)?;
                } else if late {
                    tally.unsent += 1;
                } else {
                    break;
                }
                number += 1;
                due += gap(number, pace.rate);
            }
            if due >= end && self.flying == 0 {
                break;
            }
            ensure!(now < end + PATIENCE, "the server does not respond");
            // Never sleeps: a timer would be late, and the core is the generator's own.
            self.wait(Duration::ZERO, &mut done)?;
            Self::tell(&mut tally, &mut done);
        }
        tally.end();
        Ok(tally)
    }

    fn tell(tally: &mut Tally, done: &mut Vec<(usize, Verdict, Instant)>) {
        let now = Instant::now();
        for (_, verdict, since) in done.drain(..) {
            tally.count(verdict, since, now);
        }
    }

    fn connect(&mut self, index: usize) -> Result<()> {
        let connection = Connection::open(&self.target, self.tls.as_ref())?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.poll, &connection.socket, data, epoll::EventFlags::IN)?;
        self.connections[index] = Some(connection);
        Ok(())
    }

    /// Sends the next request on a connection that can take it. There must be one.
    fn launch(&mut self, source: &mut Source, since: Instant) -> Result<()> {
        let index = self.free.pop().context("a free connection")?;
        if self.connections[index].is_none() {
            self.connect(index)?;
        }
        let connection = self.connections[index].as_mut().context("it was opened")?;
        self.flying += 1;
        match connection.send(source.next(), since) {
            Ok(all) => {
                if connection.has_capacity() {
                    self.free.push(index);
                }
                if !all {
                    self.watch(index, epoll::EventFlags::IN | epoll::EventFlags::OUT)?;
                }
            }
            Err(_) => self.lose(index),
        }
        Ok(())
    }

    /// Waits for responses, for at most `most`, and puts them into `done`.
    fn wait(&mut self, most: Duration, done: &mut Vec<(usize, Verdict, Instant)>) -> Result<()> {
        let limit = Timespec::try_from(most)?;
        self.events.clear();
        match epoll::wait(&self.poll, spare_capacity(&mut self.events), Some(&limit)) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            result => result?,
        };
        let events = std::mem::take(&mut self.events);
        for event in &events {
            self.attend(usize::try_from(event.data.u64())?, event.flags)?;
        }
        self.events = events;
        self.flying -= self.done.len();
        done.append(&mut self.done);
        Ok(())
    }

    /// Handles the readiness of a connection's socket.
    fn attend(&mut self, index: usize, ready: epoll::EventFlags) -> Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        let full = !connection.has_capacity();
        let mut well = Ok(());
        if ready.contains(epoll::EventFlags::OUT) {
            well = connection.flush().map(drop);
        }
        if well.is_ok() && ready.intersects(!epoll::EventFlags::OUT) {
            let done = &mut self.done;
            well = connection.receive(&mut |verdict, since| done.push((index, verdict, since)));
        }
        if well.is_err() {
            self.lose(index);
            return Ok(());
        }
        if full && connection.has_capacity() {
            self.free.push(index);
        }
        if ready.contains(epoll::EventFlags::OUT) && connection.flush().is_ok_and(|all| all) {
            self.watch(index, epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    fn watch(&self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        if let Some(connection) = &self.connections[index] {
            epoll::modify(&self.poll, &connection.socket, epoll::EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    /// Closes a broken connection. Its requests in flight have failed. It is opened again when it is needed.
    fn lose(&mut self, index: usize) {
        if let Some(mut connection) = self.connections[index].take() {
            self.done.extend(connection.abandon().map(|since| (index, Verdict::Failed, since)));
        }
        if !self.free.contains(&index) {
            self.free.push(index);
        }
    }
}

/// The time between request `number` and the one before it: exponentially distributed, the same in every run.
fn gap(number: u64, rate: f64) -> Duration {
    // A double holds 53 bits. The half keeps the logarithm finite.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
    let even = ((scramble(number) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    Duration::from_secs_f64(-even.ln() / rate)
}

#[cfg(test)]
mod tests;
