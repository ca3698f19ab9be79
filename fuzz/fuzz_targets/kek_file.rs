//! The KEK file: a file that is read is written as one that reads to the same.
//!
//! `0` text of the file.
#![no_main]

use agentrouter_fuzz::select;
use agentrouter_keyring::fuzzing::{read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((b'0', file)) = select(input) else { return };
    if let Ok(keyring) = read(file) {
        let written = write(&keyring);
        let again = read(&written).expect("its own text");
        assert_eq!(*write(&again), *written);
    }
});
