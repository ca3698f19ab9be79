//! The base URLs of a server, as a client on its host uses them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::settings::ListenAddress;

/// The base URL of each address. An address that stands for all of the host becomes the loopback address.
pub(crate) fn base_urls(addresses: &[ListenAddress], tls: bool) -> Vec<String> {
    let url = |address: &ListenAddress| {
        let ListenAddress::Tcp(address) = address else { return address.to_string() };
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let scheme = if tls { "https" } else { "http" };
        format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
    };
    addresses.iter().map(url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_url_is_one_that_a_client_can_use() {
        let urls = |text: &str, tls| {
            let addresses: Vec<_> = text.split(',').map(|text| text.parse().expect("an address")).collect();
            base_urls(&addresses, tls).join(" ")
        };
        assert_eq!(urls("127.0.0.1:8080", false), "http://127.0.0.1:8080");
        assert_eq!(urls("0.0.0.0:1", true), "https://127.0.0.1:1");
        assert_eq!(urls("[::]:1,unix:/s", false), "http://[::1]:1 unix:/s");
        assert_eq!(urls("unix:/s", true), "unix:/s");
    }
}
