//! The backup file.
//!
//! * `0` file: a complete file has an end line that counts its items.
//! * `1` one line: a line that parses is written as the same bytes.
#![no_main]

use agentrouter_fuzz::{backup, backup_line, select};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match select(input) {
    Some((b'0', file)) => {
        backup(file);
    }
    Some((b'1', line)) => {
        if let Some(written) = backup_line(line) {
            assert_eq!(written, line);
        }
    }
    _ => {}
});
