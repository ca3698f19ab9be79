//! The Merkle tree over the log (RFC 6962, §2.1), of which a checkpoint is the root.
//!
//! Leaf `n` is the mac of record `n`, from 1; a mac authenticates the content of its record and every record before. The
//! leaf of a number without a record, after a truncation, is 32 zeros. Only the roots of the complete subtrees are kept: at
//! most 64 hashes, whatever the size. This is enough to add leaves and to compute the root.

use agentrouter_crypto::Sha256;

/// The mac of a number without a record.
pub(crate) const NO_RECORD: [u8; 32] = [0; 32];

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
        let mut node = hash(&[&[0], mac]);
        // As many subtrees are completed as the size ends in ones.
        for _ in 0..self.size.trailing_ones() {
            let left = self.roots.pop().unwrap_or_default();
            node = hash(&[&[1], &left, &node]);
        }
        self.roots.push(node);
        self.size += 1;
    }

    /// Adds the leaf of record `seq`, after those of numbers that are missing before it. An earlier number adds nothing.
    pub(crate) fn push_record(&mut self, seq: u64, mac: &[u8; 32]) {
        while self.size + 1 < seq {
            self.push(&NO_RECORD);
        }
        if self.size + 1 == seq {
            self.push(mac);
        }
    }

    /// The root of all leaves.
    pub(crate) fn root(&self) -> [u8; 32] {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else { return hash(&[]) };
        roots.fold(*last, |right, left| hash(&[&[1], left, &right]))
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let hex = |bytes: [u8; 32]| String::from_utf8_lossy(&crate::chain::hex(&bytes)).into_owned();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(Tree::default().root()), empty);
        // SHA-256 of 33 zeros.
        let mut tree = Tree::default();
        tree.push(&NO_RECORD);
        assert_eq!(hex(tree.root()), "7f9c9e31ac8256ca2f258583df262dbc7d6f68f2a03043d5c99a4ae5a7396ce9");
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
}
