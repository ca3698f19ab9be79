//! The fields of a record, and their JSON.
//!
//! A record contains the fields of [`Record`] and nothing else, so no request, value or error text is in the log. Names are
//! parsed before. The free texts are escaped as JSON and cut at their limits.

use std::fmt;

use agentrouter_model::{ApiKeyId, KekId, Owner, Realm, SecretName, Timestamp, Version};

/// The most bytes of a free text. A longer one is cut at a character and ends in `…`.
const FREE_TEXT_BYTES: usize = 128;
/// The most bytes of a subject.
const SUBJECT_BYTES: usize = 512;
/// The most bytes of a word such as an outcome.
const WORD_BYTES: usize = 64;

/// Whether a record is written before or after the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A change is about to be made.
    Attempt,
    /// How it ended; the only record of a call that changes nothing.
    Outcome,
}

impl Phase {
    /// The spelling in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Outcome => "outcome",
        }
    }
}

/// Who the holder of a token is.
#[derive(Clone, Copy)]
pub struct Principal<'a> {
    /// The issuer, by its name in the settings.
    pub issuer: &'a str,
    /// The subject of the token; cut after 512 bytes.
    pub subject: &'a str,
    /// The rule that applies, by its name in the settings.
    pub rule: &'a str,
}

/// One line of the log: who did what, when, and how it ended.
///
/// Borrowed, since it is formatted before its caller waits. Its `Debug` shows `rpc`, `phase` and `outcome` only. The line
/// leaves out a field that is `None`.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// When the call was handled.
    pub time: Timestamp,
    /// The id of the request; cut after 128 bytes.
    pub request_id: &'a str,
    /// The W3C trace id, if one was sent; cut after 128 bytes.
    pub trace_id: Option<&'a str>,
    /// The API key that was used, if one was recognised.
    pub key_id: Option<&'a ApiKeyId>,
    /// The identity in the token that was used, if it was accepted.
    pub identity: Option<Principal<'a>>,
    /// The user as which the caller acts.
    pub user: Option<&'a Owner>,
    /// The operation. `audit` is reserved for the log's own records.
    pub rpc: &'static str,
    /// The owner of the secret.
    pub owner: Option<&'a Owner>,
    /// The realm of the secret.
    pub realm: Option<&'a Realm>,
    /// The name of the secret.
    pub name: Option<&'a SecretName>,
    /// The version of the secret.
    pub version: Option<Version>,
    /// The KEK that a command changed.
    pub kek_id: Option<&'a KekId>,
    /// The provider of the root key to which a command moves the KEKs; at most 64 bytes.
    pub provider: Option<&'static str>,
    /// Before the operation or after it.
    pub phase: Phase,
    /// `ATTEMPT`, `OK` or a status code; at most 64 bytes.
    pub outcome: &'static str,
    /// The reason of a refusal; at most 64 bytes.
    pub reason: Option<&'static str>,
    /// The client's network address; cut after 128 bytes.
    pub address: Option<&'a str>,
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("rpc", &self.rpc)
            .field("phase", &self.phase)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl Record<'_> {
    /// The formatted record, for a caller that appends it later.
    pub fn keep(&self) -> Kept {
        let mut members = Vec::with_capacity(512);
        self.write_members(&mut members);
        Kept { members: members.into_boxed_slice(), request_id: self.request_id.into() }
    }

    /// Appends the members of the JSON object between `seq` and `mac`, each with the comma before it.
    pub(crate) fn write_members(&self, out: &mut Vec<u8>) {
        time(out, self.time);
        text(out, "request_id", self.request_id, FREE_TEXT_BYTES);
        if let Some(trace_id) = self.trace_id {
            text(out, "trace_id", trace_id, FREE_TEXT_BYTES);
        }
        if let Some(key_id) = self.key_id {
            plain(out, "key_id", key_id.as_str());
        }
        if let Some(identity) = self.identity {
            text(out, "issuer", identity.issuer, WORD_BYTES);
            text(out, "subject", identity.subject, SUBJECT_BYTES);
            text(out, "rule", identity.rule, WORD_BYTES);
        }
        if let Some(user) = self.user {
            plain(out, "user", user.as_str());
        }
        text(out, "rpc", self.rpc, WORD_BYTES);
        if let Some(owner) = self.owner {
            plain(out, "owner", owner.as_str());
        }
        if let Some(realm) = self.realm {
            plain(out, "realm", realm.as_str());
        }
        if let Some(name) = self.name {
            plain(out, "name", name.as_str());
        }
        if let Some(version) = self.version {
            number(out, "version", u64::from(version.get().unsigned_abs()));
        }
        if let Some(kek_id) = self.kek_id {
            plain(out, "kek_id", kek_id.as_str());
        }
        if let Some(provider) = self.provider {
            text(out, "provider", provider, WORD_BYTES);
        }
        plain(out, "phase", self.phase.as_str());
        text(out, "outcome", self.outcome, WORD_BYTES);
        if let Some(reason) = self.reason {
            text(out, "reason", reason, WORD_BYTES);
        }
        if let Some(address) = self.address {
            text(out, "address", address, FREE_TEXT_BYTES);
        }
    }
}

/// A formatted record, without its number and its mac.
#[derive(Clone)]
pub struct Kept {
    pub(crate) members: Box<[u8]>,
    pub(crate) request_id: Box<str>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// `,"time":"…"`, RFC 3339.
pub(crate) fn time(out: &mut Vec<u8>, time: Timestamp) {
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time.text().as_bytes());
    out.push(b'"');
}

/// `,"key":"value"` of a value without a character that JSON escapes.
pub(crate) fn plain(out: &mut Vec<u8>, key: &'static str, value: &str) {
    debug_assert!(value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\'));
    member(out, key);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// `,"key":"value"`, escaped and cut after `most` bytes.
pub(crate) fn text(out: &mut Vec<u8>, key: &'static str, value: &str, most: usize) {
    member(out, key);
    if value.len() <= most {
        escaped(out, value);
    } else {
        escaped(out, &value[..value.floor_char_boundary(most)]);
        out.pop();
        out.extend_from_slice("…\"".as_bytes());
    }
}

/// `,"request_id":"…"`. To cut a text twice has the same result as to cut it once.
pub(crate) fn request_id(out: &mut Vec<u8>, value: &str) {
    text(out, "request_id", value, FREE_TEXT_BYTES);
}

/// `,"key":number`.
pub(crate) fn number(out: &mut Vec<u8>, key: &'static str, value: u64) {
    member(out, key);
    digits(out, value);
}

/// The decimal digits of `value`.
pub(crate) fn digits(out: &mut Vec<u8>, mut value: u64) {
    let mut buffer = [0; 20];
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[at..]);
}

fn member(out: &mut Vec<u8>, key: &'static str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn escaped(out: &mut Vec<u8>, value: &str) {
    let safe = value.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\' && b != 0x7f);
    if safe {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        // Writing to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut *out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::MAX_LINE_BYTES;

    fn record() -> Record<'static> {
        Record {
            time: Timestamp::from_micros(1_700_000_000_123_456),
            request_id: "r-1",
            trace_id: None,
            key_id: None,
            identity: None,
            user: None,
            rpc: "GetSecret",
            owner: None,
            realm: None,
            name: None,
            version: None,
            kek_id: None,
            provider: None,
            phase: Phase::Outcome,
            outcome: "OK",
            reason: None,
            address: None,
        }
    }

    fn members(record: &Record<'_>) -> String {
        let mut out = Vec::new();
        record.write_members(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn absent_fields_are_left_out_and_present_ones_keep_their_order() {
        assert_eq!(
            members(&record()),
            r#","time":"2023-11-14T22:13:20.123456Z","request_id":"r-1","rpc":"GetSecret","phase":"outcome","outcome":"OK""#
        );
        let full = Record {
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
            key_id: Some(&ApiKeyId::parse("0123456789abcdef").expect("valid")),
            identity: None,
            user: Some(&Owner::System),
            owner: Some(&Owner::parse("alice@example.com").expect("valid")),
            realm: Some(&Realm::parse("mcp").expect("valid")),
            name: Some(&SecretName::parse("openai").expect("valid")),
            version: Version::new(7),
            kek_id: Some(&KekId::parse("kek-1").expect("valid")),
            provider: Some("aws-kms"),
            phase: Phase::Attempt,
            outcome: "ATTEMPT",
            reason: Some("WHY"),
            address: Some("192.0.2.1:99"),
            ..record()
        };
        assert_eq!(
            members(&full),
            concat!(
                r#","time":"2023-11-14T22:13:20.123456Z","request_id":"r-1","trace_id":"0af7651916cd43dd8448eb211c80319c","#,
                r#""key_id":"0123456789abcdef","user":"system","rpc":"GetSecret","owner":"alice@example.com","realm":"mcp","#,
                r#""name":"openai","version":7,"kek_id":"kek-1","provider":"aws-kms","phase":"attempt","outcome":"ATTEMPT","reason":"WHY","address":"192.0.2.1:99""#
            )
        );
    }

    #[test]
    fn free_texts_cannot_break_out_of_their_field() {
        let hostile = Record {
            request_id: "a\",\"outcome\":\"OK\n\\\u{0}\u{7f}ü",
            address: Some("\r\n{}"),
            ..record()
        };
        let json = format!("{{\"seq\":1{}}}", members(&hostile));
        assert!(!json.contains('\n') && !json.contains('\0'));
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["request_id"], hostile.request_id);
        assert_eq!(value["outcome"], "OK");
        assert_eq!(value["address"], "\r\n{}");
    }

    #[test]
    fn the_longest_record_fits_a_line() {
        let longest = Record {
            request_id: &"\u{1}".repeat(100_000),
            trace_id: Some(&"\u{1}".repeat(100_000)),
            key_id: Some(&ApiKeyId::parse("0123456789abcdef").expect("valid")),
            identity: None,
            user: Some(&Owner::parse(&"u".repeat(255)).expect("valid")),
            owner: Some(&Owner::parse(&"u".repeat(255)).expect("valid")),
            realm: Some(&Realm::parse(&"r".repeat(64)).expect("valid")),
            name: Some(&SecretName::parse(&"n".repeat(255)).expect("valid")),
            version: Version::new(i32::MAX),
            kek_id: Some(&KekId::parse(&"k".repeat(64)).expect("valid")),
            provider: Some("pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"),
            reason: Some("REASON"),
            address: Some(&"ü".repeat(100_000)),
            ..record()
        };
        let json = members(&longest);
        assert!(json.len() + 200 < MAX_LINE_BYTES, "{}", json.len());
        let value: serde_json::Value = serde_json::from_str(&format!("{{\"seq\":1{json}}}")).expect("JSON");
        assert_eq!(value["address"], format!("{}…", "ü".repeat(64)));
    }

    #[test]
    fn debug_shows_no_content() {
        let record = Record {
            request_id: "canary-1",
            trace_id: Some("canary-2"),
            user: Some(&Owner::parse("canary-3").expect("valid")),
            name: Some(&SecretName::parse("canary-4").expect("valid")),
            address: Some("canary-5"),
            ..record()
        };
        let shown = format!("{record:?}");
        assert!(!shown.contains("canary") && shown.contains("GetSecret"), "{shown}");
    }
}
