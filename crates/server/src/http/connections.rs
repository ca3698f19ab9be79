//! The open connections: how many there are, from where, how long they are idle, and what they have not sent yet.
//!
//! The listener enters each connection. One without a *seat* is over `limit.connections`, or over the share of its
//! address: probes on it get a response, and other requests wait for a seat. A sweep every second closes connections
//! that are idle or old (HTTP/2 clients get a GOAWAY and complete their requests), and those whose client does not read.
//!
//! Bounded elsewhere: the time and size of a head and a body (`listener`, `head`, `body`), the number of requests
//! (`limiter`).

mod closing;
mod exchange;
pub(super) mod frames;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::body::Incoming;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use self::closing::Closing;
pub(crate) use self::closing::Why;
pub(super) use self::exchange::{Exchange, Sending};
use crate::network;
use crate::settings::Limits;

/// How many connections without a seat are open at once, and how many of one address.
const WAITING: usize = 256;
const WAITING_OF_ONE: usize = WAITING / 4;
/// How many streams of gRPC health and reflection one address has at once.
const STREAMS_OF_ONE: usize = 64;
/// Unsent pieces are counted by when they were made, in three generations of half of `limit.send-time`. When one has
/// passed, those of the generation before it are overdue.
const GENERATIONS: usize = 3;

/// The open connections of a server.
pub(crate) struct Connections {
    limits: Limits,
    start: Instant,
    /// Seconds since `start`, as of the last sweep.
    now: AtomicU32,
    generation: AtomicUsize,
    /// Bytes given to the HTTP library and not yet written, of all connections.
    unsent: AtomicUsize,
    seats: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    table: Mutex<Table>,
    /// How many were closed, in the order of [`Why::ALL`].
    closed: [AtomicU64; Why::ALL.len()],
    refused: AtomicU64,
}

#[derive(Default)]
struct Table {
    open: HashMap<u64, Arc<Connection>>,
    networks: HashMap<IpAddr, Weak<Network>>,
    next: u64,
    /// When the generation last advanced.
    advanced: u32,
}

/// The share of one address.
struct Network {
    seats: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Permits of all, and of the address.
struct Permits {
    _of_all: OwnedSemaphorePermit,
    _of_one: Option<OwnedSemaphorePermit>,
}

impl Permits {
    fn try_take(all: &Arc<Semaphore>, one: Option<&Arc<Semaphore>>) -> Option<Self> {
        let of_one = match one {
            Some(one) => Some(Arc::clone(one).try_acquire_owned().ok()?),
            None => None,
        };
        Some(Self { _of_all: Arc::clone(all).try_acquire_owned().ok()?, _of_one: of_one })
    }
}

/// An open connection.
pub(super) struct Connection {
    connections: Arc<Connections>,
    id: u64,
    born: u32,
    network: Option<Arc<Network>>,
    seat: OnceCell<Permits>,
    /// Its permits to wait, held until it has a seat.
    waiting: Mutex<Option<Permits>>,
    is_http2: AtomicBool,
    /// Requests whose responses are not yet made or not yet given to the HTTP library.
    requests: AtomicU32,
    idle_since: AtomicU32,
    /// Pieces of responses given to the HTTP library and not yet written, by generation.
    pieces: [AtomicU32; GENERATIONS],
    /// Their bytes.
    unsent: AtomicUsize,
    /// The bytes that responses may still take.
    budget: Arc<Semaphore>,
    closing: Closing,
    /// The rest of a request's body that is not read, on HTTP/1.1.
    rest: Mutex<Option<Incoming>>,
}

impl Connections {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            now: AtomicU32::new(0),
            generation: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            seats: Arc::new(Semaphore::new(limits.connections)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            table: Mutex::default(),
            closed: Default::default(),
            refused: AtomicU64::new(0),
            limits: limits.clone(),
        })
    }

    /// Enters a connection. `address` is that of its client if the share of an address applies. `None` if too many wait
    /// for a seat already.
    pub(super) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Entered> {
        let mut table = self.table();
        let network = address.map(|address| self.network(&mut table, address));
        let of_one = |share: fn(&Network) -> &Arc<Semaphore>| network.as_deref().map(share);
        let seat = Permits::try_take(&self.seats, of_one(|network| &network.seats));
        let waiting = match &seat {
            Some(_) => None,
            None => match Permits::try_take(&self.waiting, of_one(|network| &network.waiting)) {
                Some(waiting) => Some(waiting),
                None => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
            },
        };
        let now = self.now();
        let id = table.next;
        table.next += 1;
        let connection = Arc::new(Connection {
            connections: Arc::clone(self),
            id,
            born: now,
            network,
            seat: OnceCell::new_with(seat),
            waiting: Mutex::new(waiting),
            is_http2: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            idle_since: AtomicU32::new(now),
            pieces: Default::default(),
            unsent: AtomicUsize::new(0),
            budget: Arc::new(Semaphore::new(self.limits.connection_unsent as usize)),
            closing: Closing::default(),
            rest: Mutex::default(),
        });
        table.open.insert(id, Arc::clone(&connection));
        Some(Entered(connection))
    }

    fn network(&self, table: &mut Table, address: IpAddr) -> Arc<Network> {
        let address = network::of(address);
        if let Some(network) = table.networks.get(&address).and_then(Weak::upgrade) {
            return network;
        }
        let share = match self.limits.connections_per_address {
            0 => self.limits.connections.div_ceil(2),
            share => share,
        };
        let network = Arc::new(Network {
            seats: Arc::new(Semaphore::new(share)),
            waiting: Arc::new(Semaphore::new(WAITING_OF_ONE)),
            streams: Arc::new(Semaphore::new(STREAMS_OF_ONE)),
        });
        table.networks.insert(address, Arc::downgrade(&network));
        network
    }

    /// Closes what is idle, old or not read. Called every second.
    pub(super) fn sweep(&self) {
        let now = u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX);
        self.now.store(now, Ordering::Relaxed);
        let mut table = self.table();
        let half = seconds(self.limits.send_time / 2);
        let overdue = (now.saturating_sub(table.advanced) >= half).then(|| {
            table.advanced = now;
            let next = (self.generation.load(Ordering::Relaxed) + 1) % GENERATIONS;
            self.generation.store(next, Ordering::Relaxed);
            next
        });
        for connection in table.open.values() {
            connection.sweep(now, overdue);
        }
        table.networks.retain(|_, network| network.strong_count() > 0);
    }

    /// Closes the connection with the most unsent bytes, until the others are within `limit.unsent`.
    fn close_largest(&self) {
        // If another thread uses the table, the next piece tries again.
        let Ok(table) = self.table.try_lock() else { return };
        let remaining = || table.open.values().filter(|connection| !connection.closing.is_abrupt());
        let unsent = |connection: &Arc<Connection>| connection.unsent.load(Ordering::Relaxed);
        while remaining().map(unsent).sum::<usize>() > self.limits.unsent {
            match remaining().max_by_key(|connection| unsent(connection)) {
                Some(largest) => largest.close(Why::Unsent),
                None => break,
            }
        }
    }

    /// Seconds since the server started to listen, at most a second old.
    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of open connections, for metrics.
    pub(crate) fn open(&self) -> usize {
        self.table().open.len()
    }

    /// Bytes given to the HTTP library and not yet written, for metrics.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Relaxed)
    }

    /// Connections that were refused since too many waited, for metrics.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections that were closed for this reason, for metrics.
    pub(crate) fn closed(&self, why: Why) -> u64 {
        self.closed[why as usize].load(Ordering::Relaxed)
    }
}

/// Rounded up, and at least one.
fn seconds(time: Duration) -> u32 {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(whole.max(1)).unwrap_or(u32::MAX)
}

/// An open connection, as its task holds it. Dropped, it is closed.
pub(super) struct Entered(Arc<Connection>);

impl std::ops::Deref for Entered {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.connections.table().open.remove(&self.0.id);
    }
}

impl Connection {
    /// Begins a request.
    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        Exchange::new(self)
    }

    /// It speaks HTTP/2: it is closed when it is idle. HTTP/1.1 has a bound for its next head.
    pub(super) fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Keeps the rest of a request's body until its response is made.
    pub(super) fn leave(&self, rest: Incoming) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    }

    /// What [`Connection::leave`] has kept.
    pub(super) fn take_rest(&self) -> Option<Incoming> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether it is one of the `limit.connections`.
    pub(super) fn has_seat(&self) -> bool {
        self.seat.initialized()
    }

    /// Waits for a seat.
    pub(super) async fn take_seat(&self) {
        let taken = self.seat.get_or_try_init(|| async {
            let of_one = match &self.network {
                Some(network) => Some(Arc::clone(&network.seats).acquire_owned().await?),
                None => None,
            };
            let of_all = Arc::clone(&self.connections.seats).acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>(Permits { _of_all: of_all, _of_one: of_one })
        });
        // The semaphores are never closed.
        if taken.await.is_ok() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// A permit of its address for a stream of gRPC health or reflection; inner `None` if no share applies.
    ///
    /// # Errors
    /// When the address has as many as it may.
    pub(super) fn try_stream(&self) -> Result<Option<OwnedSemaphorePermit>, tokio::sync::TryAcquireError> {
        let network = self.network.as_ref();
        network.map(|network| Arc::clone(&network.streams).try_acquire_owned()).transpose()
    }

    /// Completes when it is to be closed.
    pub(super) async fn closing(&self) {
        self.closing.started().await;
    }

    /// Completes when it is to be closed without waiting for its requests.
    pub(super) async fn ending(&self) {
        self.closing.ended().await;
    }

    /// Whether it is to be closed when its requests are complete.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.has_started()
    }

    /// Closes it. Requests are completed only if `why` says so.
    pub(super) fn close(&self, why: Why) {
        if self.closing.begin(why, self.connections.now()) {
            self.connections.closed[why as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sweep(&self, now: u32, overdue: Option<usize>) {
        let limits = &self.connections.limits;
        if overdue.is_some_and(|generation| self.pieces[generation].load(Ordering::Relaxed) > 0) {
            self.close(Why::SendTime);
        }
        if let Some((why, since)) = self.closing.since() {
            let grace = if why == Why::Age { limits.send_time } else { limits.header_time };
            if now.saturating_sub(since) >= seconds(grace) {
                self.closing.end();
            }
            return;
        }
        let is_idle = self.requests.load(Ordering::Relaxed) == 0
            && self.pieces.iter().all(|pieces| pieces.load(Ordering::Relaxed) == 0);
        let idle = if is_idle { now.saturating_sub(self.idle_since.load(Ordering::Relaxed)) } else { 0 };
        if self.is_http2.load(Ordering::Relaxed) && idle >= seconds(limits.idle_time) {
            self.close(Why::Idle);
        }
        if !self.has_seat() && idle >= seconds(limits.header_time) {
            self.close(Why::Seat);
        }
        if !limits.connection_age.is_zero() && now.saturating_sub(self.born) >= self.age() {
            self.close(Why::Age);
        }
    }

    /// `limit.connection-age`, up to a tenth less, so that connections that started together do not end together.
    fn age(&self) -> u32 {
        let most = seconds(self.connections.limits.connection_age);
        // Knuth's multiplicative hash spreads successive numbers.
        let spread = u32::try_from(self.id.wrapping_mul(2_654_435_761) >> 16 & 0xff).unwrap_or(0);
        most - most / 10 * spread / 256
    }
}
