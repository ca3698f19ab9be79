//! Reference model of the service: no store, no cache, no keys, whole seconds.

use std::collections::{BTreeMap, BTreeSet};

use agentrouter_model::{Reason, Scope, ScopeSet};

use crate::calls::{At, Call, Change, NAMES, REALMS};

/// An API key in the reference model.
pub(crate) struct Key {
    pub(crate) user: &'static str,
    pub(crate) scopes: ScopeSet,
    pub(crate) home: &'static str,
    pub(crate) realms: Option<&'static [&'static str]>,
    pub(crate) live: bool,
}

/// The response to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    Secret(ShownVersion),
    Rows(Vec<ShownVersion>),
    Value(String, ShownVersion),
    Valid,
    Done,
}

/// A version as responses show it. `id` is the number of the secret in order of creation. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownVersion {
    pub(crate) id: usize,
    pub(crate) place: [String; 3],
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) status: &'static str,
    pub(crate) version: i32,
    pub(crate) times: [Option<i64>; 3],
    /// The expiry of a pending version.
    pub(crate) expires: Option<i64>,
}

#[derive(Clone)]
struct Secret {
    id: usize,
    description: String,
    tags: BTreeMap<String, String>,
    /// Created, updated, rotated.
    times: [Option<i64>; 3],
    /// The value of each version and the end of its readability; none for the active one.
    versions: Vec<(String, Option<i64>)>,
}

pub(crate) struct Reference {
    keys: Vec<Key>,
    now: i64,
    made: usize,
    /// By realm, name and owner.
    secrets: BTreeMap<[String; 3], Secret>,
}

type Outcome = Result<Response, Reason>;

impl Reference {
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        Self { keys, now: 0, made: 0, secrets: BTreeMap::new() }
    }

    pub(crate) fn call(&mut self, call: &Call) -> Outcome {
        match call {
            Call::Create { who, at, change, user, expected } => {
                let place = self.place(*who, at, Scope::Write, user.map(|user| (user, Scope::WriteInternal)));
                self.create(place?, change, *expected)
            }
            Call::Rotate { who, at, value, grace, expected } => {
                let place = self.place(*who, at, Scope::Write, None)?;
                let wrong =
                    place.is_none() || expected.is_some_and(|v| v < 1) || grace.is_some_and(|g| g < 0);
                let place = place.filter(|_| !wrong && !value.is_empty()).ok_or(Reason::InvalidRequest)?;
                let secret = self.secrets.get_mut(&place).ok_or(Reason::SecretNotFound)?;
                expect(*expected, secret.versions.len())?;
                secret.put(value, self.now + grace.unwrap_or(24 * 60 * 60));
                secret.times = [secret.times[0], Some(self.now), Some(self.now)];
                Ok(Response::Secret(self.row(&place, None)))
            }
            Call::Delete { who, at } => {
                let place = self.found(*who, at, Scope::Write, None)?;
                self.secrets.remove(&place);
                Ok(Response::Done)
            }
            Call::Get { who, at } => {
                self.found(*who, at, Scope::Read, None).map(|place| Response::Secret(self.row(&place, None)))
            }
            Call::Validate { who, at } => self.found(*who, at, Scope::Read, None).map(|_| Response::Valid),
            Call::Value { who, at, user, version } => {
                let scope = Scope::ReadInternal;
                let place = self.place(*who, at, scope, user.map(|user| (user, scope)))?;
                let place = place.filter(|_| *version >= 0).ok_or(Reason::InvalidRequest)?;
                let secret = self.secrets.get(&place).ok_or(Reason::SecretNotFound)?;
                let number = if *version == 0 { secret.versions.len() } else { *version as usize };
                let (value, until) = secret.versions.get(number - 1).ok_or(Reason::SecretNotFound)?;
                if until.is_some_and(|until| until <= self.now) {
                    return Err(Reason::SecretNotFound);
                }
                Ok(Response::Value(value.clone(), self.row(&place, Some(number))))
            }
            Call::List { who, realm, status, tag, prefix, page_size } => {
                let realm = realm.map(|realm| REALMS[realm]).filter(|realm| !realm.is_empty());
                self.list(*who, realm, status, tag, prefix, *page_size)
            }
            Call::Advance(seconds) => {
                self.now += seconds;
                Ok(Response::Done)
            }
            Call::Revoke(key) => {
                self.keys[*key].live = false;
                Ok(Response::Done)
            }
            Call::Tend => Ok(Response::Done),
        }
    }

    fn create(&mut self, place: Option<[String; 3]>, change: &Change, expected: Option<i32>) -> Outcome {
        let named = |field: &str, filled: bool| match &change.mask {
            Some(mask) if !mask.is_empty() => mask.contains(&field),
            _ => filled,
        };
        let value = named("value", !change.value.is_empty());
        let strange = change.mask.iter().flatten().any(|field| *field == "name");
        let wrong = strange || expected.is_some_and(|v| v < 0) || (value && change.value.is_empty());
        let place = place.filter(|_| !wrong).ok_or(Reason::InvalidRequest)?;
        let present = self.secrets.get(&place).cloned();
        expect(expected, present.as_ref().map_or(0, |secret| secret.versions.len()))?;
        if present.is_none() && !value {
            return Err(Reason::InvalidRequest);
        }
        let before = present.as_ref().map(|secret| (secret.description.clone(), secret.tags.clone()));
        let mut secret = present.unwrap_or_else(|| {
            self.made += 1;
            let (id, description, tags, versions) = (self.made, String::new(), BTreeMap::new(), Vec::new());
            Secret { id, description, tags, times: [Some(self.now), None, None], versions }
        });
        if value {
            secret.put(&change.value, i64::MIN);
        }
        if named("description", !change.description.is_empty()) {
            secret.description.clone_from(&change.description);
        }
        if named("tags", !change.tags.is_empty()) {
            secret.tags.clone_from(&change.tags);
        }
        if value || before != Some((secret.description.clone(), secret.tags.clone())) {
            secret.times[1] = Some(self.now);
        }
        self.secrets.insert(place.clone(), secret);
        Ok(Response::Secret(self.row(&place, None)))
    }

    fn list(
        &self,
        who: usize,
        realm: Option<&str>,
        status: &str,
        tag: &Option<(String, String)>,
        prefix: &str,
        page_size: i32,
    ) -> Outcome {
        let key = self.admit(who, Scope::Read)?;
        if realm.is_some_and(|realm| is_realm(realm) && !key.allows(realm)) {
            return Err(Reason::RealmNotAllowed);
        }
        let known = ["", "active", "rotated_pending", "retired", "any"].contains(&status);
        if realm.is_some_and(|realm| !is_realm(realm)) || !known || page_size < 0 {
            return Err(Reason::InvalidRequest);
        }
        let status = if status.is_empty() { "active" } else { status };
        let mut rows = Vec::new();
        for (place, secret) in &self.secrets {
            let [at, name, owner] = place;
            let seen = *owner == key.owner(at)
                && key.allows(at)
                && realm.is_none_or(|realm| realm == at)
                && name.starts_with(prefix)
                && tag.as_ref().is_none_or(|(key, value)| secret.tags.get(key) == Some(value));
            if seen {
                let versions = (1..=secret.versions.len()).map(|number| self.row(place, Some(number)));
                rows.extend(versions.filter(|row| status == "any" || row.status == status));
            }
        }
        Ok(Response::Rows(rows))
    }

    fn admit(&self, who: usize, scope: Scope) -> Result<&Key, Reason> {
        let key = &self.keys[who];
        match (key.live, key.scopes.contains(scope)) {
            (true, true) => Ok(key),
            (true, false) => Err(Reason::ScopeMissing),
            (false, _) => Err(Reason::Unauthenticated),
        }
    }

    /// The place of a call's secret; none if a field of the call is invalid.
    fn place(
        &self,
        who: usize,
        at: &At,
        scope: Scope,
        user: Option<(&str, Scope)>,
    ) -> Result<Option<[String; 3]>, Reason> {
        let key = self.admit(who, scope)?;
        let realm = if REALMS[at.realm].is_empty() { key.home } else { REALMS[at.realm] };
        if !is_realm(realm) {
            return Ok(None);
        }
        if !key.allows(realm) {
            return Err(Reason::RealmNotAllowed);
        }
        let mut owner = key.owner(realm);
        if let Some((user, scope)) = user.filter(|(user, _)| realm != "llm-keys" && !user.is_empty()) {
            if user != key.user && !key.scopes.contains(scope) {
                return Err(Reason::UserIdNotAllowed);
            }
            owner = user;
        }
        let name = NAMES[at.name];
        Ok((!name.contains('/')).then(|| [realm, name, owner].map(str::to_owned)))
    }

    fn found(
        &self,
        who: usize,
        at: &At,
        scope: Scope,
        user: Option<(&str, Scope)>,
    ) -> Result<[String; 3], Reason> {
        let place = self.place(who, at, scope, user)?.ok_or(Reason::InvalidRequest)?;
        if self.secrets.contains_key(&place) { Ok(place) } else { Err(Reason::SecretNotFound) }
    }

    fn row(&self, place: &[String; 3], number: Option<usize>) -> ShownVersion {
        let secret = &self.secrets[place];
        let number = number.unwrap_or(secret.versions.len());
        let until = secret.versions[number - 1].1;
        ShownVersion {
            id: secret.id,
            place: place.clone(),
            description: secret.description.clone(),
            tags: secret.tags.clone(),
            status: match until {
                None => "active",
                Some(until) if until > self.now => "rotated_pending",
                Some(_) => "retired",
            },
            version: number as i32,
            times: secret.times,
            expires: until.filter(|until| *until > self.now),
        }
    }

    /// Every id in use, for comparison with the service.
    pub(crate) fn ids(&self) -> BTreeSet<usize> {
        self.secrets.values().map(|secret| secret.id).collect()
    }
}

impl Key {
    fn allows(&self, realm: &str) -> bool {
        self.realms.is_none_or(|realms| realms.contains(&realm))
    }

    fn owner(&self, realm: &str) -> &'static str {
        if realm == "llm-keys" { "system" } else { self.user }
    }
}

impl Secret {
    /// Adds the next version. The previous one can be read until `until`.
    fn put(&mut self, value: &str, until: i64) {
        if let Some(active) = self.versions.last_mut() {
            active.1 = Some(until);
        }
        self.versions.push((value.to_owned(), None));
    }
}

fn is_realm(realm: &str) -> bool {
    !realm.contains('_')
}

fn expect(expected: Option<i32>, found: usize) -> Result<(), Reason> {
    if expected.is_none_or(|v| v as usize == found) { Ok(()) } else { Err(Reason::VersionMismatch) }
}
