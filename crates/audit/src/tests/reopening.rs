//! Opening a log that an earlier process wrote.

use super::*;
use crate::testing::settings;

#[tokio::test]
async fn the_chain_continues_over_restarts() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut head = None;
    for start in 1..=5 {
        let audit = open(dir.path(), head);
        audit.append(record("r")).await.expect("is written");
        audit.close().await.expect("closes");
        assert!(!audit.chain_broken());
        assert_eq!(audit.synced_head().seq, start);
        head = Some(audit.synced_head());
    }
    assert!(check(dir.path(), head).is_clean());
    assert!(outcomes(dir.path()).is_empty());
}

#[tokio::test]
async fn a_torn_line_is_closed_and_accounted_for_wherever_it_was_torn() {
    let source = tempfile::tempdir().expect("temporary directory");
    log_of(source.path(), 3).await;
    let whole = lines(source.path());
    let kept = whole[..2].concat();
    for torn in [1, 10, whole[2].len() / 2, whole[2].len() - 2] {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("audit.jsonl"), format!("{kept}{}", &whole[2][..torn])).expect("writes");
        let before = check(dir.path(), None);
        assert!(before.is_clean() && before.unfinished_bytes == torn as u64, "{before:?}");
        let audit = open(dir.path(), None);
        audit.append(record("after")).await.expect("is written");
        audit.close().await.expect("closes");
        let report = check(dir.path(), Some(audit.synced_head()));
        assert!(report.is_clean() && report.torn == 1 && report.records == 4, "{report:?}");
        assert_eq!(outcomes(dir.path()), ["TORN_LINE"]);
        assert!(lines(dir.path())[3].contains(&format!("\"bytes\":{torn},")));
    }
}

#[tokio::test]
async fn a_record_that_lacks_only_its_newline_is_a_record() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 3).await;
    let whole = lines(dir.path()).concat();
    fs::write(dir.path().join("audit.jsonl"), whole.trim_end()).expect("writes");
    let audit = open(dir.path(), Some(head));
    audit.append(record("after")).await.expect("is written");
    audit.close().await.expect("closes");
    let report = check(dir.path(), Some(audit.synced_head()));
    assert!(report.is_clean() && report.records == 4 && !audit.chain_broken(), "{report:?}");
}

#[tokio::test]
async fn torn_bytes_hide_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    log_of(dir.path(), 2).await;
    let path = dir.path().join("audit.jsonl");
    let torn =
        format!("{}{}", fs::read_to_string(&path).expect("reads"), "{\"seq\":3,\"time\n\n{\"se\u{0}\u{0}\n");
    fs::write(&path, torn).expect("writes");
    let audit = open(dir.path(), None);
    audit.append(record("after")).await.expect("is written");
    audit.close().await.expect("closes");
    let head = Some(audit.synced_head());
    let whole = fs::read(&path).expect("reads");
    let report = check(dir.path(), head);
    assert!(report.is_clean() && report.torn == 1, "{report:?}");
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).expect("writes");
        assert!(!check(dir.path(), head).is_clean(), "change of byte {at}");
        let mut inserted = whole.clone();
        inserted.insert(at, b'\n');
        fs::write(&path, &inserted).expect("writes");
        assert!(!check(dir.path(), head).is_clean(), "insertion at {at}");
    }
}

#[tokio::test]
async fn lines_added_while_it_was_closed_are_not_a_torn_write() {
    let added = "{\"seq\":3,\"time\":\"2026\",\"rpc\":\"GetSecret\"}";
    for junk in [
        "junk\n".repeat(3),
        "junk".to_owned(),
        format!("{added}\n"),
        added.to_owned(),
        format!("{{\"seq\":3,\"time\n{added}\n{{\"se"),
        "{\"seq\":3,\"time\":\"2026\n,\"rpc\":\"GetSecret\"}\n".to_owned(),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let head = log_of(dir.path(), 2).await;
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, format!("{}{junk}", fs::read_to_string(&path).expect("reads"))).expect("writes");
        assert_eq!(kinds(&check(dir.path(), Some(head))), [ProblemKind::Malformed], "{junk}");
        let audit = open(dir.path(), Some(head));
        audit.append(record("after")).await.expect("is written");
        audit.close().await.expect("closes");
        let report = check(dir.path(), Some(audit.synced_head()));
        assert_eq!((kinds(&report), report.torn), (vec![ProblemKind::Malformed], 0), "{junk}");
        assert_eq!(report.problems[0].line, 3, "{junk}");
    }
}

#[tokio::test]
async fn a_log_truncated_while_it_was_closed_stays_in_use_and_is_always_reported() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 10).await;
    let kept = lines(dir.path())[..6].concat();
    fs::write(dir.path().join("audit.jsonl"), kept).expect("writes");
    let audit = open(dir.path(), Some(head));
    assert!(audit.chain_broken() && audit.status() == Status::Ok);
    audit.append(record("after")).await.expect("is written");
    audit.close().await.expect("closes");
    let later = audit.synced_head();
    assert_eq!(later.seq, 12, "no number is used twice");
    let expected = [ProblemKind::Missing { first: 7, last: 10 }, ProblemKind::ChainBreak { expected: 10 }];
    assert_eq!(kinds(&check(dir.path(), Some(later))), expected);

    let audit = open(dir.path(), Some(later));
    audit.append(record("later")).await.expect("is written");
    audit.close().await.expect("closes");
    assert!(!audit.chain_broken());
    assert_eq!(kinds(&check(dir.path(), Some(audit.synced_head()))), expected);
}

#[tokio::test]
async fn a_break_that_could_not_be_recorded_yet_does_not_lower_the_head() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 10).await;
    let kept = format!("{}{{\"seq\":7,\"time\":", lines(dir.path())[..6].concat());
    fs::write(dir.path().join("audit.jsonl"), kept).expect("writes");
    let disk = crate::testing::Disk::default();
    disk.set(|faults| faults.space = Some(20));
    let audit = disk.open_at(settings(dir.path()), Some(head));
    wait_for(|| audit.status() != Status::Ok, "the break cannot be written").await;
    assert_eq!(audit.status(), Status::Unavailable("no space left"));
    assert_eq!(audit.synced_head().seq, head.seq);
    assert_eq!(audit.keep_head().expect("no write"), None);
    disk.set(|faults| faults.space = None);
    wait_for_ok(&audit).await;
    assert!(audit.synced_head().seq > 10);
    audit.close().await.expect("closes");
    assert_eq!(outcomes(dir.path()), ["TORN_LINE", "RESUMED", "CHAIN_BREAK"]);
    let report = check(dir.path(), Some(audit.synced_head()));
    let expected = [ProblemKind::Missing { first: 7, last: 10 }, ProblemKind::ChainBreak { expected: 10 }];
    assert_eq!((kinds(&report), report.torn), (expected.to_vec(), 1));
}

#[tokio::test]
async fn a_log_that_was_removed_or_replaced_while_it_was_closed_is_reported() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 3).await;
    fs::remove_file(dir.path().join("audit.jsonl")).expect("removes");
    let audit = open(dir.path(), Some(head));
    audit.close().await.expect("closes");
    assert!(audit.chain_broken());
    let expected = [ProblemKind::Missing { first: 1, last: 3 }, ProblemKind::ChainBreak { expected: 3 }];
    assert_eq!(kinds(&check(dir.path(), Some(audit.synced_head()))), expected);

    // Another log, of the expected length and with the same key.
    let other = tempfile::tempdir().expect("temporary directory");
    let audit = open(other.path(), None);
    for _ in 0..5 {
        audit.append(record("other")).await.expect("is written");
    }
    audit.close().await.expect("closes");
    let audit = open(other.path(), Some(head));
    audit.close().await.expect("closes");
    assert!(audit.chain_broken());
    assert_eq!(kinds(&check(other.path(), None)), [ProblemKind::ChainBreak { expected: 3 }]);
}

#[tokio::test]
async fn a_head_in_an_older_file_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let small = || crate::Settings { max_bytes: 1000, ..settings(dir.path()) };
    let audit = Audit::open(small(), key(1), HeadRow::NotYet).expect("opens");
    let mut heads = Vec::new();
    for _ in 0..20 {
        audit.append(record("r")).await.expect("is written");
        audit.flush().await.expect("is flushed");
        heads.push(audit.synced_head());
    }
    drop(audit);
    for head in heads {
        let audit = Audit::open(small(), key(1), row(Some(head))).expect("opens");
        assert!(!audit.chain_broken(), "{head:?}");
        drop(audit);
        let wrong = AuditHead { mac: [7; 32], ..head };
        let copy = tempfile::tempdir().expect("temporary directory");
        for entry in fs::read_dir(dir.path()).expect("lists") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copies");
        }
        assert!(open(copy.path(), Some(wrong)).chain_broken());
    }
}

#[tokio::test]
async fn without_a_newest_file_the_log_continues_after_the_one_before() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let head = log_of(dir.path(), 3).await;
    let retired = dir.path().join(crate::disk::retired_name(1, crate::disk::Form::Plain));
    fs::rename(dir.path().join("audit.jsonl"), retired).expect("renames");
    let audit = open(dir.path(), Some(head));
    audit.append(record("r")).await.expect("is written");
    audit.close().await.expect("closes");
    assert!(!audit.chain_broken());
    let report = check(dir.path(), Some(audit.synced_head()));
    assert!(report.is_clean() && report.records == 4 && report.files == 2, "{report:?}");
}

#[tokio::test]
async fn another_key_is_noticed_at_the_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for count in [1, 2] {
        log_of(dir.path(), count).await;
        let audit = Audit::open(settings(dir.path()), key(2), HeadRow::NotYet).expect("opens");
        assert!(audit.chain_broken());
        assert_eq!(audit.head_faults(), [HeadFault::FileForged]);
        drop(audit);
        assert_eq!(outcomes(dir.path()), ["HEAD_FAULT", "CHAIN_BREAK"]);
        for name in ["audit.jsonl", "head"] {
            fs::remove_file(dir.path().join(name)).expect("removes");
        }
    }
}

#[tokio::test]
async fn a_link_or_a_pipe_in_place_of_the_log_stops_the_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("audit.jsonl");
    std::os::unix::fs::symlink(dir.path().join("canary"), &path).expect("links");
    let error = Audit::open(settings(dir.path()), key(1), HeadRow::NotYet).expect_err("is a link");
    assert!(matches!(error, AuditError::Open(_)));
    assert!(!format!("{error} {error:?}").contains("canary"));
}
