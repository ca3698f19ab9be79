#![doc = include_str!("../README.md")]
//!
//! # Its place
//!
//! A thin layer over the generated client: settings ([`ClientBuilder`]), the calls ([`SecretClient`]), retries, [`Error`],
//! and a cache of values for services that read them often ([`Secrets`]). The messages are those of the wire, re-exported
//! as [`secret::v1`].
//!
//! Deliberately absent: checks of what a request asks for (the server's rules are the only ones), and anything that prints,
//! logs or writes to a disk.

mod cache;
mod cause;
mod client;
mod error;
mod retry;
pub mod secret;
mod settings;
mod tls;

pub use cache::{SecretValue, Secrets, SecretsBuilder};
pub use cause::Cause;
pub use client::{Client, ClientBuilder};
/// The kind of a refusal: a Connect and gRPC status code.
pub use connectrpc::ErrorCode as Code;
pub use error::{Error, FieldViolation, Refusal};
pub use secret::SecretClient;
pub use settings::ConfigError;

/// The well-known protobuf types that the messages use.
pub mod types {
    pub use buffa::MessageField;
    pub use buffa_types::google::protobuf::{Duration, FieldMask, Timestamp};
}
