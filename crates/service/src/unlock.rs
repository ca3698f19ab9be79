//! Checks that the keyring belongs to the store, and unwraps the service's own keys.
//!
//! The server and its commands call it before the first request. The store holds a check value of every KEK that ever
//! wrapped anything in it and is not retired (HKDF of the KEK, see `crypto`). A keyring that lacks one of them, or has another key under its
//! id, stops the start: a server that started would fail every request.

use agentrouter_crypto::{CryptoError, InternalKey, Kek, digests_equal};
use agentrouter_keyring::Keyring;
use agentrouter_model::{KekId, Rng};
use agentrouter_store::{Store, StoreError};

/// The purpose of the key that chains the audit log.
pub const AUDIT: &str = "audit";
/// The purpose of the key that authenticates page tokens.
pub const PAGE_TOKENS: &str = "page-tokens";

/// The service's own keys, unwrapped.
pub struct InternalKeys {
    /// Chains the audit log.
    pub audit: InternalKey,
    /// Authenticates page tokens.
    pub page_tokens: InternalKey,
}

/// Why the store cannot be served with this keyring.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The keyring lacks a KEK that the store needs.
    #[error("the store needs KEK '{expected}', but the KEK file holds {found}")]
    MissingKek {
        /// The KEK that the store needs.
        expected: KekId,
        /// The ids of the KEKs in the keyring, for people.
        found: String,
    },
    /// The keyring has another key under the id of a KEK.
    #[error("the store needs KEK '{expected}', and the KEK file has another key under that name")]
    WrongKek {
        /// The KEK that the store needs.
        expected: KekId,
    },
    /// The server has dropped its KEKs.
    #[error("the server has no KEKs at the moment: their root key is denied to it")]
    NoKeks,
    /// One of the service's own keys does not unwrap.
    #[error("the store is damaged: its own key for '{purpose}' does not unwrap")]
    InternalKey {
        /// The key's purpose.
        purpose: &'static str,
        /// The error of `crypto`.
        source: CryptoError,
    },
    /// One of the service's own keys is missing from a store that has been in use. A new key would hide that: the older
    /// audit records could no longer be verified.
    #[error("the store is damaged: its own key for '{purpose}' is missing, and it has been in use")]
    NoInternalKey {
        /// The key's purpose.
        purpose: &'static str,
    },
    /// A new key could not be generated.
    #[error("a key could not be generated")]
    Crypto(#[from] CryptoError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl UnlockError {
    /// What to do with a KEK file that lacks a KEK of the store.
    pub const WRONG_KEK_FILE: &str = "restore the KEK file that belongs to this store, or copy it from another server on the same database";

    /// What to do.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MissingKek { .. } | Self::WrongKek { .. } => Some(Self::WRONG_KEK_FILE),
            Self::NoKeks => {
                Some("allow the server to use the root key again; its log has the response of the KMS")
            }
            Self::InternalKey { .. } | Self::NoInternalKey { .. } => Some("restore the store from a backup"),
            // The hint of its source.
            Self::Crypto(_) | Self::Store(_) => None,
        }
    }
}

/// A KEK that the store needs. `None` if the store is empty.
///
/// # Errors
/// When the store cannot be read.
pub async fn needed_kek(store: &dyn Store) -> Result<Option<KekId>, StoreError> {
    match store.kek_checks().await?.into_iter().next() {
        Some((id, _)) => Ok(Some(id)),
        // The first server of this store stopped between its two first writes.
        None => Ok(store.internal_key(AUDIT).await?.map(|(id, _)| id)),
    }
}

/// Checks the keyring against the store and unwraps the service's own keys. Writes the active KEK's check value and new
/// keys to an empty store.
///
/// # Errors
/// When the keyring is not the store's, or the store cannot be read or written.
pub async fn unlock(
    store: &dyn Store,
    keyring: &Keyring,
    rng: &dyn Rng,
) -> Result<InternalKeys, UnlockError> {
    let checks = check_keks(store, keyring).await?;
    // The audit key is the first write. If several servers with different KEKs start on an empty store at once, one of
    // them inserts it. The others find it wrapped under a KEK that they lack, before they write anything.
    let (audit_kek, audit) = internal_key(store, keyring, rng, AUDIT).await?;
    // The active KEK of the store is the newest of which it has the check value. An older one that this file calls active
    // is not, or is retired. A KEK that wraps a key of the service was active, also if its check value was deleted.
    let newest = [keyring.active().id(), &audit_kek].into_iter().max_by_key(|id| keyring.rank(id));
    if let Some(newest) = newest.and_then(|id| keyring.kek(id))
        && checks.iter().all(|(id, _)| keyring.rank(id) < keyring.rank(newest.id()))
    {
        store.insert_kek_check(newest.id(), &newest.check_value()?).await?;
    }
    let (_, page_tokens) = internal_key(store, keyring, rng, PAGE_TOKENS).await?;
    Ok(InternalKeys { audit, page_tokens })
}

/// Checks the keyring against the store and changes nothing. Returns the check value of every KEK that the store needs.
///
/// # Errors
/// When the keyring is not the store's, or the store cannot be read.
pub async fn check_keks(store: &dyn Store, keyring: &Keyring) -> Result<Vec<(KekId, [u8; 32])>, UnlockError> {
    let checks = store.kek_checks().await?;
    for (id, check) in &checks {
        let kek = needed(keyring, id)?;
        if !digests_equal(&kek.check_value()?, check) {
            return Err(UnlockError::WrongKek { expected: id.clone() });
        }
    }
    Ok(checks)
}

/// Unwraps one of the service's own keys, and returns it with the id of the KEK that unwrapped it. Generates it first if the
/// store has not been in use.
pub(crate) async fn internal_key(
    store: &dyn Store,
    keyring: &Keyring,
    rng: &dyn Rng,
    purpose: &'static str,
) -> Result<(KekId, InternalKey), UnlockError> {
    let (kek_id, wrapped) = match store.internal_key(purpose).await? {
        Some(stored) => stored,
        // The first API key is issued after these keys exist, and every other write follows it.
        None if store.audit_head().await?.is_some() || store.has_keys().await? => {
            return Err(UnlockError::NoInternalKey { purpose });
        }
        None => {
            let kek = keyring.active();
            let wrapped = InternalKey::generate(rng)?.wrap(rng, kek, purpose)?;
            store.insert_internal_key(purpose, kek.id(), &wrapped).await?
        }
    };
    let key = unwrap_key(keyring, &kek_id, &wrapped, purpose)?;
    Ok((kek_id, key))
}

/// Unwraps one of the service's own keys from its stored form.
///
/// # Errors
/// When the keyring lacks its KEK, or it does not unwrap.
pub fn unwrap_key(
    keyring: &Keyring,
    kek_id: &KekId,
    wrapped: &[u8],
    purpose: &'static str,
) -> Result<InternalKey, UnlockError> {
    InternalKey::unwrap(needed(keyring, kek_id)?, purpose, wrapped)
        .map_err(|source| UnlockError::InternalKey { purpose, source })
}

/// The KEK `id`, or an error with the ids that the keyring has.
fn needed<'k>(keyring: &'k Keyring, id: &KekId) -> Result<&'k Kek, UnlockError> {
    keyring.kek(id).map(|kek| &**kek).ok_or_else(|| UnlockError::MissingKek {
        expected: id.clone(),
        found: keyring.ids().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", "),
    })
}
