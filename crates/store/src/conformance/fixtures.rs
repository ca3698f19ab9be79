//! Constructors and calls that the cases and the tests of engines share. Each panics when it fails.

use std::sync::Arc;

use agentrouter_model::{
    Description, Envelope, KekId, Owner, PageCursor, Place, Realm, Secret, SecretId, SecretName, Slot, Tags,
    Timestamp, Version,
};

use crate::{
    ListQuery, ListScope, Realms, Rotation, Sealer, StatusFilter, Store, Stored, Upsert, WriteError,
};

/// A store as the cases hold it.
pub type Shared = Arc<dyn Store>;

/// The instant `seconds` after a day in 2023.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
}

/// A parsed owner.
pub fn owner(text: &str) -> Owner {
    Owner::parse(text).expect("an owner")
}

/// A parsed realm.
pub fn realm(text: &str) -> Realm {
    Realm::parse(text).expect("a realm")
}

/// `owner/realm/name`.
pub fn place(text: &str) -> Place {
    let parts: Vec<&str> = text.split('/').collect();
    let [o, r, n] = parts[..] else { panic!("owner/realm/name") };
    Place { owner: owner(o), realm: realm(r), name: SecretName::parse(n).expect("a name") }
}

/// A version number.
pub fn version(number: i32) -> Version {
    Version::new(number).expect("1 or more")
}

/// A KEK's id.
pub fn kek(text: &str) -> KekId {
    KekId::parse(text).expect("a KEK's id")
}

/// Parsed tags.
pub fn tags(pairs: &[(&str, &str)]) -> Tags {
    Tags::parse(pairs.iter().copied()).expect("tags")
}

/// A parsed description.
pub fn description(text: &str) -> Description {
    Description::parse(text).expect("a description")
}

/// An id that no other call returns.
pub fn new_id() -> SecretId {
    use std::sync::atomic::{AtomicU64, Ordering};
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text: String = (0..26)
        .rev()
        .map(|digit| if digit < 12 { (number >> (5 * digit)) & 31 } else { 0 })
        .map(|digit| char::from(DIGITS[usize::try_from(digit).expect("below 32")]))
        .collect();
    SecretId::parse(&text).expect("a ULID")
}

/// Pretends to seal `value`: the bytes name the value and the slot.
pub fn sealer(value: &str) -> Sealer {
    let value = value.to_owned();
    Box::new(move |slot| Ok(envelope(&value, slot)))
}

/// What [`sealer`] makes of `value` for `slot`.
pub fn envelope(value: &str, slot: Slot<'_>) -> Envelope {
    let Place { owner, realm, name } = slot.place;
    Envelope {
        kek_id: kek("kek-1"),
        wrapped_dek: format!("dek of {} {}", slot.id, slot.version).into_bytes().into(),
        sealed: format!("{value} in {owner}/{realm}/{name} {} {}", slot.id, slot.version).into_bytes().into(),
    }
}

/// An upsert of a value alone, or of nothing, that expects no version.
pub fn upsert(place: &Place, now: Timestamp, value: Option<&str>) -> Upsert {
    Upsert {
        place: place.clone(),
        new_id: new_id(),
        now,
        expected_version: None,
        description: None,
        tags: None,
        seal: value.map(sealer),
    }
}

/// A rotation that expects no version.
pub fn rotation(place: &Place, now: Timestamp, expires_at: Timestamp, value: &str) -> Rotation {
    Rotation { place: place.clone(), now, expires_at, expected_version: None, seal: sealer(value) }
}

/// Upserts `value` at second 0.
pub async fn put(store: &Shared, place: &Place, value: &str) -> Secret {
    store.upsert(upsert(place, at(0), Some(value))).await.expect("written")
}

/// Upserts a secret with tags at second 0.
pub async fn put_tagged(store: &Shared, text: &str, pairs: &[(&str, &str)]) -> Secret {
    let mut change = upsert(&place(text), at(0), Some("v"));
    change.tags = Some(tags(pairs));
    store.upsert(change).await.expect("written")
}

/// Rotates at second `now`, with grace until second `expires`.
pub async fn rotate(store: &Shared, place: &Place, now: i64, expires: i64) -> Secret {
    store.rotate(rotation(place, at(now), at(expires), "rotated")).await.expect("rotated")
}

/// The active version.
pub async fn active(store: &Shared, place: &Place) -> Option<Stored> {
    store.active(place).await.expect("read")
}

/// One version, in any status.
pub async fn stored(store: &Shared, place: &Place, number: i32) -> Option<Stored> {
    store.version(place, version(number)).await.expect("read")
}

/// Every version of a secret as `number status`, `!` for a value that is there.
pub async fn versions(store: &Shared, place: &Place) -> Vec<String> {
    let mut found = Vec::new();
    for number in 1.. {
        let Some(Stored { secret, envelope }) = stored(store, place, number).await else { break };
        let value = if envelope.is_some() { "!" } else { "" };
        found.push(format!("{} {}{value}", secret.version, secret.status));
    }
    found
}

/// A list of all of an owner's active versions.
pub fn everything(owner_id: &str) -> ListQuery {
    ListQuery {
        scopes: vec![ListScope { owner: owner(owner_id), realms: Realms::All }],
        statuses: StatusFilter::Active,
        tags: Tags::default(),
        name_prefix: None,
        after: None,
        limit: 1000,
        bytes: usize::MAX,
        steps: usize::MAX,
        now: at(0),
    }
}

/// A page.
pub async fn list(store: &Shared, query: &ListQuery) -> Vec<Secret> {
    let page = store.list(query).await.expect("listed");
    assert_eq!(page.stopped, None, "it has no bounds");
    page.rows
}

/// `realm/name@version` of each, walked in pages of `size`.
pub async fn walk(store: &Shared, query: &ListQuery, size: u32) -> Vec<String> {
    let mut query = ListQuery { limit: size, ..query.clone() };
    let mut seen = Vec::new();
    loop {
        let page = list(store, &query).await;
        assert!(page.len() <= size as usize, "a page is no larger than asked");
        let Some(last) = page.last() else { return seen };
        query.after = Some(PageCursor::of(last));
        seen.extend(page.iter().map(brief));
    }
}

/// `realm/name@version`.
pub fn brief(secret: &Secret) -> String {
    format!("{}/{}@{}", secret.place.realm, secret.place.name, secret.version)
}

/// Fails unless the write was refused with a version mismatch.
pub fn mismatch(result: Result<Secret, WriteError>) {
    assert!(matches!(result, Err(WriteError::VersionMismatch)), "{result:?}");
}
