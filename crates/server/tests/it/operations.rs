//! What an operator sees of the server: probes, metrics, pages, logs, traces, and how it stops.

mod cors;
mod damage;
mod health;
mod logs;
mod metrics;
mod pages;
mod shutdown;
mod traces;
