//! Generated values: random letters and digits from the operating system's generator.

use zeroize::Zeroizing;

use crate::failure::Failure;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Random bytes from here up are dropped, so that every character is equally likely.
const LIMIT: u8 = 248;

/// A value of `length` characters, each with 5.95 bits of entropy.
pub(crate) fn value(length: usize) -> Result<Zeroizing<String>, Failure> {
    let mut value = Zeroizing::new(String::with_capacity(length));
    let mut random = Zeroizing::new([0_u8; 256]);
    while value.len() < length {
        fill(&mut *random)?;
        let usable = random.iter().filter(|byte| **byte < LIMIT);
        let characters = usable.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        let missing = length - value.len();
        value.extend(characters.take(missing));
    }
    Ok(value)
}

/// The one place where the program takes randomness for values.
#[expect(clippy::disallowed_methods, reason = "a command line has no caller that could pass a generator")]
fn fill(bytes: &mut [u8]) -> Result<(), Failure> {
    getrandom::fill(bytes).map_err(|error| {
        Failure::usage(
            format!("the system's random generator fails: {error}"),
            "store a value with a file instead",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_length_and_every_character_is_equally_likely() {
        assert_eq!(usize::from(LIMIT) % ALPHABET.len(), 0);
        let value = value(62_000).expect("random");
        assert_eq!(value.len(), 62_000);
        for character in ALPHABET {
            let count = value.bytes().filter(|byte| byte == character).count();
            // Nine standard deviations around 1000.
            assert!((715..=1285).contains(&count), "{} {count}", char::from(*character));
        }
        assert_ne!(super::value(40).expect("random"), super::value(40).expect("random"));
    }
}
