//! The JSON of REST: proto names, default values written, an unset timestamp as `null`, RFC 3339 timestamps.
//!
//! All writers go straight from the model into one buffer. The one that holds a plaintext is made in exactly its size,
//! so that it never moves, and is wiped when its last reader drops it.

use agentrouter_model::call::{Page, Revealed, Validation};
use agentrouter_model::{Refusal, Secret, SecretValue, Timestamp};
use buffa::bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, SerializeStruct, Serializer};
use zeroize::Zeroizing;

use crate::ERROR_DOMAIN;

/// `{"secret":{…}}`, the answer of Create, Get and Rotate.
pub fn secret(secret: &Secret) -> Bytes {
    let mut bytes = b"{\"secret\":".to_vec();
    append(&mut bytes, &SecretJson(secret));
    bytes.push(b'}');
    bytes.into()
}

/// `{"secrets":[…],"next_page_token":"…"}`, the answer of List.
pub fn page(page: &Page) -> Bytes {
    let mut bytes = Vec::with_capacity(64 + 512 * page.secrets.len());
    bytes.extend_from_slice(b"{\"secrets\":");
    append(&mut bytes, &SecretsJson(&page.secrets));
    bytes.extend_from_slice(b",\"next_page_token\":");
    append(&mut bytes, &page.next_page_token);
    bytes.push(b'}');
    bytes.into()
}

/// `{"success":true}`, the answer of Delete.
pub fn deleted() -> Bytes {
    Bytes::from_static(b"{\"success\":true}")
}

/// `{"valid":…,"error":"…"}`, the answer of Validate.
pub fn validation(validation: &Validation) -> Bytes {
    let mut bytes = b"{\"valid\":".to_vec();
    append(&mut bytes, &validation.valid);
    bytes.extend_from_slice(b",\"error\":");
    append(&mut bytes, &validation.error);
    bytes.push(b'}');
    bytes.into()
}

/// `{"value":"…","secret":{…}}`, the answer of GetSecretValue. Wiped when dropped.
pub fn value(revealed: &Revealed) -> Bytes {
    let mut secret = Vec::with_capacity(768);
    append(&mut secret, &SecretJson(&revealed.secret));
    value_document(&revealed.value, &secret)
}

/// `{"code":…,"message":"…","details":[…]}`, the answer to any refused call.
pub fn error(refusal: &Refusal) -> Bytes {
    let mut bytes = b"{\"code\":".to_vec();
    append(&mut bytes, &refusal.code().number());
    bytes.extend_from_slice(b",\"message\":");
    append(&mut bytes, &refusal.message());
    bytes.extend_from_slice(
        b",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":",
    );
    append(&mut bytes, refusal.reason.as_str());
    bytes.extend_from_slice(b",\"domain\":");
    append(&mut bytes, ERROR_DOMAIN);
    bytes.extend_from_slice(b",\"metadata\":{}}");
    if !refusal.violations.is_empty() {
        bytes.extend_from_slice(
            b",{\"@type\":\"type.googleapis.com/google.rpc.BadRequest\",\"field_violations\":[",
        );
        for (i, violation) in refusal.violations.iter().enumerate() {
            bytes.extend_from_slice(if i == 0 { b"{\"field\":" } else { b",{\"field\":" });
            append(&mut bytes, violation.field);
            bytes.extend_from_slice(b",\"description\":");
            append(&mut bytes, &violation.rule);
            bytes.push(b'}');
        }
        bytes.extend_from_slice(b"]}");
    }
    if let Some(delay) = refusal.retry_after {
        let (seconds, nanos) = (delay.as_secs(), delay.subsec_nanos());
        let fraction = if nanos == 0 { String::new() } else { format!(".{nanos:09}") };
        let retry = format!(
            ",{{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",\"retry_delay\":\"{seconds}{fraction}s\"}}"
        );
        bytes.extend_from_slice(retry.as_bytes());
    }
    bytes.extend_from_slice(b"]}");
    bytes.into()
}

/// The document of a value and of its secret's JSON, in a buffer of exactly its size that is wiped when dropped.
pub(crate) fn value_document(value: &SecretValue, secret: &[u8]) -> Bytes {
    const HEAD: &[u8] = b"{\"value\":\"";
    const MIDDLE: &[u8] = b"\",\"secret\":";
    let escaped: usize = value.expose().bytes().map(|byte| escape(byte).len()).sum();
    let size = HEAD.len() + escaped + MIDDLE.len() + secret.len() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    bytes.extend_from_slice(HEAD);
    for byte in value.expose().bytes() {
        match escape(byte) {
            Escape::No => bytes.push(byte),
            Escape::Short(letter) => bytes.extend_from_slice(&[b'\\', letter]),
            Escape::Code([high, low]) => bytes.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]),
        }
    }
    bytes.extend_from_slice(MIDDLE);
    bytes.extend_from_slice(secret);
    bytes.push(b'}');
    debug_assert_eq!(bytes.len(), size, "a buffer that grew has left a plaintext behind");
    Bytes::from_owner(bytes)
}

/// How a byte of UTF-8 is written within a JSON string.
enum Escape {
    No,
    Short(u8),
    Code([u8; 2]),
}

impl Escape {
    const fn len(&self) -> usize {
        match self {
            Self::No => 1,
            Self::Short(_) => 2,
            Self::Code(_) => 6,
        }
    }
}

const fn escape(byte: u8) -> Escape {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => Escape::Short(byte),
        b'\n' => Escape::Short(b'n'),
        b'\r' => Escape::Short(b'r'),
        b'\t' => Escape::Short(b't'),
        0x08 => Escape::Short(b'b'),
        0x0c => Escape::Short(b'f'),
        0..0x20 => Escape::Code([HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]),
        _ => Escape::No,
    }
}

/// Appends JSON. Writing to a vector cannot fail, and neither can any of the types in here.
fn append<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, part: &T) {
    let written = serde_json::to_writer(bytes, part);
    debug_assert!(written.is_ok(), "all keys are strings");
}

struct SecretsJson<'a>(&'a [Secret]);

impl Serialize for SecretsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for secret in self.0 {
            list.serialize_element(&SecretJson(secret))?;
        }
        list.end()
    }
}

struct SecretJson<'a>(&'a Secret);

impl Serialize for SecretJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let secret = self.0;
        let mut object = serializer.serialize_struct("Secret", 13)?;
        object.serialize_field("id", &Shown(&secret.id))?;
        object.serialize_field("name", secret.place.name.as_str())?;
        object.serialize_field("realm", secret.place.realm.as_str())?;
        object.serialize_field("user_id", secret.place.owner.as_str())?;
        object.serialize_field("description", secret.description.as_str())?;
        object.serialize_field("tags", &TagsJson(&secret.tags))?;
        object.serialize_field("status", secret.status.as_str())?;
        object.serialize_field("version", &secret.version.get())?;
        object.serialize_field("created_at", &Shown(&secret.created_at))?;
        object.serialize_field("updated_at", &Shown(&secret.updated_at))?;
        object.serialize_field("rotated_at", &secret.rotated_at.as_ref().map(Shown::<Timestamp>))?;
        object.serialize_field("expires_at", &secret.expires_at.as_ref().map(Shown::<Timestamp>))?;
        object.serialize_field("kek_id", secret.kek_id.as_str())?;
        object.end()
    }
}

struct TagsJson<'a>(&'a agentrouter_model::Tags);

impl Serialize for TagsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0.iter() {
            object.serialize_entry(key.as_str(), value.as_str())?;
        }
        object.end()
    }
}

/// A type as the string it displays as.
struct Shown<'a, T>(&'a T);

impl<T: std::fmt::Display> Serialize for Shown<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}
