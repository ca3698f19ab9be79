//! The private functions of this crate that the fuzz targets in `fuzz/` call. Compiled with `--cfg fuzzing` alone.

use agentrouter_crypto::InternalKey;

use crate::chain::Line;
use crate::verify::{Report, verify_file};
use crate::{AuditHead, Record};

/// Appends `record` to `log` as the next one of the chain.
pub fn append(head: &mut AuditHead, key: &InternalKey, record: &Record<'_>, log: &mut Vec<u8>) {
    head.seal_with(key, log, |out| record.write_members(out));
}

/// The number and mac that a line without its newline claims. `None` if it is not in the form of a record.
pub fn read(line: &[u8]) -> Option<AuditHead> {
    Line::parse(line).map(|line| line.head)
}

/// Checks every record of a log that is one file of these bytes.
pub fn verify(log: &[u8], key: &InternalKey, head: Option<AuditHead>) -> Report {
    verify_file(log, key, head).expect("memory can be read")
}
