//! The audit log.
//!
//! * `0` line: a line that is a record claims a number.
//! * `1` log: the verification of foreign bytes never finds a record that was sealed with the key.
//! * `2` free texts of a record, three lines: what is appended verifies, and reads as the record's number.
#![no_main]

use std::sync::LazyLock;

use agentrouter_audit::fuzzing::{append, read, verify};
use agentrouter_audit::{AuditHead, Phase, Record};
use agentrouter_crypto::InternalKey;
use agentrouter_fuzz::{FixedClock, FixedRng, select, text};
use agentrouter_model::Clock as _;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<InternalKey> = LazyLock::new(|| InternalKey::generate(&FixedRng).expect("a key"));

fuzz_target!(|input: &[u8]| match select(input) {
    Some((b'0', line)) => {
        read(line);
    }
    Some((b'1', log)) => {
        let report = verify(log, &KEY, None);
        assert!(report.records == 0 || !report.is_clean(), "a forged log verifies");
    }
    Some((b'2', rest)) => {
        let mut texts = text(rest).splitn(3, '\n');
        let mut next = || texts.next().unwrap_or_default();
        let (request_id, trace_id, address) = (next(), next(), next());
        let record = Record {
            time: FixedClock.now(),
            request_id,
            trace_id: Some(trace_id),
            key_id: None,
            identity: None,
            user: None,
            rpc: "GetSecret",
            owner: None,
            realm: None,
            name: None,
            version: None,
            kek_id: None,
            provider: None,
            phase: Phase::Outcome,
            outcome: "OK",
            reason: None,
            address: Some(address),
        };
        let (mut head, mut log) = (AuditHead::default(), Vec::new());
        append(&mut head, &KEY, &record, &mut log);
        append(&mut head, &KEY, &record, &mut log);
        let first = log.split(|byte| *byte == b'\n').next().expect("a line");
        assert_eq!(read(first).map(|head| head.seq), Some(1));
        let report = verify(&log, &KEY, Some(head));
        assert!(report.is_clean() && report.records == 2, "{report:?}");
    }
    _ => {}
});
