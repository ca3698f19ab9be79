//! Logs on standard error (JSON, or plain text on a terminal), and in [`traces`] the spans of API requests.
//!
//! [`lines`] bounds the lines that wait to be written. [`clients`] bounds the lines that a client causes.
//!
//! Logged: ids, reasons, names from this program, and errors whose texts are built without content. Never logged: values,
//! API keys, DEKs, KEKs, names of secrets, request bodies, headers.

#[cfg(feature = "otlp")]
pub(crate) mod audit_logs;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/unshipped.rs"]
pub(crate) mod audit_logs;
pub(crate) mod clients;
pub(crate) mod lines;
#[cfg(feature = "otlp")]
pub(crate) mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/untraced.rs"]
pub(crate) mod traces;

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::Arc;

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TraceState};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::lines::Lines;
use crate::settings::{LogFormat, Settings};

/// The log. Dropped at the end of a command, it writes the lines that still wait.
#[derive(Clone)]
pub(crate) struct Log(Arc<Lines>);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Starts logging. Libraries log errors only: below that level some of them log client data, as often as it is sent.
///
/// # Errors
/// When the thread that writes the log cannot be started.
pub(crate) fn start(settings: &Settings) -> std::io::Result<Log> {
    clients::limit(settings.log_client_rate);
    let lines = Lines::to(std::io::stderr(), settings.log_buffer)?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Pretty => false,
    };
    let error = tracing::level_filters::LevelFilter::ERROR;
    let targets = Targets::new().with_default(error.min(settings.log_level)).with_targets(
        [
            "agentrouter_secrets",
            "agentrouter_instance",
            "agentrouter_maintenance",
            "agentrouter_identity",
            "agentrouter_service",
            "agentrouter_sqlite",
            "agentrouter_postgres",
            "agentrouter_audit",
        ]
        .map(|target| (target, settings.log_level)),
    );
    let layer = tracing_subscriber::fmt::layer().with_writer(Arc::clone(&lines));
    let format = tracing_subscriber::fmt::format();
    let layer = if json {
        let format = format.json().flatten_event(true).with_current_span(false).with_span_list(false);
        layer.fmt_fields(JsonFields::new()).event_format(WithRequestId { format, json }).boxed()
    } else {
        let format = WithRequestId { format: format.with_target(false), json };
        layer.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).event_format(format).boxed()
    };
    // A second start, in tests, keeps the subscriber of the first.
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
    Ok(Log(lines))
}

/// The URL of the collector at `endpoint` for the signal at `path`, which `endpoint` may contain.
#[cfg(feature = "otlp")]
fn collector_url(endpoint: &str, path: &str) -> String {
    let url = endpoint.trim_end_matches('/');
    if url.ends_with(path) { url.to_owned() } else { format!("{url}{path}") }
}

/// The caller's span, from the W3C `traceparent` header. Its `tracestate` is dropped: text of the caller is not exported.
pub(crate) fn remote_parent(headers: &HeaderMap) -> Option<SpanContext> {
    // Most requests have none, and the propagator allocates.
    headers.get("traceparent")?;
    let extracted =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
    let span = extracted.span();
    let parent = span.span_context();
    parent.is_valid().then(|| {
        SpanContext::new(parent.trace_id(), parent.span_id(), parent.trace_flags(), true, TraceState::NONE)
    })
}

/// A format with the request's id: the last member of a line of JSON, the first word of a plain one.
struct WithRequestId<F> {
    format: F,
    json: bool,
}

impl<S, N, F> FormatEvent<S, N> for WithRequestId<F>
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
        if !clients::may_log() {
            return Ok(());
        }
        // The id is hexadecimal digits.
        match clients::request_id() {
            None => self.format.format_event(ctx, writer, event),
            Some(id) if self.json => {
                let mut line = String::new();
                self.format.format_event(ctx, Writer::new(&mut line), event)?;
                match line.strip_suffix("}\n") {
                    Some(members) => writeln!(writer, "{members},\"request_id\":\"{id}\"}}"),
                    None => writer.write_str(&line),
                }
            }
            Some(id) => {
                write!(writer, "{id} ")?;
                self.format.format_event(ctx, writer, event)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent_of(traceparent: &str) -> Option<SpanContext> {
        let tracestate = ("tracestate".parse().expect("a name"), "canary=1".parse().expect("a value"));
        let traceparent = ("traceparent".parse().expect("a name"), traceparent.parse().expect("a value"));
        remote_parent(&[traceparent, tracestate].into_iter().collect())
    }

    #[test]
    fn a_well_formed_traceparent_is_the_parent_and_its_tracestate_is_dropped() {
        let parent =
            parent_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").expect("well-formed");
        assert_eq!(parent.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id().to_string(), "00f067aa0ba902b7");
        assert!(parent.is_sampled() && parent.is_remote());
        assert_eq!(parent.trace_state().header(), "");
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        for wrong in [
            "",
            "canary",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(parent_of(wrong).is_none(), "{wrong}");
        }
    }
}
