//! Batcher for writes (group commit): one thread, one transaction per batch.
//!
//! Callers queue jobs and wait. The thread takes the jobs that are queued (one at least, [`BATCH`] at most), runs each
//! job in a savepoint of one `IMMEDIATE` transaction, commits once, which is one fsync, and only then completes them
//! all. While it syncs, the next batch gathers: the disk sets the size of a batch, and no job waits for a timer.
//!
//! * A job that fails is rolled back to its savepoint alone, and a panic in it is such a failure.
//! * When the transaction cannot be committed, all of its jobs fail and none has an effect.
//! * While one of the database's files is missing, replaced or truncated ([`Watch`]), nothing is written, because a write
//!   would be lost with the file. The content of the log is saved at once: it is put back if the log was truncated, and
//!   copied into the database. A database that was removed is written again when the store is closed.
//! * When the disk fails, the engine is *broken*: it writes and checkpoints nothing until it is opened again, because
//!   an fsync that failed once may report success the second time. The jobs of such a commit get `OutcomeUnknown`,
//!   since the log may already have their pages.
//!
//! Checkpoints run on this thread, after the results are sent. SQLite's automatic checkpoints are off, because SQLite
//! does not report their errors. A second after ciphertext was destroyed, the log is emptied, so that no copy stays
//! there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB};
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

#[cfg(any(test, feature = "faults"))]
use super::fault::Faults;
use super::tx::{Tx, is_disk_failure};
use super::watch::{Change, LogCopy, Watch};
use super::{inspect, rescue};
use agentrouter_store::{Lock, Stats, StoreError};

/// Most jobs in one transaction.
const BATCH: usize = 256;
/// Most jobs in the queue. Further callers wait for a permit.
const QUEUE: usize = 1024;
/// A checkpoint runs when the log has this many pages (of 4 KiB). A longer log copies a page once that was changed
/// several times. But after a crash, the next start has to read the log.
const CHECKPOINT_PAGES: i32 = 2000;
/// How often the files are looked at while there is nothing to do.
const TICK: Duration = Duration::from_millis(500);
/// After how many ticks with nothing to do the log is emptied, if ciphertext was destroyed.
const SETTLE_TICKS: u32 = 2;
/// How long emptying the log waits for readers.
const READERS: Duration = Duration::from_millis(100);

const CLOSED: StoreError = StoreError::unavailable("it is closed");
const BROKEN: StoreError = StoreError::unavailable("the disk failed before; restart the server");
const BROKEN_READ_ONLY: StoreError = StoreError::unavailable(
    "the file system of the database is read-only; make it writable and restart the server",
);

/// What the thread and the handle share.
#[derive(Debug, Default)]
pub(super) struct State {
    broken: AtomicBool,
    /// The number of batches in which pages could not be read.
    pub(super) unreadable: AtomicU64,
    commits: AtomicU64,
    writes: AtomicU64,
    #[cfg(any(test, feature = "faults"))]
    pub(super) faults: Faults,
}

/// The handle of the writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    permits: Arc<Semaphore>,
    pub(super) state: Arc<State>,
    thread: Mutex<Option<(JoinHandle<()>, oneshot::Receiver<()>)>>,
}

impl Writer {
    /// Starts the thread on a connection from [`open_writer`](super::file::open_writer). The lock is released when
    /// the thread has ended.
    pub(super) fn start(conn: Connection, watch: Arc<Watch>, lock: Lock) -> Result<Self, StoreError> {
        let (queue, inbox) = mpsc::channel();
        let (done, ended) = oneshot::channel();
        let state = Arc::new(State::default());
        let opening = |error| StoreError::open("its settings cannot be read", error);
        let page = conn.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0)).map_err(opening)?;
        let mut worker = Worker {
            conn,
            state: Arc::clone(&state),
            completions: completions(),
            unsettled: false,
            database: watch.database_size(),
            log: LogCopy::new(page.into()),
            watch,
            cut: None,
            found: None,
            waiting: 0,
        };
        // What an earlier process left in the log.
        worker.copy_log();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                worker.run(&inbox);
                drop(lock);
                let _ = done.send(());
            })
            .map_err(|error| StoreError::open("its thread cannot be started", error))?;
        let permits = Arc::new(Semaphore::new(QUEUE));
        Ok(Self { queue, permits, state, thread: Mutex::new(Some((thread, ended))) })
    }

    /// Runs `write` in a transaction, and returns its result after the commit. Once queued, the write runs to
    /// completion, also when this future is dropped.
    pub(super) async fn submit<T, E>(
        &self,
        write: impl FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| CLOSED)?;
        let (reply, result) = oneshot::channel();
        let work = Work { write: Some(write), result: None, reply: Some(reply), _permit: permit };
        self.queue.send(Message::Job(Box::new(work))).map_err(|_| CLOSED)?;
        result.await.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown { source: None }.into()))
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            commits: self.state.commits.load(Ordering::Relaxed),
            writes: self.state.writes.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }

    /// Closes the queue, writes the queued jobs, empties the log and ends the thread. A second call does nothing.
    pub(super) async fn close(&self) {
        if let Some((thread, ended)) = self.stop() {
            let _ = ended.await;
            let _ = thread.join();
        }
    }

    fn stop(&self) -> Option<(JoinHandle<()>, oneshot::Receiver<()>)> {
        self.permits.close();
        let _ = self.queue.send(Message::Stop);
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Dropping closes the writer too, blocking, so that the store can be opened again at once.
impl Drop for Writer {
    fn drop(&mut self) {
        if let Some((thread, _)) = self.stop()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

enum Message {
    Job(Box<dyn Job>),
    Stop,
}

/// One write, with the type of its result erased.
trait Job: Send {
    /// Runs the write. Returns true to release its savepoint, false to roll it back.
    fn run(&mut self, tx: &Tx<'_>) -> bool;
    /// Sends the caller the result: the write's own if the batch was committed or the write failed by itself.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Work<F, T, E: From<StoreError>> {
    write: Option<F>,
    result: Option<Result<T, E>>,
    reply: Option<oneshot::Sender<Result<T, E>>>,
    _permit: OwnedSemaphorePermit,
}

impl<F, T, E> Job for Work<F, T, E>
where
    F: FnOnce(&Tx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> bool {
        let Some(write) = self.write.take() else { return false };
        let result = catch_unwind(AssertUnwindSafe(|| write(tx)))
            .unwrap_or_else(|_| Err(StoreError::unavailable("the write failed inside the program").into()));
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn finish(mut self: Box<Self>, outcome: Result<(), StoreError>) {
        let result = match (self.result.take(), outcome) {
            (Some(Err(own)), _) => Err(own),
            (_, Err(error)) => Err(error.into()),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(CLOSED.into()),
        };
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }
}

/// A job that never ran had no effect. Its caller gets an error that says so.
impl<F, T, E: From<StoreError>> Drop for Work<F, T, E> {
    fn drop(&mut self) {
        if let (Some(_), Some(reply)) = (&self.write, self.reply.take()) {
            let _ = reply.send(Err(CLOSED.into()));
        }
    }
}

/// The jobs of a batch and its outcome, to be sent to their callers.
struct Completed {
    jobs: Vec<Box<dyn Job>>,
    outcome: Result<(), StoreError>,
}

impl Completed {
    fn send(self) {
        for job in self.jobs {
            job.finish(self.outcome.clone());
        }
    }
}

/// Starts a task of the current runtime, if there is one, that sends results. A wake-up from another thread costs a
/// system call, and on one processor two context switches. A wake-up from a thread of the runtime is cheap. So the
/// writer wakes this task once for each batch, and the task wakes the callers.
fn completions() -> Option<UnboundedSender<Completed>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    let (send, mut receive) = unbounded_channel::<Completed>();
    runtime.spawn(async move {
        while let Some(completed) = receive.recv().await {
            completed.send();
        }
    });
    Some(send)
}

struct Worker {
    conn: Connection,
    state: Arc<State>,
    completions: Option<UnboundedSender<Completed>>,
    /// Whether the log may hold ciphertext that was destroyed.
    unsettled: bool,
    watch: Arc<Watch>,
    /// The size of the database after the last checkpoint.
    database: u64,
    /// The content of the log.
    log: LogCopy,
    /// The truncation of a file. It lasts until the store is opened again.
    cut: Option<Change>,
    /// The last finding about the files, which was logged.
    found: Option<Change>,
    /// The pages of the log that are not in the database yet.
    waiting: i32,
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Message>) {
        let mut idle = 0;
        loop {
            let first = match inbox.recv_timeout(TICK) {
                Err(RecvTimeoutError::Timeout) => {
                    idle += 1;
                    self.look();
                    if self.unsettled && idle >= SETTLE_TICKS {
                        self.empty_log();
                    }
                    continue;
                }
                other => other.ok(),
            };
            idle = 0;
            // Lets callers that share this processor and have a job ready queue it first. Without this, the thread
            // takes the first job alone and commits the others in a second batch. With no such caller, the cost is one
            // system call.
            std::thread::yield_now();
            let mut jobs = Vec::new();
            let mut stop = !matches!(first, Some(Message::Job(_)));
            let more = std::iter::from_fn(|| inbox.try_recv().ok());
            for message in first.into_iter().chain(more.take(BATCH - 1)) {
                match message {
                    Message::Job(job) => jobs.push(job),
                    Message::Stop => stop = true,
                }
            }
            self.guarded(jobs);
            if stop {
                break;
            }
        }
        // Jobs that were queued before the queue was closed.
        loop {
            let rest = std::iter::from_fn(|| inbox.try_recv().ok()).take(BATCH);
            let jobs: Vec<_> = rest
                .filter_map(|message| match message {
                    Message::Job(job) => Some(job),
                    Message::Stop => None,
                })
                .collect();
            if jobs.is_empty() {
                break;
            }
            self.guarded(jobs);
        }
        self.look();
        self.empty_log();
        self.rescue();
    }

    /// Looks at the files. When one was changed, saves the content of the log.
    fn look(&mut self) {
        let found = self.watch.writable().and_then(|()| self.examine());
        self.note(found.err());
    }

    /// Compares the files with what the writer left.
    fn examine(&mut self) -> Result<(), Change> {
        if let Some(cut) = self.cut {
            return Err(cut);
        }
        self.watch.look(self.database, self.log.size())?;
        if self.log.is_in(&self.watch) { Ok(()) } else { Err(Change::LogCut) }
    }

    /// Logs a new finding about the files, and saves the content of the log.
    fn note(&mut self, found: Option<Change>) {
        if let Some(cut @ (Change::LogCut | Change::DatabaseCut)) = found {
            self.cut = Some(cut);
        }
        if found == self.found {
            return;
        }
        self.found = found;
        match found {
            Some(Change::ReadOnly) => {
                tracing::error!("writes are refused: {}", Change::ReadOnly.reason());
            }
            Some(change) => {
                tracing::error!("writes are refused: {}", change.reason());
                self.save(change);
            }
            None => tracing::info!("the database's files are in their place again: writes are accepted"),
        }
    }

    /// Puts back the content that the log has lost, and copies the log into the database. Works on the open files, wherever
    /// they are now.
    fn save(&mut self, change: Change) {
        if self.state.broken.load(Ordering::SeqCst) {
            return;
        }
        if !self.log.is_in(&self.watch) {
            if let Err(error) = self.log.put_back(&self.watch) {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the content of the database's log could not be put back");
                return;
            }
            tracing::warn!("the content of the database's log was put back");
        }
        if !self.checkpoint_as(CheckpointMode::PASSIVE) {
            tracing::error!("the database's log could not be copied into the database");
        } else if change == Change::DatabaseCut {
            match inspect::is_whole(&self.conn) {
                Ok(()) => tracing::warn!("all pages of the database were in its log, and are in it again"),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "pages of the database are lost");
                }
            }
        } else {
            tracing::warn!("every acknowledged write is in the database file");
        }
    }

    /// Copies what a commit added to the log. False if another program truncated the log meanwhile.
    fn copy_log(&mut self) -> bool {
        let Ok((frames, copied)) = self.conn.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::NOOP) else {
            return true;
        };
        self.waiting = frames - copied;
        self.log.follow(&self.watch, u64::try_from(frames).unwrap_or_default())
    }

    /// Writes a database that was removed again, from the file that is still open: to its path if that is free, else
    /// beside it.
    fn rescue(&mut self) {
        if self.state.broken.load(Ordering::SeqCst) || !self.watch.is_removed() {
            return;
        }
        let Some(path) = self.conn.path().map(PathBuf::from) else { return };
        // Otherwise the log, which may still be at its path, would be taken for the new file's.
        let is_empty = self.checkpoint_as(CheckpointMode::TRUNCATE);
        match rescue::write(&self.conn, &path, is_empty) {
            Ok(path) => tracing::warn!("the database that was removed is written again: {}", path.display()),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the database that was removed could not be written again");
            }
        }
    }

    /// Runs a batch. A panic outside of any job is a defect here, after which nothing more is written.
    fn guarded(&mut self, jobs: Vec<Box<dyn Job>>) {
        if jobs.is_empty() {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| self.batch(jobs))).is_err() {
            self.state.broken.store(true, Ordering::SeqCst);
            if !self.conn.is_autocommit() {
                let _ = self.conn.execute_batch("ROLLBACK");
            }
        }
    }

    fn batch(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let outcome = if self.state.broken.load(Ordering::SeqCst) {
            Err(if self.watch.writable().is_ok() { BROKEN } else { BROKEN_READ_ONLY })
        } else if let Err(change) = self.refused() {
            Err(StoreError::unavailable(change.reason()))
        } else {
            #[cfg(not(any(test, feature = "faults")))]
            let tx = Tx::new(&self.conn);
            #[cfg(any(test, feature = "faults"))]
            let tx = Tx::new(&self.conn, &self.state.faults);
            let outcome = transact(&tx, &mut jobs);
            if tx.disk_failed() {
                self.state.broken.store(true, Ordering::SeqCst);
            }
            self.unsettled |= tx.has_destroyed();
            if tx.is_unreadable() {
                self.state.unreadable.fetch_add(1, Ordering::SeqCst);
                // The next batch reads the pages again.
                let _ = self.conn.release_memory();
            }
            match outcome {
                // Another program truncated the log while the commit wrote it.
                Ok(1..) if !self.copy_log() => {
                    self.note(Some(Change::LogCut));
                    Err(StoreError::OutcomeUnknown { source: None })
                }
                outcome => outcome,
            }
        };
        if let Ok(kept @ 1..) = outcome {
            self.state.commits.fetch_add(1, Ordering::Relaxed);
            self.state.writes.fetch_add(kept, Ordering::Relaxed);
        }
        self.complete(Completed { jobs, outcome: outcome.map(|_| ()) });
        self.checkpoint();
    }

    /// Why no batch may be written now.
    fn refused(&mut self) -> Result<(), Change> {
        // A read-only file system is looked for between batches, as it changes no file.
        let found = match self.found {
            Some(Change::ReadOnly) => self.watch.writable(),
            _ => Ok(()),
        };
        let found = found.and_then(|()| match self.cut {
            Some(cut) => Err(cut),
            None => self.watch.look(self.database, self.log.size()),
        });
        self.note(found.err());
        found
    }

    fn complete(&self, completed: Completed) {
        match &self.completions {
            // The task may have ended with its runtime.
            Some(task) if completed.jobs.len() > 1 => {
                if let Err(SendError(completed)) = task.send(completed) {
                    completed.send();
                }
            }
            _ => completed.send(),
        }
    }

    /// Runs a checkpoint when the log has grown, as far as readers allow.
    fn checkpoint(&mut self) {
        if self.waiting >= CHECKPOINT_PAGES && self.found.is_none() {
            self.checkpoint_as(CheckpointMode::PASSIVE);
        }
    }

    /// Runs a checkpoint and empties the log.
    fn empty_log(&mut self) {
        if self.found.is_some() {
            return;
        }
        let _ = self.conn.busy_timeout(READERS);
        self.unsettled = !self.checkpoint_as(CheckpointMode::TRUNCATE) && self.unsettled;
        let _ = self.conn.busy_timeout(super::file::BUSY);
    }

    /// Whether the checkpoint was complete, or can never be.
    fn checkpoint_as(&mut self, mode: CheckpointMode) -> bool {
        if self.state.broken.load(Ordering::SeqCst) {
            return true;
        }
        // A checkpoint of a log that lacks content would destroy the database.
        if !self.log.is_complete() || !self.log.is_in(&self.watch) {
            return false;
        }
        match self.conn.wal_checkpoint_v2(Some(MAIN_DB), mode) {
            Ok((frames, copied)) => {
                self.waiting = frames - copied;
                if self.found.is_none() {
                    self.database = self.database.max(self.watch.database_size());
                }
                if matches!(mode, CheckpointMode::TRUNCATE) {
                    self.log.clear();
                }
                true
            }
            Err(error) if is_disk_failure(&error) => {
                self.state.broken.store(true, Ordering::SeqCst);
                true
            }
            // A reader blocks it, or the disk is full. The log stays as it is for the next checkpoint.
            Err(_) => false,
        }
    }
}

/// Runs the jobs in one transaction and commits those that did not fail. Returns how many.
fn transact(tx: &Tx<'_>, jobs: &mut [Box<dyn Job>]) -> Result<u64, StoreError> {
    tx.control("BEGIN IMMEDIATE")?;
    let kept = run_all(tx, jobs).and_then(|kept| {
        if kept == 0 {
            return Ok(0);
        }
        match tx.control("COMMIT") {
            Ok(()) => Ok(kept),
            Err(StoreError::Unavailable { source, .. }) if tx.disk_failed() => {
                Err(StoreError::OutcomeUnknown { source })
            }
            Err(error) => Err(error),
        }
    });
    if tx.is_open() {
        // If the rollback fails, so does the batch: the connection would hold the transaction open.
        tx.control("ROLLBACK")?;
    }
    kept
}

fn run_all(tx: &Tx<'_>, jobs: &mut [Box<dyn Job>]) -> Result<u64, StoreError> {
    let mut kept = 0;
    for job in jobs {
        tx.control("SAVEPOINT job")?;
        if job.run(tx) {
            tx.control("RELEASE job")?;
            kept += 1;
        } else if tx.is_open() {
            tx.control("ROLLBACK TO job")?;
            tx.control("RELEASE job")?;
        } else {
            // SQLite gave up the whole transaction, and the jobs before this one with it.
            return Err(StoreError::unavailable("another write in the same transaction failed"));
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use agentrouter_model::SystemClock;

    use super::*;
    use crate::fault::Fault;

    fn writer(dir: &tempfile::TempDir) -> Writer {
        let path = dir.path().join("s.db");
        let lock = Lock::take(&path, &SystemClock).expect("free");
        let conn = crate::file::open_writer(&path).expect("opened");
        Writer::start(conn, Arc::new(Watch::of(&path).expect("there")), lock).expect("started")
    }

    fn turn(tx: &Tx<'_>) -> Result<i64, StoreError> {
        tx.execute(crate::sql::PROBE, ())?;
        let turn = tx
            .first("SELECT turn FROM probe WHERE only = 1", (), |row| crate::rows::integer(row, 0, "turn"))?;
        Ok(turn.expect("one row"))
    }

    #[tokio::test]
    async fn writes_that_queue_up_share_a_commit() {
        let dir = tempfile::tempdir().expect("a directory");
        let writer = Arc::new(writer(&dir));
        let (open, gate) = mpsc::channel::<()>();
        let write = |write: fn(&Tx<'_>) -> Result<i64, StoreError>| {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.submit(write).await })
        };
        let held = {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.submit(move |_| gate.recv().map_err(|_| CLOSED)).await })
        };
        let writes: Vec<_> = (0..200).map(|_| write(turn)).collect();
        while writer.permits.available_permits() > QUEUE - 201 {
            tokio::task::yield_now().await;
        }
        open.send(()).expect("the writer waits");
        held.await.expect("no panic").expect("written");
        let mut turns = Vec::new();
        for write in writes {
            turns.push(write.await.expect("no panic").expect("written"));
        }
        turns.sort_unstable();
        assert_eq!(turns, (1..=200).collect::<Vec<_>>());
        let Stats { commits, writes, .. } = writer.stats();
        assert_eq!(writes, 201);
        assert!(commits <= 3, "{commits} commits");
    }

    #[tokio::test]
    async fn a_job_that_fails_or_panics_fails_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let writer = writer(&dir);
        let (open, gate) = mpsc::channel::<()>();
        let hold = writer.submit(move |_| gate.recv().map_err(|_| CLOSED));
        let good = writer.submit(turn);
        let bad = writer.submit(|tx| turn(tx).and(Err::<(), _>(CLOSED)));
        let ugly = writer.submit(|tx| -> Result<(), StoreError> {
            turn(tx)?;
            panic!("on purpose")
        });
        let last = writer.submit(turn);
        let open = async { open.send(()) };
        let (_, good, bad, ugly, last, _) = tokio::join!(hold, good, bad, ugly, last, open);
        assert_eq!(good.expect("kept"), 1);
        assert!(bad.is_err() && ugly.is_err());
        assert_eq!(last.expect("kept"), 2, "the two between left no trace");
        assert!(writer.stats().commits <= 2);
    }

    #[tokio::test]
    async fn writes_succeed_again_after_a_full_disk_and_not_after_a_failed_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let writer = writer(&dir);
        let commit = 5; // begin, savepoint, update, release, commit
        writer.state.faults.fail_at(commit, Fault::Full);
        let full = writer.submit(turn).await;
        assert!(matches!(full, Err(StoreError::Unavailable { reason: "the disk is full", .. })), "{full:?}");
        assert_eq!(writer.submit(turn).await.expect("space again"), 1);

        writer.state.faults.fail_at(commit, Fault::Io);
        assert!(matches!(writer.submit(turn).await, Err(StoreError::OutcomeUnknown { .. })));
        for _ in 0..3 {
            let refused = writer.submit(turn).await;
            assert!(matches!(refused, Err(StoreError::Unavailable { source: None, .. })), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_write_of_a_disconnected_caller_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let writer = writer(&dir);
        let (open, gate) = mpsc::channel::<()>();
        {
            let write = writer.submit(move |tx| {
                let _ = gate.recv();
                turn(tx)
            });
            let mut write = Box::pin(write);
            tokio::select! {
                biased;
                _ = &mut write => panic!("the gate is shut"),
                () = tokio::task::yield_now() => {}
            }
        }
        open.send(()).expect("it waits still");
        assert_eq!(writer.submit(turn).await.expect("written"), 2);
    }

    #[tokio::test]
    async fn closing_writes_what_is_queued_and_refuses_what_comes_after() {
        let dir = tempfile::tempdir().expect("a directory");
        let writer = Arc::new(writer(&dir));
        let (open, gate) = mpsc::channel::<()>();
        let held = tokio::spawn({
            let writer = Arc::clone(&writer);
            async move { writer.submit(move |tx| gate.recv().map_err(|_| CLOSED).and_then(|()| turn(tx))).await }
        });
        while writer.permits.available_permits() == QUEUE {
            tokio::task::yield_now().await;
        }
        let closing = tokio::spawn({
            let writer = Arc::clone(&writer);
            async move { writer.close().await }
        });
        while !writer.permits.is_closed() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(writer.submit(turn).await, Err(StoreError::Unavailable { .. })));
        open.send(()).expect("it waits");
        assert_eq!(held.await.expect("no panic").expect("written"), 1);
        closing.await.expect("no panic");
        let log = std::fs::metadata(dir.path().join("s.db-wal")).map_or(0, |log| log.len());
        assert_eq!(log, 0, "the log is emptied");
        Lock::take(&dir.path().join("s.db"), &SystemClock).expect("the lock is free");
    }
}
