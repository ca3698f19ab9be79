//! Authorisation and validation of a request: owner, realm, and each field against its rule.
//!
//! Every operation calls it first. One extractor yields owner and realm, and operations have no other source of them.
//! What the key and the request alone decide (403) is decided before a row is read (404).

use agentrouter_model::{
    Grant, Owner, ParseError, Place, Realm, Reason, Refusal, Scope, SecretName, Version, Violations,
};

use crate::audit_records::Subject;

/// The checks of one request. They collect all invalid fields, so that one response names all of them. The place that a
/// key may not access is noted in `subject` for the audit record.
pub(crate) struct Checks<'k> {
    grant: Grant<'k>,
    subject: &'k mut Subject,
    violations: Violations,
}

impl<'k> Checks<'k> {
    pub(crate) fn new(grant: Grant<'k>, subject: &'k mut Subject) -> Self {
        Self { grant, subject, violations: Violations::default() }
    }

    /// The realm that a list is limited to. `None` if the text is invalid.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`] when the key is limited to others.
    pub(crate) fn realm(&mut self, text: &str) -> Result<Option<Realm>, Refusal> {
        let realm = self.field("realm", Realm::parse(text));
        self.subject.owner = realm.as_ref().map(|realm| self.own(realm));
        self.subject.realm.clone_from(&realm);
        match &realm {
            Some(realm) if !self.grant.allows_realm(realm) => Err(Reason::RealmNotAllowed.into()),
            _ => Ok(realm),
        }
    }

    /// The owner of a request's secrets: always `system` in an LLM realm, otherwise the key's user.
    fn own(&self, realm: &Realm) -> Owner {
        if realm.is_llm() { Owner::System } else { self.grant.user.clone() }
    }

    /// The place of the secret `name` of the request's own owner, for Get, Delete, Rotate and Validate.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`].
    pub(crate) fn own_place(&mut self, realm: &str, name: &str) -> Result<Option<Place>, Refusal> {
        self.place(realm, "", None, name)
    }

    /// The place of a secret whose owner the request may name by `user_id`, for Create and GetSecretValue.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`]; [`Reason::UserIdNotAllowed`] when it names a user other than the key's and the key
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

    /// `None` if a text is invalid. An empty realm means the key's current realm.
    fn place(
        &mut self,
        realm: &str,
        user_id: &str,
        scope: Option<Scope>,
        name: &str,
    ) -> Result<Option<Place>, Refusal> {
        let realm = if realm.is_empty() {
            Some(self.grant.realm.clone())
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

    /// Why the key may not access this owner and realm, whether or not a secret exists there.
    fn forbids(&self, realm: Option<&Realm>, owner: Option<&Owner>, scope: Option<Scope>) -> Option<Reason> {
        let realm = realm?;
        if !self.grant.allows_realm(realm) {
            return Some(Reason::RealmNotAllowed);
        }
        let named = owner.is_some_and(|owner| *owner != self.own(realm));
        let may = scope.is_some_and(|scope| self.grant.scopes.contains(scope));
        (named && !may).then_some(Reason::UserIdNotAllowed)
    }

    /// `expected_version`. 0 is valid only if `or_absent`.
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

    /// The version that a request names. `None` for 0.
    pub(crate) fn version(&mut self, number: i32) -> Option<Version> {
        if number < 0 {
            self.violation("version", "must be 0 (the active one) or more");
        }
        Version::new(number)
    }

    /// The parsed value. Notes a violation and returns `None` if the field is invalid.
    pub(crate) fn field<T>(&mut self, field: &'static str, parsed: Result<T, ParseError>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.violation(field, error.rule());
                None
            }
        }
    }

    /// Notes an invalid field.
    pub(crate) fn violation(&mut self, field: &'static str, rule: &'static str) {
        self.violations.note(field, rule);
    }

    /// The parsed fields, if all are valid.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`], with every invalid field.
    pub(crate) fn finish<T>(self, parsed: Option<T>) -> Result<T, Refusal> {
        self.violations.finish()?;
        // A field that did not parse is a violation.
        parsed.ok_or_else(|| Reason::Internal.into())
    }
}
