//! The API of the secret service: what goes over the wire, and how it meets the model.
//!
//! Everything generated comes from `proto/` and stays in here: `server` and the SDK use these types, `service` and
//! below never see them. One call takes the same way on every transport:
//!
//! ```text
//! Connect, gRPC, gRPC-Web   wire::…RequestView ──From──►               ──► WireResponse<…>, error::connect_error
//!                                                model::rpc::… → service
//! REST                      rest::…::parse, call ────────►             ──► rest::response::…
//! ```
//!
//! Invariants: a request is borrowed, not copied, on its way in; no answer but GetSecretValue's holds a value; nothing
//! that a request said, and no text of a parsing library, is ever part of an error.
//!
//! Deliberately absent: any rule about what a request may ask for. A request becomes a [`model::rpc`] unchecked, and
//! `service` checks it, so that no transport can differ.
//!
//! [`model::rpc`]: agentrouter_model::rpc

#[cfg(feature = "server")]
pub mod error;
#[cfg(feature = "server")]
mod request;
#[cfg(feature = "server")]
mod response;
#[cfg(feature = "server")]
pub mod rest;
#[cfg(feature = "server")]
pub mod routes;
pub mod wire;

#[cfg(feature = "server")]
pub use response::WireResponse;

/// The full name of the service.
pub const SERVICE_NAME: &str = "agentrouter.secret.v1.SecretService";

/// The `domain` of every `google.rpc.ErrorInfo` of this service.
pub const ERROR_DOMAIN: &str = "agentrouter.secret.v1";

/// The service's definition with all it imports: an encoded `google.protobuf.FileDescriptorSet`, without comments.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.binpb"));

/// The REST API as an OpenAPI 3.1 document in JSON, made from the same definition.
pub const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

#[cfg(all(test, feature = "server"))]
mod tests;
