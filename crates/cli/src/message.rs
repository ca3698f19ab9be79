//! Errors of calls in words: a sentence, a line for each field, or one line for a table.

use agentrouter_sdk::{Cause, Error, Refusal};

/// The error in a sentence or, for several fields, a line each; after the secret it is about, if that is named.
pub(crate) fn told(about: Option<&str>, error: &Error) -> String {
    let sentence = match error.refusal() {
        Some(refusal) => sentence(refusal),
        None => unanswered(error),
    };
    match about {
        Some(name) => format!("{name}: {sentence}"),
        None => sentence,
    }
}

/// One line of why, for a table.
pub(crate) fn one_line(error: &Error) -> String {
    match error.refusal() {
        Some(refusal) if refusal.violations.is_empty() => refusal.message.clone(),
        Some(refusal) => {
            let fields = refusal.violations.iter().map(|v| format!("{} {}", v.field, v.description));
            fields.collect::<Vec<_>>().join("; ")
        }
        None => unanswered(error),
    }
}

fn sentence(refusal: &Refusal) -> String {
    let violations = &refusal.violations;
    if violations.len() < 2 {
        return refusal.message.clone();
    }
    let width = violations.iter().map(|violation| violation.field.len()).max().unwrap_or(0);
    let lines = violations.iter().map(|v| format!("\n  {:width$}  {}", v.field, v.description));
    std::iter::once("the request has invalid fields".to_owned()).chain(lines).collect()
}

/// What something else answered is told without its page or document.
fn unanswered(error: &Error) -> String {
    match (error.cause(), error) {
        (Some(Cause::CertificateUntrusted), _) => {
            "cannot reach the server: its certificate is not one that is trusted here".into()
        }
        (Some(Cause::CertificateOfAuthority), _) => {
            "cannot reach the server: its certificate is an authority's, which may not serve".into()
        }
        (Some(Cause::NotTls), _) => "cannot reach the server: what answers does not speak TLS".into(),
        (Some(Cause::NotHttp), _) => "cannot reach the server: what answers does not speak plain HTTP".into(),
        (Some(Cause::OtherService), Error::Transport { message, .. }) => {
            let brief = message.split(['{', '<']).next().unwrap_or_default();
            let brief = brief.trim_end_matches([' ', ':']);
            format!("cannot reach the secret service: what answers is something else ({brief})")
        }
        _ => error.to_string(),
    }
}
