//! Ships the records of the audit log to a collector, as OTLP logs over HTTP.
//!
//! A record of the log is a log record whose body is the line, MAC included, with its main members as attributes. Records are
//! sent in order. The position is kept beside the audit log, so each record is delivered at least once, also after a restart
//! and after an outage of the collector: it is read from the audit log again. No request waits for any of this.
//!
//! The exporter is OpenTelemetry's. It is called here without the SDK's queue, which drops records.
//!
//! Deliberately absent: TLS to the collector, as for `traces`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentrouter_audit::{Audit, ShippedLine, Shipper};
use anyhow::Context as _;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{LogExporter, Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The longest time for one delivery.
const DELIVERY: Duration = Duration::from_secs(10);
/// The most records in one delivery: far below the size that collectors accept.
const BATCH: usize = 512;
/// The wait when all is shipped, and after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// The path of a collector for logs.
const PATH: &str = "/v1/logs";
/// The members of a record that are attributes.
const ATTRIBUTES: [&str; 16] = [
    "rpc",
    "phase",
    "outcome",
    "reason",
    "key_id",
    "issuer",
    "subject",
    "rule",
    "user",
    "owner",
    "realm",
    "name",
    "kek_id",
    "provider",
    "request_id",
    "address",
];

/// Records that the collector took since the start, for metrics.
static SHIPPED: AtomicU64 = AtomicU64::new(0);

/// The number of records that the collector took since the start.
pub(crate) fn shipped() -> u64 {
    SHIPPED.load(Ordering::Relaxed)
}

/// Sends records to a collector.
pub(crate) struct Shipping {
    audit: Audit,
    exporter: LogExporter,
    logger: SdkLogger,
    scope: InstrumentationScope,
    shipper: Option<Shipper>,
    failing: bool,
}

impl Shipping {
    /// Sends to the collector at `endpoint`, an `http` address.
    ///
    /// # Errors
    /// When the exporter cannot be built.
    pub(crate) fn to(endpoint: &str, audit: &Audit) -> anyhow::Result<Self> {
        let mut exporter = LogExporter::builder()
            .with_http()
            .with_http_client(HyperClient::with_default_connector(DELIVERY, None))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(super::collector_url(endpoint, PATH))
            .with_timeout(DELIVERY)
            .build()
            .context("audit records cannot be sent")?;
        let resource = Resource::builder_empty()
            .with_service_name("agentrouter-secrets")
            .with_attributes([KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))])
            .with_attributes(audit.replica().map(|id| KeyValue::new("service.instance.id", id.to_owned())))
            .build();
        exporter.set_resource(&resource);
        Ok(Self {
            audit: audit.clone(),
            exporter,
            logger: SdkLoggerProvider::builder().build().logger("agentrouter-secrets.audit"),
            scope: InstrumentationScope::builder("agentrouter-secrets.audit").build(),
            shipper: None,
            failing: false,
        })
    }

    /// Runs until the future is dropped. The next server sends again what was not confirmed by then.
    pub(crate) async fn run(&mut self) {
        loop {
            let shipped = self.ship().await;
            let failed = shipped.is_err();
            match (&shipped, std::mem::replace(&mut self.failing, failed)) {
                (Err(error), false) => tracing::warn!(
                    error = &**error as &dyn std::error::Error,
                    "audit records cannot be sent to audit.otlp-endpoint; they wait in the audit log"
                ),
                (Ok(_), true) => tracing::info!("audit records are sent to audit.otlp-endpoint again"),
                _ => {}
            }
            if !matches!(shipped, Ok(BATCH)) {
                sleep(PAUSE).await;
            }
        }
    }

    /// Sends all records that are on disk, at the end.
    pub(crate) async fn finish(&mut self) {
        while matches!(self.ship().await, Ok(1..)) {}
    }

    /// Sends the next records. Returns how many.
    async fn ship(&mut self) -> anyhow::Result<usize> {
        let (audit, shipper) = (self.audit.clone(), self.shipper.take());
        let read = spawn_blocking(move || {
            let mut shipper = match shipper {
                Some(shipper) => shipper,
                None => audit.shipper()?,
            };
            shipper.next(BATCH).map(|lines| (shipper, lines))
        });
        // If this fails, the position is read again.
        let (mut shipper, lines) = read.await??;
        let Some(last) = lines.last().map(|line| line.seq) else {
            self.shipper = Some(shipper);
            return Ok(0);
        };
        let records: Vec<SdkLogRecord> = lines.iter().map(|line| self.record(line)).collect();
        let batch: Vec<_> = records.iter().map(|record| (record, &self.scope)).collect();
        self.exporter.export(LogBatch::new(&batch)).await?;
        let confirmed = spawn_blocking(move || shipper.confirm(last).map(|()| shipper));
        self.shipper = Some(confirmed.await??);
        SHIPPED.fetch_add(lines.len() as u64, Ordering::Relaxed);
        Ok(lines.len())
    }

    fn record(&self, line: &ShippedLine) -> SdkLogRecord {
        let mut record = self.logger.create_log_record();
        record.set_event_name("agentrouter.audit");
        record.set_severity_number(Severity::Info);
        record.set_severity_text("INFO");
        record.add_attribute("agentrouter.audit.seq", i64::try_from(line.seq).unwrap_or(i64::MAX));
        if let Ok(Value::Object(members)) = serde_json::from_str::<Value>(&line.text) {
            let text = |name: &str| members.get(name).and_then(Value::as_str);
            for name in ATTRIBUTES {
                if let Some(value) = text(name) {
                    record.add_attribute(format!("agentrouter.audit.{name}"), value.to_owned());
                }
            }
            if let Some(time) = text("time").and_then(|time| humantime::parse_rfc3339(time).ok()) {
                record.set_timestamp(time);
                record.set_observed_timestamp(time);
            }
            if let Some(trace) = text("trace_id").and_then(|id| TraceId::from_hex(id).ok()) {
                record.set_trace_context(trace, SpanId::INVALID, None);
            }
        }
        record.set_body(AnyValue::from(line.text.clone()));
        record
    }
}
