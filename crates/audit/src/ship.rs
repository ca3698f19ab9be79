//! Shipping: the records in order, each at least once, for another host.
//!
//! The file `shipped` beside the log has the number of the last record that the receiver confirmed. It is authenticated:
//! with a forged larger number, records would not be shipped and could be removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentrouter_crypto::InternalKey;

use crate::base::Base;
use crate::chain::{hex_text, unhex};
use crate::checkpoint::Signer;
use crate::cursor::Cursor;
use crate::disk::{read_small, replace};
use crate::queue::Queue;

const SHIPPED: &str = "shipped";
/// More than the longest file.
const MOST_BYTES: u64 = 256;
/// Takes the place of the previous mac in what is authenticated. No mac has this value.
const DOMAIN: &[u8; 32] = b"agentrouter audit shipped v1\n\n\n\n";

/// A record to be shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShippedLine {
    /// Its number.
    pub seq: u64,
    /// The line, without its newline.
    pub text: String,
}

/// Reads the records that are not shipped yet.
pub struct Shipper {
    dir: PathBuf,
    key: Arc<InternalKey>,
    queue: Arc<Queue>,
    cursor: Cursor,
    /// The last record that was confirmed.
    confirmed: u64,
}

impl Shipper {
    pub(crate) fn new(
        dir: &Path,
        key: Arc<InternalKey>,
        queue: Arc<Queue>,
        signer: &Signer,
    ) -> io::Result<Self> {
        let position = position(dir, &key)?;
        let confirmed = position.unwrap_or(0).max(Base::pruned(dir, signer)?.last.seq);
        if position.is_none() {
            // From now on no file is removed before it is shipped.
            write(dir, &key, confirmed)?;
        }
        let cursor = Cursor::new(dir, confirmed + 1);
        Ok(Self { dir: dir.to_owned(), key, queue, cursor, confirmed })
    }

    /// The next records that are on disk, at most `count`. Call [`Shipper::confirm`] or [`Shipper::again`] before the next
    /// call. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn next(&mut self, count: usize) -> io::Result<Vec<ShippedLine>> {
        let last = self.queue.synced().seq;
        let mut lines = Vec::new();
        self.cursor.read(last, &mut |line| {
            if lines.len() == count {
                return false;
            }
            lines.push(ShippedLine { seq: line.head.seq, text: line.text() });
            true
        })?;
        Ok(lines)
    }

    /// Records that the receiver has all records up to number `last`. Blocks for the disk.
    ///
    /// # Errors
    /// When the position cannot be written.
    pub fn confirm(&mut self, last: u64) -> io::Result<()> {
        write(&self.dir, &self.key, last)?;
        self.confirmed = last;
        Ok(())
    }

    /// Has [`Shipper::next`] return the same records again, because the receiver did not accept them.
    pub fn again(&mut self) {
        self.cursor = Cursor::new(&self.dir, self.confirmed + 1);
    }
}

/// The last record that was shipped, if records are shipped. An edited position counts as none shipped.
pub(crate) fn position(dir: &Path, key: &InternalKey) -> io::Result<Option<u64>> {
    let Some(text) = read_small(dir, SHIPPED, MOST_BYTES)? else { return Ok(None) };
    let parse = || {
        let (seq, tag) = std::str::from_utf8(&text).ok()?.trim_end().split_once(' ')?;
        let (seq, tag) = (seq.parse::<u64>().ok()?, unhex(tag.as_bytes())?);
        key.verify(&[DOMAIN, &seq.to_be_bytes()], &tag).then_some(seq)
    };
    Ok(Some(parse().unwrap_or(0)))
}

fn write(dir: &Path, key: &InternalKey, seq: u64) -> io::Result<()> {
    let tag = key.mac(&[DOMAIN, &seq.to_be_bytes()]);
    replace(dir, SHIPPED, format!("{seq} {}\n", hex_text(&tag)).as_bytes())
}
