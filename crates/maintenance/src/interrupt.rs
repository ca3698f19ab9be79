//! SIGINT and SIGTERM during a backup: the command removes its partial file and records the outcome before it ends.
//!
//! A second signal ends the process at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether this process was asked to end. Signals are sent to the process as a whole.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Notes signals from now on, in a task of the current runtime.
///
/// # Errors
/// When the signals cannot be caught.
pub(crate) fn catch() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        ASKED.store(true, Ordering::SeqCst);
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

/// Fails once the process was asked to end.
///
/// # Errors
/// Then.
pub(crate) fn check() -> anyhow::Result<()> {
    ensure!(!ASKED.load(Ordering::SeqCst), "interrupted by a signal");
    Ok(())
}
