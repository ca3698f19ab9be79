//! The writer thread: numbers, seals and writes the queued records, with one write(2) per batch.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentrouter_crypto::InternalKey;
use agentrouter_model::Clock;
use tokio::time::Instant;

use crate::chain::{AuditHead, Line};
use crate::compressor::Wakeup;
use crate::disk::{Folder, Form, Identity, LogFile, retired_name};
use crate::error::Fault;
use crate::note::{self, Note};
use crate::queue::{Outcome, Queue, Withdrawn, Work};

/// How long written records wait for their fsync. The rest of the promised second is for the fsync itself, and for the head
/// to be kept.
const SYNC_AFTER: Duration = Duration::from_millis(500);
/// The bytes after which the disk starts to write, before the fsync. Nothing is written during an fsync, so it must not wait
/// for many bytes.
const START_AFTER: u64 = 256 * 1024;
/// How often a log that cannot be written is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How often an idle writer checks that its file is still there.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// When a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel has it, so that it survives the process; it is on disk within a second.
    #[default]
    Second,
    /// When it is on disk.
    Fsync,
}

/// The state of the writer thread.
pub(crate) struct Writer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) folder: Box<dyn Folder>,
    pub(crate) key: Arc<InternalKey>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sync: Sync,
    pub(crate) max_bytes: u64,
    /// The current file; none between the retirement of one and the opening of the next.
    pub(crate) file: Option<Box<dyn LogFile>>,
    /// The expected identity of the current file. Another identity or length means that another process changed it.
    pub(crate) identity: Identity,
    /// The first record of the current file, once there is one.
    pub(crate) first_seq: Option<u64>,
    /// The last record written.
    pub(crate) head: AuditHead,
    /// Notes to be written before the next records.
    pub(crate) notes: Vec<Note>,
    /// Bytes at the end of the file that are not a record, to be closed by a newline and accounted for.
    pub(crate) torn: Vec<u8>,
    /// The file does not end in a newline, and its end needs no note: it is a whole record, or bytes of another process.
    pub(crate) unended: bool,
    /// Up to where the disk has started to write the current file.
    started: u64,
    /// Since when there are records that are not fsynced.
    dirty_since: Option<Instant>,
    down: Option<Down>,
    /// The length at which to start a new file.
    rotate_above: u64,
    out: Vec<u8>,
    /// Wakes the compressor for each full file, if they are compressed.
    pub(crate) compressor: Option<Wakeup>,
}

/// The log cannot be written.
struct Down {
    fault: Fault,
    repair: Repair,
    retry_at: Instant,
}

/// The step of a recovery before the next write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Nothing: the file is as it should be.
    Retry,
    /// The file failed an fsync and must not be used again. The kernel may have dropped the bytes that it could not
    /// write, and the next fsync would not report that.
    Retire,
    /// There is no file, or it is not the one it was.
    Reopen,
}

/// The initial state of a writer.
pub(crate) struct Start {
    pub(crate) queue: Arc<Queue>,
    pub(crate) folder: Box<dyn Folder>,
    pub(crate) key: Arc<InternalKey>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sync: Sync,
    pub(crate) max_bytes: u64,
    pub(crate) file: Box<dyn LogFile>,
    pub(crate) identity: Identity,
}

impl Writer {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            queue: start.queue,
            folder: start.folder,
            key: start.key,
            clock: start.clock,
            sync: start.sync,
            max_bytes: start.max_bytes,
            file: Some(start.file),
            identity: start.identity,
            first_seq: None,
            head: AuditHead::default(),
            notes: Vec::new(),
            torn: Vec::new(),
            unended: false,
            started: start.identity.bytes,
            dirty_since: None,
            down: None,
            rotate_above: start.max_bytes,
            out: Vec::new(),
            compressor: None,
        }
    }

    /// Wakes the compressor, because there is one more full file.
    pub(crate) fn wake_compressor(&self) {
        // The thread ends when the log is closed.
        let _ = self.compressor.as_ref().map(|wakeup| wakeup.send(()));
    }

    /// Works until the log is closed and the queue is empty.
    pub(crate) fn run(mut self) {
        struct End(Arc<Queue>);
        impl Drop for End {
            fn drop(&mut self) {
                self.0.set_fault(Fault::Stopped);
                self.0.end();
            }
        }
        // Also when this thread panics: callers must receive an error.
        let _end = End(Arc::clone(&self.queue));
        let mut work = Work::default();
        self.write_notes();
        while !self.queue.take(&mut work, self.patience()) {
            self.tend(work.entries.is_empty());
            self.process(&mut work);
        }
        if self.down.is_some() {
            self.recover();
        }
        if self.down.is_none() {
            self.write_notes();
            let synced = self.sync_now().is_ok();
            self.queue.ended_well.store(synced, Ordering::Release);
        }
    }

    fn patience(&self) -> Duration {
        let now = Instant::now();
        if let Some(down) = &self.down {
            return down.retry_at.saturating_duration_since(now);
        }
        let sync_at = self.dirty_since.map(|since| since + SYNC_AFTER);
        sync_at.map_or(LOOK_AFTER, |at| at.saturating_duration_since(now).min(LOOK_AFTER))
    }

    /// Work that is due without records: recovery, fsync, a check of the file.
    fn tend(&mut self, idle: bool) {
        match &self.down {
            Some(down) => {
                if down.retry_at <= Instant::now() {
                    self.recover();
                }
            }
            None => {
                if self.dirty_since.is_some_and(|since| since.elapsed() >= SYNC_AFTER) {
                    let _ = self.sync_now();
                } else if idle && self.look().is_err() {
                    // No caller waits, so no request has to fail.
                    self.recover();
                }
            }
        }
    }

    fn process(&mut self, work: &mut Work) {
        self.notes.extend(work.withdrawn.drain(..).map(Note::from));
        let first_seq = self.head.seq + 1 + self.leading_notes();
        let mut result = self.write(work);
        if result.is_ok() && (work.flush || (self.sync == Sync::Fsync && !work.entries.is_empty())) {
            result = self.sync_now();
            if result.is_err() {
                self.withdraw_lines(work.live());
            }
        }
        let outcome = Outcome { result, first_seq, skipped: work.skipped() };
        let late = self.queue.complete(&work.batch, outcome);
        self.notes.extend(late.into_iter().map(Note::from));
        self.write_notes();
    }

    /// Writes the pending notes.
    fn write_notes(&mut self) {
        if self.down.is_none() && self.leading_notes() > 0 {
            let _ = self.write(&Work::default());
        }
    }

    fn leading_notes(&self) -> u64 {
        self.notes.len() as u64 + u64::from(!self.torn.is_empty())
    }

    /// Writes notes and records with one write(2), all or, where the disk allows, nothing.
    pub(crate) fn write(&mut self, work: &Work) -> Result<(), Fault> {
        if let Some(down) = &self.down {
            return Err(down.fault);
        }
        if work.entries.is_empty() && self.leading_notes() == 0 {
            return Ok(());
        }
        self.look()?;
        let head = self.format(work);
        self.rotate_if_full()?;
        self.write_out(head)?;
        // If the file was removed during the write, its records can no longer be read.
        if let Err(fault) = self.look() {
            self.withdraw_lines(work.live());
            return Err(fault);
        }
        self.queue.counters().records.fetch_add(work.live() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Fills `out`, and returns the head after it.
    fn format(&mut self, work: &Work) -> AuditHead {
        let mut head = self.head;
        let out = &mut self.out;
        out.clear();
        if self.unended || !self.torn.is_empty() {
            out.push(b'\n');
        }
        let now = self.clock.now();
        if !self.torn.is_empty() {
            let mac = note::torn_mac(&self.key, &self.torn);
            Note::Torn { bytes: self.torn.len() as u64, mac }.seal(&mut head, &self.key, now, out);
        }
        for note in &self.notes {
            note.seal(&mut head, &self.key, now, out);
        }
        let mut start = 0;
        for entry in &work.entries {
            if !entry.withdrawn {
                head.seal(&self.key, &work.bytes[start..entry.end], out);
            }
            start = entry.end;
        }
        head
    }

    fn write_out(&mut self, head: AuditHead) -> Result<(), Fault> {
        let Some(file) = self.file.as_mut() else { return Err(self.fail(Fault::Lost, Repair::Reopen)) };
        let mut written = 0;
        let mut error = None;
        while written < self.out.len() && error.is_none() {
            self.queue.counters().writes.fetch_add(1, Ordering::Relaxed);
            match file.write(&self.out[written..]) {
                Ok(0) => error = Some(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => error = Some(e),
            }
        }
        if let Some(error) = error {
            if written > 0 && file.truncate(self.identity.bytes).is_err() {
                self.keep_part(written);
            }
            return Err(self.fail(Fault::from(&error), Repair::Retry));
        }
        self.identity.bytes += written as u64;
        self.first_seq.get_or_insert(self.head.seq + 1);
        self.head = head;
        self.notes.clear();
        self.torn.clear();
        self.unended = false;
        self.dirty_since.get_or_insert_with(Instant::now);
        self.start_sync();
        Ok(())
    }

    /// Starts to write the bytes to the disk that the next fsync waits for, once there are many.
    fn start_sync(&mut self) {
        let from = self.started.min(self.identity.bytes);
        if self.identity.bytes - from < START_AFTER {
            return;
        }
        self.started = self.identity.bytes;
        if let Some(file) = &mut self.file {
            // The fsync reports errors.
            let _ = file.start_sync(from..self.started);
        }
    }

    /// The first `written` bytes of `out` are in the file and cannot be removed. Whole lines of them, the last one perhaps
    /// without its newline, are in the chain although their callers receive an error. The rest is torn.
    fn keep_part(&mut self, written: usize) {
        self.identity.bytes += written as u64;
        self.dirty_since.get_or_insert_with(Instant::now);
        let part = &self.out[..written];
        let ended = part.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let rest = &part[ended..];
        let stood = lines(part).count();
        if stood == 0 {
            self.unended = false;
            self.torn.extend_from_slice(if self.torn.is_empty() { rest } else { part });
            return;
        }
        let closing = usize::from(!self.torn.is_empty());
        let notes = (stood - closing).min(self.notes.len());
        let withdrawn = withdrawn(part, stood - closing - notes);
        let first = lines(part).next().map(|line| line.head.seq);
        self.first_seq = self.first_seq.or(first);
        self.head = lines(part).last().map_or(self.head, |line| line.head);
        self.unended = Line::parse(rest).is_some();
        self.torn = if self.unended { Vec::new() } else { rest.to_vec() };
        self.notes.drain(..notes);
        self.notes.extend(withdrawn);
    }

    /// The last `count` lines of `out` are in the file, but their callers receive an error.
    fn withdraw_lines(&mut self, count: usize) {
        let notes = withdrawn(&self.out, count);
        self.notes.extend(notes);
    }

    /// Checks that the file is still there and unchanged.
    pub(crate) fn look(&mut self) -> Result<(), Fault> {
        match self.folder.current() {
            Ok(Some(found)) if self.file.is_some() && found == self.identity => Ok(()),
            Ok(_) => Err(self.fail(Fault::Lost, Repair::Reopen)),
            Err(error) => Err(self.fail(Fault::from(&error), Repair::Reopen)),
        }
    }

    /// Makes everything written durable.
    pub(crate) fn sync_now(&mut self) -> Result<(), Fault> {
        if let Some(down) = &self.down {
            return Err(down.fault);
        }
        if self.dirty_since.is_none() {
            return Ok(());
        }
        let synced = self.file.as_mut().is_some_and(|file| file.sync().is_ok());
        if !synced {
            return Err(self.fail(Fault::Sync, Repair::Retire));
        }
        self.queue.counters().fsyncs.fetch_add(1, Ordering::Relaxed);
        self.started = self.identity.bytes;
        self.dirty_since = None;
        if self.notes.is_empty() {
            self.queue.unrecorded.store(false, Ordering::Release);
        }
        self.queue.set_synced(self.head);
        Ok(())
    }

    /// Starts a new file if `out` would make the current one too large. A file that cannot be renamed stays in use, and
    /// becomes too large.
    fn rotate_if_full(&mut self) -> Result<(), Fault> {
        let full = self.identity.bytes + self.out.len() as u64 > self.rotate_above;
        // The note for torn bytes must follow them directly.
        if !full || self.identity.bytes == 0 || !self.torn.is_empty() || self.unended {
            return Ok(());
        }
        self.sync_now()?;
        let first_seq = self.first_seq.unwrap_or(self.head.seq);
        if self.folder.retire_current(&retired_name(first_seq, Form::Plain)).is_err() {
            self.rotate_above = self.identity.bytes + self.max_bytes / 8;
            return Ok(());
        }
        self.drop_file();
        self.open_file().map_err(|fault| self.fail(fault, Repair::Reopen))?;
        if self.identity.bytes > 0 {
            return Err(self.fail(Fault::Lost, Repair::Reopen));
        }
        self.folder.sync().map_err(|_| self.fail(Fault::Sync, Repair::Retire))?;
        self.wake_compressor();
        Ok(())
    }

    pub(crate) fn drop_file(&mut self) {
        self.file = None;
        self.first_seq = None;
        self.identity.bytes = 0;
        self.dirty_since = None;
    }

    /// Opens the file that has the current file's name now, or creates it.
    pub(crate) fn open_file(&mut self) -> Result<(), Fault> {
        let open = || {
            let file = self.folder.open_current()?;
            let identity = file.identity()?;
            Ok((file, identity, self.folder.current()?))
        };
        let (file, identity, named) = open().map_err(|error: io::Error| Fault::from(&error))?;
        if named != Some(identity) {
            return Err(Fault::Lost);
        }
        self.file = Some(file);
        self.identity = identity;
        self.started = identity.bytes;
        self.rotate_above = self.max_bytes;
        Ok(())
    }

    /// Notes that the log cannot be written, and when to try again.
    pub(crate) fn fail(&mut self, fault: Fault, repair: Repair) -> Fault {
        self.queue.set_fault(fault);
        let retry_at = Instant::now() + RETRY_AFTER;
        self.down = Some(Down { fault, repair, retry_at });
        fault
    }

    /// Removes and returns the fault, if any.
    pub(crate) fn take_down(&mut self) -> Option<(Fault, Repair)> {
        self.down.take().map(|down| (down.fault, down.repair))
    }

    /// The log can be written again.
    pub(crate) fn up(&mut self) {
        if self.down.is_none() {
            self.queue.set_fault(Fault::None);
        }
    }
}

impl From<Withdrawn> for Note {
    fn from(withdrawn: Withdrawn) -> Self {
        Self::Withdrawn { of: withdrawn.seq, request_id: withdrawn.request_id }
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    bytes.split(|b| *b == b'\n').filter_map(Line::parse)
}

/// Notes that take back the last `count` records of `bytes`.
fn withdrawn(bytes: &[u8], count: usize) -> Vec<Note> {
    let skip = lines(bytes).count().saturating_sub(count);
    lines(bytes)
        .skip(skip)
        .map(|line| Note::Withdrawn { of: line.head.seq, request_id: note::request_id(&line.object()) })
        .collect()
}
