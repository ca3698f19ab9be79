//! Raw cryptographic primitives of `aws-lc-rs`, without any decision on their use.
//!
//! AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags, HKDF-SHA-256 (RFC 5869), HMAC-SHA-256
//! (RFC 2104), SHA-256 (FIPS 180-4) and Ed25519 (RFC 8032). Argon2id (RFC 9106) is that of the crate `argon2`, because
//! `aws-lc-rs` has none. AES-256-CMAC (NIST SP 800-38B) uses the block cipher of the crate `aes` (see [`CmacKey`]). Private to
//! this crate, because a reused nonce breaks all confidentiality: only `wrap` and `envelope` choose nonces, salts and keys. This
//! is the only module that uses the words encrypt and decrypt.
//!
//! The tests check it against the Wycheproof vectors.

#[cfg(test)]
mod wycheproof;

use aes::cipher::consts::U16;
use aes::cipher::{
    BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt as _, BlockSizeUser, KeyInit as _,
};
use aes::{Aes256Enc, Block};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use aws_lc_rs::{digest, hkdf, hmac};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of every key.
pub(crate) const KEY_LEN: usize = 32;
/// Bytes of a GCM nonce.
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of a GCM tag.
pub(crate) const TAG_LEN: usize = 16;

/// 32 secret bytes, wiped when dropped.
pub(crate) type Key = Zeroizing<[u8; KEY_LEN]>;

/// A primitive failed: the tag does not verify, a length is wrong, or the library is out of memory.
#[derive(Debug)]
pub(crate) struct Refused;

impl From<aws_lc_rs::error::Unspecified> for Refused {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// Writes ciphertext and tag to `out`, which must be `TAG_LEN` longer than `plaintext`.
///
/// The same pair of `key` and `nonce` must never be used twice.
pub(crate) fn encrypt(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<(), Refused> {
    let (ciphertext, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(Refused)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?);
    let nonce = Nonce::assume_unique_for_key(*nonce);
    Ok(key.seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, ciphertext, &[], tag)?)
}

/// Writes the plaintext of `ciphertext_and_tag` to `out`, which must be `TAG_LEN` shorter, if the tag verifies.
///
/// GCM computes the plaintext before it verifies the tag, so `out` is wiped if the tag does not verify (RUSTSEC-2023-0096
/// is about a library that left it there). The library clears it too, but this code does not rely on that.
pub(crate) fn decrypt(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    ciphertext_and_tag: &[u8],
    out: &mut [u8],
) -> Result<(), Refused> {
    let (ciphertext, tag) = ciphertext_and_tag.split_last_chunk::<TAG_LEN>().ok_or(Refused)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?);
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = key.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out);
    if opened.is_err() {
        out.zeroize();
    }
    Ok(opened?)
}

/// The cost of Argon2id. It is stored beside what the key wraps, so it is bounded: a forged file cannot take all memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Argon2Cost {
    /// RFC 9106, §4, the second recommended option: 64 MiB, 3 passes, 4 lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// At most 1 GiB, 16 passes and 16 lanes, and at least 8 KiB for each lane. `None` for any other cost.
    pub const fn new(memory_kib: u32, passes: u32, lanes: u32) -> Option<Self> {
        let lanes_fit = lanes >= 1 && lanes <= 16;
        let fits =
            lanes_fit && passes >= 1 && passes <= 16 && memory_kib >= 8 * lanes && memory_kib <= 1 << 20;
        if fits { Some(Self { memory_kib, passes, lanes }) } else { None }
    }

    /// The memory in KiB.
    pub const fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// The passes over the memory.
    pub const fn passes(self) -> u32 {
        self.passes
    }

    /// The degree of parallelism.
    pub const fn lanes(self) -> u32 {
        self.lanes
    }
}

/// Argon2id, version 1.3, without a secret and associated data.
pub(crate) fn argon2id(
    passphrase: &[u8],
    salt: &[u8],
    cost: Argon2Cost,
    key: &mut [u8; KEY_LEN],
) -> Result<(), Refused> {
    let Argon2Cost { memory_kib, passes, lanes } = cost;
    let params = argon2::Params::new(memory_kib, passes, lanes, Some(KEY_LEN)).map_err(|_| Refused)?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(params.block_count()).map_err(|_| Refused)?;
    memory.resize(params.block_count(), argon2::Block::default());
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hashed = argon2.hash_password_into_with_memory(passphrase, salt, key, &mut memory);
    memory.iter_mut().for_each(Zeroize::zeroize);
    hashed.map_err(|_| Refused)
}

/// The pseudorandom key between the two steps of HKDF, so that several keys are expanded from one extraction.
pub(crate) struct Prk(hkdf::Prk);

impl Prk {
    /// HKDF-Extract (RFC 5869, §2.2), which is HMAC-SHA-256 keyed with the salt. The library's `Salt::extract` is lazy: it
    /// would extract again for every expanded key.
    pub(crate) fn extract(salt: &[u8], secret: &[u8]) -> Result<Self, Refused> {
        let mut prk = Key::default();
        hmac::sign_to_buffer(&hmac::Key::new(hmac::HMAC_SHA256, salt), secret, &mut *prk)?;
        Ok(Self(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &*prk)))
    }

    /// HKDF-Expand (RFC 5869, §2.3) to 32 bytes. The pieces of `info` are joined without a separator.
    pub(crate) fn expand(&self, info: &[&[u8]]) -> Result<Key, Refused> {
        let mut key = Key::default();
        self.expand_into(info, &mut *key)?;
        Ok(key)
    }

    fn expand_into(&self, info: &[&[u8]], out: &mut [u8]) -> Result<(), Refused> {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        Ok(self.0.expand(info, Length(out.len()))?.fill(out)?)
    }
}

/// A key of HMAC-SHA-256, initialised once.
pub(crate) struct MacKey(hmac::Key);

impl MacKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The tag of the concatenation of `parts`.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// Bytes of a block of AES.
const BLOCK_LEN: usize = 16;

/// A key of AES-256-CMAC, initialised once. The block cipher is that of the crate `aes`, which uses the instructions of the
/// processor where it has them, and constant-time code elsewhere.
///
/// CMAC is AES-CBC without an IV, whose last block is masked by a subkey. `aws-lc-rs` has no AES for single blocks: its CMAC
/// allocates a context for each message, and its CBC mode adds a block of padding. A chain waits for each of its blocks, so
/// the chains of several messages together take little longer than one ([`CmacKey::tags`]): the case `list` of
/// `cargo xtask instructions` and `rest.list` of `cargo xtask bench` show the cost.
pub(crate) struct CmacKey {
    cipher: Aes256Enc,
    /// Mask a last block that is whole, and one that is filled up.
    subkeys: [Zeroizing<[u8; BLOCK_LEN]>; 2],
}

impl CmacKey {
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        let cipher = Aes256Enc::new(key.into());
        let mut zeros = Block::default();
        cipher.encrypt_block(&mut zeros);
        let first = doubled(&zeros.0);
        let second = doubled(&first);
        zeros.0.zeroize();
        Self { cipher, subkeys: [first, second] }
    }

    /// The tags of messages.
    pub(crate) fn tags(&self, messages: &Messages, tag: impl FnMut([u8; TAG_LEN])) {
        self.cipher.encrypt_with_backend(Chains { messages, tag });
    }
}

/// Messages for [`CmacKey::tags`], one after the other: each fills whole blocks, and its last block is masked.
pub(crate) struct Messages {
    blocks: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
}

impl Messages {
    pub(crate) const fn new() -> Self {
        Self { blocks: Vec::new(), ends: Vec::new() }
    }

    /// Appends to the present message.
    #[inline]
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.blocks.extend_from_slice(bytes);
    }

    /// Ends the present message.
    pub(crate) fn end(&mut self, key: &CmacKey) {
        let [whole, filled] = &key.subkeys;
        let start = self.ends.last().copied().unwrap_or(0);
        let length = self.blocks.len() - start;
        let is_whole = length > 0 && length.is_multiple_of(BLOCK_LEN);
        let mask = if is_whole { whole } else { filled };
        if !is_whole {
            self.blocks.push(0x80);
            self.blocks.resize(self.blocks.len().next_multiple_of(BLOCK_LEN), 0);
        }
        if let Some(last) = self.blocks.last_chunk_mut::<BLOCK_LEN>() {
            *last = xor(last, mask);
        }
        self.ends.push(self.blocks.len());
    }

    /// The bytes of the present message.
    #[cfg(test)]
    pub(crate) fn present(&self) -> &[u8] {
        &self.blocks[self.ends.last().copied().unwrap_or(0)..]
    }

    /// Removes all messages, and keeps the memory for the next ones.
    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
        self.ends.clear();
    }

    /// Removes all messages, and overwrites their bytes. The buffer stays in use, so the compiler keeps the stores.
    pub(crate) fn overwrite(&mut self) {
        self.blocks.fill(0);
        self.clear();
    }

    /// The bytes of memory.
    pub(crate) fn capacity(&self) -> usize {
        self.blocks.capacity() + self.ends.capacity() * size_of::<usize>()
    }
}

/// The chains of messages, several at a time: a processor encrypts blocks of different chains at once.
struct Chains<'a, F> {
    messages: &'a Messages,
    tag: F,
}

/// The chains at a time. The blocks of so many fit the registers of the processor.
const LANES: usize = 8;

impl<F> BlockSizeUser for Chains<'_, F> {
    type BlockSize = U16;
}

impl<F: FnMut([u8; TAG_LEN])> BlockCipherEncClosure for Chains<'_, F> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(mut self, cipher: &B) {
        let mut start = 0;
        for ends in self.messages.ends.chunks(LANES) {
            let mut lanes: [(&[[u8; BLOCK_LEN]], Block); LANES] = Default::default();
            let mut longest = 0;
            for (lane, end) in lanes.iter_mut().zip(ends) {
                lane.0 = self.messages.blocks[start..*end].as_chunks().0;
                longest = longest.max(lane.0.len());
                start = *end;
            }
            for at in 0..longest {
                for (blocks, chain) in &mut lanes {
                    if let Some(block) = blocks.get(at) {
                        chain.0 = xor(&chain.0, block);
                        cipher.encrypt_block_inplace(chain);
                    }
                }
            }
            lanes.iter().take(ends.len()).for_each(|(_, tag)| (self.tag)(tag.0));
        }
    }
}

fn xor(a: &[u8; BLOCK_LEN], b: &[u8; BLOCK_LEN]) -> [u8; BLOCK_LEN] {
    (u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b)).to_ne_bytes()
}

/// A block as a polynomial over GF(2¹²⁸), multiplied by x.
fn doubled(block: &[u8; BLOCK_LEN]) -> Zeroizing<[u8; BLOCK_LEN]> {
    let number = u128::from_be_bytes(*block);
    let carry = (number >> 127) * 0x87;
    Zeroizing::new((number << 1 ^ carry).to_be_bytes())
}

/// A key pair of Ed25519 (RFC 8032).
pub(crate) struct Ed25519(Ed25519KeyPair);

impl Ed25519 {
    pub(crate) fn from_seed(seed: &[u8; KEY_LEN]) -> Result<Self, Refused> {
        Ok(Self(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Refused)?))
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(message).as_ref());
        signature
    }
}

/// Whether a signature of Ed25519 is valid.
pub(crate) fn verify_ed25519(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// Incremental SHA-256.
#[derive(Clone)]
pub(crate) struct Hasher(digest::Context);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// SHA-256.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_held_plaintext_is_wiped_when_the_tag_does_not_fit() {
        let (key, nonce) = ([7; KEY_LEN], [9; NONCE_LEN]);
        let mut sealed = [0; 48];
        encrypt(&key, &nonce, b"aad", &[0x55; 32], &mut sealed).expect("encrypts");
        let mut out = [0xaa; 32];
        assert!(decrypt(&key, &nonce, b"other", &sealed, &mut out).is_err());
        assert_eq!(out, [0; 32]);
        decrypt(&key, &nonce, b"aad", &sealed, &mut out).expect("decrypts");
        assert_eq!(out, [0x55; 32]);
    }

    #[test]
    fn lengths_that_do_not_match_are_refused() {
        let (key, nonce) = ([7; KEY_LEN], [9; NONCE_LEN]);
        for len in [0, 31, 47, 49] {
            assert!(encrypt(&key, &nonce, b"", &[1; 32], &mut vec![0; len]).is_err(), "{len}");
        }
        for len in 0..TAG_LEN {
            assert!(decrypt(&key, &nonce, b"", &vec![0; len], &mut []).is_err(), "{len}");
        }
        assert!(decrypt(&key, &nonce, b"", &[0; 48], &mut [0; 31]).is_err());
    }

    #[test]
    fn sha_256_is_that_of_fips_180_4() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hex: String = sha256(b"abc").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, abc);
    }
}
