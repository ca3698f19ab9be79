//! CreateSecret: make a secret, or change one that is there.

use std::sync::Arc;

use agentrouter_model::rpc::CreateSecret;
use agentrouter_model::{
    Description, Place, Reason, Refusal, Rpc, Scope, Secret, SecretId, SecretValue, Tags,
};
use agentrouter_store::Upsert;

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::{CallContext, Service};

/// What a checked request writes: `None` leaves a part as it is.
struct Change {
    place: Place,
    expected_version: Option<i32>,
    description: Option<Description>,
    tags: Option<Tags>,
    value: Option<SecretValue>,
}

impl Service {
    /// Makes the secret at (owner, realm, name), or updates it: a part that is not empty replaces the stored one, or,
    /// where `update_mask` is given, exactly the parts it names. A new value is version n + 1 and retires the one
    /// before at once. The stored value is neither read nor compared, so the answer says nothing about it.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::UserIdNotAllowed`],
    /// [`Reason::InvalidRequest`] (also for a new secret without a value), [`Reason::VersionMismatch`],
    /// [`Reason::VersionsExhausted`], [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn create(
        self: &Arc<Self>,
        ctx: Arc<CallContext>,
        call: CreateSecret<'_>,
    ) -> Result<Secret, Refusal> {
        let mut subject = Subject::default();
        let change = match check(&ctx, &call, &mut subject) {
            Ok(change) => change,
            Err(refusal) => {
                return self.release(&ctx, Rpc::CreateSecret, &subject, Err(refusal)).await;
            }
        };
        let place = change.place.clone();
        self.change(ctx, Rpc::CreateSecret, place, move |service| async move { service.upsert(change).await })
            .await
    }

    async fn upsert(self: Arc<Self>, change: Change) -> Result<Secret, Refusal> {
        let new_id = SecretId::generate(&*self.clock, &*self.rng).map_err(|_| Reason::Internal)?;
        let upsert = Upsert {
            place: change.place,
            new_id,
            now: self.clock.now(),
            expected_version: change.expected_version,
            description: change.description,
            tags: change.tags,
            seal: change.value.map(|value| self.sealer(value)),
        };
        self.store.upsert(upsert).await.map_err(|error| self.write_refusal(error, "value"))
    }
}

fn check(ctx: &CallContext, call: &CreateSecret<'_>, subject: &mut Subject) -> Result<Change, Refusal> {
    ctx.caller.may(Rpc::CreateSecret)?;
    let mut checks = Checks::new(ctx.caller.key(), subject);
    let place = checks.named_place(call.realm, call.user_id, Scope::WriteInternal, call.name)?;
    let expected_version = checks.expected_version(call.expected_version, true);
    let mask = parse_mask(&mut checks, call);

    // What breaks a limit is refused, also where it is not to be written.
    let description = checks.field("description", Description::parse(call.description));
    let tags = checks.field("tags", Tags::parse(call.tags.iter().copied()));
    let value = (mask.value || !call.value.is_empty())
        .then(|| checks.field("value", SecretValue::parse(call.value.to_owned())))
        .flatten();

    checks.finish(place.map(|place| Change {
        place,
        expected_version,
        description: description.filter(|_| mask.description),
        tags: tags.filter(|_| mask.tags),
        value: value.filter(|_| mask.value),
    }))
}

/// Which parts a request writes.
struct Mask {
    description: bool,
    tags: bool,
    value: bool,
}

/// As `update_mask` says; without one (an empty one is none), the parts that are not empty.
fn parse_mask(checks: &mut Checks<'_>, call: &CreateSecret<'_>) -> Mask {
    let Some(paths) = call.update_mask.as_ref().filter(|paths| !paths.is_empty()) else {
        return Mask {
            description: !call.description.is_empty(),
            tags: !call.tags.is_empty(),
            value: !call.value.is_empty(),
        };
    };
    let mut mask = Mask { description: false, tags: false, value: false };
    for path in paths {
        match *path {
            "description" => mask.description = true,
            "tags" => mask.tags = true,
            "value" => mask.value = true,
            _ => checks.violation("update_mask", "must name only description, tags and value"),
        }
    }
    mask
}
