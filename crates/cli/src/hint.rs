//! Hints: what to do about the error of a call, in one line.

use agentrouter_sdk::{Cause, Code, ConfigError, Error, Refusal, reason};

/// The file that the server writes on its first start assigns the variables, and a program sees exported ones only.
const BOOTSTRAP: &str = "set -a; . data/bootstrap.env; set +a";

/// What to do about `error`.
pub(crate) fn of(error: &Error) -> String {
    match error {
        Error::Config(error) => of_setting(error),
        Error::Timeout { .. } => {
            "wait longer with --timeout 30s; the server's /readyz shows its state".into()
        }
        Error::Refused(refusal) => of_refusal(refusal),
        Error::Transport { code: Code::Unavailable, .. } if error.cause() == Some(Cause::OtherService) => {
            "something else responds, perhaps a proxy whose server is down; is the server running?".into()
        }
        _ => of_no_response(error.cause()).into(),
    }
}

/// What to do when the names of secrets cannot be listed for a command that reads values.
pub(crate) fn of_list(error: &Error) -> String {
    match error.reason() {
        Some(reason::SCOPE_MISSING) => {
            "use a key with secrets/read to list the names, or name the secrets with --only or --mapping: that needs \
             secrets/read/internal alone"
                .into()
        }
        _ => of(error),
    }
}

fn of_setting(error: &ConfigError) -> String {
    match error {
        ConfigError::BaseUrlMissing => {
            format!(
                "run 'tare login', or set AGENTROUTER_BASE_URL or --base-url; for a local server: {BOOTSTRAP}"
            )
        }
        ConfigError::ApiKeyMissing => {
            format!("run 'tare login', or set AGENTROUTER_API_KEY; for a local server: {BOOTSTRAP}")
        }
        ConfigError::BaseUrlMalformed(_) => {
            "set AGENTROUTER_BASE_URL or --base-url to something like http://127.0.0.1:8080".into()
        }
        ConfigError::ApiKeyMalformed(_) => {
            "the key is what 'agentrouter-secrets key create' printed, whole".into()
        }
        ConfigError::TimeoutZero => "give --timeout a time such as 10s, or leave it out".into(),
        ConfigError::CaFile { .. } => {
            "--ca-file, AGENTROUTER_CA_FILE or SSL_CERT_FILE names a PEM file: BEGIN CERTIFICATE, base64, END CERTIFICATE"
                .into()
        }
        ConfigError::Proxy(variable) => {
            format!("set {variable} to a URL such as http://proxy.example.com:3128, or name the server in NO_PROXY")
        }
        _ => "set AGENTROUTER_CA_FILE or --ca-file to a PEM file of certificates to trust".into(),
    }
}

fn of_no_response(cause: Option<Cause>) -> &'static str {
    match cause {
        Some(Cause::Proxy) => "check HTTPS_PROXY (or HTTP_PROXY, ALL_PROXY), or name the server in NO_PROXY",
        Some(Cause::CertificateUntrusted) => {
            "--ca-file FILE (or AGENTROUTER_CA_FILE) names the certificates to trust: the one that signed the server's"
        }
        Some(Cause::CertificateName) => {
            "AGENTROUTER_BASE_URL (or --base-url) must have a name that the server's certificate is for"
        }
        Some(Cause::CertificateTime) => {
            "renew the server's certificate, or correct the clock of this computer ('date')"
        }
        Some(Cause::CertificateOfAuthority) => {
            "make a certificate to serve with, as with openssl req -x509 -addext \
             basicConstraints=critical,CA:FALSE, and trust it with --ca-file"
        }
        Some(Cause::NotTls) => {
            "if the peer speaks plain HTTP, use http:// instead of https:// in AGENTROUTER_BASE_URL (or --base-url)"
        }
        Some(Cause::NotHttp) => {
            "if the peer speaks TLS, use https:// instead of http:// in AGENTROUTER_BASE_URL (or --base-url)"
        }
        Some(Cause::OtherService) => {
            "AGENTROUTER_BASE_URL (or --base-url) is the address that 'agentrouter-secrets serve' prints, without a \
             path, or that of a proxy before it"
        }
        _ => "is the server running, and is AGENTROUTER_BASE_URL (or --base-url) where it listens?",
    }
}

fn of_refusal(refusal: &Refusal) -> String {
    let hint = match refusal.reason.as_str() {
        reason::INVALID_REQUEST => return of_fields(refusal),
        reason::UNAUTHENTICATED => {
            "check AGENTROUTER_API_KEY or run 'tare login'; the key may be revoked or expired, or belong to another server"
        }
        reason::SCOPE_MISSING => {
            "get, list and validate need secrets/read; create, rotate, delete and import secrets/write; reading \
             values secrets/read/internal"
        }
        reason::REALM_NOT_ALLOWED => {
            "the API key is limited to some realms: 'agentrouter-secrets key list' on the server shows which"
        }
        reason::USER_ID_NOT_ALLOWED => {
            "leave --user-id out, or use a key with secrets/write/internal for create, secrets/read/internal for values"
        }
        reason::SECRET_NOT_FOUND => "'tare api secret list' shows what this key may see, with the realms",
        reason::VERSION_MISMATCH => "'tare api secret get NAME' shows the current version",
        reason::VERSIONS_EXHAUSTED => "delete the secret and create it again",
        reason::PAGE_TOKEN_INVALID => "a page token goes with the same key and the same filters",
        reason::BODY_TOO_LARGE => "a value has at most 65536 bytes",
        reason::KEK_UNAVAILABLE | reason::SECRET_CORRUPT => {
            "'tare api secret validate NAME' says which version; rotate the secret, or see 'agentrouter-secrets doctor'"
        }
        reason::OUTCOME_UNKNOWN => "'tare api secret get NAME' shows whether it was done",
        _ => return of_trouble(refusal),
    };
    hint.into()
}

/// The flags that the fields at fault came from.
fn of_fields(refusal: &Refusal) -> String {
    let mut flags: Vec<String> = Vec::new();
    for violation in &refusal.violations {
        let field = violation.field.split(['.', '[']).next().unwrap_or_default();
        let flag = match field {
            "name" => "NAME".to_owned(),
            "tags" => "--tag KEY=VALUE".to_owned(),
            "value" | "new_value" => format!("--{}-file FILE", field.replace('_', "-")),
            _ => format!("--{}", field.replace('_', "-")),
        };
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    match flags.as_slice() {
        [] => "'--help' after the command says what it takes".into(),
        flags => format!("correct {}; '--help' after the command says more", flags.join(", ")),
    }
}

/// A refusal that the caller cannot change.
fn of_trouble(refusal: &Refusal) -> String {
    let id = refusal.request_id.as_deref();
    match (refusal.retry_after, id, refusal.code) {
        (Some(delay), ..) => format!("try again in {} s, or wait longer with --timeout", delay.as_secs().max(1)),
        (None, Some(id), Code::Internal | Code::Unavailable | Code::Unknown) => {
            format!("the server's log has more under request id {id}")
        }
        (None, _, Code::Unimplemented) => "is the address in --base-url the server's own, without a path, and are 'tare --version' and the server of the same version?".into(),
        (None, Some(id), _) => format!("the server's log has it under request id {id}"),
        (None, None, _) => "the server's log has more".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_of_no_response_has_a_hint_of_its_own() {
        assert!(of_no_response(Some(Cause::CertificateUntrusted)).contains("--ca-file"));
        assert!(of_no_response(Some(Cause::CertificateOfAuthority)).contains("CA:FALSE"));
        assert!(of_no_response(Some(Cause::NotTls)).contains("http://"));
        assert!(of_no_response(Some(Cause::NotHttp)).contains("https://"));
        for cause in [Cause::Connection, Cause::OtherService, Cause::CertificateName] {
            assert!(of_no_response(Some(cause)).contains("AGENTROUTER_BASE_URL"), "{cause:?}");
        }
    }

    #[test]
    fn every_setting_has_its_own_hint() {
        for (error, flag) in [
            (ConfigError::BaseUrlMissing, "--base-url"),
            (ConfigError::ApiKeyMissing, "AGENTROUTER_API_KEY"),
            (ConfigError::TimeoutZero, "--timeout"),
            (ConfigError::NoSystemCertificates, "--ca-file"),
        ] {
            assert!(of(&error.into()).contains(flag));
        }
    }
}
