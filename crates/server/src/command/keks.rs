//! The output of the commands on KEKs.

use std::process::ExitCode;

use agentrouter_instance::admin::{ListedKek, RotatedKek};
use agentrouter_instance::terminal::{done, error, hint, note, warning};

use super::columns;

/// The KEKs in columns.
pub(super) fn table(keks: &[ListedKek]) -> String {
    let counts: Vec<String> = keks.iter().map(|kek| kek.keys.to_string()).collect();
    let header = ["ID", "STATE", "KEYS", "CREATED", "UNUSED SINCE"];
    let rows = keks.iter().zip(&counts);
    let rows = rows.map(|(kek, keys)| [&*kek.id, &*kek.state, &**keys, &*kek.created, &*kek.unused]);
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// Names the servers that lack a KEK.
pub(super) fn note_lacking(keks: &[ListedKek]) {
    for ListedKek { id, lacking, .. } in keks.iter().filter(|kek| !kek.lacking.is_empty()) {
        note(&format!("KEK {id} is missing on server {}", lacking.join(", ")));
    }
}

/// Reports a rewrapping, and the rotation that it is a part of.
pub(super) fn rewrapped(
    rotated: Option<&RotatedKek>,
    active: &str,
    (rewrapped, resealed): (u64, u64),
    failed: u64,
    named: &[String],
) -> ExitCode {
    if rotated.is_some_and(|rotated| rotated.continued) {
        note("an earlier rotation was continued");
    }
    let resealed = match resealed {
        0 => String::new(),
        values => format!("; {values} value(s) were sealed again"),
    };
    done(&format!("KEK {active} is active: {rewrapped} key(s) were wrapped with it{resealed}"));
    if let Some(text) = rotated.and_then(|rotated| rotated.warning.as_ref()) {
        warning(text);
    }
    if rotated.is_some() {
        note(
            "copy the KEK file to every other server on the same database, and keep a copy of it apart from the backups",
        );
    }
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    error(&format!("{failed} key(s) could not be wrapped with it: {}", named.join(", ")));
    hint("run 'doctor' to examine the store; rotate or delete a secret whose value does not open");
    ExitCode::FAILURE
}
