//! The one port: from a connection to an answer.
//!
//! ```text
//! listener ─ connection, TLS, head ─► app ─ route ─► admission ─► gate (key, rate, scope, body) ─► rest │ connect ─► service
//! ```
//! The gate stands before every call of every transport; `rest` and `connect` only translate. What a transport refuses
//! by itself (a body that cannot be read) is put on record here, and its words are replaced by ours, since a library's
//! message may repeat what was sent.

mod admission;
mod answer;
mod app;
mod body;
mod connect;
mod cors;
mod downloads;
mod gate;
mod health;
mod listener;
mod media;
mod pages;
mod proxies;
mod rates;
mod rest;
mod route;

pub(crate) use admission::{Admission, Shed};
pub(crate) use app::App;
pub(crate) use body::Answer;
pub(crate) use listener::Listener;
pub(crate) use route::Dialect;
