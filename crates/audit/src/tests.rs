//! The log as a whole, on real files.

mod faults;
mod reopening;
mod verifying;
mod writing;

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::testing::{key, open, record};
use crate::{Audit, AuditError, AuditHead, ProblemKind, Report, Status, verify};

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
    verify(dir, &key(1), head).expect("reads")
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
    for _ in 0..400 {
        if audit.status() == Status::Ok {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the log did not recover: {:?}", audit.status());
}

async fn refusal(audit: &Audit, request_id: &str) -> AuditError {
    audit.append(record(request_id)).await.expect_err("cannot be written")
}
