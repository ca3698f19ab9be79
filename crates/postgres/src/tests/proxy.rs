//! A proxy that reads PostgreSQL's protocol and cuts the connection at a commit: before the server gets it, right after
//! that, or when the response arrives. <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The mark in the parameters of a change that is cut.
pub(super) const MARK: &[u8] = b"cut-me";

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cut {
    /// The server does not get the commit.
    Before = 1,
    /// The server gets the commit, and the connection ends at once.
    During = 2,
    /// The server has responded, and the client does not get the response.
    After = 3,
}

#[derive(Default)]
struct Plan {
    cut: AtomicU8,
    cuts: AtomicUsize,
    /// Whether no bytes are passed on while the connections stay open.
    stuck: AtomicBool,
    /// Whether new connections are refused and open ones are closed.
    away: AtomicBool,
    changed: tokio::sync::Notify,
}

/// A running proxy.
pub(super) struct Proxy {
    pub(super) port: u16,
    plan: Arc<Plan>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(super) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let plan = Arc::new(Plan::default());
        let task = tokio::spawn({
            let plan = Arc::clone(&plan);
            async move {
                loop {
                    let (client, _) = listener.accept().await.expect("accepted");
                    if !plan.away.load(Ordering::SeqCst) {
                        tokio::spawn(carry(client, server, Arc::clone(&plan)));
                    }
                }
            }
        });
        Self { port, plan, task }
    }

    /// Cuts the next commit of a change, once.
    pub(super) fn cut(&self, cut: Cut) {
        self.plan.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// The number of cut commits.
    pub(super) fn cuts(&self) -> usize {
        self.plan.cuts.load(Ordering::SeqCst)
    }

    /// Stops or resumes passing bytes on.
    pub(super) fn stick(&self, stuck: bool) {
        self.plan.stuck.store(stuck, Ordering::SeqCst);
        self.plan.changed.notify_waiters();
    }

    /// Starts or stops refusing and closing connections.
    pub(super) fn away(&self, away: bool) {
        self.plan.away.store(away, Ordering::SeqCst);
        self.plan.changed.notify_waiters();
    }
}

async fn carry(client: TcpStream, server: u16, plan: Arc<Plan>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // Whether to drop the response to a commit.
    let swallow = AtomicBool::new(false);
    let there = async {
        let mut first = true;
        // Other transactions, such as probes, are passed on.
        let mut change = false;
        while let Some((kind, message)) = message(&mut from_client, first).await {
            first = false;
            plan.wait().await;
            change |= kind == b'B' && contains(&message, MARK);
            let commit = kind == b'Q' && contains(&message, b"COMMIT");
            if commit && std::mem::take(&mut change) {
                match plan.cut.swap(0, Ordering::SeqCst) {
                    1 => {
                        plan.cuts.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    2 => {
                        plan.cuts.fetch_add(1, Ordering::SeqCst);
                        let _ = to_server.write_all(&message).await;
                        return;
                    }
                    3 => swallow.store(true, Ordering::SeqCst),
                    _ => {}
                }
            }
            if to_server.write_all(&message).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        while let Some((kind, message)) = message(&mut from_server, false).await {
            plan.wait().await;
            if swallow.load(Ordering::SeqCst) && kind == b'C' && contains(&message, b"COMMIT") {
                plan.cuts.fetch_add(1, Ordering::SeqCst);
                return;
            }
            if to_client.write_all(&message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
        () = plan.closed() => {}
    }
}

impl Plan {
    /// Waits while no bytes may be passed on.
    async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.stuck.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the connections must end.
    async fn closed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.away.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}

/// Reads one message: its kind and all of its bytes. The first message of a client has no kind.
async fn message(from: &mut (impl AsyncRead + Unpin), first: bool) -> Option<(u8, Vec<u8>)> {
    let kind = if first { 0 } else { from.read_u8().await.ok()? };
    let length = from.read_u32().await.ok()?;
    let mut bytes = if first { Vec::new() } else { vec![kind] };
    bytes.extend(length.to_be_bytes());
    let head = bytes.len();
    bytes.resize(head + usize::try_from(length).ok()?.checked_sub(4)?, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some((kind, bytes))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
