//! The settings.
//!
//! * `0` config file.
//! * `1` command line, one argument a line.
//! * `2` duration. `3` network: a network that parses is shown as one that parses to the same.
#![no_main]

use agentrouter_fuzz::{duration, network, select, settings, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match select(input) {
    Some((b'0', file)) => {
        let _ = settings(file, &[]);
    }
    Some((b'1', line)) => {
        let arguments: Vec<&str> = text(line).lines().collect();
        let _ = settings(b"", &arguments);
    }
    Some((b'2', text_)) => {
        duration(text(text_));
    }
    Some((b'3', text_)) => {
        if let Some(shown) = network(text(text_)) {
            assert_eq!(network(&shown), Some(shown));
        }
    }
    _ => {}
});
