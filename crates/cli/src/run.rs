//! `tare secret run`: a command with the secrets of a realm in its environment.
//!
//! The command takes the place of this process (`exec`), so signals, the terminal, its process id and its exit status
//! are its own, and the values are in no other process's memory. Values are read before it starts; if one of them cannot
//! be read it does not start at all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process;

use agentrouter_sdk::SecretClient;
use agentrouter_sdk::secret::v1::{GetSecretValueRequest, ListSecretsRequest};
use futures_util::{StreamExt, TryStreamExt, stream};
use zeroize::Zeroizing;

use crate::args::Run;
use crate::code_variables::{steers, steers_by_value};
use crate::failure::{Failure, warn};

/// Most values that are read at once.
const AT_ONCE: usize = 8;
/// Most secrets on a page of the list.
const PAGE: i32 = 1000;

/// A variable and its value.
pub(crate) type Variable = (String, Zeroizing<String>);

/// What the environment of the command gets.
///
/// # Errors
/// When two secrets become the same variable, or one cannot be read or put into an environment.
pub(crate) async fn variables(client: &SecretClient, task: &Run) -> Result<Vec<Variable>, Failure> {
    let names = names(client, task).await?;
    if names.is_empty() {
        warn(&format!("there are no active secrets in the realm {}", task.realm));
    }
    let variables = assign(names)?;
    // What is named in --only is meant.
    let trusted = !task.only.is_empty();
    if !trusted && let Some((variable, name)) = variables.iter().find(|(variable, _)| steers(variable)) {
        return Err(steering(name, variable));
    }
    stream::iter(variables)
        .map(async |(variable, name)| {
            let value = read(client, &task.realm, &name).await?;
            if !trusted && steers_by_value(&variable, &value) {
                return Err(steering(&name, &variable));
            }
            Ok((variable, value))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

fn steering(name: &str, variable: &str) -> Failure {
    Failure::usage(
        format!(
            "the secret {name} would be {variable}, by which whoever may write to the realm could make the command run other code"
        ),
        "choose with --only; it is taken when it is named there",
    )
}

/// The secrets: those asked for, else all active ones of the realm.
async fn names(client: &SecretClient, task: &Run) -> Result<Vec<String>, Failure> {
    if !task.only.is_empty() {
        let mut names: Vec<String> = task.only.iter().map(|name| name.trim().to_owned()).collect();
        names.sort();
        names.dedup();
        return Ok(names);
    }
    let request = ListSecretsRequest { realm: task.realm.clone(), page_size: PAGE, ..Default::default() };
    let secrets = client.list_all(request).collect().await?;
    Ok(secrets.into_iter().map(|secret| secret.name).collect())
}

/// Gives each secret its variable.
fn assign(names: Vec<String>) -> Result<BTreeMap<String, String>, Failure> {
    let mut variables = BTreeMap::new();
    for name in names {
        let variable = variable(&name);
        if let Some(other) = variables.insert(variable.clone(), name.clone()) {
            return Err(Failure::usage(
                format!("the secrets {other} and {name} would both be the variable {variable}"),
                "choose with --only, or rename one of them",
            ));
        }
    }
    Ok(variables)
}

/// `openai-api.key` → `OPENAI_API_KEY`.
fn variable(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '-' | '.' => '_',
            other => other.to_ascii_uppercase(),
        })
        .collect()
}

async fn read(client: &SecretClient, realm: &str, name: &str) -> Result<Zeroizing<String>, Failure> {
    let request =
        GetSecretValueRequest { name: name.to_owned(), realm: realm.to_owned(), ..Default::default() };
    let answer = client
        .get_secret_value(request)
        .await
        .map_err(|source| Failure::Call { about: Some(name.to_owned()), source })?;
    let value = Zeroizing::new(answer.value);
    if value.contains('\0') {
        return Err(Failure::usage(
            format!("the value of {name} has a NUL in it, which no environment can hold"),
            "leave it out with --only",
        ));
    }
    Ok(value)
}

/// Puts the command in the place of this process. Returns only if that fails.
pub(crate) fn replace(command: &[OsString], variables: Vec<Variable>) -> Result<(), Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("there is no command", "give it after '--'"));
    };
    let mut child = process::Command::new(program);
    child.args(arguments);
    for (variable, value) in variables {
        child.env(variable, &*value);
    }
    let source = hand_over(&mut child);
    Err(Failure::Start { command: program.to_string_lossy().into_owned(), source })
}

#[cfg(unix)]
fn hand_over(child: &mut process::Command) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    child.exec()
}

/// Without `exec`, the closest is to wait and to pass on the exit status.
#[cfg(not(unix))]
fn hand_over(child: &mut process::Command) -> std::io::Error {
    match child.status() {
        Ok(status) => process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_becomes_the_variable_of_its_name() {
        for (name, expected) in [
            ("openai-api-key", "OPENAI_API_KEY"),
            ("OPENAI_API_KEY", "OPENAI_API_KEY"),
            ("a.b-c_d", "A_B_C_D"),
            ("gpt4", "GPT4"),
        ] {
            assert_eq!(variable(name), expected);
        }
    }

    #[test]
    fn two_secrets_never_share_a_variable() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let failure = assign(names(&["a-b", "c", "a.b"])).expect_err("the same variable");
        assert_eq!(failure.exit_code(), 2);
        assert_eq!(failure.to_string(), "the secrets a-b and a.b would both be the variable A_B");
        assert_eq!(assign(names(&["a-b", "c"])).expect("two variables").len(), 2);
    }

    #[test]
    fn a_command_that_cannot_start_says_so_as_shells_do() {
        let failure = replace(&["/nowhere/command".into()], Vec::new()).expect_err("not there");
        assert_eq!(failure.exit_code(), 127);
        let failure = replace(&["/etc/passwd".into()], Vec::new()).expect_err("not executable");
        assert_eq!(failure.exit_code(), 126);
    }
}
