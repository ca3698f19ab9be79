//! `tare secret run`: a command with secrets in its environment.
//!
//! The command takes the place of this process (`exec`), so signals, the terminal, its process id and its exit status
//! are its own, and the values are in no other process's memory. Values are read before it starts. If one of them cannot
//! be read it does not start at all. A variable that is set already is not overridden unless `--override` names it.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::process;

use zeroize::Zeroizing;

use crate::args::Run;
use crate::code_variables::runs_code_by_value;
use crate::failure::Failure;
use crate::hardening;
use crate::notice::warn;
use crate::paced_client::PacedClient;
use crate::selection::{self, Selection};

/// A variable and its value.
pub(crate) type Variable = (String, Zeroizing<String>);

/// What the environment of the command gets.
///
/// # Errors
/// When the secrets cannot be selected or read, or an override has no effect.
pub(crate) async fn variables(client: &PacedClient, task: &Run) -> Result<Vec<Variable>, Failure> {
    let is_set = |variable: &str| env::var_os(variable).is_some();
    let selection = kept(selection::select(client, &task.choice).await?, &task.overridden, is_set)?;
    let variables = selection::read(client, selection, task.choice.user_id()).await?;
    for (variable, value) in &variables {
        if value.contains('\0') {
            return Err(Failure::usage(
                format!("the value of {variable} has a NUL in it, which no environment can hold"),
                "leave it out with --only",
            ));
        }
        if !task.choice.names_each() && runs_code_by_value(variable, value) {
            return Err(selection::code(variable));
        }
    }
    Ok(variables)
}

/// The selection without the variables that are set already. They are reported.
fn kept(
    mut selection: Selection,
    overridden: &[String],
    is_set: impl Fn(&str) -> bool,
) -> Result<Selection, Failure> {
    let overridden: BTreeSet<&str> = overridden.iter().map(|variable| variable.trim()).collect();
    if let Some(unused) = overridden.iter().find(|variable| !selection.variables.contains_key(**variable)) {
        return Err(Failure::usage(
            format!("--override {unused} has no effect: no selected secret becomes this variable"),
            "check the variable's name, or select the secret with --only",
        ));
    }
    let kept: Vec<String> = selection
        .variables
        .keys()
        .filter(|variable| !overridden.contains(variable.as_str()) && is_set(variable))
        .cloned()
        .collect();
    for variable in &kept {
        selection.variables.remove(variable);
    }
    if !kept.is_empty() {
        warn(&format!(
            "set already, so not taken from the secrets (--override takes them): {}",
            kept.join(", ")
        ));
    }
    Ok(selection)
}

/// Replaces this process by the command. Returns only if that fails.
pub(crate) fn replace(command: &[OsString], variables: Vec<Variable>) -> Result<(), Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("there is no command", "give it after '--'"));
    };
    let mut child = process::Command::new(program);
    child.args(arguments);
    for (variable, value) in variables {
        child.env(variable, &*value);
    }
    hardening::undo();
    let source = execute(&mut child);
    Err(Failure::Start { command: program.to_string_lossy().into_owned(), source })
}

#[cfg(unix)]
fn execute(child: &mut process::Command) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    child.exec()
}

/// Without `exec`, the closest is to wait and to pass on the exit status.
#[cfg(not(unix))]
fn execute(child: &mut process::Command) -> std::io::Error {
    match child.status() {
        Ok(status) => process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::ResolvedReference;

    fn selection() -> Selection {
        let target = |name: &str| ResolvedReference { realm: "r".into(), name: name.into(), version: None };
        let variables = ["A", "B"].map(|name| (name.to_owned(), target(name)));
        Selection { variables: variables.into_iter().collect(), ..Selection::default() }
    }

    #[test]
    fn a_variable_that_is_set_stays_unless_it_is_named() {
        let names = |overridden: &[&str]| {
            let overridden: Vec<String> = overridden.iter().map(|name| (*name).to_owned()).collect();
            let kept = kept(selection(), &overridden, |variable| variable == "A");
            kept.map(|kept| kept.variables.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("kept"), ["B"]);
        assert_eq!(names(&["A"]).expect("overridden"), ["A", "B"]);
        let failure = names(&["C"]).expect_err("without effect");
        assert!(failure.to_string().starts_with("--override C has no effect"));
    }

    #[test]
    fn a_command_that_cannot_start_has_the_status_that_shells_give() {
        let failure = replace(&["/nowhere/command".into()], Vec::new()).expect_err("not there");
        assert_eq!(failure.exit_status(), 127);
        let failure = replace(&["/etc/passwd".into()], Vec::new()).expect_err("not executable");
        assert_eq!(failure.exit_status(), 126);
    }
}
