//! Tags and realms as JSON text, the way every engine stores them.

use std::collections::BTreeMap;

use agentrouter_model::{Realm, Tags};

use crate::StoreError;

/// Tags as they are read.
pub fn tags(json: &str) -> Result<Tags, StoreError> {
    if json == "{}" {
        return Ok(Tags::default());
    }
    let pairs: BTreeMap<String, String> =
        serde_json::from_str(json).map_err(|_| StoreError::Corrupt("tags"))?;
    Tags::parse(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .map_err(|_| StoreError::Corrupt("tags"))
}

/// A key's realms as they are read.
pub fn realms(json: &str) -> Result<Vec<Realm>, StoreError> {
    let corrupt = StoreError::Corrupt("a key's realms");
    let texts: Vec<String> = serde_json::from_str(json).map_err(|_| corrupt.clone())?;
    texts.iter().map(|text| Realm::parse(text).map_err(|_| corrupt.clone())).collect()
}

/// Tags as they are stored.
pub fn from_tags(tags: &Tags) -> Result<String, StoreError> {
    let pairs: BTreeMap<&str, &str> =
        tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    serde_json::to_string(&pairs).map_err(|_| StoreError::unavailable("tags could not be written"))
}

/// A key's realms as they are stored.
pub fn from_realms(realms: &[Realm]) -> Result<String, StoreError> {
    let texts: Vec<&str> = realms.iter().map(Realm::as_str).collect();
    serde_json::to_string(&texts).map_err(|_| StoreError::unavailable("realms could not be written"))
}
