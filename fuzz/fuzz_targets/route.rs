//! The request line of REST: a route has one segment as its name, whatever the name decodes to.
//!
//! `0` GET, `1` POST, `2` DELETE, `3` PUT; then the path.
#![no_main]

use agentrouter_api::routes::{allowed, find};
use agentrouter_fuzz::{select, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((selector, path)) = select(input) else { return };
    let method = match selector {
        b'0' => "GET",
        b'1' => "POST",
        b'2' => "DELETE",
        b'3' => "PUT",
        _ => return,
    };
    let path = text(path);
    let found = find(method, path);
    assert_eq!(found.is_ok(), allowed(path).contains(&method));
    if found.is_ok() {
        assert!(path.starts_with("/v1/secrets"));
        assert!(path["/v1/secrets".len()..].matches('/').count() <= 2);
    }
});
