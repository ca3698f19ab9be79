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

/// The current-thread runtime, with the hook.
fn one_thread() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.on_thread_park(crate::before_park).enable_all().build().expect("a runtime")
}

/// The runtimes that the server uses, with the hook.
fn runtimes() -> [tokio::runtime::Runtime; 2] {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).on_thread_park(crate::before_park);
    [one_thread(), builder.enable_all().build().expect("a runtime")]
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

/// Runs rounds until 19 of the last 20 needed one write. A busy machine spoils some: it preempts the thread within a round, or
/// the writer before it waits. The log may also have checked its file by itself.
async fn share_a_write(audit: &Audit, mut round: impl AsyncFnMut()) {
    let mut writes = Vec::new();
    while writes.iter().rev().take(20).filter(|writes| **writes == 1).count() < 19 {
        assert!(writes.len() < 2_000, "{writes:?}");
        // The writer waits after this; before, it takes records without a wake-up. And after its first park, the thread is
        // known to call the hook.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let before = audit.stats().writes;
        round().await;
        writes.push(audit.stats().writes - before);
    }
}

#[test]
fn records_of_all_ready_tasks_share_a_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    one_thread().block_on(async {
        share_a_write(&audit, async || append_at_once(&audit, 50).await).await;
        audit.close().await.expect("closes");
    });
    assert_eq!(check(dir.path(), None).records, audit.stats().records);
}

#[test]
fn records_of_tasks_that_the_sockets_make_ready_share_the_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit = open(dir.path(), None);
    one_thread().block_on(async {
        let round = async || {
            let mut tasks = tokio::task::JoinSet::new();
            let (asked, mut asks) = tokio::net::UnixStream::pair().expect("a pair of sockets");
            let of_socket = audit.clone();
            tasks.spawn(async move {
                asked.readable().await.expect("it is");
                of_socket.append(record("of a socket")).await
            });
            // It waits by now, and becomes ready when the runtime polls its sockets.
            tokio::task::yield_now().await;
            tokio::io::AsyncWriteExt::write_all(&mut asks, b"!").await.expect("room for a byte");
            for number in 0..2 {
                let audit = audit.clone();
                tasks.spawn(async move { audit.append(record(&format!("r-{number}"))).await });
            }
            while let Some(result) = tasks.join_next().await {
                result.expect("no panic").expect("is written");
            }
        };
        share_a_write(&audit, round).await;
        audit.close().await.expect("closes");
    });
    assert!(check(dir.path(), None).is_clean());
}

#[test]
fn on_every_runtime_a_busy_thread_has_its_records_written_soon() {
    for runtime in runtimes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let audit = open(dir.path(), None);
        runtime.block_on(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let busy: Vec<_> = (0..2)
                .map(|_| {
                    tokio::spawn(async {
                        loop {
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            // The log checks by itself after 700 ms or a second; on a busy machine a record may wait for that now and then.
            let mut took = Vec::new();
            while took.iter().filter(|took| **took < Duration::from_millis(350)).count() < 5 {
                assert!(took.len() < 20, "{took:?}");
                let (audit, begun) = (audit.clone(), Instant::now());
                let id = format!("r-{}", took.len());
                let append = tokio::spawn(async move { audit.append(record(&id)).await });
                append.await.expect("no panic").expect("is written");
                took.push(begun.elapsed());
            }
            busy.iter().for_each(tokio::task::JoinHandle::abort);
            // A record whose caller leaves at once is withdrawn, unless it was written before.
            let mut tries = 0..10;
            let leave = || {
                let audit = audit.clone();
                tokio::spawn(async move { at_once(audit.append(record("left"))).await.is_none() })
            };
            while !leave().await.expect("no panic") {
                tries.next().expect("it waits for the log at first");
            }
            audit.append(record("last")).await.expect("is written");
            audit.close().await.expect("closes");
        });
        assert!(check(dir.path(), None).is_clean());
    }
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
    let audit =
        Audit::open(Settings { max_bytes: 2000, ..settings(dir.path()) }, key(1), None).expect("opens");
    for number in 0..40 {
        audit.append(record(&format!("r-{number}"))).await.expect("is written");
    }
    audit.close().await.expect("closes");
    let names = crate::disk::retired_files(dir.path()).expect("lists");
    assert!(names.len() > 4 && names[0] == 1, "{names:?}");
    for seq in &names {
        let file = fs::read_to_string(dir.path().join(crate::disk::retired_name(*seq))).expect("reads");
        assert!(file.starts_with(&format!("{{\"seq\":{seq},")) && file.len() <= 2000 && file.ends_with('\n'));
    }
    let head = audit.synced_head();
    let report = check(dir.path(), Some(head));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.records, report.files), (40, names.len() as u64 + 1));

    fs::remove_file(dir.path().join(crate::disk::retired_name(names[1]))).expect("removes");
    let gone = ProblemKind::Missing { first: names[1], last: names[2] - 1 };
    assert_eq!(kinds(&check(dir.path(), Some(head))), [gone]);
}

#[tokio::test]
async fn a_log_is_verified_while_it_is_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let audit =
        Audit::open(Settings { max_bytes: 20_000, ..settings(dir.path()) }, key(1), None).expect("opens");
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
    let error = Audit::open(settings(dir.path()), key(1), None).expect_err("is in use");
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
