//! Attacks on the remembered heads, and the crashes that must not look like one.

use super::*;
use crate::head::HEAD;
use crate::testing::settings;
use crate::{Row, Settings};

/// A log with `count` records whose head is kept in both places, and the row.
async fn kept(dir: &Path, count: usize) -> Row {
    let audit = open(dir, None);
    for number in 1..=count {
        audit.append(record(&format!("r-{number}"))).await.expect("is written");
    }
    audit.flush().await.expect("is flushed");
    let row = audit.keep_head().expect("kept").expect("nothing to record");
    audit.row_is_kept(row).expect("noted");
    audit.close().await.expect("closes");
    row
}

/// Cuts the log after `count` records.
fn cut(dir: &Path, count: usize) {
    let kept = lines(dir)[..count].concat();
    fs::write(dir.join("audit.jsonl"), kept).expect("writes");
}

fn found(dir: &Path, row: HeadRow) -> Vec<ProblemKind> {
    kinds(&verify(dir, &key(1), row).expect("reads"))
}

#[tokio::test]
async fn a_cut_tail_is_found_by_either_place() {
    let truncated = ProblemKind::Truncated { expected: 10 };
    for (row_is_gone, file_is_gone, expected) in [
        (false, false, vec![truncated]),
        (true, false, vec![ProblemKind::Head(HeadFault::RowMissing), truncated]),
        (false, true, vec![ProblemKind::Head(HeadFault::FileMissing), truncated]),
        (true, true, vec![ProblemKind::Head(HeadFault::BothMissing)]),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let row = kept(dir.path(), 10).await;
        cut(dir.path(), 6);
        if file_is_gone {
            fs::remove_file(dir.path().join(HEAD)).expect("removes");
        }
        let row = if row_is_gone { HeadRow::Missing } else { HeadRow::Kept(row) };
        assert_eq!(found(dir.path(), row), expected);
        // The next start says so, and every later verification.
        let audit = Audit::open(settings(dir.path()), key(1), row).expect("opens");
        assert_eq!(audit.chain_broken(), !(row_is_gone && file_is_gone));
        assert_eq!(audit.head_faults().len(), usize::from(row_is_gone || file_is_gone));
        audit.flush().await.expect("is flushed");
        let row = audit.keep_head().expect("kept").expect("it is recorded");
        audit.row_is_kept(row).expect("noted");
        audit.close().await.expect("closes");
        let later = found(dir.path(), HeadRow::Kept(row));
        let at_start = later.iter().any(|kind| matches!(kind, ProblemKind::HeadAtStart(_)));
        let broken = later.contains(&ProblemKind::ChainBreak { expected: 10 });
        assert_eq!((at_start, broken), (row_is_gone || file_is_gone, !(row_is_gone && file_is_gone)));
    }
}

#[tokio::test]
async fn a_forged_row_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let row = kept(dir.path(), 10).await;
    // An earlier record of the log, one that never was, and a changed number.
    let earlier =
        crate::chain::Line::parse(lines(dir.path())[3].trim_end().as_bytes()).expect("a record").head;
    for forged in [(earlier.seq, earlier.mac), (1 << 40, [7; 32]), (row.0 + 1, row.1)] {
        let row = HeadRow::Kept(forged);
        assert_eq!(found(dir.path(), row), [ProblemKind::Head(HeadFault::RowForged)]);
        let copy = tempfile::tempdir().expect("temporary directory");
        for name in ["audit.jsonl", HEAD] {
            fs::copy(dir.path().join(name), copy.path().join(name)).expect("copies");
        }
        let audit = Audit::open(settings(copy.path()), key(1), row).expect("opens");
        assert_eq!((audit.head_faults(), audit.chain_broken()), (&[HeadFault::RowForged][..], false));
        audit.close().await.expect("closes");
        assert_eq!(audit.synced_head().seq, 11, "no number is skipped");
    }
}

#[tokio::test]
async fn an_older_row_or_file_is_held_to_the_newer_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let older = kept(dir.path(), 4).await;
    let old_file = fs::read(dir.path().join(HEAD)).expect("reads");
    let audit = Audit::open(settings(dir.path()), key(1), HeadRow::Kept(older)).expect("opens");
    for _ in 0..6 {
        audit.append(record("r")).await.expect("is written");
    }
    audit.flush().await.expect("is flushed");
    let newer = audit.keep_head().expect("kept").expect("nothing to record");
    audit.close().await.expect("closes");
    cut(dir.path(), 5);
    let truncated = [ProblemKind::Truncated { expected: 10 }];
    assert_eq!(found(dir.path(), HeadRow::Kept(older)), truncated);
    fs::write(dir.path().join(HEAD), old_file).expect("writes");
    assert_eq!(found(dir.path(), HeadRow::Kept(newer)), truncated);
}

#[tokio::test]
async fn a_kill_between_the_writes_of_the_first_head_is_no_fault() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let opened = |row| Audit::open(settings(dir.path()), key(1), row).expect("opens");
    // After the file, before the row.
    let audit = opened(HeadRow::Missing);
    assert!(dir.path().join(HEAD).exists(), "before the first record");
    audit.close().await.expect("closes");
    let audit = opened(HeadRow::Missing);
    assert_eq!(audit.head_faults(), []);
    let row = audit.keep_head().expect("kept").expect("nothing to record");
    audit.close().await.expect("closes");
    // After the row, before the file knows of it.
    let audit = opened(HeadRow::Kept(row));
    assert_eq!(audit.head_faults(), []);
    audit.append(record("r")).await.expect("is written");
    audit.flush().await.expect("is flushed");
    audit.row_is_kept(audit.keep_head().expect("kept").expect("nothing to record")).expect("noted");
    audit.close().await.expect("closes");
    let audit = opened(HeadRow::Missing);
    assert_eq!(audit.head_faults(), [HeadFault::RowMissing]);
    audit.close().await.expect("closes");
}

#[tokio::test]
async fn the_row_of_an_older_release_is_taken_over() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 10).await;
    fs::remove_file(dir.path().join(HEAD)).expect("removes");
    let old = HeadRow::Kept((head.seq, head.mac));
    assert_eq!(found(dir.path(), old), []);
    let audit = Audit::open(settings(dir.path()), key(1), old).expect("opens");
    assert_eq!((audit.head_faults(), audit.chain_broken()), (&[][..], false));
    audit.close().await.expect("closes");
    cut(dir.path(), 9);
    assert_eq!(found(dir.path(), old), [ProblemKind::Truncated { expected: 10 }]);
}

#[tokio::test]
async fn a_start_reads_no_file_but_the_last() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let small = || Settings { max_bytes: 1000, compress: false, ..settings(dir.path()) };
    let audit = Audit::open(small(), key(1), HeadRow::Missing).expect("opens");
    for _ in 0..100 {
        audit.append(record("r")).await.expect("is written");
    }
    audit.flush().await.expect("is flushed");
    let row = audit.keep_head().expect("kept").expect("nothing to record");
    audit.close().await.expect("closes");
    let older = crate::disk::retired_files(dir.path()).expect("lists");
    assert!(older.len() > 20);
    // A file that is opened would stop the start: it is a directory.
    for file in older {
        let path = dir.path().join(file.name());
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("makes");
    }
    let audit = Audit::open(small(), key(1), HeadRow::Kept(row)).expect("opens");
    assert!(!audit.chain_broken());
    audit.close().await.expect("closes");
}
