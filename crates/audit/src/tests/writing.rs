//! Writing without faults.

use super::*;
use crate::testing::{Disk, settings};
use crate::{Settings, Sync};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_records_are_all_there() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..200 {
        let audit = audit.clone();
        tasks.spawn(async move {
            for number in 0..50 {
                audit.append(record(&format!("{task}-{number}"))).await.expect("is written");
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic");
    }
    audit.close().await.expect("closes");
    let stats = audit.stats();
    assert_eq!((stats.records, stats.failures), (10_000, 0));
    let report = check(dir.path(), Some(audit.synced_head()));
    assert!(report.is_clean() && report.records == 10_000, "{report:?}");
    let text = fs::read_to_string(dir.path().join("audit.jsonl")).expect("reads");
    for task in 0..200 {
        assert_eq!(text.matches(&format!("\"request_id\":\"{task}-")).count(), 50);
    }
}

/// Appends one record from each of so many tasks.
async fn append_at_once(audit: &Audit, count: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        let audit = audit.clone();
        tasks.spawn(async move { audit.append(record(&format!("r-{number}"))).await });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic").expect("is written");
    }
}

/// On one processor, on which the writer runs as soon as it is woken. A busy machine spoils some rounds: another process runs
/// when the writer lets the callers run. The log may also have checked its file by itself.
#[test]
fn records_of_all_ready_tasks_share_a_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // In a thread of its own, which the writer's thread takes its processor from.
    let rounds = std::thread::spawn(move || {
        on_one_processor();
        let audit = open(dir.path(), None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut writes = Vec::new();
            while writes.iter().rev().take(20).filter(|writes| **writes == 1).count() < 15 {
                assert!(writes.len() < 2_000, "{writes:?}");
                let before = audit.stats().writes;
                append_at_once(&audit, 50).await;
                writes.push(audit.stats().writes - before);
            }
            audit.close().await.expect("closes");
        });
        assert_eq!(check(dir.path(), None).records, audit.stats().records);
    });
    rounds.join().expect("no panic");
}

/// Keeps this thread, and threads that it starts, on the first processor that it may use.
fn on_one_processor() {
    let allowed = rustix::thread::sched_getaffinity(None).expect("it is known");
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|number| allowed.is_set(*number)).expect("one");
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    rustix::thread::sched_setaffinity(None, &one).expect("it is allowed");
}

/// One thread, so that every task has queued its record before the disk continues.
#[tokio::test]
async fn records_that_come_during_a_write_share_the_next_one() {
    const RECORDS: u64 = 1_000;
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    disk.set(|faults| faults.stuck = true);
    let mut tasks = tokio::task::JoinSet::new();
    let handed_in = Arc::new(AtomicU64::new(0));
    let append = |number| {
        let (audit, handed_in) = (audit.clone(), Arc::clone(&handed_in));
        async move {
            // Appended records are queued before the task first waits.
            handed_in.fetch_add(1, Ordering::Relaxed);
            audit.append(record(&format!("r-{number}"))).await
        }
    };
    tasks.spawn(append(0));
    while audit.stats().writes == 0 {
        tokio::task::yield_now().await;
    }
    for number in 1..=RECORDS {
        tasks.spawn(append(number));
    }
    while handed_in.load(Ordering::Relaxed) <= RECORDS {
        tokio::task::yield_now().await;
    }
    disk.set(|faults| faults.stuck = false);
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic").expect("is written");
    }
    let stats = audit.stats();
    assert_eq!((stats.records, stats.writes, stats.failures), (RECORDS + 1, 2, 0));
}

#[tokio::test]
async fn the_disk_starts_to_write_many_bytes_before_their_fsync() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    audit.append(record("a few bytes")).await.expect("is written");
    audit.flush().await.expect("is on disk");
    assert!(disk.get(|faults| faults.started.is_empty()));
    let few = fs::metadata(dir.path().join("audit.jsonl")).expect("exists").len();
    append_at_once(&audit, 4_000).await;
    let all = fs::metadata(dir.path().join("audit.jsonl")).expect("exists").len();
    let started = disk.get(|faults| faults.started.clone());
    assert!(!started.is_empty());
    assert!(started.iter().all(|bytes| bytes.end - bytes.start >= 256 << 10), "{started:?}");
    // One after the other, from what is on disk on; less than is much is left. (It fsyncs by itself where this took long.)
    if audit.stats().fsyncs == 1 {
        assert_eq!(started.first().map(|first| first.start), Some(few));
        assert!(started.windows(2).all(|pair| pair[0].end == pair[1].start), "{started:?}");
        assert!(started.last().is_some_and(|last| all - last.end < 256 << 10), "{started:?} of {all}");
    }
    audit.close().await.expect("closes");
}

#[tokio::test]
async fn a_record_is_in_the_file_when_append_returns_and_on_disk_within_a_second() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    audit.append(record("r")).await.expect("is written");
    assert_eq!(lines(dir.path()).len(), 1);
    let (pace, started) = (Pace::start(), Instant::now());
    wait_for(|| audit.synced_head().seq == 1, "it is on disk").await;
    let (took, lost) = (started.elapsed(), pace.lost() + disk.get(|faults| faults.syncing));
    assert!(took < Duration::from_secs(1) + lost, "{took:?}, {lost:?} of it lost");
    assert_eq!(audit.stats().fsyncs, 1);
}

#[tokio::test]
async fn the_synced_head_is_never_ahead_of_the_disk() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(settings(dir.path()));
    audit.append(record("r")).await.expect("is written");
    // The head before the disk: on a busy machine the log may fsync by itself meanwhile.
    let head = audit.synced_head();
    assert!(head == AuditHead::default() || disk.get(|faults| !faults.synced.is_empty()), "{head:?}");
    audit.flush().await.expect("is flushed");
    assert_eq!(audit.synced_head().seq, 1);
    assert_eq!(audit.stats().fsyncs, 1);
    audit.flush().await.expect("nothing to do");
    assert_eq!(audit.stats().fsyncs, 1);
}

#[tokio::test]
async fn with_fsync_a_record_is_on_disk_when_append_returns() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = Disk::default();
    let audit = disk.open(Settings { sync: Sync::Fsync, ..settings(dir.path()) });
    for seq in 1..=3 {
        audit.append(record("r")).await.expect("is written");
        assert_eq!(audit.synced_head().seq, seq);
    }
    assert_eq!(disk.get(|faults| faults.synced.len()), 3);
}

#[tokio::test]
async fn files_rotate_by_size_and_the_chain_continues() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = Audit::open(Settings { max_bytes: 2000, ..settings(dir.path()) }, key(1), HeadRow::NotYet)
        .expect("opens");
    for number in 0..40 {
        audit.append(record(&format!("r-{number}"))).await.expect("is written");
    }
    audit.close().await.expect("closes");
    let names = crate::disk::retired_files(dir.path()).expect("lists");
    assert!(names.len() > 4 && names[0].first_seq == 1, "{names:?}");
    for seq in &names {
        let file = fs::read_to_string(dir.path().join(seq.name())).expect("reads");
        assert!(
            file.starts_with(&format!("{{\"seq\":{},", seq.first_seq))
                && file.len() <= 2000
                && file.ends_with('\n')
        );
    }
    let head = audit.synced_head();
    let report = check(dir.path(), Some(head));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.records, report.files), (40, names.len() as u64 + 1));

    fs::remove_file(dir.path().join(names[1].name())).expect("removes");
    let removed = ProblemKind::Missing { first: names[1].first_seq, last: names[2].first_seq - 1 };
    assert_eq!(kinds(&check(dir.path(), Some(head))), [removed]);
}

#[tokio::test]
async fn a_log_is_verified_while_it_is_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = Audit::open(Settings { max_bytes: 20_000, ..settings(dir.path()) }, key(1), HeadRow::NotYet)
        .expect("opens");
    let writer = tokio::spawn({
        let audit = audit.clone();
        async move {
            for number in 0..3000 {
                audit.append(record(&format!("r-{number}"))).await.expect("is written");
            }
        }
    });
    let mut runs = 0;
    while !writer.is_finished() || runs == 0 {
        audit.flush().await.expect("is flushed");
        let (path, head) = (dir.path().to_owned(), audit.synced_head());
        let report = tokio::task::spawn_blocking(move || check(&path, Some(head))).await.expect("no panic");
        assert!(report.is_clean(), "{report:?}");
        runs += 1;
    }
    writer.await.expect("no panic");
}

#[tokio::test]
async fn two_writers_do_not_share_a_log() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = open(dir.path(), None);
    let error = Audit::open(settings(dir.path()), key(1), HeadRow::NotYet).expect_err("is in use");
    assert!(matches!(error, AuditError::InUse));
    drop(first);
    open(dir.path(), None);
}

#[tokio::test]
async fn closing_writes_the_queue_and_rejects_new_records() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = Arc::new(open(dir.path(), None));
    let waiting: Vec<_> = (0..100)
        .map(|number| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move { audit.append(record(&format!("r-{number}"))).await.is_ok() })
        })
        .collect();
    tokio::task::yield_now().await;
    audit.close().await.expect("closes");
    assert!(matches!(audit.append(record("late")).await, Err(AuditError::Closed)));
    assert!(matches!(audit.status(), Status::Unavailable("writer stopped")));
    let mut written = 0;
    for task in waiting {
        written += u64::from(task.await.expect("no panic"));
    }
    let report = check(dir.path(), Some(audit.synced_head()));
    assert!(report.is_clean() && report.records == written && written > 0, "{report:?}");
    audit.close().await.expect("may be closed again");
}

#[tokio::test]
async fn dropping_the_last_handle_closes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    audit.append(record("r")).await.expect("is written");
    drop(audit.clone());
    audit.append(record("r")).await.expect("still open");
    drop(audit);
    let again = open(dir.path(), None);
    assert_eq!(again.synced_head().seq, 2);
}
