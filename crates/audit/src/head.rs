//! The head of the log: its last record, which is remembered outside the log, so that a truncation is found.
//!
//! It is in two places, and each shows a change of the other:
//!
//! * in the store, as a row that [`Audit::keep_head`](crate::Audit::keep_head) makes;
//! * in the file `head` beside the log, which also records whether the store has a row. So a deleted row differs from a
//!   store that never had one.
//!
//! Both are authenticated with the log's key:
//!
//! ```text
//! row   seq, and 32 bytes: mark ‖ HMAC(key, domain of rows ‖ seq ‖ mark)[..16]
//! file  {"seq":7,"mark":"<32 digits>","row":true,"epoch":"…","tag":"<64 digits>"}⏎
//!       tag = HMAC(key, domain of files ‖ seq ‖ mark ‖ row ‖ epoch)
//! ```
//!
//! `epoch` is that of the store. A store that was restored since has another one, and may lack the row. `mark` is the
//! first half of the record's mac. `seq` has eight bytes, big-endian. Version 0.1 had the mac itself in the row, and no
//! file. Such a row is accepted unless a file contradicts it.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use agentrouter_crypto::InternalKey;
use serde::{Deserialize, Serialize};

use crate::chain::{AuditHead, hex_text, unhex};
use crate::disk::{read_small, replace};

/// The name of the file.
pub(crate) const HEAD: &str = "head";
/// Take the place of the previous mac in what is authenticated. No mac has these values.
const ROW_DOMAIN: &[u8; 32] = b"agentrouter audit head row v1\n\n\n";
const FILE_DOMAIN: &[u8; 32] = b"agentrouter audit head file v1\n\n";
/// More than the longest file.
const MOST_BYTES: u64 = 1024;

/// The head as the store keeps it: the number of the record, and 32 bytes that authenticate it.
pub type Row = (u64, [u8; 32]);

/// What the store has of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRow {
    /// This row.
    Kept(Row),
    /// No row. A fault if the store had one.
    Missing,
    /// No row, because the store is being filled by a restore or a migration.
    NotYet,
}

impl From<Option<Row>> for HeadRow {
    fn from(row: Option<Row>) -> Self {
        row.map_or(Self::Missing, Self::Kept)
    }
}

/// What is wrong with the remembered heads themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// The store had a row and has none.
    RowMissing,
    /// The row in the store was not made with the log's key.
    RowForged,
    /// There is a row in the store, and no file.
    FileMissing,
    /// The file was not made with the log's key.
    FileForged,
    /// There are records, and neither a row nor a file.
    BothMissing,
}

impl HeadFault {
    pub(crate) const ALL: [Self; 5] =
        [Self::RowMissing, Self::RowForged, Self::FileMissing, Self::FileForged, Self::BothMissing];

    /// The reason in the log's own record.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::RowMissing => "ROW_MISSING",
            Self::RowForged => "ROW_FORGED",
            Self::FileMissing => "FILE_MISSING",
            Self::FileForged => "FILE_FORGED",
            Self::BothMissing => "BOTH_MISSING",
        }
    }
}

impl fmt::Display for HeadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RowMissing => "the store has lost the head of the audit log: its row was deleted, or the store was rolled back",
            Self::RowForged => "the head of the audit log in the store is not authentic: its row was edited",
            Self::FileMissing => "the file 'head' of the audit log is missing, and the store has a head",
            Self::FileForged => "the file 'head' of the audit log is not authentic: it was edited or damaged",
            Self::BothMissing => "neither the store nor the file 'head' remembers the head of the audit log, and there are records",
        })
    }
}

/// A record that the log must contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    mark: [u8; 16],
}

impl Mark {
    pub(crate) fn is_of(&self, record: &AuditHead) -> bool {
        self.seq == record.seq && record.mac[..16] == self.mark
    }

    /// A head with this number, for a log that lacks the record.
    pub(crate) fn as_head(&self) -> AuditHead {
        let mut head = AuditHead { seq: self.seq, mac: [0; 32] };
        head.mac[..16].copy_from_slice(&self.mark);
        head
    }

    /// The row for the store.
    pub(crate) fn row(&self, key: &InternalKey) -> Row {
        let mut row = [0; 32];
        row[..16].copy_from_slice(&self.mark);
        row[16..].copy_from_slice(&self.row_tag(key));
        (self.seq, row)
    }

    fn row_tag(&self, key: &InternalKey) -> [u8; 16] {
        let tag = key.mac(&[ROW_DOMAIN, &self.seq.to_be_bytes(), &self.mark]);
        let mut half = [0; 16];
        half.copy_from_slice(&tag[..16]);
        half
    }

    /// The mark of a row, and whether it is authentic.
    fn of_row((seq, row): Row, key: &InternalKey) -> (Self, bool) {
        let mark = Self::from(AuditHead { seq, mac: row });
        (mark, agentrouter_crypto::digests_equal(&mark.row(key).1, &row))
    }
}

impl From<AuditHead> for Mark {
    fn from(head: AuditHead) -> Self {
        let mut mark = [0; 16];
        mark.copy_from_slice(&head.mac[..16]);
        Self { seq: head.seq, mark }
    }
}

/// What is remembered of the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The records that the log must contain.
    pub(crate) marks: Vec<Mark>,
    pub(crate) faults: Vec<HeadFault>,
    /// The file records that the store has a row.
    pub(crate) row_is_known: bool,
    /// The file must be written before the first record.
    pub(crate) file_is_due: bool,
}

impl Memory {
    /// Compares the file in `dir` with what the store of this epoch has.
    pub(crate) fn recall(dir: &Path, key: &InternalKey, row: HeadRow, epoch: &str) -> io::Result<Self> {
        let file = HeadFile::read(dir, key)?;
        let mut memory = Self::default();
        let known = match &file {
            HeadState::Genuine(file) => {
                memory.marks.push(file.mark);
                memory.row_is_known = file.has_row;
                file.has_row && (file.epoch == epoch || matches!(row, HeadRow::Kept(_)))
            }
            HeadState::Forged => {
                memory.faults.push(HeadFault::FileForged);
                true
            }
            HeadState::None => false,
        };
        match row {
            HeadRow::Kept(row) => {
                let (mark, is_authentic) = Mark::of_row(row, key);
                if is_authentic || !known {
                    memory.marks.push(mark);
                } else {
                    memory.faults.push(HeadFault::RowForged);
                }
                if is_authentic && mark.seq > 0 && matches!(file, HeadState::None) {
                    memory.faults.push(HeadFault::FileMissing);
                }
                memory.row_is_known &= is_authentic;
            }
            HeadRow::Missing if known => memory.faults.push(HeadFault::RowMissing),
            HeadRow::Missing | HeadRow::NotYet => memory.row_is_known = false,
        }
        let is_current = match &file {
            HeadState::Genuine(file) => file.has_row == memory.row_is_known && file.epoch == epoch,
            HeadState::None | HeadState::Forged => false,
        };
        memory.file_is_due = !is_current && memory.faults.is_empty();
        memory.marks.retain(|mark| mark.seq > 0);
        if matches!(file, HeadState::None) && row == HeadRow::Missing {
            // A fault if there are records.
            memory.faults.push(HeadFault::BothMissing);
        }
        Ok(memory)
    }

    /// Two missing heads are a fault only if the log has records.
    pub(crate) fn settle(&mut self, has_records: bool) {
        if !has_records {
            self.faults.retain(|fault| *fault != HeadFault::BothMissing);
        }
    }

    /// The newest record that the log must contain.
    pub(crate) fn newest(&self) -> Option<Mark> {
        self.marks.iter().copied().max_by_key(|mark| mark.seq)
    }
}

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadFile {
    pub(crate) mark: Mark,
    /// The store has a row.
    pub(crate) has_row: bool,
    /// The store's epoch.
    pub(crate) epoch: String,
}

enum HeadState {
    None,
    Forged,
    Genuine(HeadFile),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    seq: u64,
    mark: String,
    row: bool,
    epoch: String,
    tag: String,
}

impl HeadFile {
    fn tag(&self, key: &InternalKey) -> [u8; 32] {
        let row = [u8::from(self.has_row)];
        key.mac(&[FILE_DOMAIN, &self.mark.seq.to_be_bytes(), &self.mark.mark, &row, self.epoch.as_bytes()])
    }

    fn read(dir: &Path, key: &InternalKey) -> io::Result<HeadState> {
        let Some(text) = read_small(dir, HEAD, MOST_BYTES)? else { return Ok(HeadState::None) };
        Ok(Self::parse(&text, key).map_or(HeadState::Forged, HeadState::Genuine))
    }

    fn parse(text: &[u8], key: &InternalKey) -> Option<Self> {
        let written: Written = serde_json::from_slice(text).ok()?;
        // The mark is half as long as what `unhex` takes.
        let mac = unhex(format!("{}{}", written.mark, "0".repeat(32)).as_bytes())?;
        let tag = unhex(written.tag.as_bytes())?;
        let file = Self {
            mark: Mark::from(AuditHead { seq: written.seq, mac }),
            has_row: written.row,
            epoch: written.epoch,
        };
        agentrouter_crypto::digests_equal(&file.tag(key), &tag).then_some(file)
    }

    /// Writes the file. It is on disk when this returns; its name too, if `durably`: a name that a power failure takes back
    /// leaves the head before.
    pub(crate) fn write(&self, dir: &Path, key: &InternalKey, durably: bool) -> io::Result<()> {
        let mut mark = hex_text(&self.mark.as_head().mac);
        mark.truncate(32);
        let written = Written {
            seq: self.mark.seq,
            mark,
            row: self.has_row,
            epoch: self.epoch.clone(),
            tag: hex_text(&self.tag(key)),
        };
        let mut text = serde_json::to_vec(&written)?;
        text.push(b'\n');
        replace(dir, HEAD, &text)?;
        if durably { File::open(dir)?.sync_all() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::key;

    fn head(seq: u64) -> AuditHead {
        AuditHead { seq, mac: [u8::try_from(seq).expect("small"); 32] }
    }

    fn faults(dir: &Path, row: HeadRow) -> Vec<HeadFault> {
        let mut memory = Memory::recall(dir, &key(1), row, "e").expect("reads");
        memory.settle(true);
        memory.faults
    }

    #[test]
    fn each_place_is_compared_with_the_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        let row = |seq| HeadRow::Kept(Mark::from(head(seq)).row(&key(1)));
        let old = |seq| HeadRow::Kept((seq, head(seq).mac));
        let write = |seq, has_row| {
            let epoch = "e".to_owned();
            HeadFile { mark: head(seq).into(), has_row, epoch }.write(path, &key(1), true).expect("written");
        };
        // No file.
        assert_eq!(faults(path, HeadRow::NotYet), []);
        assert_eq!(faults(path, old(3)), []);
        assert_eq!(faults(path, row(3)), [HeadFault::FileMissing]);
        assert_eq!(faults(path, HeadRow::Missing), [HeadFault::BothMissing]);
        let mut new = Memory::recall(path, &key(1), HeadRow::Missing, "e").expect("reads");
        new.settle(false);
        assert_eq!((new.newest(), new.file_is_due, new.faults), (None, true, vec![]));
        // A file from before the store had a row.
        write(0, false);
        for fine in [HeadRow::Missing, HeadRow::NotYet, old(3), row(3)] {
            assert_eq!(faults(path, fine), [], "{fine:?}");
        }
        // A file that knows of a row.
        write(5, true);
        assert_eq!(faults(path, row(5)), []);
        assert_eq!(faults(path, HeadRow::NotYet), []);
        assert_eq!(faults(path, HeadRow::Missing), [HeadFault::RowMissing]);
        assert_eq!(faults(path, old(5)), [HeadFault::RowForged]);
        for (row, newest) in [(row(4), 5), (row(6), 6), (HeadRow::Missing, 5), (old(9), 5)] {
            let memory = Memory::recall(path, &key(1), row, "e").expect("reads");
            assert_eq!(memory.newest().map(|mark| mark.seq), Some(newest), "{row:?}");
        }
        // A store that was restored since has no rows of other servers.
        for (row, fault) in [(HeadRow::Missing, None), (row(5), None), (old(5), Some(HeadFault::RowForged))] {
            let memory = Memory::recall(path, &key(1), row, "restored").expect("reads");
            assert_eq!(memory.faults.first().copied(), fault, "{row:?}");
            assert_eq!(memory.newest().map(|mark| mark.seq), Some(5));
            assert_eq!(memory.file_is_due, fault.is_none());
        }
        // Another key, and any changed byte.
        let memory = Memory::recall(path, &key(2), HeadRow::NotYet, "e").expect("reads");
        assert_eq!(memory.faults, [HeadFault::FileForged]);
        let whole = fs::read(path.join(HEAD)).expect("reads");
        for at in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(path.join(HEAD), &changed).expect("writes");
            assert_eq!(faults(path, row(5)), [HeadFault::FileForged], "byte {at}");
        }
    }

    #[test]
    fn a_row_is_authentic_for_its_number_only() {
        let (seq, row) = Mark::from(head(7)).row(&key(1));
        assert!(Mark::of_row((seq, row), &key(1)).1);
        assert!(!Mark::of_row((seq, row), &key(2)).1);
        assert!(!Mark::of_row((seq + 1, row), &key(1)).1);
        for bit in 0..256 {
            let mut changed = row;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!Mark::of_row((seq, changed), &key(1)).1, "bit {bit}");
        }
    }
}
