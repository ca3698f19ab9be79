//! A service for tests.

use std::sync::Arc;

use agentrouter_audit::{Audit, HeadRow, Settings as AuditSettings, Sync};
use agentrouter_keyring::Keyring;
use agentrouter_model::{Clock, Owner, Realm, ScopeSet};
use agentrouter_service::{
    CallContext, KeyManifest, Known, Memory, NewKey, Origin, Parts, Service, Settings, unlock,
};
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::Store;

use crate::{FixedClock, SeededRng};

/// Keeps no generation: the service is opened once.
struct Nowhere;

impl Memory for Nowhere {
    fn keep(&self, _known: Known) -> std::io::Result<()> {
        Ok(())
    }
}

/// A service with its store and audit log in a temporary directory, which is removed when it is dropped.
pub struct TestService {
    /// The service.
    pub service: Arc<Service>,
    /// Its clock.
    pub clock: Arc<FixedClock>,
    /// Its store.
    pub store: Arc<SqliteStore>,
    /// Authenticates its rows.
    pub row_tags: Arc<KeyManifest>,
    /// Its data directory.
    pub dir: tempfile::TempDir,
}

impl TestService {
    /// A new service.
    ///
    /// # Panics
    /// When it cannot be created.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// A new service with these settings.
    ///
    /// # Panics
    /// When it cannot be created.
    pub async fn start_with(service_settings: Settings) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(FixedClock::default());
        let rng = Arc::new(SeededRng::new(1));
        let store = Arc::new(SqliteStore::open(&dir.path().join("secrets.db"), &*clock).expect("a store"));
        let keyring = Keyring::create(&dir.path().join("kek.json"), &*clock, &*rng).expect("a KEK");
        let keys = unlock(&*store, &keyring, &*rng).await.expect("a new store");
        let settings = AuditSettings {
            dir: dir.path().to_owned(),
            max_bytes: 64 * 1024 * 1024,
            sync: Sync::Second,
            epoch: None,
            replica: None,
            compress: false,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let row_key = keys.audit.row_key().expect("derived");
        let row_tags = Arc::new(KeyManifest::new(
            row_key,
            None,
            Box::new(Nowhere),
            Arc::clone(&clock) as Arc<dyn Clock>,
        ));
        let audit = Audit::open(settings, keys.audit, HeadRow::Missing).expect("an audit log");
        let service = Service::new(Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            keyring,
            kek_file: (&dir.path().join("kek.json")).into(),
            audit,
            page_tokens: keys.page_tokens,
            row_tags: Arc::clone(&row_tags) as _,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            rng,
            settings: service_settings,
        });
        service.authenticate_rows().await.expect("a new store");
        Self { service, clock, store, row_tags, dir }
    }

    /// The context of a request by a new key of `user` with `scopes` (comma-separated).
    ///
    /// # Panics
    /// When an argument is invalid, or the key cannot be issued.
    pub async fn call_by(&self, user: &str, scopes: &str) -> Arc<CallContext> {
        let new = NewKey {
            name: String::new(),
            user: Owner::parse(user).expect("a user"),
            scopes: ScopeSet::parse(scopes).expect("scopes"),
            realm: Realm::default(),
            realms: None,
            expires_at: None,
        };
        self.call_with(new).await
    }

    /// The context of a request by a new key with the given properties.
    ///
    /// # Panics
    /// When the key cannot be issued.
    pub async fn call_with(&self, new: NewKey) -> Arc<CallContext> {
        let (token, _) = self.service.issue_key(&Origin::default(), new).await.expect("a key");
        let caller = self.service.authenticate(Some(token.expose())).await.expect("a live key");
        Arc::new(CallContext::new(caller, Origin::default()))
    }
}
