//! Invalid REST and Connect bodies: not JSON, not UTF-8, a field twice, a value of the wrong type, too large,
//! compressed, of another content type.

use std::io::Write as _;

use agentrouter_model::Rpc;
use serde_json::{Value, json};

use super::wire::{Dialect, Request};
use super::{CANARY, Case, place};

const INVALID: &str = "INVALID_REQUEST";
const MALFORMED: &str = "MALFORMED_BODY";
const MEDIA: &str = "UNSUPPORTED_MEDIA_TYPE";
const LARGE: &str = "BODY_TOO_LARGE";

/// Bodies of CreateSecret, and why REST and Connect refuse them. REST is strict. Connect follows its specification and
/// proto3 JSON, so it ignores an unknown field and refuses the rest of such a body.
const JSON: &[(&str, &str, &str)] = &[
    ("", INVALID, MALFORMED),
    ("{", MALFORMED, MALFORMED),
    ("{}", INVALID, INVALID),
    ("null", INVALID, MALFORMED),
    ("[]", INVALID, MALFORMED),
    ("[{\"name\":\"{c}\",\"value\":\"{c}\"}]", INVALID, MALFORMED),
    ("\"{c}\"", INVALID, MALFORMED),
    ("42", INVALID, MALFORMED),
    ("{c}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\"", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\"}{c}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\"}{\"name\":\"{c}\",\"value\":\"{c}\"}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\"}\0", MALFORMED, MALFORMED),
    ("\u{feff}{\"name\":\"{c}\",\"value\":\"{c}\"}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",}", MALFORMED, MALFORMED),
    ("{'name':'{c}','value':'{c}'}", MALFORMED, MALFORMED),
    ("{name:\"{c}\",value:\"{c}\"}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",/* {c} */\"value\":\"{c}\"}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\n\"}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\\ud800\"}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\\x41\"}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":NaN}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":01}", MALFORMED, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":1e999}", MALFORMED, MALFORMED),
    ("name={c}&value={c}", MALFORMED, MALFORMED),
    ("<secret><name>{c}</name></secret>", MALFORMED, MALFORMED),
    ("{\"name\":null,\"value\":\"{c}\"}", INVALID, INVALID),
    ("{\"name\":\"new-one\",\"value\":null,\"description\":\"{c}\"}", INVALID, INVALID),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"name\":\"planted-one\"}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"value\":\"{c}\"}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"user_id\":\"{c}\",\"userId\":\"admin\"}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":0,\"expectedVersion\":0}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":\"{c}\"}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":1.5}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":2147483648}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"expected_version\":[\"{c}\"]}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"tags\":[\"{c}\"]}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"tags\":{\"{c}\":1}}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"tags\":{\"{c}\":null}}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"tags\":{\"{c}\":{\"{c}\":\"{c}\"}}}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"update_mask\":{\"paths\":[\"{c}\"]}}", INVALID, MALFORMED),
    ("{\"name\":\"{c}\",\"value\":\"{c}\",\"update_mask\":[\"{c}\"]}", INVALID, MALFORMED),
];

/// Bodies that only REST refuses.
const STRICT: &[&str] = &[
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"tags\":{\"a\":\"{c}\",\"a\":\"{c}\"}}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"{c}\":1}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"nope\":\"{c}\"}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"Value\":\"{c}\"}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"user-id\":\"{c}\"}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"__proto__\":{\"{c}\":1}}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"\":\"{c}\"}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"id\":\"{c}\"}",
    "{\"name\":\"{c}\",\"value\":\"{c}\",\"kek_id\":\"{c}\",\"nonce\":\"{c}\"}",
];

/// Bodies of the other RPCs over REST: path, body, reason.
const OTHERS: &[(&str, &str, &str, &str)] = &[
    ("POST", "/v1/secrets/planted-one/rotate", "{\"name\":\"planted-two\",\"new_value\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"name\":\"{c}\",\"new_value\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"newValue\":\"{c}\",\"new_value\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"value\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"new_value\":\"{c}\",\"tags\":{}}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"new_value\":\"{c}\",\"user_id\":\"system\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"new_value\":\"{c}\",\"grace_period\":3600}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"new_value\":\"{c}\",\"grace_period\":\"{c}s\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate", "{\"new_value\":\"{c}\",\"grace_period\":\"1h\"}", INVALID),
    (
        "POST",
        "/v1/secrets/planted-one/rotate",
        "{\"new_value\":\"{c}\",\"grace_period\":{\"seconds\":1}}",
        INVALID,
    ),
    (
        "POST",
        "/v1/secrets/planted-one/rotate",
        "{\"new_value\":\"{c}\",\"grace_period\":\"1s\",\"gracePeriod\":\"{c}\"}",
        INVALID,
    ),
    ("POST", "/v1/secrets/planted-one/value", "{\"name\":\"planted-two\",\"realm\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/value", "{\"version\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/value", "{\"version\":true,\"user_id\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/value", "{\"userId\":\"{c}\",\"user_id\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/value", "{c}", MALFORMED),
    ("POST", "/v1/secrets/planted-one/validate", "{\"name\":\"{c}\"}", INVALID),
    ("POST", "/v1/secrets/planted-one/validate", "{\"realm\":{\"{c}\":0}}", INVALID),
    ("POST", "/v1/secrets/planted-one/validate", "[[[{c}", MALFORMED),
    ("GET", "/v1/secrets", "{\"realm\":\"{c}\"}", INVALID),
    ("GET", "/v1/secrets/planted-one", "{c}", INVALID),
    ("DELETE", "/v1/secrets/planted-one", "{\"name\":\"{c}\"}", INVALID),
];

pub fn cases(key: &str) -> Vec<Case> {
    let create =
        |body: Vec<u8>| Request::new("POST", "/v1/secrets", body).with("content-type", "application/json");
    let connect = |body: Vec<u8>| Request::call(Dialect::ConnectJson, Rpc::CreateSecret, body);
    let mut list: Vec<(String, Request, &'static str)> = Vec::new();
    for (body, rest, rpc) in JSON {
        list.push((format!("REST {body}"), create(place(body).into_bytes()), rest));
        list.push((format!("Connect {body}"), connect(place(body).into_bytes()), rpc));
    }
    for body in STRICT {
        list.push((format!("REST {body}"), create(place(body).into_bytes()), INVALID));
    }
    for (method, path, body, reason) in OTHERS {
        let request = Request::new(method, *path, place(body)).with("content-type", "application/json");
        list.push((format!("{method} {path} {body}"), request, reason));
    }
    for (what, bytes) in bombs() {
        // A value of an unknown field is skipped at any depth, and the field is the error.
        let deep = what == "a hundred thousand arrays";
        list.push((format!("REST {what}"), create(bytes.clone()), if deep { INVALID } else { MALFORMED }));
        list.push((format!("Connect {what}"), connect(bytes), MALFORMED));
    }
    list.extend(media());
    list.extend(sizes());
    list.extend(repetitions());
    list.into_iter().map(|(what, request, reason)| Case::new(what, request.with_key(key), reason)).collect()
}

/// Deeply nested, or not text.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let whole = place("{\"name\":\"{c}\",\"value\":\"{c}\"}");
    let utf16 = |order: fn(u16) -> [u8; 2]| whole.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    let with =
        |bytes: &[u8]| [&place("{\"name\":\"{c}\",\"value\":\"{c}").into_bytes(), bytes, b"\"}"].concat();
    let nested = |open: &str, close: &str| {
        let (open, close) = (open.repeat(100_000 / open.len()), close.repeat(100_000 / open.len()));
        place(&format!("{{\"name\":\"{{c}}\",\"value\":\"{{c}}\",\"tags\":{open}\"{{c}}\"{close}}}"))
            .into_bytes()
    };
    vec![
        ("a hundred thousand arrays", nested("[", "]")),
        ("thousands of objects", nested("{\"a\":", "}")),
        ("arrays that never close", "[".repeat(200_000).into_bytes()),
        ("UTF-16, little end first", utf16(u16::to_le_bytes)),
        ("UTF-16, big end first", utf16(u16::to_be_bytes)),
        ("UTF-16 with its mark", [vec![0xff, 0xfe], utf16(u16::to_le_bytes)].concat()),
        ("Latin-1", with(b"\xe9")),
        ("a lone continuation byte", with(b"\x80")),
        ("an overlong slash", with(b"\xc0\xaf")),
        ("an encoded surrogate", with(b"\xed\xa0\x80")),
        ("more than Unicode has", with(b"\xf5\x80\x80\x80")),
        ("a NUL in a string", with(b"\0")),
    ]
}

/// Compressed or of another type.
fn media() -> Vec<(String, Request, &'static str)> {
    let body = place("{\"name\":\"{c}\",\"value\":\"{c}\"}");
    let create = || Request::new("POST", "/v1/secrets", body.clone());
    let json = || create().with("content-type", "application/json");
    let connect = || Request::call(Dialect::ConnectJson, Rpc::CreateSecret, body.clone());
    let mut list = Vec::new();
    for kind in [
        "text/plain",
        "text/json",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary={c}",
        "application/jsonx",
        "application/json, text/plain",
        "{c}",
        "",
        "application/grpc",
        "application/proto",
    ] {
        list.push((format!("REST of {kind:?}"), create().with("content-type", place(kind)), MEDIA));
    }
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, identity", "{c}", "", "x-gzip"] {
        list.push((format!("REST in {coding:?}"), json().with("content-encoding", place(coding)), MEDIA));
    }
    let two = json().with("content-encoding", "identity").with("content-encoding", "gzip");
    list.push(("REST in two codings".to_owned(), two, MEDIA));
    for kind in [
        "text/plain",
        "application/xml",
        "application/{c}",
        "application/connect+json",
        "application/connect+proto",
        "application/grpc+xml",
    ] {
        let mut request = connect();
        request.headers.clear();
        list.push((format!("Connect of {kind:?}"), request.with("content-type", place(kind)), MEDIA));
    }
    let mut none = connect();
    none.headers.clear();
    list.push(("Connect of no type".to_owned(), none, MEDIA));
    for coding in ["br", "zstd", "{c}", "gzip, gzip"] {
        list.push((
            format!("Connect in {coding:?}"),
            connect().with("content-encoding", place(coding)),
            MEDIA,
        ));
    }
    list.push(("Connect, plain as gzip".to_owned(), connect().with("content-encoding", "gzip"), MALFORMED));
    let mut short = connect().with("content-encoding", "gzip");
    short.body = gzip(body.as_bytes());
    short.body.truncate(20);
    list.push(("Connect, half of its gzip".to_owned(), short, MALFORMED));
    for (what, text) in [("an array", r#"["{c}"]"#), ("an array behind space", " \n [\"{c}\"]")] {
        let mut array = connect().with("content-encoding", "gzip");
        array.body = gzip(place(text).as_bytes());
        list.push((format!("Connect, {what} by gzip"), array, MALFORMED));
    }
    let mut wrong = Request::call(Dialect::ConnectProto, Rpc::CreateSecret, body.clone());
    list.push(("Connect, JSON as proto".to_owned(), wrong.clone(), MALFORMED));
    wrong.body = vec![0x0a, 0x01, b'x'];
    wrong.headers[0].1 = b"application/json".to_vec();
    list.push(("Connect, proto as JSON".to_owned(), wrong, MALFORMED));
    for version in ["2", "{c}"] {
        let request = connect().with("connect-protocol-version", place(version));
        list.push((format!("Connect of version {version}"), request, MALFORMED));
    }
    list
}

/// Over 256 KiB: by the declared length, in chunks, or only after decompression.
fn sizes() -> Vec<(String, Request, &'static str)> {
    let ten = || vec![b' '; 10 << 20];
    let mut list = Vec::new();
    for dialect in Dialect::ALL {
        let request = |body: Vec<u8>| match dialect {
            Dialect::Rest => {
                Request::new("POST", "/v1/secrets", body).with("content-type", "application/json")
            }
            dialect => Request::call(dialect, Rpc::CreateSecret, body),
        };
        list.push((format!("{dialect:?}, ten megabytes"), request(ten()), LARGE));
        list.push((format!("{dialect:?}, a few bytes too many"), request(vec![b' '; 256 * 1024 + 6]), LARGE));
        if dialect != Dialect::Grpc {
            let mut chunks = Vec::new();
            for chunk in ten().chunks(64 * 1024) {
                chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                chunks.extend_from_slice(chunk);
                chunks.extend_from_slice(b"\r\n");
            }
            chunks.extend_from_slice(b"0\r\n\r\n");
            let request = request(chunks).with("transfer-encoding", "chunked");
            list.push((format!("{dialect:?}, ten megabytes in chunks"), request, LARGE));
        }
    }
    let one = Request::new("POST", "/v1/secrets", vec![b' '; 256 * 1024 + 1]);
    list.push(("REST, one byte too many".to_owned(), one, LARGE));
    let value = format!("{{\"name\":\"{CANARY}-bomb\",\"value\":\"{}\"}}", " ".repeat(4 << 20));
    for dialect in [Dialect::ConnectJson, Dialect::ConnectProto] {
        let bomb = Request::call(dialect, Rpc::CreateSecret, gzip(value.as_bytes()));
        assert!(bomb.body.len() < 100_000, "{}", bomb.body.len());
        list.push((format!("{dialect:?}, a bomb"), bomb.with("content-encoding", "gzip"), LARGE));
    }
    list
}

/// Thousands of faults in one request. The response names each field once.
fn repetitions() -> Vec<(String, Request, &'static str)> {
    const TIMES: usize = 20_000;
    let tags: serde_json::Map<String, Value> = (0..TIMES).map(|i| (format!("{i}"), json!(""))).collect();
    let fields = [
        ("an update_mask", json!({"name": "n", "update_mask": vec!["x"; TIMES].join(",")})),
        ("tags", json!({"name": "n", "value": "v", "tags": tags})),
    ];
    let mut list = Vec::new();
    for (what, fields) in fields {
        for dialect in Dialect::ALL {
            if let Some(request) = Request::of(dialect, Rpc::CreateSecret, &fields) {
                list.push((format!("{dialect:?}, {what} of thousands"), request, INVALID));
            }
        }
    }
    let commas = format!(r#"{{"name":"n","update_mask":"{}"}}"#, ",".repeat(200_000));
    let request = Request::new("POST", "/v1/secrets", commas).with("content-type", "application/json");
    list.push(("REST, an update_mask of commas".to_owned(), request, INVALID));
    for (what, field) in [("known", "\"name\":\"..\""), ("unknown", "\"nope\":1"), ("numbers", "\"name\":1")]
    {
        let body = format!("{{{}}}", vec![field; 10_000].join(","));
        let request = Request::new("POST", "/v1/secrets", body).with("content-type", "application/json");
        list.push((format!("REST, thousands of fields: {what}"), request, INVALID));
    }
    for pair in ["x=1", "realm=..", "realm", "tags[]=1"] {
        let path = format!("/v1/secrets?{}", vec![pair; 1_200].join("&"));
        list.push((format!("REST, more than a thousand of {pair}"), Request::new("GET", path, ""), INVALID));
    }
    list
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
