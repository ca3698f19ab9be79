//! API keys and the `Authorization` header.
//!
//! * `0` key: a key that parses is shown as it was given, and no key with one other character parses.
//! * `1` header values, one a line: only a single header has a token, which is part of it.
#![no_main]

use agentrouter_crypto::ApiToken;
use agentrouter_fuzz::{bearer, select, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match select(input) {
    Some((b'0', key)) => {
        let key = text(key);
        let Ok(token) = ApiToken::parse(key) else { return };
        let bare = key.strip_prefix("ak-").unwrap_or(key);
        assert_eq!(token.expose_bare(), bare);
        assert_eq!(token.digest(), ApiToken::parse(token.expose()).expect("its own text").digest());
        assert!(bare.starts_with(token.id().as_str()));
        for (at, _) in bare.char_indices() {
            let other = if bare[at..].starts_with('0') { "1" } else { "0" };
            let changed = format!("{}{other}{}", &bare[..at], &bare[at + 1..]);
            assert!(ApiToken::parse(&changed).is_err(), "the checksum finds one changed character");
        }
    }
    Some((b'1', values)) => {
        let values: Vec<&[u8]> = values.split(|byte| *byte == b'\n').collect();
        if let Some(token) = bearer(&values) {
            assert!(values.iter().any(|value| value.ends_with(token.as_bytes())));
        }
    }
    _ => {}
});
