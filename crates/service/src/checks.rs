//! The checks that every call goes through: whose secrets, in which realm, and is each field what it should be.
//!
//! One extractor yields owner and realm, and an operation has no other way to come by them. What the key and the
//! request alone decide (403) is decided before any row is looked at (404).

use agentrouter_model::{
    ApiKeyRecord, Owner, ParseError, Place, Realm, Reason, Refusal, Scope, SecretName, Version, Violation,
};

use crate::audit_records::Subject;

/// The checks of one call; collects the fields at fault, so that a caller learns of all of them at once. What a key reached
/// for in vain is put down in the call's subject.
pub(crate) struct Checks<'k> {
    key: &'k ApiKeyRecord,
    subject: &'k mut Subject,
    violations: Vec<Violation>,
}

impl<'k> Checks<'k> {
    pub(crate) fn new(key: &'k ApiKeyRecord, subject: &'k mut Subject) -> Self {
        Self { key, subject, violations: Vec::new() }
    }

    /// The realm that a list is limited to, if its text is one.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`] when the key is limited to others.
    pub(crate) fn realm(&mut self, text: &str) -> Result<Option<Realm>, Refusal> {
        let realm = self.field("realm", Realm::parse(text));
        self.subject.owner = realm.as_ref().map(|realm| self.own(realm));
        self.subject.realm.clone_from(&realm);
        match &realm {
            Some(realm) if !self.key.allows_realm(realm) => Err(Reason::RealmNotAllowed.into()),
            _ => Ok(realm),
        }
    }

    /// The owner of what the request is about: `system` in an LLM realm, whatever else is said; else the key's user.
    fn own(&self, realm: &Realm) -> Owner {
        if realm.is_llm() { Owner::System } else { self.key.user.clone() }
    }

    /// The place of the request's own secret `name`: what Get, Delete, Rotate and Validate act on.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`].
    pub(crate) fn own_place(&mut self, realm: &str, name: &str) -> Result<Option<Place>, Refusal> {
        self.place(realm, "", None, name)
    }

    /// The place of a secret whose owner the request may name by `user_id`: what Create and GetSecretValue act on.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`]; [`Reason::UserIdNotAllowed`] when it names another than the key's user and the key
    /// lacks `scope`.
    pub(crate) fn named_place(
        &mut self,
        realm: &str,
        user_id: &str,
        scope: Scope,
        name: &str,
    ) -> Result<Option<Place>, Refusal> {
        self.place(realm, user_id, Some(scope), name)
    }

    /// None if a text does not parse. The realm is as given, else the key's current one.
    fn place(
        &mut self,
        realm: &str,
        user_id: &str,
        scope: Option<Scope>,
        name: &str,
    ) -> Result<Option<Place>, Refusal> {
        let realm = if realm.is_empty() {
            Some(self.key.realm.clone())
        } else {
            self.field("realm", Realm::parse(realm))
        };
        let owner = realm.as_ref().and_then(|realm| {
            if realm.is_llm() || user_id.is_empty() {
                Some(self.own(realm))
            } else {
                self.field("user_id", Owner::parse(user_id))
            }
        });
        let name = self.field("name", SecretName::parse(name));
        if let Some(reason) = self.forbids(realm.as_ref(), owner.as_ref(), scope) {
            *self.subject = Subject { owner, realm, name, ..Subject::default() };
            return Err(reason.into());
        }
        Ok(match (realm, owner, name) {
            (Some(realm), Some(owner), Some(name)) => Some(Place { owner, realm, name }),
            _ => None,
        })
    }

    /// Why the key may not go there, whatever is there.
    fn forbids(&self, realm: Option<&Realm>, owner: Option<&Owner>, scope: Option<Scope>) -> Option<Reason> {
        let realm = realm?;
        if !self.key.allows_realm(realm) {
            return Some(Reason::RealmNotAllowed);
        }
        let named = owner.is_some_and(|owner| *owner != self.own(realm));
        let may = scope.is_some_and(|scope| self.key.scopes.contains(scope));
        (named && !may).then_some(Reason::UserIdNotAllowed)
    }

    /// `expected_version`, where 0 is allowed only if `or_absent`.
    pub(crate) fn expected_version(&mut self, expected: Option<i32>, or_absent: bool) -> Option<i32> {
        let least = i32::from(!or_absent);
        if let Some(number) = expected
            && number < least
        {
            self.violation(
                "expected_version",
                if or_absent { "must be 0 or more" } else { "must be 1 or more" },
            );
        }
        expected
    }

    /// A version that a request names; none for 0.
    pub(crate) fn version(&mut self, number: i32) -> Option<Version> {
        if number < 0 {
            self.violation("version", "must be 0 (the active one) or more");
        }
        Version::new(number)
    }

    /// What was parsed, or a note that the field is at fault.
    pub(crate) fn field<T>(&mut self, field: &'static str, parsed: Result<T, ParseError>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.violation(field, error.rule());
                None
            }
        }
    }

    /// Notes that a field is at fault.
    pub(crate) fn violation(&mut self, field: &'static str, rule: &'static str) {
        self.violations.push(Violation { field, rule: rule.into() });
    }

    /// The parsed fields, if none was at fault.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`], with every field at fault.
    pub(crate) fn finish<T>(self, parsed: Option<T>) -> Result<T, Refusal> {
        match parsed {
            Some(value) if self.violations.is_empty() => Ok(value),
            _ => Err(Refusal::fields(self.violations)),
        }
    }
}
