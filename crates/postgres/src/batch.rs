//! What a batch of changes does, decided before anything is written.
//!
//! The writer brings the secrets as they are, locked; here each change becomes either a refusal or rows to write, and the
//! value is sealed. Whatever can be wrong with a change is found now, so that the statements that follow fail for reasons
//! of the database alone, and no change can spoil another's transaction.
//!
//! A batch has one change a place at most.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use agentrouter_model::{
    Envelope, Owner, Place, Secret, SecretId, Slot, Status, TagKey, TagValue, Tags, Timestamp, Version,
};

use super::sql::Sql;
use super::step::Step;
use agentrouter_lease::Token;
use agentrouter_store::{Rotation, Sealer, StoreError, Upsert, WriteError, json};

/// A change of a secret.
pub(super) enum Change {
    Upsert(Upsert),
    Rotate(Rotation),
    Delete(Place),
}

impl Change {
    /// Whether there may be nothing at the place yet.
    pub(super) fn may_be_first(&self) -> bool {
        matches!(self, Self::Upsert(change) if change.seal.is_some())
    }

    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Upsert(change) => &change.place,
            Self::Rotate(change) => &change.place,
            Self::Delete(place) => place,
        }
    }
}

/// What became of a change: the active version afterwards, or of a deleted secret before; none if there was nothing to
/// delete.
pub(super) type Outcome = Result<Option<Secret>, WriteError>;

/// A change and the fence that was set up for it, if one was.
#[derive(Clone)]
pub(super) struct Fenced {
    pub(super) change: Arc<Change>,
    pub(super) token: Option<Token>,
}

/// What became of a change; none if something is there already and its fence is not, so that nothing was done.
pub(super) type Answer = Option<Outcome>;

/// What a batch writes.
#[derive(Default)]
pub(super) struct Batch {
    /// What changes rows, one by one.
    one_by_one: Vec<Step>,
    made: Secrets,
    added: Versions,
    tagged: TagRows,
}

impl Batch {
    /// Decides what `change` does to `present`, the secret at its place if there is one.
    pub(super) fn decide(&mut self, change: &Change, present: Option<Secret>) -> Outcome {
        let decided = catch_unwind(AssertUnwindSafe(|| match change {
            Change::Upsert(change) => upsert(change, present),
            Change::Rotate(change) => rotate(change, present),
            Change::Delete(_) => Ok(Decision { before: present, ..Decision::default() }),
        }));
        let decision = decided
            .unwrap_or_else(|_| Err(StoreError::unavailable("the write failed inside the program").into()))?;
        self.add(&decision)?;
        Ok(decision.after.or(decision.before))
    }

    /// The statements, in the order in which they must run.
    pub(super) fn steps(self) -> Vec<Step> {
        let Self { mut one_by_one, made, added, tagged } = self;
        one_by_one.extend([made.step(), added.step(), tagged.step()].into_iter().flatten());
        one_by_one
    }

    fn add(&mut self, decision: &Decision) -> Result<(), StoreError> {
        let Decision { before, after, leave, envelope } = decision;
        let none = Tags::default();
        match (before, after) {
            (None, None) => {}
            (Some(before), Some(after)) if before == after && envelope.is_none() => {}
            (Some(before), None) => {
                self.untag(&before.place, &before.tags, &none);
                self.one_by_one.push(at(Sql::DeleteVersions, &before.place));
                self.one_by_one.push(at(Sql::DeleteSecret, &before.place));
            }
            (None, Some(after)) => {
                self.made.push(after)?;
                self.tagged.push(&after.place, &after.tags, &none);
            }
            (Some(before), Some(after)) => {
                self.untag(&after.place, &before.tags, &after.tags);
                self.tagged.push(&after.place, &after.tags, &before.tags);
                self.one_by_one.push(changed(after)?);
                if let Some((sql, expires_at)) = *leave {
                    let step = at(sql, &before.place).with(before.id.to_string());
                    self.one_by_one.push(step.with(before.version.get()).with(expires_at));
                }
            }
        }
        if let (Some(after), Some(envelope)) = (after, envelope) {
            self.added.push(after, envelope);
        }
        Ok(())
    }

    /// Takes away those of `tags` that are not in `kept`.
    fn untag(&mut self, place: &Place, tags: &Tags, kept: &Tags) {
        for (key, value) in without(tags, kept) {
            let step = at(Sql::DeleteTag, place).with(key.as_str().to_owned());
            self.one_by_one.push(step.with(value.as_str().to_owned()));
        }
    }
}

/// A statement about a place.
pub(super) fn at(sql: Sql, place: &Place) -> Step {
    Step::new(sql)
        .with(Owner::as_str(&place.owner).to_owned())
        .with(place.realm.as_str().to_owned())
        .with(place.name.as_str().to_owned())
}

/// The secret's own row after a change.
fn changed(secret: &Secret) -> Result<Step, StoreError> {
    Ok(at(Sql::UpdateSecret, &secret.place)
        .with(secret.id.to_string())
        .with(secret.description.as_str().as_bytes().to_vec())
        .with(json::from_tags(&secret.tags)?)
        .with(secret.updated_at.as_micros())
        .with(secret.rotated_at.map(Timestamp::as_micros))
        .with(secret.version.get())
        .with(secret.kek_id.as_str().to_owned()))
}

/// Those of `tags` that are not in `other`.
fn without<'t>(tags: &'t Tags, other: &Tags) -> impl Iterator<Item = (&'t TagKey, &'t TagValue)> {
    tags.iter().filter(|(key, value)| !other.iter().any(|(k, v)| k == *key && v == *value))
}

/// What one change does.
#[derive(Default)]
struct Decision {
    before: Option<Secret>,
    after: Option<Secret>,
    /// What becomes of the version that was active, and its expiry in microseconds.
    leave: Option<(Sql, Option<i64>)>,
    /// The new version's.
    envelope: Option<Envelope>,
}

fn upsert(change: &Upsert, present: Option<Secret>) -> Result<Decision, WriteError> {
    expect(change.expected_version, present.as_ref())?;
    match present {
        None => create(change),
        Some(present) => update(change, present),
    }
}

fn create(change: &Upsert) -> Result<Decision, WriteError> {
    let seal = change.seal.as_ref().ok_or(WriteError::ValueNeeded)?;
    let envelope = sealed(seal, &change.place, change.new_id, Version::FIRST)?;
    let secret = Secret {
        id: change.new_id,
        place: change.place.clone(),
        description: change.description.clone().unwrap_or_default(),
        tags: change.tags.clone().unwrap_or_default(),
        status: Status::Active,
        version: Version::FIRST,
        created_at: change.now,
        updated_at: change.now,
        rotated_at: None,
        expires_at: None,
        kek_id: envelope.kek_id.clone(),
    };
    Ok(Decision { after: Some(secret), envelope: Some(envelope), ..Decision::default() })
}

fn update(change: &Upsert, before: Secret) -> Result<Decision, WriteError> {
    let mut after = before.clone();
    let (mut leave, mut envelope) = (None, None);
    if let Some(seal) = &change.seal {
        after.version = before.version.next().ok_or(WriteError::VersionsExhausted)?;
        let new = sealed(seal, &after.place, after.id, after.version)?;
        after.kek_id = new.kek_id.clone();
        envelope = Some(new);
        leave = Some((Sql::RetireActive, None));
    }
    if let Some(description) = &change.description {
        after.description = description.clone();
    }
    if let Some(tags) = &change.tags {
        after.tags = tags.clone();
    }
    if after != before {
        after.updated_at = change.now;
    }
    Ok(Decision { before: Some(before), after: Some(after), leave, envelope })
}

fn rotate(change: &Rotation, present: Option<Secret>) -> Result<Decision, WriteError> {
    let before = present.ok_or(WriteError::NotFound)?;
    expect(change.expected_version, Some(&before))?;
    let mut after = before.clone();
    after.version = before.version.next().ok_or(WriteError::VersionsExhausted)?;
    let envelope = sealed(&change.seal, &after.place, after.id, after.version)?;
    after.kek_id = envelope.kek_id.clone();
    after.updated_at = change.now;
    after.rotated_at = Some(change.now);
    let sql = if change.expires_at > change.now { Sql::PendActive } else { Sql::RetireActive };
    let leave = Some((sql, Some(change.expires_at.as_micros())));
    Ok(Decision { before: Some(before), after: Some(after), leave, envelope: Some(envelope) })
}

fn expect(expected: Option<i32>, present: Option<&Secret>) -> Result<(), WriteError> {
    let found = present.map_or(0, |secret| secret.version.get());
    if expected.is_none_or(|expected| expected == found) { Ok(()) } else { Err(WriteError::VersionMismatch) }
}

fn sealed(seal: &Sealer, place: &Place, id: SecretId, version: Version) -> Result<Envelope, WriteError> {
    Ok(seal(Slot { place, id, version })?)
}

/// The columns of places.
#[derive(Clone, Default)]
pub(super) struct Places {
    owner: Vec<String>,
    realm: Vec<String>,
    name: Vec<String>,
}

impl Places {
    pub(super) fn push(&mut self, place: &Place) {
        self.owner.push(Owner::as_str(&place.owner).to_owned());
        self.realm.push(place.realm.as_str().to_owned());
        self.name.push(place.name.as_str().to_owned());
    }

    pub(super) fn step(&self, sql: Sql) -> Option<Step> {
        let step = Step::new(sql).with(self.owner.clone()).with(self.realm.clone()).with(self.name.clone());
        (!self.owner.is_empty()).then_some(step)
    }
}

/// The columns of new secrets.
#[derive(Default)]
struct Secrets {
    place: Places,
    id: Vec<String>,
    description: Vec<Vec<u8>>,
    tags: Vec<String>,
    created_at: Vec<i64>,
    updated_at: Vec<i64>,
    rotated_at: Vec<Option<i64>>,
    version: Vec<i32>,
    kek_id: Vec<String>,
}

impl Secrets {
    fn push(&mut self, secret: &Secret) -> Result<(), StoreError> {
        self.tags.push(json::from_tags(&secret.tags)?);
        self.place.push(&secret.place);
        self.id.push(secret.id.to_string());
        self.description.push(secret.description.as_str().as_bytes().to_vec());
        self.created_at.push(secret.created_at.as_micros());
        self.updated_at.push(secret.updated_at.as_micros());
        self.rotated_at.push(secret.rotated_at.map(Timestamp::as_micros));
        self.version.push(secret.version.get());
        self.kek_id.push(secret.kek_id.as_str().to_owned());
        Ok(())
    }

    fn step(self) -> Option<Step> {
        let step = self.place.step(Sql::InsertSecrets)?;
        let step = step.with(self.id).with(self.description).with(self.tags).with(self.created_at);
        Some(step.with(self.updated_at).with(self.rotated_at).with(self.version).with(self.kek_id))
    }
}

/// The columns of new versions.
#[derive(Default)]
struct Versions {
    place: Places,
    id: Vec<String>,
    version: Vec<i32>,
    kek_id: Vec<String>,
    wrapped_dek: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
}

impl Versions {
    fn push(&mut self, secret: &Secret, envelope: &Envelope) {
        self.place.push(&secret.place);
        self.id.push(secret.id.to_string());
        self.version.push(secret.version.get());
        self.kek_id.push(envelope.kek_id.as_str().to_owned());
        self.wrapped_dek.push(envelope.wrapped_dek.to_vec());
        self.sealed.push(envelope.sealed.to_vec());
    }

    fn step(self) -> Option<Step> {
        let step = self.place.step(Sql::InsertVersions)?;
        Some(step.with(self.id).with(self.version).with(self.kek_id).with(self.wrapped_dek).with(self.sealed))
    }
}

/// The columns of new tags.
#[derive(Default)]
struct TagRows {
    place: Places,
    key: Vec<String>,
    value: Vec<String>,
}

impl TagRows {
    /// Takes in those of `tags` that are not in `other`.
    fn push(&mut self, place: &Place, tags: &Tags, other: &Tags) {
        for (key, value) in without(tags, other) {
            self.place.push(place);
            self.key.push(key.as_str().to_owned());
            self.value.push(value.as_str().to_owned());
        }
    }

    fn step(self) -> Option<Step> {
        Some(self.place.step(Sql::InsertTags)?.with(self.key).with(self.value))
    }
}
