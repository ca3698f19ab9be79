//! Tests of TLS to the database.

use std::sync::Arc;

use super::{ConnectOptions, target};
use crate::PostgresStore;
use crate::testing::Postgres;
use agentrouter_store::StoreError;
use agentrouter_store::conformance::fixtures::*;

/// A server with a certificate for `localhost` only, and the file of its authority.
fn secured() -> (Postgres, tempfile::NamedTempFile) {
    let server = Postgres::start("");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    server.put("server.crt", &certified.cert.pem());
    server.put("server.key", &certified.signing_key.serialize_pem());
    server.reconfigure("ssl = on");
    let roots = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(roots.path(), certified.cert.pem()).expect("written");
    (server, roots)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_verified_with_its_host_name() {
    let (server, roots) = secured();
    let database = server.database();
    let url = |host: &str, rest: &str| {
        let roots = roots.path().display();
        format!("postgres://postgres@{host}:{}/{database}?{rest}&sslrootcert={roots}", server.port())
    };
    for mode in ["sslmode=verify-full", "sslmode=require"] {
        let store = PostgresStore::open(target(&url("localhost", mode)), "replica-1").await.expect("opened");
        let link = store.dialer.link(crate::link::Purpose::Read, super::deadline()).await.expect("a link");
        let row =
            link.client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
        assert!(row.expect("a row").get::<_, bool>(0), "{mode}");
        let store: Shared = Arc::new(store);
        put(&store, &place("alice/mcp/a"), "v").await;
        store.close().await;

        let other = PostgresStore::open(target(&url("127.0.0.1", mode)), "replica-1").await;
        assert!(
            matches!(other, Err(StoreError::Open { .. })),
            "another name than the certificate's: {other:?}"
        );
    }
    let untrusted = format!("postgres://postgres@localhost:{}/{database}?sslmode=require", server.port());
    // A system without trusted authorities is reported here already.
    let refused = match ConnectOptions::parse(&untrusted, None) {
        Ok(target) => PostgresStore::open(target, "replica-1").await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(StoreError::Open { .. })), "an authority that is not trusted: {refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_authority_is_trusted_for_the_next_connection() {
    let (server, roots) = secured();
    let database = server.database();
    let path = roots.path().display();
    let url = format!(
        "postgres://postgres@localhost:{}/{database}?sslmode=require&sslrootcert={path}",
        server.port()
    );
    let store: Shared = Arc::new(PostgresStore::open(target(&url), "replica-1").await.expect("opened"));
    put(&store, &place("alice/mcp/a"), "v").await;

    let next = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    server.put("server.crt", &next.cert.pem());
    server.put("server.key", &next.signing_key.serialize_pem());
    server.reconfigure("");
    // A file that cannot be used is not used, and the next one is.
    std::fs::write(roots.path(), "no certificate").expect("written");
    server.sql(&database, "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_ssl WHERE ssl");
    let refused = store.active(&place("alice/mcp/a")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    std::fs::write(roots.path(), next.cert.pem()).expect("written");
    super::until(async || store.active(&place("alice/mcp/a")).await).await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let server = Postgres::shared();
    let roots = tempfile::NamedTempFile::new().expect("a file");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(roots.path(), certified.cert.pem()).expect("written");
    let roots = roots.path().display();
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/postgres?sslmode=verify-full&sslrootcert={roots}",
        server.port()
    );
    let refused = PostgresStore::open(target(&url), "replica-1").await;
    assert!(matches!(refused, Err(StoreError::Open { .. })), "{refused:?}");
}
