//! The server as an operator sees it: probes, metrics, pages, logs, traces, and shutdown.

mod clock;
mod cors;
mod damage;
mod health;
mod logs;
mod memory;
mod metrics;
mod pages;
mod probe;
mod shutdown;
mod sweep;
mod traces;
mod unix_socket;
