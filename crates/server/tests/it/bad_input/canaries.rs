//! A canary in every field of every request type, in requests that are malformed in every way.
//!
//! Made from the definition, so that new fields are included.

use agentrouter_model::Rpc;
use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Value, json};

use super::rules::base;
use super::wire::{Dialect, Request, bytes_field, encode, frame, input, varint, varint_field};
use super::{Case, PLACE, place};

const INVALID: &str = "INVALID_REQUEST";
const MALFORMED: &str = "MALFORMED_BODY";

pub fn cases(key: &str) -> Vec<Case> {
    let mut list: Vec<(String, Request, &'static str)> = Vec::new();
    for rpc in Rpc::ALL {
        for field in input(rpc).fields() {
            for (what, fields) in elsewhere(rpc, &field) {
                for dialect in Dialect::ALL {
                    let Some(request) = Request::of(dialect, rpc, &fields) else { continue };
                    list.push((format!("{dialect:?} {rpc}.{}, {what}", field.name()), request, INVALID));
                }
            }
            list.extend(mistyped(rpc, &field));
            list.extend(broken(rpc, &field));
        }
    }
    assert!(list.len() > 800, "{}", list.len());
    list.into_iter().map(|(what, request, reason)| Case::new(what, request.with_key(key), reason)).collect()
}

/// The request with a canary in `field`, in the form that its type allows.
fn bearing(rpc: Rpc, field: &FieldDescriptor) -> Value {
    let mut fields = base(rpc);
    fields[field.name()] = match field.kind() {
        Kind::Int32 => json!(1),
        Kind::Message(_) if field.is_map() => json!({PLACE: PLACE}),
        Kind::Message(kind) if kind.full_name() == "google.protobuf.Duration" => json!("1s"),
        _ => json!(PLACE),
    };
    fields
}

/// The canary is in `field`, and another field is invalid: each of the fields with a rule, in turn.
fn elsewhere(rpc: Rpc, field: &FieldDescriptor) -> Vec<(String, Value)> {
    let wrong = [
        ("name", json!("../x")),
        ("realm", json!("NO REALM")),
        ("page_size", json!(-1)),
        ("expected_version", json!(-1)),
        ("grace_period", json!("-1s")),
        ("version", json!(-1)),
        ("status", json!("none")),
        ("user_id", json!("no user")),
        ("update_mask", json!("name")),
        ("tags", json!({"no key": place("{c}")})),
    ];
    let message = input(rpc);
    wrong
        .into_iter()
        .filter(|(name, _)| *name != field.name() && message.get_field_by_name(name).is_some())
        .map(|(name, value)| {
            let mut fields = bearing(rpc, field);
            fields[name] = value;
            (format!("{name} wrong"), fields)
        })
        .collect()
}

/// The field has another type: a JSON value of every kind, and every wire type but its own.
fn mistyped(rpc: Rpc, field: &FieldDescriptor) -> Vec<(String, Request, &'static str)> {
    let mut list = Vec::new();
    let values = [
        json!({PLACE: PLACE}),
        json!({PLACE: {PLACE: [PLACE]}}),
        json!([PLACE]),
        json!([[{PLACE: PLACE}]]),
        json!(true),
        json!(4_711_471_147_114_711i64),
        json!(0.5),
        json!(PLACE),
    ];
    for value in values {
        if fits(field, &value) {
            continue;
        }
        let mut fields = base(rpc);
        fields[field.name()] = value.clone();
        // The canary is also in a string field, where there is one, so that it is in the body for every value.
        if let Some(text) = ["value", "new_value", "name_prefix", "realm"]
            .iter()
            .find(|text| **text != field.name() && input(rpc).get_field_by_name(text).is_some())
        {
            fields[*text] = json!(PLACE);
        }
        for dialect in [Dialect::Rest, Dialect::ConnectJson] {
            // A query has strings only. Invalid strings are in the list of heads.
            let request = Request::of(dialect, rpc, &fields).filter(|request| request.method == "POST");
            let Some(request) = request else { continue };
            let reason = if dialect == Dialect::Rest { INVALID } else { MALFORMED };
            list.push((format!("{dialect:?} {rpc}.{} as {value}", field.name()), request, reason));
        }
    }
    let number = field.number();
    let own = if field.kind() == Kind::Int32 { 0 } else { 2 };
    let wires = [
        (0, varint_field(number, 4711)),
        (1, [varint(u64::from(number) << 3 | 1), PLACE.as_bytes()[..8].to_vec()].concat()),
        (2, bytes_field(number, PLACE.as_bytes())),
        (3, varint(u64::from(number) << 3 | 3)),
        (5, [varint(u64::from(number) << 3 | 5), PLACE.as_bytes()[..4].to_vec()].concat()),
    ];
    for (wire, bytes) in wires {
        if wire == own {
            continue;
        }
        let message =
            [encode(&input(rpc), &base(rpc)).unwrap(), bytes, bytes_field(9999, PLACE.as_bytes())].concat();
        for dialect in [Dialect::ConnectProto, Dialect::Grpc, Dialect::GrpcWeb] {
            let body = if dialect.is_framed() { frame(0, &message) } else { message.clone() };
            let request = Request::call(dialect, rpc, body);
            list.push((
                format!("{dialect:?} {rpc}.{} of wire type {wire}", field.name()),
                request,
                MALFORMED,
            ));
        }
    }
    list
}

/// Whether a JSON value is of the field's type.
fn fits(field: &FieldDescriptor, value: &Value) -> bool {
    match field.kind() {
        Kind::String => value.is_string(),
        Kind::Int32 => false,
        Kind::Message(_) if field.is_map() => *value == json!({PLACE: PLACE}),
        Kind::Message(kind) => kind.name() == "FieldMask" && value.is_string(),
        kind => panic!("no rule for {kind:?}"),
    }
}

/// The canary is in `field`, and the body is truncated, has trailing bytes, or ends with invalid text.
fn broken(rpc: Rpc, field: &FieldDescriptor) -> Vec<(String, Request, &'static str)> {
    let mut list = Vec::new();
    let fields = bearing(rpc, field);
    for dialect in Dialect::ALL {
        let Some(whole) = Request::of(dialect, rpc, &fields) else { continue };
        let takes_body = !whole.body.is_empty();
        let mut push = |what: &str, request: Request| {
            let reason = if takes_body { MALFORMED } else { INVALID };
            list.push((format!("{dialect:?} {rpc}.{}, {what}", field.name()), request, reason));
        };
        let mut short = whole.clone();
        if short.body.pop().is_some() {
            push("cut short", short);
        }
        let mut long = whole.clone();
        long.body.extend_from_slice(PLACE.as_bytes());
        push("continued", long);
        let mut noise = whole;
        noise.body.extend_from_slice(&[0xff, 0xfe, 0x00, 0x80]);
        push("with noise behind", noise);
    }
    list
}
