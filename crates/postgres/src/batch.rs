//! The statements of a batch of changes.
//!
//! The writer reads the present secrets under locks. Here each change is decided
//! ([`decide`](agentrouter_store::decide)) and its value sealed, which gives either a refusal or rows to write. Every
//! invalid change is found here. So the statements that follow fail only because of the database, and one change does
//! not fail the transaction of the others.
//!
//! A batch has at most one change for each place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use agentrouter_lease::Token;
use agentrouter_model::{Envelope, Owner, Place, Secret, Status, TagKey, TagValue, Tags, Timestamp};
use agentrouter_store::decide::{Change, Decision, Replaced, decide};
use agentrouter_store::row_tags::{RowTag, secret_tag, version_tag};
use agentrouter_store::{RowTags, StoreError, WriteError, json};

use super::sql::Sql;
use super::step::Step;

/// The result of a change: the active version afterwards, or of a deleted secret before; none if there was nothing to
/// delete.
pub(super) type Outcome = Result<Option<Secret>, WriteError>;

/// A change and its fence, if it has one.
#[derive(Clone)]
pub(super) struct Fenced {
    pub(super) change: Arc<Change>,
    pub(super) token: Option<Token>,
}

/// The result of a change; none if a secret is present and its fence is missing, so that nothing was done.
pub(super) type Reply = Option<Outcome>;

/// What a batch writes.
#[derive(Default)]
pub(super) struct Batch<'t> {
    tags: Option<&'t dyn RowTags>,
    /// Statements that update or delete, one for each row.
    one_by_one: Vec<Step>,
    made: Secrets,
    added: Versions,
    tagged: TagRows,
}

impl<'t> Batch<'t> {
    /// A batch whose rows get these tags.
    pub(super) fn new(tags: Option<&'t dyn RowTags>) -> Self {
        Self { tags, ..Self::default() }
    }

    /// Adds the statements by which `change` changes `present`, the secret at its place if there is one.
    pub(super) fn add(&mut self, change: &Change, present: Option<Secret>) -> Outcome {
        let added = catch_unwind(AssertUnwindSafe(|| self.add_decided(decide(present.as_ref(), change)?)));
        let after = added
            .unwrap_or_else(|_| Err(StoreError::unavailable("the write failed inside the program").into()))?;
        Ok(after.or(present))
    }

    /// The statements, in the order in which they must run.
    pub(super) fn steps(self) -> Vec<Step> {
        let Self { mut one_by_one, made, added, tagged, .. } = self;
        one_by_one.extend([made.step(), added.step(), tagged.step()].into_iter().flatten());
        one_by_one
    }

    /// Adds the rows of a decision. Returns the secret after the write, if there is one. A failed decision adds
    /// nothing.
    fn add_decided(&mut self, decision: Decision<'_>) -> Result<Option<Secret>, WriteError> {
        let none = Tags::default();
        let after = match decision {
            Decision::Keep => return Ok(None),
            Decision::Create(after) => {
                let (after, envelope) = after.seal()?;
                let tag = self.tag_of_new(&after);
                self.made.push(&after, secret_tag(self.tags, &after))?;
                self.tagged.push(&after.place, &after.tags, &none);
                self.added.push(&after, &envelope, tag);
                after
            }
            Decision::Describe { before, after } => {
                self.update(before, &after)?;
                after
            }
            Decision::Replace { before, replaced, after } => {
                let (after, envelope) = after.seal()?;
                let (sql, status, expires_at) = match replaced {
                    Replaced::Pending { until } => (Sql::PendActive, Status::RotatedPending, Some(until)),
                    Replaced::Retired { expires_at } => (Sql::RetireActive, Status::Retired, expires_at),
                };
                let tag = self.tag_of_new(&after);
                let replaced_tag = version_tag(self.tags, before, status, expires_at);
                self.update(before, &after)?;
                let step = at(sql, &before.place).with(before.id.to_string()).with(before.version.get());
                let step = step.with(expires_at.map(Timestamp::as_micros));
                self.one_by_one.push(step.with(replaced_tag.map(Vec::from)));
                self.added.push(&after, &envelope, tag);
                after
            }
            Decision::Delete(before) => {
                self.untag(&before.place, &before.tags, &none);
                self.one_by_one.push(at(Sql::DeleteVersions, &before.place));
                self.one_by_one.push(at(Sql::DeleteSecret, &before.place));
                return Ok(None);
            }
        };
        Ok(Some(after))
    }

    /// The tag of the row of a new version.
    fn tag_of_new(&self, after: &Secret) -> Option<RowTag> {
        version_tag(self.tags, after, Status::Active, None)
    }

    /// Updates the secret's own row and its tags.
    fn update(&mut self, before: &Secret, after: &Secret) -> Result<(), StoreError> {
        let step = changed(after)?.with(secret_tag(self.tags, after).map(Vec::from));
        self.untag(&after.place, &before.tags, &after.tags);
        self.tagged.push(&after.place, &after.tags, &before.tags);
        self.one_by_one.push(step);
        Ok(())
    }

    /// Deletes those of `tags` that are not in `kept`.
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
    tag: Vec<Option<Vec<u8>>>,
}

impl Secrets {
    fn push(&mut self, secret: &Secret, tag: Option<RowTag>) -> Result<(), StoreError> {
        self.tags.push(json::from_tags(&secret.tags)?);
        self.place.push(&secret.place);
        self.id.push(secret.id.to_string());
        self.description.push(secret.description.as_str().as_bytes().to_vec());
        self.created_at.push(secret.created_at.as_micros());
        self.updated_at.push(secret.updated_at.as_micros());
        self.rotated_at.push(secret.rotated_at.map(Timestamp::as_micros));
        self.version.push(secret.version.get());
        self.kek_id.push(secret.kek_id.as_str().to_owned());
        self.tag.push(tag.map(Vec::from));
        Ok(())
    }

    fn step(self) -> Option<Step> {
        let step = self.place.step(Sql::InsertSecrets)?;
        let step = step.with(self.id).with(self.description).with(self.tags).with(self.created_at);
        let step = step.with(self.updated_at).with(self.rotated_at).with(self.version);
        Some(step.with(self.kek_id).with(self.tag))
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
    tag: Vec<Option<Vec<u8>>>,
}

impl Versions {
    fn push(&mut self, secret: &Secret, envelope: &Envelope, tag: Option<RowTag>) {
        self.place.push(&secret.place);
        self.id.push(secret.id.to_string());
        self.version.push(secret.version.get());
        self.kek_id.push(envelope.kek_id.as_str().to_owned());
        self.wrapped_dek.push(envelope.wrapped_dek.to_vec());
        self.sealed.push(envelope.sealed.to_vec());
        self.tag.push(tag.map(Vec::from));
    }

    fn step(self) -> Option<Step> {
        let step = self.place.step(Sql::InsertVersions)?;
        let step = step.with(self.id).with(self.version).with(self.kek_id).with(self.wrapped_dek);
        Some(step.with(self.sealed).with(self.tag))
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
    /// Adds those of `tags` that are not in `other`.
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
