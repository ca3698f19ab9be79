//! Signals that end an import: it stops after the call in progress and reports how far it came.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are listened to.
#[cfg(unix)]
pub(super) struct Signals(Vec<(u8, Signal)>);

#[cfg(unix)]
impl Signals {
    /// Listens from now on. A signal that the system does not allow to be caught keeps its default action.
    pub(super) fn listen() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let caught = kinds.into_iter().filter_map(|kind| {
            let status = 128 + u8::try_from(kind.as_raw_value()).ok()?;
            Some((status, signal(kind).ok()?))
        });
        Self(caught.collect())
    }

    /// Waits for the next signal. The exit status that goes with it.
    pub(super) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|context| {
            for (status, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*status);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Elsewhere there is the interrupt of the console.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn listen() -> Self {
        Self
    }

    pub(super) async fn next(&mut self) -> u8 {
        match tokio::signal::ctrl_c().await {
            Ok(()) => 130,
            Err(_) => std::future::pending().await,
        }
    }
}
