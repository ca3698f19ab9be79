//! REST: strict parsers of path, query and JSON body, and writers of the JSON responses.
//!
//! Each request type has `parse(name, query, body)`, which parses all three, and `call()`, which returns the model's request
//! borrowed from it. Parsers accept the proto names and their lowerCamelCase forms, numbers also as decimal strings, `null`
//! as absent, and an empty body as an empty message. They refuse everything that the schema does not have: unknown fields
//! and parameters, a field or tag given twice (in either spelling), wrong types, trailing data, text that is not UTF-8.
//!
//! A refusal consists of fixed sentences and names of the schema. The errors of `serde_json`, which repeat the input, are
//! dropped.
//!
//! Memory: a text is borrowed from the body unless it has escapes. An unescaped copy is wiped when dropped. The scratch
//! space in which `serde_json` unescapes is not wiped.

mod body;
mod fields;
mod query;
mod request;
pub mod response;
mod text;

pub use request::{
    CreateSecret, DeleteSecret, GetSecret, GetSecretValue, ListSecrets, Request, RotateSecret, ValidateSecret,
};
pub use text::Text;

pub(crate) use query::decode_percent;
