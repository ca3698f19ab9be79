//! The id of a secret.

use std::fmt;

use crate::{Clock, ParseError, Rng, RngError};

/// The id of a secret: a ULID, 26 characters of Crockford's base 32 (<https://github.com/ulid/spec>). Rotations do not
/// change it. A secret that is deleted and created again gets a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(ulid::Ulid);

impl SecretId {
    /// A new id: the clock's milliseconds and 80 random bits.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate(clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, RngError> {
        let mut random = [0; 16];
        rng.fill(&mut random[6..])?;
        Ok(Self(ulid::Ulid::from_parts(clock.now().as_millis(), u128::from_be_bytes(random))))
    }

    /// # Errors
    /// When `text` is not a ULID of 26 upper-case characters.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_bytes(text.as_bytes())
    }

    /// As [`SecretId::parse`], for bytes that may not be UTF-8.
    ///
    /// # Errors
    /// As [`SecretId::parse`].
    pub fn parse_bytes(text: &[u8]) -> Result<Self, ParseError> {
        let id = text.try_into().ok().and_then(decode);
        id.map(|id| Self(id.into())).ok_or(ParseError::new("must be a ULID"))
    }

    /// Its 26 characters.
    pub fn text(self) -> SecretIdText {
        SecretIdText(encode(self.0.into()))
    }

    /// The 16 bytes, big-endian, as in the associated data.
    pub fn to_bytes(self) -> [u8; 16] {
        u128::from(self.0).to_be_bytes()
    }
}

/// The characters of a [`SecretId`].
#[derive(Clone, Copy)]
pub struct SecretIdText([u8; ulid::ULID_LEN]);

impl SecretIdText {
    /// The text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text, which is ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Crockford's base 32.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The value of each character, or [`NONE`] if it is not a digit.
const VALUES: [u8; 256] = {
    let (mut values, mut digit) = ([NONE; 256], 0);
    while digit < DIGITS.len() {
        values[DIGITS[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};
const NONE: u8 = 0x80;

/// An id is encoded in three pieces: 2 characters for 8 bits, and twice 12 characters for 60 bits. Arithmetic on 64 bits is
/// faster than the library's on 128 bits, and a page of a list encodes and decodes one id a row.
const PIECES: [(u32, std::ops::Range<usize>); 3] = [(120, 0..2), (60, 2..14), (0, 14..26)];

fn decode(text: &[u8; ulid::ULID_LEN]) -> Option<u128> {
    let (mut id, mut wrong) = (0, 0);
    for (shift, piece) in PIECES {
        let mut bits = 0;
        for byte in &text[piece] {
            let value = VALUES[usize::from(*byte)];
            wrong |= value;
            bits = bits << 5 | u64::from(value);
        }
        id |= u128::from(bits) << shift;
    }
    // The first character has 3 bits only.
    (wrong & NONE == 0 && text[0] <= b'7').then_some(id)
}

fn encode(id: u128) -> [u8; ulid::ULID_LEN] {
    let mut text = [0; ulid::ULID_LEN];
    for (shift, piece) in PIECES {
        let mut bits = (id >> shift) as u64;
        for byte in text[piece].iter_mut().rev() {
            *byte = DIGITS[bits as usize % DIGITS.len()];
            bits >>= 5;
        }
    }
    text
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert_eq, proptest};

    use super::*;
    use crate::Timestamp;

    struct At(i64);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0)
        }
    }
    struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
            bytes.fill(0xff);
            Ok(())
        }
    }

    #[test]
    fn an_id_is_a_ulid_and_reads_back() {
        let id = SecretId::generate(&At(1_700_000_000_000_000), &Ones).expect("random");
        let text = id.to_string();
        assert_eq!(text, "01HF7YAT00ZZZZZZZZZZZZZZZZ");
        assert_eq!(SecretId::parse(&text), Ok(id));
        assert!(SecretId::parse(&text.to_lowercase()).is_err());
        assert!(SecretId::parse("01H").is_err());
    }

    proptest! {
        #[test]
        fn ids_read_and_write_as_those_of_the_library(number: u128, other in "[0-9A-Za-z]{26}") {
            let (id, text) = (SecretId(number.into()), ulid::Ulid::from(number).to_string());
            prop_assert_eq!(id.to_string(), &*text);
            prop_assert_eq!(SecretId::parse(&text), Ok(id));
            // The library accepts lower-case letters and ignores overflowing bits.
            let same = ulid::Ulid::from_string(&other).ok().filter(|id| id.to_string() == other);
            prop_assert_eq!(SecretId::parse(&other).ok().map(|id| id.0), same);
        }
    }
}
