//! Tests of `verify`.

use super::*;
use crate::Settings;
use crate::disk::{Form, retired_files, retired_name};
use crate::testing::settings;

const RECORDS: usize = 50;

/// Writes `lines` as the log and checks it against the head of the whole log.
fn problems_of(dir: &Path, lines: &[String], head: AuditHead) -> Vec<ProblemKind> {
    fs::write(dir.join("audit.jsonl"), lines.concat()).expect("writes");
    kinds(&check(dir, Some(head)))
}

#[tokio::test]
async fn an_untouched_log_is_clean() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), RECORDS).await;
    let report = check(dir.path(), Some(head));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.records, report.files, report.last), (50, 1, head));
    assert!(check(dir.path(), None).is_clean());
}

#[tokio::test]
async fn every_single_removal_is_found_where_it_happened() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), RECORDS).await;
    let whole = lines(dir.path());
    for removed in 0..RECORDS {
        let mut lines = whole.clone();
        lines.remove(removed);
        let seq = removed as u64 + 1;
        let expected = if removed == RECORDS - 1 {
            ProblemKind::Truncated { expected: seq }
        } else {
            ProblemKind::Missing { first: seq, last: seq }
        };
        assert_eq!(problems_of(dir.path(), &lines, head), [expected]);
    }
}

#[tokio::test]
async fn every_single_edit_is_found_where_it_happened() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), RECORDS).await;
    let whole = lines(dir.path());
    for edited in 0..RECORDS {
        let mut lines = whole.clone();
        lines[edited] = lines[edited].replace("192.0.2.1", "192.0.2.2");
        fs::write(dir.path().join("audit.jsonl"), lines.concat()).expect("writes");
        let report = check(dir.path(), Some(head));
        let [problem] = &report.problems[..] else { panic!("one problem: {report:?}") };
        assert_eq!(problem.kind, ProblemKind::WrongMac);
        assert_eq!((problem.line, problem.seq), (edited as u64 + 1, Some(edited as u64 + 1)));
    }
}

#[tokio::test]
async fn every_swap_copy_and_truncation_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), RECORDS).await;
    let whole = lines(dir.path());
    for at in 0..RECORDS {
        for other in (at + 1..RECORDS).step_by(if at % 10 == 0 { 1 } else { 7 }) {
            let mut swapped = whole.clone();
            swapped.swap(at, other);
            assert!(!problems_of(dir.path(), &swapped, head).is_empty(), "swap {at} {other}");
        }
        let mut copied = whole.clone();
        copied.insert(at, whole[at].clone());
        assert_eq!(problems_of(dir.path(), &copied, head), [ProblemKind::Repeated], "copy {at}");
        let expected = ProblemKind::Truncated { expected: RECORDS as u64 };
        assert_eq!(problems_of(dir.path(), &whole[..at], head), [expected], "cut at {at}");
    }
}

#[tokio::test]
async fn every_inserted_record_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), RECORDS).await;
    let whole = lines(dir.path());
    for at in 0..=RECORDS {
        // The forger has everything but the key.
        let mut forged = AuditHead::default();
        if at > 0 {
            forged = crate::chain::Line::parse(whole[at - 1].trim_end().as_bytes()).expect("a record").head;
        }
        let mut line = Vec::new();
        forged.seal(&key(2), b",\"request_id\":\"forged\"", &mut line);
        let mut lines = whole.clone();
        lines.insert(at, String::from_utf8(line).expect("UTF-8"));
        assert!(problems_of(dir.path(), &lines, head).contains(&ProblemKind::WrongMac), "at {at}");
    }
}

#[tokio::test]
async fn any_changed_byte_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 4).await;
    let path = dir.path().join("audit.jsonl");
    let whole = fs::read(&path).expect("reads");
    for at in 0..whole.len() {
        for flip in [0x01, 0x20, 0x80, whole[at] ^ b'\n', whole[at] ^ b'"'] {
            if flip == 0 {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            fs::write(&path, &bytes).expect("writes");
            assert!(!check(dir.path(), Some(head)).is_clean(), "byte {at} ^ {flip:#x}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_part_of_the_log_or_has_a_wrong_number_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let small = Settings { max_bytes: 2000, ..settings(dir.path()) };
    let audit = Audit::open(small, key(1), HeadRow::NotYet).expect("opens");
    for _ in 0..40 {
        audit.append(record("r")).await.expect("is written");
    }
    audit.close().await.expect("closes");
    let path = |name: &str| dir.path().join(name);
    let clean = || check(dir.path(), None).is_clean();
    let files = retired_files(dir.path()).expect("lists");
    let second = files[1].name();
    // What the server itself leaves.
    for name in [format!("{second}.zst.new"), "head.new".to_owned(), "lost+found".to_owned()] {
        fs::write(path(&name), "").expect("writes");
        assert!(clean(), "{name}");
    }
    for name in [
        "audit.jsonl.1",
        "audit.jsonl.new",
        "audit-7.jsonl",
        "audit-00000000000000000042.jsonl.gz",
        "old-audit.jsonl",
        "audit\n.jsonl",
    ] {
        fs::copy(path(&second), path(name)).expect("copies");
        let report = check(dir.path(), None);
        let shown: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [format!("{}: not a file of the log; it is not checked", name.escape_debug())]);
        fs::remove_file(path(name)).expect("removes");
    }
    // Between the two files beside it, but with the number of no record in it.
    let first = files[1].first_seq;
    let wrong = retired_name(files[2].first_seq - 1, Form::Plain);
    fs::rename(path(&second), path(&wrong)).expect("renames");
    assert!(clean(), "the number of its last record");
    fs::rename(path(&wrong), path(&retired_name(first - 1, Form::Plain))).expect("renames");
    assert_eq!(kinds(&check(dir.path(), None)), [ProblemKind::Misnumbered { first }]);
}

#[tokio::test]
async fn any_cut_by_bytes_is_found_with_the_head() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 3).await;
    let path = dir.path().join("audit.jsonl");
    let whole = fs::read(&path).expect("reads");
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).expect("writes");
        assert_eq!(kinds(&check(dir.path(), Some(head))), [ProblemKind::Truncated { expected: 3 }], "{len}");
    }
    fs::remove_file(&path).expect("removes");
    assert_eq!(kinds(&check(dir.path(), Some(head))), [ProblemKind::Truncated { expected: 3 }]);
}

#[tokio::test]
async fn another_key_fails_every_mac_and_another_head_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 5).await;
    let report = verify(dir.path(), &key(2), HeadRow::Kept((head.seq, head.mac))).expect("reads");
    let forged = [HeadFault::FileForged, HeadFault::RowForged].map(ProblemKind::Head);
    assert_eq!(kinds(&report), [&[ProblemKind::WrongMac; 5][..], &forged].concat());
    let other = AuditHead { seq: 3, mac: head.mac };
    assert_eq!(kinds(&check(dir.path(), Some(other))), [ProblemKind::WrongHead]);
}

#[tokio::test]
async fn many_problems_are_counted_and_the_first_listed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    log_of(dir.path(), 1005).await;
    let report = verify(dir.path(), &key(2), HeadRow::NotYet).expect("reads");
    assert_eq!((report.problems.len(), report.more_problems), (1000, 6));
    assert!(!report.is_clean());
}

#[tokio::test]
async fn a_report_shows_no_content() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    audit.append(record("canary")).await.expect("is written");
    audit.close().await.expect("closes");
    let path = dir.path().join("audit.jsonl");
    let line = fs::read_to_string(&path).expect("reads");
    fs::write(&path, format!("canary\n{}canary", line.replace("canary", "canary2"))).expect("writes");
    let report = check(dir.path(), Some(AuditHead { seq: 9, mac: [0; 32] }));
    let shown: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "audit.jsonl:1: not a record",
            "audit.jsonl:2: record 1: edited, or made with another key",
            "audit.jsonl:3: not a record",
            "audit.jsonl: the log ends before record 9",
        ]
    );
    assert_eq!(report.unfinished_bytes, 0);
    assert!(!format!("{report:?} {audit:?}").contains("canary"));
}

#[tokio::test]
async fn endless_lines_are_read_in_bounded_memory() {
    let dir = tempfile::tempdir().expect("temporary directory");
    log_of(dir.path(), 1).await;
    let line = lines(dir.path()).remove(0);
    // A genuine record in the middle of a longer line is not a record.
    let padded = format!("{}{line}", "x".repeat(crate::chain::MAX_LINE_BYTES + 1));
    fs::write(dir.path().join("audit.jsonl"), padded).expect("writes");
    let report = check(dir.path(), None);
    assert_eq!((kinds(&report), report.records), (vec![ProblemKind::Malformed], 0));
}
