//! Reading a file of the log from its start, in bounded memory.

use std::io::{self, BufRead, BufReader, Read};

use agentrouter_crypto::InternalKey;

use crate::chain::{AuditHead, GENESIS, Line, MAX_LINE_BYTES};
use crate::disk::LogFile;
use crate::note::NoteView;

/// The most bytes between two records that are kept; a torn write is smaller.
pub(crate) const MOST_TORN_BYTES: usize = 64 * 1024 * 1024;

/// The lines of a file. A line longer than a record comes in pieces.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    piece: Vec<u8>,
    whole_before: bool,
    ended: bool,
}

/// A line or a piece of one.
pub(crate) struct Piece<'a> {
    /// Its bytes, newline included if there is one.
    pub(crate) bytes: &'a [u8],
    /// Whether it ends in a newline.
    pub(crate) ends: bool,
    starts: bool,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader: BufReader::with_capacity(64 * 1024, reader),
            piece: Vec::new(),
            whole_before: true,
            ended: false,
        }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.piece.clear();
        let most = MAX_LINE_BYTES + 1;
        if !self.ended {
            (&mut self.reader).take(most as u64).read_until(b'\n', &mut self.piece)?;
        }
        if self.piece.is_empty() {
            return Ok(None);
        }
        let ends = self.piece.ends_with(b"\n");
        // The end was read. The file may grow meanwhile, but later bytes are not the rest of this line.
        self.ended = !ends && self.piece.len() < most;
        let starts = std::mem::replace(&mut self.whole_before, ends);
        Ok(Some(Piece { bytes: &self.piece, ends, starts }))
    }
}

impl Piece<'_> {
    /// The record in this last line of a file, if only its newline is missing.
    fn record_without_newline(&self) -> Option<Line<'_>> {
        if self.starts && !self.ends { Line::parse(self.bytes) } else { None }
    }

    /// The record in this line, if it is a whole line in the form of a record.
    pub(crate) fn record(&self) -> Option<Line<'_>> {
        if self.starts && self.ends { Line::parse(&self.bytes[..self.bytes.len() - 1]) } else { None }
    }
}

/// The bytes since the last record.
#[derive(Default)]
pub(crate) struct Torn {
    /// The bytes, unless there are too many.
    pub(crate) bytes: Vec<u8>,
    /// There are too many to keep.
    pub(crate) overflowed: bool,
}

impl Torn {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > MOST_TORN_BYTES {
            self.overflowed = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.overflowed
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.overflowed = false;
    }
}

/// The state of a file that a writer needs to continue after it.
#[derive(Default)]
pub(crate) struct Tail {
    /// The number of the first record.
    pub(crate) first_seq: Option<u64>,
    /// The last record.
    pub(crate) last: Option<AuditHead>,
    /// Whether the last record's mac is right, if the record before it is in the file.
    pub(crate) last_is_sealed: Option<bool>,
    /// The last record lacks its newline.
    pub(crate) unended: bool,
    /// The bytes after the last record.
    pub(crate) torn: Torn,
    /// The mac of the record with the requested number.
    pub(crate) asked: Option<[u8; 32]>,
}

impl Tail {
    /// The result of [`Tail::read`] for a file of `bytes`, from as little of its end as necessary: a start does not
    /// read the whole file.
    pub(crate) fn read_end(
        file: &mut dyn LogFile,
        bytes: u64,
        key: &InternalKey,
        asked: Option<u64>,
    ) -> io::Result<Self> {
        for window in [256 * 1024, 4 * 1024 * 1024] {
            let Some(start) = bytes.checked_sub(window).filter(|start| *start > 0) else { break };
            let mut reader = BufReader::with_capacity(64 * 1024, file.reader(start)?);
            // The window begins with the rest of a line.
            reader.skip_until(b'\n')?;
            let tail = Self::read(reader, key, asked)?;
            let is_enough = tail.last_is_sealed.is_some() && (asked.is_none() || tail.asked.is_some());
            if is_enough {
                return Ok(Self { first_seq: Self::first(file.reader(0)?)?, ..tail });
            }
        }
        Self::read(file.reader(0)?, key, asked)
    }

    /// The number of a file's first record.
    pub(crate) fn first(reader: impl Read) -> io::Result<Option<u64>> {
        let mut lines = Lines::new(reader);
        while let Some(piece) = lines.next()? {
            if let Some(line) = piece.record().or_else(|| piece.record_without_newline()) {
                return Ok(Some(line.head.seq));
            }
        }
        Ok(None)
    }

    /// Reads a whole file, and notes the mac of record `asked`.
    ///
    /// Checks only the last record's mac, which shows whether the key is right. `verify` checks all of them.
    pub(crate) fn read(reader: impl Read, key: &InternalKey, asked: Option<u64>) -> io::Result<Self> {
        let mut tail = Self::default();
        let mut lines = Lines::new(reader);
        let mut last_line = Vec::new();
        let mut before_last = None;
        while let Some(piece) = lines.next()? {
            let Some(line) = piece.record().or_else(|| piece.record_without_newline()) else {
                tail.torn.push(piece.bytes);
                continue;
            };
            tail.torn.clear();
            tail.unended = !piece.ends;
            tail.first_seq.get_or_insert(line.head.seq);
            if asked == Some(line.head.seq) {
                tail.asked = Some(line.head.mac);
            }
            before_last = tail.last.replace(line.head);
            last_line.clear();
            last_line.extend_from_slice(piece.bytes.strip_suffix(b"\n").unwrap_or(piece.bytes));
        }
        tail.last_is_sealed = Line::parse(&last_line).and_then(|line| {
            let previous = match NoteView::of(&line).and_then(|note| note.previous()) {
                Some(previous) => previous,
                None if line.head.seq == 1 => GENESIS,
                None => before_last?.mac,
            };
            Some(line.follows(key, &previous))
        });
        Ok(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Current;
    use crate::testing::key;

    /// A log of `records`, each with its own `length`, followed by `torn`.
    fn log(records: u64, length: usize, torn: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut head = AuditHead::default();
        for _ in 0..records {
            let members = format!(",\"x\":\"{}\"", "y".repeat(length));
            head.seal(&key(1), members.as_bytes(), &mut out);
        }
        out.extend_from_slice(torn);
        out
    }

    fn shown(tail: &Tail) -> impl PartialEq + std::fmt::Debug + use<> {
        let Tail { first_seq, last, last_is_sealed, unended, torn, asked } = tail;
        (*first_seq, *last, *last_is_sealed, *unended, torn.bytes.clone(), torn.overflowed, *asked)
    }

    #[test]
    fn the_end_of_a_file_gives_the_same_result_as_the_whole_file() {
        let huge = [b"no record\n".repeat(500_000), b"half a rec".to_vec()].concat();
        let path = tempfile::NamedTempFile::new().expect("a file");
        for (records, length) in [(0, 10), (1, 10), (2, 4000), (900, 4000), (20_000, 200)] {
            for torn in [&b""[..], b"{\"seq\":", b"rest\nof\n", &huge] {
                let log = log(records, length, torn);
                std::fs::write(&path, &log).expect("written");
                let mut file = Current(std::fs::File::open(&path).expect("opened"));
                for asked in [None, Some(1), Some(records / 2), Some(records.max(2) - 1), Some(records + 1)] {
                    let whole = Tail::read(&log[..], &key(1), asked).expect("reads");
                    let end = Tail::read_end(&mut file, log.len() as u64, &key(1), asked).expect("reads");
                    assert_eq!(shown(&end), shown(&whole), "{records} {length} {asked:?}");
                }
            }
        }
    }
}
