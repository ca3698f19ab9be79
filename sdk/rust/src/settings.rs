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
    /// The key and values would cross the network in clear text.
    #[error(
        "the base URL is http://, so the API key and all values would cross the network in clear text; use https://, or set \
         allow_http or AGENTROUTER_ALLOW_HTTP=1 if the network is trusted"
    )]
    ClearText,
    /// A variable that is on or off has another value.
    #[error("{0} must be 1 or 0")]
    Switch(&'static str),
    /// The variable does not have the URL of a proxy.
    #[error("{0} must be a URL such as http://proxy.example.com:3128; correct it, or set NO_PROXY")]
    Proxy(&'static str),
    /// A setting has no effect with the others.
    #[error("{0} has no effect {1}; leave it out")]
    Unused(&'static str, &'static str),
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

/// A server: the URL of its requests, and its Unix socket if it has one.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) uri: Uri,
    pub(crate) socket: Option<PathBuf>,
}

/// The server of a base URL: `http` or `https`, a host, optionally a port and a path prefix. Or `unix:` and the path of a
/// socket.
pub(crate) fn server(text: &str) -> Result<Server, ConfigError> {
    let Some(path) = text.strip_prefix("unix:") else {
        return Ok(Server { uri: base_uri(text)?, socket: None });
    };
    if path.trim_matches('/').is_empty() {
        return Err(ConfigError::BaseUrlMalformed("must name a socket, such as unix:/run/agentrouter.sock"));
    }
    Ok(Server { uri: Uri::from_static("http://localhost"), socket: Some(PathBuf::from(path)) })
}

fn base_uri(text: &str) -> Result<Uri, ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::BaseUrlMissing);
    }
    let malformed = |rule| Err(ConfigError::BaseUrlMalformed(rule));
    let Ok(uri) = text.parse::<Uri>() else {
        return malformed("must be a URL such as http://127.0.0.1:8080");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return malformed("must begin with http://, https:// or unix:");
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
    if authority.port_u16().is_none() && authority.as_str() != authority.host() {
        return malformed("must have a port from 0 to 65535");
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
    fn a_base_url_may_name_a_unix_socket() {
        let server = server("unix:/run/s.sock").expect("a socket");
        assert_eq!(server.socket.as_deref(), Some(std::path::Path::new("/run/s.sock")));
        assert_eq!(server.uri, "http://localhost");
        for bad in ["unix:", "unix://"] {
            assert!(matches!(super::server(bad), Err(ConfigError::BaseUrlMalformed(_))), "{bad}");
        }
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
            "http://h:port",
            "http://h:99999",
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
