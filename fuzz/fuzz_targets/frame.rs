//! The frames of gRPC and gRPC-Web, before the Connect library reads them.
//!
//! * `0` body: a frame has five bytes of head, and the length in it is that of the message.
//! * `1` to `4` body: JSON, plain or compressed by gzip, bare or in a frame.
//! * `5` body in the text form of gRPC-Web: what decodes is no longer than its text.
#![no_main]

use agentrouter_fuzz::{is_frame, is_object, plain, select};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match select(input) {
    Some((b'0', body)) if is_frame(body) => {
        let length = u32::from_be_bytes(body[1..5].try_into().expect("four bytes"));
        assert_eq!(body.len(), length as usize + 5);
        assert!(body[0] <= 1);
    }
    Some((b'1', body)) => {
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        assert_eq!(
            is_object("application/json", false, body, false),
            first.is_none_or(|first| *first == b'{')
        );
    }
    Some((b'2', body)) => {
        is_object("application/json", true, body, false);
    }
    Some((b'3', body)) => {
        is_object("application/grpc+json", false, body, true);
    }
    Some((b'4', body)) => assert!(is_object("application/proto", false, body, false)),
    Some((b'5', body)) => {
        if let Some(plain) = plain(body) {
            assert!(plain.len() <= body.len());
        }
    }
    _ => {}
});
