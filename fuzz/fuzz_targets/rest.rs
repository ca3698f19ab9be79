//! REST: path name, query and JSON body of each RPC.
//!
//! `0` to `6` selects the RPC in the order of the routes. Then comes the name, a line feed, the query, a line feed, and the
//! body. A refusal has a bounded number of violations and nothing of the request.
#![no_main]

use agentrouter_api::rest::{
    CreateSecret, DeleteSecret, GetSecret, GetSecretValue, ListSecrets, Request, RotateSecret, ValidateSecret,
};
use agentrouter_fuzz::{select, text};
use libfuzzer_sys::fuzz_target;

fn check<'a, R: Request<'a>>(name: &'a str, query: &'a str, body: &'a [u8]) {
    match R::parse(name, query, body) {
        Ok(request) => {
            let _ = request.call();
        }
        Err(refusal) => {
            let shown = format!("{refusal:?}");
            assert!(shown.len() < 60_000, "a refusal is bounded");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((selector, rest)) = select(input) else { return };
    let mut parts = rest.splitn(3, |byte| *byte == b'\n');
    let (name, query) = (text(parts.next().unwrap_or_default()), text(parts.next().unwrap_or_default()));
    let body = parts.next().unwrap_or_default();
    match selector {
        b'0' => check::<CreateSecret<'_>>(name, query, body),
        b'1' => check::<GetSecret<'_>>(name, query, body),
        b'2' => check::<ListSecrets<'_>>(name, query, body),
        b'3' => check::<DeleteSecret<'_>>(name, query, body),
        b'4' => check::<RotateSecret<'_>>(name, query, body),
        b'5' => check::<ValidateSecret<'_>>(name, query, body),
        b'6' => check::<GetSecretValue<'_>>(name, query, body),
        _ => {}
    }
});
