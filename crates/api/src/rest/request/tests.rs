use agentrouter_model::{Reason, Refusal};
use proptest::prelude::*;
use prost_reflect::{FieldDescriptor, Kind};

use super::*;
use crate::rest::response;
use crate::tests::message;

const CANARY: &str = "sk-canary-0451";

fn violations<T>(outcome: Result<T, Refusal>) -> Vec<(&'static str, String)> {
    let refusal = outcome.err().expect("a refusal");
    assert_eq!(refusal.reason, Reason::InvalidRequest);
    refusal.violations.into_iter().map(|violation| (violation.field, violation.rule.into_owned())).collect()
}

fn fields<T>(outcome: Result<T, Refusal>) -> Vec<&'static str> {
    violations(outcome).into_iter().map(|(field, _)| field).collect()
}

fn create(body: &str) -> Result<CreateSecret<'_>, Refusal> {
    CreateSecret::parse("", "", body.as_bytes())
}

fn list(query: &str) -> Result<ListSecrets<'_>, Refusal> {
    ListSecrets::parse("", query, b"")
}

/// All texts of an outcome that a response or a log may contain.
fn all_texts<T>(outcome: Result<T, Refusal>) -> String {
    match outcome {
        Ok(_) => String::new(),
        Err(refusal) => {
            let error = crate::error::connect_error(&refusal);
            let json = String::from_utf8(response::error(&refusal).to_vec()).expect("UTF-8");
            format!("{json} {error:?} {error} {refusal:?} {refusal}")
        }
    }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        camel.push_str(&word[..1].to_uppercase());
        camel.push_str(&word[1..]);
    }
    camel
}

fn fits(field: &Field<'_, '_>, descriptor: &FieldDescriptor) -> bool {
    let is = |name: &str| matches!(descriptor.kind(), Kind::Message(message) if message.full_name() == name);
    match field {
        Field::Text(_) => descriptor.kind() == Kind::String && !descriptor.is_list(),
        Field::Int(_) => descriptor.kind() == Kind::Int32 && !descriptor.supports_presence(),
        Field::OptionalInt(_) => descriptor.kind() == Kind::Int32 && descriptor.supports_presence(),
        Field::Tags(_) => descriptor.is_map(),
        Field::Duration(_) => is("google.protobuf.Duration"),
        Field::Mask(_) => is("google.protobuf.FieldMask"),
    }
}

macro_rules! assert_fields_of {
    ($($request:ident)*) => {$({
        let descriptor = message(concat!(stringify!($request), "Request"));
        let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
        assert_eq!($request::NAMES, names);
        let mut request = $request::default();
        for field in descriptor.fields() {
            assert_eq!(camel(field.name()), field.json_name());
            assert!(fits(&request.field(field.name()).expect("a field"), &field), "{}", field.full_name());
        }
    })*};
}

#[test]
fn every_field_of_the_definition_can_be_sent() {
    assert_fields_of!(CreateSecret GetSecret ListSecrets DeleteSecret RotateSecret ValidateSecret GetSecretValue);
}

#[test]
fn both_spellings_set_the_same_field() {
    for body in [
        r#"{"name":"n","realm":"r","description":"d","value":"v\n","tags":{"a":"b"},"user_id":"u","expected_version":1,"update_mask":"value,tags"}"#,
        r#"{"name":"n","realm":"r","description":"d","value":"v\n","tags":{"a":"b"},"userId":"u","expectedVersion":"1","updateMask":"value,tags"}"#,
    ] {
        let request = create(body).expect(body);
        let call = request.call();
        assert_eq!((call.name, call.realm, call.description, call.value), ("n", "r", "d", "v\n"));
        assert_eq!((call.tags, call.user_id, call.expected_version), (vec![("a", "b")], "u", Some(1)));
        assert_eq!(call.update_mask, Some(vec!["value", "tags"]));
    }
    for query in ["page_size=5&page_token=t&name_prefix=p", "pageSize=5&pageToken=t&namePrefix=p"] {
        let request = list(query).expect(query);
        let call = request.call();
        assert_eq!((call.page_size, call.page_token, call.name_prefix), (5, "t", "p"));
    }
    for body in [r#"{"new_value":"v","grace_period":"1.5s"}"#, r#"{"newValue":"v","gracePeriod":"1.5s"}"#] {
        let request = RotateSecret::parse("n", "", body.as_bytes()).expect(body);
        let call = request.call();
        assert_eq!((call.name, call.new_value, call.grace_period), ("n", "v", Some((1, 500_000_000))));
    }
}

#[test]
fn an_absent_null_or_empty_field_is_unset() {
    for body in ["", "{}", r#"{"name":null,"tags":null,"expected_version":null,"update_mask":null}"#] {
        let request = create(body).expect(body);
        let call = request.call();
        assert_eq!((call.name, call.tags.len(), call.expected_version), ("", 0, None));
        assert_eq!(call.update_mask, None);
    }
    assert_eq!(create(r#"{"update_mask":""}"#).expect("valid").call().update_mask, Some(vec![]));
    assert_eq!(list("").expect("valid").call().page_size, 0);
}

#[test]
fn numbers_parse_as_integers_in_every_proto3_spelling() {
    for (number, expected) in
        [("7", 7), ("\"7\"", 7), ("7.0", 7), ("1e2", 100), ("-1", -1), ("-2147483648", i32::MIN)]
    {
        let body = format!("{{\"version\":{number}}}");
        let request = GetSecretValue::parse("n", "", body.as_bytes()).expect(number);
        assert_eq!(request.call().version, expected);
    }
    for number in [
        "1.5",
        "2147483648",
        "-2147483649",
        "1e99",
        "\"\"",
        "\"1.5\"",
        "\"+1\"",
        "\" 1\"",
        "true",
        "[]",
        "{}",
    ] {
        let body = format!("{{\"version\":{number}}}");
        assert_eq!(fields(GetSecretValue::parse("n", "", body.as_bytes())), ["version"], "{number}");
    }
}

#[test]
fn a_field_given_twice_is_refused_in_any_spelling() {
    for body in [
        r#"{"user_id":"a","user_id":"a"}"#,
        r#"{"user_id":"a","userId":"b"}"#,
        r#"{"user_id":null,"userId":"b"}"#,
        r#"{"user_id":"a","user\u005fid":"b"}"#,
    ] {
        assert_eq!(violations(create(body)), [("user_id", "must not be given twice".to_owned())], "{body}");
    }
    for body in [r#"{"tags":{"a":"1","a":"1"}}"#, r#"{"tags":{"a":"1","\u0061":"2"}}"#] {
        assert_eq!(
            violations(create(body)),
            [("tags", "must not have the same key twice".to_owned())],
            "{body}"
        );
    }
    assert_eq!(fields(list("realm=a&realm=a")), ["realm"]);
    assert_eq!(fields(list("page_size=1&pageSize=1")), ["page_size"]);
    assert_eq!(fields(list("tags[a]=1&tags%5Ba%5D=2")), ["tags"]);
}

#[test]
fn exactly_the_invalid_fields_are_named() {
    let body =
        r#"{"name":1,"realm":true,"tags":["x"],"update_mask":{},"expected_version":"x","zzz":1,"yyy":2}"#;
    assert_eq!(fields(create(body)), ["name", "realm", "tags", "update_mask", "expected_version", "body"]);
    let rule = &violations(create(r#"{"zzz":1}"#))[0].1;
    assert_eq!(
        rule,
        "must have no other fields than name, realm, description, value, tags, user_id, expected_version, update_mask"
    );
    assert_eq!(fields(create("[]")), ["body"]);
    assert_eq!(fields(list("zzz=1&page_size=x")), ["query", "page_size"]);
}

#[test]
fn a_body_that_is_not_json_is_malformed() {
    let bomb = "[".repeat(100_000);
    let deep = format!("{{\"name\":{}", "{\"a\":".repeat(1000));
    for body in [
        "{",
        "}",
        "{}x",
        "{}{}",
        "nul",
        "{'name':1}",
        "{\"name\":\"\n\"}",
        "{name:1}",
        "{\"name\":NaN}",
        "\u{feff}{}",
        "{\"name\":\"\\ud800\"}",
        "{\"name\":\"a\",}",
        "// {}",
        " ",
        &bomb,
        &deep,
    ] {
        let reason = create(body).err().map(|refusal| refusal.reason);
        assert_eq!(reason, Some(Reason::MalformedBody), "{}", &body[..body.len().min(40)]);
    }
    let invalid: [&[u8]; 3] = [b"{\"name\":\"\xff\"}", b"\xff\xfe{\0}\0", b"{\"zzz\":\"\xc3\"}"];
    for body in invalid {
        let reason = CreateSecret::parse("", "", body).err().map(|refusal| refusal.reason);
        assert_eq!(reason, Some(Reason::MalformedBody));
    }
}

#[test]
fn the_name_of_the_path_counts() {
    for body in ["", "{}", r#"{"name":""}"#, r#"{"name":"a"}"#] {
        let request = ValidateSecret::parse("a", "", body.as_bytes()).expect(body);
        assert_eq!(request.call().name, "a");
    }
    assert_eq!(fields(ValidateSecret::parse("a", "", br#"{"name":"b"}"#)), ["name"]);
    assert_eq!(fields(GetSecret::parse("a", "name=a", b"")), ["query"]);
}

#[test]
fn a_list_reads_its_filters_from_the_query() {
    let query = "realm=mcp&status=any&tags[env]=prod&tags%5Ba%2Fb%5D=x%26y+z&page_size=10";
    let request = list(query).expect("valid");
    let call = request.call();
    assert_eq!((call.realm, call.status, call.page_size), ("mcp", "any", 10));
    assert_eq!(call.tags, [("env", "prod"), ("a/b", "x&y z")]);
}

#[test]
fn a_query_that_no_route_reads_is_refused() {
    for query in [
        "realm",
        "realm=%",
        "realm=%ff",
        "&",
        "realm=a&",
        "tags=x",
        "realm[a]=x",
        "tags[a=x",
        "Realm=a",
        "=x",
    ] {
        assert_eq!(fields(list(query)), ["query"], "{query}");
    }
    assert_eq!(fields(CreateSecret::parse("", "realm=mcp", b"{}")), ["query"]);
    assert_eq!(fields(DeleteSecret::parse("a", "user_id=b", b"")), ["query"]);
    assert_eq!(fields(GetSecret::parse("a", "", b"{}")), ["body"]);
}

#[test]
fn too_many_tags_are_passed_to_the_service() {
    let many: Vec<String> = (0..5000).map(|i| format!("\"k{i}\":\"\"")).collect();
    let body = format!("{{\"tags\":{{{}}}}}", many.join(","));
    assert_eq!(create(&body).expect("well-formed").call().tags.len(), 65);
}

#[test]
fn no_error_contains_a_misplaced_secret() {
    let bodies = [
        CANARY.to_owned(),
        format!("\"{CANARY}\""),
        format!("{{\"{CANARY}\":1}}"),
        format!("{{\"name\":{{\"{CANARY}\":\"{CANARY}\"}}}}"),
        format!("{{\"value\":[\"{CANARY}\"]}}"),
        format!("{{\"value\":{CANARY}}}"),
        format!("{{\"value\":\"{CANARY}"),
        format!("{{\"value\":\"{CANARY}\"}}{CANARY}"),
        format!("{{\"value\":\"{CANARY}\",\"value\":\"{CANARY}\"}}"),
        format!("{{\"value\":\"{CANARY}\\x\"}}"),
        format!("{{\"tags\":{{\"{CANARY}\":1}}}}"),
        format!("{{\"tags\":{{\"{CANARY}\":\"\",\"{CANARY}\":\"\"}}}}"),
        format!("{{\"tags\":\"{CANARY}\"}}"),
        format!("{{\"expected_version\":\"{CANARY}\"}}"),
        format!("{{\"grace_period\":\"{CANARY}\"}}"),
        format!("{{\"name\":\"{CANARY}\"}}"),
    ];
    for body in &bodies {
        let rotate = RotateSecret::parse("n", "", body.as_bytes());
        let texts = [all_texts(create(body)), all_texts(rotate)];
        assert!(texts.iter().any(|text| !text.is_empty()), "refused: {body}");
        assert!(texts.iter().all(|text| !text.contains(CANARY)), "{body}");
    }
    for query in ["C", "C=1", "realm=C&realm=C", "tags[C]=C&tags[C]=C", "tags[C=C", "page_size=C", "realm=C%"]
    {
        let query = query.replace('C', CANARY);
        let text = all_texts(list(&query));
        assert!(!text.is_empty() && !text.contains(CANARY), "{query}");
    }
    let path = format!("/v1/secrets/{CANARY}%zz");
    assert!(!all_texts(crate::routes::find("GET", &path)).contains(CANARY));
}

/// Pieces of almost-valid bodies and queries.
fn piece() -> impl Strategy<Value = String> {
    const FIXED: [&str; 35] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\\u00",
        "null",
        "true",
        "1",
        "-1e9",
        "1.5",
        "\"name\"",
        "\"tags\"",
        "\"value\"",
        "\"userId\"",
        "\"user_id\"",
        "\"update_mask\"",
        "\"grace_period\"",
        "\"3s\"",
        "&",
        "=",
        "%",
        "%4",
        "tags[",
        "realm",
        "page_size",
        "+",
        "\u{0}",
        "\u{feff}",
        "ü",
        CANARY,
        "\"sk-canary-0451\"",
    ];
    prop_oneof![9 => proptest::sample::select(&FIXED[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #[test]
    fn no_input_ends_the_process_or_comes_back(pieces in proptest::collection::vec(piece(), 0..24)) {
        let text = pieces.concat();
        let object = format!("{{{text}}}");
        for body in [&text, &object] {
            let body = body.as_bytes();
            prop_assert!(!all_texts(CreateSecret::parse("", "", body)).contains(CANARY));
            prop_assert!(!all_texts(RotateSecret::parse("n", "", body)).contains(CANARY));
            prop_assert!(!all_texts(ValidateSecret::parse("n", "", body)).contains(CANARY));
            prop_assert!(!all_texts(GetSecretValue::parse("n", "", body)).contains(CANARY));
        }
        prop_assert!(!all_texts(list(&text)).contains(CANARY));
        prop_assert!(!all_texts(GetSecret::parse(&text, &text, b"")).contains(CANARY));
        prop_assert!(!all_texts(DeleteSecret::parse("n", &text, b"")).contains(CANARY));
        prop_assert!(!all_texts(crate::routes::find("GET", &text)).contains(CANARY));
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = CreateSecret::parse("", "", &body);
        let _ = GetSecretValue::parse("n", "", &body);
    }

    #[test]
    fn any_text_arrives_as_it_was_sent(value in any::<String>(), key in any::<String>()) {
        let body = serde_json::json!({ "value": value, "tags": { (key.clone()): value } }).to_string();
        let request = create(&body).expect("well-formed");
        prop_assert_eq!(request.call().value, &value);
        prop_assert_eq!(request.call().tags, vec![(key.as_str(), value.as_str())]);
    }
}
