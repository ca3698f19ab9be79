//! No part of a value or a key is in any file.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use agentrouter_model::Rpc;
use agentrouter_testkit::ServerProcess;

use super::calls::{Say, TRANSPORTS, call};
use crate::support::{Dice, Server};

/// The length of a part in bytes of the secret: too long to occur at random.
const PIECE: usize = 8;

/// The length of a part in hexadecimal digits. Eight digits would occur at random: the log contains many digests, and
/// with the tens of thousands of parts here one run in twenty would find one of them.
const DIGITS: usize = 2 * PIECE;

/// Every part of some secrets.
#[derive(Default)]
struct Pieces {
    /// The secret of each part, raw and in hexadecimal digits.
    plain: HashMap<[u8; PIECE], String>,
    hex: HashMap<[u8; DIGITS], String>,
    /// By the first two bytes, whether any part begins with them. This skips most of a file.
    begins: Vec<bool>,
}

impl Pieces {
    fn add(&mut self, label: &str, secret: &[u8]) {
        for piece in secret.windows(PIECE) {
            self.note_beginning(piece);
            self.plain.insert(piece.try_into().expect("its length"), label.to_owned());
        }
    }

    fn add_with_hex(&mut self, label: &str, secret: &[u8]) {
        self.add(label, secret);
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        for piece in hex.as_bytes().windows(DIGITS) {
            self.note_beginning(piece);
            self.hex.insert(piece.try_into().expect("its length"), label.to_owned());
        }
    }

    fn note_beginning(&mut self, piece: &[u8]) {
        self.begins.resize(1 << 16, false);
        self.begins[beginning(piece)] = true;
    }

    /// The secret that has a part among `bytes`, if any.
    fn find(&self, bytes: &[u8]) -> Option<&str> {
        let whose = |at: usize| {
            let plain = bytes[at..].first_chunk().and_then(|piece| self.plain.get(piece));
            plain.or_else(|| bytes[at..].first_chunk().and_then(|piece| self.hex.get(piece)))
        };
        let candidates = bytes.windows(2).enumerate().filter(|(_, two)| self.begins[beginning(two)]);
        candidates.filter_map(|(at, _)| whose(at)).next().map(String::as_str)
    }
}

/// The first two bytes of a part as a number.
fn beginning(piece: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([piece[0], piece[1]]))
}

#[test]
fn a_piece_is_found_plain_and_encoded_but_half_of_it_is_not() {
    let mut pieces = Pieces::default();
    pieces.add_with_hex("a value", b"sk-0123456789");
    for found in ["..sk-01234", "23456789", "\"736b2d3031323334\"", ".36b2d30313233343", "3233343536373839"] {
        assert_eq!(pieces.find(found.as_bytes()), Some("a value"), "{found}");
    }
    for part in ["", "s", "sk-0123", "3456789", "736b2d30", "736b2d303132333", "sk-01243"] {
        assert_eq!(pieces.find(part.as_bytes()), None, "{part}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            all.push(path);
        }
    }
    all
}

/// The bytes of unpadded or padded standard base64.
fn unbase64(text: &str) -> Vec<u8> {
    let digit = |byte| {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        alphabet.iter().position(|letter| *letter == byte).expect("base64") as u32
    };
    let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(digit).collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().enumerate().fold(0, |bits, (at, digit)| bits | digit << (18 - 6 * at));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_of_a_value_or_a_key_is_in_any_file() {
    let mut dice = Dice(20_261_123);
    let server = Server::start_with(&["--log-level", "trace"]);
    let mut pieces = Pieces::default();
    let reader = server.issue("ann", "secrets/read", &[]);
    let revoked = server.issue("ben", "secrets/read", &[]);
    let id = &revoked[..16];
    let data = server.process.data_dir().to_str().expect("a path").to_owned();
    assert!(crate::support::run(&["key", "revoke", id, "--data-dir", &data]).status.success());
    for (label, key) in [("the first key", &server.key), ("a key", &reader), ("a revoked key", &revoked)] {
        // The sixteen letters before the underscore are the key's public id.
        pieces.add_with_hex(label, &key.as_bytes()[17..]);
    }

    for transport in TRANSPORTS {
        for key in [&server.key, &reader, &revoked] {
            for rpc in [
                Rpc::CreateSecret,
                Rpc::RotateSecret,
                Rpc::RotateSecret,
                Rpc::CreateSecret,
                Rpc::GetSecretValue,
                Rpc::ValidateSecret,
                Rpc::ListSecrets,
                Rpc::DeleteSecret,
                Rpc::CreateSecret,
            ] {
                // Accepted or refused: no copy of the value may be on disk.
                for name in ["openai", "not..a..name"] {
                    let value = dice.text(40);
                    pieces.add_with_hex("a value", value.as_bytes());
                    call(&server, transport, key, rpc, Say { name, value: &value, ..Say::default() }).await;
                }
            }
        }
    }
    // Values and keys in places of a request where they do not belong.
    for path in ["/v1/secrets?value={}", "/v1/secrets/{}", "/v1/{}", "/v1/secrets?page_token={}", "/{}"] {
        let stray = dice.text(40);
        pieces.add_with_hex("a stray value", stray.as_bytes());
        server.call("GET", &path.replace("{}", &stray), &format!("{{\"{stray}\":\"{stray}\"}}"));
        server.call_as(&stray, "GET", "/v1/secrets", "");
        server.send("POST", "/v1/secrets", &[("Authorization", &stray), (&stray, &stray)], stray.as_bytes());
    }
    let large = dice.text(60_000);
    pieces.add("a large value", large.as_bytes());
    let body = format!("{{\"name\":\"large\",\"value\":\"{large}\"}}");
    assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);

    // A kill keeps the write-ahead log.
    let Server { process, .. } = server;
    process.kill();
    let kek = fs::read_to_string(Path::new(&data).join("kek.json")).expect("the KEK file");
    let kek: serde_json::Value = serde_json::from_str(&kek).expect("JSON");
    let text = kek["keys"][0]["key"].as_str().expect("a key");
    let bytes = unbase64(text);
    assert_eq!(bytes.len(), 32);
    pieces.add("the KEK's text", text.as_bytes());
    pieces.add_with_hex("the KEK", &bytes);

    let mut looked_at = files(Path::new(&data));
    looked_at.push(ServerProcess::log_of(Path::new(&data)));
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let names: Vec<String> = looked_at.iter().map(|path| name(path)).collect();
    for expected in ["secrets.db", "secrets.db-wal", "audit.jsonl", "data.log"] {
        assert!(names.iter().any(|name| name == expected), "no {expected} among {names:?}");
    }
    let wal = fs::metadata(Path::new(&data).join("secrets.db-wal")).expect("there").len();
    assert!(wal > 0, "the write-ahead log is empty");
    for path in looked_at {
        let found = pieces.find(&fs::read(&path).expect("readable"));
        match name(&path).as_str() {
            // These two files must contain the key. They show that the search finds a part.
            "bootstrap.env" => assert_eq!(found, Some("the first key")),
            "kek.json" => assert_eq!(found, Some("the KEK's text")),
            other => assert_eq!(found, None, "a part of a secret is in {other}"),
        }
    }
}
