//! The texts of the model: what parses is kept as it was given, never normalised.
//!
//! `0` name, `1` realm, `2` description, `4` user, `5` KEK id, `6` key id, `7` secret id, `8` scopes,
//! `9` tags as lines of `key=value`, `s` status.
#![no_main]

use agentrouter_fuzz::{select, text};
use agentrouter_model::{
    ApiKeyId, Description, KekId, Owner, Realm, ScopeSet, SecretId, SecretName, Status, Tags,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((selector, rest)) = select(input) else { return };
    let given = text(rest);
    let kept = match selector {
        b'0' => SecretName::parse(given).ok().map(|name| name.as_str().to_owned()),
        b'1' => Realm::parse(given).ok().map(|realm| realm.as_str().to_owned()),
        b'2' => Description::parse(given).ok().map(|text| text.as_str().to_owned()),
        b'4' => Owner::parse(given).ok().map(|owner| owner.as_str().to_owned()),
        b'5' => KekId::parse(given).ok().map(|id| id.to_string()),
        b'6' => ApiKeyId::parse(given).ok().map(|id| id.as_str().to_owned()),
        b'7' => SecretId::parse(given).ok().map(|id| id.text().as_str().to_owned()),
        b'8' => {
            if let Ok(scopes) = ScopeSet::parse(given) {
                assert_eq!(ScopeSet::parse(&scopes.to_string()).ok(), Some(scopes));
            }
            None
        }
        b'9' => {
            let pairs = given.lines().filter_map(|line| line.split_once('='));
            if let Ok(tags) = Tags::parse(pairs.clone()) {
                for (key, value) in tags.iter() {
                    assert!(pairs.clone().any(|pair| pair == (key.as_str(), value.as_str())));
                }
            }
            None
        }
        b's' => Status::parse(given).ok().map(|status| status.as_str().to_owned()),
        _ => None,
    };
    if let Some(kept) = kept {
        assert_eq!(kept, given);
    }
});
