//! The house put together: data directory, KEK file, store, audit log, service.
//!
//! Both `serve` and a command that finds no server running open it this way, and only one of them can: a lock file in the
//! data directory sees to that.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use agentrouter_audit::{Audit, AuditHead};
use agentrouter_crypto::SystemRng;
use agentrouter_keyring::Keyring;
use agentrouter_model::{Clock, SystemClock};
use agentrouter_service::{InternalKeys, Parts, Service, UnlockError, needed_kek, unlock};
use agentrouter_store::{Lock, Store, StoreError};
use anyhow::{Context, bail};

use crate::settings::{AuditSync, Settings};
use crate::storage::{self, Opened};

/// The audit log's folder in the data directory.
pub const AUDIT: &str = "audit";
/// The environment for a first caller, in the data directory.
pub const BOOTSTRAP: &str = "bootstrap.env";
/// The socket for commands beside a running server, in the data directory.
pub const SOCKET: &str = "admin.sock";

/// An open instance.
pub struct Instance {
    /// The operations, on the open store.
    pub service: Arc<Service>,
    store: Arc<dyn Store>,
    /// Let go of last.
    _lock: Option<Lock>,
}

impl Instance {
    /// Opens the house, and builds it first where there is nothing yet.
    ///
    /// # Errors
    /// When the data directory cannot be used, another process serves it, the KEK file is not the store's, or the store
    /// or the audit log cannot be opened.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        make_directory(&settings.data_dir)?;
        let opened = storage::open(settings, &SystemClock, &SystemRng).await?;
        if opened.store.unfinished_import().await?.is_some() {
            return Err(StoreError::Unfinished.into());
        }
        let instance = Self::over(settings, opened).await?;
        // On a database of many servers a restore may have begun since.
        if instance.service.store().unfinished_import().await?.is_some() {
            instance.close().await;
            return Err(StoreError::Unfinished.into());
        }
        Ok(instance)
    }

    /// Builds the house on a store that is open and whole.
    async fn over(settings: &Settings, opened: Opened) -> anyhow::Result<Self> {
        let new = !settings.kek_file.exists();
        let keyring = keyring(settings, &*opened.store, &SystemClock, &SystemRng).await?;
        let keys = match unlock(&*opened.store, &keyring, &SystemRng).await {
            Err(error @ UnlockError::MissingKek { .. }) if new => {
                // Another server on the same database was first. Nothing was ever wrapped by the KEK made just now.
                std::fs::remove_file(&settings.kek_file)?;
                return Err(error.into());
            }
            unlocked => unlocked?,
        };
        Self::with(settings, opened, keyring, keys, None).await
    }

    /// Builds the house on a store with keys that may not be in it yet, so that what is put into the store is on record
    /// before it is. `head` is what is known of the audit log if the store knows nothing of it.
    ///
    /// # Errors
    /// When the audit log cannot be opened, or the store cannot be read.
    pub async fn with(
        settings: &Settings,
        opened: Opened,
        keyring: Keyring,
        keys: InternalKeys,
        head: Option<(u64, [u8; 32])>,
    ) -> anyhow::Result<Self> {
        let Opened { store, lock } = opened;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let audit_dir = settings.data_dir.join(AUDIT);
        make_directory(&audit_dir)?;
        let audit_settings = agentrouter_audit::Settings {
            dir: audit_dir,
            max_bytes: settings.audit_max_bytes,
            sync: match settings.audit_sync {
                AuditSync::Second => agentrouter_audit::Sync::Second,
                AuditSync::Fsync => agentrouter_audit::Sync::Fsync,
            },
            clock: Arc::clone(&clock),
        };
        let head = store.audit_head().await?.or(head).map(|(seq, mac)| AuditHead { seq, mac });
        let audit = Audit::open(audit_settings, keys.audit, head).with_context(|| {
            format!("the audit log in {} cannot be opened", settings.data_dir.join(AUDIT).display())
        })?;
        let service = Service::new(Parts {
            store: Arc::clone(&store),
            keyring,
            audit,
            page_tokens: keys.page_tokens,
            clock,
            rng: Arc::new(SystemRng),
            settings: agentrouter_service::Settings {
                grace: settings.grace,
                cache_bytes: settings.cache_bytes,
            },
        });
        Ok(Self { service, store, _lock: lock })
    }

    /// Closes the house: every record written and on disk, the last of them kept in the store, the store closed.
    pub async fn close(self) {
        self.service.settle().await;
        let owed = self.service.stats().owed_records;
        if owed > 0 {
            tracing::error!(owed, "outcome records are lost: the audit log did not take them");
        }
        if let Err(error) = self.service.audit().close().await {
            tracing::error!(error = &error as &dyn std::error::Error, "the audit log was not closed well");
        }
        self.service.keep_audit_head().await;
        self.store.close().await;
    }
}

/// The KEK file: a new one for an empty store, and for no other.
async fn keyring(
    settings: &Settings,
    store: &dyn Store,
    clock: &dyn Clock,
    rng: &dyn agentrouter_model::Rng,
) -> anyhow::Result<Keyring> {
    let path = &settings.kek_file;
    let there = path.try_exists();
    if there.with_context(|| format!("the KEK file {} cannot be looked at", path.display()))? {
        return Ok(Keyring::load(path)?);
    }
    if let Some(expected) = needed_kek(store).await? {
        bail!(
            "the store needs KEK '{expected}', but there is no KEK file {}; restore the KEK file that belongs to this store, or copy it from another server on the same database",
            path.display()
        );
    }
    Ok(Keyring::create(path, clock, rng)?)
}

/// Makes a directory that only its owner can enter, unless it is there.
pub fn make_directory(path: &Path) -> anyhow::Result<()> {
    if !path.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("the directory {} cannot be made", path.display()))?;
        return Ok(());
    }
    // An empty one is ours to close, as one that we make would be.
    if std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()) {
        let closed = std::fs::Permissions::from_mode(0o700);
        return std::fs::set_permissions(path, closed)
            .with_context(|| format!("the directory {} cannot be closed to others", path.display()));
    }
    let mode = std::fs::metadata(path)
        .with_context(|| format!("the directory {} cannot be read", path.display()))?
        .permissions()
        .mode();
    if mode & 0o022 != 0 {
        bail!(
            "the directory {} can be changed by others; take that away with: chmod go-w {}",
            path.display(),
            path.display()
        );
    }
    if mode & 0o055 != 0 {
        tracing::warn!("the data directory can be read by others; chmod 0700 would change that");
    }
    Ok(())
}
