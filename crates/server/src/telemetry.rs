//! Logs, on standard error: JSON for machines, readable on a terminal. And, in [`traces`], spans of calls.
//!
//! What is logged: ids, reasons, names of ours, and errors of the parts, whose texts are built without content. What is
//! never logged: values, keys, DEKs, KEKs, names of secrets, request bodies, headers.

#[cfg(feature = "otlp")]
pub(crate) mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/untraced.rs"]
pub(crate) mod traces;

use std::io::IsTerminal as _;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::settings::{LogFormat, Settings};

/// Starts logging. Other crates' logs are kept to warnings: at finer levels some of them show what they transport.
pub(crate) fn start(settings: &Settings) {
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Pretty => false,
    };
    let warn = tracing::level_filters::LevelFilter::WARN;
    let targets = Targets::new().with_default(warn.min(settings.log_level)).with_targets(
        ["agentrouter_secrets", "agentrouter_service", "agentrouter_store", "agentrouter_audit"]
            .map(|target| (target, settings.log_level)),
    );
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = if json {
        layer.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        layer.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).with_target(false).boxed()
    };
    // A second start (in tests) keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
}
