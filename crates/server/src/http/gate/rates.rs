//! Token buckets: one per API key, one per address for failed authentication.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::network;
use crate::settings::Limits;
use agentrouter_model::{ApiKeyId, Reason, Refusal};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// The buckets. A rate that is not set has none.
pub(crate) struct Rates {
    keys: Option<DefaultKeyedRateLimiter<ApiKeyId>>,
    failures: Option<DefaultKeyedRateLimiter<IpAddr>>,
    /// One rejection a second and address is recorded.
    records: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
}

impl Rates {
    pub(crate) fn new(limits: &Limits) -> Self {
        let quota = |rate: u32, burst: u32| {
            let rate = NonZeroU32::new(rate)?;
            Some(Quota::per_second(rate).allow_burst(NonZeroU32::new(burst).unwrap_or(rate)))
        };
        Self {
            keys: quota(limits.key_rate, limits.key_burst).map(RateLimiter::keyed),
            // Ten seconds' worth at once, so that a deployment with a wrong key receives 401 before 429.
            failures: quota(limits.failed_auth_rate, limits.failed_auth_rate.saturating_mul(10))
                .map(RateLimiter::keyed),
            records: RateLimiter::keyed(Quota::per_second(NonZeroU32::MIN)),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request of `key`.
    ///
    /// # Errors
    /// [`Reason::RateLimited`], with the time until the next one is served.
    pub(crate) fn request(&self, key: &ApiKeyId) -> Result<(), Refusal> {
        match &self.keys {
            None => Ok(()),
            Some(keys) => keys.check_key(key).map_err(|not_until| self.refusal(&not_until)),
        }
    }

    /// Counts a failed authentication from `address`. An IPv6 address counts by its /64: that is one customer, as a rule.
    ///
    /// # Errors
    /// [`Reason::RateLimited`], with the time until the next one receives 401.
    pub(crate) fn failed_authentication(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        let (Some(failures), Some(address)) = (&self.failures, address) else { return Ok(()) };
        failures.check_key(&network::of(address)).map_err(|not_until| self.refusal(&not_until))
    }

    /// Whether the rejection of an unknown caller is recorded. Of those that are rate limited, one a second and address is,
    /// so that a client without a key cannot fill the disk.
    pub(crate) fn may_record(&self, refusal: &Refusal, address: Option<IpAddr>) -> bool {
        match address {
            Some(address) if refusal.reason == Reason::RateLimited => {
                self.records.check_key(&network::of(address)).is_ok()
            }
            _ => true,
        }
    }

    /// Drops the buckets that are full. Called every few seconds, so that memory is bounded by the recent callers.
    pub(crate) fn shrink(&self) {
        self.records.retain_recent();
        self.records.shrink_to_fit();
        if let Some(keys) = &self.keys {
            keys.retain_recent();
            keys.shrink_to_fit();
        }
        if let Some(failures) = &self.failures {
            failures.retain_recent();
            failures.shrink_to_fit();
        }
    }

    fn refusal(
        &self,
        not_until: &governor::NotUntil<<DefaultClock as governor::clock::Clock>::Instant>,
    ) -> Refusal {
        let wait = not_until.wait_time_from(self.clock.now());
        Refusal::new(Reason::RateLimited).retry_after(wait.max(Duration::from_millis(1)))
    }
}
