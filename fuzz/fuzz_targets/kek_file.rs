//! The KEK file: a file that is read is written as one that reads to the same.
//!
//! `0` text of the file; `1` id of the root key of a passphrase.
#![no_main]

use agentrouter_fuzz::select;
use agentrouter_keyring::fuzzing::{is_passphrase_root, read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match select(input) {
        Some((b'0', file)) => {
            if let Ok(keyring) = read(file) {
                let written = write(&keyring);
                let again = read(&written).expect("its own text");
                assert_eq!(*write(&again), *written);
            }
        }
        Some((b'1', id)) => {
            let known = std::str::from_utf8(id).is_ok_and(is_passphrase_root);
            assert!(!known || id.len() < 100);
        }
        _ => {}
    }
});
