//! SIGINT and SIGTERM during a backup: the command removes its partial file and records the outcome before it ends.
//!
//! A second signal ends the process at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{bail, ensure};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

const MESSAGE: &str = "interrupted by a signal";

/// Whether this process received a signal to end. A signal is sent to the whole process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Notified when it did.
static ARRIVED: Notify = Notify::const_new();

/// Notes signals from now on, in a task of the current runtime.
///
/// # Errors
/// When the signals cannot be caught.
pub(crate) fn catch() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        INTERRUPTED.store(true, Ordering::SeqCst);
        ARRIVED.notify_waiters();
        either(&mut terminate, &mut interrupt).await;
        std::process::exit(130);
    });
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The result of `work`, or a failure when the process receives a signal to end meanwhile.
///
/// # Errors
/// When it does, and those of `work`.
pub(crate) async fn unless<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let arrived = ARRIVED.notified();
    check()?;
    tokio::select! {
        biased;
        done = work => done,
        () = arrived => bail!(MESSAGE),
    }
}

/// Fails once the process has received a signal to end.
///
/// # Errors
/// When it has.
pub(crate) fn check() -> anyhow::Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::SeqCst), MESSAGE);
    Ok(())
}
