//! `.env` files: what is read is written as lines that read to the same.
//!
//! * `0` file.
//! * `1` value of a variable.
#![no_main]

use agentrouter_fuzz::{select, text, variable_line, variables};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match select(input) {
    Some((b'0', file)) => {
        let Some(read) = variables(text(file)) else { return };
        let written: String = read.iter().map(|(name, value)| variable_line(name, value)).collect();
        assert_eq!(variables(&written), Some(read));
    }
    Some((b'1', value)) => {
        let value = text(value);
        let read = variables(&variable_line("NAME", value)).expect("its own line");
        assert_eq!(read, [("NAME".to_owned(), value.to_owned())]);
    }
    _ => {}
});
