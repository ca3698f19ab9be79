//! Asks at intervals whether the root key may still be used.
//!
//! Only a refusal counts: the KMS says that the key is disabled or destroyed, or that this server may not use it. The server
//! then drops its KEKs and every key that they unwrapped, and asks more often until it is allowed again. An outage of the KMS
//! is a warning and a metric. Nothing else changes, because the KEKs are in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentrouter_keyring::{KekFile, Keyring, KeyringError, RootError};
use agentrouter_service::{Service, check_keks};

use crate::hint;
use crate::settings::{KekProvider, KekSettings};

/// The longest time until a server that lost its KEKs asks again.
const WHILE_DENIED: Duration = Duration::from_secs(10);

/// How often the root key was checked, by outcome.
#[derive(Debug, Default)]
pub struct Rechecks {
    /// The root key unwrapped the KEKs.
    pub allowed: AtomicU64,
    /// The root key was denied.
    pub denied: AtomicU64,
    /// The root key could not be reached, or its response could not be used.
    pub failed: AtomicU64,
}

/// The checks of this process.
pub static RECHECKS: Rechecks =
    Rechecks { allowed: AtomicU64::new(0), denied: AtomicU64::new(0), failed: AtomicU64::new(0) };

/// Checks the root key of a running server.
pub struct Recheck {
    file: KekFile,
    every: Duration,
}

impl Recheck {
    /// The checks that the settings ask for. None for a root key that cannot be denied.
    pub fn of(settings: &KekSettings, file: KekFile) -> Option<Self> {
        let can_deny = !matches!(settings.provider, KekProvider::File | KekProvider::Passphrase);
        (can_deny && !settings.recheck.is_zero()).then_some(Self { file, every: settings.recheck })
    }

    /// Checks at intervals, for ever.
    pub async fn run(self, service: Arc<Service>) {
        loop {
            let pause = if service.has_keks() { self.every } else { self.every.min(WHILE_DENIED) };
            tokio::time::sleep(pause).await;
            self.check(&service).await;
        }
    }

    /// Checks once.
    pub(super) async fn check(&self, service: &Service) {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || Keyring::load(&file)).await;
        let read = read
            .unwrap_or_else(|_| Err(RootError::Unusable { what: "the check panicked".to_owned() }.into()));
        match read {
            Ok(keyring) => {
                RECHECKS.allowed.fetch_add(1, Ordering::Relaxed);
                if !service.has_keks() {
                    take_back(service, keyring).await;
                }
            }
            Err(error @ KeyringError::Root(RootError::Denied { .. })) => {
                RECHECKS.denied.fetch_add(1, Ordering::Relaxed);
                if service.has_keks() {
                    service.drop_keks();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the server has dropped its KEKs: values cannot be read or written until the root key is allowed again"
                    );
                }
            }
            Err(error) => {
                RECHECKS.failed.fetch_add(1, Ordering::Relaxed);
                let hint = hint::of(&error).join("; ");
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    hint,
                    "the root key could not be checked; the server keeps the KEKs that it has"
                );
            }
        }
    }
}

/// Uses the KEKs again, if they are still the store's.
async fn take_back(service: &Service, keyring: Keyring) {
    match check_keks(&**service.store(), &keyring).await {
        Ok(checks) => {
            // The store says which KEK is active.
            let known = checks.iter().map(|(id, _)| id).chain([keyring.active().id()]);
            let newest = known.max_by_key(|id| keyring.rank(id)).and_then(|id| keyring.with_active(id));
            service.use_keyring(newest.unwrap_or(keyring));
            tracing::info!("the root key is allowed again: the server has its KEKs");
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the KEKs do not fit the store");
        }
    }
}
