//! Signed notes about the log up to a record: `pruned` for files that were removed, and `tree` for the Merkle tree.
//!
//! Each is a file beside the log: a checkpoint (see `checkpoint.rs`) with further lines after the root:
//!
//! ```text
//! pruned                                     or: tree
//! mac <mac of the last record, 64 digits>
//! subtree <64 digits>                        for each complete subtree of the Merkle tree, the largest first
//! problems <number>                          of the removed files, if there were any
//! ```
//!
//! `pruned` states that the records up to the last one were removed on purpose. `verify` checks the next record with the
//! mac, and later checkpoints with the subtrees. With `tree`, a start continues the tree and does not read the whole log.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::chain::{AuditHead, hex_text, unhex};
use crate::checkpoint::Signer;
use crate::disk::{read_small, replace};
use crate::tree::Tree;

/// More than the longest note.
const MOST_BYTES: u64 = 64 * 1024;

/// Which of the two notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pruned,
    Tree,
}

impl Kind {
    /// The first line of its own, and the name of its file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::Tree => "tree",
        }
    }
}

/// The log up to a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base {
    /// The last record.
    pub(crate) last: AuditHead,
    /// The tree with it as its last leaf.
    pub(crate) tree: Tree,
    /// The number of problems that the records had.
    pub(crate) problems: u64,
}

/// The result of reading a note.
#[derive(Debug)]
pub(crate) enum NoteState {
    None,
    /// It was not signed by this log.
    Forged,
    Genuine(Base),
}

impl Base {
    pub(crate) fn read(dir: &Path, kind: Kind, signer: &Signer) -> io::Result<NoteState> {
        let Some(note) = read_small(dir, kind.name(), MOST_BYTES)? else { return Ok(NoteState::None) };
        let note = String::from_utf8(note).ok();
        Ok(note
            .and_then(|note| Self::open(&note, kind, signer))
            .map_or(NoteState::Forged, NoteState::Genuine))
    }

    /// The log up to the last record that was removed. Without an authentic note, none was.
    pub(crate) fn pruned(dir: &Path, signer: &Signer) -> io::Result<Self> {
        Ok(match Self::read(dir, Kind::Pruned, signer)? {
            NoteState::Genuine(base) => base,
            NoteState::None | NoteState::Forged => Self::default(),
        })
    }

    fn open(note: &str, kind: Kind, signer: &Signer) -> Option<Self> {
        let checkpoint = signer.open(note).ok()?;
        let mut lines = checkpoint.extensions.iter().map(String::as_str).peekable();
        lines.next().filter(|line| *line == kind.name())?;
        let mac = unhex(lines.next()?.strip_prefix("mac ")?.as_bytes())?;
        let mut roots = Vec::new();
        while let Some(root) = lines.peek().and_then(|line| line.strip_prefix("subtree ")) {
            roots.push(unhex(root.as_bytes())?);
            lines.next();
        }
        let problems = match lines.next() {
            Some(line) => line.strip_prefix("problems ")?.parse().ok()?,
            None => 0,
        };
        let tree = Tree::of(checkpoint.size, roots)?;
        let is_complete = lines.next().is_none() && tree.root() == checkpoint.root;
        is_complete.then_some(Self { last: AuditHead { seq: checkpoint.size, mac }, tree, problems })
    }

    /// Writes the note, durably.
    pub(crate) fn write(&self, dir: &Path, kind: Kind, signer: &Signer) -> io::Result<()> {
        let mut lines = vec![kind.name().to_owned(), format!("mac {}", hex_text(&self.last.mac))];
        lines.extend(self.tree.roots().iter().map(|root| format!("subtree {}", hex_text(root))));
        if self.problems > 0 {
            lines.push(format!("problems {}", self.problems));
        }
        replace(dir, kind.name(), signer.sign(&self.tree, &lines).as_bytes())?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    #[test]
    fn a_note_is_authentic_as_its_kind_and_for_its_log_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let signer = Signer::new(&key(1), None).expect("derives");
        for leaves in [0, 1, 5, 64] {
            let mut tree = Tree::default();
            (0..leaves).for_each(|n| tree.push(&[n; 32]));
            let last = AuditHead { seq: tree.size(), mac: [7; 32] };
            for problems in [0, 3] {
                let base = Base { last, tree: tree.clone(), problems };
                base.write(dir.path(), Kind::Tree, &signer).expect("written");
                let read = |kind, signer: &Signer| Base::read(dir.path(), kind, signer).expect("reads");
                assert!(matches!(read(Kind::Tree, &signer), NoteState::Genuine(found) if found == base));
                assert!(matches!(read(Kind::Pruned, &signer), NoteState::None));
                let other = Signer::new(&key(2), None).expect("derives");
                assert!(matches!(read(Kind::Tree, &other), NoteState::Forged));
                // The note about the tree does not excuse removed files.
                std::fs::copy(dir.path().join("tree"), dir.path().join("pruned")).expect("copied");
                assert!(matches!(read(Kind::Pruned, &signer), NoteState::Forged));
                std::fs::remove_file(dir.path().join("pruned")).expect("removed");
            }
        }
        // A checkpoint alone is no note either.
        std::fs::write(dir.path().join("pruned"), signer.sign(&Tree::default(), &[])).expect("written");
        assert!(matches!(Base::read(dir.path(), Kind::Pruned, &signer).expect("reads"), NoteState::Forged));
    }
}
