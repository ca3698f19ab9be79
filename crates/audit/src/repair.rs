//! Recovery of the writer after a failed write or fsync.
//!
//! Each recovery ends with a record of what happened. The log works again when that record is written and fsynced. Until
//! then appends fail.

use std::sync::atomic::Ordering;

use crate::disk::{Form, LogFile, retired_name};
use crate::error::Fault;
use crate::note::Note;
use crate::queue::Work;
use crate::scan::Tail;
use crate::writer::{Repair, Writer};

impl Writer {
    /// Tries to make the log writable again.
    pub(crate) fn recover(&mut self) {
        let Some((fault, repair)) = self.take_down() else { return };
        let repair = if repair == Repair::Retry && self.look().is_err() {
            self.take_down();
            Repair::Reopen
        } else {
            repair
        };
        let prepared = match repair {
            Repair::Retry => Ok(()),
            Repair::Retire => self.retire().and_then(|()| self.reopen()),
            Repair::Reopen => self.reopen(),
        };
        if let Err(again) = prepared {
            // The first fault is more informative than the fault of this attempt.
            let shown = if fault == Fault::Sync { fault } else { again };
            self.fail(shown, if self.file.is_none() { Repair::Reopen } else { repair });
            return;
        }
        let note = match (fault, repair) {
            (Fault::Sync, _) => Note::SyncFailed { synced: self.queue.synced().seq },
            (_, Repair::Reopen) => Note::Reopened,
            _ => Note::Resumed { why: fault.reason() },
        };
        self.say(note);
        self.up();
    }

    /// Writes and fsyncs `note` before the pending notes.
    fn say(&mut self, note: Note) {
        self.notes.insert(0, note.clone());
        if self.write_and_sync().is_err() && self.notes.first() == Some(&note) {
            self.notes.remove(0);
        }
    }

    fn write_and_sync(&mut self) -> Result<(), Fault> {
        self.write(&Work::default())?;
        self.sync_now()?;
        self.sync_folder()
    }

    /// Retires a file that failed an fsync. It keeps its content under the name of a full file.
    fn retire(&mut self) -> Result<(), Fault> {
        let named = self.folder.current().map_err(|error| Fault::from(&error))?;
        if named.is_some_and(|named| named.is_same_file(self.identity)) {
            let first_seq = self.first_seq.unwrap_or(self.head.seq);
            let names = [first_seq, self.head.seq].map(|seq| retired_name(seq, Form::Plain));
            if !names.iter().any(|name| self.folder.retire_current(name).is_ok()) {
                return Err(Fault::Sync);
            }
        }
        self.drop_file();
        self.torn.clear();
        self.unended = false;
        Ok(())
    }

    /// Opens the file that has the current file's name now, and continues after its last record.
    fn reopen(&mut self) -> Result<(), Fault> {
        let lost = self.identity.bytes > 0;
        self.drop_file();
        self.torn.clear();
        self.unended = false;
        self.open_file()?;
        let tail = match self.file.as_mut().map(|file| read(&mut **file, &self.key)) {
            Some(Ok(tail)) => tail,
            _ => {
                self.file = None;
                return Err(Fault::Lost);
            }
        };
        if tail.last == Some(self.head) && tail.torn.is_empty() {
            self.first_seq = tail.first_seq;
            self.unended = tail.unended;
            return Ok(());
        }
        if self.identity.bytes > 0 {
            // Content that this writer did not write. It stays, and `verify` reports it.
            self.first_seq = Some(self.head.seq + 1);
            self.unended = tail.unended || !tail.torn.is_empty();
        }
        if lost || self.identity.bytes > 0 {
            self.queue.chain_broken.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn sync_folder(&mut self) -> Result<(), Fault> {
        self.folder.sync().map_err(|_| self.fail(Fault::Sync, Repair::Retire))
    }
}

fn read(file: &mut dyn LogFile, key: &agentrouter_crypto::InternalKey) -> std::io::Result<Tail> {
    Tail::read(file.reader(0)?, key, None)
}
