//! Selection: which secrets become which variables, for `tare secret run` and `tare secret export`.
//!
//! Callers that may write to a realm choose the names in it. A name such as `HTTPS_PROXY` or `OPENAI_BASE_URL` would send
//! the command's credentials elsewhere, and no list of such names is ever complete. So the caller of `tare` chooses the
//! names (`--only`, `--prefix`, `--mapping`). Without a choice only those that end like a credential's are taken, and the
//! rest is reported. `AGENTROUTER_*` is never taken. Names that are known to make programs run other code are refused unless
//! the caller names each secret.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::args::{Choice, Selected};
use crate::code_variables::runs_code;
use crate::dotenv;
use crate::failure::Failure;
use crate::notice::warn;
use crate::paced_client::PacedClient;
use crate::reference::{Reference, ResolvedReference};
use crate::value::read_text;
use crate::variable;

/// The largest mapping file, in bytes.
const MAPPING_BYTES: usize = 1024 * 1024;

/// The variables and their secrets.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// The secret of each variable.
    pub(crate) variables: BTreeMap<String, ResolvedReference>,
    /// Variables that were left out, because they do not end like a credential's.
    pub(crate) left_out: Vec<String>,
    /// Variables that were left out, because they would set up `tare` and the SDKs.
    pub(crate) ours: Vec<String>,
}

/// Selects as `choice` says. Reads no value.
///
/// # Errors
/// When a secret or a realm is not clear, the list cannot be read, a realm has no secret, two secrets become the same variable,
/// or one becomes a variable that must not be set.
pub(crate) async fn select(client: &PacedClient, choice: &Choice) -> Result<Selection, Failure> {
    let mut selection = Selection::default();
    match choice.selected() {
        Selected::Named(references) => {
            let targets = targets(choice, references)?;
            selection.add(targets.into_iter().map(|target| (choice.variable(&target.name), target)))?;
        }
        Selected::Mapped(path) => {
            let text = read_text(path, MAPPING_BYTES, "a mapping file has at most 1 MiB")?;
            let (variables, references) = mapping(&text)?;
            selection.add(variables.into_iter().zip(targets(choice, &references)?))?;
        }
        Selected::Listed { prefix, credentials_only } => {
            for target in list(client, choice, prefix).await? {
                let variable = choice.variable(&target.name);
                if variable::is_ours(&variable) {
                    selection.ours.push(variable);
                } else if credentials_only && !variable::is_credential(&variable) {
                    selection.left_out.push(variable);
                } else if runs_code(&variable) {
                    return Err(code(&variable));
                } else {
                    selection.add([(variable, target)])?;
                }
            }
        }
    }
    match selection.variables.keys().find(|variable| variable::is_ours(variable)) {
        Some(variable) => Err(Failure::usage(
            format!("{variable} would change which server and key the command uses"),
            "set AGENTROUTER_* variables yourself, outside the secret store",
        )),
        None => Ok(selection),
    }
}

impl Selection {
    fn add(&mut self, pairs: impl IntoIterator<Item = (String, ResolvedReference)>) -> Result<(), Failure> {
        for (variable, target) in pairs {
            if let Some(other) = self.variables.get(&variable).filter(|other| **other != target) {
                return Err(Failure::usage(
                    format!("{other} and {target} would both be the variable {variable}"),
                    "choose one with --only, or give each its variable with --mapping",
                ));
            }
            self.variables.insert(variable, target);
        }
        Ok(())
    }
}

/// The realm of each reference. A realm that no reference needs is an error.
fn targets(choice: &Choice, references: &[Reference]) -> Result<Vec<ResolvedReference>, Failure> {
    let is_plain = |reference: &Reference| reference.realm.is_none();
    let realm = match choice.realms.as_slice() {
        [] if references.iter().any(is_plain) => {
            return Err(Failure::usage(
                "a secret is named without a realm",
                "add --realm REALM, or write sm://REALM/NAME",
            ));
        }
        [_, _, ..] if references.iter().any(is_plain) => {
            return Err(Failure::usage(
                "a secret is named without a realm, and --realm is given more than once",
                "write sm://REALM/NAME",
            ));
        }
        [] => "",
        [realm] if references.iter().any(is_plain) => realm,
        [..] => {
            return Err(Failure::usage(
                "--realm has no effect: every secret is named with its realm",
                "leave --realm out",
            ));
        }
    };
    let target = |reference: &Reference| ResolvedReference {
        realm: reference.realm.clone().unwrap_or_else(|| realm.to_owned()),
        name: reference.name.clone(),
        version: reference.version,
    };
    Ok(references.iter().map(target).collect())
}

/// Every active secret of the realms whose name begins with `prefix`. A realm without such a secret is an error: its name may
/// be misspelled.
async fn list(
    client: &PacedClient,
    choice: &Choice,
    prefix: &str,
) -> Result<Vec<ResolvedReference>, Failure> {
    if choice.realms.is_empty() {
        return Err(Failure::usage("no realm is given", "add --realm REALM"));
    }
    let mut targets = Vec::new();
    for realm in &choice.realms {
        let names = client.names(realm, prefix).await.map_err(|source| Failure::List { source })?;
        if names.is_empty() {
            return Err(none_in(realm, prefix));
        }
        let target = |name| ResolvedReference { realm: realm.clone(), name, version: None };
        targets.extend(names.into_iter().map(target));
    }
    Ok(targets)
}

fn none_in(realm: &str, prefix: &str) -> Failure {
    let message = if prefix.is_empty() {
        format!("the realm {realm} has no active secret that this key may see")
    } else {
        format!("the realm {realm} has no active secret that begins with {prefix} and that this key may see")
    };
    Failure::usage(message, "check the name of the realm: 'tare api secret list' shows the realms")
}

/// The variables and the references of a mapping file, which has the form of a `.env` file.
fn mapping(text: &str) -> Result<(Vec<String>, Vec<Reference>), Failure> {
    let entries = dotenv::parse(text).map_err(|errors| Failure::unreadable("the mapping file", &errors))?;
    if entries.is_empty() {
        return Err(Failure::usage("the mapping file is empty", "each line is VARIABLE=NAME"));
    }
    let mut references = Vec::with_capacity(entries.len());
    for entry in &entries {
        references.push(entry.value.parse::<Reference>().map_err(|rule| {
            Failure::usage(
                format!("line {} of the mapping file does not name a secret", entry.line),
                format!("after the '=' {rule}"),
            )
        })?);
    }
    Ok((entries.into_iter().map(|entry| entry.name).collect(), references))
}

/// The refusal of a variable that makes programs run other code.
pub(crate) fn code(variable: &str) -> Failure {
    Failure::usage(
        format!(
            "a secret would be {variable}, which makes programs run other code; \
             any caller that may write to the realm can store it"
        ),
        "choose with --only or --mapping; what they name is taken",
    )
}

/// The value of each variable, of secrets of `user_id`. Reports what was left out.
///
/// # Errors
/// When one of the secrets cannot be read.
pub(crate) async fn read(
    client: &PacedClient,
    selection: Selection,
    user_id: &str,
) -> Result<Vec<(String, Zeroizing<String>)>, Failure> {
    let Selection { variables, left_out, ours } = selection;
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        warn(&format!(
            "left out, because the names do not end like a credential's (--all takes them): {names}"
        ));
    }
    if !ours.is_empty() {
        warn(&format!("left out, because AGENTROUTER_* is never taken from secrets: {}", ours.join(", ")));
    }
    if variables.is_empty() {
        warn("no secret is taken");
    }
    let (names, targets): (Vec<_>, Vec<_>) = variables.into_iter().unzip();
    Ok(names.into_iter().zip(client.values(&targets, user_id).await?).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> ResolvedReference {
        ResolvedReference { realm: "r".into(), name: name.into(), version: None }
    }

    #[test]
    fn two_secrets_never_share_a_variable() {
        let mut selection = Selection::default();
        selection.add([("A_B".to_owned(), target("a-b"))]).expect("the first");
        let failure = selection.add([("A_B".to_owned(), target("a.b"))]).expect_err("the same variable");
        assert_eq!(failure.exit_status(), 2);
        assert_eq!(failure.to_string(), "sm://r/a-b and sm://r/a.b would both be the variable A_B");
    }

    #[test]
    fn a_mapping_file_gives_each_variable_its_secret() {
        let (variables, references) =
            mapping("# keys\nOPENAI_API_KEY=openai\nB=\"sm://llm/b#2\"\n").expect("valid");
        assert_eq!(variables, ["OPENAI_API_KEY", "B"]);
        assert_eq!(references[0], Reference { realm: None, name: "openai".into(), version: None });
        assert_eq!(
            references[1],
            Reference { realm: Some("llm".into()), name: "b".into(), version: Some(2) }
        );
        for wrong in ["", "A", "A=", "A=a/b", "A=sm://b"] {
            assert_eq!(mapping(wrong).expect_err(wrong).exit_status(), 2);
        }
    }
}
