//! The chain: how a line is numbered, sealed and read back.

use std::fmt;

use agentrouter_crypto::InternalKey;

use crate::record::digits;

/// The longest line, without its newline. A record does not exceed it, since its texts are cut. A longer line is not a record.
pub(crate) const MAX_LINE_BYTES: usize = 8 * 1024;
/// The value that the first record of a log is chained to.
pub(crate) const GENESIS: [u8; 32] = [0; 32];

const PREFIX: &[u8] = b"{\"seq\":";
const MAC: &[u8] = b",\"mac\":\"";
const SUFFIX_BYTES: usize = MAC.len() + 64 + 2;

/// A position in the chain: a record's number and its mac. Number 0 with a mac of zeros is the position before the first.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditHead {
    /// The record's number, from 1.
    pub seq: u64,
    /// Its mac.
    pub mac: [u8; 32],
}

impl fmt::Debug for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditHead").field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl AuditHead {
    /// Appends the next record to `out`: its number, `members` (each with its comma), its mac, a newline.
    pub(crate) fn seal(&mut self, key: &InternalKey, members: &[u8], out: &mut Vec<u8>) {
        self.seal_with(key, out, |out| out.extend_from_slice(members));
    }

    /// The same, with the members written in place.
    pub(crate) fn seal_with(
        &mut self,
        key: &InternalKey,
        out: &mut Vec<u8>,
        members: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = out.len();
        out.extend_from_slice(PREFIX);
        digits(out, self.seq + 1);
        members(out);
        self.mac = key.mac(&[&self.mac, &out[start..]]);
        self.seq += 1;
        out.extend_from_slice(MAC);
        out.extend_from_slice(&hex(&self.mac));
        out.extend_from_slice(b"\"}\n");
    }
}

/// A line in the form of a record. [`Line::follows`] checks its mac.
pub(crate) struct Line<'a> {
    /// The number and mac that the line claims.
    pub(crate) head: AuditHead,
    signed: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses a line without its newline; none if it is not in the form of a record.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        if line.len() > MAX_LINE_BYTES {
            return None;
        }
        let (signed, suffix) = line.split_at_checked(line.len().checked_sub(SUFFIX_BYTES)?)?;
        let mac = unhex(suffix.strip_prefix(MAC)?.strip_suffix(b"\"}")?)?;
        let rest = signed.strip_prefix(PREFIX)?;
        let number = &rest[..rest.iter().position(|b| *b == b',')?];
        // Nineteen digits are far below the maximum of u64, so a forged number cannot overflow.
        if number.is_empty()
            || number.len() > 19
            || !number.iter().all(u8::is_ascii_digit)
            || number[0] == b'0'
        {
            return None;
        }
        let seq = number.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
        Some(Self { head: AuditHead { seq, mac }, signed })
    }

    /// Whether the mac is that of this line after a record whose mac was `previous`.
    pub(crate) fn follows(&self, key: &InternalKey, previous: &[u8; 32]) -> bool {
        key.verify(&[previous, self.signed], &self.head.mac)
    }

    /// The bytes that the mac authenticates.
    pub(crate) fn signed(&self) -> &'a [u8] {
        self.signed
    }

    /// The line.
    pub(crate) fn text(&self) -> String {
        let mut line = self.signed.to_vec();
        line.extend_from_slice(MAC);
        line.extend_from_slice(&hex(&self.head.mac));
        line.extend_from_slice(b"\"}");
        // Records are UTF-8. Any other line is not one of this log.
        String::from_utf8_lossy(&line).into_owned()
    }

    /// The line as a JSON object without its mac.
    pub(crate) fn object(&self) -> Vec<u8> {
        [self.signed, b"}"].concat()
    }
}

/// Whether an interrupted write can have left these bytes after the last whole record: beginnings of records, one a line (a
/// later start begins a new line), each possibly followed by zeros, which a file system puts in place of lost data. The last
/// one lacks its newline at least. A whole line that is not a record does not qualify.
pub(crate) fn can_be_cut_off(bytes: &[u8]) -> bool {
    let mut lines = bytes.rsplit(|b| *b == b'\n');
    let last = lines.next().unwrap_or_default();
    (begins_record(last) || Line::parse(last).is_some()) && lines.all(begins_record)
}

/// Whether `line` is the beginning of a record and not a whole one.
fn begins_record(line: &[u8]) -> bool {
    let zeros = line.iter().rev().take_while(|b| **b == 0).count();
    let line = &line[..line.len() - zeros];
    let begins = match line.strip_prefix(PREFIX) {
        Some(rest) => rest.first().is_none_or(|digit| matches!(digit, b'1'..=b'9')),
        None => PREFIX.starts_with(line),
    };
    begins && line.len() <= MAX_LINE_BYTES && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err()
}

/// Sixty-four lower-case digits.
pub(crate) fn hex(bytes: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// The same as a text.
pub(crate) fn hex_text(bytes: &[u8; 32]) -> String {
    hex(bytes).map(char::from).iter().collect()
}

/// Parses exactly the output of [`hex`].
pub(crate) fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    #[test]
    fn a_sealed_line_reads_back_and_follows_only_its_predecessor() {
        let key = key(1);
        let mut out = Vec::new();
        let mut head = AuditHead::default();
        head.seal(&key, b",\"outcome\":\"OK\"", &mut out);
        let first = head;
        head.seal(&key, b",\"outcome\":\"OK\"", &mut out);
        let lines: Vec<&[u8]> = out.split(|b| *b == b'\n').collect();
        let line = Line::parse(lines[1]).expect("a record");
        assert_eq!(line.head, head);
        assert_eq!(line.head.seq, 2);
        assert!(line.follows(&key, &first.mac));
        assert!(!line.follows(&key, &GENESIS));
        assert!(!line.follows(&crate::testing::key(2), &first.mac));
        assert!(Line::parse(lines[0]).expect("a record").follows(&key, &GENESIS));
    }

    #[test]
    fn a_line_without_the_form_of_a_record_is_no_record() {
        let mut out = Vec::new();
        AuditHead::default().seal(&key(1), b",\"x\":1", &mut out);
        let good = String::from_utf8(out).expect("UTF-8").trim_end().to_owned();
        assert!(Line::parse(good.as_bytes()).is_some());
        let upper = good.to_uppercase();
        let zero = good.replace(":1,", ":01,");
        let huge = good.replace(":1,", &format!(":{},", u64::MAX));
        let long = good.replace(":1,", &format!(":1,\"y\":\"{}\",", "y".repeat(MAX_LINE_BYTES)));
        for bad in ["", "{}", &good[1..], &good[..good.len() - 1], &upper, &zero, &huge, &long] {
            assert!(Line::parse(bad.as_bytes()).is_none(), "{bad:.60}");
        }
    }
}
