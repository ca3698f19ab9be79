//! The audit records of a request: which record is written when.
//!
//! A read has one record, which is written before the response is released. A write has two: its *attempt*, without
//! which the write does not start, and its *outcome*. If the outcome cannot be recorded, the write stands, because an
//! error would claim that it did not happen. Its record is *owed* and is written when the log works again.
//!
//! Every operation of this crate calls it, and `server` for requests that no operation takes over. A record holds parsed
//! names only. A request that breaks a rule is recorded without names, so nothing of a malformed request reaches the
//! log.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use agentrouter_audit::{Kept, Phase, Principal, Record};
use agentrouter_model::{ApiKeyId, KekId, Owner, Place, Realm, Reason, Refusal, Rpc, SecretName, Version};

use crate::{CallContext, Caller, Origin, Service};

/// An act of the server's own command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAct {
    /// An API key was issued.
    CreateKey,
    /// The API keys were listed.
    ListKeys,
    /// An API key was revoked.
    RevokeKey,
    /// The audit log was verified.
    VerifyAudit,
    /// The oldest files of the audit log were removed.
    PruneAudit,
    /// A checkpoint of the audit log was signed for a command.
    SignCheckpoint,
    /// The whole store was written to a backup.
    Backup,
    /// An empty store was filled from a backup.
    Restore,
    /// An empty store was filled from another store.
    Migrate,
    /// The KEKs were listed.
    ListKeks,
    /// A KEK was added to the KEK file.
    AddKek,
    /// A KEK was made the active one.
    ActivateKek,
    /// Keys were wrapped with the active KEK.
    RewrapKeys,
    /// A KEK was removed from the KEK file.
    RetireKek,
    /// The KEKs were wrapped by another root key.
    MoveKeks,
    /// The server started.
    Start,
    /// The server stopped.
    Stop,
}

impl AdminAct {
    /// The spelling in audit records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateKey => "CreateKey",
            Self::ListKeys => "ListKeys",
            Self::RevokeKey => "RevokeKey",
            Self::VerifyAudit => "VerifyAudit",
            Self::PruneAudit => "PruneAudit",
            Self::SignCheckpoint => "SignCheckpoint",
            Self::Backup => "Backup",
            Self::Restore => "Restore",
            Self::Migrate => "Migrate",
            Self::ListKeks => "ListKeks",
            Self::AddKek => "AddKek",
            Self::ActivateKek => "ActivateKek",
            Self::RewrapKeys => "RewrapKeys",
            Self::RetireKek => "RetireKek",
            Self::MoveKeks => "MoveKeks",
            Self::Start => "Start",
            Self::Stop => "Stop",
        }
    }
}

/// The secret or secrets that the records of one request name, as far as they are known.
#[derive(Clone, Default)]
pub(crate) struct Subject {
    pub(crate) place: Option<Place>,
    /// Set without a place: for a list, and for a place that the key may not access.
    pub(crate) owner: Option<Owner>,
    pub(crate) realm: Option<Realm>,
    pub(crate) name: Option<SecretName>,
    pub(crate) version: Option<Version>,
}

impl Subject {
    pub(crate) fn at(place: &Place) -> Self {
        Self { place: Some(place.clone()), ..Self::default() }
    }
}

/// Outcome records that are not written yet, oldest first.
#[derive(Default)]
pub(crate) struct Owed(Mutex<VecDeque<Kept>>);

impl Owed {
    /// The most records that are kept. One more drops the oldest, which is logged.
    const CAPACITY: usize = 10_000;

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn push(&self, record: Kept) {
        let mut owed = self.lock();
        if owed.len() == Self::CAPACITY {
            owed.pop_front();
            tracing::error!(
                "an audit record of an outcome was dropped: the audit log failed for too many writes"
            );
        }
        owed.push_back(record);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Records a request that was refused before an operation took it over.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`] when the record cannot be written.
    pub async fn record_refusal(
        &self,
        origin: &Origin,
        caller: Option<&Caller>,
        rpc: Option<Rpc>,
        refusal: &Refusal,
    ) -> Result<(), Refusal> {
        let mut record = self.record(origin, caller, rpc.map_or("Unknown", Rpc::as_str));
        record.outcome = refusal.code().as_str();
        record.reason = Some(refusal.reason.as_str());
        self.write(&record).await
    }

    /// Records an act of the server's own command line: its attempt, or the act itself if it changes nothing.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`] when the record cannot be written. The act must not be done then.
    pub async fn record_admin(
        &self,
        origin: &Origin,
        act: AdminAct,
        phase: Phase,
        subject: Option<(&ApiKeyId, Option<&Owner>)>,
    ) -> Result<(), Refusal> {
        let mut record = self.admin_record(origin, act, subject);
        if phase == Phase::Attempt {
            record.phase = phase;
            record.outcome = "ATTEMPT";
        }
        self.write(&record).await
    }

    /// Records the outcome of an act of the server's own command line. A record that cannot be written is owed.
    pub async fn conclude_admin(
        &self,
        origin: &Origin,
        act: AdminAct,
        subject: Option<(&ApiKeyId, Option<&Owner>)>,
        refusal: Option<&Refusal>,
    ) {
        let mut record = self.admin_record(origin, act, subject);
        if let Some(refusal) = refusal {
            record.outcome = refusal.code().as_str();
            record.reason = Some(refusal.reason.as_str());
        }
        self.write_or_owe(&record).await;
    }

    /// Records the attempt of a change of KEKs.
    pub(crate) async fn record_kek_attempt(
        &self,
        origin: &Origin,
        act: AdminAct,
        id: Option<&KekId>,
    ) -> Result<(), Refusal> {
        let mut record = self.admin_record(origin, act, None);
        (record.kek_id, record.phase, record.outcome) = (id, Phase::Attempt, "ATTEMPT");
        self.write(&record).await
    }

    /// Records the outcome of a change of KEKs, with the code and the reason of its error. A record that cannot be written is
    /// owed.
    pub(crate) async fn record_kek_outcome(
        &self,
        origin: &Origin,
        act: AdminAct,
        id: Option<&KekId>,
        error: Option<(&'static str, Option<&'static str>)>,
    ) {
        let mut record = self.admin_record(origin, act, None);
        record.kek_id = id;
        if let Some((code, reason)) = error {
            (record.outcome, record.reason) = (code, reason);
        }
        self.write_or_owe(&record).await;
    }

    /// Records that the KEKs are about to be wrapped by a root key of `provider`.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`]. They must not be wrapped then.
    pub async fn record_move(&self, origin: &Origin, provider: &'static str) -> Result<(), Refusal> {
        let mut record = self.admin_record(origin, AdminAct::MoveKeks, None);
        (record.provider, record.phase, record.outcome) = (Some(provider), Phase::Attempt, "ATTEMPT");
        self.write(&record).await
    }

    /// Records whether they were. A record that cannot be written is owed.
    pub async fn conclude_move(&self, origin: &Origin, provider: &'static str, ok: bool) {
        let mut record = self.admin_record(origin, AdminAct::MoveKeks, None);
        record.provider = Some(provider);
        if !ok {
            record.outcome = "FAILED_PRECONDITION";
        }
        self.write_or_owe(&record).await;
    }

    /// Records the attempt of a write.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`]. The write must not start then.
    pub(crate) async fn attempt(
        &self,
        ctx: &CallContext,
        rpc: Rpc,
        subject: &Subject,
    ) -> Result<(), Refusal> {
        let mut record = self.request_record(ctx, rpc, subject);
        record.phase = Phase::Attempt;
        record.outcome = "ATTEMPT";
        self.write(&record).await
    }

    /// Records the outcome of a read, then returns its result.
    pub(crate) async fn release<T>(
        &self,
        ctx: &CallContext,
        rpc: Rpc,
        subject: &Subject,
        result: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.write(&self.outcome_record(ctx, rpc, subject, result.as_ref().err())).await?;
        result
    }

    /// Records the outcome of a write. A record that cannot be written is owed.
    pub(crate) async fn conclude<T>(
        &self,
        ctx: &CallContext,
        rpc: Rpc,
        subject: &Subject,
        result: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.write_or_owe(&self.outcome_record(ctx, rpc, subject, result.as_ref().err())).await;
        result
    }

    /// Writes the owed outcome records until one fails.
    pub async fn write_owed(&self) {
        loop {
            let Some(record) = self.owed.lock().front().cloned() else { return };
            if self.audit.append_kept(&record).await.is_err() {
                return;
            }
            // Removed after the write, so that a record is still owed if this future is dropped.
            self.owed.lock().pop_front();
        }
    }

    async fn write_or_owe(&self, record: &Record<'_>) {
        if self.write(record).await.is_err() {
            self.owed.push(record.keep());
        }
    }

    fn admin_record<'a>(
        &self,
        origin: &'a Origin,
        act: AdminAct,
        subject: Option<(&'a ApiKeyId, Option<&'a Owner>)>,
    ) -> Record<'a> {
        let mut record = self.record(origin, None, act.as_str());
        if let Some((key, owner)) = subject {
            record.key_id = Some(key);
            record.owner = owner;
        }
        record
    }

    async fn write(&self, record: &Record<'_>) -> Result<(), Refusal> {
        self.audit.append(record).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "an audit record could not be written");
            Reason::AuditUnavailable.into()
        })
    }

    fn outcome_record<'a>(
        &self,
        ctx: &'a CallContext,
        rpc: Rpc,
        subject: &'a Subject,
        refusal: Option<&Refusal>,
    ) -> Record<'a> {
        static EMPTY: Subject = Subject { place: None, owner: None, realm: None, name: None, version: None };
        let Some(refusal) = refusal else { return self.request_record(ctx, rpc, subject) };
        // The fields of an invalid request may hold anything, so none of them is recorded.
        let invalid = refusal.reason == Reason::InvalidRequest;
        let mut record = self.request_record(ctx, rpc, if invalid { &EMPTY } else { subject });
        record.outcome = refusal.code().as_str();
        record.reason = Some(refusal.reason.as_str());
        record
    }

    fn request_record<'a>(&self, ctx: &'a CallContext, rpc: Rpc, subject: &'a Subject) -> Record<'a> {
        ctx.set_recorded();
        let place = subject.place.as_ref();
        Record {
            owner: place.map(|place| &place.owner).or(subject.owner.as_ref()),
            realm: place.map(|place| &place.realm).or(subject.realm.as_ref()),
            name: place.map(|place| &place.name).or(subject.name.as_ref()),
            version: subject.version,
            ..self.record(&ctx.origin, Some(&ctx.caller), rpc.as_str())
        }
    }

    fn record<'a>(&self, origin: &'a Origin, caller: Option<&'a Caller>, rpc: &'static str) -> Record<'a> {
        Record {
            time: self.clock.now(),
            request_id: &origin.request_id,
            trace_id: origin.trace_id.as_deref(),
            key_id: caller.and_then(Caller::key_id),
            identity: caller.and_then(Caller::identity).map(|identity| Principal {
                issuer: &identity.issuer,
                subject: &identity.subject,
                rule: &identity.rule,
            }),
            user: caller.map(|caller| caller.grant().user),
            rpc,
            owner: None,
            realm: None,
            name: None,
            version: None,
            kek_id: None,
            provider: None,
            phase: Phase::Outcome,
            outcome: "OK",
            reason: None,
            address: origin.address.as_deref(),
        }
    }
}
