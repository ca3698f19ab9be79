//! Comparison of a log with a checkpoint that another host keeps.

use agentrouter_model::Timestamp;

use super::*;
use crate::testing::settings;
use crate::{CheckpointError, Settings, Verification};

/// Verifies against a checkpoint, with heads that fit any log.
fn held(dir: &Path, note: &str) -> Result<Vec<ProblemKind>, AuditError> {
    let _ = fs::remove_file(dir.join(crate::head::HEAD));
    let of = Verification {
        dir,
        key: &key(1),
        replica: None,
        row: HeadRow::NotYet,
        epoch: None,
        checkpoint: Some(note),
    };
    of.run(&mut |_| ()).map(|report| kinds(&report))
}

async fn append(audit: &Audit, count: usize) {
    for _ in 0..count {
        audit.append(record("r")).await.expect("is written");
    }
    audit.flush().await.expect("is flushed");
}

/// The log of one server, with a checkpoint after each of ten rounds.
async fn log(dir: &Path) -> Vec<(u64, String)> {
    let audit =
        Audit::open(Settings { max_bytes: 3000, compress: true, ..settings(dir) }, key(1), HeadRow::NotYet);
    let audit = audit.expect("opens");
    let mut notes = vec![(0, audit.checkpoint().expect("signed"))];
    for round in 1..10 {
        append(&audit, round).await;
        notes.push((audit.synced_head().seq, audit.checkpoint().expect("signed")));
    }
    audit.close().await.expect("closes");
    notes
}

#[tokio::test]
async fn every_checkpoint_of_a_whole_log_holds() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (size, note) in log(dir.path()).await {
        assert_eq!(note.lines().nth(1), Some(&*size.to_string()));
        assert_eq!(held(dir.path(), &note).expect("reads"), []);
    }
}

#[tokio::test]
async fn the_tree_continues_after_a_restart_and_without_its_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    log(dir.path()).await;
    for keep in [true, false] {
        if !keep {
            fs::remove_file(dir.path().join("tree")).expect("removes");
        }
        let audit = open(dir.path(), None);
        append(&audit, 3).await;
        let note = audit.checkpoint().expect("signed");
        assert_eq!(audit.checkpoint().expect("signed"), note);
        audit.close().await.expect("closes");
        assert_eq!(held(dir.path(), &note).expect("reads"), []);
    }
}

#[tokio::test]
async fn a_log_that_was_cut_or_rewritten_does_not_hold() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    append(&audit, 10).await;
    let early = audit.checkpoint().expect("signed");
    append(&audit, 10).await;
    let late = audit.checkpoint().expect("signed");
    audit.close().await.expect("closes");
    let whole = lines(dir.path());
    fs::write(dir.path().join("audit.jsonl"), whole[..15].concat()).expect("writes");
    assert_eq!(held(dir.path(), &early).expect("reads"), []);
    assert_eq!(held(dir.path(), &late).expect("reads"), [ProblemKind::BehindCheckpoint { covers: 20 }]);
    // By a process with the key: another continuation, longer than the first.
    let audit = open(dir.path(), None);
    for _ in 0..6 {
        audit.append(record("other")).await.expect("is written");
    }
    audit.close().await.expect("closes");
    assert_eq!(held(dir.path(), &early).expect("reads"), []);
    assert_eq!(held(dir.path(), &late).expect("reads"), [ProblemKind::OtherThanCheckpoint { covers: 20 }]);
    // A gap over the checkpoint.
    let later = [&whole[..8], &whole[12..]].concat();
    fs::write(dir.path().join("audit.jsonl"), later.concat()).expect("writes");
    let found = held(dir.path(), &early).expect("reads");
    assert!(found.contains(&ProblemKind::OtherThanCheckpoint { covers: 10 }), "{found:?}");
}

#[tokio::test]
async fn a_log_that_was_rewritten_with_the_key_does_not_hold() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    append(&audit, 10).await;
    let note = audit.checkpoint().expect("signed");
    audit.close().await.expect("closes");
    // Every mac is right, and so are the heads: only the checkpoint shows it.
    let other = tempfile::tempdir().expect("temporary directory");
    let audit = open(other.path(), None);
    for number in 0..12 {
        audit.append(record(&format!("other-{number}"))).await.expect("is written");
    }
    audit.close().await.expect("closes");
    assert!(check(other.path(), Some(audit.synced_head())).is_clean());
    assert_eq!(held(other.path(), &note).expect("reads"), [ProblemKind::OtherThanCheckpoint { covers: 10 }]);
}

#[tokio::test]
async fn a_checkpoint_of_another_log_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let other = tempfile::tempdir().expect("temporary directory");
    log_of(dir.path(), 3).await;
    let audit = Audit::open(settings(other.path()), key(2), HeadRow::NotYet);
    let note = audit.expect("opens").checkpoint().expect("signed");
    let refused = held(dir.path(), &note).expect_err("of another log");
    assert!(matches!(refused, AuditError::Checkpoint(CheckpointError::OtherLog)), "{refused}");
}

#[tokio::test]
async fn a_checkpoint_holds_after_the_removal_of_files_that_no_checkpoint_covered() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = Audit::open(Settings { max_bytes: 3000, ..settings(dir.path()) }, key(1), HeadRow::NotYet);
    let audit = audit.expect("opens");
    append(&audit, 3).await;
    audit.checkpoint().expect("signed");
    append(&audit, 60).await;
    let later = Timestamp::from_micros(1_800_000_000_000_000);
    assert!(audit.prune(later, false).expect("pruned").last > 3);
    append(&audit, 1).await;
    let note = audit.checkpoint().expect("signed");
    audit.close().await.expect("closes");
    assert_eq!(held(dir.path(), &note).expect("reads"), []);
}
