//! Tests of the whole log, on real files.

mod checkpoints;
mod faults;
mod heads;
mod reopening;
mod verifying;
mod writing;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use crate::testing::{key, open, record, row, verify};
use crate::{Audit, AuditError, AuditHead, HeadFault, HeadRow, ProblemKind, Report, Status};

/// A log of `count` records in `dir`; returns its head.
async fn log_of(dir: &Path, count: usize) -> AuditHead {
    let audit = open(dir, None);
    for number in 1..=count {
        audit.append(record(&format!("r-{number}"))).await.expect("is written");
    }
    audit.close().await.expect("closes");
    audit.synced_head()
}

fn lines(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("audit.jsonl")).expect("reads");
    text.split_inclusive('\n').map(str::to_owned).collect()
}

fn check(dir: &Path, head: Option<AuditHead>) -> Report {
    verify(dir, &key(1), row(head)).expect("reads")
}

fn kinds(report: &Report) -> Vec<ProblemKind> {
    report.problems.iter().map(|problem| problem.kind).collect()
}

/// The outcomes of the log's own records, in all its files.
fn outcomes(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.ends_with(".jsonl"))
        .collect();
    // `audit-…` sorts before `audit.jsonl`.
    names.sort();
    let text: String = names.iter().filter_map(|name| fs::read_to_string(dir.join(name)).ok()).collect();
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["rpc"] == "audit")
        .filter_map(|line| line["outcome"].as_str().map(str::to_owned))
        .collect()
}

async fn wait_for_ok(audit: &Audit) {
    wait_for(|| audit.status() == Status::Ok, "the log recovers").await;
}

/// Waits until `what` holds. A busy machine may take long, and the time is not tested.
async fn wait_for(what: impl Fn() -> bool, said: &str) {
    for _ in 0..3000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("timed out: {said}");
}

/// The result of a future that is ready at once.
async fn at_once<T>(call: impl Future<Output = T>) -> Option<T> {
    let mut call = Box::pin(call);
    std::future::poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn refusal_at_once(audit: &Audit, request_id: &str) -> AuditError {
    let result = at_once(audit.append(record(request_id))).await;
    result.expect("it does not wait").expect_err("cannot be written")
}

/// How long the machine delays a thread that sleeps: added to each bound on time.
struct Pace {
    running: Arc<()>,
    thread: JoinHandle<Duration>,
}

impl Pace {
    fn start() -> Self {
        const NAP: Duration = Duration::from_millis(5);
        let running = Arc::new(());
        let over = Arc::downgrade(&running);
        let thread = std::thread::spawn(move || {
            let mut lost = Duration::ZERO;
            while over.strong_count() > 0 {
                let start = Instant::now();
                std::thread::sleep(NAP);
                lost += start.elapsed().saturating_sub(NAP);
            }
            lost
        });
        Self { running, thread }
    }

    /// All delay since the start, the current one included.
    fn lost(self) -> Duration {
        drop(self.running);
        self.thread.join().expect("no panic")
    }
}

async fn refusal(audit: &Audit, request_id: &str) -> AuditError {
    audit.append(record(request_id)).await.expect_err("cannot be written")
}
