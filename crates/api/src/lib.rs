//! The API of the secret service: the wire types, and their conversion to and from the model.
//!
//! All generated code comes from `proto/` and is in this crate. `server` and the SDK use it. `service` and the crates that
//! it depends on do not. A request takes the same path on every transport:
//!
//! ```text
//! Connect, gRPC, gRPC-Web   wire::…RequestView ──From──►               ──► WireResponse<…>, error::connect_error
//!                                                model::rpc::… → service
//! REST                      rest::…::parse, call ────────►             ──► rest::response::…
//! ```
//!
//! Invariants: A request is borrowed, not copied. Only the response of GetSecretValue holds a value. An error contains no
//! content of a request and no text of a parsing library.
//!
//! Deliberately absent: rules about the content of requests. A request becomes a [`model::rpc`] unchecked, and `service`
//! checks it, so that all transports have the same rules.
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

/// The service's definition with its imports: an encoded `google.protobuf.FileDescriptorSet`, without comments.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.binpb"));

/// The REST API as an OpenAPI 3.1 document in JSON, generated from the same definition.
pub const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

#[cfg(all(test, feature = "server"))]
mod tests;
