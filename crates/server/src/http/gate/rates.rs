//! Token buckets: one per API key or subject of a token, one per address for failed authentication, and those of the records of refusals.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use agentrouter_identity::Identity;
use agentrouter_model::{ApiKeyId, Reason, Refusal, Scope};
use agentrouter_service::Caller;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::network;
use crate::settings::Limits;

/// Whose requests a bucket counts.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Holder {
    Key(ApiKeyId),
    /// An issuer's name, and the subject of its tokens.
    Subject(Arc<str>, Arc<str>),
}

impl Holder {
    fn of(caller: &Caller) -> Option<Self> {
        let subject = |identity: &Arc<Identity>| {
            Self::Subject(Arc::clone(&identity.issuer), Arc::clone(&identity.subject))
        };
        caller.key_id().cloned().map(Self::Key).or_else(|| caller.identity().map(subject))
    }
}

/// The buckets. A rate that is not set has none.
pub(crate) struct Rates {
    keys: Option<DefaultKeyedRateLimiter<Holder>>,
    /// Of callers without `secrets/read/internal`, when `keys` has none.
    user_keys: Option<DefaultKeyedRateLimiter<Holder>>,
    /// Of tokens whose rule has a rate of its own, by that rate.
    rules: RwLock<HashMap<NonZeroU32, Arc<DefaultKeyedRateLimiter<Holder>>>>,
    failures: Option<DefaultKeyedRateLimiter<IpAddr>>,
    /// Of the rejections for a rate, one a second and address is recorded, and one a second and key.
    records: DefaultKeyedRateLimiter<IpAddr>,
    key_records: DefaultKeyedRateLimiter<Holder>,
    /// The records of all callers without a valid key.
    all_records: Option<DefaultDirectRateLimiter>,
    unrecorded: AtomicU64,
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
            user_keys: quota(limits.user_key_rate, limits.user_key_rate.saturating_mul(10))
                .filter(|_| limits.key_rate == 0)
                .map(RateLimiter::keyed),
            rules: RwLock::default(),
            // Ten seconds' worth at once, so that a deployment with a wrong key receives 401 before 429.
            failures: quota(limits.failed_auth_rate, limits.failed_auth_rate.saturating_mul(10))
                .map(RateLimiter::keyed),
            records: RateLimiter::keyed(Quota::per_second(NonZeroU32::MIN)),
            key_records: RateLimiter::keyed(Quota::per_second(NonZeroU32::MIN)),
            all_records: quota(
                limits.unauthenticated_records,
                limits.unauthenticated_records.saturating_mul(10),
            )
            .map(RateLimiter::direct),
            unrecorded: AtomicU64::new(0),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request of `caller`.
    ///
    /// # Errors
    /// [`Reason::RateLimited`], with the time until the next one is served.
    pub(crate) fn request(&self, caller: &Caller) -> Result<(), Refusal> {
        if let Some(rate) = caller.identity().and_then(|identity| identity.rate) {
            return self.count(&self.of_rule(rate), caller);
        }
        let is_internal = || caller.grant().scopes.contains(Scope::ReadInternal);
        let user_keys = || self.user_keys.as_ref().filter(|_| !is_internal());
        self.keys.as_ref().or_else(user_keys).map_or(Ok(()), |buckets| self.count(buckets, caller))
    }

    fn count(&self, buckets: &DefaultKeyedRateLimiter<Holder>, caller: &Caller) -> Result<(), Refusal> {
        let Some(holder) = Holder::of(caller) else { return Ok(()) };
        buckets.check_key(&holder).map_err(|not_until| self.refusal(&not_until))
    }

    /// The buckets of the rules with this rate.
    fn of_rule(&self, rate: NonZeroU32) -> Arc<DefaultKeyedRateLimiter<Holder>> {
        let found = self.rules.read().unwrap_or_else(PoisonError::into_inner).get(&rate).cloned();
        found.unwrap_or_else(|| {
            let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(
                rules.entry(rate).or_insert_with(|| Arc::new(RateLimiter::keyed(Quota::per_second(rate)))),
            )
        })
    }

    /// Counts a failed authentication from `address`. An IPv6 address counts by its /64: that is one customer, as a rule.
    ///
    /// # Errors
    /// [`Reason::RateLimited`], with the time until the next one receives 401.
    pub(crate) fn failed_authentication(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        let (Some(failures), Some(address)) = (&self.failures, address) else { return Ok(()) };
        failures.check_key(&network::of(address)).map_err(|not_until| self.refusal(&not_until))
    }

    /// Whether the rejection of a caller is recorded. Of those that are rate limited, one a second and address is, or one a
    /// second and key. All callers without a valid key have `limit.unauthenticated-records` together. So no client can
    /// fill the disk with rejections.
    pub(crate) fn may_record(
        &self,
        refusal: &Refusal,
        address: Option<IpAddr>,
        caller: Option<&Caller>,
    ) -> bool {
        let is_rate_limited = refusal.reason == Reason::RateLimited;
        let may = match (caller.and_then(Holder::of), address) {
            (Some(holder), _) => !is_rate_limited || self.key_records.check_key(&holder).is_ok(),
            (None, Some(address))
                if is_rate_limited && self.records.check_key(&network::of(address)).is_err() =>
            {
                false
            }
            (None, _) => self.all_records.as_ref().is_none_or(|all| all.check().is_ok()),
        };
        if !may {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// Rejections that were not recorded, for metrics.
    pub(crate) fn unrecorded(&self) -> u64 {
        self.unrecorded.load(Ordering::Relaxed)
    }

    /// Drops the buckets that are full. Called every few seconds, so that memory is bounded by the recent callers.
    pub(crate) fn shrink(&self) {
        self.records.retain_recent();
        self.records.shrink_to_fit();
        self.key_records.retain_recent();
        self.key_records.shrink_to_fit();
        for keys in [&self.keys, &self.user_keys].into_iter().flatten() {
            keys.retain_recent();
            keys.shrink_to_fit();
        }
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|_, buckets| {
            buckets.retain_recent();
            buckets.shrink_to_fit();
            !buckets.is_empty()
        });
        drop(rules);
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
