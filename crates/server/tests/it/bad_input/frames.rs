//! Invalid gRPC and gRPC-Web frames and protobuf messages.

use agentrouter_model::Rpc;
use serde_json::Value;

use super::bodies::gzip;
use super::wire::{Dialect, Request, bytes_field, encode, frame, input, varint, varint_field};
use super::{CANARY, Case, place};

const MALFORMED: &str = "MALFORMED_BODY";
const MEDIA: &str = "UNSUPPORTED_MEDIA_TYPE";
const LARGE: &str = "BODY_TOO_LARGE";

fn create() -> Vec<u8> {
    let fields: Value = serde_json::from_str(&place(r#"{"name":"{c}","value":"{c}"}"#)).unwrap();
    encode(&input(Rpc::CreateSecret), &fields).unwrap()
}

pub fn cases(key: &str) -> Vec<Case> {
    let mut list: Vec<(String, Request, &'static str)> = Vec::new();
    for dialect in [Dialect::Grpc, Dialect::GrpcWeb] {
        for (what, body) in framings() {
            let request = Request::call(dialect, Rpc::CreateSecret, body);
            list.push((format!("{dialect:?}, {what}"), request, MALFORMED));
        }
        let call = |body: Vec<u8>| Request::call(dialect, Rpc::CreateSecret, body);
        let plain = || call(frame(0, &create()));
        let bomb = gzip(&bytes_field(4, format!("{CANARY}-bomb{}", " ".repeat(4 << 20)).as_bytes()));
        let gzipped = |body: &[u8]| call(frame(1, body)).with("grpc-encoding", "gzip");
        list.push((format!("{dialect:?}, a bomb"), gzipped(&bomb), LARGE));
        list.push((format!("{dialect:?}, plain as gzip"), gzipped(&create()), MALFORMED));
        list.push((format!("{dialect:?}, half of its gzip"), gzipped(&gzip(&create())[..20]), MALFORMED));
        for coding in ["br", "{c}", "gzip,gzip"] {
            let request = call(frame(1, &create())).with("grpc-encoding", place(coding));
            list.push((format!("{dialect:?} in {coding}"), request, MEDIA));
        }
        for timeout in ["{c}", "-1S", "1", "99999999999S"] {
            let mut request = plain().with("grpc-timeout", place(timeout));
            // Whether or not the timeout is valid, the request is refused.
            request.body = frame(0, &bytes_field(1, place("{c} x").as_bytes()));
            list.push((format!("{dialect:?} within {timeout}"), request, "INVALID_REQUEST"));
        }
    }
    for kind in
        ["application/grpc+json", "application/grpc-web-text", "application/grpc+{c}", "application/grpcx"]
    {
        let mut request = Request::call(Dialect::GrpcWeb, Rpc::CreateSecret, frame(0, &create()));
        request.headers[0].1 = place(kind).into_bytes();
        let reason = if kind.ends_with("json") || kind.ends_with("text") { MALFORMED } else { MEDIA };
        list.push((format!("gRPC of {kind}"), request, reason));
    }
    for (what, message) in messages() {
        for dialect in [Dialect::ConnectProto, Dialect::Grpc, Dialect::GrpcWeb] {
            let body = if dialect.is_framed() { frame(0, &message) } else { message.clone() };
            let request = Request::call(dialect, Rpc::CreateSecret, body);
            list.push((format!("{dialect:?}, {what}"), request, MALFORMED));
        }
    }
    list.into_iter().map(|(what, request, reason)| Case::new(what, request.with_key(key), reason)).collect()
}

fn framings() -> Vec<(&'static str, Vec<u8>)> {
    let message = create();
    let whole = frame(0, &message);
    let said = |length: u32| [&[0][..], &length.to_be_bytes(), &message].concat();
    let length = u32::try_from(message.len()).unwrap();
    vec![
        ("nothing", vec![]),
        ("less than a frame's head", vec![0, 0, 0]),
        ("a frame's head alone", said(length)[..5].to_vec()),
        ("half a frame", whole[..whole.len() - 3].to_vec()),
        ("a length one too many", said(length + 1)),
        ("a length one too few", said(length - 1)),
        ("two frames", [whole.clone(), whole.clone()].concat()),
        ("a frame and something", [whole.clone(), place("{c}").into_bytes()].concat()),
        ("a frame and a head", [whole.clone(), vec![0; 5]].concat()),
        ("compressed as nothing", frame(1, &message)),
        ("compressed as nothing, and it is", frame(1, &gzip(&message))),
        ("unknown flags", frame(0x42, &message)),
        ("only trailers", frame(0x80, place("grpc-status: 0\r\nx: {c}\r\n").as_bytes())),
        ("no frame but the message", message),
    ]
}

/// Messages with invalid fields and lengths.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let canary = place("{c}").into_bytes();
    let with = |more: &[u8]| [&create(), more].concat();
    let mut deep = Vec::new();
    for _ in 0..5000 {
        deep = bytes_field(101, &deep);
    }
    vec![
        ("a text", canary.clone()),
        ("half a message", create()[..create().len() - 3].to_vec()),
        ("a length beyond the end", with(&[0x1a, 0x7f, b'x'])),
        ("a length beyond all", with(&[0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        (
            "a varint that never ends",
            with(&[0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("field number zero", with(&[0x02, 0x00])),
        ("wire type six", with(&[0x1e])),
        ("a group that never ends", with(&[0xfb, 0x3f])),
        ("a group's end alone", with(&[0xfc, 0x3f])),
        ("ten thousand groups", with(&varint(999 << 3 | 3).repeat(10_000))),
        ("a name that is not UTF-8", bytes_field(1, &[&canary, &[0xff, 0xfe][..]].concat())),
        ("a value that is not UTF-8", with(&bytes_field(4, &[&canary, &[0xc0, 0xaf][..]].concat()))),
        ("a tag that is not UTF-8", with(&bytes_field(5, &bytes_field(1, &[&canary, &[0x80][..]].concat())))),
        ("a path that is not UTF-8", with(&bytes_field(101, &bytes_field(1, &[0xed, 0xa0, 0x80])))),
        ("a number where a name is", with(&varint_field(1, 7))),
        ("a text where a number is", with(&bytes_field(100, &canary))),
        ("a text where a mask is", with(&bytes_field(101, &[&[0x0a, 0x7f][..], &canary].concat()))),
        ("masks within masks", with(&[deep, vec![0x0a]].concat())),
    ]
}

/// Unknown fields are ignored and the last of repeated fields counts, as in protobuf. They are valid input, so the rest
/// of the message decides the outcome.
#[test]
fn valid_protobuf_is_judged_by_its_meaning() {
    let populated = super::PopulatedServer::start();
    let named = |name: &str| bytes_field(1, name.as_bytes());
    for (what, message, reason) in [
        ("an unknown field", [named("no such"), bytes_field(9999, b"x")].concat(), "INVALID_REQUEST"),
        ("two names, the last one bad", [named("planted-one"), named("../x")].concat(), "INVALID_REQUEST"),
        (
            "two names, the last one of no secret",
            [named("planted-one"), named("absent")].concat(),
            "SECRET_NOT_FOUND",
        ),
    ] {
        for dialect in [Dialect::ConnectProto, Dialect::Grpc, Dialect::GrpcWeb] {
            let body = if dialect.is_framed() { frame(0, &message) } else { message.clone() };
            let request = Request::call(dialect, Rpc::DeleteSecret, body).with_key(&populated.server.key);
            assert_eq!(request.send(&populated.server).reason, reason, "{what}");
        }
    }
    assert_eq!(populated.everything(), populated.before);
}
