#![doc = include_str!("../README.md")]
//!
//! # Structure
//!
//! A thin layer over the generated client: settings ([`ClientBuilder`]), the calls ([`SecretClient`]), retries, [`Error`],
//! and a cache of values ([`Secrets`]). The messages are the generated ones, exported as [`secret::v1`].
//!
//! [`testing`] has a service in memory for the tests of programs.
//!
//! Deliberately absent: checks of requests, because the server has the rules, and anything that prints or writes to a disk.

mod cache;
mod cause;
mod client;
mod error;
mod proxy;
mod retry;
pub mod secret;
mod settings;
#[cfg(test)]
mod tables;
pub mod testing;
mod tls;
mod transport;

pub use cache::{SecretValue, Secrets, SecretsBuilder};
pub use cause::Cause;
pub use client::{Client, ClientBuilder};
/// The kind of an error: a gRPC and Connect status code.
pub use connectrpc::ErrorCode as Code;
pub use error::{Error, FieldViolation, Refusal, reason};
pub use secret::SecretClient;
pub use settings::ConfigError;
pub use transport::BoxError;

/// The well-known protobuf types that the messages use.
pub mod types {
    pub use buffa::MessageField;
    pub use buffa_types::google::protobuf::{Duration, FieldMask, Timestamp};
}
