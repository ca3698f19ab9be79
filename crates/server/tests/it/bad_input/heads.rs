//! Invalid methods, paths, queries, headers and keys, written to the socket byte for byte.

use super::wire::{Dialect, Request};
use super::{Case, place};
use agentrouter_model::Rpc;

const INVALID: &str = "INVALID_REQUEST";
const UNKNOWN: &str = "UNKNOWN_ROUTE";
const METHOD: &str = "METHOD_NOT_ALLOWED";

/// Method, path, reason.
const PATHS: &[(&str, &str, &str)] = &[
    ("GET", "//v1/secrets?{c}", UNKNOWN),
    ("GET", "/v1//secrets/{c}", UNKNOWN),
    ("DELETE", "/v1/secrets//planted-one?{c}", UNKNOWN),
    ("DELETE", "/v1/secrets/planted-one/?{c}", UNKNOWN),
    ("DELETE", "/v1/secrets/?{c}", UNKNOWN),
    ("DELETE", "/v1/secrets/{c}/../planted-one", UNKNOWN),
    ("DELETE", "/v1/secrets/./planted-one?{c}", UNKNOWN),
    ("DELETE", "/v1/x/../secrets/planted-one?{c}", UNKNOWN),
    ("DELETE", "/v1/secrets/..?{c}", INVALID),
    ("DELETE", "/v1/secrets/.?{c}", INVALID),
    ("DELETE", "/v1/secrets/%2e%2e?{c}", INVALID),
    ("DELETE", "/v1/secrets/%2E%2E%2Fsecrets%2Fplanted-one{c}", INVALID),
    ("DELETE", "/v1/secrets/{c}%2F..%2Fplanted-one", INVALID),
    ("DELETE", "/v1/secrets/{c}%2f%2e%2e%2fplanted-one", INVALID),
    ("DELETE", "/v1/secrets/%252e%252e%252fplanted-one{c}", INVALID),
    ("DELETE", "/v1/secrets/{c}\\..\\planted-one", INVALID),
    ("DELETE", "/v1/secrets/planted-one;{c}", INVALID),
    ("DELETE", "/v1/secrets/planted-one;v=1/rotate", METHOD),
    ("DELETE", "/v1/secrets/planted-one%00{c}", INVALID),
    ("DELETE", "/v1/secrets/planted-one%", INVALID),
    ("DELETE", "/v1/secrets/planted-one%4", INVALID),
    ("DELETE", "/v1/secrets/{c}%zz", INVALID),
    ("DELETE", "/v1/secrets/{c}%ff", INVALID),
    ("DELETE", "/v1/secrets/{c}%C0%AE%C0%AE", INVALID),
    ("DELETE", "/v1/secrets/{c}%ED%A0%80", INVALID),
    ("DELETE", "/v1/secrets/planted-one%20", INVALID),
    ("DELETE", "/v1/secrets/planted-one+{c}", INVALID),
    ("DELETE", "/v1/secrets/*?{c}", INVALID),
    ("DELETE", "/v1/secrets/planted-%2A{c}", INVALID),
    ("DELETE", "/v1/secrets?{c}", METHOD),
    ("DELETE", "/V1/secrets/planted-one?{c}", UNKNOWN),
    ("DELETE", "/v1/Secrets/planted-one?{c}", UNKNOWN),
    ("DELETE", "/v1/secrets%2Fplanted-one?{c}", UNKNOWN),
    ("DELETE", "/v2/secrets/planted-one?{c}", UNKNOWN),
    ("DELETE", "/secrets/planted-one?{c}", UNKNOWN),
    ("POST", "/v1/secrets/planted-one/Rotate?{c}", UNKNOWN),
    ("POST", "/v1/secrets/planted-one/rotate/{c}", UNKNOWN),
    ("POST", "/v1/secrets/planted-one/{c}", UNKNOWN),
    ("POST", "/v1/secrets/planted-one/value/../rotate?{c}", UNKNOWN),
    ("POST", "/v1/secrets/planted-one%2Fvalue?{c}", METHOD),
    ("GET", "/v1/secrets/planted-one/value?{c}", METHOD),
    ("GET", "/v1/secrets/planted-one/rotate?{c}", METHOD),
    ("HEAD", "/v1/secrets/planted-one?{c}", METHOD),
    ("PUT", "/v1/secrets/planted-one?{c}", METHOD),
    ("PATCH", "/v1/secrets/planted-one?{c}", METHOD),
    ("TRACE", "/v1/secrets/planted-one?{c}", METHOD),
    ("OPTIONS", "/v1/secrets/planted-one?{c}", METHOD),
    ("delete", "/v1/secrets/planted-one?{c}", METHOD),
    ("BREW", "/v1/secrets/planted-one?{c}", METHOD),
    ("OPTIONS", "*", UNKNOWN),
    ("POST", "/livez?{c}", METHOD),
    ("DELETE", "/metrics?{c}", METHOD),
    ("GET", "/assets/../v1/secrets/{c}", UNKNOWN),
    ("GET", "/assets/..%2f..%2fkek.json?{c}", UNKNOWN),
    ("GET", "/kek.json?{c}", UNKNOWN),
    ("GET", "/{c}", UNKNOWN),
    ("GET", "/v1/{c}", UNKNOWN),
    ("DELETE", "http://{c}/v1/secrets/..", INVALID),
    ("GET", "http://{c}//v1/secrets", UNKNOWN),
    // Queries.
    ("GET", "/v1/secrets?realm", INVALID),
    ("GET", "/v1/secrets?{c}", INVALID),
    ("GET", "/v1/secrets?{c}=1", INVALID),
    ("GET", "/v1/secrets?realm=mcp&realm={c}", INVALID),
    ("GET", "/v1/secrets?page_size=1&pageSize=1&name_prefix={c}", INVALID),
    ("GET", "/v1/secrets?page_token={c}&pageToken={c}", INVALID),
    ("GET", "/v1/secrets?Realm={c}", INVALID),
    ("GET", "/v1/secrets?realm={c}%zz", INVALID),
    ("GET", "/v1/secrets?realm={c}%ff", INVALID),
    ("GET", "/v1/secrets?tags={c}", INVALID),
    ("GET", "/v1/secrets?tags[]={c}", INVALID),
    ("GET", "/v1/secrets?tags[a]=1&tags[a]={c}", INVALID),
    ("GET", "/v1/secrets?tags[a={c}", INVALID),
    ("GET", "/v1/secrets?tags[a]b={c}", INVALID),
    ("GET", "/v1/secrets?tags.a={c}", INVALID),
    ("GET", "/v1/secrets?tags[a][b]={c}", INVALID),
    ("GET", "/v1/secrets?realm[a]={c}", INVALID),
    ("GET", "/v1/secrets?page_size={c}", INVALID),
    ("GET", "/v1/secrets?page_size=", INVALID),
    ("GET", "/v1/secrets?page_size=1.5&name_prefix={c}", INVALID),
    ("GET", "/v1/secrets?page_size=99999999999&name_prefix={c}", INVALID),
    ("GET", "/v1/secrets?page_size=%2B1&name_prefix={c}", INVALID),
    ("GET", "/v1/secrets?page_size=0x1&name_prefix={c}", INVALID),
    ("GET", "/v1/secrets?page_size=1%201&name_prefix={c}", INVALID),
    ("GET", "/v1/secrets?&&name_prefix={c}", INVALID),
    ("GET", "/v1/secrets?name_prefix={c};realm=kek", INVALID),
    ("GET", "/v1/secrets?user_id={c}", INVALID),
    ("GET", "/v1/secrets?owner=system&{c}=", INVALID),
    ("GET", "/v1/secrets/planted-one?user_id={c}", INVALID),
    ("GET", "/v1/secrets/planted-one?name={c}", INVALID),
    ("GET", "/v1/secrets/planted-one?version=1&x={c}", INVALID),
    ("DELETE", "/v1/secrets/planted-one?realm=mcp&realm=default&x={c}", INVALID),
    ("DELETE", "/v1/secrets/planted-one?name=planted-two&x={c}", INVALID),
    ("DELETE", "/v1/secrets/planted-one?realm={c}%00", INVALID),
    ("POST", "/v1/secrets?realm={c}", INVALID),
    ("POST", "/v1/secrets/planted-one/rotate?new_value={c}", INVALID),
    ("POST", "/v1/secrets/planted-one/value?user_id={c}", INVALID),
    ("POST", "/v1/secrets/planted-one/value?realm={c}", INVALID),
    ("POST", "/v1/secrets/planted-one/validate?name={c}", INVALID),
    // Connect has no GET here, and only one spelling of a procedure.
    (
        "GET",
        "/agentrouter.secret.v1.SecretService/GetSecretValue?encoding=json&message=%7B%22name%22%3A%22{c}%22%7D&connect=v1",
        METHOD,
    ),
    (
        "GET",
        "/agentrouter.secret.v1.SecretService/GetSecret?encoding=json&message=%7B%22name%22%3A%22{c}%22%7D",
        METHOD,
    ),
    ("PUT", "/agentrouter.secret.v1.SecretService/DeleteSecret?{c}", METHOD),
    ("POST", "/agentrouter.secret.v1.SecretService/deleteSecret?{c}", UNKNOWN),
    ("POST", "/agentrouter.secret.v1.SecretService/DeleteSecret/?{c}", UNKNOWN),
    ("POST", "/agentrouter.secret.v1.SecretService/../DeleteSecret?{c}", UNKNOWN),
    ("POST", "/agentrouter.secret.v1.SecretService/{c}", UNKNOWN),
    ("POST", "/agentrouter.secret.v1.SecretService/?{c}", UNKNOWN),
];

pub fn cases(key: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = PATHS
        .iter()
        .map(|(method, path, reason)| {
            let request = Request::new(method, place(path), "").with("content-type", "application/json");
            Case::new(format!("{method} {path}"), request.with_key(key), reason)
        })
        .collect();
    for dialect in [Dialect::ConnectJson, Dialect::ConnectProto, Dialect::Grpc, Dialect::GrpcWeb] {
        for path in
            ["/agentrouter.secret.v1.SecretService/Nope{c}", "/agentrouter.secret.v9.Secrets{c}/GetSecret"]
        {
            let mut request = Request::call(dialect, Rpc::GetSecret, "").with_key(key);
            request.path = place(path);
            cases.push(Case::new(format!("{dialect:?} {path}"), request, UNKNOWN));
        }
    }
    cases.extend(not_http(key));
    cases
}

/// Requests that the HTTP library refuses.
fn not_http(key: &str) -> Vec<Case> {
    let get = |path: &str| Request::new("GET", place(path), "").with_key(key);
    let create = || {
        Request::new("POST", "/v1/secrets", place(r#"{"name":"{c}","value":"{c}"}"#))
            .with_key(key)
            .with("content-type", "application/json")
    };
    let chunks = || Request::new("POST", "/v1/secrets", place("{c}\r\n{c}\r\n0\r\n\r\n")).with_key(key);
    let many = (0..120).fold(get("/v1/secrets"), |request, n| request.with(&format!("x-{n}"), place("{c}")));
    vec![
        Case::not_http("a space in the path", get("/v1/secrets/{c} x"), 400),
        Case::not_http("a NUL in the path", get("/v1/secrets/{c}\0"), 400),
        Case::not_http("a tab in the path", get("/v1/secrets/{c}\tx"), 400),
        Case::not_http("a path without its slash", get("v1/secrets/{c}"), 400),
        Case::not_http("a very long path", get(&format!("/v1/secrets/{{c}}{}", "x".repeat(70_000))), 414),
        Case::not_http("a header larger than all may be", get("/").with("x", "{c}".repeat(40_000)), 431),
        Case::not_http("a hundred and twenty headers", many, 431),
        Case::not_http(
            "a header without a colon",
            get("/").with("x: y\r\nnope", place("{c}")).with_line("{c}"),
            400,
        ),
        Case::not_http("a folded header", get("/v1/secrets").with("x", place("{c}\r\n {c}")), 400),
        Case::not_http("a NUL in a header", get("/v1/secrets").with("x", place("{c}\0")), 400),
        Case::not_http("a space before the colon", get("/v1/secrets").with("x ", place("{c}")), 400),
        Case::not_http("two lengths", create().with("content-length", "1"), 400),
        Case::not_http("a length below nothing", chunks().with("content-length", "-1"), 400),
        Case::not_http("a length that is none", chunks().with("content-length", "{c}"), 400),
        Case::not_http("a length and another", chunks().with("content-length", "1, 2"), 400),
        Case::not_http("a coding after chunked", chunks().with("transfer-encoding", "chunked, {c}"), 400),
        Case::not_http("a coding that is none", chunks().with("transfer-encoding", "{c}"), 400),
        Case::new(
            "a chunk size that is none",
            chunks().with("transfer-encoding", "chunked"),
            "MALFORMED_BODY",
        ),
    ]
}

type Headers = Vec<(String, Vec<u8>)>;

/// Every invalid `Authorization` header.
pub fn stray_keys(key: &str) -> Vec<(String, Headers)> {
    let mut wrong_end = key.to_owned();
    let last = if wrong_end.pop() == Some('a') { 'b' } else { 'a' };
    wrong_end.push(last);
    let values: Vec<Vec<u8>> = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ak-".to_owned(),
        place("Bearer {c}"),
        place("Bearer ak-{c}"),
        place("Basic {c}"),
        format!("Basic ak-{key}"),
        format!("Token ak-{key}"),
        format!("ak-{key}"),
        format!("Bearer {key}"),
        format!("Bearer  ak-{key}"),
        format!("Bearer\tak-{key}"),
        format!("Bearer ak-ak-{key}"),
        format!("Bearer AK-{key}"),
        format!("Bearer ak-{}", key.to_ascii_uppercase()),
        format!("Bearer ak-{}", key.to_ascii_lowercase()),
        format!("Bearer ak-{wrong_end}"),
        format!("Bearer ak-{}", &key[..key.len() - 1]),
        format!("Bearer ak-{key}0"),
        format!("Bearer ak-{key}, Bearer ak-{key}"),
        format!("Bearer ak-{key},{}", place("{c}")),
        format!("Bearer ak-{key} {}", place("{c}")),
        format!("Bearer \"ak-{key}\""),
        format!("Bearer Bearer ak-{key}"),
        format!("Bearer: ak-{key}"),
        // The id and the first three characters of the secret are right. The rest is zeros.
        format!("Bearer ak-{}{}", &key[..20], "0".repeat(key.len() - 20)),
        place("Bearer ak-' OR '1'='1' --{c}"),
        place("Bearer ak-'; DROP TABLE api_keys; --{c}"),
        format!("Bearer ak-{}' --", &key[..16]),
        format!("Bearer ak-{}", "A".repeat(8000)),
        place("Bearer ak-%{c}%"),
        place("Bearer null{c}"),
    ]
    .map(String::into_bytes)
    .into_iter()
    .chain([[b"Bearer ak-\xff\xfe", place("{c}").as_bytes()].concat()])
    .collect();
    let header = |name: &str, value: Vec<u8>| (name.to_owned(), value);
    let mut strays: Vec<(String, Headers)> = values
        .into_iter()
        .map(|value| (String::from_utf8_lossy(&value).into_owned(), vec![header("authorization", value)]))
        .collect();
    let good = || format!("Bearer ak-{key}").into_bytes();
    let mut more = |what: &str, headers: Headers| strays.push((what.to_owned(), headers));
    more("none", vec![]);
    more("the same twice", vec![header("authorization", good()), header("authorization", good())]);
    let other = place("Bearer ak-{c}").into_bytes();
    more("good, then bad", vec![header("authorization", good()), header("authorization", other.clone())]);
    more("bad, then good", vec![header("authorization", other), header("authorization", good())]);
    for name in ["proxy-authorization", "x-api-key", "x-authorization", "authorization-", "cookie"] {
        more(name, vec![header(name, good())]);
    }
    strays
}

impl Request {
    /// An invalid last header line.
    fn with_line(mut self, line: &str) -> Self {
        if let Some((_, value)) = self.headers.last_mut() {
            value.extend_from_slice(b"\r\n");
            value.extend_from_slice(place(line).as_bytes());
        }
        self
    }
}

#[test]
fn the_lists_are_long_enough_and_the_names_are_unique() {
    let names: std::collections::BTreeSet<String> = cases("k").into_iter().map(|case| case.what).collect();
    assert_eq!(names.len(), cases("k").len());
    assert!(names.len() >= 80, "{}", names.len());
}
