//! The one port: from a connection to an answer.
//!
//! ```text
//! listener ─ connection, TLS, head ─► app ─ route ─► admission ─► gate (key, rate, scope, body) ─► rest │ connect ─► service
//! ```
//! The gate stands before every call of every transport; `rest` and `connect` only translate. What a transport refuses
//! by itself (a body that cannot be read) is put on record here, and its words are replaced by ours, since a library's
//! message may repeat what was sent.

mod admission;
#[path = "respond.rs"]
mod answer;
mod app;
mod body;
mod connect;
#[path = "head/cors.rs"]
mod cors;
mod downloads;
mod gate;
mod health;
mod listener;
#[path = "head/media.rs"]
mod media;
mod pages;
#[path = "peer.rs"]
mod proxies;
#[path = "gate/rates.rs"]
mod rates;
mod rest;
#[path = "head/route.rs"]
mod route;

pub(crate) use admission::{Admission, Shed};
pub(crate) use app::App;
pub(crate) use body::Answer;
pub(crate) use listener::Listener;
pub(crate) use route::Dialect;
