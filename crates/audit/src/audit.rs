//! The handle of the log: open, append, flush, close.

use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agentrouter_crypto::InternalKey;
use agentrouter_model::{Clock, Timestamp};
use tokio::time::Instant;

use crate::anchor::Anchor;
use crate::chain::AuditHead;
use crate::checkpoint::Signer;
use crate::compressor::Compressor;
use crate::disk::{Current, Directory, Folder, Form, Retired, content, is_damage, retired_files};
use crate::error::{AuditError, Fault, Status};
use crate::head::{HeadFault, HeadFile, HeadRow, Mark, Memory, Row};
use crate::note::Note;
use crate::prune::{self, PruneError, Pruned};
use crate::queue::{Queue, Stats, Ticket};
use crate::record::{Kept, Record};
use crate::scan::Tail;
use crate::ship::Shipper;
use crate::writer::{Start, Sync, Writer};

/// The longest wait of [`Audit::append`].
const APPEND_WITHIN: Duration = Duration::from_secs(2);
/// The longest wait of [`Audit::flush`] and [`Audit::close`].
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// The part of it that the thread for full files gets to end once the writer has.
const COMPRESSOR_WITHIN: Duration = Duration::from_secs(2);
/// The longest wait when the last clone is dropped.
const DROP_WITHIN: Duration = Duration::from_secs(2);
/// The default size at which a new file starts.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How to open a log.
#[derive(Clone)]
pub struct Settings {
    /// The directory of the files; created with mode 0700 if it does not exist.
    pub dir: PathBuf,
    /// The size in bytes at which a new file starts; default 64 MiB. A file exceeds it only if it cannot be renamed, or
    /// if one batch of records is larger.
    pub max_bytes: u64,
    /// When a record counts as written. Default [`Sync::Second`].
    pub sync: Sync,
    /// The epoch of the store, which a restore changes.
    pub epoch: Option<String>,
    /// Distinguishes this log from others with the same key, if there are any: the id of the server.
    pub replica: Option<String>,
    /// Whether full files are compressed; default yes.
    pub compress: bool,
    /// The clock of the log's own records.
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// The defaults, for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: MAX_BYTES,
            sync: Sync::default(),
            epoch: None,
            replica: None,
            compress: true,
            clock,
        }
    }
}

/// The audit log, open for writing. Clones share one writer. Dropping the last clone closes the log and blocks for at most
/// 2 s. [`Audit::close`] does not block, and returns whether it succeeded.
#[derive(Clone)]
pub struct Audit(Arc<Handle>);

struct Handle {
    queue: Arc<Queue>,
    dir: PathBuf,
    key: Arc<InternalKey>,
    /// The file `head` records that the store has a row.
    row_is_known: AtomicBool,
    head_faults: Vec<HeadFault>,
    epoch: String,
    replica: Option<String>,
    signer: Signer,
    anchor: Mutex<Anchor>,
    /// Held while full files are compressed or removed.
    files: Arc<Mutex<()>>,
    compressor: Mutex<Option<Compressor>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Audit {
    /// Opens the log in `settings.dir`, creates it if it does not exist, and continues after its last record.
    ///
    /// `row` is what the store has of [`Audit::keep_head`]. A log that does not contain the remembered record was truncated
    /// or replaced. It stays in use with a `CHAIN_BREAK` record, and [`Audit::chain_broken`] is true. A head that is missing
    /// or not authentic is a `HEAD_FAULT` record, and in [`Audit::head_faults`].
    ///
    /// Reads the end of the newest file, or the whole file if the head is not in its end (64 MiB by default). Blocks.
    ///
    /// # Errors
    /// [`AuditError::Open`], [`AuditError::Read`], or [`AuditError::InUse`] if another process writes to it. That
    /// nothing can be written (a full disk) is not an error here: [`Audit::status`] shows it until it changes.
    pub fn open(settings: Settings, key: InternalKey, row: HeadRow) -> Result<Self, AuditError> {
        let folder = Directory::open(&settings.dir).map_err(AuditError::Open)?;
        Self::open_in(Box::new(folder), settings, key, row)
    }

    pub(crate) fn open_in(
        folder: Box<dyn Folder>,
        settings: Settings,
        key: InternalKey,
        row: HeadRow,
    ) -> Result<Self, AuditError> {
        let Settings { dir, max_bytes, sync, epoch, replica, compress, clock } = settings;
        let epoch = epoch.unwrap_or_default();
        let key = Arc::new(key);
        let signer = Signer::new(&key, replica.as_deref())?;
        let anchor = Mutex::new(Anchor::new(&dir));
        let mut memory = Memory::recall(&dir, &key, row, &epoch).map_err(AuditError::Read)?;
        let queue = Arc::new(Queue::default());
        let file = folder.open_current().map_err(|error| match Fault::from(&error) {
            Fault::InUse => AuditError::InUse,
            _ => AuditError::Open(error),
        })?;
        folder.sync().map_err(AuditError::Open)?;
        let identity = file.identity().map_err(AuditError::Open)?;
        let start = Start {
            queue: Arc::clone(&queue),
            folder,
            key: Arc::clone(&key),
            clock,
            sync,
            max_bytes,
            file,
            identity,
        };
        let mut writer = Writer::new(start);
        let synced = resume(&mut writer, &dir, &mut memory).map_err(AuditError::Read)?;
        // The records of an earlier process may be in the page cache only.
        if let Some(file) = writer.file.as_mut().filter(|_| identity.bytes > 0) {
            file.sync().map_err(AuditError::Open)?;
        }
        queue.set_synced(synced);
        if memory.file_is_due {
            let has_row = memory.row_is_known;
            let file = HeadFile { mark: synced.into(), has_row, epoch: epoch.clone() };
            // On a full disk no record can be written either. `keep_head` tries again.
            let _ = file.write(&dir, &key, true);
        }
        // The files that a kill left. Readers ignore them, and if this fails, the next removal takes them.
        let _ = prune::finish(&dir, &signer);
        let files = Arc::new(Mutex::new(()));
        let compressor = if compress {
            let (compressor, wakeup) =
                Compressor::start(&dir, Arc::clone(&files)).map_err(AuditError::Open)?;
            writer.compressor = Some(wakeup);
            Some(compressor)
        } else {
            None
        };
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run())
            .map_err(AuditError::Open)?;
        Ok(Self(Arc::new(Handle {
            queue,
            dir,
            key,
            row_is_known: AtomicBool::new(memory.row_is_known),
            head_faults: memory.faults,
            epoch,
            replica,
            signer,
            anchor,
            files,
            compressor: Mutex::new(compressor),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Writes `record`. `Ok` means that the kernel has it, or with [`Sync::Fsync`] the disk: the operation that it records
    /// may continue. Needs a tokio runtime with its timer. Blocks no thread, whatever the disk does.
    ///
    /// On `Err`, or when the future is dropped before it completes, the record counts as not written: it was withdrawn from
    /// the queue, or a `WITHDRAWN` record in the log revokes it.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`] at once while the log cannot be written, [`AuditError::TimedOut`] after 2 s,
    /// [`AuditError::QueueFull`] when 65,536 records or 16 MiB of them wait, [`AuditError::Closed`].
    pub async fn append<'r>(&self, record: impl Borrow<Record<'r>>) -> Result<(), AuditError> {
        let record = record.borrow();
        written(self.0.queue.enqueue(record)?).await
    }

    /// The same for a formatted record.
    ///
    /// # Errors
    /// As [`Audit::append`].
    pub async fn append_kept(&self, kept: &Kept) -> Result<(), AuditError> {
        written(self.0.queue.enqueue_kept(kept)?).await
    }

    /// Waits until every record appended before is on disk.
    ///
    /// # Errors
    /// As [`Audit::append`], after 10 s.
    pub async fn flush(&self) -> Result<(), AuditError> {
        let batch = self.0.queue.request_flush()?;
        let _ = tokio::time::timeout(CLOSE_WITHIN, batch.done()).await;
        batch.result()
    }

    /// Whether records can be written now.
    pub fn status(&self) -> Status {
        self.0.queue.status()
    }

    /// Whether records are known to be missing from the log: it did not contain the head given to [`Audit::open`], its last
    /// record was not made with this key, or a file with records was removed while the log was open. Does not change back.
    pub fn chain_broken(&self) -> bool {
        self.0.queue.chain_broken.load(Ordering::Acquire)
    }

    /// The last record that is on disk. After a start with a remembered head that the log lacks, it has the number of that
    /// head until the `CHAIN_BREAK` record is on disk.
    pub fn synced_head(&self) -> AuditHead {
        self.0.queue.synced()
    }

    /// Waits until more records are on disk. Returns at once if there are since the last call.
    pub async fn next_sync(&self) {
        self.0.queue.next_sync().await;
    }

    /// What was wrong with the remembered heads when the log was opened.
    pub fn head_faults(&self) -> &[HeadFault] {
        &self.0.head_faults
    }

    /// Writes the last record on disk to the file `head`, and returns the row for the store to keep: a log that later lacks
    /// the record was truncated. Call [`Audit::row_is_kept`] when the store has it. `None` while the faults that were found
    /// at the start are not recorded yet. Blocks for the disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_head(&self) -> io::Result<Option<Row>> {
        let handle = &*self.0;
        if handle.queue.unrecorded.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mark = Mark::from(handle.queue.synced());
        let has_row = handle.row_is_known.load(Ordering::Acquire);
        let epoch = handle.epoch.clone();
        HeadFile { mark, has_row, epoch }.write(&handle.dir, &handle.key, !has_row)?;
        Ok(Some(mark.row(&handle.key)))
    }

    /// Records in the file `head` that the store has `row`, if it does not yet. From then on a missing row is a fault.
    /// Blocks for the disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn row_is_kept(&self, row: Row) -> io::Result<()> {
        let handle = &*self.0;
        if !handle.row_is_known.load(Ordering::Acquire) {
            let mark = AuditHead { seq: row.0, mac: row.1 }.into();
            let file = HeadFile { mark, has_row: true, epoch: handle.epoch.clone() };
            file.write(&handle.dir, &handle.key, true)?;
            handle.row_is_known.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// A checkpoint of the records that are on disk: a signed note in the form of C2SP `tlog-checkpoint`, to be kept on another
    /// host. The first call reads the log from the last checkpoint on, and without one the whole log. Blocks.
    ///
    /// # Errors
    /// [`AuditError::Read`] when the log cannot be read or the tree cannot be stored.
    pub fn checkpoint(&self) -> Result<String, AuditError> {
        let mut anchor = self.0.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        anchor.checkpoint(self.0.queue.synced().seq, &self.0.signer).map_err(AuditError::Read)
    }

    /// Removes the full files whose last record is older than `before`, the oldest first, and leaves a signed note about it.
    /// The files are verified first. If records are shipped, those that are not yet stay. Blocks.
    ///
    /// # Errors
    /// [`PruneError`]. No file is removed then, unless the disk failed while they were.
    pub fn prune(&self, before: Timestamp, accept_problems: bool) -> Result<Pruned, PruneError> {
        let handle = &*self.0;
        // The checkpoint reads full files, and the thread compresses them.
        let _anchor = handle.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let _files = handle.files.lock().unwrap_or_else(PoisonError::into_inner);
        prune::prune(&handle.dir, &handle.key, &handle.signer, before, accept_problems)
    }

    /// The records that are not shipped yet. After the first call, no record is removed before it is shipped. Blocks.
    ///
    /// # Errors
    /// When the position cannot be read or written.
    pub fn shipper(&self) -> io::Result<Shipper> {
        let handle = &*self.0;
        Shipper::new(&handle.dir, Arc::clone(&handle.key), Arc::clone(&handle.queue), &handle.signer)
    }

    /// Distinguishes this log from others with the same key.
    pub fn replica(&self) -> Option<&str> {
        self.0.replica.as_deref()
    }

    /// The public key of the checkpoints, in the form of C2SP `signed-note`.
    pub fn verifier_key(&self) -> String {
        self.0.signer.verifier_key()
    }

    /// The counters since the log was opened.
    pub fn stats(&self) -> Stats {
        self.0.queue.stats()
    }

    /// Rejects new records, writes and fsyncs those in the queue, and ends the writer. Waits 10 s at most, and leaves a
    /// thread that is stuck in the kernel then.
    ///
    /// # Errors
    /// [`AuditError::TimedOut`], or [`AuditError::Unavailable`] when the last records could not be written or fsynced.
    pub async fn close(&self) -> Result<(), AuditError> {
        self.close_within(CLOSE_WITHIN).await
    }

    pub(crate) async fn close_within(&self, patience: Duration) -> Result<(), AuditError> {
        let handle = &*self.0;
        let by = Instant::now() + patience;
        handle.start_closing();
        let ended = tokio::time::timeout_at(by, handle.queue.ended()).await;
        ended.map_err(|_| AuditError::TimedOut)?;
        if let Some(compressor) = handle.take_compressor() {
            let patience = COMPRESSOR_WITHIN.min(by.saturating_duration_since(Instant::now()));
            let stopped = tokio::task::spawn_blocking(move || compressor.stop(patience));
            // The threads for blocking calls may all be stuck, too.
            let _ = tokio::time::timeout(patience, stopped).await;
        }
        handle.join();
        if handle.queue.ended_well.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(AuditError::Unavailable(Fault::Stopped.reason()))
        }
    }
}

/// Waits until the record is written or has failed.
async fn written(ticket: Ticket<'_>) -> Result<(), AuditError> {
    match tokio::time::timeout(APPEND_WITHIN, ticket.done()).await {
        Ok(()) => ticket.settle(),
        Err(_) => ticket.give_up(true),
    }
}

impl Handle {
    /// Has both threads end. Does not wait.
    fn start_closing(&self) {
        self.queue.start_closing();
        if let Some(compressor) = &*self.compressor.lock().unwrap_or_else(PoisonError::into_inner) {
            compressor.start_stopping();
        }
    }

    fn take_compressor(&self) -> Option<Compressor> {
        self.compressor.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Joins a thread that has ended or is about to.
    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Every caller has received the panic of the writer as an error.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let by = Instant::now() + DROP_WITHIN;
        self.start_closing();
        if self.queue.wait_ended(DROP_WITHIN) {
            self.join();
        }
        if let Some(compressor) = self.take_compressor() {
            compressor.stop(by.saturating_duration_since(Instant::now()));
        }
    }
}

/// Positions the writer after the last record of the log, and notes the faults of the log. Returns the head that counts
/// as on disk.
fn resume(writer: &mut Writer, dir: &Path, memory: &mut Memory) -> io::Result<AuditHead> {
    let head = memory.newest();
    let asked = head.map(|head| head.seq);
    let mut tail = match writer.file.as_mut() {
        Some(file) => Tail::read_end(&mut **file, writer.identity.bytes, &writer.key, asked)?,
        None => Tail::default(),
    };
    let retired = retired_files(dir)?;
    let mut sealed = tail.last_is_sealed;
    if tail.last.is_none() {
        // The current file is empty, so the last record is that of the file before it.
        for file in retired.iter().rev() {
            let before = read_retired(dir, *file, &writer.key, asked)?;
            if before.last.is_some() {
                (tail.last, tail.asked, sealed) = (before.last, before.asked, before.last_is_sealed);
                break;
            }
        }
    }
    if let Some(asked) = asked.filter(|_| tail.asked.is_none()) {
        // The head is kept every second, so it is rarely in an older file.
        let holding = retired.iter().rev().find(|file| file.first_seq <= asked);
        if let Some(file) = holding {
            tail.asked = read_retired(dir, *file, &writer.key, Some(asked))?.asked;
        }
    }
    let last = tail.last.unwrap_or_default();
    writer.head = last;
    writer.first_seq = tail.first_seq;
    memory.settle(tail.last.is_some());
    for fault in &memory.faults {
        writer.notes.push(Note::HeadFault { fault: *fault });
    }
    let lacks_head =
        head.is_some_and(|head| !tail.asked.is_some_and(|mac| head.is_of(&AuditHead { seq: head.seq, mac })));
    if lacks_head || sealed == Some(false) || tail.torn.overflowed {
        let expected = head.map_or(last.seq, |head| head.seq);
        writer.head.seq = last.seq.max(expected);
        writer.notes.push(Note::ChainBreak { expected });
        writer.queue.chain_broken.store(true, Ordering::Release);
    }
    writer.queue.unrecorded.store(!writer.notes.is_empty(), Ordering::Release);
    writer.unended = tail.unended || tail.torn.overflowed;
    writer.torn = if tail.torn.overflowed { Vec::new() } else { tail.torn.bytes };
    // Until the `CHAIN_BREAK` record is on disk, the expected head must stay.
    Ok(head.filter(|_| lacks_head).map_or(last, |head| head.as_head()))
}

/// The tail of a full file. A compressed one is read from its start.
fn read_retired(dir: &Path, file: Retired, key: &InternalKey, asked: Option<u64>) -> io::Result<Tail> {
    let (file, opened) = match file.open(dir) {
        // Another process removed the file after it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tail::default()),
        opened => opened?,
    };
    match file.form {
        Form::Plain => {
            let bytes = opened.metadata()?.len();
            Tail::read_end(&mut Current(opened), bytes, key, asked)
        }
        // A damaged file does not stop the start. Its records are missing.
        Form::Zstd => match content(file.form, opened).and_then(|content| Tail::read(content, key, asked)) {
            Err(error) if is_damage(&error) => Ok(Tail::default()),
            tail => tail,
        },
    }
}
