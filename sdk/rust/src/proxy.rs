//! The proxy of the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
//!
//! The variables have their usual names and their lower-case forms. An empty one counts as unset. The loopback interface has
//! no proxy, so that a key for this machine does not leave it.

use std::net::IpAddr;

use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use ipnet::IpNet;

use crate::ConfigError;

/// A proxy.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// `http://` and its address.
    pub(crate) uri: Uri,
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<HeaderValue>,
}

/// The proxy that the environment names for a server. `variable` reads a variable.
///
/// # Errors
/// When the variable does not have the URL of an HTTP proxy.
pub(crate) fn of_environment(
    server: &Uri,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, ConfigError> {
    let host = server.host().unwrap_or_default();
    if is_loopback(host) {
        return Ok(None);
    }
    let tls = server.scheme() == Some(&Scheme::HTTPS);
    let names: &[&'static str] = if tls {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    };
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    // A CGI server sets HTTP_PROXY from a header of its caller.
    let forged = |name: &str| name == "HTTP_PROXY" && variable("REQUEST_METHOD").is_some();
    let found = names.iter().filter(|name| !forged(name)).find_map(|name| Some((*name, set(name)?)));
    let Some((name, value)) = found else { return Ok(None) };
    let port = server.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let excluded = set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default();
    if is_excluded(&excluded, host, port) {
        return Ok(None);
    }
    parse(&value).map(Some).ok_or(ConfigError::Proxy(name))
}

fn parse(value: &str) -> Option<Proxy> {
    // The library decodes user and password.
    let anywhere = Uri::from_static("http://any.invalid");
    let found = Matcher::builder().all(value.to_owned()).build().intercept(&anywhere)?;
    let uri = found.uri().clone();
    let has_port = uri.port_u16().is_some() || uri.authority()?.as_str() == uri.host()?;
    (uri.scheme() == Some(&Scheme::HTTP) && has_port)
        .then(|| Proxy { authorization: found.basic_auth().cloned(), uri })
}

/// Whether a host is the loopback interface.
pub(crate) fn is_loopback(host: &str) -> bool {
    match unbracketed(host).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

fn unbracketed(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether `NO_PROXY` names a host: a name with its subdomains, `.name` for the subdomains alone, an address, a network, or
/// `*`. A name or an address may have a port.
fn is_excluded(list: &str, host: &str, port: u16) -> bool {
    let host = unbracketed(host).to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    list.to_ascii_lowercase().split([',', ' ']).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(address), true) = (address, entry.contains('/')) {
            return entry.parse::<IpNet>().is_ok_and(|network| network.contains(&address));
        }
        let entry = match entry.rsplit_once(':') {
            // One colon, or one behind a bracket: the rest is a port. More colons are an IPv6 address.
            Some((name, its)) if !name.contains(':') || name.ends_with(']') => {
                if its.parse() != Ok(port) {
                    return false;
                }
                name
            }
            _ => entry,
        };
        let name = unbracketed(entry.strip_prefix('*').unwrap_or(entry));
        let parent = name.strip_prefix('.').unwrap_or(name);
        let below = address.is_none()
            && host.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
        !parent.is_empty() && (below || (entry == parent || entry.starts_with('[')) && host == parent)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn proxy(variables: &[(&str, &str)], server: &str) -> Result<Option<String>, ConfigError> {
        let variable =
            |name: &str| variables.iter().find(|(its, _)| *its == name).map(|(_, value)| (*value).to_owned());
        let found = of_environment(&server.parse().expect("a URL"), variable)?;
        Ok(found.and_then(|proxy| Some(proxy.uri.authority()?.as_str().to_owned())))
    }

    #[test]
    fn the_environment_chooses_the_proxy_as_in_every_sdk() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cases/proxy.json");
        let table: Value =
            serde_json::from_str(&std::fs::read_to_string(path).expect("a table")).expect("JSON");
        for case in table["cases"].as_array().expect("an array") {
            let variables = case["variables"].as_object().expect("an object").iter();
            let variables: Vec<_> =
                variables.map(|(name, value)| (&**name, value.as_str().expect("a text"))).collect();
            let found = proxy(&variables, case["url"].as_str().expect("a URL")).expect("valid");
            let found = found.map(|found| if found.contains(':') { found } else { found + ":80" });
            assert_eq!(found.as_deref(), case["proxy"].as_str(), "{}", case["title"]);
        }
    }

    #[test]
    fn the_lower_case_form_of_a_variable_comes_first() {
        for (variables, used) in [
            (&[("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://lower:1")][..], Some("lower:1")),
            (&[("HTTP_PROXY", "http://p:1"), ("REQUEST_METHOD", "GET")], None),
        ] {
            let server = if used.is_some() { "https://h.example" } else { "http://h.example" };
            assert_eq!(proxy(variables, server).expect("valid").as_deref(), used, "{variables:?}");
        }
    }

    #[test]
    fn no_proxy_excludes_names_addresses_and_networks() {
        for (list, server, excluded) in [
            ("*", "https://h.example", true),
            ("", "https://h.example", false),
            ("example", "https://h.example", true),
            ("a, H.EXAMPLE", "https://h.example", true),
            ("ample", "https://h.example", false),
            (".h.example", "https://h.example", false),
            (".example", "https://h.example", true),
            ("*.example", "https://h.example", true),
            ("h.example:443", "https://h.example", true),
            ("h.example:80", "https://h.example", false),
            ("a,10.0.0.0/8", "https://10.1.2.3", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("10.1.2.3", "https://10.1.2.3", true),
            ("2.3", "https://10.1.2.3", false),
            ("2001:db8::/32", "https://[2001:db8::1]", true),
            ("2001:db8::1", "https://[2001:db8::1]", true),
            ("[2001:db8::1]:443", "https://[2001:db8::1]", true),
            ("0.0.0.0/0", "https://10.1.2.3", true),
            ("10.9.9.9/8", "https://10.1.2.3", true),
            ("10.0.0.0/33", "https://10.1.2.3", false),
            ("10.0.0.0/8", "https://[2001:db8::1]", false),
        ] {
            let variables = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", list)];
            assert_eq!(proxy(&variables, server).expect("valid").is_none(), excluded, "{list} {server}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_that_names_the_variable() {
        for wrong in ["socks5://p:1", "https://p:1", "http://", "http://p:port"] {
            let error = proxy(&[("ALL_PROXY", wrong)], "https://h.example").expect_err("not usable");
            assert!(error.to_string().starts_with("ALL_PROXY"), "{error}");
        }
    }

    #[test]
    fn user_and_password_become_a_header() {
        let variable = |name: &str| (name == "HTTPS_PROXY").then(|| "http://user:pass%21@p:1".to_owned());
        let server = Uri::from_static("https://h.example");
        let proxy = of_environment(&server, variable).expect("valid").expect("a proxy");
        assert_eq!(proxy.authorization.expect("a header"), "Basic dXNlcjpwYXNzIQ==");
        assert_eq!(proxy.uri.authority().expect("an address").as_str(), "p:1");
    }
}
