//! API keys: the bearer tokens that callers hold.
//!
//! ```text
//! ak-0123456789ABCDEF_0123456789012345678901234567890123456789012CCCCCC
//! └┬┘└───────┬──────┘ └────────────────────┬────────────────────┘└─┬──┘
//! prefix   id, 16                     secret, 43              checksum, 6
//! ```
//!
//! All characters but the prefix and `_` are base 62 (`0-9A-Za-z`, in this order). The id is public: lists, logs and
//! audit records name a key by it. The secret's 43 characters are uniformly distributed: 62⁴³ > 2²⁵⁶. The checksum is the
//! CRC-32 (IEEE) of all characters before it, prefix included. So a mistyped or truncated key is refused without a look-up,
//! and a secret scanner can verify a match of `ak-[0-9A-Za-z]{16}_[0-9A-Za-z]{49}`.
//!
//! The checksum does not protect against forgery. Authentication compares the digest.

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

/// Why a text is not an API key. No message repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Its length or its characters are wrong.
    #[error("not an API key: expected 'ak-', 16 letters and digits, '_', and 49 more")]
    Shape,
    /// Its checksum does not match: it is mistyped.
    #[error("not an API key: its checksum does not match, so a character of it is wrong")]
    Checksum,
}

/// An API key: 69 characters with a public id and 256 random bits. It is wiped when dropped. Its `Debug` form has the id
/// only.
///
/// A value of this type is well-formed. It may never have been issued.
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

    /// Parses a key with or without its `ak-`. Nothing is trimmed or folded.
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

    /// SHA-256 of the whole key, `ak-` included, which the store holds.
    pub fn digest(&self) -> [u8; 32] {
        hazmat::sha256(&*self.0)
    }

    /// The whole key, `ak-` included, to show it once and for the `Authorization` header.
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

/// Fills `out` with uniformly distributed characters of base 62. Bytes from 248 up are discarded: they would make the first
/// eight characters more likely.
fn fill_base62(rng: &dyn Rng, out: &mut [u8]) -> Result<(), RngError> {
    let mut filled = 0;
    // One byte in 32 is discarded. A source that needs this many rounds is broken.
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::SystemRng;
    use crate::tests::{Counting, FailingAfter, Stuck};

    fn token() -> ApiToken {
        ApiToken::generate(&Counting::default()).expect("random")
    }

    /// The shape that scanners are given: `ak-[0-9A-Za-z]{16}_[0-9A-Za-z]{49}`.
    fn has_the_published_shape(text: &str) -> bool {
        let base62 = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_alphanumeric());
        text.strip_prefix("ak-")
            .and_then(|bare| bare.split_once('_'))
            .is_some_and(|(id, secret)| base62(id, 16) && base62(secret, 49))
    }

    #[test]
    fn a_key_reads_back_with_and_without_its_prefix() {
        for _ in 0..200 {
            let token = ApiToken::generate(&SystemRng).expect("random");
            assert!(has_the_published_shape(token.expose()));
            for text in [token.expose(), token.expose_bare()] {
                let again = ApiToken::parse(text).expect("its own spelling");
                assert_eq!(again.expose(), token.expose());
                assert_eq!(again.digest(), token.digest());
                assert_eq!(again.id(), token.id());
            }
            assert_eq!(token.expose(), format!("ak-{}", token.expose_bare()));
            assert_eq!(token.id().as_str(), &token.expose()[3..19]);
        }
    }

    #[test]
    fn a_key_of_format_1_stays_valid() {
        // Computed with Python's zlib and hashlib from the same random bytes.
        const TEXT: &str = "ak-pNoxb5ByzGpDDAeF_J4et6SclvbyXtVV4laouCj3Cd2hYj3oRgEKRS2oCmW74NtGH3";
        let issued = ApiToken::parse(TEXT).expect("as issued");
        let digest: String = issued.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "01eb537f305aa87d54433ff23f56fd533dbba73eaa20c0e8f79965422417e11a");
        assert_eq!(token().expose(), TEXT);
    }

    #[test]
    fn every_single_character_typo_is_refused() {
        let token = token();
        for text in [token.expose(), token.expose_bare()] {
            for at in 0..text.len() {
                for typo in (0x20..0x7f).filter(|typo| *typo != text.as_bytes()[at]) {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[at] = typo;
                    let mistyped = String::from_utf8(bytes).expect("ASCII");
                    assert!(ApiToken::parse(&mistyped).is_err(), "{at} {typo}");
                }
            }
        }
    }

    #[test]
    fn lost_doubled_and_swapped_characters_are_refused() {
        let token = token();
        let text = token.expose();
        for at in 0..text.len() {
            let (before, after) = text.split_at(at);
            assert!(ApiToken::parse(&format!("{before}{}", &after[1..])).is_err());
            assert!(ApiToken::parse(&format!("{before}{}{after}", &after[..1])).is_err());
            let mut swapped = text.as_bytes().to_vec();
            swapped.swap(at, (at + 1) % text.len());
            if swapped != text.as_bytes() {
                assert!(ApiToken::parse(str::from_utf8(&swapped).expect("ASCII")).is_err());
            }
        }
    }

    #[test]
    fn what_is_only_near_a_key_is_refused() {
        let token = token();
        let (whole, bare) = (token.expose(), token.expose_bare());
        for text in [
            String::new(),
            "ak-".into(),
            format!("ak-{whole}"),
            format!("AK-{bare}"),
            format!(" {whole}"),
            format!("{whole} "),
            format!("{whole}\n"),
            format!("Bearer {whole}"),
            format!("-{bare}"),
            format!("ak_{bare}"),
            whole.replace('_', "-"),
            whole.to_lowercase(),
            "ä".repeat(33),
            format!("{}ä{}", &bare[..15], &bare[17..]),
            "\0".repeat(69),
            "a".repeat(1 << 20),
        ] {
            assert!(ApiToken::parse(&text).is_err());
        }
    }

    #[test]
    fn a_checksum_has_one_spelling_only() {
        // "zzzzzz" is 62⁶ − 1, beyond 32 bits: a decoder that wrapped round would take it for another checksum.
        for _ in 0..100 {
            let token = ApiToken::generate(&SystemRng).expect("random");
            let text = token.expose();
            let digits = &text[SECRET_END..];
            let number = digits.bytes().fold(0_u64, |number, digit| {
                number * 62 + ALPHABET.iter().position(|c| *c == digit).expect("base 62") as u64
            });
            let mut wrapped = number + (1 << 32);
            let mut other = [0; 6];
            for digit in other.iter_mut().rev() {
                *digit = ALPHABET[usize::try_from(wrapped % 62).expect("small")];
                wrapped /= 62;
            }
            let other = format!("{}{}", &text[..SECRET_END], str::from_utf8(&other).expect("ASCII"));
            assert_eq!(ApiToken::parse(&other).err(), Some(TokenError::Checksum));
        }
    }

    #[test]
    fn the_digits_are_uniform() {
        let mut text = vec![0; 62 * 4000];
        fill_base62_whole(&mut text);
        let mut counts = [0_u32; 256];
        for byte in &text {
            counts[usize::from(*byte)] += 1;
        }
        let counts: Vec<f64> = ALPHABET.iter().map(|digit| f64::from(counts[usize::from(*digit)])).collect();
        // Chi-square with 61 degrees of freedom: a uniform source exceeds 131 once in a million times. `% 62` without
        // rejection has about 6,000.
        let chi_square: f64 = counts.iter().map(|count| (count - 4000.0).powi(2) / 4000.0).sum();
        assert!(chi_square < 131.0, "{chi_square}");
    }

    fn fill_base62_whole(out: &mut [u8]) {
        let rng = Counting::default();
        for chunk in out.chunks_mut(43) {
            fill_base62(&rng, chunk).expect("random");
        }
    }

    #[test]
    fn a_source_that_is_broken_or_stuck_makes_no_key() {
        for fills in 0..2 {
            let made = ApiToken::generate(&FailingAfter::new(fills));
            assert!(matches!(made, Err(CryptoError::Random(_))));
        }
        assert!(matches!(ApiToken::generate(&Stuck(0xff)), Err(CryptoError::Random(_))));
        assert!(ApiToken::generate(&Stuck(0xf7)).is_ok());
    }

    #[test]
    fn no_two_keys_are_equal() {
        let rng = Counting::default();
        let tokens: HashSet<String> =
            (0..2000).map(|_| ApiToken::generate(&rng).expect("random").expose().to_owned()).collect();
        assert_eq!(tokens.len(), 2000);
    }

    #[test]
    fn a_key_and_its_errors_show_nothing_of_the_secret() {
        let token = token();
        let shown = format!("{token:?}");
        assert!(shown.contains(token.id().as_str()));
        assert!(!shown.contains(&token.expose()[SECRET_START..SECRET_START + 8]));
        for error in [TokenError::Shape, TokenError::Checksum] {
            assert!(!format!("{error} {error:?}").contains(&token.expose()[3..11]));
        }
    }

    #[test]
    fn digests_are_compared_whole() {
        let digest = token().digest();
        assert!(digests_equal(&digest, &digest.clone()));
        for bit in 0..256 {
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!digests_equal(&digest, &other));
        }
    }

    proptest! {
        #[test]
        fn keys_that_share_their_beginning_are_distinct(
            shared in 0_usize..43,
            a in "[0-9A-Za-z]{43}",
            b in "[0-9A-Za-z]{43}",
        ) {
            let made = |secret: &str| {
                let text = format!("ak-0123456789ABCDEF_{secret}");
                let checksum = checksum(text.as_bytes());
                ApiToken::parse(&format!("{text}{}", str::from_utf8(&checksum).expect("ASCII"))).expect("made whole")
            };
            let b = format!("{}{}", &a[..shared], &b[shared..]);
            let (first, second) = (made(&a), made(&b));
            prop_assert_eq!(digests_equal(&first.digest(), &second.digest()), a == b);
            prop_assert_eq!(first.expose() == second.expose(), a == b);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = ApiToken::parse(&text);
        }

        #[test]
        fn what_parses_is_shown_as_it_was_given(text in "(ak-)?[0-9A-Za-z]{16}_[0-9A-Za-z]{49}") {
            match ApiToken::parse(&text) {
                Ok(token) => prop_assert!(token.expose() == text || token.expose_bare() == text),
                Err(error) => prop_assert_eq!(error, TokenError::Checksum),
            }
        }
    }
}
