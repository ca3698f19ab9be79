//! Settings of a client, and their checks. No error contains the key or the user part of a URL.

use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use zeroize::Zeroizing;

/// A setting is missing or malformed. No request was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No base URL was given.
    #[error("no base URL is set, in AGENTROUTER_BASE_URL or otherwise")]
    BaseUrlMissing,
    /// The base URL breaks a rule.
    #[error("the base URL {0}")]
    BaseUrlMalformed(&'static str),
    /// No API key was given.
    #[error("no API key is set, in AGENTROUTER_API_KEY or otherwise")]
    ApiKeyMissing,
    /// The API key breaks a rule.
    #[error("the API key {0}")]
    ApiKeyMalformed(&'static str),
    /// The timeout is zero.
    #[error("the timeout must be longer than zero")]
    TimeoutZero,
    /// The file of certificates cannot be used.
    #[error("cannot read certificates from {}", path.display())]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The system has no certificates to trust.
    #[error("the system has no certificates to trust; name a file of them")]
    NoSystemCertificates,
    /// The TLS library refused the settings.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Letters and digits of a key before its `_`.
pub(crate) const KEY_ID: usize = 16;
/// Letters and digits of a key after its `_`.
pub(crate) const KEY_SECRET: usize = 49;

/// The whole value of the `Authorization` header for a key given with or without `ak-`.
///
/// It checks the form only. The server checks the checksum.
pub(crate) fn authorization(key: &str) -> Result<Zeroizing<String>, ConfigError> {
    if key.is_empty() {
        return Err(ConfigError::ApiKeyMissing);
    }
    let bare = key.strip_prefix("ak-").unwrap_or(key);
    let fits = bare.split_once('_').is_some_and(|(id, secret)| {
        id.len() == KEY_ID
            && secret.len() == KEY_SECRET
            && id.bytes().chain(secret.bytes()).all(|b| b.is_ascii_alphanumeric())
    });
    if fits {
        return Ok(Zeroizing::new(format!("Bearer ak-{bare}")));
    }
    let rule = if key.trim() != key {
        "must not have spaces or a line end around it"
    } else if key.starts_with("Bearer") {
        "must be given without 'Bearer'"
    } else {
        "must be 16 letters and digits, '_', and 49 letters and digits, with or without 'ak-' before them"
    };
    Err(ConfigError::ApiKeyMalformed(rule))
}

/// The base URL: `http` or `https`, a host, optionally a port and a path prefix.
pub(crate) fn base_uri(text: &str) -> Result<Uri, ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::BaseUrlMissing);
    }
    let malformed = |rule| Err(ConfigError::BaseUrlMalformed(rule));
    let Ok(uri) = text.parse::<Uri>() else {
        return malformed("must be a URL such as http://127.0.0.1:8080");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return malformed("must begin with http:// or https://");
    }
    let Some(authority) = uri.authority() else {
        return malformed("must name a host");
    };
    if authority.as_str().contains('@') {
        return malformed("must not have a user or password in it");
    }
    if authority.host().is_empty() {
        return malformed("must name a host");
    }
    if uri.query().is_some() || text.contains('#') {
        return malformed("must not have a query or fragment");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> String {
        format!("{}_{}", "0123456789abcdEF", "Z".repeat(49))
    }

    #[test]
    fn a_key_is_taken_with_and_without_its_prefix() {
        let expected = format!("Bearer ak-{}", bare());
        assert_eq!(*authorization(&bare()).expect("bare"), expected);
        assert_eq!(*authorization(&format!("ak-{}", bare())).expect("prefixed"), expected);
    }

    #[test]
    fn a_malformed_key_is_refused_and_never_repeated() {
        let key = bare();
        let short = &key[..key.len() - 1];
        for bad in [
            short,
            &format!("{key}0"),
            &format!("ak-ak-{key}"),
            &format!("AK-{key}"),
            &format!("Bearer {key}"),
            &format!("{key}\n"),
            &format!(" {key}"),
            &key.replace('_', "-"),
            &key.replace('a', "é"),
            "${AGENTROUTER_API_KEY}",
        ] {
            let error = authorization(bad).expect_err("malformed");
            assert!(matches!(error, ConfigError::ApiKeyMalformed(_)), "{bad}");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("ZZZ") && !shown.contains("01234"), "{shown}");
        }
        assert!(matches!(authorization(""), Err(ConfigError::ApiKeyMissing)));
    }

    #[test]
    fn a_base_url_is_http_with_a_host_and_nothing_else() {
        for good in
            ["http://127.0.0.1:8080", "https://secrets.example.com/", "https://h/prefix", "http://[::1]:8080"]
        {
            assert!(base_uri(good).is_ok(), "{good}");
        }
        for bad in [
            "127.0.0.1:8080",
            "localhost",
            "ftp://h",
            "http://",
            "http://user:canary@h",
            "http://h?x=1",
            "http://h#x",
            "http://a b",
            "/v1",
        ] {
            let error = base_uri(bad).expect_err("malformed");
            assert!(matches!(error, ConfigError::BaseUrlMalformed(_)), "{bad}");
            assert!(!format!("{error:?}").contains("canary"));
        }
        assert!(matches!(base_uri(""), Err(ConfigError::BaseUrlMissing)));
    }
}
