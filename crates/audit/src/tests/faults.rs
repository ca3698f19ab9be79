//! Writing under faults.

use super::*;
use crate::testing::{Disk, settings};
use crate::{Settings, Sync};

#[tokio::test]
async fn a_file_removed_replaced_or_renamed_is_noticed_and_replaced() {
    for way in ["removed", "replaced", "renamed", "cut", "grown"] {
        let mut tries = 0..10;
        while !is_noticed_and_replaced(way).await {
            tries.next().expect("the machine is quick enough once");
        }
    }
}

/// False if the append failed so late that the log may have checked its file by itself.
async fn is_noticed_and_replaced(way: &str) -> bool {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("audit.jsonl");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    let (pace, started) = (Pace::start(), Instant::now());
    for number in 0..3 {
        audit.append(record(&format!("r-{number}"))).await.expect("is written");
    }
    let text = fs::read_to_string(&path).expect("reads");
    match way {
        "removed" => fs::remove_file(&path),
        "replaced" => fs::remove_file(&path).and_then(|()| fs::write(&path, "something else")),
        "renamed" => fs::rename(&path, dir.path().join("audit.jsonl.1")),
        "cut" => fs::write(&path, ""),
        _ => fs::write(&path, text + "appended by hand\n"),
    }
    .expect(way);
    let (result, status) = (audit.append(record("lost")).await, audit.status());
    let again = at_once(audit.append(record("at once"))).await;
    if started.elapsed() > Duration::from_millis(400) {
        return false;
    }
    let error = result.expect_err("cannot be written");
    assert!(matches!(error, AuditError::Unavailable("file removed or replaced")), "{way}: {error}");
    assert_eq!(status, Status::Unavailable("file removed or replaced"), "{way}");
    again.expect("it does not wait").expect_err("cannot be written");
    wait_for_ok(&audit).await;
    let (took, lost) = (started.elapsed(), pace.lost() + disk.get(|faults| faults.syncing));
    assert!(took < Duration::from_millis(1500) + lost, "{way}: {took:?}, {lost:?} of it lost");
    audit.append(record("after")).await.expect("works again");
    audit.close().await.expect("closes");
    assert!(audit.chain_broken(), "{way}");
    assert_eq!(outcomes(dir.path()), ["REOPENED"], "{way}");
    assert!(!fs::read_to_string(&path).expect("reads").contains("\"lost\""), "{way}");
    let found = kinds(&check(dir.path(), Some(audit.synced_head())));
    let missing = ProblemKind::Missing { first: 1, last: 3 };
    match way {
        "replaced" => assert_eq!(found, [ProblemKind::Malformed, missing]),
        "renamed" => assert_eq!(found, [missing, ProblemKind::UnknownFile]),
        "grown" => assert_eq!(found, [ProblemKind::Malformed]),
        _ => assert_eq!(found, [missing], "{way}"),
    }
    true
}

#[tokio::test]
async fn an_exact_copy_in_place_of_the_file_is_continued() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("audit.jsonl");
    let audit = open(dir.path(), None);
    audit.append(record("r")).await.expect("is written");
    // An idle log may notice by itself before the append.
    let mut tries = 0..5;
    loop {
        fs::copy(&path, dir.path().join("copy")).expect("copies");
        fs::rename(dir.path().join("copy"), &path).expect("renames");
        if audit.append(record("lost")).await.is_err() {
            break;
        }
        tries.next().expect("a request is refused");
    }
    wait_for_ok(&audit).await;
    audit.append(record("after")).await.expect("works again");
    audit.close().await.expect("closes");
    assert!(!audit.chain_broken() && check(dir.path(), Some(audit.synced_head())).is_clean());
}

#[tokio::test]
async fn an_idle_log_replaces_its_file_before_an_append_fails() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    fs::remove_file(dir.path().join("audit.jsonl")).expect("removes");
    wait_for(|| !outcomes(dir.path()).is_empty(), "the file is put back").await;
    // The note about it is in the file a moment before appends succeed again.
    wait_for_ok(&audit).await;
    audit.append(record("r")).await.expect("is written");
    audit.close().await.expect("closes");
    assert_eq!(outcomes(dir.path()), ["REOPENED"]);
    assert!(!audit.chain_broken() && check(dir.path(), Some(audit.synced_head())).is_clean());
}

#[tokio::test]
async fn a_pipe_or_a_directory_in_place_of_the_file_stops_the_log_until_it_is_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("audit.jsonl");
    let audit = open(dir.path(), None);
    audit.append(record("r")).await.expect("is written");
    fs::rename(&path, dir.path().join("aside")).expect("renames");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("runs").success());
    refusal(&audit, "lost").await;
    // The log tries twice to recover meanwhile.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_ne!(audit.status(), Status::Ok);
    refusal_at_once(&audit, "lost").await;
    fs::rename(dir.path().join("aside"), &path).expect("replaces the pipe");
    wait_for_ok(&audit).await;
    audit.append(record("after")).await.expect("works again");
    audit.close().await.expect("closes");
    assert!(!audit.chain_broken() && check(dir.path(), Some(audit.synced_head())).is_clean());
}

#[tokio::test]
async fn a_stuck_disk_fails_appends_within_two_seconds_and_blocks_no_other_task() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    audit.append(record("before")).await.expect("is written");
    disk.set(|faults| faults.stuck = true);
    let pace = Pace::start();
    let ticker = tokio::spawn(async {
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let started = Instant::now();
            tokio::time::sleep(Duration::from_millis(10)).await;
            longest = longest.max(started.elapsed());
        }
        longest
    });
    let started = Instant::now();
    let taken = tokio::spawn({
        let audit = audit.clone();
        async move { refusal(&audit, "taken").await }
    });
    wait_for(|| audit.stats().writes == 2, "the writer takes it").await;
    let waiting = refusal(&audit, "waiting").await;
    assert!(matches!(waiting, AuditError::TimedOut | AuditError::Unavailable("stuck")), "{waiting}");
    assert!(matches!(taken.await.expect("no panic"), AuditError::TimedOut));
    let took = started.elapsed();
    assert_eq!(audit.status(), Status::Unavailable("stuck"));
    assert!(matches!(refusal_at_once(&audit, "later").await, AuditError::Unavailable("stuck")));
    let (longest, lost) = (ticker.await.expect("no panic"), pace.lost());
    assert!(took < Duration::from_millis(2600) + lost, "{took:?}, {lost:?} of it lost");
    assert!(longest < Duration::from_millis(500) + lost, "a worker was held up for {longest:?}");

    disk.set(|faults| faults.stuck = false);
    wait_for_ok(&audit).await;
    audit.append(record("after")).await.expect("works again");
    audit.close().await.expect("closes");
    let report = check(dir.path(), Some(audit.synced_head()));
    assert!(report.is_clean(), "{report:?}");
    // The records that the writer had taken were written, and are withdrawn. The queued ones were never written.
    let text = fs::read_to_string(dir.path().join("audit.jsonl")).expect("reads");
    assert_eq!(text.matches("\"request_id\":\"taken\"").count(), 2);
    assert_eq!(text.matches("\"waiting\"").count(), 0);
    assert_eq!(outcomes(dir.path()), ["WITHDRAWN"]);
    let line = lines(dir.path()).into_iter().find(|line| line.contains("WITHDRAWN")).expect("is there");
    assert!(line.contains("\"request_id\":\"taken\"") && line.contains("\"of\":2"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_disk_holds_up_neither_close_nor_drop() {
    const LONG: Duration = Duration::from_secs(30);
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(Settings { compress: true, ..settings(dir.path()) });
    audit.append(record("before")).await.expect("is written");
    disk.set(|faults| faults.stuck = true);
    let taken = tokio::spawn({
        let audit = audit.clone();
        async move { audit.append(record("taken")).await }
    });
    wait_for(|| audit.stats().writes == 2, "the writer takes it").await;
    taken.abort();
    assert!(taken.await.expect_err("is cancelled").is_cancelled());
    let closing = tokio::spawn(async move {
        let waits = at_once(audit.close()).await.is_none();
        let closed = audit.close_within(Duration::from_millis(50)).await;
        (waits, closed, audit)
    });
    let closed = tokio::time::timeout(LONG, closing).await;
    let dropped = match closed {
        Ok(closed) => {
            let (waits, closed, audit) = closed.expect("no panic");
            assert!(waits && matches!(closed, Err(AuditError::TimedOut)), "{closed:?}");
            tokio::time::timeout(LONG, tokio::task::spawn_blocking(move || drop(audit))).await.is_ok()
        }
        Err(_) => false,
    };
    // Also after a failure, so that no thread is left.
    disk.set(|faults| faults.stuck = false);
    assert!(dropped, "held up");
    wait_for(|| Audit::open(settings(dir.path()), key(1), row(None)).is_ok(), "the writer ends").await;
}

#[tokio::test]
async fn a_record_of_a_disconnected_caller_is_withdrawn() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    // The caller is dropped while the record is written.
    disk.set(|faults| faults.stuck = true);
    let first = tokio::spawn({
        let audit = audit.clone();
        async move { audit.append(record("first")).await }
    });
    wait_for(|| audit.stats().writes == 1, "the writer takes it").await;
    first.abort();
    assert!(first.await.expect_err("is cancelled").is_cancelled());
    // The caller is dropped before the writer takes the record.
    let second = tokio::time::timeout(Duration::from_millis(100), audit.append(record("second"))).await;
    assert!(second.is_err());
    disk.set(|faults| faults.stuck = false);
    audit.flush().await.expect("is flushed");
    // The caller is dropped after the record was written, before it runs again.
    disk.set(|faults| faults.stuck = true);
    let mut third = Box::pin(audit.append(record("third")));
    std::future::poll_fn(|context| {
        assert!(third.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    disk.set(|faults| faults.stuck = false);
    wait_for(|| audit.stats().records == 2, "it is written").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(third);
    audit.flush().await.expect("is flushed");
    audit.close().await.expect("closes");
    let text = fs::read_to_string(dir.path().join("audit.jsonl")).expect("reads");
    assert!(!text.contains("\"second\""));
    assert_eq!(outcomes(dir.path()), ["WITHDRAWN", "WITHDRAWN"]);
    for id in ["first", "third"] {
        assert_eq!(text.matches(&format!("\"request_id\":\"{id}\"")).count(), 2, "{id}");
    }
    assert!(check(dir.path(), Some(audit.synced_head())).is_clean());
}

#[tokio::test]
async fn a_full_disk_fails_appends_leaves_no_trace_and_recovers() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    audit.append(record("before")).await.expect("is written");
    let size = fs::metadata(dir.path().join("audit.jsonl")).expect("exists").len();
    disk.set(|faults| faults.space = Some(100));
    assert!(matches!(refusal(&audit, "lost").await, AuditError::Unavailable("no space left")));
    assert_eq!(audit.status(), Status::Unavailable("no space left"));
    assert_eq!(fs::metadata(dir.path().join("audit.jsonl")).expect("exists").len(), size);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(audit.status(), Status::Unavailable("no space left"), "still full");
    disk.set(|faults| faults.space = None);
    wait_for_ok(&audit).await;
    audit.append(record("after")).await.expect("works again");
    audit.close().await.expect("closes");
    let report = check(dir.path(), Some(audit.synced_head()));
    assert!(report.is_clean() && report.records == 3, "{report:?}");
    assert_eq!(outcomes(dir.path()), ["RESUMED"]);
    assert!(!fs::read_to_string(dir.path().join("audit.jsonl")).expect("reads").contains("lost"));
    assert!(!audit.chain_broken());
}

#[tokio::test]
async fn a_full_disk_on_an_append_only_file_is_accounted_for_at_any_byte() {
    let mut runs = tokio::task::JoinSet::new();
    for space in (1..1300).step_by(43) {
        runs.spawn(fill_append_only_file(space));
    }
    let withdrawn: usize = runs.join_all().await.into_iter().sum();
    assert!(withdrawn > 0, "no batch was torn behind a whole line");
}

/// Lets the disk run full after `space` bytes of a batch; returns how many records had to be withdrawn.
async fn fill_append_only_file(space: usize) -> usize {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    audit.append(record("before")).await.expect("is written");
    disk.set(|faults| {
        faults.no_truncate = true;
        faults.stuck = true;
    });
    // The first blocks the writer so that the others make one batch.
    let tasks: Vec<_> = (0..4)
        .map(|number| {
            let audit = audit.clone();
            tokio::spawn(async move { audit.append(record(&format!("lost-{number}"))).await.is_ok() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    disk.set(|faults| {
        faults.space = Some(space);
        faults.stuck = false;
    });
    let mut confirmed = 0;
    for task in tasks {
        confirmed += u64::from(task.await.expect("no panic"));
    }
    // Once more while the closing of the torn bytes is written.
    tokio::time::sleep(Duration::from_millis(20)).await;
    disk.set(|faults| faults.space = Some(space % 300));
    tokio::time::sleep(Duration::from_millis(600)).await;
    disk.set(|faults| faults.space = None);
    wait_for_ok(&audit).await;
    audit.append(record("after")).await.expect("works again");
    audit.close().await.expect("closes");
    let report = check(dir.path(), Some(audit.synced_head()));
    assert!(report.is_clean(), "{space}: {report:?}");
    let text = fs::read_to_string(dir.path().join("audit.jsonl")).expect("reads");
    let genuine: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_lost =
        |line: &&serde_json::Value| line["request_id"].as_str().is_some_and(|id| id.starts_with("lost"));
    let written = genuine.iter().filter(of_lost).filter(|line| line["rpc"] != "audit").count() as u64;
    let taken_back: Vec<u64> = genuine
        .iter()
        .filter(|line| line["outcome"] == "WITHDRAWN")
        .filter_map(|line| line["of"].as_u64())
        .collect();
    assert_eq!(written, confirmed + taken_back.len() as u64, "{space}:\n{text}");
    for of in &taken_back {
        let line = genuine.iter().find(|line| line["seq"] == *of).expect("stands");
        assert_ne!(line["rpc"], "audit");
    }
    taken_back.len()
}

#[tokio::test]
async fn short_writes_are_completed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    disk.set(|faults| faults.most = Some(7));
    for _ in 0..3 {
        audit.append(record("r")).await.expect("is written");
    }
    audit.close().await.expect("closes");
    assert!(check(dir.path(), Some(audit.synced_head())).is_clean());
    assert!(audit.stats().writes > 30);
}

#[tokio::test]
async fn a_file_that_failed_an_fsync_is_never_synced_again() {
    for sync in [Sync::Second, Sync::Fsync] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let disk = Disk::default();
        let audit = disk.open(Settings { sync, ..settings(dir.path()) });
        audit.append(record("before")).await.expect("is written");
        audit.flush().await.expect("is flushed");
        disk.set(|faults| faults.no_sync = true);
        let result = audit.append(record("unsure")).await;
        assert_eq!(result.is_ok(), sync == Sync::Second);
        wait_for(|| audit.status() == Status::Unavailable("fsync failed"), "the fsync fails").await;
        refusal(&audit, "lost").await;
        assert_eq!(audit.synced_head().seq, 1);
        disk.set(|faults| faults.no_sync = false);
        wait_for_ok(&audit).await;
        audit.append(record("after")).await.expect("works again");
        audit.close().await.expect("closes");
        let report = check(dir.path(), Some(audit.synced_head()));
        assert!(report.is_clean() && report.files > 1, "{report:?}");
        assert!(!audit.chain_broken());
        // The first file: synced for `before`, failed once, never tried again.
        let first = disk.get(|faults| faults.synced.iter().filter(|number| **number == 1).count());
        assert_eq!(first, 2, "{sync:?}");
        let said = outcomes(dir.path());
        assert_eq!(said[0], "SYNC_FAILED");
        assert_eq!(said.contains(&"WITHDRAWN".to_owned()), sync == Sync::Fsync, "{said:?}");
    }
}

#[tokio::test]
async fn a_full_queue_rejects() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    disk.set(|faults| faults.stuck = true);
    let mut waiting = Vec::new();
    let mut full = false;
    for number in 0..70_000 {
        if number == 1 {
            // From here on the writer takes no records.
            wait_for(|| audit.stats().writes == 1, "the writer takes the first").await;
        }
        let mut append = Box::pin(audit.append(record("r")));
        let polled = std::future::poll_fn(|context| Poll::Ready(append.as_mut().poll(context))).await;
        match polled {
            Poll::Pending => waiting.push(append),
            Poll::Ready(Err(AuditError::QueueFull)) => {
                full = true;
                break;
            }
            Poll::Ready(other) => panic!("{other:?}"),
        }
    }
    assert!(full);
    drop(waiting);
    disk.set(|faults| faults.stuck = false);
    audit.flush().await.expect("the writer has taken everything");
    audit.append(record("after")).await.expect("works again");
    audit.close().await.expect("closes");
    assert!(check(dir.path(), Some(audit.synced_head())).is_clean());
    assert_eq!(audit.stats().failures, 1);
}

#[tokio::test]
async fn errors_show_no_content() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    disk.set(|faults| faults.space = Some(0));
    for _ in 0..2 {
        let error = refusal(&audit, "canary").await;
        assert!(!format!("{error} {error:?} {:?}", audit.status()).contains("canary"));
    }
}
