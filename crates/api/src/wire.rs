//! The generated messages, service trait and (with the feature `client`) client, in modules named like the packages.
//!
//! Never edited: `build.rs` makes them from `proto/`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::too_many_lines,
    rust_2018_idioms
)]

connectrpc::include_generated!("wire.rs");
