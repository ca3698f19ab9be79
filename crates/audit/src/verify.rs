//! Verification: reads the whole log and checks every byte of it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_crypto::InternalKey;

use crate::base::{Base, Kind, NoteState};
use crate::chain::{AuditHead, Line, can_be_cut_off};
use crate::checkpoint::{Checkpoint, Signer};
use crate::disk::{CURRENT, Form, Retired, is_damage, open_to_read, retired_files, unknown_files};
use crate::error::AuditError;
#[cfg(fuzzing)]
use crate::head::Mark;
use crate::head::{HEAD, HeadFault, HeadRow, Memory};
use crate::last_time::time_of;
use crate::note::NoteView;
use crate::read_ahead::{Counting, ReadAhead};
use crate::scan::{Lines, Torn};
use crate::tree::Tree;

/// The most problems that are listed. The others are counted.
const MOST_PROBLEMS: usize = 1000;
/// The lines between two reports of progress.
const WATCH_LINES: u64 = 8192;

/// The result of a [`Verification`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read.
    pub files: u64,
    /// Lines with the shape of a record, the log's own included.
    pub records: u64,
    /// The number of the last record that was removed by [`Audit::prune`](crate::Audit::prune); 0 if none was.
    pub pruned: u64,
    /// The number of problems that the removed records had.
    pub pruned_problems: u64,
    /// Torn writes that a `TORN_LINE` record accounts for: bytes that are at most the beginning of a record. A crash
    /// leaves them. Any process with write access to the file can make them, too.
    pub torn: u64,
    /// Bytes after the last newline of the newest file, the beginning of a record: a write in progress, or one that a
    /// crash interrupted and that the next start accounts for. Not a problem by itself.
    pub unfinished_bytes: u64,
    /// The last record.
    pub last: AuditHead,
    /// The number of records that the checkpoint covers, if they are those of the log.
    pub holds: Option<u64>,
    /// The problems in the order of the log; at most 1,000.
    pub problems: Vec<Problem>,
    /// The number of problems that are not listed.
    pub more_problems: u64,
}

impl Report {
    /// Whether there is no problem.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.more_problems == 0
    }
}

/// One problem, without any content of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file, with control characters escaped.
    pub file: String,
    /// Number of the line in it, from 1; 0 for its end.
    pub line: u64,
    /// Number that the line claims, if it has the shape of a record.
    pub seq: Option<u64>,
    /// The kind of the problem.
    pub kind: ProblemKind,
}

/// The kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It is not a record, and no `TORN_LINE` record accounts for it; or one does, but no crash leaves such bytes.
    Malformed,
    /// The compressed file cannot be decompressed from there on: it was edited or damaged.
    Damaged,
    /// The number in the file's name is not that of a record in it.
    Misnumbered {
        /// Number of the first record in the file.
        first: u64,
    },
    /// The file is named like a part of the log, and is none: nothing in it is checked.
    UnknownFile,
    /// Its mac is wrong: it or the record before it was edited, or the key differs.
    WrongMac,
    /// Records are missing before it. It cannot be checked itself, unless it is one of the log's own.
    Missing {
        /// Number of the first missing record.
        first: u64,
        /// Number of the last.
        last: u64,
    },
    /// Its number occurred before: the record was repeated, moved or inserted.
    Repeated,
    /// At a start, the log did not contain the record that was remembered as its head.
    ChainBreak {
        /// Number of that record.
        expected: u64,
    },
    /// A remembered head is missing or not authentic.
    Head(HeadFault),
    /// At a start, a remembered head was missing or not authentic.
    HeadAtStart(HeadFault),
    /// The log ends before the remembered head.
    Truncated {
        /// Number of that record.
        expected: u64,
    },
    /// The note about removed files was not made with the log's key.
    ForgedNote,
    /// The checkpoint covers only records that were removed by command.
    PrunedCheckpoint {
        /// Number of the last record that was removed.
        pruned: u64,
    },
    /// The log ends before the last record that the checkpoint covers.
    BehindCheckpoint {
        /// Number of that record.
        covers: u64,
    },
    /// A record that the checkpoint covers is missing or differs.
    OtherThanCheckpoint {
        /// Number of the last record that the checkpoint covers.
        covers: u64,
    },
    /// The record with the number of the remembered head differs from it.
    WrongHead,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a record"),
            Self::Damaged => f.write_str("the compressed file is damaged, or was edited"),
            Self::Misnumbered { first } => {
                write!(f, "the first record is {first}, and the name has a number that is not in the file")
            }
            Self::UnknownFile => f.write_str("not a file of the log; it is not checked"),
            Self::WrongMac => f.write_str("edited, or made with another key"),
            Self::Missing { first, last } if first == last => {
                write!(f, "record {first} is missing before it")
            }
            Self::Missing { first, last } => write!(f, "records {first} to {last} are missing before it"),
            Self::Repeated => f.write_str("repeated, moved or inserted"),
            Self::ChainBreak { expected } => {
                write!(f, "at a start of the server the log did not hold the expected record {expected}")
            }
            Self::Head(fault) => fault.fmt(f),
            Self::HeadAtStart(fault) => write!(f, "at a start of the server: {fault}"),
            Self::Truncated { expected } => write!(f, "the log ends before record {expected}"),
            Self::ForgedNote => {
                f.write_str("the note about removed files is not authentic: it was edited or damaged")
            }
            Self::PrunedCheckpoint { pruned } => {
                write!(
                    f,
                    "records up to {pruned} were removed, and the checkpoint covers only such records; use a newer one"
                )
            }
            Self::BehindCheckpoint { covers } => {
                write!(f, "the log ends before record {covers}, and the checkpoint covers that record")
            }
            Self::OtherThanCheckpoint { covers } => {
                write!(f, "the records up to {covers} are not those that the checkpoint covers")
            }
            Self::WrongHead => f.write_str("not the record that is remembered as the head"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if let Some(seq) = self.seq {
            write!(f, "record {seq}: ")?;
        }
        self.kind.fmt(f)
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read so far, as they are on the disk.
    pub bytes: u64,
    /// Bytes of all files at its start.
    pub of: u64,
}

/// A verification: which log, and what it is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Verification<'a> {
    /// The directory of the log.
    pub dir: &'a Path,
    /// Its key.
    pub key: &'a InternalKey,
    /// Distinguishes it from other logs with the same key, as in [`Settings`](crate::Settings).
    pub replica: Option<&'a str>,
    /// What the store has of the head; the other place is the file `head`. Read it before.
    pub row: HeadRow,
    /// The epoch of the store.
    pub epoch: Option<&'a str>,
    /// A checkpoint that another host kept, if there is one.
    pub checkpoint: Option<&'a str>,
}

impl<'v> Verification<'v> {
    /// Checks every record, oldest file first, in constant memory, with regular calls of `watch`.
    ///
    /// The log may be written meanwhile: records that are appended after a file's end was read are not checked, and a line
    /// that is being written counts as unfinished (call [`Audit::flush`](crate::Audit::flush) first to include all that was
    /// appended). Blocks.
    ///
    /// # Errors
    /// [`AuditError::Read`] when a file cannot be read, [`AuditError::Checkpoint`] when the checkpoint is not one of this
    /// log. Problems of the log are in the report.
    pub fn run(self, watch: &mut dyn FnMut(Progress)) -> Result<Report, AuditError> {
        self.run_with(watch, None)
    }

    /// As [`Verification::run`], and passes each genuine record to `see`, in the order of the log: its JSON up to the MAC,
    /// without the `}`.
    ///
    /// # Errors
    /// As [`Verification::run`].
    pub fn run_each(self, see: &mut dyn FnMut(&[u8])) -> Result<Report, AuditError> {
        self.run_with(&mut |_| (), Some(see))
    }

    fn run_with<'a>(
        self,
        watch: &'a mut dyn FnMut(Progress),
        see: Option<See<'a>>,
    ) -> Result<Report, AuditError>
    where
        'v: 'a,
    {
        let signer = Signer::new(self.key, self.replica)?;
        let checkpoint = self.checkpoint.map(|note| signer.open(note)).transpose()?;
        let memory = Memory::recall(self.dir, self.key, self.row, self.epoch.unwrap_or_default())
            .map_err(AuditError::Read)?;
        let (base, is_forged) = match Base::read(self.dir, Kind::Pruned, &signer).map_err(AuditError::Read)? {
            NoteState::None => (Base::default(), false),
            NoteState::Forged => (Base::default(), true),
            NoteState::Genuine(base) => (base, false),
        };
        let mut check = Check::new(self.key, memory, watch).after(&base);
        if is_forged {
            check.problem(Kind::Pruned.name(), 0, None, ProblemKind::ForgedNote);
        }
        check.see = see;
        check.hold_to(checkpoint, &base);
        check.files(self.dir).map_err(AuditError::Read)?;
        Ok(check.report)
    }
}

/// The same of a log that is one file.
#[cfg(fuzzing)]
pub(crate) fn verify_file(file: impl Read, key: &InternalKey, head: Option<AuditHead>) -> io::Result<Report> {
    let marks = head.map(Mark::from).into_iter().collect();
    let mut watch = |_| ();
    let mut check = Check::new(key, Memory { marks, ..Memory::default() }, &mut watch);
    check.file(CURRENT, file, None)?;
    check.check_end();
    Ok(check.report)
}

/// The bytes of all files.
fn total(dir: &Path) -> io::Result<u64> {
    let names = retired_files(dir)?.into_iter().map(|file| file.name());
    let sizes = names.chain([CURRENT.to_owned()]).map(|name| dir.join(name).metadata());
    Ok(sizes.map(|found| found.map_or(0, |metadata| metadata.len())).sum())
}

/// Receives the bytes of a record.
type See<'a> = &'a mut dyn FnMut(&[u8]);

pub(crate) struct Check<'a> {
    key: &'a InternalKey,
    memory: Memory,
    report: Report,
    /// The bytes after the last record, and where they begin.
    torn: Torn,
    torn_line: u64,
    /// The checkpoint that is not reached yet, and the tree up to the last record.
    checkpoint: Option<Checkpoint>,
    tree: Option<Tree>,
    /// The last line, if its time is asked for.
    last_line: Option<Vec<u8>>,
    watch: &'a mut dyn FnMut(Progress),
    /// Receives each genuine record.
    see: Option<See<'a>>,
    bytes: Arc<AtomicU64>,
    of: u64,
}

impl<'a> Check<'a> {
    pub(crate) fn new(key: &'a InternalKey, memory: Memory, watch: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            key,
            memory,
            report: Report::default(),
            torn: Torn::default(),
            torn_line: 0,
            checkpoint: None,
            tree: None,
            last_line: None,
            watch,
            see: None,
            bytes: Arc::default(),
            of: 0,
        }
    }

    /// Starts after records that were removed.
    pub(crate) fn after(mut self, base: &Base) -> Self {
        self.report.last = base.last;
        self.report.pruned = base.last.seq;
        self.report.pruned_problems = base.problems;
        self
    }

    fn hold_to(&mut self, checkpoint: Option<Checkpoint>, base: &Base) {
        let Some(checkpoint) = checkpoint else { return };
        let pruned = base.last.seq;
        if checkpoint.size < pruned {
            return self.problem(Kind::Pruned.name(), 0, None, ProblemKind::PrunedCheckpoint { pruned });
        }
        self.checkpoint = Some(checkpoint);
        self.tree = Some(base.tree.clone());
        self.compare(Kind::Pruned.name(), 0);
    }

    /// Keeps what [`Check::base`] and [`Check::time`] need.
    pub(crate) fn keep_base(&mut self, base: &Base) {
        self.tree = Some(base.tree.clone());
        self.last_line = Some(Vec::new());
    }

    /// The log up to the last record that was checked.
    pub(crate) fn base(&self) -> Base {
        let Report { last, pruned_problems, .. } = self.report;
        let problems = pruned_problems + self.report.problems.len() as u64 + self.report.more_problems;
        Base { last, tree: self.tree.clone().unwrap_or_default(), problems }
    }

    /// The time of the last record that was checked, as its text.
    pub(crate) fn time(&self) -> Option<String> {
        self.last_line.as_deref().and_then(Line::parse).and_then(|line| time_of(&line))
    }

    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// Adds a record to the tree.
    fn grow(&mut self, file: &str, line: u64, record: AuditHead) {
        let Some(tree) = &mut self.tree else { return };
        let skips = |checkpoint: &Checkpoint| checkpoint.size > tree.size() && checkpoint.size < record.seq;
        if let Some(Checkpoint { size: covers, .. }) = self.checkpoint.take_if(|checkpoint| skips(checkpoint))
        {
            self.tree = None;
            return self.problem(file, line, None, ProblemKind::OtherThanCheckpoint { covers });
        }
        tree.push_record(record.seq, &record.mac);
        self.compare(file, line);
    }

    /// Compares the tree with the checkpoint, if it has its size. Later records need no tree.
    fn compare(&mut self, file: &str, line: u64) {
        let Some(tree) = &self.tree else { return };
        let size = tree.size();
        let Some(checkpoint) = self.checkpoint.take_if(|checkpoint| checkpoint.size == size) else { return };
        let is_same = tree.root() == checkpoint.root;
        self.tree = None;
        if is_same {
            self.report.holds = Some(size);
        } else {
            self.problem(file, line, None, ProblemKind::OtherThanCheckpoint { covers: size });
        }
    }

    fn files(&mut self, dir: &Path) -> io::Result<()> {
        self.of = total(dir)?;
        let mut read_up_to = None;
        let current = loop {
            let known = read_up_to;
            let pruned = self.report.pruned;
            let is_new = |file: &Retired| Some(file.first_seq) > known && file.first_seq > pruned;
            for file in retired_files(dir)?.into_iter().filter(is_new) {
                let (file, opened) = file.open(dir)?;
                self.retired(file, opened)?;
                read_up_to = Some(file.first_seq);
            }
            let current = match open_to_read(&dir.join(CURRENT)) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            // A running server may have started a new file after the directory was listed.
            let newest = retired_files(dir)?.last().map(|file| file.first_seq);
            if newest <= read_up_to || newest <= Some(pruned) {
                break current;
            }
        };
        if let Some(file) = current {
            self.ahead(CURRENT, Form::Plain, file, None)?;
        }
        for name in unknown_files(dir)? {
            self.problem(&name, 0, None, ProblemKind::UnknownFile);
        }
        self.check_end();
        Ok(())
    }

    /// Checks a full file.
    pub(crate) fn retired(&mut self, file: Retired, opened: File) -> io::Result<()> {
        self.ahead(&file.name(), file.form, opened, Some(file.first_seq))
    }

    /// Reads and decompresses a file in a thread of its own, and checks it in this one.
    fn ahead(&mut self, name: &str, form: Form, file: File, number: Option<u64>) -> io::Result<()> {
        let counted = Counting::new(file, Arc::clone(&self.bytes));
        match ReadAhead::start(form, counted) {
            Ok(ahead) => self.file(name, ahead, number),
            Err(error) if is_damage(&error) => self.damaged(name, 1),
            Err(error) => Err(error),
        }
    }

    fn damaged(&mut self, name: &str, line: u64) -> io::Result<()> {
        self.torn.clear();
        self.problem(name, line, None, ProblemKind::Damaged);
        Ok(())
    }

    /// Checks a file. `numbered` is the number in the name of a full file; the current file has none.
    fn file(&mut self, name: &str, file: impl Read, numbered: Option<u64>) -> io::Result<()> {
        self.report.files += 1;
        let mut lines = Lines::new(file);
        let mut number = 1;
        let mut records: Option<RangeInclusive<u64>> = None;
        loop {
            let piece = match lines.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) if is_damage(&error) => return self.damaged(name, number),
                Err(error) => return Err(error),
            };
            if number.is_multiple_of(WATCH_LINES) {
                (self.watch)(Progress { bytes: self.bytes.load(Ordering::Relaxed), of: self.of });
            }
            if let Some(line) = piece.record() {
                if let Some(last) = &mut self.last_line {
                    last.clear();
                    last.extend_from_slice(piece.bytes.trim_ascii_end());
                }
                let seq = line.head.seq;
                records = Some(records.map_or(seq, |records| *records.start())..=seq);
                self.line(name, number, &line);
            } else {
                if self.torn.is_empty() {
                    self.torn_line = number;
                }
                self.torn.push(piece.bytes);
            }
            number += u64::from(piece.ends);
        }
        if !self.torn.is_empty() {
            let whole = self.torn.bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let unfinished = self.torn.bytes.len() - whole;
            if numbered.is_none() && whole == 0 && !self.torn.overflowed && can_be_cut_off(&self.torn.bytes) {
                self.report.unfinished_bytes = unfinished as u64;
            } else {
                self.problem(name, self.torn_line, None, ProblemKind::Malformed);
            }
            self.torn.clear();
        }
        // A file whose number is taken gets that of its last record.
        if let (Some(numbered), Some(records)) = (numbered, records)
            && !records.contains(&numbered)
        {
            self.problem(name, 0, None, ProblemKind::Misnumbered { first: *records.start() });
        }
        Ok(())
    }

    fn line(&mut self, file: &str, number: u64, line: &Line<'_>) {
        self.report.records += 1;
        let note = NoteView::of(line);
        let seq = line.head.seq;
        let next = self.report.last.seq + 1;
        let genuine = if seq == next {
            line.follows(self.key, &self.report.last.mac)
        } else {
            // After a gap, only a record with `prev` can be checked.
            let previous = note.as_ref().and_then(NoteView::previous);
            seq > next && previous.is_some_and(|previous| line.follows(self.key, &previous))
        };
        if let (true, Some(see)) = (genuine, &mut self.see) {
            see(line.signed());
        }
        self.account_for_torn(file, genuine, note.as_ref());
        let mut problem = |kind| self.problem(file, number, Some(seq), kind);
        if seq < next {
            return problem(ProblemKind::Repeated);
        }
        if seq > next {
            problem(ProblemKind::Missing { first: next, last: seq - 1 });
        }
        if !genuine && (seq == next || note.as_ref().and_then(NoteView::previous).is_some()) {
            problem(ProblemKind::WrongMac);
        } else if let Some(note) = note.filter(|_| genuine) {
            if note.outcome == "CHAIN_BREAK" {
                problem(ProblemKind::ChainBreak { expected: note.expected.unwrap_or_default() });
            } else if let Some(fault) = note.head_fault() {
                problem(ProblemKind::HeadAtStart(fault));
            }
        }
        if self.memory.marks.iter().any(|mark| mark.seq == seq && !mark.is_of(&line.head)) {
            self.problem(file, number, Some(seq), ProblemKind::WrongHead);
        }
        // Also after an edited record: the next one is chained to the mac that this one had. One edit is reported once,
        // and the records after it are checked.
        self.report.last = line.head;
        if self.tree.is_some() {
            self.grow(file, number, line.head);
        }
    }

    /// Bytes that are not a record must be exactly those that the record after them, a genuine one, accounts for.
    fn account_for_torn(&mut self, file: &str, genuine: bool, note: Option<&NoteView>) {
        let note = note.filter(|note| genuine && note.outcome == "TORN_LINE");
        let torn = self.torn.bytes.strip_suffix(b"\n").filter(|_| !self.torn.overflowed);
        match (torn, note) {
            (None, None) if self.torn.is_empty() => {}
            (Some(torn), Some(note)) if note.accounts_for(self.key, torn) && can_be_cut_off(torn) => {
                self.report.torn += 1;
            }
            _ => self.problem(file, self.torn_line, None, ProblemKind::Malformed),
        }
        self.torn.clear();
    }

    fn check_end(&mut self) {
        self.memory.settle(self.report.records > 0);
        for fault in std::mem::take(&mut self.memory.faults) {
            self.problem(HEAD, 0, None, ProblemKind::Head(fault));
        }
        if let Some(checkpoint) = self.checkpoint.take() {
            let covers = checkpoint.size;
            self.problem(CURRENT, 0, None, ProblemKind::BehindCheckpoint { covers });
        }
        let newest = self.memory.newest();
        let Some(head) = newest.filter(|head| head.seq > self.report.last.seq) else { return };
        self.problem(CURRENT, 0, None, ProblemKind::Truncated { expected: head.seq });
    }

    fn problem(&mut self, file: &str, line: u64, seq: Option<u64>, kind: ProblemKind) {
        if self.report.problems.len() < MOST_PROBLEMS {
            self.report.problems.push(Problem { file: file.to_owned(), line, seq, kind });
        } else {
            self.report.more_problems += 1;
        }
    }
}
