//! The text of `kek.json`, format 1.
//!
//! ```json
//! {
//!   "format": 1,
//!   "active": "kek-01JCQ3TVS0J4W3Y6Q2N8R5K7ZB",
//!   "keys": [
//!     {
//!       "kek_id": "kek-01JCQ3TVS0J4W3Y6Q2N8R5K7ZB",
//!       "key": "<32 bytes, base 64 with padding>",
//!       "created_at": "2026-11-05T09:00:00.000000Z"
//!     }
//!   ]
//! }
//! ```
//!
//! The oldest key comes first. Unknown and repeated fields, repeated ids and keys of another length are refused. Key texts
//! are borrowed from the buffer that the file is read into. That buffer is wiped, and so is the one for writing. The errors
//! of `serde_json` quote the text, so they are dropped, not wrapped.

use std::sync::Arc;

use agentrouter_crypto::Kek;
use agentrouter_model::{KekId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Entry, Keyring, KeyringError};

const FORMAT: u32 = 1;
/// The length of a key in base 64.
const KEY_TEXT_LEN: usize = 44;

/// The part that files of all formats have.
#[derive(Deserialize)]
struct AnyFile {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KekDocument<'a> {
    format: u32,
    active: &'a str,
    #[serde(borrow)]
    keys: Vec<FileKey<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey<'a> {
    kek_id: &'a str,
    key: &'a str,
    created_at: &'a str,
}

pub(crate) fn read(text: &[u8]) -> Result<Keyring, KeyringError> {
    // The format is checked first, because a later one may have more fields.
    let AnyFile { format } =
        serde_json::from_slice(text).map_err(|_| malformed("it is not JSON with a format number"))?;
    if format != FORMAT {
        return Err(KeyringError::UnknownFormat);
    }
    let file: KekDocument<'_> = serde_json::from_slice(text)
        .map_err(|_| malformed("a field is missing, unknown, repeated or of the wrong type"))?;
    let mut entries: Vec<Entry> = Vec::with_capacity(file.keys.len());
    for key in &file.keys {
        let entry = read_key(key)?;
        if entries.iter().any(|other| other.kek.id() == entry.kek.id()) {
            return Err(malformed("two keys have the same kek_id"));
        }
        entries.push(entry);
    }
    let active = entries.iter().find(|entry| entry.kek.id().as_str() == file.active);
    let active = Arc::clone(&active.ok_or_else(|| malformed("the active key is not among the keys"))?.kek);
    Ok(Keyring { entries, active })
}

fn read_key(key: &FileKey<'_>) -> Result<Entry, KeyringError> {
    let id = KekId::parse(key.kek_id).map_err(|_| malformed("a kek_id is not valid"))?;
    let created_at: jiff::Timestamp =
        key.created_at.parse().map_err(|_| malformed("a created_at is not an RFC 3339 time"))?;
    // One byte more than a key: base 64 of 44 characters may decode to 33 bytes.
    let mut decoded = Zeroizing::new([0; 33]);
    let mut bytes = Zeroizing::new([0; 32]);
    match STANDARD.decode_slice(key.key, &mut *decoded) {
        Ok(32) => bytes.copy_from_slice(&decoded[..32]),
        _ => return Err(malformed("a key is not 32 bytes in base 64")),
    }
    Ok(Entry {
        kek: Arc::new(Kek::from_bytes(id, bytes)),
        created_at: Timestamp::from_micros(created_at.as_microsecond()),
    })
}

pub(crate) fn write(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    let texts: Vec<(Zeroizing<[u8; KEY_TEXT_LEN]>, String)> = keyring
        .entries
        .iter()
        .map(|entry| {
            let mut text = Zeroizing::new([0; KEY_TEXT_LEN]);
            STANDARD.encode_slice(entry.kek.expose(), &mut *text).expect("32 bytes are 44 characters");
            (text, entry.created_at.to_string())
        })
        .collect();
    let keys = keyring.entries.iter().zip(&texts).map(|(entry, (key, created_at))| FileKey {
        kek_id: entry.kek.id().as_str(),
        key: str::from_utf8(&**key).expect("base 64 is ASCII"),
        created_at,
    });
    let file = KekDocument { format: FORMAT, active: keyring.active.id().as_str(), keys: keys.collect() };

    // Large enough that it never reallocates, because a reallocation leaves an unwiped copy.
    let mut text = Zeroizing::new(Vec::with_capacity(256 + 256 * keyring.entries.len()));
    serde_json::to_writer_pretty(&mut *text, &file).expect("strings and a number, into memory");
    text.push(b'\n');
    text
}

fn malformed(what: &'static str) -> KeyringError {
    KeyringError::Malformed { what }
}
