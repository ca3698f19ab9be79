//! Notes: the log's own records.
//!
//! A note has `"rpc":"audit"` and, beside the usual members, numbers about what happened. A note that may follow a gap has
//! `prev`, the mac that it is chained to, so that it can be checked although the record before it is lost.

use std::sync::LazyLock;

use agentrouter_crypto::InternalKey;
use agentrouter_model::Timestamp;
use memchr::memmem::Finder;
use serde::Deserialize;

use crate::chain::{AuditHead, Line, hex, unhex};
use crate::head::HeadFault;
use crate::record;

/// What a note has and no other record contains: quotes within a text are escaped. Every line is searched for it, so the
/// searcher is built once.
static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b",\"rpc\":\"audit\","));

/// Takes the place of the previous mac when torn bytes are authenticated. No mac has this value.
const TORN_DOMAIN: &[u8; 32] = b"agentrouter audit torn bytes v1\n";

/// One of the log's own records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The bytes before this record are the rest of a write that did not complete.
    Torn { bytes: u64, mac: [u8; 32] },
    /// The log did not contain the head in the store.
    ChainBreak { expected: u64 },
    /// A remembered head is missing or not authentic.
    HeadFault { fault: HeadFault },
    /// Another process removed, replaced, truncated or extended the file, and a file was opened again.
    Reopened,
    /// Writing failed for `why` and works again.
    Resumed { why: &'static str },
    /// An fsync failed; records after `synced` in the file before this one may not have reached the disk.
    SyncFailed { synced: u64 },
    /// The caller of record `of` had given up before it was written, so nothing was released or done for it.
    Withdrawn { of: u64, request_id: Box<str> },
}

impl Note {
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Torn { .. } => "TORN_LINE",
            Self::ChainBreak { .. } => "CHAIN_BREAK",
            Self::HeadFault { .. } => "HEAD_FAULT",
            Self::Reopened => "REOPENED",
            Self::Resumed { .. } => "RESUMED",
            Self::SyncFailed { .. } => "SYNC_FAILED",
            Self::Withdrawn { .. } => "WITHDRAWN",
        }
    }

    /// Appends the note as the next record of the chain.
    pub(crate) fn seal(&self, head: &mut AuditHead, key: &InternalKey, now: Timestamp, out: &mut Vec<u8>) {
        let previous = hex(&head.mac);
        head.seal_with(key, out, |out| {
            record::time(out, now);
            if let Self::Withdrawn { request_id, .. } = self {
                record::request_id(out, request_id);
            }
            record::plain(out, "rpc", "audit");
            record::plain(out, "phase", "outcome");
            record::plain(out, "outcome", self.outcome());
            match self {
                Self::Torn { bytes, mac } => {
                    record::number(out, "bytes", *bytes);
                    digest(out, "bytes_mac", &hex(mac));
                }
                Self::ChainBreak { expected } => record::number(out, "expected", *expected),
                Self::HeadFault { fault } => record::text(out, "reason", fault.reason(), 64),
                Self::Resumed { why } => record::text(out, "reason", why, 64),
                Self::SyncFailed { synced } => record::number(out, "synced", *synced),
                Self::Withdrawn { of, .. } => record::number(out, "of", *of),
                Self::Reopened => {}
            }
            if !matches!(self, Self::Withdrawn { .. }) {
                digest(out, "prev", &previous);
            }
        });
    }
}

fn digest(out: &mut Vec<u8>, key: &'static str, hex: &[u8; 64]) {
    record::plain(out, key, std::str::from_utf8(hex).unwrap_or_default());
}

/// What `verify` and recovery need of a note.
#[derive(Deserialize)]
pub(crate) struct NoteView {
    pub(crate) outcome: String,
    bytes: Option<u64>,
    bytes_mac: Option<String>,
    pub(crate) expected: Option<u64>,
    reason: Option<String>,
    prev: Option<String>,
}

impl NoteView {
    /// Parses `line`; none if it is not a note.
    pub(crate) fn of(line: &Line<'_>) -> Option<Self> {
        if MARK.find(line.signed()).is_some() { serde_json::from_slice(&line.object()).ok() } else { None }
    }

    /// The fault of a remembered head that the note records.
    pub(crate) fn head_fault(&self) -> Option<HeadFault> {
        let reason = self.reason.as_deref().filter(|_| self.outcome == "HEAD_FAULT")?;
        HeadFault::ALL.into_iter().find(|fault| fault.reason() == reason)
    }

    /// The mac that the note is chained to.
    pub(crate) fn previous(&self) -> Option<[u8; 32]> {
        unhex(self.prev.as_ref()?.as_bytes())
    }

    /// Whether this note accounts for `torn`, all bytes since the last record.
    pub(crate) fn accounts_for(&self, key: &InternalKey, torn: &[u8]) -> bool {
        let mac = self.bytes_mac.as_ref().and_then(|mac| unhex(mac.as_bytes()));
        self.outcome == "TORN_LINE"
            && self.bytes == u64::try_from(torn.len()).ok()
            && mac.is_some_and(|mac| key.verify(&[TORN_DOMAIN, torn], &mac))
    }
}

/// The mac of torn bytes.
pub(crate) fn torn_mac(key: &InternalKey, torn: &[u8]) -> [u8; 32] {
    key.mac(&[TORN_DOMAIN, torn])
}

/// The `request_id` of a line that this writer formatted.
pub(crate) fn request_id(object: &[u8]) -> Box<str> {
    #[derive(Deserialize)]
    struct View {
        request_id: Box<str>,
    }
    serde_json::from_slice::<View>(object).map(|view| view.request_id).unwrap_or_default()
}
