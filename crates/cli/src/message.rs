//! Messages of failed calls: a sentence, a line for each field, or one line for a table.

use agentrouter_sdk::{Cause, Error, Refusal};

/// The error in a sentence or, for several fields, a line each. `about` is the secret it is about.
pub(crate) fn of_call(about: Option<&str>, error: &Error) -> String {
    let sentence = match error.refusal() {
        Some(refusal) => of_refusal(refusal),
        None => without_response(error),
    };
    match about {
        Some(name) => format!("{name}: {sentence}"),
        None => sentence,
    }
}

/// One line, for a table.
pub(crate) fn one_line(error: &Error) -> String {
    match error.refusal() {
        Some(refusal) if refusal.violations.is_empty() => refusal.message.clone(),
        Some(refusal) => {
            let fields = refusal.violations.iter().map(|v| format!("{} {}", v.field, v.description));
            fields.collect::<Vec<_>>().join("; ")
        }
        None => without_response(error),
    }
}

fn of_refusal(refusal: &Refusal) -> String {
    let violations = &refusal.violations;
    if violations.len() < 2 {
        return refusal.message.clone();
    }
    let width = violations.iter().map(|violation| violation.field.len()).max().unwrap_or(0);
    let lines = violations.iter().map(|v| format!("\n  {:width$}  {}", v.field, v.description));
    std::iter::once("the request has invalid fields".to_owned()).chain(lines).collect()
}

/// The response of another service is cut where its page or document begins.
fn without_response(error: &Error) -> String {
    match (error.cause(), error) {
        (Some(Cause::CertificateUntrusted), _) => {
            "cannot reach the server: its certificate is not trusted here".into()
        }
        (Some(Cause::CertificateOfAuthority), _) => {
            "cannot reach the server: its certificate is a certificate authority's".into()
        }
        (Some(Cause::NotTls), _) => "cannot reach the server: the peer does not speak TLS".into(),
        (Some(Cause::NotHttp), _) => "cannot reach the server: the peer does not speak plain HTTP".into(),
        (Some(Cause::OtherService), Error::Transport { message, .. }) => {
            let brief = message.split(['{', '<']).next().unwrap_or_default();
            let brief = brief.trim_end_matches([' ', ':']);
            format!("cannot reach the secret service: something else responded ({brief})")
        }
        _ => error.to_string(),
    }
}
