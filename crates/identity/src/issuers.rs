//! All issuers: verifies a token, and remembers that it did.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentrouter_crypto::{CryptoError, TokenDigest, TokenDigests};
use agentrouter_model::{Clock, Rng, Timestamp};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use jsonwebtoken::dangerous::insecure_decode;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, TokenData, Validation, decode};
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::claims::Claims;
use crate::issuer::Source;
use crate::settings::{CertificateSettings, IdentitySettings, IssuerSettings, Rule};
use crate::{Fetch, Identity};

/// The leeway for the clocks of issuers.
const LEEWAY: i64 = 60;
/// Most bytes of a token.
const TOKEN: usize = 16 * 1024;
/// Most bytes of a subject. The audit log has it whole.
const SUBJECT: usize = 512;
/// The longest time that a request waits for keys.
const REQUEST: Duration = Duration::from_secs(2);
/// Most requests that wait for keys, each with a permit of the concurrency limiter. Further ones are refused at once.
const WAITING: usize = 16;
/// Most verified tokens that are remembered.
const REMEMBERED: usize = 16 * 1024;

/// The issuers whose tokens are accepted.
pub struct Issuers {
    current: ArcSwap<Current>,
    /// Changes when a token that was verified may not be valid any more.
    generation: AtomicU64,
    verified: Cache<TokenDigest, Verified>,
    digests: TokenDigests,
    fetch: Arc<dyn Fetch>,
    /// Of the requests that wait for keys.
    waiting: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    refused: [AtomicU64; Fault::ALL.len()],
}

/// The settings in use.
struct Current {
    issuers: Vec<Issuer>,
    certificates: Option<CertificateSettings>,
}

#[derive(Clone)]
struct Issuer {
    settings: Arc<IssuerSettings>,
    source: Arc<Source>,
}

#[derive(Clone)]
struct Verified {
    identity: Arc<Identity>,
    generation: u64,
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Refused tokens, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Of each issuer: whether it has keys, and the fetches that failed.
    pub issuers: Vec<(String, bool, u64)>,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is no signed JWT, or breaks the format.
    Malformed,
    /// No issuer of the settings has its `iss` and its `aud`.
    Issuer,
    /// The issuer does not allow its algorithm.
    Algorithm,
    /// The issuer has no key with its id.
    Key,
    Signature,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYet,
    /// It lives longer than `max-lifetime`.
    Lifetime,
    Subject,
    /// It is revoked, or the list of revocations cannot be read.
    Revoked,
    /// No rule matches.
    Rule,
}

impl Fault {
    const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Issuer,
        Self::Algorithm,
        Self::Key,
        Self::Signature,
        Self::Expired,
        Self::NotYet,
        Self::Lifetime,
        Self::Subject,
        Self::Revoked,
        Self::Rule,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYet => "not_yet_valid",
            Self::Lifetime => "lifetime",
            Self::Subject => "subject",
            Self::Revoked => "revoked",
            Self::Rule => "rule",
        }
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuers").field("issuers", &self.current.load().issuers.len()).finish_non_exhaustive()
    }
}

impl Issuers {
    /// The issuers of the settings. Their keys are not read yet.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn new(
        settings: IdentitySettings,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        rng: &dyn Rng,
    ) -> Result<Self, CryptoError> {
        let new = |settings| Issuer { settings: Arc::new(settings), source: Source::new() };
        Ok(Self {
            current: ArcSwap::from_pointee(Current {
                issuers: settings.issuers.into_iter().map(new).collect(),
                certificates: settings.certificates,
            }),
            generation: AtomicU64::new(0),
            verified: Cache::new(REMEMBERED),
            digests: TokenDigests::new(rng)?,
            fetch,
            waiting: Arc::new(Semaphore::new(WAITING)),
            clock,
            refused: [const { AtomicU64::new(0) }; Fault::ALL.len()],
        })
    }

    /// Replaces all issuers and rules. An issuer whose addresses are unchanged keeps its keys and revocations.
    pub fn replace(&self, settings: IdentitySettings) {
        let before = self.current.load_full();
        let keep = |settings: IssuerSettings| {
            let same = before.issuers.iter().find(|issuer| issuer.settings.has_same_sources(&settings));
            let source = same.map_or_else(Source::new, |issuer| Arc::clone(&issuer.source));
            Issuer { settings: Arc::new(settings), source }
        };
        self.current.store(Arc::new(Current {
            issuers: settings.issuers.into_iter().map(keep).collect(),
            certificates: settings.certificates,
        }));
        self.forget();
    }

    /// Reads keys and revocations that are due. Called every second.
    pub async fn read_due(&self) {
        let current = self.current.load_full();
        let now = self.clock.now();
        let read =
            current.issuers.iter().map(|issuer| issuer.source.read_due(&issuer.settings, &*self.fetch, now));
        if join_all(read).await.contains(&true) {
            self.forget();
        }
    }

    /// The holder of a token. `None` if the token is refused.
    pub async fn authenticate(&self, token: &str) -> Option<Arc<Identity>> {
        if token.len() > TOKEN {
            return self.refuse(Fault::Malformed, None);
        }
        let generation = self.generation.load(Ordering::Acquire);
        let digest = self.digests.digest(token);
        if let Some(found) = self.verified.get(&digest)
            && found.generation == generation
        {
            if self.clock.now() < found.identity.expires_at {
                return Some(found.identity);
            }
            self.verified.remove(&digest);
            return self.refuse(Fault::Expired, Some(&found.identity.issuer));
        }
        // Boxed, so that the future of a remembered token stays small.
        let identity = Arc::new(Box::pin(self.verify(token)).await?);
        self.verified.insert(digest, Verified { identity: Arc::clone(&identity), generation });
        Some(identity)
    }

    /// The holder of a client certificate with this name, which the caller has verified. `None` if no rule matches.
    pub fn identify(&self, name: &str) -> Option<Arc<Identity>> {
        let generation = self.generation.load(Ordering::Acquire);
        // No token has this character.
        let digest = self.digests.digest(&format!("\0{name}"));
        let now = self.clock.now();
        if let Some(found) = self.verified.get(&digest)
            && found.generation == generation
            && now < found.identity.expires_at
        {
            return Some(found.identity);
        }
        let current = self.current.load_full();
        let Some(settings) = &current.certificates else { return self.refuse(Fault::Issuer, None) };
        let claims = Claims::of_subject(name);
        let found = settings.rule(&claims).filter(|_| is_subject(name)).and_then(|rule| {
            identity(&settings.name, name, rule, &claims, now.saturating_add(Duration::from_secs(60)))
        });
        let Some(identity) = found.map(Arc::new) else {
            return self.refuse(Fault::Rule, Some(&settings.name));
        };
        self.verified.insert(digest, Verified { identity: Arc::clone(&identity), generation });
        Some(identity)
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let count = |fault: &Fault| (fault.as_str(), self.refused[*fault as usize].load(Ordering::Relaxed));
        let current = self.current.load();
        let of = |issuer: &Issuer| {
            let failures = issuer.source.failures.load(Ordering::Relaxed);
            (issuer.settings.name.clone(), issuer.source.has_keys(), failures)
        };
        Stats {
            refused: Fault::ALL.iter().map(count).collect(),
            issuers: current.issuers.iter().map(of).collect(),
        }
    }

    fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.verified.clear();
    }

    /// Reads the keys of an issuer for a request whose token names an unknown one. Returns whether they changed. The read goes
    /// on if the request does not wait for it any more.
    async fn read_for_request(&self, issuer: &Issuer) -> bool {
        let Ok(waiting) = Arc::clone(&self.waiting).try_acquire_owned() else { return false };
        let (issuer, fetch) = (issuer.clone(), Arc::clone(&self.fetch));
        let read = tokio::spawn(async move {
            let changed = issuer.source.read_unless_recent(&issuer.settings, &*fetch).await;
            drop(waiting);
            changed
        });
        timeout(REQUEST, read).await.is_ok_and(|read| read.unwrap_or(false))
    }

    /// Counts and logs a refusal. The log has the issuer of the settings and a fixed word, and nothing of the token.
    fn refuse<T>(&self, fault: Fault, issuer: Option<&str>) -> Option<T> {
        self.refused[fault as usize].fetch_add(1, Ordering::Relaxed);
        tracing::info!(issuer, reason = fault.as_str(), "a token is refused");
        None
    }

    async fn verify(&self, token: &str) -> Option<Identity> {
        let Ok(TokenData { header, claims }) = insecure_decode::<Claims>(token) else {
            return self.refuse(Fault::Malformed, None);
        };
        let current = self.current.load_full();
        let Some(issuer) = current.issuers.iter().find(|issuer| is_for(&issuer.settings, &claims)) else {
            return self.refuse(Fault::Issuer, None);
        };
        match self.verify_with(token, issuer, header.alg, header.kid.as_deref()).await {
            Ok(identity) => Some(identity),
            Err(fault) => self.refuse(fault, Some(&issuer.settings.name)),
        }
    }

    async fn verify_with(
        &self,
        token: &str,
        issuer: &Issuer,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<Identity, Fault> {
        let Issuer { settings, source } = issuer;
        if !settings.algorithms.contains(&algorithm) {
            return Err(Fault::Algorithm);
        }
        let key = match source.key(id, algorithm) {
            Some(key) => key,
            None => {
                if self.read_for_request(issuer).await {
                    self.forget();
                }
                source.key(id, algorithm).ok_or(Fault::Key)?
            }
        };
        let TokenData { claims, .. } = decode::<Claims>(token, &key, &validation(settings, algorithm))
            .map_err(|error| fault_of(&error))?;
        // The token is of no use without a proof of its sender, which is not checked here.
        if claims.is_present("cnf") {
            return Err(Fault::Malformed);
        }
        let expires_at = check_times(&claims, settings.max_lifetime, self.clock.now())?;
        let subject = claims.text("sub").filter(|subject| is_subject(subject)).ok_or(Fault::Subject)?;
        if source.is_revoked(settings, claims.text("jti")) {
            return Err(Fault::Revoked);
        }
        let rule = settings.rule(&claims).ok_or(Fault::Rule)?;
        identity(&settings.name, subject, rule, &claims, expires_at).ok_or(Fault::Rule)
    }
}

fn is_subject(text: &str) -> bool {
    (1..=SUBJECT).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// `None` if the claims have no user for the rule.
fn identity(
    issuer: &str,
    subject: &str,
    rule: &Rule,
    claims: &Claims,
    expires_at: Timestamp,
) -> Option<Identity> {
    Some(Identity {
        issuer: issuer.into(),
        subject: subject.into(),
        rule: rule.name.as_str().into(),
        user: rule.user(claims)?,
        scopes: rule.scopes,
        realm: rule.realm.clone(),
        realms: rule.realms.clone(),
        rate: rule.rate,
        expires_at,
    })
}

/// Why the library refuses a token of a known issuer for a known key.
fn fault_of(error: &jsonwebtoken::errors::Error) -> Fault {
    match error.kind() {
        ErrorKind::InvalidSignature => Fault::Signature,
        _ => Fault::Malformed,
    }
}

/// Whether a token claims to be of this issuer and for this service.
fn is_for(settings: &IssuerSettings, claims: &Claims) -> bool {
    claims.text("iss") == Some(&settings.issuer)
        && claims.has("aud", |audience| settings.audiences.iter().any(|one| one == audience))
}

/// What the library checks: signature, issuer and audience. Times are checked by [`check_times`] against our clock.
fn validation(settings: &IssuerSettings, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[&settings.issuer]);
    validation.set_audience(&settings.audiences);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_exp = false;
    validation
}

/// From when on the token is refused.
fn check_times(claims: &Claims, max_lifetime: Duration, now: Timestamp) -> Result<Timestamp, Fault> {
    let time = |name| claims.time(name).map_err(|_| Fault::Malformed);
    let now = now.as_seconds_and_nanos().0;
    let exp = time("exp")?.ok_or(Fault::Malformed)?;
    let end = exp.saturating_add(LEEWAY);
    if now >= end {
        return Err(Fault::Expired);
    }
    let issued = time("iat")?;
    if [time("nbf")?, issued].into_iter().flatten().any(|begin| begin > now + LEEWAY) {
        return Err(Fault::NotYet);
    }
    // Without a time of issue, the rest of the lifetime counts.
    let lifetime = exp.saturating_sub(issued.unwrap_or(now));
    if u64::try_from(lifetime).is_ok_and(|seconds| seconds > max_lifetime.as_secs()) {
        return Err(Fault::Lifetime);
    }
    Timestamp::checked(end.saturating_mul(1_000_000)).ok_or(Fault::Malformed)
}

#[cfg(test)]
mod tests;
