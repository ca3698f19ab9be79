//! Entry points for the fuzz targets in `fuzz/`, beyond the public items. Compiled with `--cfg fuzzing` only.

use agentrouter_crypto::InternalKey;
use agentrouter_model::rpc::ListSecrets;
use agentrouter_model::{ApiKeyRecord, PageCursor, Refusal, Tags};

use crate::page_token;

/// Reads and writes the page tokens of one list.
pub struct PageTokens<'a>(page_token::PageTokens<'a>);

impl<'a> PageTokens<'a> {
    /// The tokens of a list that `caller` asks for.
    pub fn new(key: &'a InternalKey, caller: &ApiKeyRecord, call: &ListSecrets<'_>, tags: &Tags) -> Self {
        Self(page_token::PageTokens::new(key, caller.grant(), call, tags))
    }

    /// Writes a token.
    pub fn write(&self, cursor: &PageCursor) -> String {
        self.0.write(cursor)
    }

    /// Writes a token with arbitrary bytes instead of a cursor, and a valid tag.
    pub fn write_bytes(&self, cursor: &[u8]) -> String {
        self.0.tagged(cursor.to_vec())
    }

    /// Reads a token.
    ///
    /// # Errors
    /// When it is not a token of this list.
    pub fn read(&self, token: &str) -> Result<PageCursor, Refusal> {
        self.0.read(token)
    }
}
