//! Incremental SHA-256 (FIPS 180-4).

use std::fmt;

use crate::hazmat::Hasher;

/// The hash of a file or a stream. It is not a MAC: an attacker can replace both the data and the hash. See
/// [`InternalKey::mac`](crate::InternalKey::mac).
#[derive(Clone)]
pub struct Sha256(Hasher);

impl Sha256 {
    /// A hash without input.
    pub fn new() -> Self {
        Self(Hasher::new())
    }

    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces.
    pub fn finish(self) -> [u8; 32] {
        self.0.finish()
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hazmat::sha256;

    #[test]
    fn pieces_hash_as_the_whole_does() {
        let mut hash = Sha256::new();
        [&b"ab"[..], b"", b"c"].iter().for_each(|piece| hash.update(piece));
        assert_eq!(hash.finish(), sha256(b"abc"));
        assert_eq!(Sha256::new().finish(), sha256(b""));
    }
}
