//! The API of the secret service: what goes over the wire, and how it meets the model.
//!
//! Everything generated comes from `proto/` and stays in here: `server` and the SDK use these types, `service` and
//! below never see them.
//!
//! Deliberately absent: any rule about what a request may ask for. A request becomes a [`model::call`] unchecked, and
//! `service` checks it, so that no transport can differ.
//!
//! [`model::call`]: agentrouter_model::call

pub mod wire;

/// The full name of the service.
pub const SERVICE_NAME: &str = "agentrouter.secret.v1.SecretService";

/// The service's definition with all it imports: an encoded `google.protobuf.FileDescriptorSet`, without comments.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.binpb"));
