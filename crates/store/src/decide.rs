//! The rules of writes, as pure functions.
//!
//! [`decide`] maps the secret that is present and the change that is asked for to a [`Decision`]. Both engines call it
//! inside the write's transaction: they read the present secret, decide, seal the value for the slot that the decision
//! names ([`Unsealed::seal`]), and apply the decision to their rows. Engines compare no versions, choose no version
//! numbers and set no statuses themselves.
//!
//! Invariants of every decision:
//! * the version after the write is the active one, and its number is the highest that the secret has had;
//! * the version that it replaces becomes pending or retired, by the transitions of [`Status`];
//! * a refused change writes nothing.
//!
//! [`decide_due`] and [`decide_key`] are the same for the reaper and for new API keys. Statements select their candidates by an
//! index and guard what was read against other writers. They decide nothing.
//!
//! Absent: clocks, randomness, sealing, rows, and every rule about who may write.

use std::fmt;

use agentrouter_model::{
    Description, Envelope, Place, Secret, SecretId, Slot, Status, Tags, Timestamp, Version,
};

use crate::{Rotation, SealError, Sealer, StoreError, Upsert, WriteError};

/// A change of one secret.
#[derive(Debug)]
pub enum Change {
    /// See [`Secrets::upsert`](crate::Secrets::upsert).
    Upsert(Upsert),
    /// See [`Secrets::rotate`](crate::Secrets::rotate).
    Rotate(Rotation),
    /// See [`Secrets::delete`](crate::Secrets::delete).
    Delete(Place),
}

impl Change {
    /// The address of the secret.
    pub fn place(&self) -> &Place {
        match self {
            Self::Upsert(change) => &change.place,
            Self::Rotate(change) => &change.place,
            Self::Delete(place) => place,
        }
    }

    /// Whether the change can create a secret.
    pub fn may_create(&self) -> bool {
        matches!(self, Self::Upsert(change) if change.seal.is_some())
    }
}

/// What a write does.
#[derive(Debug)]
pub enum Decision<'a> {
    /// Nothing is written.
    Keep,
    /// The secret is created.
    Create(Unsealed<'a>),
    /// The metadata is written. The versions stay as they are.
    Describe {
        /// The present secret.
        before: &'a Secret,
        /// The secret after the write.
        after: Secret,
    },
    /// A new version becomes active in place of the present one.
    Replace {
        /// The present secret, whose version was active.
        before: &'a Secret,
        /// The new state of that version.
        replaced: Replaced,
        /// The secret after the write.
        after: Unsealed<'a>,
    },
    /// The secret is deleted with all its versions.
    Delete(&'a Secret),
}

/// The new state of the version that was active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is pending.
    Pending {
        /// When it stops being readable.
        until: Timestamp,
    },
    /// It is retired, and its ciphertext is destroyed.
    Retired {
        /// The end of its grace, if it had one.
        expires_at: Option<Timestamp>,
    },
}

/// A secret after a write, before the value of its new active version is sealed.
pub struct Unsealed<'a> {
    id: SecretId,
    place: &'a Place,
    description: Description,
    tags: Tags,
    version: Version,
    created_at: Timestamp,
    updated_at: Timestamp,
    rotated_at: Option<Timestamp>,
    seal: &'a Sealer,
}

impl fmt::Debug for Unsealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealed")
            .field("place", self.place)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Unsealed<'_> {
    /// Seals the value for the slot of the new version.
    ///
    /// # Errors
    /// When the value cannot be sealed.
    pub fn seal(self) -> Result<(Secret, Envelope), SealError> {
        let Self { id, place, description, tags, version, created_at, updated_at, rotated_at, seal } = self;
        let envelope = seal(Slot { place, id, version })?;
        let secret = Secret {
            id,
            place: place.clone(),
            description,
            tags,
            status: Status::Active,
            version,
            created_at,
            updated_at,
            rotated_at,
            expires_at: None,
            kek_id: envelope.kek_id.clone(),
        };
        Ok((secret, envelope))
    }
}

/// Decides what `change` does to `present`, the secret at its place if there is one.
///
/// # Errors
/// [`WriteError`], but not `Seal`. Of several reasons to refuse, the first of: not found, version mismatch, value
/// needed, versions exhausted.
pub fn decide<'a>(present: Option<&'a Secret>, change: &'a Change) -> Result<Decision<'a>, WriteError> {
    match (change, present) {
        (Change::Upsert(change), None) => create(change),
        (Change::Upsert(change), Some(present)) => update(present, change),
        (Change::Rotate(_), None) => Err(WriteError::NotFound),
        (Change::Rotate(change), Some(present)) => rotate(present, change),
        (Change::Delete(_), None) => Ok(Decision::Keep),
        (Change::Delete(_), Some(present)) => Ok(Decision::Delete(present)),
    }
}

/// Whether the reaper retires a version that is stored as pending until `expires_at`, and destroys its ciphertext. None is an
/// instant that does not parse: nothing says that the version is still readable.
pub fn decide_due(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    Status::RotatedPending.at(now, expires_at) == Status::Retired
}

/// What issuing an API key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDecision {
    /// The key is inserted.
    Insert,
    /// Nothing is written: the key was to be the first, and there is one.
    Keep,
    /// The key is refused: there is one with its id.
    Exists,
}

/// Decides what issuing a key does. `only_first` is whether it must be the first key of the store. `any` is whether there is a
/// key, and `same` whether there is one with its id, revoked ones and those that do not parse included.
pub fn decide_key(only_first: bool, any: bool, same: bool) -> KeyDecision {
    match (only_first, any, same) {
        (true, true, _) => KeyDecision::Keep,
        (_, _, true) => KeyDecision::Exists,
        (_, _, false) => KeyDecision::Insert,
    }
}

fn create(change: &Upsert) -> Result<Decision<'_>, WriteError> {
    expect(change.expected_version, 0)?;
    Ok(Decision::Create(Unsealed {
        id: change.new_id,
        place: &change.place,
        description: change.description.clone().unwrap_or_default(),
        tags: change.tags.clone().unwrap_or_default(),
        version: Version::FIRST,
        created_at: change.now,
        updated_at: change.now,
        rotated_at: None,
        seal: change.seal.as_ref().ok_or(WriteError::ValueNeeded)?,
    }))
}

fn update<'a>(present: &'a Secret, change: &'a Upsert) -> Result<Decision<'a>, WriteError> {
    expect(change.expected_version, present.version.get())?;
    let description = change.description.as_ref().unwrap_or(&present.description);
    let tags = change.tags.as_ref().unwrap_or(&present.tags);
    if let Some(seal) = &change.seal {
        let next = next(present, change.now, seal)?;
        let after = Unsealed { description: description.clone(), tags: tags.clone(), ..next };
        let replaced = replaced(present.status.retired(), None)?;
        return Ok(Decision::Replace { before: present, replaced, after });
    }
    if *description == present.description && *tags == present.tags {
        return Ok(Decision::Keep);
    }
    let (description, tags) = (description.clone(), tags.clone());
    let after = Secret { description, tags, updated_at: change.now, ..present.clone() };
    Ok(Decision::Describe { before: present, after })
}

fn rotate<'a>(present: &'a Secret, change: &'a Rotation) -> Result<Decision<'a>, WriteError> {
    expect(change.expected_version, present.version.get())?;
    let next = next(present, change.now, &change.seal)?;
    let after = Unsealed { rotated_at: Some(change.now), ..next };
    let expires_at = Some(change.expires_at);
    let status = present.status.rotated().map(|pending| pending.at(change.now, expires_at));
    let replaced = replaced(status, expires_at)?;
    Ok(Decision::Replace { before: present, replaced, after })
}

fn expect(expected: Option<i32>, present: i32) -> Result<(), WriteError> {
    if expected.is_none_or(|expected| expected == present) {
        Ok(())
    } else {
        Err(WriteError::VersionMismatch)
    }
}

/// The present secret with its next version.
fn next<'a>(present: &'a Secret, now: Timestamp, seal: &'a Sealer) -> Result<Unsealed<'a>, WriteError> {
    Ok(Unsealed {
        id: present.id,
        place: &present.place,
        description: present.description.clone(),
        tags: present.tags.clone(),
        version: present.version.next().ok_or(WriteError::VersionsExhausted)?,
        created_at: present.created_at,
        updated_at: now,
        rotated_at: present.rotated_at,
        seal,
    })
}

/// The replaced version in its new status. A present version without a transition to it is not active, so the row is
/// damaged.
fn replaced(status: Option<Status>, expires_at: Option<Timestamp>) -> Result<Replaced, StoreError> {
    match (status, expires_at) {
        (Some(Status::RotatedPending), Some(until)) => Ok(Replaced::Pending { until }),
        (Some(Status::Retired), expires_at) => Ok(Replaced::Retired { expires_at }),
        _ => Err(StoreError::NO_ACTIVE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conformance::fixtures::{at, description, new_id, place, rotation, sealer, tags, upsert};

    /// The reference model of a secret: every version that it ever had, by number.
    #[derive(Clone, Debug, PartialEq)]
    struct Model {
        versions: Vec<(Status, Option<Timestamp>)>,
        description: Description,
        tags: Tags,
        times: [Option<Timestamp>; 3],
    }

    /// The state that decisions leave when they are applied one after another. It is compared with the reference model.
    #[derive(Clone, Debug, Default)]
    struct Applied {
        secret: Option<Secret>,
        earlier: Vec<(Version, Status, Option<Timestamp>)>,
    }

    impl Applied {
        fn apply(&mut self, change: &Change) -> Result<(), WriteError> {
            let present = self.secret.clone();
            match decide(present.as_ref(), change)? {
                Decision::Keep => {}
                Decision::Create(after) => self.secret = Some(after.seal()?.0),
                Decision::Describe { before, after } => {
                    assert_eq!(Some(before), present.as_ref());
                    self.secret = Some(after);
                }
                Decision::Replace { before, replaced, after } => {
                    let (status, expires_at) = match replaced {
                        Replaced::Pending { until } => (Status::RotatedPending, Some(until)),
                        Replaced::Retired { expires_at } => (Status::Retired, expires_at),
                    };
                    self.earlier.push((before.version, status, expires_at));
                    self.secret = Some(after.seal()?.0);
                }
                Decision::Delete(_) => *self = Self::default(),
            }
            Ok(())
        }

        fn as_model(&self) -> Option<Model> {
            let secret = self.secret.as_ref()?;
            let active = (secret.version, secret.status, secret.expires_at);
            let versions = self.earlier.iter().chain([&active]).enumerate();
            let versions = versions.map(|(at, (number, status, expires_at))| {
                assert_eq!(usize::try_from(number.get()).ok(), Some(at + 1), "numbers count up by one");
                (*status, *expires_at)
            });
            Some(Model {
                versions: versions.collect(),
                description: secret.description.clone(),
                tags: secret.tags.clone(),
                times: [Some(secret.created_at), Some(secret.updated_at), secret.rotated_at],
            })
        }
    }

    /// An independent statement of the rules. Returns whether the change is made.
    fn expected(model: &mut Option<Model>, change: &Change) -> bool {
        let number = model.as_ref().map_or(0, |model| i32::try_from(model.versions.len()).expect("few"));
        match change {
            Change::Delete(_) => {
                *model = None;
                true
            }
            Change::Rotate(change) => {
                let wrong = change.expected_version.is_some_and(|expected| expected != number);
                let Some(model) = model.as_mut().filter(|_| !wrong) else { return false };
                let status =
                    if change.expires_at > change.now { Status::RotatedPending } else { Status::Retired };
                *model.versions.last_mut().expect("one") = (status, Some(change.expires_at));
                model.versions.push((Status::Active, None));
                model.times[1..].fill(Some(change.now));
                true
            }
            Change::Upsert(change) => {
                let wrong = change.expected_version.is_some_and(|expected| expected != number);
                if wrong || (number == 0 && change.seal.is_none()) {
                    return false;
                }
                let before = model.clone();
                let model = model.get_or_insert_with(|| Model {
                    versions: Vec::new(),
                    description: Description::default(),
                    tags: Tags::default(),
                    times: [Some(change.now), None, None],
                });
                model.description = change.description.clone().unwrap_or(model.description.clone());
                model.tags = change.tags.clone().unwrap_or(model.tags.clone());
                if change.seal.is_some() {
                    if let Some(last) = model.versions.last_mut() {
                        *last = (Status::Retired, None);
                    }
                    model.versions.push((Status::Active, None));
                }
                if before.as_ref() != Some(&*model) {
                    model.times[1] = Some(change.now);
                }
                true
            }
        }
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let place = || place("alice/mcp/a");
        let number = proptest::option::weighted(0.3, -1..6_i32);
        let metadata = || proptest::option::weighted(0.4, 0..3_usize);
        let upserts = (0..50_i64, number.clone(), metadata(), metadata(), any::<bool>()).prop_map(
            move |(now, expected_version, text, tag, value)| {
                Change::Upsert(Upsert {
                    expected_version,
                    description: text.map(|text| description(["", "a", "b"][text])),
                    tags: tag.map(|tag| tags([&[][..], &[("k", "1")], &[("k", "2"), ("l", "")]][tag])),
                    ..upsert(&place(), at(now), value.then_some("v"))
                })
            },
        );
        let rotations = (0..50_i64, -3..4_i64, number).prop_map(move |(now, grace, expected_version)| {
            let rotation = rotation(&place(), at(now), at(now + grace), "v");
            Change::Rotate(Rotation { expected_version, ..rotation })
        });
        let change = prop_oneof![6 => upserts, 5 => rotations, 1 => Just(()).prop_map(move |()| Change::Delete(place()))];
        proptest::collection::vec(change, 0..30)
    }

    proptest! {
        #[test]
        fn decisions_have_the_same_result_as_the_model(changes in changes()) {
            let (mut applied, mut model) = (Applied::default(), None);
            for change in &changes {
                let made = expected(&mut model, change);
                prop_assert_eq!(applied.apply(change).is_ok(), made, "{:?}", change);
                prop_assert_eq!(&applied.as_model(), &model, "{:?}", change);
            }
        }
    }

    proptest! {
        #[test]
        fn a_version_is_retired_exactly_when_it_is_no_longer_readable(now in 0..50_i64, end in 0..50_i64) {
            prop_assert_eq!(decide_due(Some(at(end)), at(now)), now >= end);
            let mut model = None;
            expected(&mut model, &Change::Upsert(upsert(&place("alice/mcp/a"), at(0), Some("v"))));
            expected(&mut model, &Change::Rotate(rotation(&place("alice/mcp/a"), at(now), at(end), "v")));
            // A version that is due at its rotation is retired by the rotation.
            let status = model.expect("a secret").versions[0].0;
            prop_assert_eq!(decide_due(Some(at(end)), at(now)), status == Status::Retired);
            prop_assert!(decide_due(None, at(now)));
        }

        #[test]
        fn keys_are_issued_as_the_model_says(ids in proptest::collection::vec((0..4_u8, any::<bool>()), 0..8)) {
            let mut keys = std::collections::BTreeSet::new();
            for (id, only_first) in ids {
                let decision = decide_key(only_first, !keys.is_empty(), keys.contains(&id));
                let before = keys.clone();
                if decision == KeyDecision::Insert {
                    prop_assert!(keys.insert(id), "an id is issued once");
                    prop_assert!(!only_first || before.is_empty(), "the first key has none before it");
                } else {
                    prop_assert!(!before.is_empty(), "a store without a key gets one");
                    prop_assert_eq!(decision == KeyDecision::Exists, !only_first && before.contains(&id));
                }
            }
        }
    }

    fn present(version: i32, status: Status) -> Secret {
        let mut applied = Applied::default();
        applied.apply(&Change::Upsert(upsert(&place("alice/mcp/a"), at(0), Some("v")))).expect("created");
        let version = Version::new(version).expect("1 or more");
        Secret { version, status, ..applied.secret.expect("created") }
    }

    #[test]
    fn the_last_version_number_is_not_passed_and_a_wrong_expectation_is_found_first() {
        let last = present(i32::MAX, Status::Active);
        let place = last.place.clone();
        let value = || Upsert { new_id: new_id(), ..upsert(&place, at(1), Some("v")) };
        let exhausted = [Change::Upsert(value()), Change::Rotate(rotation(&place, at(1), at(2), "v"))];
        for change in &exhausted {
            let decision = decide(Some(&last), change);
            assert!(matches!(decision, Err(WriteError::VersionsExhausted)), "{decision:?}");
        }
        let wrong = Change::Upsert(Upsert { expected_version: Some(1), ..value() });
        assert!(matches!(decide(Some(&last), &wrong), Err(WriteError::VersionMismatch)));
        let wrong = Change::Upsert(Upsert { expected_version: Some(1), ..upsert(&place, at(1), None) });
        assert!(matches!(decide(None, &wrong), Err(WriteError::VersionMismatch)), "before the missing value");
        let change = Change::Upsert(upsert(&place, at(1), None));
        assert!(matches!(decide(Some(&last), &change), Ok(Decision::Keep)), "metadata needs no number");
    }

    #[test]
    fn a_present_version_that_is_not_active_is_damage() {
        for status in [Status::RotatedPending, Status::Retired] {
            let damaged = present(1, status);
            let change = Change::Rotate(rotation(&damaged.place, at(1), at(2), "v"));
            let decision = decide(Some(&damaged), &change);
            assert!(matches!(decision, Err(WriteError::Store(StoreError::Corrupt(_)))), "{decision:?}");
        }
    }

    #[test]
    fn the_value_is_sealed_for_the_next_slot() {
        let present = present(4, Status::Active);
        let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
        let seal: Sealer = {
            let (seen, seal) = (std::sync::Arc::clone(&seen), sealer("v"));
            Box::new(move |slot| {
                *seen.lock().expect("no panic") = Some((slot.place.clone(), slot.id, slot.version.get()));
                seal(slot)
            })
        };
        let change = Change::Rotate(Rotation { seal, ..rotation(&present.place, at(1), at(2), "") });
        let Ok(Decision::Replace { after, .. }) = decide(Some(&present), &change) else {
            panic!("a rotation")
        };
        assert!(seen.lock().expect("no panic").is_none(), "nothing is sealed while it is decided");
        let (secret, envelope) = after.seal().expect("sealed");
        assert_eq!(*seen.lock().expect("no panic"), Some((present.place.clone(), present.id, 5)));
        assert_eq!(secret.kek_id, envelope.kek_id);
    }
}
