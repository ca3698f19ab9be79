//! Wrapped keys, and the KEKs that the servers hold. See [`agentrouter_store::wrapped_keys`].
//!
//! A replacement takes the locks of its places, as every other change does, so that it cannot deadlock with them. The lock
//! of a change of KEKs belongs to a session, which ends with its process.

use std::time::Duration;

use agentrouter_lease as lease;
use agentrouter_model::{KekId, Owner, Place, Realm, SecretId, SecretName, Version};
use agentrouter_store::wrapped_keys::{
    DekCursor, DekPage, DekQuery, DekSwap, KEKS, KekHolder, KekLock, KekReport, RESEALED, StoredDek,
};
use agentrouter_store::{StoreError, WrappedKey, WrappedKeys};
use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use super::batch::Places;
use super::failure::{LATE, failure};
use super::portable::{OPEN, begin_session};
use super::sql::Sql;
use super::step::Step;
use super::{MISSING, PostgresStore, first, rows, schema, writer};

/// How many keys each KEK wraps. It reads all versions, so it has a session without a time limit.
const KEK_USE: &str = "SELECT kek_id, count(*) FROM (SELECT kek_id FROM versions WHERE wrapped_dek IS NOT NULL \
     UNION ALL SELECT kek_id FROM internal_keys) k GROUP BY kek_id";
const READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";
const LOCK: &str = "SELECT pg_try_advisory_lock($1)";
/// The lock of a change of KEKs: the word `keks`.
const KEK_LOCK: i64 = 1_802_850_163;
/// The lock of the sweep: the word `swee`.
const SWEEP_LOCK: i64 = 1_937_204_581;
/// Longest time from the sealing of a value to its commit: the statement, the commit and the retries have limits of a few
/// seconds each.
const LONGEST_WRITE: Duration = Duration::from_secs(15);

fn stored(row: &Row) -> Result<Option<StoredDek>, StoreError> {
    let Some(wrapped) = rows::column::<Option<&[u8]>>(row, 6, "a wrapped key")? else { return Ok(None) };
    let version = Version::new(rows::column(row, 4, "a version number")?);
    Ok(Some(StoredDek {
        place: Place {
            owner: rows::parsed(row, 0, "an owner", Owner::parse)?,
            realm: rows::parsed(row, 1, "a realm", Realm::parse)?,
            name: rows::parsed(row, 2, "a name", SecretName::parse)?,
        },
        id: rows::parsed(row, 3, "a secret's id", SecretId::parse)?,
        version: version.ok_or(StoreError::Corrupt("a version number"))?,
        kek_id: rows::parsed(row, 5, "a KEK's id", KekId::parse)?,
        wrapped: wrapped.into(),
        sealed: rows::column::<Option<&[u8]>>(row, 7, "a sealed value")?.map(Into::into),
        row: 0,
    }))
}

/// The statement that replaces wrapped DEKs, and the locks of their places.
fn swap_steps(swaps: &[DekSwap]) -> Result<[Step; 2], StoreError> {
    let mut locks: Vec<i64> = swaps.iter().map(|swap| writer::lock_of(&swap.from.place)).collect();
    locks.sort_unstable();
    locks.dedup();
    let mut places = Places::default();
    let (mut ids, mut versions) = (Vec::new(), Vec::new());
    let (mut old_keks, mut old_wrapped) = (Vec::new(), Vec::new());
    let (mut keks, mut wrapped, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
    for swap in swaps {
        places.push(&swap.from.place);
        ids.push(swap.from.id.to_string());
        versions.push(swap.from.version.get());
        old_keks.push(swap.from.kek_id.as_str().to_owned());
        old_wrapped.push(swap.from.wrapped.to_vec());
        keks.push(swap.kek_id.as_str().to_owned());
        wrapped.push(swap.wrapped.to_vec());
        sealed.push(swap.sealed.as_ref().map(|sealed| sealed.to_vec()));
    }
    let step = places.step(Sql::SwapDeks).ok_or(MISSING)?;
    let step = step.with(ids).with(versions).with(old_keks).with(old_wrapped);
    Ok([Step::new(Sql::Lock).with(locks), step.with(keks).with(wrapped).with(sealed)])
}

fn report(value: &str, now: i64) -> Option<KekReport> {
    let (since, report) = value.split_once(' ')?;
    let age = now.saturating_sub(since.parse().ok()?);
    let (active, keks) = report.split_once(' ')?;
    Some(KekReport {
        keks: keks.split(',').map(|id| KekId::parse(id).ok()).collect::<Option<_>>()?,
        active: KekId::parse(active).ok()?,
        age: Duration::from_millis(u64::try_from(age).unwrap_or(0)),
    })
}

impl PostgresStore {
    /// Takes a lock of a session of its own. `None` if another session has it.
    async fn lock(&self, number: i64) -> Result<Option<KekLock>, StoreError> {
        let link = self.dialer.bare(Instant::now() + OPEN).await?;
        let locked = timeout(OPEN, link.client.query_one(LOCK, &[&number])).await.map_err(|_| LATE)?;
        let locked = rows::column::<bool>(&locked.map_err(failure)?, 0, "a lock")?;
        Ok(locked.then(|| Box::new(link) as KekLock))
    }

    /// Waits until every registered server has obeyed a fence. One that is dead loses its registration.
    async fn settle(&self, target: lease::Target) -> Result<(), StoreError> {
        let token = self.freshness.fence(target).await?;
        self.freshness.release(token);
        Ok(())
    }
}

#[async_trait]
impl WrappedKeys for PostgresStore {
    async fn kek_use(&self) -> Result<Vec<(KekId, u64)>, StoreError> {
        let link = self.dialer.bare(Instant::now() + OPEN).await?;
        schema::check(&link.client).await?;
        begin_session(&link.client, READ).await?;
        let mut found = Vec::new();
        for row in link.client.query(KEK_USE, &[]).await.map_err(failure)? {
            // No KEK has an id that does not parse. The rows are found when they are read one by one.
            if let Ok(id) = rows::parsed(&row, 0, "a KEK's id", KekId::parse) {
                let count = rows::column::<i64>(&row, 1, "a count")?;
                found.push((id, u64::try_from(count).unwrap_or(0)));
            }
        }
        Ok(found)
    }

    async fn wrapped_deks(&self, query: &DekQuery) -> Result<DekPage, StoreError> {
        let DekQuery { not_under, after, limit, with_values } = query;
        let version = i32::try_from(after.number).unwrap_or(i32::MAX);
        let found =
            self.reads.rows(Sql::Deks, &[&after.secret, &version, &i64::from(*limit), with_values]).await?;
        let mut page = DekPage::default();
        for row in &found {
            match stored(row) {
                Ok(Some(dek)) if not_under.as_ref() != Some(&dek.kek_id) => page.deks.push(dek),
                Ok(_) => {}
                Err(StoreError::Corrupt(_)) => page.damaged += 1,
                Err(error) => return Err(error),
            }
        }
        if let Some(last) = found.last().filter(|_| found.len() >= *limit as usize) {
            let number = i64::from(rows::column::<i32>(last, 4, "a version number")?);
            page.next = Some(DekCursor { secret: rows::column(last, 3, "a secret's id")?, number });
        }
        Ok(page)
    }

    async fn swap_deks(&self, swaps: Vec<DekSwap>, cursor: Option<String>) -> Result<u64, StoreError> {
        let mut steps = Vec::new();
        if !swaps.is_empty() {
            steps.extend(swap_steps(&swaps)?);
        }
        if let Some(cursor) = cursor {
            steps.push(Step::new(Sql::SetFact).with(RESEALED.to_owned()).with(cursor));
        }
        let done = self.script(steps).await?;
        if swaps.is_empty() {
            return Ok(0);
        }
        let counted = done.get(1).and_then(|rows| rows.first()).ok_or(MISSING)?;
        rows::column::<i64>(counted, 0, "a count").map(|count| u64::try_from(count).unwrap_or(0))
    }

    async fn internal_keys(&self) -> Result<Vec<(String, WrappedKey)>, StoreError> {
        let found = self.reads.rows(Sql::InternalKeys, &[]).await?;
        found.iter().map(|row| Ok((rows::column(row, 2, "a purpose")?, rows::wrapped(row)?))).collect()
    }

    async fn swap_internal_key(
        &self,
        purpose: &str,
        from: &WrappedKey,
        to: &WrappedKey,
    ) -> Result<bool, StoreError> {
        let step = Step::new(Sql::SwapInternalKey)
            .with(purpose.to_owned())
            .with(from.0.as_str().to_owned())
            .with(from.1.to_vec())
            .with(to.0.as_str().to_owned())
            .with(to.1.to_vec());
        Ok(first(&self.script(vec![step]).await?).is_some())
    }

    async fn kek_fact(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        let rows = self.reads.rows(Sql::Fact, &[&name]).await?;
        rows.first().map(|row| rows::column(row, 0, "a fact")).transpose()
    }

    async fn set_kek_fact(&self, name: &'static str, value: Option<&str>) -> Result<(), StoreError> {
        let step = match value {
            Some(value) => Step::new(Sql::SetFact).with(name.to_owned()).with(value.to_owned()),
            None => Step::new(Sql::DeleteFact).with(name.to_owned()),
        };
        self.script(vec![step]).await.map(|_| ())
    }

    async fn retire_kek(&self, id: &KekId, fact: &str) -> Result<bool, StoreError> {
        let step = Step::new(Sql::RetireKek).with(id.as_str().to_owned());
        let step = step.with(KEKS.to_owned()).with(fact.to_owned());
        Ok(first(&self.script(vec![step]).await?).is_some())
    }

    async fn lock_keks(&self) -> Result<Option<KekLock>, StoreError> {
        self.lock(KEK_LOCK).await
    }

    async fn lock_sweep(&self) -> Result<Option<KekLock>, StoreError> {
        self.lock(SWEEP_LOCK).await
    }

    async fn kek_holders(&self) -> Result<Vec<KekHolder>, StoreError> {
        if self.reads.rows(Sql::Registrations, &[]).await?.is_empty() {
            return Ok(Vec::new());
        }
        // No key has this digest.
        self.settle(lease::Target::Key([0; 32])).await?;
        let found = self.reads.rows(Sql::KekReports, &[]).await?;
        let holder = |row: &Row| {
            let server: &str = rows::column(row, 0, "a registration")?;
            let server = server.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
            let now = rows::column(row, 2, "a time")?;
            let value = rows::column::<Option<&str>>(row, 1, "a report")?;
            Ok(KekHolder { server, report: value.and_then(|value| report(value, now)) })
        };
        found.iter().map(holder).collect()
    }

    async fn report_keks(&self, keks: &[KekId], active: &KekId) -> Result<(), StoreError> {
        let ids: Vec<&str> = keks.iter().map(KekId::as_str).collect();
        let text = format!("{active} {}", ids.join(","));
        let report = Step::new(Sql::ReportKeks).with(self.replica.clone()).with(text);
        let forget = Step::new(Sql::ForgetReports).with(self.replica.clone());
        self.script(vec![report, forget]).await.map(|_| ())
    }

    async fn announce_keks(&self) -> Result<(), StoreError> {
        self.settle(lease::Target::Everything).await
    }

    fn longest_write(&self) -> Duration {
        LONGEST_WRITE
    }
}
