//! The checkpoint of the log as it is now.
//!
//! The tree is computed from the files, and only when a checkpoint is made, so appends do no more work. It continues from
//! the note `tree`. Without one it starts at the first record and reads the whole log once.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::{Base, Kind, NoteState};
use crate::checkpoint::Signer;
use crate::cursor::Cursor;

/// The tree of a log, and where to continue.
pub(crate) struct Anchor {
    dir: PathBuf,
    state: Option<(Base, Cursor)>,
}

impl Anchor {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), state: None }
    }

    /// A signed checkpoint of the records up to number `last`, which are on disk. Stores the tree before it signs, so that no
    /// later checkpoint contradicts it.
    pub(crate) fn checkpoint(&mut self, last: u64, signer: &Signer) -> io::Result<String> {
        let pruned = Base::pruned(&self.dir, signer)?;
        // Files that were removed since the last checkpoint cannot be read. The note about them has the tree.
        let (mut base, mut cursor) = match self.state.take() {
            Some(state) if state.0.last.seq >= pruned.last.seq => state,
            _ => self.load(last, pruned, signer)?,
        };
        let before = base.last.seq;
        let read = cursor.read(last, &mut |line| {
            base.tree.push_record(line.head.seq, &line.head.mac);
            base.last = line.head;
            true
        });
        if base.last.seq != before {
            base.write(&self.dir, Kind::Tree, signer)?;
        }
        let note = signer.sign(&base.tree, &[]);
        self.state = Some((base, cursor));
        read.map(|()| note)
    }

    /// The stored tree, unless it covers records that the log lacks, or fewer than were removed.
    fn load(&self, last: u64, pruned: Base, signer: &Signer) -> io::Result<(Base, Cursor)> {
        let base = match Base::read(&self.dir, Kind::Tree, signer)? {
            NoteState::Genuine(base) if base.last.seq >= pruned.last.seq && base.last.seq <= last => base,
            _ => Base { problems: 0, ..pruned },
        };
        let cursor = Cursor::new(&self.dir, base.last.seq + 1);
        Ok((base, cursor))
    }
}
