//! Addresses of providers.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use http::Uri;

/// Checks that an address has TLS or is on this machine.
///
/// # Errors
/// When it does not, or is no URL.
pub(crate) fn check(url: &str) -> anyhow::Result<()> {
    let parsed: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
    let host = parsed.host().unwrap_or_default();
    let local = matches!(host, "localhost" | "[::1]")
        || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback());
    match parsed.scheme_str() {
        Some("https") => ensure!(!host.is_empty(), "{url} has no host"),
        Some("http") => ensure!(local, "{url} has no TLS and is not on this machine; use https"),
        _ => anyhow::bail!("{url} is not a URL with https"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_tls_must_be_on_this_machine() {
        for good in
            ["https://vault.example.com", "http://127.0.0.1:8200", "http://localhost:1", "http://[::1]:1"]
        {
            check(good).expect(good);
        }
        let elsewhere =
            ["http://vault.example.com", "http://127.0.0.1.example.com", "ftp://localhost", "localhost", ""];
        for bad in elsewhere {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
