//! The one port: from a connection to a response. A request enters each file once, in this order:
//!
//! ```text
//! listener ─► app ─► head ─────────► limiter ─► gate ───────────────► body ─► rest │ connect ─► service
//!  (peer,      │     (route, media,              (rates: key, rate,   (frame)       │
//!  connections)│      cors)                       scope)                            ▼
//!              └──► pages, health ───────────────────────────────────────────────► respond
//! ```
//!
//! The limiter and the gate stand before every operation of every transport. `rest` and `connect` only translate.

mod app;
mod arriving;
mod body;
mod connect;
mod connections;
mod gate;
mod head;
mod health;
mod limiter;
mod listener;
mod pages;
mod peer;
mod respond;
mod rest;
mod socket;

pub(crate) use app::App;
pub(crate) use connections::{Connections, Why};
pub(crate) use gate::rates::Rates;
pub(crate) use head::dialect::Dialect;
pub(crate) use limiter::{Limiters, Shed};
pub(crate) use listener::Listener;
pub(crate) use respond::{HttpResponse, ResponseBody};
