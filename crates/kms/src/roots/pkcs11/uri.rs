//! URIs of PKCS#11 objects (RFC 7512).
//!
//! Of the path: `token`, `serial`, `manufacturer`, `model`, `slot-id`, `object`, `id`, `type`. Of the query: `module-path` and
//! `pin-source`. All others are refused, so that a typing error does not select another key. `pin-value` is refused because
//! a command line is visible to other users.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

/// The key in a token, the library that reaches it, and the file with the PIN.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uri {
    pub(super) module: PathBuf,
    pub(super) pin: Option<PathBuf>,
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) slot: Option<u64>,
    pub(super) object: Option<Vec<u8>>,
    pub(super) id: Option<Vec<u8>>,
}

impl Uri {
    /// # Errors
    /// When the URI is invalid, names no library, or names neither `object` nor `id`.
    pub(super) fn parse(uri: &str) -> anyhow::Result<Self> {
        let rest = uri.strip_prefix("pkcs11:").context("the key must be a URI that begins with pkcs11:")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parsed = Self::default();
        for (name, value) in attributes(path, ';')? {
            parsed.set(name, value)?;
        }
        for (name, value) in attributes(query, '&')? {
            match name {
                "module-path" => parsed.module = absolute(name, &text(value)?)?,
                "pin-source" => {
                    let source = text(value)?;
                    let file =
                        source.strip_prefix("file://").or(source.strip_prefix("file:")).unwrap_or(&source);
                    parsed.pin = Some(absolute(name, file)?);
                }
                "pin-value" => {
                    bail!("a PIN must not be in the URI; write it to a file and use pin-source=file:PATH")
                }
                _ => bail!("the URI has the unknown attribute {name}"),
            }
        }
        ensure!(!parsed.module.as_os_str().is_empty(), "the URI names no library; add ?module-path=PATH");
        ensure!(
            parsed.object.is_some() || parsed.id.is_some(),
            "the URI names no key; add object=LABEL or id=ID"
        );
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: Vec<u8>) -> anyhow::Result<()> {
        match name {
            "token" => self.token = Some(text(value)?),
            "serial" => self.serial = Some(text(value)?),
            "manufacturer" => self.manufacturer = Some(text(value)?),
            "model" => self.model = Some(text(value)?),
            "slot-id" => self.slot = Some(text(value)?.parse().context("slot-id must be a number")?),
            "object" => self.object = Some(value),
            "id" => self.id = Some(value),
            "type" => ensure!(value == b"secret-key", "the key must have type=secret-key"),
            _ => bail!("the URI has the unknown attribute {name}"),
        }
        Ok(())
    }
}

/// The URI of a key, without library and PIN.
pub(super) fn of_key(token: &str, serial: &str, label: &[u8], id: &[u8]) -> String {
    let mut uri = format!("pkcs11:token={};serial={}", encoded(token.as_bytes()), encoded(serial.as_bytes()));
    for (name, value) in [("object", label), ("id", id)] {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(uri, ";{name}={}", encoded(value));
        }
    }
    uri
}

/// The attributes of a part of a URI, decoded. None may be there twice.
fn attributes(part: &str, separator: char) -> anyhow::Result<Vec<(&str, Vec<u8>)>> {
    let mut found: Vec<(&str, Vec<u8>)> = Vec::new();
    for attribute in part.split(separator).filter(|attribute| !attribute.is_empty()) {
        let (name, value) = attribute.split_once('=').context("an attribute of the URI has no value")?;
        ensure!(!found.iter().any(|(other, _)| *other == name), "the URI has {name} twice");
        found.push((name, decoded(value).with_context(|| format!("{name} is not percent-encoded"))?));
    }
    Ok(found)
}

fn decoded(value: &str) -> Option<Vec<u8>> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    Some(decoded)
}

fn encoded(value: &[u8]) -> String {
    value.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

fn text(value: Vec<u8>) -> anyhow::Result<String> {
    String::from_utf8(value).ok().context("the URI has a value that is not UTF-8")
}

fn absolute(name: &str, path: &str) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(path);
    ensure!(path.is_absolute(), "{name} must be an absolute path");
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_token_key_library_and_pin_file() {
        let uri = Uri::parse(
            "pkcs11:token=The%20token;serial=12;type=secret-key;object=kek;id=%01%ff;slot-id=3\
             ?module-path=/usr/lib/p11.so&pin-source=file:/run/pin",
        );
        let expected = Uri {
            module: "/usr/lib/p11.so".into(),
            pin: Some("/run/pin".into()),
            token: Some("The token".into()),
            serial: Some("12".into()),
            slot: Some(3),
            object: Some(b"kek".to_vec()),
            id: Some(vec![1, 255]),
            ..Uri::default()
        };
        assert_eq!(uri.expect("valid"), expected);
    }

    #[test]
    fn a_pin_in_the_uri_is_refused_without_repeating_it() {
        let error =
            Uri::parse("pkcs11:object=a?module-path=/a&pin-value=1234").expect_err("refused").to_string();
        assert!(error.contains("pin-source") && !error.contains("1234"), "{error}");
    }

    #[test]
    fn invalid_uris_are_refused() {
        for bad in [
            "",
            "object=a?module-path=/a",
            "pkcs11:object=a",
            "pkcs11:token=a?module-path=/a",
            "pkcs11:object=a?module-path=a",
            "pkcs11:object=%4?module-path=/a",
            "pkcs11:object=%+1?module-path=/a",
            "pkcs11:object?module-path=/a",
            "pkcs11:object=a;object=b?module-path=/a",
            "pkcs11:object=a;type=private?module-path=/a",
            "pkcs11:objekt=a;id=b?module-path=/a",
            "pkcs11:object=a?module-path=/a&pin-source=pin",
            "pkcs11:object=a?module-path=/a&pin-source=|program",
        ] {
            assert!(Uri::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_uri_of_a_key_can_be_parsed() {
        let uri = of_key("The token", "1;2", b"kek/a", &[0, 65]);
        assert_eq!(uri, "pkcs11:token=The%20token;serial=1%3B2;object=kek%2Fa;id=%00A");
        let parsed = Uri::parse(&format!("{uri}?module-path=/a")).expect("valid");
        assert_eq!((parsed.object, parsed.id), (Some(b"kek/a".to_vec()), Some(vec![0, 65])));
    }
}
