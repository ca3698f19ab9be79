//! What the store remembers of KEKs that are no longer used: a fact of one line for each.
//!
//! ```text
//! kek-01JCQ3TVS0J4W3Y6Q2N8R5K7ZB unused 1762333200000000
//! kek-01HF7YAT00040G2081040G2081 retired 1764925200000000 <check value, 64 hexadecimal digits>
//! ```
//!
//! Times are microseconds since 1970. A line that does not parse is ignored: the time of a KEK then begins again, which
//! delays its retirement. `kek_facts` authenticates the text.

use std::fmt::Write as _;

use agentrouter_model::{KekId, Timestamp};

/// The states of KEKs that wrap nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KekRecord(Vec<(KekId, Disuse)>);

/// How a KEK ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disuse {
    /// It wraps nothing since then.
    Unused(Timestamp),
    /// It was retired then. Its check value tells whether a key is this KEK.
    Retired(Timestamp, [u8; 32]),
}

impl KekRecord {
    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let id = KekId::parse(words.next()?).ok()?;
            let (state, at) = (words.next()?, Timestamp::checked(words.next()?.parse().ok()?)?);
            match (state, words.next()) {
                ("unused", None) => Some((id, Disuse::Unused(at))),
                ("retired", Some(check)) => Some((id, Disuse::Retired(at, from_hex(check)?))),
                _ => None,
            }
        };
        Self(text.lines().filter_map(line).collect())
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for (id, disuse) in &self.0 {
            // Writing to a String cannot fail.
            let _ = match disuse {
                Disuse::Unused(at) => writeln!(text, "{id} unused {}", at.as_micros()),
                Disuse::Retired(at, check) => {
                    writeln!(text, "{id} retired {} {}", at.as_micros(), hex(check))
                }
            };
        }
        text
    }

    pub(crate) fn of(&self, id: &KekId) -> Option<&Disuse> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, disuse)| disuse)
    }

    /// Since when a KEK wraps nothing.
    pub(crate) fn unused_since(&self, id: &KekId) -> Option<Timestamp> {
        match self.of(id)? {
            Disuse::Unused(at) => Some(*at),
            Disuse::Retired(..) => None,
        }
    }

    /// The KEKs that are retired, each with the time.
    pub(crate) fn retired(&self) -> impl Iterator<Item = (&KekId, Timestamp)> {
        self.0.iter().filter_map(|(id, disuse)| match disuse {
            Disuse::Retired(at, _) => Some((id, *at)),
            Disuse::Unused(_) => None,
        })
    }

    /// Replaces what is known of a KEK.
    pub(crate) fn set(&mut self, id: &KekId, disuse: Option<Disuse>) {
        self.0.retain(|(known, _)| known != id);
        if let Some(disuse) = disuse {
            self.0.push((id.clone(), disuse));
        }
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_damaged_lines_are_ignored() {
        let id = |text| KekId::parse(text).expect("an id");
        let mut record = KekRecord::default();
        let at = Timestamp::from_micros(1_762_333_200_000_000);
        record.set(&id("kek-1"), Some(Disuse::Unused(at)));
        record.set(&id("kek-2"), Some(Disuse::Unused(at)));
        record.set(&id("kek-2"), Some(Disuse::Retired(at, [0xa7; 32])));
        let text = record.to_text();
        assert_eq!(KekRecord::parse(&text), record);
        assert_eq!(text.lines().count(), 2);
        assert_eq!(record.retired().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["kek-2"]);
        assert_eq!(record.unused_since(&id("kek-1")), Some(at));
        let damaged =
            ["", "kek-3", "kek-3 unused", "kek-3 unused x", "kek-3 gone 1", "kek-3 retired 1 00ü", "k k 1"];
        let harmed = format!("{}\n{text}", damaged.join("\n"));
        assert_eq!(KekRecord::parse(&harmed), record);
        record.set(&id("kek-1"), None);
        assert_eq!(record.unused_since(&id("kek-1")), None);
    }
}
