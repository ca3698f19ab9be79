//! Page tokens: where a list goes on.
//!
//! ```text
//! base64url( format 1 B ‖ version 4 B ‖ realm length 1 B ‖ realm ‖ name ‖ tag 32 B )
//! ```
//! The tag is HMAC-SHA-256 (RFC 2104) over a domain string, the caller's user and realms, the filters (all
//! length-prefixed) and the bytes before it. The key lies wrapped in the store, so a token survives a restart and a change of KEK; another caller's token, or one of other filters, does not verify.

use agentrouter_crypto::InternalKey;
use agentrouter_model::call::ListSecrets;
use agentrouter_model::{ApiKeyRecord, PageCursor, Realm, Reason, Refusal, SecretName, Tags, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const FORMAT: u8 = 1;
const TAG_BYTES: usize = 32;
/// The longest token that can be one of ours.
const LONGEST: usize = 512;

/// Reads and writes the tokens of one list.
pub(crate) struct PageTokens<'a> {
    key: &'a InternalKey,
    binding: Vec<u8>,
}

impl<'a> PageTokens<'a> {
    pub(crate) fn new(
        key: &'a InternalKey,
        caller: &ApiKeyRecord,
        call: &ListSecrets<'_>,
        tags: &Tags,
    ) -> Self {
        let mut binding = Vec::with_capacity(128);
        let mut put = |text: &str| {
            binding.extend_from_slice(&(text.len() as u64).to_be_bytes());
            binding.extend_from_slice(text.as_bytes());
        };
        put("agentrouter page token v1");
        put(caller.user.as_str());
        match &caller.realms {
            None => put("all"),
            Some(realms) => realms.iter().for_each(|realm| put(realm.as_str())),
        }
        put("filters");
        put(call.realm);
        put(if call.status.is_empty() { "active" } else { call.status });
        put(call.name_prefix);
        for (key, value) in tags.iter() {
            put(key.as_str());
            put(value.as_str());
        }
        Self { key, binding }
    }

    pub(crate) fn write(&self, cursor: &PageCursor) -> String {
        let realm = cursor.realm.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(6 + realm.len() + cursor.name.as_str().len() + TAG_BYTES);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&cursor.version.get().to_be_bytes());
        // A realm has at most 64 bytes.
        bytes.push(u8::try_from(realm.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(realm);
        bytes.extend_from_slice(cursor.name.as_str().as_bytes());
        let tag = self.key.mac(&[&self.binding, &bytes]);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// # Errors
    /// [`Reason::PageTokenInvalid`], whatever is wrong with it.
    pub(crate) fn read(&self, token: &str) -> Result<PageCursor, Refusal> {
        self.verify(token).ok_or_else(|| Reason::PageTokenInvalid.into())
    }

    fn verify(&self, token: &str) -> Option<PageCursor> {
        if token.len() > LONGEST {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (cursor, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
        if !self.key.verify(&[&self.binding, cursor], tag) {
            return None;
        }
        let (&format, rest) = cursor.split_first()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (&length, rest) = rest.split_first()?;
        let (realm, name) = rest.split_at_checked(usize::from(length))?;
        if format != FORMAT {
            return None;
        }
        Some(PageCursor {
            realm: Realm::parse(std::str::from_utf8(realm).ok()?).ok()?,
            name: SecretName::parse(std::str::from_utf8(name).ok()?).ok()?,
            version: Version::new(i32::from_be_bytes(*version))?,
        })
    }
}
