//! What a new API key can do, in words. `key create` prints it, so that an operator notices a key that can do too much.

use agentrouter_model::{Owner, Realm, Scope, ScopeSet};

/// A sentence for each scope of a key.
pub(super) fn abilities(user: &Owner, scopes: ScopeSet, realms: Option<&[Realm]>) -> Vec<String> {
    let place = match realms {
        None => "in every realm".to_owned(),
        Some([realm]) => format!("in realm {realm}"),
        Some(realms) => {
            let names: Vec<&str> = realms.iter().map(Realm::as_str).collect();
            format!("in realms {}", names.join(", "))
        }
    };
    let llm = realms.map_or(0, |realms| realms.iter().filter(|realm| realm.is_llm()).count());
    let all_are_llm = realms.is_some_and(|realms| llm == realms.len());
    let owned = match user {
        Owner::System => format!("secrets of user system {place}"),
        _ if all_are_llm => format!("secrets of user system {place}"),
        _ if realms.is_none() || llm > 0 => {
            format!("secrets of user {user} {place}, and those of user system in LLM realms")
        }
        _ => format!("secrets of user {user} {place}"),
    };
    let sentence = |scope| match scope {
        Scope::Read => format!("it can list and validate {owned}, without their values"),
        Scope::Write => format!("it can create, overwrite, rotate and delete {owned}"),
        Scope::ReadInternal => format!("it can read the values of secrets of every user {place}"),
        Scope::WriteInternal if scopes.contains(Scope::Write) => {
            format!("it can create and overwrite secrets of every user {place}")
        }
        Scope::WriteInternal => "secrets/write/internal has no effect without secrets/write".to_owned(),
    };
    scopes.iter().map(sentence).collect()
}

/// The warning for a key that can change the provider keys although no LLM realm was named.
pub(super) fn warning(scopes: ScopeSet, realms: Option<&[Realm]>) -> Option<String> {
    (realms.is_none() && scopes.contains(Scope::Write)).then(|| {
        format!(
            "the key can overwrite and delete the provider keys in the LLM realms ({}); if it does not have to, revoke it and create one with --realms",
            Realm::LLM.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(user: &str, scopes: &str, realms: Option<&str>) -> (Vec<String>, bool) {
        let user = Owner::parse(user).expect("a user");
        let scopes = scopes.split(',').map(|scope| Scope::parse(scope).expect("a scope")).collect();
        let realms: Option<Vec<Realm>> =
            realms.map(|list| list.split(',').map(|realm| Realm::parse(realm).expect("a realm")).collect());
        (abilities(&user, scopes, realms.as_deref()), warning(scopes, realms.as_deref()).is_some())
    }

    #[test]
    fn a_key_is_described_by_its_scopes_its_user_and_its_realms() {
        assert_eq!(
            described("alice", "secrets/read,secrets/write", None),
            (
                vec![
                    "it can list and validate secrets of user alice in every realm, and those of user system in LLM realms, without their values".to_owned(),
                    "it can create, overwrite, rotate and delete secrets of user alice in every realm, and those of user system in LLM realms".to_owned(),
                ],
                true
            )
        );
        assert_eq!(
            described("alice", "secrets/write", Some("mcp,tools")),
            (
                vec![
                    "it can create, overwrite, rotate and delete secrets of user alice in realms mcp, tools"
                        .to_owned()
                ],
                false
            )
        );
        assert_eq!(
            described("alice", "secrets/write", Some("llm-keys")),
            (
                vec![
                    "it can create, overwrite, rotate and delete secrets of user system in realm llm-keys"
                        .to_owned()
                ],
                false
            )
        );
        assert_eq!(
            described("gateway", "secrets/read/internal", None),
            (vec!["it can read the values of secrets of every user in every realm".to_owned()], false)
        );
        assert_eq!(
            described("gateway", "secrets/write/internal", None).0,
            ["secrets/write/internal has no effect without secrets/write"]
        );
    }
}
