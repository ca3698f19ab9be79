//! API keys: the bearer tokens that callers hold.
//!
//! ```text
//! ak-0123456789ABCDEF_0123456789012345678901234567890123456789012CCCCCC
//! └┬┘└───────┬──────┘ └────────────────────┬────────────────────┘└─┬──┘
//! prefix   id, 16                     secret, 43              checksum, 6
//! ```
//!
//! All characters but the prefix and `_` are base 62 (`0-9A-Za-z`, in this order). The id is public: lists, logs and
//! audit records name a key by it. The secret's 43 characters are drawn one by one, uniformly: 62⁴³ > 2²⁵⁶. The
//! checksum is the CRC-32 (IEEE) of everything before it, prefix included, so that a mistyped or truncated key is
//! refused without a look-up, and a scanner that finds `ak-[0-9A-Za-z]{16}_[0-9A-Za-z]{49}` can be sure of it.
//!
//! The checksum is no protection against forgery; the digest is what the store compares.

use std::fmt;

use agentrouter_model::{ApiKeyId, Rng, RngError};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::CryptoError;
use crate::hazmat;

const PREFIX: &[u8] = b"ak-";
const ID_END: usize = PREFIX.len() + ApiKeyId::LEN;
const SECRET_START: usize = ID_END + 1;
const SECRET_END: usize = SECRET_START + 43;
const LEN: usize = SECRET_END + 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a text is no API key. Neither message repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not the length or the characters of one.
    #[error("not an API key: expected 'ak-', 16 letters and digits, '_', and 49 more")]
    Shape,
    /// It looks like one, but its checksum does not fit: mistyped.
    #[error("not an API key: its checksum does not fit, so a character of it is wrong")]
    Checksum,
}

/// An API key: 69 characters, a public id and 256 random bits. Wiped when dropped; `Debug` shows the id alone.
///
/// That it exists says that it is well-formed, not that it was ever issued.
#[derive(Clone)]
pub struct ApiToken(Zeroizing<[u8; LEN]>);

impl ApiToken {
    /// A new key.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate(rng: &dyn Rng) -> Result<Self, CryptoError> {
        let mut text = Zeroizing::new([b'_'; LEN]);
        text[..PREFIX.len()].copy_from_slice(PREFIX);
        fill_base62(rng, &mut text[PREFIX.len()..ID_END])?;
        fill_base62(rng, &mut text[SECRET_START..SECRET_END])?;
        let checksum = checksum(&text[..SECRET_END]);
        text[SECRET_END..].copy_from_slice(&checksum);
        Ok(Self(text))
    }

    /// Reads a key with or without its `ak-`, exactly as it was shown: nothing is trimmed or folded.
    ///
    /// # Errors
    /// [`TokenError::Shape`] and [`TokenError::Checksum`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bare = text.strip_prefix("ak-").unwrap_or(text).as_bytes();
        let (id, rest) = bare.split_at_checked(ApiKeyId::LEN).ok_or(TokenError::Shape)?;
        let is_base62 = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_alphanumeric);
        let [b'_', secret @ ..] = rest else { return Err(TokenError::Shape) };
        if secret.len() != LEN - SECRET_START || !is_base62(id) || !is_base62(secret) {
            return Err(TokenError::Shape);
        }

        let mut whole = Zeroizing::new([0; LEN]);
        whole[..PREFIX.len()].copy_from_slice(PREFIX);
        whole[PREFIX.len()..].copy_from_slice(bare);
        if whole[SECRET_END..] == checksum(&whole[..SECRET_END]) {
            Ok(Self(whole))
        } else {
            Err(TokenError::Checksum)
        }
    }

    /// The public part.
    pub fn id(&self) -> ApiKeyId {
        ApiKeyId::parse(&self.expose()[PREFIX.len()..ID_END])
            .expect("16 characters of base 62, checked when made")
    }

    /// SHA-256 of the whole key, `ak-` included: what the store keeps of it.
    pub fn digest(&self) -> [u8; 32] {
        hazmat::sha256(&*self.0)
    }

    /// The whole key, `ak-` included, for the one time that it is shown and for the header that carries it.
    pub fn expose(&self) -> &str {
        str::from_utf8(&*self.0).expect("ASCII, checked when made")
    }

    /// The key without `ak-`, as `AGENTROUTER_API_KEY` holds it.
    pub fn expose_bare(&self) -> &str {
        &self.expose()[PREFIX.len()..]
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiToken").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Whether two digests are equal, in constant time.
pub fn digests_equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

/// Six digits of base 62, most significant first; 62⁶ > 2³², so each checksum has exactly one spelling.
fn checksum(text: &[u8]) -> [u8; 6] {
    let mut rest = crc32fast::hash(text);
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Fills `out` with characters of base 62, each as likely as any other: bytes from 248 up, which would favour the
/// first eight characters, are thrown away.
fn fill_base62(rng: &dyn Rng, out: &mut [u8]) -> Result<(), RngError> {
    let mut filled = 0;
    // One draw in 32 is thrown away; a source that needs this many rounds is broken.
    for _ in 0..64 {
        let mut random = Zeroizing::new([0; 64]);
        rng.fill(&mut *random)?;
        for byte in random.iter().filter(|byte| **byte < 248) {
            if filled == out.len() {
                return Ok(());
            }
            out[filled] = ALPHABET[usize::from(byte % 62)];
            filled += 1;
        }
    }
    Err(RngError)
}
