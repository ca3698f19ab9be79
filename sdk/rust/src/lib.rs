#![doc = include_str!("../README.md")]
//!
//! # Its place
//!
//! A thin layer over the generated client: settings ([`ClientBuilder`]), the calls ([`SecretClient`]), retries and
//! [`Error`]. The messages are those of the wire, re-exported as [`secret::v1`].
//!
//! Deliberately absent: checks of what a request asks for (the server's rules are the only ones), caches of values, and
//! anything that prints or logs.

mod cause;
mod client;
mod error;
mod retry;
pub mod secret;
mod settings;
mod tls;

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
