//! The Merkle tree over the log (RFC 6962, §2.1), of which a checkpoint is the root.
//!
//! Leaf `n` is the mac of record `n`, from 1; a mac authenticates the content of its record and every record before. The
//! leaf of a number without a record, after a truncation, is 32 zeros. Only the roots of the complete subtrees are kept: at
//! most 64 hashes, whatever the size. This is enough to add leaves and to compute the root.

use std::sync::LazyLock;

use agentrouter_crypto::Sha256;

/// The mac of a number without a record.
pub(crate) const NO_RECORD: [u8; 32] = [0; 32];

/// The roots of the complete subtrees without a record, by level.
static NO_RECORDS: LazyLock<[[u8; 32]; 64]> = LazyLock::new(|| {
    let mut node = leaf(&NO_RECORD);
    std::array::from_fn(|_| {
        let next = parent(&node, &node);
        std::mem::replace(&mut node, next)
    })
});

/// A tree of `size` leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    size: u64,
    /// The roots of the complete subtrees, the largest first.
    roots: Vec<[u8; 32]>,
}

impl Tree {
    /// The tree with these subtrees, if there are as many as the size needs.
    pub(crate) fn of(size: u64, roots: Vec<[u8; 32]>) -> Option<Self> {
        (roots.len() == size.count_ones() as usize).then_some(Self { size, roots })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn roots(&self) -> &[[u8; 32]] {
        &self.roots
    }

    /// Adds the next leaf.
    pub(crate) fn push(&mut self, mac: &[u8; 32]) {
        self.push_subtree(0, leaf(mac));
    }

    /// Adds the leaf of record `seq`, after those of numbers that are missing before it. An earlier number adds nothing. The
    /// number may be forged, so the time does not grow with it.
    pub(crate) fn push_record(&mut self, seq: u64, mac: &[u8; 32]) {
        let Some(before) = seq.checked_sub(1).filter(|before| *before >= self.size) else { return };
        while self.size < before {
            let level = self.size.trailing_zeros().min((before - self.size).ilog2());
            self.push_subtree(level, NO_RECORDS[level as usize]);
        }
        self.push(mac);
    }

    /// Adds a complete subtree of 2^`level` leaves. The size is a multiple of that.
    fn push_subtree(&mut self, level: u32, mut node: [u8; 32]) {
        // As many subtrees are completed as the size ends in ones.
        for _ in 0..(self.size >> level).trailing_ones() {
            let left = self.roots.pop().unwrap_or_default();
            node = parent(&left, &node);
        }
        self.roots.push(node);
        self.size += 1 << level;
    }

    /// The root of all leaves.
    pub(crate) fn root(&self) -> [u8; 32] {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else { return hash(&[]) };
        roots.fold(*last, |right, left| parent(left, &right))
    }
}

fn leaf(mac: &[u8; 32]) -> [u8; 32] {
    hash(&[&[0], mac])
}

fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    hash(&[&[1], left, right])
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::hex_text;

    /// The definition of RFC 6962.
    fn defined(leaves: &[[u8; 32]]) -> [u8; 32] {
        match leaves {
            [] => hash(&[]),
            [leaf] => hash(&[&[0], leaf]),
            _ => {
                let split = (leaves.len() - 1).checked_ilog2().map_or(1, |bits| 1 << bits);
                let (left, right) = leaves.split_at(split);
                hash(&[&[1], &defined(left), &defined(right)])
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_definition_at_every_size() {
        let leaves: Vec<[u8; 32]> = (0..130).map(|n| [n; 32]).collect();
        let mut tree = Tree::default();
        for size in 0..leaves.len() {
            assert_eq!(tree.root(), defined(&leaves[..size]), "{size}");
            assert_eq!(Tree::of(tree.size(), tree.roots().to_vec()), Some(tree.clone()));
            tree.push(&leaves[size]);
        }
        assert_eq!(Tree::of(3, vec![[0; 32]]), None);
    }

    #[test]
    fn the_empty_tree_and_one_leaf_have_the_published_hashes() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex_text(&Tree::default().root()), empty);
        // SHA-256 of 33 zeros.
        let mut tree = Tree::default();
        tree.push(&NO_RECORD);
        assert_eq!(
            hex_text(&tree.root()),
            "7f9c9e31ac8256ca2f258583df262dbc7d6f68f2a03043d5c99a4ae5a7396ce9"
        );
    }

    #[test]
    fn missing_numbers_have_leaves() {
        let mut tree = Tree::default();
        tree.push_record(1, &[1; 32]);
        tree.push_record(4, &[4; 32]);
        tree.push_record(2, &[9; 32]);
        assert_eq!(tree.size(), 4);
        assert_eq!(tree.root(), defined(&[[1; 32], NO_RECORD, NO_RECORD, [4; 32]]));
    }

    #[test]
    fn a_gap_of_any_size_anywhere_is_that_many_leaves() {
        let mut tree = Tree::default();
        for size in 0..70 {
            let mut expected = tree.clone();
            for gap in 0..200 {
                let mut with_gap = tree.clone();
                with_gap.push_record(size + gap + 1, &[7; 32]);
                let mut last = expected.clone();
                last.push(&[7; 32]);
                assert_eq!(with_gap, last, "{gap} after {size}");
                expected.push(&NO_RECORD);
            }
            tree.push(&[u8::try_from(size).expect("small"); 32]);
        }
    }

    /// A loop over the numbers would not end.
    #[test]
    fn a_number_of_any_size_ends_at_once() {
        for seq in [1 << 62, 1 << 63, 9_999_999_999_999_999_999, u64::MAX] {
            for size in 0..5 {
                let mut tree = Tree::default();
                (0..size).for_each(|_| tree.push(&NO_RECORD));
                let mut earlier = tree.clone();
                earlier.push_record(0, &[7; 32]);
                assert_eq!(earlier, tree);
                tree.push_record(seq, &NO_RECORD);
                // However it was reached, a tree without a record is the same.
                let mut at_once = Tree::default();
                at_once.push_record(seq, &NO_RECORD);
                assert_eq!((tree.size(), tree.root()), (seq, at_once.root()));
                assert_eq!(Tree::of(seq, tree.roots().to_vec()), Some(at_once.clone()));
                at_once.push_record(seq, &[7; 32]);
                assert_eq!(at_once, tree);
            }
        }
    }
}
