//! Gauges of what ends at a known time: the TLS certificate and the API keys.
//!
//! A time is in seconds since 1970, as in other exporters, so that a rule can compare it with `time()`. It is 0 if nothing
//! ends. The keys are read from the store from time to time, because a scrape does not wait for the store.

use std::sync::{Arc, Mutex, PoisonError};

use agentrouter_model::Timestamp;
use agentrouter_service::Service;
use agentrouter_store::ExaminedKey;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::tls::Tls;

/// See the module.
#[derive(Default)]
pub(crate) struct Expiries {
    tls: Option<Arc<Tls>>,
    keys: Mutex<Keys>,
}

/// The API keys that work.
#[derive(Clone, Copy, Default)]
struct Keys {
    count: u64,
    /// When the next one expires.
    next: Option<Timestamp>,
}

impl Expiries {
    pub(crate) fn new(tls: Option<Arc<Tls>>) -> Arc<Self> {
        Arc::new(Self { tls, keys: Mutex::default() })
    }

    /// Reads the keys again. If that fails, the last figures stay.
    pub(crate) async fn refresh(&self, service: &Service) {
        let now = service.clock().now();
        let Ok(examined) = service.store().examine_keys().await else { return };
        let mut keys = Keys::default();
        for key in examined {
            let ExaminedKey::Whole(key) = key else { continue };
            if key.is_live(now) {
                keys.count += 1;
                keys.next = [keys.next, key.expires_at].into_iter().flatten().min();
            }
        }
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

/// The gauges in the registry.
pub(super) struct Gauges(pub(super) Arc<Expiries>);

impl std::fmt::Debug for Gauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self(expiries) = self;
        let keys = *expiries.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = expiries.tls.as_ref().and_then(|tls| tls.expires());
        let seconds = |end: Option<Timestamp>| end.map_or(0, |end| end.as_micros() / 1_000_000);
        let gauges = [
            (
                "tls_certificate_expiry_timestamp",
                "When the TLS certificate expires, since 1970; 0 without TLS",
                Some(&Unit::Seconds),
                seconds(certificate),
            ),
            ("api_keys", "API keys that work", None, i64::try_from(keys.count).unwrap_or(i64::MAX)),
            (
                "api_key_expiry_timestamp",
                "When the next API key expires, since 1970; 0 if none does",
                Some(&Unit::Seconds),
                seconds(keys.next),
            ),
        ];
        for (name, help, unit, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                unit,
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}
