//! CreateSecret: creates a secret, or updates it if it exists.

use std::sync::Arc;

use agentrouter_model::rpc::CreateSecret;
use agentrouter_model::{
    Description, Place, Reason, Refusal, Rpc, Scope, Secret, SecretId, SecretValue, Tags,
};
use agentrouter_store::Upsert;

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::{CallContext, Service};

/// A checked request. A part that is `None` is not written.
struct Upserting {
    place: Place,
    expected_version: Option<i32>,
    description: Option<Description>,
    tags: Option<Tags>,
    value: Option<SecretValue>,
}

impl Service {
    /// Creates the secret at (owner, realm, name), or updates it. Without `update_mask`, each part that is not empty
    /// replaces the stored one. With it, exactly the parts that it names do. A new value becomes version n + 1 and retires
    /// version n at once. The stored value is neither read nor compared, so the response reveals nothing about it.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::UserIdNotAllowed`],
    /// [`Reason::InvalidRequest`] (also for a new secret without a value), [`Reason::VersionMismatch`],
    /// [`Reason::VersionsExhausted`], [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn create(
        self: &Arc<Self>,
        ctx: Arc<CallContext>,
        request: CreateSecret<'_>,
    ) -> Result<Secret, Refusal> {
        let mut subject = Subject::default();
        let checked = match check(&ctx, &request, &mut subject) {
            Ok(checked) => checked,
            Err(refusal) => {
                return self.release(&ctx, Rpc::CreateSecret, &subject, Err(refusal)).await;
            }
        };
        let place = checked.place.clone();
        self.change(
            ctx,
            Rpc::CreateSecret,
            place,
            move |service| async move { service.upsert(checked).await },
        )
        .await
    }

    async fn upsert(self: Arc<Self>, checked: Upserting) -> Result<Secret, Refusal> {
        let new_id = SecretId::generate(&*self.clock, &*self.rng).map_err(|_| Reason::Internal)?;
        let upsert = Upsert {
            place: checked.place,
            new_id,
            now: self.clock.now(),
            expected_version: checked.expected_version,
            description: checked.description,
            tags: checked.tags,
            seal: checked.value.map(|value| self.sealer(value)).transpose()?,
        };
        self.store.upsert(upsert).await.map_err(|error| self.write_refusal(error, "value"))
    }
}

fn check(ctx: &CallContext, request: &CreateSecret<'_>, subject: &mut Subject) -> Result<Upserting, Refusal> {
    ctx.caller.may(Rpc::CreateSecret)?;
    let mut checks = Checks::new(ctx.caller.grant(), subject);
    let place = checks.named_place(request.realm, request.user_id, Scope::WriteInternal, request.name)?;
    let expected_version = checks.expected_version(request.expected_version, true);
    let mask = parse_mask(&mut checks, request);

    // A part that breaks a limit is refused even if it is not written.
    let description = checks.field("description", Description::parse(request.description));
    let tags = checks.field("tags", Tags::parse(request.tags.iter().copied()));
    let value = (mask.value || !request.value.is_empty())
        .then(|| checks.field("value", SecretValue::parse(request.value.to_owned())))
        .flatten();

    checks.finish(place.map(|place| Upserting {
        place,
        expected_version,
        description: description.filter(|_| mask.description),
        tags: tags.filter(|_| mask.tags),
        value: value.filter(|_| mask.value),
    }))
}

/// The parts that a request writes.
struct Mask {
    description: bool,
    tags: bool,
    value: bool,
}

/// Reads `update_mask`. If it is missing or empty, the parts that are not empty are written.
fn parse_mask(checks: &mut Checks<'_>, request: &CreateSecret<'_>) -> Mask {
    let Some(paths) = request.update_mask.as_ref().filter(|paths| !paths.is_empty()) else {
        return Mask {
            description: !request.description.is_empty(),
            tags: !request.tags.is_empty(),
            value: !request.value.is_empty(),
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
