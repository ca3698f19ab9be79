//! Page tokens: the authenticated position of the next page of a list.
//!
//! ```text
//! base64url( format 1 B ‖ version 4 B ‖ realm length 1 B ‖ realm ‖ name ‖ tag 32 B )
//! ```
//! The tag is HMAC-SHA-256 (RFC 2104) over a domain string, the caller's user and realms, the filters (all
//! length-prefixed) and the bytes before it. The key is stored wrapped, so a token remains valid after a restart and after
//! a change of KEK. A token of another caller or of other filters does not verify. Only `list` uses it.

use agentrouter_crypto::InternalKey;
use agentrouter_model::rpc::ListSecrets;
use agentrouter_model::{Grant, PageCursor, Realm, Reason, Refusal, SecretName, Tags, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const FORMAT: u8 = 1;
const TAG_BYTES: usize = 32;
/// The length in characters that no token of this service exceeds.
const LONGEST: usize = 512;

/// Reads and writes the tokens of one list.
pub(crate) struct PageTokens<'a> {
    key: &'a InternalKey,
    binding: Vec<u8>,
}

impl<'a> PageTokens<'a> {
    pub(crate) fn new(key: &'a InternalKey, caller: Grant<'_>, call: &ListSecrets<'_>, tags: &Tags) -> Self {
        let mut binding = Vec::with_capacity(128);
        let mut put = |text: &str| {
            binding.extend_from_slice(&(text.len() as u64).to_be_bytes());
            binding.extend_from_slice(text.as_bytes());
        };
        put("agentrouter page token v1");
        put(caller.user.as_str());
        match caller.realms {
            None => put("all"),
            Some(realms) => {
                // Their number keeps the encoding injective: a realm's name is never read as the next field.
                put("only");
                put(&realms.len().to_string());
                realms.iter().for_each(|realm| put(realm.as_str()));
            }
        }
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
        self.tagged(bytes)
    }

    pub(crate) fn tagged(&self, mut bytes: Vec<u8>) -> String {
        let tag = self.key.mac(&[&self.binding, &bytes]);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// # Errors
    /// [`Reason::PageTokenInvalid`] for every invalid token.
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

#[cfg(test)]
mod tests {
    use agentrouter_crypto::Kek;
    use agentrouter_model::{ApiKeyId, ApiKeyRecord, KekId, Owner, ScopeSet, Timestamp};
    use agentrouter_testkit::SeededRng;
    use proptest::prelude::*;

    use super::*;

    fn internal_key(seed: u64) -> InternalKey {
        InternalKey::generate(&SeededRng::new(seed)).expect("a key")
    }

    fn caller(user: &str, realms: Option<&[&str]>) -> ApiKeyRecord {
        let realm = |text: &&str| Realm::parse(text).expect("a realm");
        ApiKeyRecord {
            id: ApiKeyId::parse("abcdefghijklmnop").expect("an id"),
            digest: [0; 32],
            name: String::new(),
            user: Owner::parse(user).expect("a user"),
            scopes: ScopeSet::ALL,
            realm: Realm::default(),
            realms: realms.map(|realms| realms.iter().map(realm).collect()),
            created_at: Timestamp::from_micros(0),
            expires_at: None,
            revoked_at: None,
        }
    }

    fn tokens<'a>(key: &'a InternalKey, caller: &ApiKeyRecord, call: &ListSecrets<'_>) -> PageTokens<'a> {
        let tags = Tags::parse(call.tags.iter().copied()).expect("tags");
        PageTokens::new(key, caller.grant(), call, &tags)
    }

    fn cursor(realm: &str, name: &str, version: i32) -> PageCursor {
        PageCursor {
            realm: Realm::parse(realm).expect("a realm"),
            name: SecretName::parse(name).expect("a name"),
            version: Version::new(version).expect("a version"),
        }
    }

    proptest! {
        #[test]
        fn a_token_reads_back_as_its_cursor(
            realm in "[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?",
            name in "[A-Za-z0-9]([A-Za-z0-9_-]{0,253}[A-Za-z0-9])?",
            version in 1..=i32::MAX,
        ) {
            let (key, cursor) = (internal_key(1), cursor(&realm, &name, version));
            let tokens = tokens(&key, &caller("ann", None), &ListSecrets::default());
            prop_assert_eq!(tokens.read(&tokens.write(&cursor)), Ok(cursor));
        }

        #[test]
        fn an_arbitrary_text_is_refused(text in "[A-Za-z0-9_-]{0,600}") {
            let key = internal_key(1);
            let tokens = tokens(&key, &caller("ann", None), &ListSecrets::default());
            prop_assert!(tokens.read(&text).is_err());
        }
    }

    #[test]
    fn the_longest_token_is_read() {
        let key = internal_key(1);
        let tokens = tokens(&key, &caller("ann", None), &ListSecrets::default());
        let cursor = cursor(&"r".repeat(64), &"n".repeat(255), i32::MAX);
        assert_eq!(tokens.read(&tokens.write(&cursor)), Ok(cursor));
    }

    #[test]
    fn a_token_with_any_bit_flipped_is_refused() {
        let key = internal_key(1);
        let tokens = tokens(&key, &caller("ann", None), &ListSecrets::default());
        let token = tokens.write(&cursor("mcp", "openai", 7));
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64");
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(tokens.read(&URL_SAFE_NO_PAD.encode(flipped)).is_err(), "bit {at}");
        }
        // No other spelling of the same bytes is accepted.
        for at in 0..token.len() {
            for other in "AQgwz09-_=".bytes().filter(|byte| *byte != token.as_bytes()[at]) {
                let mut text = token.clone().into_bytes();
                text[at] = other;
                assert!(tokens.read(std::str::from_utf8(&text).expect("ASCII")).is_err(), "letter {at}");
            }
        }
        for wrong in
            [format!("{token}="), format!("{token}A"), format!(" {token}"), token[..token.len() - 1].into()]
        {
            assert!(tokens.read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_bound_to_its_caller_and_filters() {
        let key = internal_key(1);
        let base =
            || ListSecrets { realm: "mcp", status: "any", tags: vec![("env", "prod")], ..Default::default() };
        let calls = [
            base(),
            ListSecrets { realm: "", ..base() },
            ListSecrets { realm: "default", ..base() },
            ListSecrets { status: "retired", ..base() },
            ListSecrets { status: "active", ..base() },
            ListSecrets { name_prefix: "o", ..base() },
            ListSecrets { tags: vec![], ..base() },
            ListSecrets { tags: vec![("env", "dev")], ..base() },
            ListSecrets { tags: vec![("env", "prod"), ("team", "a")], ..base() },
            // The same letters, divided differently.
            ListSecrets { tags: vec![("en", "vprod")], ..base() },
            ListSecrets { realm: "mcpa", status: "ny", ..base() },
        ];
        let callers = [
            caller("ann", None),
            caller("ben", None),
            caller("system", None),
            caller("ann", Some(&["mcp"])),
            caller("ann", Some(&["mcp", "default"])),
            caller("ann", Some(&["all"])),
            caller("ann", Some(&["all", "filters", "mcp", "any"])),
        ];
        let all: Vec<PageTokens<'_>> =
            callers.iter().flat_map(|caller| calls.iter().map(|call| tokens(&key, caller, call))).collect();
        let cursor = cursor("mcp", "openai", 7);
        for (at, one) in all.iter().enumerate() {
            let token = one.write(&cursor);
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(other.read(&token).is_ok(), at == other_at, "{at} and {other_at}");
            }
        }
    }

    #[test]
    fn an_empty_status_means_active_and_the_page_size_may_change() {
        let (key, ann) = (internal_key(1), caller("ann", None));
        let token = tokens(&key, &ann, &ListSecrets { page_size: 1, ..Default::default() })
            .write(&cursor("a", "b", 1));
        let active =
            ListSecrets { status: "active", page_size: 500, page_token: &token, ..Default::default() };
        assert!(tokens(&key, &ann, &active).read(&token).is_ok());
    }

    #[test]
    fn a_token_is_valid_after_a_restart_and_not_under_another_key() {
        let (rng, ann) = (SeededRng::new(3), caller("ann", None));
        let kek = Kek::generate(KekId::parse("k1").expect("an id"), &rng).expect("a KEK");
        let key = internal_key(1);
        let wrapped = key.wrap(&rng, &kek, "page-tokens").expect("wraps");
        let token = tokens(&key, &ann, &ListSecrets::default()).write(&cursor("mcp", "openai", 7));
        let again = InternalKey::unwrap(&kek, "page-tokens", &wrapped).expect("unwraps");
        assert!(tokens(&again, &ann, &ListSecrets::default()).read(&token).is_ok());
        let other = internal_key(2);
        assert!(tokens(&other, &ann, &ListSecrets::default()).read(&token).is_err());
    }
}
