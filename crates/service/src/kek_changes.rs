//! The KEKs of a running service: list, add, activate, retire. The server's own command line calls it, and no RPC does.
//!
//! * A KEK is active for a store when the store has its check value and the keyring has no newer KEK of which that is
//!   true. So an activation is one write to the store, and every server takes it from there. A writer to the database
//!   cannot activate a KEK, because it does not know its check value, and cannot bring back an older one.
//! * Every server looks at the store and at its KEK file again ([`Service::refresh_keks`]). On a database of several
//!   servers it reports which KEKs it holds.
//! * One change at a time: within this process by a lock, between processes by that of the store.
//!
//! The rewrapping of keys is in `rewrap`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentrouter_audit::Phase;
use agentrouter_crypto::{CryptoError, digests_equal};
use agentrouter_keyring::{KekFile, Keyring, KeyringError, Stamp};
use agentrouter_model::{KekId, Reason, Refusal, Timestamp};
use agentrouter_store::StoreError;
use agentrouter_store::wrapped_keys::{KEKS, KekHolder, KekLock};
use tokio::sync::OwnedMutexGuard;

use crate::kek_facts::Fact;
use crate::kek_record::{Disuse, KekRecord};
use crate::{AdminAct, Origin, Service, UnlockError, run_to_completion, store_refusal};

/// Why a change of KEKs was not made.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The audit log or the store failed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A rule forbids it.
    #[error("{what}")]
    Forbidden {
        /// Why.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The KEK file could not be changed.
    #[error("{}", changed(.0))]
    Keyring(#[from] KeyringError),
    /// The cryptographic library failed.
    #[error("a key could not be wrapped")]
    Crypto(#[from] CryptoError),
}

impl KekError {
    fn forbidden(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Forbidden { what: what.into(), hint: Some(hint.into()) }
    }
}

impl From<StoreError> for KekError {
    fn from(error: StoreError) -> Self {
        Self::Refused(store_refusal(&error))
    }
}

/// A KEK, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKek {
    /// Its id.
    pub id: KekId,
    /// Its state.
    pub state: KekState,
    /// When it was created, if the KEK file has it.
    pub created_at: Option<Timestamp>,
    /// How many keys it wraps.
    pub keys: u64,
    /// Since when it wraps none, or is retired.
    pub unused_since: Option<Timestamp>,
    /// The running servers that lack it.
    pub lacking: Vec<String>,
}

/// The state of a KEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KekState {
    /// It was added and not yet activated. It wraps nothing.
    Added,
    /// It wraps new keys.
    Active,
    /// It was active before. It only unwraps.
    Former,
    /// It was removed from the KEK file. Backups may need it.
    Retired,
    /// The store needs it, and the KEK file lacks it.
    Missing,
}

impl KekState {
    /// The state in a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Active => "active",
            Self::Former => "former",
            Self::Retired => "retired",
            Self::Missing => "missing",
        }
    }
}

/// An activation that was made.
#[derive(Debug)]
pub struct Activated {
    /// The active KEK.
    pub id: KekId,
    /// Why the KEK file does not say so. The store does.
    pub unwritten: Option<KeyringError>,
}

/// What a service knows of its KEK file and of other servers.
#[derive(Debug)]
pub(crate) struct KekWatch {
    /// The KEK file.
    file: KekFile,
    /// One change at a time.
    changes: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The KEK file when it was last read.
    stamp: Option<Stamp>,
    /// Whether the next look reads the file again, because it could not be read for a reason that passes.
    is_unread: bool,
    /// A KEK that the store needs and the keyring lacks.
    missing: Option<KekId>,
    /// Why the KEK file cannot be used.
    fault: Option<KekFileFault>,
    /// Whether this service is a server that reports its KEKs.
    reports: bool,
}

/// Why the KEK file of a running server cannot be used. The server has its KEKs in memory and would not start again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KekFileFault {
    /// It lacks a KEK that the store uses, or has another key under its id.
    Lacks(KekId),
    /// It cannot be read or unwrapped. The log says why.
    Unusable,
}

/// Held during a change.
pub(crate) struct KekChange {
    _here: OwnedMutexGuard<()>,
    _everywhere: KekLock,
}

impl KekWatch {
    pub(crate) fn new(file: KekFile) -> Self {
        let stamp = Stamp::of(file.path());
        let state = Mutex::new(Seen { stamp, ..Seen::default() });
        Self { file, changes: Arc::default(), state }
    }

    fn stamp(&self) -> Option<Stamp> {
        Stamp::of(self.file.path())
    }

    /// Reads or changes the KEK file on a thread for blocking work: its root key may be in a KMS.
    async fn with_file<T: Send + 'static>(
        &self,
        act: impl FnOnce(&KekFile) -> Result<T, KeyringError> + Send + 'static,
    ) -> Result<T, KeyringError> {
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || act(&file)).await;
        done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(KeyringError::Busy),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this service reports its KEKs.
    pub(crate) fn report(&self) {
        self.seen().reports = true;
    }
}

/// Runs a change of KEKs to completion, also if the client of the command disconnects.
pub(crate) async fn complete<T: Send + 'static>(
    work: impl Future<Output = Result<T, KekError>> + Send + 'static,
) -> Result<T, KekError> {
    run_to_completion(work).await.unwrap_or_else(|_| Err(Refusal::new(Reason::Internal).into()))
}

impl Service {
    /// The keyring, for a command.
    pub(crate) fn held_keyring(&self) -> Result<Arc<Keyring>, KekError> {
        self.keyring().ok_or_else(|| {
            let error = UnlockError::NoKeks;
            KekError::Forbidden { what: error.to_string(), hint: error.hint().map(str::to_owned) }
        })
    }

    /// A KEK that the store needs and the keyring lacks, as last seen. The server is not ready then.
    pub fn missing_kek(&self) -> Option<KekId> {
        self.kek_watch.seen().missing.clone()
    }

    /// Why the KEK file cannot be used, as last seen.
    pub fn kek_file_fault(&self) -> Option<KekFileFault> {
        self.kek_watch.seen().fault.clone()
    }

    /// Reads the KEK file again if it changed, takes the active KEK of the store, and reports the KEKs of this server.
    /// Called at the start, every ten seconds, and when another server has changed the KEKs.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn refresh_keks(&self) -> Result<(), StoreError> {
        let checks = self.store.kek_checks().await?;
        self.read_kek_file_if_changed(&checks).await;
        let Some(keyring) = self.keyring() else { return Ok(()) };
        let holds = |(id, check): &&(KekId, [u8; 32])| {
            let value = keyring.kek(id).and_then(|kek| kek.check_value().ok());
            value.is_some_and(|value| digests_equal(&value, check))
        };
        let missing = checks.iter().find(|check| !holds(check)).map(|(id, _)| id.clone());
        if let Some(id) = &missing
            && self.kek_watch.seen().missing.as_ref() != Some(id)
        {
            tracing::error!(kek = %id, "the KEK file lacks a KEK that the store uses: this server is not ready");
        }
        self.kek_watch.seen().missing = missing;
        let known = checks.iter().filter(holds).map(|(id, _)| id);
        let newest = known.chain([keyring.active().id()]).max_by_key(|id| keyring.rank(id));
        if let Some(newest) = newest
            && newest != keyring.active().id()
        {
            tracing::info!(kek = %newest, "another KEK is active");
            self.change_keyring(|present| present.with_active(newest));
            self.write_active(newest).await;
        }
        self.report_keks().await
    }

    /// Writes the active KEK to the file, so that this server knows it also if the store no longer says so. A file that
    /// cannot be written is copied from another server.
    async fn write_active(&self, id: &KekId) {
        let id = id.clone();
        match self.kek_watch.with_file(move |file| Keyring::activate(file, &id)).await {
            Ok(keyring) => self.take(keyring),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the active KEK could not be written to the KEK file; copy the file from the server that activated it"
            ),
        }
    }

    /// Refuses a change of a KEK file that lacks a KEK in memory: after it, no server might have that KEK.
    async fn require_whole_file(&self, present: &Keyring) -> Result<(), KekError> {
        let read = self.kek_watch.with_file(|file| Keyring::load(file)).await?;
        if read.covers(present) {
            return Ok(());
        }
        Err(KekError::forbidden(
            "the KEK file was replaced, and lacks a KEK that this server has in memory",
            "put the newest copy of the KEK file back, and do not restart the server before",
        ))
    }

    /// Whether the KEK file was changed since it was read. Costs one system call.
    pub(crate) fn is_kek_file_changed(&self) -> bool {
        self.kek_watch.stamp() != self.kek_watch.seen().stamp
    }

    pub(crate) async fn look_at_keks(&self) {
        if let Err(error) = self.refresh_keks().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the KEKs of the store could not be read"
            );
        }
    }

    async fn report_keks(&self) -> Result<(), StoreError> {
        if !self.kek_watch.seen().reports {
            return Ok(());
        }
        let Some(keyring) = self.keyring() else { return Ok(()) };
        let ids: Vec<KekId> = keyring.ids().cloned().collect();
        self.store.report_keks(&ids, keyring.active().id()).await
    }

    /// Takes a changed KEK file, unless it lacks a KEK that the store needs and that this server holds.
    async fn read_kek_file_if_changed(&self, checks: &[(KekId, [u8; 32])]) {
        let stamp = self.kek_watch.stamp();
        {
            let mut seen = self.kek_watch.seen();
            if stamp == seen.stamp && !seen.is_unread {
                return;
            }
            // Read once for each change, also if it cannot be used.
            seen.stamp = stamp;
            seen.is_unread = false;
        }
        let Some(present) = self.keyring() else { return };
        let read = match self.kek_watch.with_file(|file| Keyring::load(file)).await {
            Ok(read) => read,
            Err(error) => {
                self.kek_watch.seen().is_unread = error.is_temporary();
                if self.note_file_fault(Some(KekFileFault::Unusable)) {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        "the KEK file was changed and cannot be used; the KEKs in memory stay"
                    );
                }
                return;
            }
        };
        let needed = checks.iter().map(|(id, _)| id).chain([present.active().id()]);
        for id in needed {
            let same = match (present.kek(id), read.kek(id)) {
                (Some(before), Some(after)) => digests_equal(before.expose(), after.expose()),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if !same {
                if self.note_file_fault(Some(KekFileFault::Lacks(id.clone()))) {
                    tracing::error!(
                        kek = %id,
                        "the KEK file was changed and lacks a KEK that the store uses; the KEKs in memory stay; restore the file"
                    );
                }
                return;
            }
        }
        self.note_file_fault(None);
        if !read.is_like(&present) {
            tracing::info!("the KEK file was read again");
        }
        // The store says which KEK is active, and not the file of a server that runs.
        self.change_keyring(|present| read.with_active(present.active().id()));
    }

    /// Begins a change of KEKs, and looks at the KEKs again.
    pub(crate) async fn begin_kek_change(&self) -> Result<KekChange, KekError> {
        let in_progress = || {
            KekError::forbidden(
                "another command is changing the KEKs of this store",
                "try again when it is done",
            )
        };
        let here = Arc::clone(&self.kek_watch.changes).try_lock_owned().map_err(|_| in_progress())?;
        let everywhere = self.store.lock_keks().await?.ok_or_else(in_progress)?;
        self.refresh_keks().await?;
        if let Some(id) = self.missing_kek() {
            return Err(KekError::forbidden(
                format!("the KEK file lacks KEK '{id}', which the store needs"),
                "copy the KEK file from another server on the same database, or restore it",
            ));
        }
        Ok(KekChange { _here: here, _everywhere: everywhere })
    }

    /// What the store remembers of unused KEKs. `None` if that is not authentic.
    pub(crate) async fn kek_record(&self) -> Result<Option<KekRecord>, StoreError> {
        Ok(match self.fact(KEKS).await? {
            Fact::Text(text) => Some(KekRecord::parse(&text)),
            Fact::Absent => Some(KekRecord::default()),
            Fact::Forged => None,
        })
    }

    /// The KEKs of the KEK file and of the store.
    ///
    /// # Errors
    /// When the audit log cannot be written or the store cannot be read.
    pub async fn list_keks(&self, origin: &Origin) -> Result<Vec<ListedKek>, KekError> {
        self.record_admin(origin, AdminAct::ListKeks, Phase::Outcome, None).await?;
        self.refresh_keks().await?;
        let (keyring, checks, used) =
            (self.held_keyring()?, self.store.kek_checks().await?, self.store.kek_use().await?);
        let (record, holders) = (self.kek_record().await?, self.store.kek_holders().await?);
        let record = record.unwrap_or_default();
        let active = keyring.rank(keyring.active().id());
        let of = |id: &KekId, state| {
            let keys = used.iter().find(|(used, _)| used == id).map_or(0, |(_, keys)| *keys);
            let lacking = match state {
                KekState::Retired => Vec::new(),
                _ => holders.iter().filter(|holder| !holds(holder, id)).map(|h| h.server.clone()).collect(),
            };
            let unused_since = record.of(id).filter(|_| keys == 0).map(|disuse| match disuse {
                Disuse::Unused(at) | Disuse::Retired(at, _) => *at,
            });
            ListedKek {
                id: id.clone(),
                state,
                created_at: keyring.created_at(id),
                keys,
                unused_since,
                lacking,
            }
        };
        let held = keyring.ids().map(|id| {
            let state = match keyring.rank(id).cmp(&active) {
                _ if id == keyring.active().id() => KekState::Active,
                std::cmp::Ordering::Greater => KekState::Added,
                _ => KekState::Former,
            };
            of(id, state)
        });
        let unknown = |id: &&KekId| keyring.kek(id).is_none();
        let missing = checks.iter().map(|(id, _)| id).filter(unknown);
        let retired = record.retired().map(|(id, _)| id).filter(unknown);
        let retired = retired.filter(|id| !checks.iter().any(|(known, _)| known == *id));
        let missing = missing.map(|id| of(id, KekState::Missing));
        Ok(retired.map(|id| of(id, KekState::Retired)).chain(missing).chain(held).collect())
    }

    /// Adds a KEK to the KEK file. It only unwraps until it is activated.
    ///
    /// # Errors
    /// When the KEK file cannot be written, another change is in progress, or the audit log or the store fails.
    pub async fn add_kek(self: &Arc<Self>, origin: &Origin) -> Result<KekId, KekError> {
        let (service, origin) = (Arc::clone(self), origin.clone());
        complete(async move {
            let change = service.begin_kek_change().await?;
            service.add_during(&change, &origin).await
        })
        .await
    }

    pub(crate) async fn add_during(&self, _: &KekChange, origin: &Origin) -> Result<KekId, KekError> {
        self.record_kek_attempt(origin, AdminAct::AddKek, None).await?;
        let added = self.add().await;
        self.conclude_kek(origin, AdminAct::AddKek, added.as_ref().ok(), added.as_ref().err()).await;
        added
    }

    async fn add(&self) -> Result<KekId, KekError> {
        self.require_whole_file(&*self.held_keyring()?).await?;
        let (clock, rng) = (Arc::clone(&self.clock), Arc::clone(&self.rng));
        let (keyring, id) = self.kek_watch.with_file(move |file| Keyring::add(file, &*clock, &*rng)).await?;
        self.take(keyring);
        self.report_keks().await?;
        Ok(id)
    }

    /// Notes whether the KEK file can be used. Returns whether that is new.
    fn note_file_fault(&self, fault: Option<KekFileFault>) -> bool {
        let mut seen = self.kek_watch.seen();
        let is_new = seen.fault != fault;
        seen.fault = fault;
        is_new
    }

    /// Takes the keyring of the KEK file that was just written. The active KEK stays.
    fn take(&self, keyring: Keyring) {
        self.kek_watch.seen().stamp = self.kek_watch.stamp();
        self.note_file_fault(None);
        self.change_keyring(|present| {
            let taken = keyring.with_active(present.active().id());
            if taken.is_none() {
                tracing::error!("the KEK file lacks the active KEK; the KEKs in memory stay");
            }
            taken
        });
    }

    /// Makes a KEK the active one: the given one, or the newest. Every server must hold it.
    ///
    /// # Errors
    /// When a running server lacks it, it is older than the active one, another change is in progress, or the audit log or
    /// the store fails.
    pub async fn activate_kek(
        self: &Arc<Self>,
        origin: &Origin,
        id: Option<KekId>,
    ) -> Result<Activated, KekError> {
        let (service, origin) = (Arc::clone(self), origin.clone());
        complete(async move {
            let change = service.begin_kek_change().await?;
            service.activate_during(&change, &origin, id).await
        })
        .await
    }

    pub(crate) async fn activate_during(
        &self,
        _: &KekChange,
        origin: &Origin,
        id: Option<KekId>,
    ) -> Result<Activated, KekError> {
        let keyring = self.held_keyring()?;
        let id = id.unwrap_or_else(|| keyring.newest().clone());
        self.record_kek_attempt(origin, AdminAct::ActivateKek, Some(&id)).await?;
        let activated = self.activate(&keyring, &id).await;
        self.conclude_kek(origin, AdminAct::ActivateKek, Some(&id), activated.as_ref().err()).await;
        activated
    }

    async fn activate(&self, keyring: &Arc<Keyring>, id: &KekId) -> Result<Activated, KekError> {
        let Some(kek) = keyring.kek(id) else {
            return Err(KeyringError::UnknownKek { id: id.clone() }.into());
        };
        let active = keyring.active().id();
        if keyring.rank(id) < keyring.rank(active) {
            return Err(KekError::forbidden(
                format!("KEK '{id}' is older than the active KEK '{active}'"),
                "a former KEK does not become active again; add a new one with 'kek add'",
            ));
        }
        self.require_whole_file(keyring).await?;
        for holder in self.store.kek_holders().await? {
            let KekHolder { server, report } = &holder;
            if report.is_none() {
                return Err(KekError::forbidden(
                    format!("server {server} has not reported its KEKs"),
                    "try again in ten seconds; a server of an older version must be updated first",
                ));
            }
            if !holds(&holder, id) {
                return Err(KekError::forbidden(
                    format!("server {server} lacks KEK '{id}'"),
                    "copy the KEK file to that server, which takes it within a second, and run this again",
                ));
            }
        }
        self.store.insert_kek_check(id, &kek.check_value()?).await?;
        // From here on it is active, whatever happens to this process.
        self.change_keyring(|present| present.with_active(id));
        let wanted = id.clone();
        let written = self.kek_watch.with_file(move |file| Keyring::activate(file, &wanted)).await;
        let unwritten = written.map(|keyring| self.take(keyring)).err();
        self.report_keks().await?;
        self.store.announce_keks().await?;
        Ok(Activated { id: id.clone(), unwritten })
    }

    /// Removes a KEK from the KEK file, and keeps its check value in the store. A backup that is younger than
    /// `backup_retention` must not need it.
    ///
    /// # Errors
    /// When a stored key or a backup may need it, another change is in progress, or the KEK file, the audit log or the store
    /// fails.
    pub async fn retire_kek(
        self: &Arc<Self>,
        origin: &Origin,
        id: &KekId,
        backup_retention: Duration,
    ) -> Result<(), KekError> {
        let (service, origin, id) = (Arc::clone(self), origin.clone(), id.clone());
        complete(async move {
            let _change = service.begin_kek_change().await?;
            service.record_kek_attempt(&origin, AdminAct::RetireKek, Some(&id)).await?;
            let retired = service.retire(&id, backup_retention).await;
            service.conclude_kek(&origin, AdminAct::RetireKek, Some(&id), retired.as_ref().err()).await;
            retired
        })
        .await
    }

    async fn retire(&self, id: &KekId, backup_retention: Duration) -> Result<(), KekError> {
        let keyring = self.held_keyring()?;
        let Some(mut record) = self.kek_record().await? else {
            return Err(KekError::forbidden(
                "the record of when KEKs were last used was changed in the database",
                "find out who changed it, then run 'kek rewrap': the record begins again, and so does the time of --backup-retention",
            ));
        };
        let Some(kek) = keyring.kek(id) else {
            return match record.of(id) {
                Some(Disuse::Retired(..)) => Ok(()),
                _ => Err(KeyringError::UnknownKek { id: id.clone() }.into()),
            };
        };
        if keyring.active().id() == id {
            return Err(KeyringError::ActiveKek { id: id.clone() }.into());
        }
        self.require_whole_file(&keyring).await?;
        let used = self.store.kek_use().await?;
        if let Some((_, keys)) = used.iter().find(|(used, _)| used == id) {
            return Err(KekError::forbidden(
                format!("{keys} key(s) are wrapped with KEK '{id}'"),
                "run 'kek rewrap' first",
            ));
        }
        let is_retired = matches!(record.of(id), Some(Disuse::Retired(..)));
        let holders = if is_retired { Vec::new() } else { self.store.kek_holders().await? };
        for KekHolder { server, report } in holders {
            let current = report.filter(|report| report.active != *id);
            let Some(report) = current else {
                return Err(KekError::forbidden(
                    format!("server {server} may still wrap with KEK '{id}'"),
                    "try again in ten seconds; a server of an older version must be updated first",
                ));
            };
            let wait = self.store.longest_write().saturating_sub(report.age);
            if !wait.is_zero() {
                return Err(KekError::forbidden(
                    format!(
                        "writes of server {server} that began before its KEKs changed may not be done yet"
                    ),
                    format!("try again in {} seconds", wait.as_secs() + 1),
                ));
            }
        }
        self.require_no_backup(&keyring, &mut record, id, backup_retention).await?;
        record.set(id, Some(Disuse::Retired(self.clock.now(), kek.check_value()?)));
        if !self.store.retire_kek(id, &self.tagged_fact(KEKS, &record.to_text())?).await? {
            return Err(KekError::forbidden(
                format!("a key was wrapped with KEK '{id}' meanwhile"),
                "run 'kek rewrap' first",
            ));
        }
        // The file of a server that took an activation from the store still names the former KEK as active.
        let (active, id) = (keyring.active().id().clone(), id.clone());
        let removed = self.kek_watch.with_file(move |file| {
            Keyring::activate(file, &active)?;
            Keyring::remove(file, &id)
        });
        self.take(removed.await?);
        Ok(self.report_keks().await?)
    }

    /// Refuses a retirement while a backup that is young enough may need the KEK. The time counts from when it was first
    /// seen to wrap nothing.
    async fn require_no_backup(
        &self,
        keyring: &Keyring,
        record: &mut KekRecord,
        id: &KekId,
        backup_retention: Duration,
    ) -> Result<(), KekError> {
        let known = self.store.kek_checks().await?.iter().any(|(known, _)| known == id);
        let never_active = !known && keyring.rank(id) > keyring.rank(keyring.active().id());
        if never_active || matches!(record.of(id), Some(Disuse::Retired(..))) {
            return Ok(());
        }
        let now = self.clock.now();
        let since = match record.unused_since(id) {
            Some(since) => since,
            None => {
                record.set(id, Some(Disuse::Unused(now)));
                self.set_fact(KEKS, &record.to_text()).await?;
                now
            }
        };
        let until = since.saturating_add(backup_retention);
        if now < until {
            return Err(KekError::forbidden(
                format!("backups that were made before {since} may need KEK '{id}'"),
                format!(
                    "run this again after {until}, or give --backup-retention, the age at which you delete backups"
                ),
            ));
        }
        Ok(())
    }

    pub(crate) async fn conclude_kek(
        &self,
        origin: &Origin,
        act: AdminAct,
        id: Option<&KekId>,
        error: Option<&KekError>,
    ) {
        let outcome = error.map(|error| match error {
            KekError::Refused(refusal) => (refusal.code().as_str(), Some(refusal.reason.as_str())),
            KekError::Forbidden { .. } => ("FAILED_PRECONDITION", None),
            KekError::Keyring(KeyringError::UnknownKek { .. }) => ("NOT_FOUND", None),
            KekError::Keyring(KeyringError::ActiveKek { .. }) => ("FAILED_PRECONDITION", None),
            KekError::Keyring(_) | KekError::Crypto(_) => ("INTERNAL", Some("INTERNAL")),
        });
        self.record_kek_outcome(origin, act, id, outcome).await;
    }
}

const fn changed(error: &KeyringError) -> &'static str {
    match error {
        KeyringError::Unsynced { .. } => {
            "the KEK file was changed, and may be as before after a power failure"
        }
        _ => "the KEK file was not changed",
    }
}

fn holds(holder: &KekHolder, id: &KekId) -> bool {
    holder.report.as_ref().is_some_and(|report| report.keks.contains(id))
}
