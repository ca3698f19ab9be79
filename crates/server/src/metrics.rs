//! What is counted, and `/metrics` in the text format of OpenMetrics.
//!
//! Labels are names of ours only: no user, realm, secret or key gets into a metric.

use std::sync::{Arc, OnceLock};

use agentrouter_lease::{LeaseStats, WAIT_BUCKETS};
use agentrouter_model::{Reason, Rpc};
use agentrouter_service::Service;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::http::{Admission, Answer, Dialect, Shed};
use crate::telemetry::traces;

/// From 25 µs to 2.5 s: a read from memory is at the lower end, a stuck disk at the upper.
const BUCKETS: [f64; 16] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5,
];

/// What there is an alarm about the first time it happens, and so a number from the start: a rate cannot be taken of one
/// that was not there before.
const ALARMING: [Reason; 4] =
    [Reason::StoreUnavailable, Reason::Internal, Reason::SecretCorrupt, Reason::Overloaded];

/// What calls end with in numbers when there are too many.
const OVERLOADED: &str = Reason::Overloaded.as_str();

/// What a call came by.
const REST: &str = "rest";
const RPC: &str = "rpc";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc: &'static str,
    transport: &'static str,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShedLabels {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    rpc: &'static str,
}

/// The counters of calls, and where the others are read from.
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    durations: Family<RpcLabels, Histogram, fn() -> Histogram>,
    /// Calls that were shed, in the order of [`Shed::ALL`].
    shed: [Counter; Shed::ALL.len()],
    /// What calls count in, by RPC; found once and not by labels each time, which would be 3 % of a read.
    granted: [Granted; Rpc::ALL.len()],
}

/// See [`Metrics::granted`].
#[derive(Default)]
struct Granted {
    rest: OnceLock<Counter>,
    rpc: OnceLock<Counter>,
    durations: OnceLock<Histogram>,
    overloaded: [OnceLock<Counter>; 2],
}

/// How long a call took, and the span that will say so, if somebody collects them.
pub(crate) struct Timer {
    start: tokio::time::Instant,
    span: Option<Box<traces::Begun>>,
}

impl Timer {
    pub(crate) fn begin(headers: &HeaderMap, request_id: &Arc<str>) -> Self {
        Self { start: tokio::time::Instant::now(), span: traces::begin(headers, request_id).map(Box::new) }
    }

    /// When the call's head came.
    pub(crate) fn start(&self) -> tokio::time::Instant {
        self.start
    }
}

impl Metrics {
    pub(crate) fn new(service: Arc<Service>, admission: Arc<Admission>) -> Self {
        let calls = Family::<CallLabels, Counter>::default();
        let durations: Family<RpcLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let mut registry = Registry::with_prefix("agentrouter_secrets");
        registry.register(
            "build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "calls",
            "Calls by how they ended; reason OK for those that were granted",
            calls.clone(),
        );
        registry.register_with_unit(
            "call_duration",
            "Time from a call's head to its answer's head",
            Unit::Seconds,
            durations.clone(),
        );
        let sheds = Family::<ShedLabels, Counter>::default();
        let shed = Shed::ALL.map(|why| sheds.get_or_create_owned(&ShedLabels { why: why.as_str() }));
        registry.register(
            "shed_calls",
            "Calls refused with OVERLOADED: over limit.requests, after waiting too long for a turn or a place, or as too many wait",
            sheds,
        );
        registry.register_collector(Box::new(Inner(service, admission)));
        for rpc in Rpc::ALL {
            for transport in [REST, RPC] {
                for reason in ALARMING {
                    let reason = reason.as_str().to_owned();
                    calls.get_or_create_owned(&CallLabels { rpc: rpc.as_str(), transport, reason });
                }
            }
        }
        Self { registry, calls, durations, shed, granted: Default::default() }
    }

    /// Counts why a call was shed, beside [`Metrics::call`].
    pub(crate) fn shed(&self, why: Shed) {
        self.shed[why as usize].inc();
    }

    /// Counts a call; `reason` is none for one that was granted.
    pub(crate) fn call(&self, rpc: Rpc, dialect: Dialect, reason: Option<&str>, timer: &Timer) {
        let granted = &self.granted[rpc as usize];
        let (transport, counter) = match dialect {
            Dialect::Rest => (REST, &granted.rest),
            Dialect::Connect => (RPC, &granted.rpc),
        };
        let count = |reason: &str| {
            let labels = CallLabels { rpc: rpc.as_str(), transport, reason: reason.to_owned() };
            self.calls.get_or_create_owned(&labels)
        };
        match reason {
            None => counter.get_or_init(|| count("OK")).inc(),
            Some(reason) if reason == OVERLOADED => {
                granted.overloaded[dialect as usize].get_or_init(|| count(reason)).inc()
            }
            Some(reason) => count(reason).inc(),
        };
        let duration = || self.durations.get_or_create_owned(&RpcLabels { rpc: rpc.as_str() });
        let elapsed = timer.start.elapsed();
        granted.durations.get_or_init(duration).observe(elapsed.as_secs_f64());
        if let Some(span) = &timer.span {
            span.end(rpc, transport, reason.unwrap_or("OK"), elapsed);
        }
    }

    /// `/metrics`
    pub(crate) fn answer(&self) -> Response<Answer> {
        let mut text = String::with_capacity(8 * 1024);
        let encoded = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        let mut response = Response::new(Answer::new(text));
        if encoded.is_err() {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        );
        response
    }
}

/// The counters that the parts keep themselves, read when somebody asks.
struct Inner(Arc<Service>, Arc<Admission>);

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inner")
    }
}

impl Collector for Inner {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let service = self.0.stats();
        let audit = self.0.audit().stats();
        let store = self.0.store().stats();
        let counters = [
            ("cache_hits", "Reads that found their row in memory", service.cache_hits),
            ("cache_misses", "Reads that went to the store", service.cache_misses),
            (
                "unreadable_versions",
                "Reads of versions that did not open; any is an alarm",
                service.unreadable,
            ),
            ("audit_records", "Audit records written", audit.records),
            ("audit_writes", "Writes to the audit log, each of one or more records", audit.writes),
            ("audit_fsyncs", "Times the audit log was brought to disk", audit.fsyncs),
            ("audit_failures", "Audit records that could not be written; any is an alarm", audit.failures),
            ("store_commits", "Transactions committed, each of one or more writes", store.commits),
            ("store_writes", "Writes committed", store.writes),
        ];
        for (name, help, value) in counters {
            ConstCounter::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        if let Some(lease) = self.0.store().lease() {
            encode_lease(&mut encoder, &lease)?;
        }
        let gauges = [
            ("cache_rows", "Rows in memory", service.cached_rows),
            ("cache_bytes", "Weight of the rows in memory, in bytes", service.cached_bytes),
            ("audit_owed_records", "Outcome records that wait for the audit log", service.owed_records),
            ("waiting_calls", "Calls that wait to begin, as the server is busy", self.1.waiting() as u64),
        ];
        for (name, help, value) in gauges {
            // Far below 2⁶³, as any size of a process's memory.
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

/// How a replica of several stands with the others.
fn encode_lease(encoder: &mut DescriptorEncoder<'_>, lease: &LeaseStats) -> Result<(), std::fmt::Error> {
    let remaining = encoder.encode_descriptor(
        "lease_remaining",
        "How long this server may still answer from memory unless it renews its lease; 0 is an alarm",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    ConstGauge::new(lease.remaining.as_secs_f64()).encode(remaining)?;
    let standing = i64::try_from(lease.standing).unwrap_or(i64::MAX);
    ConstGauge::new(standing).encode(encoder.encode_descriptor(
        "lease_fences_outstanding",
        "Changes in progress on all servers, as this one last saw it",
        None,
        MetricType::Gauge,
    )?)?;
    let counters = [
        ("lease_renewals", "Renewals of the lease", lease.renewals),
        (
            "lease_registrations",
            "Registrations, each with an empty memory; more than one a start is an alarm",
            lease.registrations,
        ),
        ("lease_fences", "Fences that this server put around what it changes", lease.fences),
        (
            "lease_removals",
            "Servers that did not answer, whose lease was waited out and ended; any is an alarm",
            lease.removed,
        ),
    ];
    for (name, help, value) in counters {
        let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(descriptor)?;
    }
    let bounds = WAIT_BUCKETS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(lease.waits).collect();
    let mut waits = encoder.encode_descriptor(
        "lease_confirmation",
        "Time from a fence until all servers had confirmed it or were removed",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    waits.encode_histogram::<NoLabelSet>(lease.waited.as_secs_f64(), lease.waits.iter().sum(), &buckets, None)
}
