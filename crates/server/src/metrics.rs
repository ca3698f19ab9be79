//! Metrics: counters of requests, and `/metrics` in the text formats of Prometheus and OpenMetrics.
//!
//! Responses share the text while one of them is not sent, for a second at most. So scrapes that are not read hold little
//! memory, and one after another is up to date.
//!
//! Label values are constants of this program, names of issuers, and ids of KEKs. No user, realm, secret or API key is in a
//! metric.

mod expiries;
mod exposition;

pub(crate) use expiries::Expiries;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use agentrouter_instance::kek::RECHECKS;
use agentrouter_lease::{LeaseStats, WAIT_BUCKETS};
use agentrouter_model::{Reason, Rpc};
use agentrouter_service::{Service, Stats};
use http::{HeaderMap, StatusCode};
use opentelemetry::trace::SpanContext;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::exposition::Exposition;
use crate::anchors::COUNTS;
use crate::http::{Connections, Dialect, HttpResponse, Limiters, Rates, Shed, Why};
use crate::telemetry::{audit_logs, clients, lines, traces};

/// From 25 µs to 2.5 s: a cache hit is at the lower end, a stuck disk at the upper.
const BUCKETS: [f64; 16] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5,
];

/// How long responses share the text of `/metrics`.
const FRESH: Duration = Duration::from_secs(1);

/// The reasons with an alert on their first occurrence. They are exported from the start: a rate needs a value before.
const ALARMING: [Reason; 4] =
    [Reason::StoreUnavailable, Reason::Internal, Reason::SecretCorrupt, Reason::Overloaded];

/// The label of a call's transport.
const REST: &str = "rest";
const RPC: &str = "rpc";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc: &'static str,
    transport: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabels {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KekLabels {
    kek: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    rpc: &'static str,
}

/// The counters of requests, and the registry of all metrics.
pub(crate) struct Metrics {
    registry: Registry,
    /// The last text of `/metrics` as long as a response holds it, and when it was made.
    text: Mutex<Option<(tokio::time::Instant, Weak<Exposition>)>>,
    calls: Family<CallLabels, Counter>,
    durations: Family<RpcLabels, Histogram, fn() -> Histogram>,
    /// Requests that were shed, in the order of [`Shed::ALL`].
    shed: [Counter; Shed::ALL.len()],
    /// The counters of common outcomes, by RPC. They are looked up once, and not by labels for each request.
    common: [Common; Rpc::ALL.len()],
}

/// See [`Metrics::common`].
#[derive(Default)]
struct Common {
    rest: OnceLock<Counter>,
    rpc: OnceLock<Counter>,
    durations: OnceLock<Histogram>,
    overloaded: [OnceLock<Counter>; 2],
}

/// The start of a request, and its span if a collector is configured.
pub(crate) struct Timer {
    start: tokio::time::Instant,
    span: Option<Box<traces::SpanStart>>,
}

impl Timer {
    pub(crate) fn begin(parent: Option<&SpanContext>, request_id: &Arc<str>) -> Self {
        Self { start: tokio::time::Instant::now(), span: traces::begin(parent, request_id).map(Box::new) }
    }

    /// When the request's head arrived.
    pub(crate) fn start(&self) -> tokio::time::Instant {
        self.start
    }
}

impl Metrics {
    pub(crate) fn new(
        service: Arc<Service>,
        limiters: Arc<Limiters>,
        connections: Arc<Connections>,
        rates: Arc<Rates>,
        expiries: Arc<Expiries>,
    ) -> Self {
        let calls = Family::<CallLabels, Counter>::default();
        let durations: Family<RpcLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let mut registry = Registry::with_prefix("agentrouter_secrets");
        registry.register(
            "build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("calls", "API requests by reason; OK for those that were granted", calls.clone());
        registry.register_with_unit(
            "call_duration",
            "Time from the head of an API request to the head of its response",
            Unit::Seconds,
            durations.clone(),
        );
        let sheds = Family::<WhyLabels, Counter>::default();
        let shed = Shed::ALL.map(|why| sheds.get_or_create_owned(&WhyLabels { why: why.as_str() }));
        registry.register(
            "shed_calls",
            "API requests rejected with OVERLOADED: more than limit.requests, no permit in time, or a full queue",
            sheds,
        );
        registry.register_collector(Box::new(Inner(service, limiters, connections, rates)));
        registry.register_collector(Box::new(expiries::Gauges(expiries)));
        for rpc in Rpc::ALL {
            for transport in [REST, RPC] {
                for reason in ALARMING {
                    let labels = CallLabels { rpc: rpc.as_str(), transport, reason: reason.as_str() };
                    calls.get_or_create_owned(&labels);
                }
            }
        }
        Self { registry, text: Mutex::default(), calls, durations, shed, common: Default::default() }
    }

    /// Counts why a request was shed, beside [`Metrics::call`].
    pub(crate) fn shed(&self, why: Shed) {
        self.shed[why as usize].inc();
    }

    /// Counts a request. `reason` is `None` for one that succeeded.
    pub(crate) fn call(&self, rpc: Rpc, dialect: Dialect, reason: Option<Reason>, timer: &Timer) {
        let common = &self.common[rpc as usize];
        let (transport, counter) = match dialect {
            Dialect::Rest => (REST, &common.rest),
            Dialect::Connect => (RPC, &common.rpc),
        };
        let count = |reason| {
            let labels = CallLabels { rpc: rpc.as_str(), transport, reason };
            self.calls.get_or_create_owned(&labels)
        };
        match reason {
            None => counter.get_or_init(|| count("OK")).inc(),
            Some(Reason::Overloaded) => {
                let overloaded = || count(Reason::Overloaded.as_str());
                common.overloaded[dialect as usize].get_or_init(overloaded).inc()
            }
            Some(reason) => count(reason.as_str()).inc(),
        };
        let duration = || self.durations.get_or_create_owned(&RpcLabels { rpc: rpc.as_str() });
        let elapsed = timer.start.elapsed();
        common.durations.get_or_init(duration).observe(elapsed.as_secs_f64());
        if let Some(span) = &timer.span {
            span.end(rpc, transport, reason, elapsed);
        }
    }

    /// `/metrics`, in the format that `headers` accept.
    pub(crate) fn response(&self, headers: &HeaderMap) -> HttpResponse {
        match self.exposition() {
            Ok(exposition) => exposition.response(headers),
            Err(std::fmt::Error) => {
                let mut response = HttpResponse::default();
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }

    fn exposition(&self) -> Result<Arc<Exposition>, std::fmt::Error> {
        let now = tokio::time::Instant::now();
        let mut text = self.text.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = text.as_ref().filter(|(made, _)| now.duration_since(*made) < FRESH);
        if let Some(shared) = fresh.and_then(|(_, exposition)| exposition.upgrade()) {
            return Ok(shared);
        }
        let exposition = Arc::new(Exposition::of(&self.registry)?);
        *text = Some((now, Arc::downgrade(&exposition)));
        Ok(exposition)
    }
}

/// The counters that other crates keep, read for each scrape.
struct Inner(Arc<Service>, Arc<Limiters>, Arc<Connections>, Arc<Rates>);

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
            ("unreadable_versions", "Reads of versions that did not open; alert on any", service.unreadable),
            ("refused_rows", "Rows that are not authentic and were refused; alert on any", store.refused),
            ("audit_records", "Audit records written", audit.records),
            ("audit_writes", "Writes to the audit log, each of one or more records", audit.writes),
            ("audit_fsyncs", "Calls of fsync on the audit log", audit.fsyncs),
            ("audit_failures", "Audit records that could not be written; alert on any", audit.failures),
            (
                "audit_checkpoints",
                "Checkpoints of the audit log that a target took",
                COUNTS.kept.load(Ordering::Relaxed),
            ),
            (
                "audit_checkpoint_failures",
                "Checkpoints of the audit log that a target did not take; alert if it rises",
                COUNTS.failed.load(Ordering::Relaxed),
            ),
            ("audit_shipped", "Audit records that the collector took", audit_logs::shipped()),
            ("store_commits", "Transactions committed, each of one or more writes", store.commits),
            ("store_writes", "Writes committed", store.writes),
            (
                "connections_refused",
                "Connections refused because too many waited above limit.connections",
                self.2.refused(),
            ),
            (
                "audit_unrecorded",
                "Rejected requests without an audit record, by the limits on records",
                self.3.unrecorded(),
            ),
            ("log_lines_dropped", "Log lines dropped because nothing read them in time", lines::dropped()),
            (
                "log_lines_suppressed",
                "Log lines not written because their client was over log.client-rate",
                clients::suppressed(),
            ),
        ];
        for (name, help, value) in counters {
            ConstCounter::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let mut closed = encoder.encode_descriptor(
            "connections_closed",
            "Connections that the server closed, by its reason",
            None,
            MetricType::Counter,
        )?;
        for why in Why::ALL {
            let labels = WhyLabels { why: why.as_str() };
            ConstCounter::new(self.2.closed(why)).encode(closed.encode_family(&labels)?)?;
        }
        let behind = encoder.encode_descriptor(
            "clock_behind",
            "How far the machine's clock was set back behind the latest time that the server has seen; alert above 1",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.0.clock().behind().as_secs_f64()).encode(behind)?;
        encode_custody(&mut encoder, &self.0, &service)?;
        encode_issuers(&mut encoder, &self.0)?;
        if let Some(lease) = self.0.store().lease() {
            encode_lease(&mut encoder, &lease)?;
        }
        let gauges = [
            ("cache_rows", "Rows in memory", service.cached_rows),
            ("cache_bytes", "Weight of the rows in memory, in bytes", service.cached_bytes),
            ("audit_owed_records", "Outcome records that wait for the audit log", service.owed_records),
            (
                "audit_broken",
                "1 if the audit log was found truncated, or its head missing or forged; alert on it",
                u64::from(self.0.audit().chain_broken() || !self.0.audit().head_faults().is_empty()),
            ),
            (
                "audit_head_failing",
                "1 if the head of the audit log could not be kept the last time; alert on it",
                u64::from(!self.0.head_failing().is_zero()),
            ),
            ("waiting_calls", "API requests that wait for a permit", self.1.waiting() as u64),
            ("connections", "Open connections", self.2.open() as u64),
            ("unsent_bytes", "Bytes of responses that clients have not read yet", self.2.unsent() as u64),
        ];
        for (name, help, value) in gauges {
            // A count or a size in memory is far below 2⁶³.
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

/// The KEKs, their root key, and whether everything opens with them.
fn encode_custody(
    encoder: &mut DescriptorEncoder<'_>,
    service: &Service,
    stats: &Stats,
) -> Result<(), std::fmt::Error> {
    encode_keks(encoder, stats)?;
    encode_root_key(encoder, service)?;
    encode_sweep(encoder, service)
}

/// The KEKs, and the rewrapping of keys.
fn encode_keks(encoder: &mut DescriptorEncoder<'_>, service: &Stats) -> Result<(), std::fmt::Error> {
    let counters = [
        ("kek_rewrap_keys", "Keys wrapped with the active KEK by 'kek rewrap'", service.rewrapped),
        ("kek_rewrap_resealed", "Values sealed again under a new DEK", service.resealed),
        ("kek_rewrap_failed", "Keys that 'kek rewrap' could not unwrap; alert on any", service.unrewrapped),
    ];
    for (name, help, value) in counters {
        ConstCounter::new(value).encode(encoder.encode_descriptor(
            name,
            help,
            None,
            MetricType::Counter,
        )?)?;
    }
    let gauges = [
        (
            "kek_missing",
            "1 if the KEK file lacks a KEK that the store uses; alert on it",
            u64::from(service.lacks_kek),
        ),
        (
            "kek_file_unusable",
            "1 if the KEK file was changed beside the running server and cannot be used, or lacks a KEK; alert on it",
            u64::from(service.kek_file_unusable),
        ),
        ("kek_rewrap_running", "1 while 'kek rewrap' runs on this server", u64::from(service.rewrapping)),
        (
            "kek_rewrap_remaining",
            "Keys that the running 'kek rewrap' has yet to wrap",
            service.rewrap_remaining,
        ),
    ];
    for (name, help, value) in gauges {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}

/// What the sweep has found, if it is on.
fn encode_sweep(encoder: &mut DescriptorEncoder<'_>, service: &Service) -> Result<(), std::fmt::Error> {
    let (Some(sweep), Some(age)) = (service.sweep(), service.sweep_age()) else { return Ok(()) };
    let help = "Versions with a value in the last complete sweep, by the KEK that wraps their DEK";
    let mut versions = encoder.encode_descriptor("kek_versions", help, None, MetricType::Gauge)?;
    // The series of the active KEK exists before the first sweep.
    let active = service.keyring().map(|keyring| (keyring.active().id().to_string(), 0));
    let first = active.filter(|_| sweep.versions.is_empty());
    for (kek, count) in sweep.versions.into_iter().chain(first) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(versions.encode_family(&KekLabels { kek })?)?;
    }
    let age_help = "Time since the last complete sweep, or since the start; alert above a week";
    let unit = Some(&Unit::Seconds);
    let age_of = encoder.encode_descriptor("sweep_age", age_help, unit, MetricType::Gauge)?;
    ConstGauge::new(age.as_secs_f64()).encode(age_of)?;
    let gauges = [
        (
            "undecryptable_versions",
            "Versions that did not open in the last sweep; alert on any",
            sweep.undecryptable,
        ),
        ("sweep_progress", "Versions that the sweep in progress has opened", sweep.progress.unwrap_or(0)),
    ];
    for (name, help, value) in gauges {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}

/// The checks that the root key of the KEKs may still be used.
fn encode_root_key(encoder: &mut DescriptorEncoder<'_>, service: &Service) -> Result<(), std::fmt::Error> {
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let counters = [
        ("kek_checks", "Checks of the root key that unwrapped the KEKs", of(&RECHECKS.allowed)),
        (
            "kek_check_failures",
            "Checks of the root key that got no usable response; alert if it rises",
            of(&RECHECKS.failed),
        ),
        ("kek_denials", "Checks of the root key that were denied", of(&RECHECKS.denied)),
    ];
    for (name, help, value) in counters {
        let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(descriptor)?;
    }
    ConstGauge::new(i64::from(!service.has_keks())).encode(encoder.encode_descriptor(
        "keks_dropped",
        "1 while the server has no KEKs because their root key is denied; alert on it",
        None,
        MetricType::Gauge,
    )?)
}

/// The issuers of tokens.
fn encode_issuers(encoder: &mut DescriptorEncoder<'_>, service: &Service) -> Result<(), std::fmt::Error> {
    let Some(issuers) = service.issuers().map(|issuers| issuers.stats()) else { return Ok(()) };
    let mut refused = encoder.encode_descriptor(
        "tokens_refused",
        "Tokens refused, by reason",
        None,
        MetricType::Counter,
    )?;
    for (reason, count) in &issuers.refused {
        ConstCounter::new(*count).encode(refused.encode_family(&ReasonLabels { reason })?)?;
    }
    let mut failures = encoder.encode_descriptor(
        "issuer_fetch_failures",
        "Reads of an issuer's keys or revocations that failed; alert if it rises",
        None,
        MetricType::Counter,
    )?;
    for (issuer, _, count) in &issuers.issuers {
        let labels = IssuerLabels { issuer: issuer.clone() };
        ConstCounter::new(*count).encode(failures.encode_family(&labels)?)?;
    }
    let mut keys = encoder.encode_descriptor(
        "issuer_has_keys",
        "1 if the keys of an issuer are known; alert on 0",
        None,
        MetricType::Gauge,
    )?;
    for (issuer, has_keys, _) in &issuers.issuers {
        let labels = IssuerLabels { issuer: issuer.clone() };
        ConstGauge::new(i64::from(*has_keys)).encode(keys.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The lease of a replica.
fn encode_lease(encoder: &mut DescriptorEncoder<'_>, lease: &LeaseStats) -> Result<(), std::fmt::Error> {
    let remaining = encoder.encode_descriptor(
        "lease_remaining",
        "How long this server may still read from memory unless it renews its lease; alert on 0",
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
            "Registrations, each with an empty cache; alert on more than one per start",
            lease.registrations,
        ),
        ("lease_fences", "Fences that this server put around what it changes", lease.fences),
        (
            "lease_removals",
            "Servers that did not respond, whose lease expired and was ended; alert on any",
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
