//! The audit trail of a call: which record is written when.
//!
//! A read has one record, written before its answer is released. A change has two: the attempt, without which nothing
//! is done, and the outcome. If the outcome cannot be written the change stands all the same (an error would say that
//! it did not happen); its record is *owed*, and written as soon as the log works again.
//!
//! Records hold parsed names only, and a request that broke a rule is recorded without any: nothing of a malformed
//! request gets into the log.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use agentrouter_audit::{Kept, Phase, Record};
use agentrouter_model::{ApiKeyId, Owner, Place, Realm, Reason, Refusal, Rpc, SecretName, Version};

use crate::{CallContext, Caller, Origin, Service};

/// Something done on the server's own command line.
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
    /// All of the store was written to a backup.
    Backup,
    /// An empty store was filled from a backup.
    Restore,
    /// An empty store was filled from another store.
    Migrate,
    /// The server began to serve.
    Start,
    /// The server stopped serving.
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
            Self::Backup => "Backup",
            Self::Restore => "Restore",
            Self::Migrate => "Migrate",
            Self::Start => "Start",
            Self::Stop => "Stop",
        }
    }
}

/// What the records of one call say of its subject, as far as it is known yet.
#[derive(Clone, Default)]
pub(crate) struct Subject {
    pub(crate) place: Option<Place>,
    /// Where there is no place: of a list, and of what a key may not reach.
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

/// Outcome records that could not be written yet, oldest first.
#[derive(Default)]
pub(crate) struct Owed(Mutex<VecDeque<Kept>>);

impl Owed {
    /// Most records kept; an older one gives way, and the log says so.
    const CAPACITY: usize = 10_000;

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn push(&self, record: Kept) {
        let mut owed = self.lock();
        if owed.len() == Self::CAPACITY {
            owed.pop_front();
            tracing::error!("an outcome record was lost: the audit log has failed for too many changes");
        }
        owed.push_back(record);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Records a call that was refused before any operation took it over.
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

    /// Records something done on the server's own command line, before it is done or (if it changes nothing) as done.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`] when the record cannot be written; then it must not be done.
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

    /// Records how something done on the server's own command line ended. It stands even if the record must wait.
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

    /// Records that a change is about to be tried.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`]; then the change must not be tried.
    pub(crate) async fn attempt(
        &self,
        ctx: &CallContext,
        rpc: Rpc,
        subject: &Subject,
    ) -> Result<(), Refusal> {
        let mut record = self.call_record(ctx, rpc, subject);
        record.phase = Phase::Attempt;
        record.outcome = "ATTEMPT";
        self.write(&record).await
    }

    /// Records how a read ended, and only then lets its result go.
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

    /// Records how a change ended. The result stands even if the record must wait.
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

    /// Writes the outcome records that are owed, as far as the log takes them.
    pub async fn settle(&self) {
        loop {
            let Some(record) = self.owed.lock().front().cloned() else { return };
            if self.audit.append_kept(&record).await.is_err() {
                return;
            }
            // Only now: one that is not in the log yet is still owed, whatever becomes of this future.
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
            tracing::error!(error = &error as &dyn std::error::Error, "the audit log failed");
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
        static NOTHING: Subject =
            Subject { place: None, owner: None, realm: None, name: None, version: None };
        let Some(refusal) = refusal else { return self.call_record(ctx, rpc, subject) };
        // A request that broke a rule may have anything in its fields, so none of them is recorded.
        let broken = refusal.reason == Reason::InvalidRequest;
        let mut record = self.call_record(ctx, rpc, if broken { &NOTHING } else { subject });
        record.outcome = refusal.code().as_str();
        record.reason = Some(refusal.reason.as_str());
        record
    }

    fn call_record<'a>(&self, ctx: &'a CallContext, rpc: Rpc, subject: &'a Subject) -> Record<'a> {
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
            key_id: caller.map(|caller| &caller.key().id),
            user: caller.map(|caller| &caller.key().user),
            rpc,
            owner: None,
            realm: None,
            name: None,
            version: None,
            phase: Phase::Outcome,
            outcome: "OK",
            reason: None,
            address: origin.address.as_deref(),
        }
    }
}
