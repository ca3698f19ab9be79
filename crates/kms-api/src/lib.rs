//! The Kubernetes KMS v2 API: gRPC between a program that holds wrapped keys and a KMS plugin, over a Unix socket.
//!
//! `v2.KeyManagementService` has three calls. `Status` says whether the plugin works and which root key it wraps with,
//! `Encrypt` wraps, and `Decrypt` unwraps. Plugins for the usual KMSs exist, and this project has its own.
//!
//! With the feature `client` there is [`client::Plugin`], which calls a plugin. With the feature `server` there is
//! [`server::serve`], with which a plugin serves. The messages and the trait of the service are generated: [`wire::v2`].
//!
//! Deliberately absent: retries, and any policy about keys.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod server;
pub mod wire;

/// The version that a plugin reports. Plugins of the time before the first stable version report `v2beta1`.
pub const VERSION: &str = "v2";

/// The `healthz` of a plugin that works.
pub const HEALTHY: &str = "ok";

/// The largest ciphertext and the largest key id of the API, in bytes.
pub const MAX_FIELD: usize = 1024;

/// The largest annotations of the API: the sum of all names and values, in bytes.
pub const MAX_ANNOTATIONS: usize = 32 * 1024;
