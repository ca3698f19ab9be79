//! Authorization: every RPC, in every dialect, by every kind of caller, on every kind of secret.
//!
//! The expected outcomes come from [`oracle`], which is written from the contract and uses nothing of the service. The
//! RPCs come from the definition and the list of REST routes, so that a new one without a row here fails.

mod indistinguishable;
mod keys;
mod lists;
mod oracle;
mod order;
mod owners;
mod table;
mod tokens;
mod wire;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::Server;
use oracle::{Key, Place, READ, READ_INTERNAL, WRITE, WRITE_INTERNAL};
use wire::{Client, Dialect, RpcReply, method};

/// All four scopes.
const ALL: [&str; 4] = [READ, WRITE, READ_INTERNAL, WRITE_INTERNAL];

/// The prefix of every stored value, so that a value in the wrong response is detected.
const PLAINTEXT: &str = "plaintext-";

/// A key: the text that a caller sends, and the rights that it has.
struct Caller {
    what: &'static str,
    authorization: Option<String>,
    /// The rights by the contract. `None` if it is not a valid key.
    key: Option<Key>,
}

impl Caller {
    fn live(what: &'static str, bare: &str, key: Key) -> Self {
        Self { what, authorization: Some(bearer(bare)), key: Some(key) }
    }

    fn refused(what: &'static str, authorization: Option<String>) -> Self {
        Self { what, authorization, key: None }
    }
}

/// The header's value for a key without its `ak-`.
fn bearer(bare: &str) -> String {
    format!("Bearer ak-{bare}")
}

/// A server, the connections to it, and the expected contents of its store.
struct Fixture {
    server: Server,
    client: Client,
    /// The value of every secret.
    rows: BTreeMap<Place, String>,
    /// A key with all scopes for each owner that was used.
    masters: BTreeMap<String, String>,
    count: u32,
}

impl Fixture {
    /// Without a limit of failed authentications, because the tests make many.
    fn open() -> Self {
        let server = Server::start_with(&["--limit-failed-auth-rate", "0"]);
        let client = Client::of(&server);
        Self { server, client, rows: BTreeMap::new(), masters: BTreeMap::new(), count: 0 }
    }

    /// Issues a key.
    fn issue(&self, key: &Key) -> String {
        let mut more = vec!["--realm", &key.realm];
        let realms = key.realms.as_ref().map(|realms| realms.join(","));
        if let Some(realms) = &realms {
            more.extend(["--realms", realms]);
        }
        self.server.issue(&key.user, &key.scopes.join(","), &more)
    }

    /// The header of `owner`'s own key with all scopes.
    fn master(&mut self, owner: &str) -> String {
        if !self.masters.contains_key(owner) {
            let bare = self.issue(&Key::of(owner, &ALL));
            self.masters.insert(owner.to_owned(), bearer(&bare));
        }
        self.masters[owner].clone()
    }

    /// A unique value.
    fn value(&mut self) -> String {
        self.count += 1;
        format!("{PLAINTEXT}{}", self.count)
    }

    /// Sends a request of the RPC of this name.
    async fn call(
        &mut self,
        dialect: Dialect,
        authorization: &str,
        rpc: &str,
        fields: &[(&str, &str)],
    ) -> RpcReply {
        self.client.send(&method(rpc).with(dialect, fields), Some(authorization)).await
    }

    /// As [`Fixture::call`], over REST. The request must succeed.
    async fn done(&mut self, authorization: &str, rpc: &str, fields: &[(&str, &str)]) -> Value {
        let reply = self.call(Dialect::Rest, authorization, rpc, fields).await;
        assert_eq!(reply.code, 0, "{rpc} {fields:?}: {}", reply.whole);
        reply.message
    }

    /// Creates a secret, as its owner.
    async fn create(&mut self, place: &Place) {
        let (master, value) = (self.master(&place.owner), self.value());
        let fields = [("realm", &*place.realm), ("name", &*place.name), ("value", &*value)];
        let message = self.done(&master, "CreateSecret", &fields).await;
        assert_eq!(Place::of(&message["secret"]), *place);
        self.rows.insert(place.clone(), value);
    }

    /// Deletes a secret, as its owner.
    async fn delete(&mut self, place: &Place) {
        let master = self.master(&place.owner);
        let fields = [("realm", &*place.realm), ("name", &*place.name)];
        self.done(&master, "DeleteSecret", &fields).await;
        self.rows.remove(place);
    }

    /// Checks that the store contains exactly the expected secrets.
    async fn check(&mut self) {
        let mut found = BTreeMap::new();
        for owner in self.masters.keys().cloned().collect::<Vec<_>>() {
            let master = self.master(&owner);
            let list = self.done(&master, "ListSecrets", &[]).await;
            assert_eq!(list["next_page_token"], "", "all of it is on one page");
            for secret in list["secrets"].as_array().expect("a list") {
                let place = Place::of(secret);
                let fields = [("realm", &*place.realm), ("user_id", &*place.owner), ("name", &*place.name)];
                let revealed = self.done(&master, "GetSecretValue", &fields).await;
                found.insert(place, revealed["value"].as_str().expect("a value").to_owned());
            }
        }
        assert_eq!(found, self.rows);
    }
}
