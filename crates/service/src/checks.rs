//! The checks that every call goes through: whose secrets, in which realm, and is each field what it should be.
//!
//! One extractor yields owner and realm, and an operation has no other way to come by them. What the key and the
//! request alone decide (403) is decided before any row is looked at (404).

use agentrouter_model::{
    ApiKeyRecord, Owner, ParseError, Place, Realm, Reason, Refusal, Scope, SecretName, Version, Violation,
};

/// The checks of one call; collects the fields at fault, so that a caller learns of all of them at once.
pub(crate) struct Checks<'k> {
    key: &'k ApiKeyRecord,
    violations: Vec<Violation>,
}

impl<'k> Checks<'k> {
    pub(crate) fn new(key: &'k ApiKeyRecord) -> Self {
        Self { key, violations: Vec::new() }
    }

    /// The realm of the request: as given, else the key's current one. None if the text is no realm.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`] when the key is limited to others.
    pub(crate) fn realm(&mut self, text: &str) -> Result<Option<Realm>, Refusal> {
        let realm = if text.is_empty() {
            Some(self.key.realm.clone())
        } else {
            self.field("realm", Realm::parse(text))
        };
        match &realm {
            Some(realm) if !self.key.allows_realm(realm) => Err(Reason::RealmNotAllowed.into()),
            _ => Ok(realm),
        }
    }

    /// The owner of what the request is about: `system` in an LLM realm, whatever else is said; else the key's user.
    pub(crate) fn own(&self, realm: &Realm) -> Owner {
        if realm.is_llm() { Owner::System } else { self.key.user.clone() }
    }

    /// The owner where the request may name one by `user_id`.
    ///
    /// # Errors
    /// [`Reason::UserIdNotAllowed`] when it names another than the key's user and the key lacks `scope`.
    pub(crate) fn named_owner(
        &mut self,
        realm: &Realm,
        user_id: &str,
        scope: Scope,
    ) -> Result<Option<Owner>, Refusal> {
        if realm.is_llm() || user_id.is_empty() {
            return Ok(Some(self.own(realm)));
        }
        let owner = self.field("user_id", Owner::parse(user_id));
        match &owner {
            Some(owner) if *owner != self.key.user && !self.key.scopes.contains(scope) => {
                Err(Reason::UserIdNotAllowed.into())
            }
            _ => Ok(owner),
        }
    }

    /// The place of the request's own secret `name`: what Get, Delete, Rotate and Validate act on.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`].
    pub(crate) fn own_place(&mut self, realm: &str, name: &str) -> Result<Option<Place>, Refusal> {
        let realm = self.realm(realm)?;
        let name = self.field("name", SecretName::parse(name));
        Ok(match (realm, name) {
            (Some(realm), Some(name)) => Some(Place { owner: self.own(&realm), realm, name }),
            _ => None,
        })
    }

    /// The place of a secret whose owner the request may name: what Create and GetSecretValue act on.
    ///
    /// # Errors
    /// [`Reason::RealmNotAllowed`], [`Reason::UserIdNotAllowed`].
    pub(crate) fn named_place(
        &mut self,
        realm: &str,
        user_id: &str,
        scope: Scope,
        name: &str,
    ) -> Result<Option<Place>, Refusal> {
        let realm = self.realm(realm)?;
        let owner = match &realm {
            Some(realm) => self.named_owner(realm, user_id, scope)?,
            None => None,
        };
        let name = self.field("name", SecretName::parse(name));
        Ok(match (realm, owner, name) {
            (Some(realm), Some(owner), Some(name)) => Some(Place { owner, realm, name }),
            _ => None,
        })
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
