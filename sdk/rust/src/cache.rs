//! Cache of values for services that read them often, in memory only. `sdk/cases/cache.json` has the rules.
//!
//! [`Store`] decides what may be served at which age, and when a request is due. A task makes each request: at most one at
//! a time for each value. A task holds no value and does not keep the cache alive.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::secret::v1::GetSecretValueRequest;
use crate::{Client, Code, Error};

/// The default of [`SecretsBuilder::max_age`].
pub(crate) const MAX_AGE: Duration = Duration::from_secs(30);
/// The default of [`SecretsBuilder::max_stale`].
pub(crate) const MAX_STALE: Duration = Duration::from_secs(300);
/// The default of [`SecretsBuilder::max_entries`].
pub(crate) const MAX_ENTRIES: usize = 10_000;
/// The shortest time between a failed refresh of a value and its next refresh.
pub(crate) const REFRESH_DELAY: Duration = Duration::from_secs(1);

/// A cache of values for services that read them often, in memory only. Cheap to clone: clones share the values.
///
/// A value from [`Secrets::get`] was current at most `max_age` ago. From half of `max_age` on, `get` also refreshes the
/// value in the background. While the server is unavailable, `get` returns the last value until it is `max_stale` old: for
/// that long a revoked key or a deleted secret may go unnoticed in an outage. An outage is `UNAVAILABLE`,
/// `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, or any error without a reason except `NOT_FOUND`, `PERMISSION_DENIED` and
/// `UNAUTHENTICATED`. Any other error removes the value at once and is returned.
///
/// Concurrent calls for the same value share one request. A value is wiped when its last copy is dropped. `Debug` shows no
/// value.
#[derive(Clone)]
pub struct Secrets {
    shared: Arc<Shared>,
}

/// The settings of [`Secrets`].
#[derive(Clone, Debug)]
pub struct SecretsBuilder {
    client: Client,
    max_age: Duration,
    max_stale: Duration,
    max_entries: usize,
}

/// The value of a secret, to be read as a `&str`. It is wiped when its last clone is dropped. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(pub(crate) Arc<Zeroizing<String>>);

impl Client {
    /// A cache of values. The key needs the scope `secrets/read/internal`.
    pub fn secrets(&self) -> SecretsBuilder {
        SecretsBuilder {
            client: self.clone(),
            max_age: MAX_AGE,
            max_stale: MAX_STALE,
            max_entries: MAX_ENTRIES,
        }
    }
}

impl SecretsBuilder {
    /// The age up to which a value is returned without waiting for the server. Default, and when zero: 30 seconds. Keep it
    /// below the grace period of rotations.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// The age up to which a value is returned while the server is unavailable. A value below `max_age` counts as
    /// `max_age`. Default: 5 minutes.
    #[must_use]
    pub fn max_stale(mut self, age: Duration) -> Self {
        self.max_stale = age;
        self
    }

    /// The largest number of values. At the limit the least recently used value is dropped. Default, and when zero: 10000.
    #[must_use]
    pub fn max_entries(mut self, count: usize) -> Self {
        self.max_entries = count;
        self
    }

    /// Makes the cache. Sends no request.
    pub fn build(self) -> Secrets {
        let client = self.client;
        let fetch = move |request| -> Fetching {
            let client = client.clone();
            Box::pin(async move {
                let response = client.secret().get_secret_value(request).await?;
                Ok(SecretValue(Arc::new(Zeroizing::new(response.value))))
            })
        };
        Secrets::new(Box::new(fetch), self.max_age, self.max_stale, self.max_entries)
    }
}

impl Secrets {
    pub(crate) fn new(fetch: Fetch, max_age: Duration, max_stale: Duration, max_entries: usize) -> Self {
        let max_age = if max_age.is_zero() { MAX_AGE } else { max_age };
        let max_entries = if max_entries == 0 { MAX_ENTRIES } else { max_entries };
        let store = Store {
            max_age,
            max_stale: max_stale.max(max_age),
            max_entries,
            entries: HashMap::new(),
            looks: 0,
            flights: 0,
            swept_at: None,
        };
        Self { shared: Arc::new(Shared { fetch, store: Mutex::new(store) }) }
    }

    /// Returns the active value of a secret. An empty `realm` is the current realm of the key. An empty `user_id` is the
    /// user of the key.
    ///
    /// It waits for the server only if the cache has no value that it may return. Dropping the future ends the wait and not
    /// the request, which other callers may wait for.
    ///
    /// # Errors
    /// As [`SecretClient::get_secret_value`](crate::SecretClient::get_secret_value), if the cache has no value that it may
    /// return.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn get(&self, name: &str, realm: &str, user_id: &str) -> Result<SecretValue, Error> {
        let key = Key { name: name.to_owned(), realm: realm.to_owned(), user_id: user_id.to_owned() };
        loop {
            let mut flight = match self.shared.look(&key) {
                Found::Value(value) => return Ok(value),
                Found::Flight(flight) => flight,
            };
            if let Ok(outcome) = flight.wait_for(Option::is_some).await
                && let Some(outcome) = outcome.clone()
            {
                return outcome;
            }
            // The runtime of the request ended first. The next request runs on this one.
        }
    }

    /// Removes a value, so that the next [`Secrets::get`] reads it from the server. Use it when the value turns out to be
    /// wrong.
    pub fn forget(&self, name: &str, realm: &str, user_id: &str) {
        let key = Key { name: name.to_owned(), realm: realm.to_owned(), user_id: user_id.to_owned() };
        // A request in flight serves its callers, but its value is not kept.
        self.shared.store().entries.remove(&key);
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = self.shared.store();
        f.debug_struct("Secrets")
            .field("values", &store.entries.len())
            .field("max_age", &store.max_age)
            .field("max_stale", &store.max_stale)
            .finish_non_exhaustive()
    }
}

impl Deref for SecretValue {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

pub(crate) type Outcome = Result<SecretValue, Error>;
pub(crate) type Fetching = Pin<Box<dyn Future<Output = Outcome> + Send>>;
pub(crate) type Fetch = Box<dyn Fn(GetSecretValueRequest) -> Fetching + Send + Sync>;
/// A request in flight: the outcome, once there is one.
type Flight = watch::Receiver<Option<Outcome>>;

struct Shared {
    fetch: Fetch,
    store: Mutex<Store>,
}

/// What a caller gets.
enum Found {
    Value(SecretValue),
    Flight(Flight),
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        // Nothing panics while it holds the lock.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value that may be served now, or the flight to wait for. Starts a refresh if one is due.
    fn look(self: &Arc<Self>, key: &Key) -> Found {
        let now = Instant::now();
        let mut store = self.store();
        let (served, due) = store.look(key, now);
        let Some(value) = served else { return Found::Flight(self.flight(&mut store, key, now)) };
        if due {
            self.flight(&mut store, key, now);
        }
        Found::Value(value)
    }

    /// The flight of a secret, started if there is none.
    fn flight(self: &Arc<Self>, store: &mut Store, key: &Key, now: Instant) -> Flight {
        if let Some((_, flight)) = store.entries.get(key).and_then(|entry| entry.flight.as_ref())
            && flight.has_changed().is_ok()
        {
            return flight.clone();
        }
        let (tell, flight) = watch::channel(None);
        store.flights += 1;
        let number = store.flights;
        let looks = store.looks;
        let entry = store.entries.entry(key.clone()).or_default();
        entry.last_use = looks;
        entry.flight = Some((number, flight.clone()));
        let call = (self.fetch)(GetSecretValueRequest {
            name: key.name.clone(),
            realm: key.realm.clone(),
            user_id: key.user_id.clone(),
            ..Default::default()
        });
        let (shared, key): (Weak<Self>, _) = (Arc::downgrade(self), key.clone());
        tokio::spawn(async move {
            let outcome = call.await;
            if let Some(shared) = shared.upgrade() {
                let outcome = shared.store().settle(&key, number, now, Instant::now(), outcome);
                tell.send_replace(Some(outcome));
            }
        });
        flight
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    realm: String,
    user_id: String,
}

/// One value and its request in flight.
#[derive(Default)]
struct Entry {
    /// The value, and when the request was sent that brought it.
    read: Option<(SecretValue, Instant)>,
    /// When the last refresh failed without removing the value, and until when there is no other.
    failed: Option<(Instant, Instant)>,
    /// The request in flight, by its number.
    flight: Option<(u64, Flight)>,
    /// The number of the last look-up.
    last_use: u64,
}

/// The values and the rules of their ages.
struct Store {
    max_age: Duration,
    max_stale: Duration,
    max_entries: usize,
    entries: HashMap<Key, Entry>,
    /// Counts look-ups.
    looks: u64,
    /// Counts requests.
    flights: u64,
    /// When values too old to be served were last removed.
    swept_at: Option<Instant>,
}

impl Store {
    /// The value that may be served without waiting, if there is one, and whether a refresh is due.
    fn look(&mut self, key: &Key, now: Instant) -> (Option<SecretValue>, bool) {
        self.looks += 1;
        let Some(entry) = self.entries.get_mut(key) else { return (None, true) };
        entry.last_use = self.looks;
        let Entry { read: Some((value, read_at)), failed, .. } = entry else { return (None, true) };
        let age = now.duration_since(*read_at);
        let delayed = failed.is_some_and(|(_, until)| now < until);
        let outage = delayed || failed.is_some_and(|(at, _)| now.duration_since(at) < self.max_age);
        let serves = age < self.max_age || (outage && age < self.max_stale);
        (serves.then(|| value.clone()), age >= self.max_age / 2 && !delayed)
    }

    /// Removes values that are too old to be served, and the least recently used ones beyond the limit, but not the newest.
    fn trim(&mut self, newest: &Key, now: Instant) {
        let swept = self.swept_at.is_some_and(|at| now.duration_since(at) < self.max_age);
        if swept && self.entries.len() <= self.max_entries {
            return;
        }
        self.swept_at = Some(now);
        let max_stale = self.max_stale;
        self.entries.retain(|key, entry| match &entry.read {
            Some((_, read_at)) => {
                key == newest || entry.flight.is_some() || now.duration_since(*read_at) < max_stale
            }
            None => entry.flight.is_some(),
        });
        // The value of a first request does not count before it arrives.
        let mut values = self.entries.values().filter(|entry| entry.read.is_some()).count();
        while values > self.max_entries {
            let others = self.entries.iter().filter(|(key, entry)| *key != newest && entry.read.is_some());
            let oldest = others.min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.entries.remove(&oldest);
            values -= 1;
        }
    }

    /// Stores the outcome of a request. Returns the outcome for its callers.
    fn settle(&mut self, key: &Key, number: u64, asked: Instant, now: Instant, outcome: Outcome) -> Outcome {
        let max_stale = self.max_stale;
        let mine = |entry: &&mut Entry| entry.flight.as_ref().is_some_and(|(own, _)| *own == number);
        // A value that was forgotten meanwhile is not stored.
        let Some(entry) = self.entries.get_mut(key).filter(mine) else { return outcome };
        entry.flight = None;
        match outcome {
            Ok(value) => {
                entry.read = Some((value.clone(), asked));
                entry.failed = None;
                self.trim(key, now);
                Ok(value)
            }
            Err(error) => match &entry.read {
                Some((value, read_at)) if is_outage(&error) && now.duration_since(*read_at) < max_stale => {
                    let delay = error.retry_after().unwrap_or_default().max(REFRESH_DELAY);
                    entry.failed = Some((now, now + delay));
                    Ok(value.clone())
                }
                _ => {
                    self.entries.remove(key);
                    Err(error)
                }
            },
        }
    }
}

/// Whether the error says nothing about the secret and the key, only that the server did not serve the request. The 401, 403
/// or 404 of a proxy counts as the server's.
fn is_outage(error: &Error) -> bool {
    match error.code() {
        Some(Code::NotFound | Code::PermissionDenied | Code::Unauthenticated) | None => false,
        Some(Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) => true,
        Some(_) => error.is_transport(),
    }
}

#[cfg(test)]
mod tests;
