//! Values for hot paths: read once, kept in memory for a bounded time, refreshed before they are asked for.
//!
//! One call at a time for each secret, in a task of its own, whose answer all who wait for it get; [`Shelf`] decides what
//! a value of some age is good for. Ages count from the moment before the request was sent. A task under way holds no
//! value and does not keep the cache alive.

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

/// How old a value may be while the server answers, unless the builder says otherwise.
const MAX_AGE: Duration = Duration::from_secs(30);
/// How old it may be while the server cannot be reached, unless the builder says otherwise.
const MAX_STALE: Duration = Duration::from_secs(300);
/// How many values are kept at most, unless the builder says otherwise.
const MAX_ENTRIES: usize = 10_000;
/// How long a refresh that failed keeps the next one of that value away, at least.
const REST: Duration = Duration::from_secs(1);

/// Keeps values for services that read them often, in memory only. Cheap to clone; clones share what is kept.
///
/// **How old a value may be.** [`Secrets::get`] answers with one that was current at most `max_age` ago (30 seconds by
/// default), so a rotated, changed or deleted secret is noticed after that time at the latest. Values in use are refreshed
/// in the background from half that age on. While the server cannot be reached, is unavailable or limits the rate, the
/// last good value is served until it is `max_stale` old (5 minutes by default); that is how long a revoked key or a
/// deleted secret may go unnoticed during an outage. Any other refusal, such as `NOT_FOUND`, `PERMISSION_DENIED` or
/// `UNAUTHENTICATED`, removes the value at once, and `get` answers with the error.
///
/// Callers who ask for the same value share one call. A value is wiped when the last copy of it is dropped. Its `Debug`
/// shows no value.
#[derive(Clone)]
pub struct Secrets {
    shared: Arc<Shared>,
}

/// Collects the settings of [`Secrets`].
#[derive(Clone, Debug)]
pub struct SecretsBuilder {
    client: Client,
    max_age: Duration,
    max_stale: Duration,
    max_entries: usize,
}

/// A secret's plaintext. Wiped when its last clone is dropped; read it as a `&str`. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<Zeroizing<String>>);

impl Client {
    /// A cache of values that this client reads; its key needs the scope `secrets/read/internal`.
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
    /// How old a value may be while the server answers. Default: 30 seconds. Keep it below the grace period of rotations.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// How old a value may be while the server cannot be reached; less than `max_age` counts as that. Default: 5 minutes.
    #[must_use]
    pub fn max_stale(mut self, age: Duration) -> Self {
        self.max_stale = age;
        self
    }

    /// How many values are kept at most, the ones read longest ago dropped first; 0 counts as 1. Default: 10000.
    #[must_use]
    pub fn max_entries(mut self, count: usize) -> Self {
        self.max_entries = count;
        self
    }

    /// Makes the cache. Sends nothing.
    pub fn build(self) -> Secrets {
        let client = self.client;
        let fetch = move |request| -> Fetching {
            let client = client.clone();
            Box::pin(async move {
                let answer = client.secret().get_secret_value(request).await?;
                Ok(SecretValue(Arc::new(Zeroizing::new(answer.value))))
            })
        };
        Secrets::new(Box::new(fetch), self.max_age, self.max_stale, self.max_entries)
    }
}

impl Secrets {
    fn new(fetch: Fetch, max_age: Duration, max_stale: Duration, max_entries: usize) -> Self {
        let shelf = Shelf {
            max_age,
            max_stale: max_stale.max(max_age),
            max_entries: max_entries.max(1),
            entries: HashMap::new(),
            flights: 0,
        };
        Self { shared: Arc::new(Shared { fetch, shelf: Mutex::new(shelf) }) }
    }

    /// The active value of a secret, from memory if that is fresh enough. An empty `realm` is the key's current one, an
    /// empty `user_id` the key's own user.
    ///
    /// Waits for the server only when there is nothing fresh enough and the last refresh has not just failed. Dropping
    /// the future ends the waiting and not the call, which others may wait for as well.
    ///
    /// # Errors
    /// As [`SecretClient::get_secret_value`](crate::SecretClient::get_secret_value), if there is no value that may be
    /// served.
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
            if let Ok(outcome) = flight.wait_for(Option::is_some).await {
                // Just waited for.
                if let Some(outcome) = outcome.clone() {
                    return outcome;
                }
            }
            // The runtime of the call has ended before it; here there is another.
        }
    }

    /// Drops a value, so that the next [`Secrets::get`] reads it anew: for when its user has found it to be wrong.
    pub fn forget(&self, name: &str, realm: &str, user_id: &str) {
        let key = Key { name: name.to_owned(), realm: realm.to_owned(), user_id: user_id.to_owned() };
        // A call under way is heard by those who wait for it, but no longer kept here.
        self.shared.shelf().entries.remove(&key);
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shelf = self.shared.shelf();
        f.debug_struct("Secrets")
            .field("values", &shelf.entries.len())
            .field("max_age", &shelf.max_age)
            .field("max_stale", &shelf.max_stale)
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

type Outcome = Result<SecretValue, Error>;
type Fetching = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Fetch = Box<dyn Fn(GetSecretValueRequest) -> Fetching + Send + Sync>;
/// A call under way: the outcome, once there is one.
type Flight = watch::Receiver<Option<Outcome>>;

struct Shared {
    fetch: Fetch,
    shelf: Mutex<Shelf>,
}

/// What there is for a caller.
enum Found {
    Value(SecretValue),
    Flight(Flight),
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing panics while it holds the lock.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value that may be served now, or the call to wait for. Sets a refresh off where one is due.
    fn look(self: &Arc<Self>, key: &Key) -> Found {
        let now = Instant::now();
        let mut shelf = self.shelf();
        let (served, due) = shelf.look(key, now);
        let Some(value) = served else { return Found::Flight(self.flight(&mut shelf, key, now)) };
        if due {
            self.flight(&mut shelf, key, now);
        }
        Found::Value(value)
    }

    /// The call under way for a secret, begun if there is none.
    fn flight(self: &Arc<Self>, shelf: &mut Shelf, key: &Key, now: Instant) -> Flight {
        if let Some((_, flight)) = shelf.entries.get(key).and_then(|entry| entry.flight.as_ref())
            && flight.has_changed().is_ok()
        {
            return flight.clone();
        }
        let (tell, flight) = watch::channel(None);
        shelf.flights += 1;
        let number = shelf.flights;
        shelf.entry(key, now).flight = Some((number, flight.clone()));
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
                let outcome = shared.shelf().settle(&key, number, now, Instant::now(), outcome);
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

/// One value and what is under way for it.
#[derive(Default)]
struct Entry {
    /// The value, and when the request was sent that brought it.
    read: Option<(SecretValue, Instant)>,
    /// When the last refresh failed without removing the value, and until when no other is made.
    failed: Option<(Instant, Instant)>,
    /// The call under way, by its number.
    flight: Option<(u64, Flight)>,
}

/// The values and the rules of their ages.
struct Shelf {
    max_age: Duration,
    max_stale: Duration,
    max_entries: usize,
    entries: HashMap<Key, Entry>,
    /// How many calls there have been.
    flights: u64,
}

impl Shelf {
    /// The value that may be served without waiting, if there is one, and whether a refresh is due.
    fn look(&self, key: &Key, now: Instant) -> (Option<SecretValue>, bool) {
        let Some(Entry { read: Some((value, read_at)), failed, .. }) = self.entries.get(key) else {
            return (None, true);
        };
        let age = now.duration_since(*read_at);
        let resting = failed.is_some_and(|(_, until)| now < until);
        // A refresh failed not long ago, so the server is taken to be away: nobody waits for the next.
        let away = failed.is_some_and(|(at, _)| now.duration_since(at) < self.max_age || resting);
        let serves = age < self.max_age || (away && age < self.max_stale);
        (serves.then(|| value.clone()), age >= self.max_age / 2 && !resting)
    }

    /// The entry of a secret, made if there is none; what is too old, or too much, goes.
    fn entry(&mut self, key: &Key, now: Instant) -> &mut Entry {
        if !self.entries.contains_key(key) && self.entries.len() >= self.max_entries {
            let max_stale = self.max_stale;
            self.entries.retain(|_, entry| match &entry.read {
                Some((_, read_at)) => now.duration_since(*read_at) < max_stale,
                None => entry.flight.is_some(),
            });
            while self.entries.len() >= self.max_entries {
                let oldest =
                    self.entries.iter().min_by_key(|(_, entry)| entry.read.as_ref().map(|(_, at)| *at));
                let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
                self.entries.remove(&oldest);
            }
        }
        self.entries.entry(key.clone()).or_default()
    }

    /// Takes in what a call brought, and says what those who wait for it get.
    fn settle(&mut self, key: &Key, number: u64, asked: Instant, now: Instant, outcome: Outcome) -> Outcome {
        let max_stale = self.max_stale;
        let mine = |entry: &&mut Entry| entry.flight.as_ref().is_some_and(|(own, _)| *own == number);
        // What was forgotten meanwhile is not kept.
        let Some(entry) = self.entries.get_mut(key).filter(mine) else { return outcome };
        entry.flight = None;
        match outcome {
            Ok(value) => {
                entry.read = Some((value.clone(), asked));
                entry.failed = None;
                Ok(value)
            }
            Err(error) => match &entry.read {
                Some((value, read_at)) if is_outage(&error) && now.duration_since(*read_at) < max_stale => {
                    let rest = error.retry_after().unwrap_or_default().max(REST);
                    entry.failed = Some((now, now + rest));
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

/// Whether the server gave no answer, or none that says anything about the secret or the key. A proxy's 401 or 403 counts
/// as the server's.
fn is_outage(error: &Error) -> bool {
    match error.code() {
        Some(Code::NotFound | Code::PermissionDenied | Code::Unauthenticated) | None => false,
        Some(Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) => true,
        Some(_) => error.is_transport(),
    }
}

#[cfg(test)]
mod tests;
