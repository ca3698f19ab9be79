//! Page tokens.
//!
//! * `0` token: no token without the key's tag is read.
//! * `1` bytes that carry a valid tag instead of a cursor: what is read is written as the same token.
#![no_main]

use std::sync::LazyLock;

use agentrouter_crypto::InternalKey;
use agentrouter_fuzz::{FixedClock, FixedRng, select, text};
use agentrouter_model::rpc::ListSecrets;
use agentrouter_model::{ApiKeyId, ApiKeyRecord, Clock as _, Owner, Realm, ScopeSet, Tags};
use agentrouter_service::fuzzing::PageTokens;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<InternalKey> = LazyLock::new(|| InternalKey::generate(&FixedRng).expect("a key"));
static CALLER: LazyLock<ApiKeyRecord> = LazyLock::new(|| ApiKeyRecord {
    id: ApiKeyId::parse("0123456789abcdef").expect("an id"),
    digest: [0; 32],
    name: String::new(),
    user: Owner::parse("alice").expect("a user"),
    scopes: ScopeSet::default(),
    realm: Realm::parse("default").expect("a realm"),
    realms: None,
    created_at: FixedClock.now(),
    expires_at: None,
    revoked_at: None,
});

fuzz_target!(|input: &[u8]| {
    let call =
        ListSecrets { realm: "", status: "", tags: vec![], page_size: 0, page_token: "", name_prefix: "" };
    let tags = Tags::default();
    let tokens = PageTokens::new(&KEY, &CALLER, &call, &tags);
    match select(input) {
        Some((b'0', token)) => assert!(tokens.read(text(token)).is_err(), "a forged token is read"),
        Some((b'1', cursor)) => {
            let token = tokens.write_bytes(cursor);
            if let Ok(read) = tokens.read(&token) {
                assert_eq!(tokens.write(&read), token);
            }
        }
        _ => {}
    }
});
