//! The text of `/metrics` in its two formats, and which one a scraper gets.
//!
//! OpenMetrics goes to scrapers that accept it. All others get the text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). It has no type "info" and no unit, and the name of a
//! counter's type is that of its sample.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY};
use prometheus_client::registry::Registry;

use crate::http::{HttpResponse, ResponseBody};

const OPENMETRICS: &str = "application/openmetrics-text";

/// The text in both formats.
pub(super) struct Exposition {
    openmetrics: String,
    classic: String,
}

/// The text in one format.
struct ExpositionText(Arc<Exposition>, fn(&Exposition) -> &str);

impl AsRef<[u8]> for ExpositionText {
    fn as_ref(&self) -> &[u8] {
        (self.1)(&self.0).as_bytes()
    }
}

impl Exposition {
    /// # Errors
    /// When a metric cannot be encoded.
    pub(super) fn of(registry: &Registry) -> Result<Self, fmt::Error> {
        let mut openmetrics = String::with_capacity(8 * 1024);
        prometheus_client::encoding::text::encode(&mut openmetrics, registry)?;
        let classic = classic(&openmetrics)?;
        Ok(Self { openmetrics, classic })
    }

    /// The format that `headers` accept. The response holds the text until it is sent.
    pub(super) fn response(self: Arc<Self>, headers: &HeaderMap) -> HttpResponse {
        let (text, kind) = if accepts_openmetrics(headers) {
            let text = ExpositionText(self, |exposition| &exposition.openmetrics);
            (text, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        } else {
            (
                ExpositionText(self, |exposition| &exposition.classic),
                "text/plain; version=0.0.4; charset=utf-8",
            )
        };
        let mut response = HttpResponse::new(ResponseBody::shared(Bytes::from_owner(text)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        response
    }
}

/// Whether one of the accepted media types (RFC 9110, §12.5.1) is OpenMetrics, and not with weight 0.
fn accepts_openmetrics(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    ranges.flat_map(|accept| accept.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_openmetrics = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(OPENMETRICS));
        let is_refused = |part: &str| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse() == Ok(0.0_f32))
        };
        is_openmetrics && !parts.any(is_refused)
    })
}

/// Turns the text of OpenMetrics into that of version 0.0.4.
fn classic(openmetrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(openmetrics.len());
    // The description comes before the type, on which its name depends.
    let mut help = None;
    for line in openmetrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            writeln!(text, "{line}")?;
            continue;
        };
        match comment.split_once(' ') {
            Some(("HELP", described)) => help = described.split_once(' '),
            Some(("TYPE", typed)) => {
                let (name, kind) = typed.split_once(' ').unwrap_or((typed, "untyped"));
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, description)) = help.take() {
                    writeln!(text, "# HELP {name}{suffix} {description}")?;
                }
                writeln!(text, "# TYPE {name}{suffix} {kind}")?;
            }
            // The unit is part of the name, and the end is not marked.
            _ => {}
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_format_has_no_info_and_counters_by_the_names_of_their_samples() {
        let openmetrics = "# HELP x_build The version.\n# TYPE x_build info\nx_build_info{version=\"1\"} 1\n\
            # HELP x_calls Requests.\n# TYPE x_calls counter\nx_calls_total{rpc=\"A\"} 3\n\
            # HELP x_time_seconds Time.\n# TYPE x_time_seconds histogram\n# UNIT x_time_seconds seconds\n\
            x_time_seconds_sum 0.5\nx_time_seconds_count 1\nx_time_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP x_rows Rows.\n# TYPE x_rows gauge\nx_rows 7\n# EOF\n";
        let expected = "# HELP x_build_info The version.\n# TYPE x_build_info gauge\nx_build_info{version=\"1\"} 1\n\
            # HELP x_calls_total Requests.\n# TYPE x_calls_total counter\nx_calls_total{rpc=\"A\"} 3\n\
            # HELP x_time_seconds Time.\n# TYPE x_time_seconds histogram\n\
            x_time_seconds_sum 0.5\nx_time_seconds_count 1\nx_time_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP x_rows Rows.\n# TYPE x_rows gauge\nx_rows 7\n";
        assert_eq!(classic(openmetrics).as_deref(), Ok(expected));
    }

    #[test]
    fn only_scrapers_that_accept_openmetrics_get_it() {
        let accepts = |values: &[&str]| {
            let headers = values.iter().map(|value| (ACCEPT, value.parse().expect("a value"))).collect();
            accepts_openmetrics(&headers)
        };
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for open in [&[prometheus][..], &["text/plain", "Application/OpenMetrics-Text; q=0.001"]] {
            assert!(accepts(open), "{open:?}");
        }
        for classic in [
            &[][..],
            &["*/*"],
            &["text/plain;version=0.0.4"],
            &["application/*"],
            &["application/openmetrics-text; version=1.0.0; q=0"],
            &["application/openmetrics-text;q=0.000", "text/html"],
        ] {
            assert!(!accepts(classic), "{classic:?}");
        }
    }
}
