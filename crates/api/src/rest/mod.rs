//! REST: strict readers of what came in the path, the query and the JSON body, and writers of the JSON answers.
//!
//! Each request type has `parse(name, query, body)`, which reads all three, and `call()`, which lends the result to the
//! model. Readers take the proto names and their lowerCamelCase forms, numbers also as decimal strings, `null` as
//! absent, and an empty body as an empty message. They refuse what the schema does not have: unknown fields and
//! parameters, a field or tag given twice (in either spelling), wrong types, trailing data, text that is not UTF-8.
//!
//! What a refusal says is made of fixed sentences and our own field names; the text of `serde_json`'s errors, which
//! repeats what it read, is dropped where it arises.
//!
//! Memory: a text is borrowed from the body unless it has escapes; an unescaped copy is wiped when dropped. The scratch
//! space in which `serde_json` unescapes is not.

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
