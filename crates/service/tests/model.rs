//! Model test: random calls run against the real service (with its store, cache and cryptography) and against a
//! reference model. Both must give the same responses.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "model/calls.rs"]
mod calls;
#[path = "model/reference.rs"]
mod reference;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use agentrouter_model::rpc::{
    CreateSecret, DeleteSecret, GetSecret, GetSecretValue, ListSecrets, RotateSecret, ValidateSecret,
};
use agentrouter_model::{
    ApiKeyId, Clock as _, Owner, Realm, Reason, Refusal, ScopeSet, Secret, SecretId, Status, Timestamp,
};
use agentrouter_service::{CallContext, NewKey, Origin};
use agentrouter_store::Secrets as _;
use agentrouter_testkit::TestService;
use proptest::prelude::*;

use calls::{At, Call, NAMES, REALMS, calls};
use reference::{Key, Reference, Response, ShownVersion};

/// The number of API keys that make calls.
pub(crate) const KEYS: usize = 4;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_service_responds_as_the_reference_model(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::start().await;
            for (number, call) in calls.iter().enumerate() {
                pair.compare(number, call).await?;
            }
            for who in 0..KEYS {
                let everything =
                    Call::List { who, realm: None, status: "any", tag: None, prefix: "", page_size: 2 };
                pair.compare(calls.len(), &everything).await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}

/// The service and the reference, side by side.
struct Pair {
    service: TestService,
    start: Timestamp,
    keys: Vec<(String, ApiKeyId)>,
    reference: Reference,
    /// The id that the service gave to each secret of the reference.
    ids: HashMap<usize, SecretId>,
}

impl Pair {
    async fn start() -> Self {
        let service = TestService::start().await;
        let key = |user, scopes: &str, home, realms| Key {
            user,
            scopes: ScopeSet::parse(scopes).unwrap(),
            home,
            realms,
            live: true,
        };
        let all = ScopeSet::ALL.to_string();
        let limited: Option<&'static [&'static str]> = Some(&["mcp", "llm-keys"]);
        let known = vec![
            key("alice", &all, "default", None),
            key("bob", "secrets/read,secrets/write,secrets/read/internal", "mcp", None),
            key("alice", "secrets/read,secrets/write,secrets/read/internal", "mcp", limited),
            key("carol", "secrets/read,secrets/write/internal", "default", None),
        ];
        assert_eq!(known.len(), KEYS);
        let mut keys = Vec::new();
        for key in &known {
            let realm = |text: &&str| Realm::parse(text).unwrap();
            let new = NewKey {
                name: String::new(),
                user: Owner::parse(key.user).unwrap(),
                scopes: key.scopes,
                realm: realm(&key.home),
                realms: key.realms.map(|realms| realms.iter().map(realm).collect()),
                expires_at: None,
            };
            let (token, record) = service.service.issue_key(&Origin::default(), new).await.unwrap();
            keys.push((token.expose().to_owned(), record.id));
        }
        let start = service.clock.now();
        let reference = Reference::new(known);
        Self { service, start, keys, reference, ids: HashMap::new() }
    }

    async fn compare(&mut self, number: usize, call: &Call) -> Result<(), TestCaseError> {
        let expected = self.reference.call(call);
        let made = self.act(call).await.map_err(|refusal| refusal.reason);
        prop_assert_eq!(&made, &expected, "call {}: {:?}", number, call);
        Ok(())
    }

    async fn act(&mut self, call: &Call) -> Result<Response, Refusal> {
        let service = std::sync::Arc::clone(&self.service.service);
        let context = match call {
            Call::Advance(seconds) => {
                self.service.clock.advance(Duration::from_secs(seconds.unsigned_abs()));
                return Ok(Response::Done);
            }
            Call::Revoke(key) => {
                service.revoke_key(&Origin::default(), &self.keys[*key].1).await?;
                return Ok(Response::Done);
            }
            Call::Tend => {
                self.service.store.retire_expired(self.service.clock.now(), 500).await.unwrap();
                return Ok(Response::Done);
            }
            Call::Create { who, .. }
            | Call::Rotate { who, .. }
            | Call::Delete { who, .. }
            | Call::Get { who, .. }
            | Call::Validate { who, .. }
            | Call::Value { who, .. }
            | Call::List { who, .. } => {
                let caller = service.authenticate(Some(&self.keys[*who].0)).await?;
                std::sync::Arc::new(CallContext::new(caller, Origin::default()))
            }
        };
        let place = |at: &At| (NAMES[at.name], REALMS[at.realm]);
        match call {
            Call::Create { at, change, user, expected, .. } => {
                let (name, realm) = place(at);
                let tags = change.tags.iter().map(|(key, value)| (&**key, &**value)).collect();
                let call = CreateSecret {
                    name,
                    realm,
                    description: &change.description,
                    value: &change.value,
                    tags,
                    user_id: user.unwrap_or_default(),
                    expected_version: *expected,
                    update_mask: change.mask.clone(),
                };
                service.create(context, call).await.map(|secret| Response::Secret(self.row(&secret)))
            }
            Call::Rotate { at, value, grace, expected, .. } => {
                let (name, realm) = place(at);
                let grace_period = grace.map(|seconds| (seconds, 0));
                let call =
                    RotateSecret { name, realm, new_value: value, expected_version: *expected, grace_period };
                service.rotate(context, call).await.map(|secret| Response::Secret(self.row(&secret)))
            }
            Call::Delete { at, .. } => {
                let (name, realm) = place(at);
                service.delete(context, DeleteSecret { name, realm }).await.map(|()| Response::Done)
            }
            Call::Get { at, .. } => {
                let (name, realm) = place(at);
                let secret = service.get(&context, GetSecret { name, realm }).await?;
                Ok(Response::Secret(self.row(&secret)))
            }
            Call::Validate { at, .. } => {
                let (name, realm) = place(at);
                let validation = service.validate(&context, ValidateSecret { name, realm }).await?;
                assert!(validation.valid && validation.error.is_empty(), "{validation:?}");
                Ok(Response::Valid)
            }
            Call::Value { at, user, version, .. } => {
                let (name, realm) = place(at);
                let user_id = user.unwrap_or_default();
                let call = GetSecretValue { name, realm, user_id, version: *version };
                let revealed = service.value(&context, call).await?;
                Ok(Response::Value(revealed.value.expose().to_owned(), self.row(&revealed.secret)))
            }
            Call::List { realm, status, tag, prefix, page_size, .. } => {
                let call = ListSecrets {
                    realm: realm.map_or("", |realm| REALMS[realm]),
                    status,
                    tags: tag.iter().map(|(key, value)| (&**key, &**value)).collect(),
                    page_size: *page_size,
                    page_token: "",
                    name_prefix: prefix,
                };
                self.walk(&context, call).await.map(Response::Rows)
            }
            Call::Advance(_) | Call::Revoke(_) | Call::Tend => unreachable!("done above"),
        }
    }

    /// All pages. Every page but the last is full. The last page is not empty unless it is the first.
    async fn walk(
        &mut self,
        context: &CallContext,
        call: ListSecrets<'_>,
    ) -> Result<Vec<ShownVersion>, Refusal> {
        let full = match call.page_size {
            0 => 50,
            size => usize::try_from(size.min(1000)).unwrap_or(0),
        };
        let (mut rows, mut token) = (Vec::new(), String::new());
        loop {
            let call = ListSecrets { page_token: &token, ..call.clone() };
            let page = self.service.service.list(context, call).await?;
            assert!(page.secrets.len() <= full);
            assert!(page.next_page_token.is_empty() || page.secrets.len() == full);
            assert!(token.is_empty() || !page.secrets.is_empty());
            rows.extend(page.secrets.iter().map(|secret| self.row(secret)));
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(rows);
            }
        }
    }

    /// A secret of the service as the reference shows it.
    fn row(&mut self, secret: &Secret) -> ShownVersion {
        let seconds =
            |at: Timestamp| at.saturating_since(self.start).as_secs().try_into().unwrap_or(i64::MAX);
        let place = &secret.place;
        let tags = secret.tags.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        let pending = secret.status == Status::RotatedPending;
        let times = [Some(secret.created_at), Some(secret.updated_at), secret.rotated_at];
        let (tags, times) = (tags.collect::<BTreeMap<_, _>>(), times.map(|at| at.map(seconds)));
        let expires = secret.expires_at.filter(|_| pending).map(seconds);
        assert!(secret.status != Status::Active || secret.expires_at.is_none(), "{secret:?}");
        ShownVersion {
            id: self.id(secret.id),
            place: [place.realm.to_string(), place.name.to_string(), place.owner.to_string()],
            description: secret.description.to_string(),
            tags,
            status: secret.status.as_str(),
            version: secret.version.get(),
            times,
            expires,
        }
    }

    /// The reference's number of an id. A new id belongs to the one secret whose id is not known yet.
    fn id(&mut self, id: SecretId) -> usize {
        if let Some((number, _)) = self.ids.iter().find(|(_, known)| **known == id) {
            return *number;
        }
        let new: Vec<usize> =
            self.reference.ids().into_iter().filter(|number| !self.ids.contains_key(number)).collect();
        match new[..] {
            [number] => {
                self.ids.insert(number, id);
                number
            }
            _ => usize::MAX,
        }
    }
}

#[tokio::test]
async fn the_reference_detects_a_wrong_response() {
    // Checks that the comparison can fail: changes the service without the reference.
    let mut pair = Pair::start().await;
    let at = At { realm: 1, name: 0 };
    let change = calls::Change {
        value: "v".into(),
        description: String::new(),
        tags: BTreeMap::default(),
        mask: None,
    };
    let create = Call::Create { who: 0, at: at.clone(), change, user: None, expected: None };
    pair.compare(0, &create).await.unwrap();
    pair.act(&Call::Delete { who: 0, at: at.clone() }).await.unwrap();
    assert!(pair.compare(1, &Call::Get { who: 0, at }).await.is_err());
    assert_eq!(pair.reference.call(&Call::Get { who: 3, at: At { realm: 1, name: 0 } }), {
        Err(Reason::SecretNotFound)
    });
}
