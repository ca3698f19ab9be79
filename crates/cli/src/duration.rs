//! Times as people write them: `500ms`, `90m`, `24h`, `7d`, `1h30m`.

use std::time::Duration;

const RULE: &str = "write it as numbers with units ms, s, m, h or d, such as 30s, 24h or 1h30m";

/// A sum of whole numbers, each with its unit. A number without a unit is refused: it could mean anything.
pub(crate) fn parse(text: &str) -> Result<Duration, &'static str> {
    let mut rest = text;
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return Err(RULE);
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(RULE),
        };
        let number: u64 = number.parse().map_err(|_| RULE)?;
        millis = number.checked_mul(factor).and_then(|n| n.checked_add(millis)).ok_or("is too long")?;
        rest = after;
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_add_up() {
        for (text, millis) in [
            ("500ms", 500),
            ("0s", 0),
            ("30s", 30_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "1.5h", "-1s", "1 h", "1w", "1H", "99999999999999999d", "1é"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
