//! Reading the records of a log in order while it is written: for the Merkle tree, and to ship them.
//!
//! A cursor reads up to a record that is on disk, and remembers where it stopped: the file and the byte. The file may be
//! renamed and compressed meanwhile. The records are not checked: `verify` does that.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::chain::Line;
use crate::disk::{CURRENT, Form, content, open_to_read, retired_files};
use crate::scan::{Lines, Tail};

/// The end of the records that were read.
pub(crate) struct Cursor {
    dir: PathBuf,
    /// The next number.
    next: u64,
    /// The number of the first record of the file that was read last, and the bytes of it that were read.
    at: Option<(u64, u64)>,
}

/// A file that is read.
struct Opened {
    first_seq: u64,
    form: Form,
    file: File,
    is_current: bool,
}

impl Cursor {
    /// A cursor before record `next`.
    pub(crate) fn new(dir: &Path, next: u64) -> Self {
        Self { dir: dir.to_owned(), next, at: None }
    }

    /// Passes the records up to number `last`, which must be on disk, to `take`, until that returns false. Numbers that are
    /// missing are left out.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn read(&mut self, last: u64, take: &mut dyn FnMut(&Line<'_>) -> bool) -> io::Result<()> {
        let mut exhausted = 0;
        while self.next <= last {
            let Some(opened) = self.open(exhausted)? else {
                // The end of the log is missing.
                self.next = last + 1;
                break;
            };
            let is_current = opened.is_current;
            exhausted = opened.first_seq;
            if !self.read_file(opened, last, take)? {
                return Ok(());
            }
            if is_current && self.next <= last {
                // It may have been renamed since it was opened. Then the next one is current.
                let renamed = retired_files(&self.dir)?.iter().any(|file| file.first_seq == exhausted);
                if !renamed {
                    self.next = last + 1;
                }
            }
        }
        Ok(())
    }

    /// Returns whether to continue with the next file.
    fn read_file(
        &mut self,
        opened: Opened,
        last: u64,
        take: &mut dyn FnMut(&Line<'_>) -> bool,
    ) -> io::Result<bool> {
        let Opened { first_seq, form, mut file, .. } = opened;
        let skip = self.at.filter(|(file, _)| *file == first_seq).map_or(0, |(_, bytes)| bytes);
        let reader: Box<dyn Read> = match form {
            Form::Plain => {
                file.seek(SeekFrom::Start(skip))?;
                Box::new(file)
            }
            Form::Zstd => {
                let mut content = content(form, file)?;
                io::copy(&mut (&mut content).take(skip), &mut io::sink())?;
                content
            }
        };
        let mut lines = Lines::new(reader);
        let mut bytes = skip;
        while let Some(piece) = lines.next()? {
            bytes += piece.bytes.len() as u64;
            let Some(line) = piece.record().filter(|line| line.head.seq >= self.next) else { continue };
            if line.head.seq > last {
                break;
            }
            if !take(&line) {
                return Ok(false);
            }
            self.next = line.head.seq + 1;
            self.at = Some((first_seq, bytes));
            if self.next > last {
                break;
            }
        }
        Ok(true)
    }

    /// The file that contains the next record, or else the first one with later records. `exhausted` is the number of a file
    /// that was read completely.
    fn open(&self, exhausted: u64) -> io::Result<Option<Opened>> {
        // The current file first: if it is renamed meanwhile, the list of full files below contains it.
        let current = match open_to_read(&self.dir.join(CURRENT)) {
            Ok(mut file) => {
                let first = Tail::first(&mut file)?;
                first.map(|first_seq| Opened { first_seq, form: Form::Plain, file, is_current: true })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(current) = current.as_ref().filter(|current| current.first_seq <= self.next)
            && current.first_seq > exhausted
        {
            return Ok(Some(Opened { file: current.file.try_clone()?, ..*current }));
        }
        let files = retired_files(&self.dir)?;
        let holding = files.iter().rev().find(|file| file.first_seq <= self.next);
        let next = files.iter().find(|file| file.first_seq > exhausted.max(self.next));
        match holding.filter(|file| file.first_seq > exhausted).or(next) {
            Some(file) => {
                let first_seq = file.first_seq;
                let (file, opened) = file.open(&self.dir)?;
                Ok(Some(Opened { first_seq, form: file.form, file: opened, is_current: false }))
            }
            None => Ok(current.filter(|current| current.first_seq > exhausted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, record, settings};
    use crate::{Audit, HeadRow, Settings};

    fn numbers(cursor: &mut Cursor, last: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut take = |line: &Line<'_>| {
            numbers.push(line.head.seq);
            true
        };
        cursor.read(last, &mut take).expect("reads");
        numbers
    }

    #[tokio::test]
    async fn every_record_comes_once_in_order_while_files_fill_and_are_compressed() {
        let dir = tempfile::tempdir().expect("a directory");
        let small = Settings { max_bytes: 2000, compress: true, ..settings(dir.path()) };
        let audit = Audit::open(small, key(1), HeadRow::Missing).expect("opens");
        let mut cursor = Cursor::new(dir.path(), 1);
        let mut seen = Vec::new();
        for round in 0..40 {
            for _ in 0..round % 9 {
                audit.append(record("r")).await.expect("is written");
            }
            audit.flush().await.expect("is flushed");
            seen.extend(numbers(&mut cursor, audit.synced_head().seq));
        }
        let all: Vec<u64> = (1..=audit.synced_head().seq).collect();
        assert_eq!(seen, all);
        audit.close().await.expect("closes");
        // From the start, and from each record on.
        for next in 1..=all.len() {
            assert_eq!(numbers(&mut Cursor::new(dir.path(), next as u64), all.len() as u64), all[next - 1..]);
        }
    }

    #[tokio::test]
    async fn a_missing_file_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let small = Settings { max_bytes: 2000, ..settings(dir.path()) };
        let audit = Audit::open(small, key(1), HeadRow::Missing).expect("opens");
        for _ in 0..40 {
            audit.append(record("r")).await.expect("is written");
        }
        audit.close().await.expect("closes");
        let files = retired_files(dir.path()).expect("lists");
        std::fs::remove_file(dir.path().join(files[1].name())).expect("removed");
        let expected: Vec<u64> =
            (1..=40).filter(|seq| *seq < files[1].first_seq || *seq >= files[2].first_seq).collect();
        assert_eq!(numbers(&mut Cursor::new(dir.path(), 1), 40), expected);
        assert_eq!(numbers(&mut Cursor::new(dir.path(), 1), 45), expected, "the end is missing");
    }

    #[tokio::test]
    async fn a_reader_that_stops_continues_where_it_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let audit = Audit::open(settings(dir.path()), key(1), HeadRow::Missing).expect("opens");
        for _ in 0..10 {
            audit.append(record("r")).await.expect("is written");
        }
        audit.close().await.expect("closes");
        let mut cursor = Cursor::new(dir.path(), 1);
        let mut taken = 0;
        let mut take = |_: &Line<'_>| {
            taken += 1;
            taken <= 3
        };
        cursor.read(10, &mut take).expect("reads");
        assert_eq!(cursor.next, 4);
        assert_eq!(numbers(&mut cursor, 10), (4..=10).collect::<Vec<_>>());
    }
}
