//! The text of `kek.json`: format 1 with bare KEKs, format 2 with KEKs that a root key wraps.
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
//! In format 2, a key has these fields in the place of `key`:
//!
//! ```json
//!       "provider": "aws-kms",
//!       "root_id": "<the id of the root key at the provider>",
//!       "wrapped": "<the wrapped key, base 64 with padding>",
//!       "annotations": {"<name>": "<what else the provider needs, base 64 with padding>"},
//!       "check": "<the check value of the key, 32 bytes, base 64 with padding>",
//! ```
//!
//! `provider` is the value of the setting `kek.provider`, the same for all keys of a file. With `passphrase`, `root_id` is the
//! PHC string of Argon2id without the hash, and `wrapped` has the layout of [`Kek::wrap`]. With any other provider, the root
//! key got the 32 bytes of the key, and `root_id`, `wrapped` and `annotations` are its response (Kubernetes KMS v2: `key_id`,
//! `ciphertext`, `annotations`). `check` is [`Kek::check_value`]. A root key that unwraps another key is refused by it,
//! before that key wraps anything. `vectors/` has a file of each provider that every later version must read.
//!
//! The oldest key comes first. Unknown and repeated fields, repeated ids and keys of another length are refused.
//! So are keys of several providers in one file. Key texts
//! are borrowed from the buffer that the file is read into. That buffer is wiped, and so is the one for writing. The errors
//! of `serde_json` quote the text, so they are dropped, not wrapped.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentrouter_crypto::{Kek, digests_equal};
use agentrouter_model::{KekId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::root::{KekFile, WrappedKek};
use crate::{Entry, Keyring, KeyringError};

/// Bare keys.
const BARE: u32 = 1;
/// Wrapped keys.
const WRAPPED: u32 = 2;
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedDocument {
    format: u32,
    active: String,
    keys: Vec<WrappedFileKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedFileKey {
    kek_id: String,
    provider: String,
    root_id: String,
    wrapped: String,
    #[serde(with = "annotations")]
    annotations: BTreeMap<String, String>,
    check: String,
    created_at: String,
}

/// Reads the text of `file`, whose root key unwraps it.
pub(crate) fn read(text: &[u8], file: &KekFile) -> Result<Keyring, KeyringError> {
    // The format is checked first, because a later one may have more fields.
    let AnyFile { format } =
        serde_json::from_slice(text).map_err(|_| malformed("it is not JSON with a format number"))?;
    match (format, file.root()) {
        (BARE, None) => read_bare(text),
        (BARE, Some(root)) => Err(KeyringError::Bare { provider: root.provider().to_owned() }),
        (WRAPPED, _) => read_wrapped(text, file),
        _ => Err(KeyringError::UnknownFormat),
    }
}

/// The provider of the keys in a file. `None` for bare ones.
pub(crate) fn provider(text: &[u8]) -> Result<Option<String>, KeyringError> {
    match read(text, &KekFile::new("", None)) {
        Ok(_) => Ok(None),
        Err(KeyringError::OtherProvider { found, .. }) => Ok(Some(found)),
        Err(error) => Err(error),
    }
}

/// The ids of the keys in a file.
pub(crate) fn ids(text: &[u8]) -> Result<Vec<KekId>, KeyringError> {
    let AnyFile { format } =
        serde_json::from_slice(text).map_err(|_| malformed("it is not JSON with a format number"))?;
    if format == WRAPPED {
        let document: WrappedDocument = serde_json::from_slice(text).map_err(|_| malformed(FIELDS))?;
        return document.keys.iter().map(|key| read_id(&key.kek_id)).collect();
    }
    Ok(read(text, &KekFile::new("", None))?.ids().cloned().collect())
}

fn read_bare(text: &[u8]) -> Result<Keyring, KeyringError> {
    let file: KekDocument<'_> = serde_json::from_slice(text).map_err(|_| malformed(FIELDS))?;
    let mut entries: Vec<Entry> = Vec::with_capacity(file.keys.len());
    for key in &file.keys {
        let entry = read_key(key)?;
        if entries.iter().any(|other| other.kek.id() == entry.kek.id()) {
            return Err(malformed(SAME_ID));
        }
        entries.push(entry);
    }
    keyring(entries, file.active)
}

const FIELDS: &str = "a field is missing, unknown, repeated or of the wrong type";
const SAME_ID: &str = "two keys have the same kek_id";

fn keyring(entries: Vec<Entry>, active: &str) -> Result<Keyring, KeyringError> {
    let active = entries.iter().find(|entry| entry.kek.id().as_str() == active);
    let active = Arc::clone(&active.ok_or_else(|| malformed("the active key is not among the keys"))?.kek);
    Ok(Keyring { entries, active })
}

fn read_wrapped(text: &[u8], file: &KekFile) -> Result<Keyring, KeyringError> {
    let document: WrappedDocument = serde_json::from_slice(text).map_err(|_| malformed(FIELDS))?;
    let mut read = Vec::with_capacity(document.keys.len());
    for key in document.keys {
        let entry = read_wrapped_key(key)?;
        if read.iter().any(|other: &ReadKey| other.id == entry.id) {
            return Err(malformed(SAME_ID));
        }
        read.push(entry);
    }
    let Some(first) = read.first() else { return Err(malformed("the active key is not among the keys")) };
    let provider = &first.wrapped.provider;
    if read.iter().any(|key| key.wrapped.provider != *provider) {
        return Err(malformed("its keys have several providers"));
    }
    let Some(root) = file.root().filter(|root| root.provider() == provider) else {
        let asked = file.root().map_or("file", |root| root.provider()).to_owned();
        return Err(KeyringError::OtherProvider { found: provider.clone(), asked });
    };
    let wrapped: Vec<(KekId, &WrappedKek)> = read.iter().map(|key| (key.id.clone(), &key.wrapped)).collect();
    let keks = root.unwrap(&wrapped)?;
    if keks.len() != read.len() {
        return Err(malformed("its provider unwrapped another number of keys"));
    }
    let mut entries = Vec::with_capacity(keks.len());
    for (kek, ReadKey { id, wrapped, check, created_at }) in keks.into_iter().zip(read) {
        if *kek.id() != id || !digests_equal(&kek.check_value()?, &check) {
            return Err(KeyringError::OtherKey { id });
        }
        entries.push(Entry { kek: Arc::new(kek), created_at, wrapped: Some(Arc::new(wrapped)) });
    }
    keyring(entries, &document.active)
}

/// A wrapped key of the file.
struct ReadKey {
    id: KekId,
    wrapped: WrappedKek,
    check: [u8; 32],
    created_at: Timestamp,
}

fn read_wrapped_key(key: WrappedFileKey) -> Result<ReadKey, KeyringError> {
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| malformed("a field is not base 64"));
    let printable = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    if !printable(&key.provider) || !printable(&key.root_id) {
        return Err(malformed("a provider or a root_id is empty or has control characters"));
    }
    let annotations = key.annotations.iter().map(|(name, value)| Ok((name.clone(), bytes(value)?)));
    let wrapped = WrappedKek {
        wrapped: bytes(&key.wrapped)?,
        annotations: annotations.collect::<Result<_, KeyringError>>()?,
        provider: key.provider,
        root_id: key.root_id,
    };
    let check = bytes(&key.check)?.try_into().map_err(|_| malformed("a check value is not 32 bytes"))?;
    let created_at = read_time(&key.created_at)?;
    Ok(ReadKey { id: read_id(&key.kek_id)?, wrapped, check, created_at })
}

fn read_id(text: &str) -> Result<KekId, KeyringError> {
    KekId::parse(text).map_err(|_| malformed("a kek_id is not valid"))
}

fn read_time(text: &str) -> Result<Timestamp, KeyringError> {
    let time: jiff::Timestamp =
        text.parse().map_err(|_| malformed("a created_at is not an RFC 3339 time"))?;
    Ok(Timestamp::from_micros(time.as_microsecond()))
}

fn read_key(key: &FileKey<'_>) -> Result<Entry, KeyringError> {
    let id = read_id(key.kek_id)?;
    let created_at = read_time(key.created_at)?;
    // One byte more than a key: base 64 of 44 characters may decode to 33 bytes.
    let mut decoded = Zeroizing::new([0; 33]);
    let mut bytes = Zeroizing::new([0; 32]);
    match STANDARD.decode_slice(key.key, &mut *decoded) {
        Ok(32) => bytes.copy_from_slice(&decoded[..32]),
        _ => return Err(malformed("a key is not 32 bytes in base 64")),
    }
    Ok(Entry { kek: Arc::new(Kek::from_bytes(id, bytes)), created_at, wrapped: None })
}

/// The text of a file with these keys: wrapped if the entries are, else bare.
pub(crate) fn write(keyring: &Keyring) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let wrapped: Vec<(&Entry, &WrappedKek)> =
        keyring.entries.iter().filter_map(|entry| Some((entry, &**entry.wrapped.as_ref()?))).collect();
    match wrapped.len() {
        0 => Ok(write_bare(keyring)),
        len if len == keyring.entries.len() => write_wrapped(keyring, &wrapped),
        // A bare key beside wrapped ones would be on the disk in clear.
        _ => Err(malformed("some of its keys are wrapped, and some are not")),
    }
}

fn write_wrapped(
    keyring: &Keyring,
    entries: &[(&Entry, &WrappedKek)],
) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let mut keys = Vec::with_capacity(entries.len());
    for (entry, wrapped) in entries {
        let annotation = |(name, value): (&String, &Vec<u8>)| (name.clone(), STANDARD.encode(value));
        keys.push(WrappedFileKey {
            kek_id: entry.kek.id().to_string(),
            provider: wrapped.provider.clone(),
            root_id: wrapped.root_id.clone(),
            wrapped: STANDARD.encode(&wrapped.wrapped),
            annotations: wrapped.annotations.iter().map(annotation).collect(),
            check: STANDARD.encode(entry.kek.check_value()?),
            created_at: entry.created_at.to_string(),
        });
    }
    let file = WrappedDocument { format: WRAPPED, active: keyring.active.id().to_string(), keys };
    let mut text = serde_json::to_vec_pretty(&file).expect("strings and a number, into memory");
    text.push(b'\n');
    Ok(Zeroizing::new(text))
}

fn write_bare(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
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
    let file = KekDocument { format: BARE, active: keyring.active.id().as_str(), keys: keys.collect() };

    // Large enough that it never reallocates, because a reallocation leaves an unwiped copy.
    let mut text = Zeroizing::new(Vec::with_capacity(256 + 256 * keyring.entries.len()));
    serde_json::to_writer_pretty(&mut *text, &file).expect("strings and a number, into memory");
    text.push(b'\n');
    text
}

fn malformed(what: &'static str) -> KeyringError {
    KeyringError::Malformed { what }
}

/// Annotations without repeated names: `serde_json` takes the last of several.
mod annotations {
    use std::collections::BTreeMap;
    use std::fmt;

    use serde::de::{Error, MapAccess, Visitor};
    use serde::{Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        annotations: &BTreeMap<String, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        annotations.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, String>, D::Error> {
        deserializer.deserialize_map(Once)
    }

    struct Once;

    impl<'de> Visitor<'de> for Once {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with each name once")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut read = BTreeMap::new();
            while let Some((name, value)) = map.next_entry()? {
                if read.insert(name, value).is_some() {
                    return Err(A::Error::custom("a repeated name"));
                }
            }
            Ok(read)
        }
    }
}
