//! Lock on a database's content during an export, and detection of running servers.
//!
//! The hold is a session in a transaction that holds a `SHARE` lock on every table with content. Reads continue. A
//! change waits for the lock and fails. The hold writes nothing. It ends when it is dropped or when its connection is
//! lost, so its user calls [`Hold::check`] at the end of the export.
//!
//! A running server renews its lease three times a second. A registration alone does not show a running server: the
//! registration of a killed server stays until another server waits for it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::failure::{LATE, failure};
use super::link::{Dialer, Link};
use super::portable::begin_session;
use super::{rows, schema};
use agentrouter_store::StoreError;

const HOLD: &str = "BEGIN READ WRITE; SET LOCAL lock_timeout = '5s'; \
     LOCK TABLE facts, keks, internal_keys, api_keys, secrets, versions, secret_tags IN SHARE MODE";
const REGISTERED: &str = "SELECT id, name, renewals FROM agentrouter_secrets.replicas";
/// How long renewals are watched: longer than several renewal intervals, and longer than a server takes to reconnect.
const WATCH: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for the session, and for a result.
const LIMIT: Duration = Duration::from_secs(10);
const LOST: StoreError = StoreError::unavailable("the connection that locked its content was lost");

/// A lock on the content of a database.
pub struct Hold(Link);

impl Hold {
    pub(super) async fn take(dialer: &Dialer) -> Result<Self, StoreError> {
        let servers = servers(dialer).await?;
        if !servers.is_empty() {
            return Err(StoreError::InUse { holder: format!("server {}", servers.join(", server ")) });
        }
        let link = dialer.bare(Instant::now() + LIMIT).await?;
        schema::check(&link.client).await?;
        timeout(LIMIT, begin_session(&link.client, HOLD)).await.map_err(|_| LATE)??;
        Ok(Self(link))
    }

    /// Checks that the lock has been held until now.
    ///
    /// # Errors
    /// When the connection was lost; then the content may have been changed.
    pub async fn check(&self) -> Result<(), StoreError> {
        match timeout(LIMIT, self.0.client.batch_execute("SELECT 1")).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(LOST),
        }
    }
}

/// See [`Replicated::servers`](agentrouter_store::Replicated::servers).
pub(super) async fn servers(dialer: &Dialer) -> Result<Vec<String>, StoreError> {
    let link = dialer.bare(Instant::now() + LIMIT).await?;
    let start = Instant::now();
    let before = registered(&link.client).await?;
    let mut seen: Vec<String> = Vec::new();
    // Watch a little longer after the first renewal, so that every running server is named.
    let mut end = start + WATCH;
    while Instant::now() < end {
        sleep(LOOK_EVERY).await;
        for (id, (name, renewals)) in registered(&link.client).await? {
            if lives(before.get(&id).map(|(_, earlier)| *earlier), renewals) && !seen.contains(&name) {
                end = end.min(Instant::now() + WATCH / 2);
                seen.push(name);
            }
        }
    }
    seen.sort();
    Ok(seen)
}

/// Whether a server is running behind a registration. `before` and `renewals` are its counts of renewals at the two
/// looks. A difference of one proves nothing, since one renewal may have been in transit when the server was killed.
pub(super) fn lives(before: Option<i64>, renewals: i64) -> bool {
    before.is_none_or(|before| renewals > before + 1)
}

/// The registrations by id: the server's name and its number of renewals.
async fn registered(client: &Client) -> Result<HashMap<Vec<u8>, (String, i64)>, StoreError> {
    let found = client.query_typed(REGISTERED, &[]);
    let found = timeout(LIMIT, found).await.map_err(|_| LATE)?.map_err(failure)?;
    let row = |row: &tokio_postgres::Row| {
        let id: Vec<u8> = rows::column(row, 0, "a registration")?;
        let name: &str = rows::column(row, 1, "a registration")?;
        let name = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
        Ok((id, (name, rows::column(row, 2, "a registration")?)))
    };
    found.iter().map(row).collect()
}
