//! Integration tests of the server: the binary on a free port of the loopback interface.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod audit;
mod authorization;
mod bad_input;
mod cases;
mod cli;
mod commands;
mod concurrency;
mod crash;
mod documentation;
mod limits;
mod operations;
mod postgres;
mod reference;
mod replicas;
mod support;
mod tls;
mod web_text;
