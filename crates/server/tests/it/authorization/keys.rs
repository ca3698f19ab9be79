//! Keys that are almost valid, and keys that are no longer valid.

use std::time::Duration;

use super::oracle::UNAUTHENTICATED;
use super::wire::{Client, Dialect, method};
use super::{ALL, Fixture, bearer};

/// Revokes a key (without its `ak-`) on the command line beside the running server.
pub fn revoke(fixture: &Fixture, bare: &str) {
    let (id, _) = bare.split_once('_').expect("a key");
    let data = fixture.server.process.data_dir().to_str().expect("UTF-8");
    let output = crate::support::run(&["key", "revoke", id, "--data-dir", data]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The responses to a list with this key, in each dialect, on the connections of `client`.
async fn codes(client: &mut Client, bare: &str) -> Vec<u8> {
    let mut codes = Vec::new();
    for dialect in Dialect::ALL {
        let call = method("ListSecrets").with(dialect, &[]);
        codes.push(client.send(&call, Some(&bearer(bare))).await.code);
    }
    codes
}

/// Every dialect's success, and every dialect's refusal.
const DONE: [u8; 5] = [0; 5];
const REFUSED: [u8; 5] = [UNAUTHENTICATED; 5];

#[tokio::test]
async fn a_revoked_key_stops_at_once_on_open_connections() {
    let mut fixture = Fixture::open();
    let key = fixture.server.issue("alice", &ALL.join(","), &[]);
    let other = fixture.server.issue("alice", &ALL.join(","), &[]);
    for _ in 0..2 {
        assert_eq!(codes(&mut fixture.client, &key).await, DONE);
    }
    revoke(&fixture, &key);
    for _ in 0..2 {
        assert_eq!(codes(&mut fixture.client, &key).await, REFUSED);
    }
    assert_eq!(codes(&mut fixture.client, &other).await, DONE, "the user's other key still works");
}

#[tokio::test]
async fn an_expired_key_stops_at_once_on_open_connections() {
    let mut fixture = Fixture::open();
    // On a busy machine the key may expire before its first request. Then its lifetime is longer in the next attempt.
    for seconds in [2, 8, 32] {
        let key = fixture.server.issue("alice", &ALL.join(","), &["--expires", &format!("{seconds}s")]);
        let before = codes(&mut fixture.client, &key).await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(codes(&mut fixture.client, &key).await, REFUSED);
        if before == DONE {
            return;
        }
    }
    panic!("the key never worked");
}

/// The checksum of a key in six digits of base 62, computed from the documented format: CRC-32 of everything before it,
/// `ak-` included.
fn checksum(text: &str) -> String {
    let mut crc = !0_u32;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut rest = !crc;
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(BASE62[rest as usize % 62]);
        rest /= 62;
    }
    digits.reverse();
    String::from_utf8(digits).expect("ASCII")
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The first `length` bytes of `key` (with `ak-`) and other bytes after them, with a matching checksum where that is
/// possible.
fn with_prefix(key: &str, length: usize) -> String {
    let other = |byte: u8| if byte == b'7' { 'x' } else { '7' };
    let twisted = |part: &str| -> String {
        part.bytes().map(|byte| if byte == b'_' { '_' } else { other(byte) }).collect()
    };
    let secret_end = key.len() - 6;
    if length >= secret_end {
        return format!("{}{}", &key[..length], twisted(&key[length..]));
    }
    let body = format!("{}{}", &key[..length], twisted(&key[length..secret_end]));
    format!("{body}{}", checksum(&body))
}

#[tokio::test]
async fn keys_that_begin_alike_are_different_keys() {
    let mut fixture = Fixture::open();
    let bare = fixture.server.issue("alice", &ALL.join(","), &[]);
    let key = format!("ak-{bare}");
    assert_eq!(key.len(), 69);
    assert_eq!(key[63..], checksum(&key[..63]), "the generated key is well-formed");

    let mut others: Vec<String> = (3..key.len()).map(|length| with_prefix(&key, length)).collect();
    // The same secret under another id, truncated, extended, in another case, with spaces.
    let swapped = format!("ak-{}{}", "0".repeat(16), &key[19..63]);
    others.push(format!("{swapped}{}", checksum(&swapped)));
    others.extend((0..key.len()).map(|length| key[..length].to_owned()));
    others.extend([format!("{key}0"), format!("{key}{key}"), format!("ak-{key}"), bare.clone()]);
    others.extend([key.to_uppercase(), key.to_lowercase(), format!(" {key}"), format!("{key},{key}")]);

    for warm in [false, true] {
        for other in others.iter().filter(|other| **other != key) {
            let call = method("ListSecrets").with(Dialect::Rest, &[]);
            let reply = fixture.client.send(&call, Some(&format!("Bearer {other}"))).await;
            assert_eq!(reply.code, UNAUTHENTICATED, "{} characters, warm: {warm}", other.len());
        }
        assert_eq!(codes(&mut fixture.client, &bare).await, DONE);
    }
    // Only the secret's last character differs, and the checksum matches: in every dialect.
    assert_eq!(codes(&mut fixture.client, &with_prefix(&key, 62)[3..]).await, REFUSED);
}
