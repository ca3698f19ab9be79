//! RotateSecret: makes a new version active and the replaced one pending.

use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::rpc::RotateSecret;
use agentrouter_model::{Place, Refusal, Rpc, Secret, SecretValue};
use agentrouter_store::Rotation;

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::{CallContext, Service};

/// The longest grace of a rotation: 366 days.
const LONGEST_GRACE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A checked request.
struct Rotating {
    place: Place,
    expected_version: Option<i32>,
    grace: Option<Duration>,
    value: SecretValue,
}

impl Service {
    /// Makes the new value the active version n + 1 and version n `rotated_pending` until now + grace, in one
    /// transaction. Description, tags and place do not change. The stored value is not opened, so the response reveals
    /// nothing about it.
    ///
    /// # Errors
    /// [`ScopeMissing`](agentrouter_model::Reason::ScopeMissing), `RealmNotAllowed`, `InvalidRequest`,
    /// `SecretNotFound`, `VersionMismatch`, `VersionsExhausted`, `AuditUnavailable`, `StoreUnavailable`.
    pub async fn rotate(
        self: &Arc<Self>,
        ctx: Arc<CallContext>,
        request: RotateSecret<'_>,
    ) -> Result<Secret, Refusal> {
        let mut subject = Subject::default();
        let checked = match check(&ctx, &request, &mut subject) {
            Ok(checked) => checked,
            Err(refusal) => {
                return self.release(&ctx, Rpc::RotateSecret, &subject, Err(refusal)).await;
            }
        };
        let place = checked.place.clone();
        self.change(ctx, Rpc::RotateSecret, place, move |service| async move {
            let now = service.clock.now();
            let rotation = Rotation {
                place: checked.place,
                now,
                expires_at: now.saturating_add(checked.grace.unwrap_or(service.settings.grace)),
                expected_version: checked.expected_version,
                seal: service.sealer(checked.value)?,
            };
            let rotated = service.store.rotate(rotation).await;
            service.rotated.notify_one();
            rotated.map_err(|error| service.write_refusal(error, "new_value"))
        })
        .await
    }
}

fn check(ctx: &CallContext, request: &RotateSecret<'_>, subject: &mut Subject) -> Result<Rotating, Refusal> {
    ctx.caller.may(Rpc::RotateSecret)?;
    let mut checks = Checks::new(ctx.caller.grant(), subject);
    let place = checks.own_place(request.realm, request.name)?;
    let expected_version = checks.expected_version(request.expected_version, false);
    let grace = request.grace_period.and_then(|period| parse_grace(&mut checks, period));
    let value = checks.field("new_value", SecretValue::parse(request.new_value.to_owned()));
    checks.finish(place.zip(value).map(|(place, value)| Rotating { place, expected_version, grace, value }))
}

fn parse_grace(checks: &mut Checks<'_>, (seconds, nanos): (i64, i32)) -> Option<Duration> {
    let grace = match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
        _ => None,
    };
    let grace = grace.filter(|grace| *grace <= LONGEST_GRACE);
    if grace.is_none() {
        checks.violation("grace_period", "must be a duration from 0s to 31622400s (366 days)");
    }
    grace
}
