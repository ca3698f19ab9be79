//! The generated messages, service trait and (with the feature `client`) client, in modules named like the packages.
//!
//! `build.rs` generates them from `proto/api.proto`. Do not edit them.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::too_many_lines,
    rust_2018_idioms
)]

connectrpc::include_generated!("wire.rs");
