//! Logs, on standard error: JSON for machines, readable on a terminal. And, in [`traces`], spans of calls.
//!
//! What is logged: ids, reasons, names of ours, and errors of the parts, whose texts are built without content. What is
//! never logged: values, keys, DEKs, KEKs, names of secrets, request bodies, headers.

#[cfg(feature = "otlp")]
pub(crate) mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/untraced.rs"]
pub(crate) mod traces;

use std::fmt;
use std::future::Future;
use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

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
        [
            "agentrouter_secrets",
            "agentrouter_instance",
            "agentrouter_maintenance",
            "agentrouter_service",
            "agentrouter_sqlite",
            "agentrouter_postgres",
            "agentrouter_audit",
        ]
        .map(|target| (target, settings.log_level)),
    );
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = tracing_subscriber::fmt::format();
    let layer = if json {
        let format = format.json().flatten_event(true).with_current_span(false).with_span_list(false);
        layer.fmt_fields(JsonFields::new()).event_format(Json(format)).boxed()
    } else {
        let format = Pretty(format.with_target(false));
        layer.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).event_format(format).boxed()
    };
    // A second start (in tests) keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
}

tokio::task_local! {
    /// The request that is being handled.
    static REQUEST: Arc<str>;
}

/// Has what `work` logs bear the request's id.
///
/// In place of a span: one would be made and written out for every call, and read by the few that log anything. (Measured:
/// 5 % of a read.)
pub(crate) fn within<F: Future>(request_id: Arc<str>, work: F) -> impl Future<Output = F::Output> {
    REQUEST.scope(request_id, work)
}

/// A line of JSON, with the request's id as its last member.
struct Json<F>(F);

impl<S, N, F> FormatEvent<S, N> for Json<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        match (REQUEST.try_get(), line.strip_suffix("}\n")) {
            // The id is hexadecimal digits of ours.
            (Ok(id), Some(line)) => writeln!(writer, "{line},\"request_id\":\"{id}\"}}"),
            _ => writer.write_str(&line),
        }
    }
}

/// A line for people, with the request's id before it.
struct Pretty<F>(F);

impl<S, N, F> FormatEvent<S, N> for Pretty<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if let Ok(id) = REQUEST.try_get() {
            write!(writer, "{id} ")?;
        }
        self.0.format_event(ctx, writer, event)
    }
}
