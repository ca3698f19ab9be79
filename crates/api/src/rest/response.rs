//! Writers of the JSON responses of REST: proto names, default values included, RFC 3339 timestamps, `null` for an unset one.
//!
//! Each writer writes from the model into one buffer. A buffer that holds a plaintext is allocated in exactly its size, so
//! that it is never reallocated, and is wiped when its last reader drops it.

use agentrouter_model::rpc::{Page, Revealed, Validation};
use agentrouter_model::{Refusal, Secret, SecretValue, Timestamp};
use buffa::bytes::Bytes;
use serde::ser::Serialize;
use zeroize::Zeroizing;

use crate::ERROR_DOMAIN;

/// `{"secret":{…}}`, the response of Create, Get and Rotate.
pub fn secret(secret: &Secret) -> Bytes {
    let mut bytes = Vec::with_capacity(768);
    bytes.extend_from_slice(b"{\"secret\":");
    append_secret(&mut bytes, secret);
    bytes.push(b'}');
    bytes.into()
}

/// `{"secrets":[…],"next_page_token":"…"}`, the response of List.
pub fn page(page: &Page) -> Bytes {
    let mut bytes = Vec::with_capacity(64 + 512 * page.secrets.len());
    bytes.extend_from_slice(b"{\"secrets\":[");
    for (i, secret) in page.secrets.iter().enumerate() {
        if i > 0 {
            bytes.push(b',');
        }
        append_secret(&mut bytes, secret);
    }
    bytes.extend_from_slice(b"],\"next_page_token\":");
    append(&mut bytes, &page.next_page_token);
    bytes.push(b'}');
    bytes.into()
}

/// `{"success":true}`, the response of Delete.
pub fn deleted() -> Bytes {
    Bytes::from_static(b"{\"success\":true}")
}

/// `{"valid":…,"error":"…"}`, the response of Validate.
pub fn validation(validation: &Validation) -> Bytes {
    let mut bytes = b"{\"valid\":".to_vec();
    append(&mut bytes, &validation.valid);
    bytes.extend_from_slice(b",\"error\":");
    append(&mut bytes, &validation.error);
    bytes.push(b'}');
    bytes.into()
}

/// `{"value":"…","secret":{…}}`, the response of GetSecretValue. Wiped when dropped.
pub fn value(revealed: &Revealed) -> Bytes {
    let mut secret = Vec::with_capacity(768);
    append_secret(&mut secret, &revealed.secret);
    value_document(&revealed.value, &secret)
}

/// `{"code":…,"message":"…","details":[…]}`, the response to a refused request.
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

/// The JSON of a value and of its secret, in a buffer of exactly its size that is wiped when dropped.
pub(crate) fn value_document(value: &SecretValue, secret: &[u8]) -> Bytes {
    const HEAD: &[u8] = b"{\"value\":\"";
    const MIDDLE: &[u8] = b"\",\"secret\":";
    let escaped: usize = value.expose().bytes().map(|byte| escape(byte).len()).sum();
    let size = HEAD.len() + escaped + MIDDLE.len() + secret.len() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    bytes.extend_from_slice(HEAD);
    if escaped == value.expose().len() {
        // The common case: keys and tokens have nothing to escape.
        bytes.extend_from_slice(value.expose().as_bytes());
    } else {
        for byte in value.expose().bytes() {
            match escape(byte) {
                Escape::No => bytes.push(byte),
                Escape::Short(letter) => bytes.extend_from_slice(&[b'\\', letter]),
                Escape::Code([high, low]) => bytes.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]),
            }
        }
    }
    bytes.extend_from_slice(MIDDLE);
    bytes.extend_from_slice(secret);
    bytes.push(b'}');
    debug_assert_eq!(bytes.len(), size, "a reallocated buffer leaves a plaintext behind");
    Bytes::from_owner(bytes)
}

/// The escape of a byte of UTF-8 in a JSON string.
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

/// Appends JSON. Neither a write to a vector nor the serialisation of these types can fail.
fn append<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, part: &T) {
    let written = serde_json::to_writer(bytes, part);
    debug_assert!(written.is_ok(), "all keys are strings");
}

/// Appends a secret's object. Members whose alphabet needs no escapes are copied without `serde_json`: the case `list` of
/// `cargo xtask instructions` shows the cost of a page.
fn append_secret(bytes: &mut Vec<u8>, secret: &Secret) {
    plain(bytes, b"{\"id\":\"", secret.id.text().as_bytes());
    plain(bytes, b"\",\"name\":\"", secret.place.name.as_str().as_bytes());
    plain(bytes, b"\",\"realm\":\"", secret.place.realm.as_str().as_bytes());
    plain(bytes, b"\",\"user_id\":\"", secret.place.owner.as_str().as_bytes());
    bytes.extend_from_slice(b"\",\"description\":");
    append(bytes, secret.description.as_str());
    bytes.extend_from_slice(b",\"tags\":{");
    for (i, (key, value)) in secret.tags.iter().enumerate() {
        plain(bytes, if i == 0 { b"\"" } else { b",\"" }, key.as_str().as_bytes());
        bytes.extend_from_slice(b"\":");
        append(bytes, value.as_str());
    }
    plain(bytes, b"},\"status\":\"", secret.status.as_str().as_bytes());
    bytes.extend_from_slice(b"\",\"version\":");
    append(bytes, &secret.version.get());
    let created = secret.created_at.text();
    plain(bytes, b",\"created_at\":\"", created.as_bytes());
    // Most secrets were not changed since.
    let is_unchanged = secret.updated_at == secret.created_at;
    let updated = if is_unchanged { created } else { secret.updated_at.text() };
    plain(bytes, b"\",\"updated_at\":\"", updated.as_bytes());
    bytes.extend_from_slice(b"\",\"rotated_at\":");
    append_time(bytes, secret.rotated_at);
    bytes.extend_from_slice(b",\"expires_at\":");
    append_time(bytes, secret.expires_at);
    plain(bytes, b",\"kek_id\":\"", secret.kek_id.as_str().as_bytes());
    bytes.extend_from_slice(b"\"}");
}

/// Appends `before` and a text that needs no escaping.
fn plain(bytes: &mut Vec<u8>, before: &[u8], text: &[u8]) {
    debug_assert!(text.iter().all(|b| (0x20..0x7f).contains(b) && !matches!(b, b'"' | b'\\')));
    bytes.extend_from_slice(before);
    bytes.extend_from_slice(text);
}

/// Appends a timestamp, or `null`.
fn append_time(bytes: &mut Vec<u8>, at: Option<Timestamp>) {
    match at {
        Some(at) => {
            plain(bytes, b"\"", at.text().as_bytes());
            bytes.push(b'"');
        }
        None => bytes.extend_from_slice(b"null"),
    }
}
