//! An instance: the data directory, the KEK file, the store, the audit log, and the service built on them.
//!
//! `serve` opens an instance, and so does a command that finds no server running. A lock file in the data directory lets
//! only one process do so.

use std::sync::Arc;

use agentrouter_audit::{Audit, HeadRow, last_time};
use agentrouter_crypto::SystemRng;
use agentrouter_keyring::Keyring;
use agentrouter_model::{Clock, ForwardClock, SystemClock};
use agentrouter_service::{InternalKeys, Parts, Service, UnlockError, needed_kek, unlock};
use agentrouter_store::{Lock, RowTags, Store, StoreError};
use anyhow::{Context, bail};

use crate::belonging::{Belonging, Engine, STORE};
use crate::generation::{self, KEY_MANIFEST, Remembered};
use crate::hint::Advised;
use crate::kek;
use crate::permissions::{check_kek_owner, make_directory};
use crate::replica;
use crate::settings::{AuditCompression, AuditSync, Settings};
pub use crate::storage::AUDIT;
use crate::storage::{self, NEW_STORE, Opened};

/// The environment file of a first caller, in the data directory.
pub const BOOTSTRAP: &str = "bootstrap.env";
/// The socket for commands beside a running server, in the data directory.
pub const SOCKET: &str = "admin.sock";

/// The behaviour when the data directory has the audit log of a store that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingStore {
    /// Fail: the database's address may be wrong, or a file may be lost.
    Refuse,
    /// Begin with an empty store, and fail if there is a store.
    Replace,
}

/// What a machine's clock that is behind the last audit record means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierClock {
    /// It was set back. The time continues from that record, so that nothing that has expired works again.
    RunOn,
    /// It was wrong before and is right now.
    Accept,
}

/// An open instance.
pub struct Instance {
    /// The operations, on the open store.
    pub service: Arc<Service>,
    store: Arc<dyn Store>,
    belonging: Belonging,
    /// Released last.
    _lock: Option<Lock>,
}

impl Instance {
    /// Opens the instance, and creates the missing parts of a new one.
    ///
    /// # Errors
    /// When the data directory cannot be used, another process serves it, the KEK file is not the store's, or the store
    /// or the audit log cannot be opened. When the directory belongs to another store than the settings name.
    pub async fn open(settings: &Settings, missing: MissingStore) -> anyhow::Result<Self> {
        Self::open_at(settings, missing, EarlierClock::RunOn).await
    }

    /// The same. `earlier` says what a clock that is behind the last audit record means.
    ///
    /// # Errors
    /// As [`Instance::open`].
    pub async fn open_at(
        settings: &Settings,
        missing: MissingStore,
        earlier: EarlierClock,
    ) -> anyhow::Result<Self> {
        make_directory(&settings.data_dir)?;
        if missing == MissingStore::Refuse {
            storage::require_own_database(settings)?;
        }
        let opened = storage::open(settings, &SystemClock, &SystemRng).await?;
        if opened.store.unfinished_import().await?.is_some() {
            return Err(StoreError::Unfinished.into());
        }
        check_belonging(settings, &*opened.store, missing).await?;
        let instance = Self::over(settings, opened, clock(settings, earlier)).await?;
        instance.service.authenticate_rows().await?;
        instance.service.refresh_keks().await?;
        instance.keep_belonging(settings)?;
        // On a database of several servers a restore may have begun since.
        if instance.service.store().unfinished_import().await?.is_some() {
            instance.close().await;
            return Err(StoreError::Unfinished.into());
        }
        Ok(instance)
    }

    /// Builds the instance on a store that is open and complete.
    async fn over(settings: &Settings, opened: Opened, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let new = !settings.kek_file().exists();
        let keyring = keyring(settings, &*opened.store, &SystemClock, &SystemRng).await?;
        let keys = match unlock(&*opened.store, &keyring, &SystemRng).await {
            Err(error @ UnlockError::MissingKek { .. }) if new => {
                // Another server on the same database was first. The KEK that was just made has never wrapped a key.
                std::fs::remove_file(settings.kek_file())?;
                return Err(error.into());
            }
            unlocked => unlocked?,
        };
        Belonging::new(Engine::of(settings), &keys.audit).check(&settings.data_dir)?;
        check_manifest(settings, &*opened.store, &keys).await?;
        let row_tags = generation::row_tags(&settings.data_dir, &keys.audit)?;
        Self::assemble(settings, opened, keyring, keys, row_tags, HeadRow::Missing, clock).await
    }

    /// Builds the instance on a store that may not have `keys` yet, so that the audit log records an import before its
    /// start. `row` is the known head of the audit log, for a store that has none. `same`: the store is filled from the
    /// store of this directory.
    ///
    /// # Errors
    /// When the audit log cannot be opened, or the store cannot be read.
    pub async fn with(
        settings: &Settings,
        opened: Opened,
        keyring: Keyring,
        keys: InternalKeys,
        row: HeadRow,
        same: bool,
    ) -> anyhow::Result<Self> {
        Belonging::new(Engine::of(settings), &keys.audit).check(&settings.data_dir)?;
        let row_tags = generation::row_tags_of_import(&settings.data_dir, &keys.audit, same)?;
        let clock = clock(settings, EarlierClock::RunOn);
        Self::assemble(settings, opened, keyring, keys, row_tags, row, clock).await
    }

    async fn assemble(
        settings: &Settings,
        opened: Opened,
        keyring: Keyring,
        keys: InternalKeys,
        row_tags: Arc<dyn RowTags>,
        row: HeadRow,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let belonging = Belonging::new(Engine::of(settings), &keys.audit);
        let Opened { store, lock } = opened;
        let audit_dir = settings.data_dir.join(AUDIT);
        make_directory(&audit_dir)?;
        let audit_settings = agentrouter_audit::Settings {
            dir: audit_dir,
            max_bytes: settings.audit_max_bytes,
            sync: match settings.audit_sync {
                AuditSync::Second => agentrouter_audit::Sync::Second,
                AuditSync::Fsync => agentrouter_audit::Sync::Fsync,
            },
            epoch: store.epoch().await?,
            replica: match settings.database_url {
                Some(_) => replica::read(&settings.data_dir)?,
                None => None,
            },
            compress: settings.audit_compression == AuditCompression::Zstd,
            clock: Arc::clone(&clock),
        };
        let row = store.audit_head().await?.map_or(row, HeadRow::Kept);
        let audit = Audit::open(audit_settings, keys.audit, row).with_context(|| {
            format!("the audit log in {} cannot be opened", settings.data_dir.join(AUDIT).display())
        })?;
        log_faults(&audit);
        let service = Service::new(Parts {
            store: Arc::clone(&store),
            keyring,
            kek_file: kek::file(settings)?,
            audit,
            page_tokens: keys.page_tokens,
            row_tags,
            clock,
            rng: Arc::new(SystemRng),
            settings: agentrouter_service::Settings {
                grace: settings.grace,
                cache_bytes: settings.cache_bytes,
                list_bytes: settings.limits.list_size as usize,
                list_steps: settings.limits.list_steps,
                sweep_rate: settings.sweep_rate,
                sweep_interval: settings.sweep_interval,
                validated_versions: settings.limits.validated_versions,
            },
        });
        // The head is stored, and its faults are recorded, before the first record.
        let _ = service.audit().flush().await;
        service.write_audit_head().await;
        Ok(Self { service, store, belonging, _lock: lock })
    }

    /// Records in the data directory that it belongs to this store, which the settings name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_belonging(&self, settings: &Settings) -> anyhow::Result<()> {
        self.belonging.write(&settings.data_dir)
    }

    /// Records in the data directory that it belongs to this store, which is one of `engine`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_belonging_as(&self, settings: &Settings, engine: Engine) -> anyhow::Result<()> {
        Belonging { engine, ..self.belonging.clone() }.write(&settings.data_dir)
    }

    /// Closes the instance: writes every audit record to the disk, keeps the last one in the store, closes the store.
    pub async fn close(self) {
        self.service.write_owed().await;
        let owed = self.service.stats().owed_records;
        if owed > 0 {
            tracing::error!(owed, "outcome records are lost: the audit log could not be written");
        }
        if let Err(error) = self.service.audit().close().await {
            tracing::error!(error = &error as &dyn std::error::Error, "the audit log could not be closed");
        }
        self.service.write_audit_head().await;
        self.store.close().await;
    }
}

/// The machine's clock, and none before the last audit record unless an earlier one is accepted.
fn clock(settings: &Settings, earlier: EarlierClock) -> Arc<dyn Clock> {
    let clock = ForwardClock::default();
    // A log that cannot be read cannot be opened either.
    if earlier == EarlierClock::RunOn
        && let Ok(Some(last)) = last_time(&settings.data_dir.join(AUDIT))
    {
        clock.raise(last);
    }
    Arc::new(clock)
}

/// Logs what was wrong with the audit log when it was opened.
fn log_faults(audit: &Audit) {
    for fault in audit.head_faults() {
        tracing::error!("{fault}; keep a copy of the data directory, and run 'audit verify'");
    }
    if audit.chain_broken() {
        tracing::error!(
            "the audit log was truncated or replaced: it does not contain the record that is remembered as its head; keep a copy of the data directory, and run 'audit verify'"
        );
    }
}

/// Checks that this data directory may say which rows of the store are authentic.
///
/// The rows of a store whose key manifest does not say that they have tags are authenticated as they are, once: an older
/// program wrote it. Only a server whose directory an older program used does that. Otherwise an attacker who can write to
/// the database could remove the manifest, forge a row, and wait for a new server.
async fn check_manifest(settings: &Settings, store: &dyn Store, keys: &InternalKeys) -> anyhow::Result<()> {
    let dir = &settings.data_dir;
    match generation::read(dir, &keys.audit.row_key()?)? {
        Remembered::Known(_) => Ok(()),
        Remembered::Foreign => bail!(Advised::new(
            format!("{} is damaged, or it is another store's", dir.join(KEY_MANIFEST).display()),
            "name the data directory that belongs to this store; if only that file is damaged, remove it"
        )),
        Remembered::Nothing
            if !storage::has_audit_log(dir)?
                && !generation::is_authenticated(dir, &keys.audit, store).await?
                && (store.has_keys().await? || store.has_secrets().await?) =>
        {
            bail!(Advised::new(
                format!(
                    "the rows of this store are not authenticated, and no server has served it from {}",
                    dir.display()
                ),
                "first start a server whose data directory has the audit log of this store"
            ))
        }
        Remembered::Nothing => Ok(()),
    }
}

/// Checks that an empty store is in a data directory that never had another. For [`MissingStore::Replace`], moves the
/// audit log and the first key of the other store aside, which have another store's keys, and the name of that store.
async fn check_belonging(
    settings: &Settings,
    store: &dyn Store,
    missing: MissingStore,
) -> anyhow::Result<()> {
    let dir = &settings.data_dir;
    let is_empty = needed_kek(store).await?.is_none();
    match missing {
        MissingStore::Replace if !is_empty => {
            let hint = "start without --new-store, or name another data directory or database";
            bail!(Advised::new("the store is not empty", hint));
        }
        MissingStore::Refuse if is_empty && storage::has_served(dir)? => {
            let (database, restore) = match settings.database_url {
                Some(_) => (
                    "PostgreSQL database",
                    format!(
                        "set --database-url ({}) to the database of that store, or restore a backup",
                        storage::URL_VARIABLE
                    ),
                ),
                None => ("embedded database", format!("restore {}, or a backup", storage::DATABASE)),
            };
            let what = format!(
                "{} belongs to another store: a store has served from it, and the {database} is empty",
                dir.display()
            );
            bail!(Advised::new(what, format!("{restore}; {NEW_STORE}")));
        }
        MissingStore::Refuse => {}
        MissingStore::Replace => {
            let suffix = SystemClock.now().as_millis();
            for name in
                [AUDIT, BOOTSTRAP, KEY_MANIFEST, STORE].into_iter().filter(|name| dir.join(name).exists())
            {
                let aside = dir.join(format!("{name}.{suffix}"));
                std::fs::rename(dir.join(name), &aside)
                    .with_context(|| format!("{} cannot be renamed", dir.join(name).display()))?;
                tracing::warn!("--new-store: {name} of the earlier store is now {}", aside.display());
            }
        }
    }
    Ok(())
}

/// The KEK file: a new one for an empty store, and for no other.
async fn keyring(
    settings: &Settings,
    store: &dyn Store,
    clock: &dyn Clock,
    rng: &dyn agentrouter_model::Rng,
) -> anyhow::Result<Keyring> {
    let path = settings.kek_file();
    let there = path.try_exists();
    if there.with_context(|| format!("the KEK file {} cannot be looked at", path.display()))? {
        check_kek_owner(&path)?;
        return kek::load(settings);
    }
    if let Some(expected) = needed_kek(store).await? {
        let what = format!("the store needs KEK '{expected}', but there is no KEK file {}", path.display());
        bail!(Advised::new(what, UnlockError::WRONG_KEK_FILE));
    }
    Ok(Keyring::create(&kek::file(settings)?, clock, rng)?)
}
