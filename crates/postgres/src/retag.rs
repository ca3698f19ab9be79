//! Tags for the rows of an older store, in batches, while servers write. Each batch is a transaction under the locks of its
//! places, like any other change, so no write comes between the reading of a row and its tag. A row that has its tag is not
//! written again.

use std::time::Duration;

use agentrouter_model::{Secret, Slot};
use agentrouter_store::row_tags::RowTag;
use agentrouter_store::{RowTags, StoreError};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;

use super::failure::LATE;
use super::link::{Dialer, Link, Purpose};
use super::portable::OPEN;
use super::sql::Sql;
use super::step::{BEGIN, Step, Undone, commit};
use super::{rows, writer};

/// Most secrets in one batch.
const BATCH: i64 = 500;
/// Longest time to lock and read a batch.
const READ: Duration = Duration::from_secs(10);
/// Most attempts at a batch, and the pause between two.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Owner, realm and name of a secret as stored. They may not parse.
type Position = [String; 3];

/// Writes the tags of all rows. Rows that do not parse are left as they are.
pub(super) async fn retag(dialer: &Dialer, tags: &dyn RowTags) -> Result<(), StoreError> {
    let mut link = dialer.link(Purpose::Write, Instant::now() + OPEN).await?;
    let (mut after, mut attempt) = (Position::default(), 1);
    loop {
        match batch(&link, tags, &after).await {
            Ok(Some(last)) => (after, attempt) = (last, 1),
            Ok(None) => return Ok(()),
            Err(Undone::Unknown(_) | Undone::Nothing { again: true, .. }) if attempt < ATTEMPTS => {
                attempt += 1;
                sleep(PAUSE).await;
                link = dialer.link(Purpose::Write, Instant::now() + OPEN).await?;
            }
            Err(Undone::Unknown(error) | Undone::Nothing { error, .. }) => return Err(error),
        }
    }
}

/// Writes the tags of the first secrets after a position, and of their versions. Returns the position of the last one; none
/// at the end.
async fn batch(link: &Link, tags: &dyn RowTags, after: &Position) -> Result<Option<Position>, Undone> {
    let [owner, realm, name] = after;
    let found = link.rows(Sql::PlacesAfter, &[owner, realm, name, &BATCH]).await.map_err(Undone::nothing)?;
    let places = found.iter().map(position).collect::<Result<Vec<_>, _>>().map_err(nothing)?;
    let Some(last) = places.last().cloned() else { return Ok(None) };
    let read = timeout(READ, read(link, &places)).await;
    let (secrets, versions) = read.map_err(|_| nothing(LATE))?.map_err(Undone::nothing)?;
    let steps = [
        step(Sql::TagSecrets, &secrets, 14, tags, |secret| tags.secret_tag(secret, secret.version)),
        step(Sql::TagVersions, &versions, 15, tags, |secret| {
            let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
            tags.version_tag(slot, secret.status, secret.expires_at)
        }),
    ];
    let steps = steps.into_iter().collect::<Result<Vec<_>, _>>().map_err(nothing)?;
    commit(link, false, &steps.into_iter().flatten().collect::<Vec<_>>()).await?;
    Ok(Some(last))
}

fn nothing(error: StoreError) -> Undone {
    Undone::Nothing { again: true, error }
}

fn position(row: &Row) -> Result<Position, StoreError> {
    let text = |column| rows::column::<String>(row, column, "a secret's place");
    Ok([text(0)?, text(1)?, text(2)?])
}

/// Begins a transaction, locks the places, and reads the rows of their secrets and versions.
async fn read(link: &Link, places: &[Position]) -> Result<(Vec<Row>, Vec<Row>), tokio_postgres::Error> {
    let mut locks: Vec<i64> =
        places.iter().map(|[owner, realm, name]| writer::lock(owner, realm, name)).collect();
    locks.sort_unstable();
    locks.dedup();
    let lock = Step::new(Sql::Lock).with(locks);
    let column = |part: usize| places.iter().map(|place| place[part].clone()).collect::<Vec<_>>();
    let at = |sql| Step::new(sql).with(column(0)).with(column(1)).with(column(2));
    let (of_secrets, of_versions) = (at(Sql::SecretsAt), at(Sql::VersionsAt));
    let (begun, locked, secrets, versions) = tokio::join!(
        biased;
        link.client.batch_execute(BEGIN),
        lock.run(link),
        of_secrets.run(link),
        of_versions.run(link),
    );
    begun?;
    locked?;
    Ok((secrets?, versions?))
}

/// The statement that writes the tags that are not in `column`; none if all are.
fn step(
    sql: Sql,
    rows: &[Row],
    column: usize,
    tags: &dyn RowTags,
    tag: impl Fn(&Secret) -> RowTag,
) -> Result<Option<Step>, StoreError> {
    let (mut secrets, mut written) = (Vec::new(), Vec::new());
    for row in rows {
        let Ok(secret) = rows::secret(row, None) else { continue };
        let tag = tag(&secret);
        if !tags.are_equal(&tag, rows::column(row, column, "a tag")?) {
            secrets.push(secret);
            written.push(tag.to_vec());
        }
    }
    if secrets.is_empty() {
        return Ok(None);
    }
    let texts = |text: fn(&Secret) -> String| secrets.iter().map(text).collect::<Vec<_>>();
    let step = Step::new(sql)
        .with(texts(|secret| secret.place.owner.as_str().to_owned()))
        .with(texts(|secret| secret.place.realm.as_str().to_owned()))
        .with(texts(|secret| secret.place.name.as_str().to_owned()))
        .with(texts(|secret| secret.id.to_string()))
        .with(secrets.iter().map(|secret| secret.version.get()).collect::<Vec<_>>());
    Ok(Some(step.with(written)))
}
