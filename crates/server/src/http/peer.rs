//! The client of a request: the peer of its connection, or the address that a trusted proxy reports.
//!
//! `X-Forwarded-For` is read from the right, where each proxy adds the address of its own client, up to the first
//! address that is not a trusted proxy. Elements that a client adds stand further left and are not read. An element
//! that is not an address ends the reading: the last proxy is then the client.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;

use crate::tls::ClientCertificate;

const FORWARDED: &str = "x-forwarded-for";
/// The most elements of `X-Forwarded-For` that are read.
const MAX_HOPS: usize = 16;

/// The other end of a connection, or the client behind it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// For rate limits.
    pub(crate) address: Option<IpAddr>,
    /// For audit records.
    pub(crate) label: Option<Arc<str>>,
    /// The certificate of the client. None behind a proxy, whose certificate says nothing of the client.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
}

impl From<SocketAddr> for Peer {
    /// A socket for both versions of IP reports an IPv4 client as `::ffff:192.0.2.7`. The audit log has `192.0.2.7`.
    fn from(address: SocketAddr) -> Self {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { address: Some(address.ip()), label: Some(address.to_string().into()), certificate: None }
    }
}

/// The trusted proxies.
#[derive(Debug)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Proxies {
    pub(super) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// The client of a request, given the peer of its connection.
    pub(super) fn client(&self, peer: &Peer, headers: &HeaderMap) -> Peer {
        let Some(address) = peer.address.filter(|address| self.include(*address)) else {
            return peer.clone();
        };
        if !headers.contains_key(FORWARDED) {
            return peer.clone();
        }
        let mut client = address;
        let lines = headers.get_all(FORWARDED).iter().rev();
        let elements = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        for element in elements.take(MAX_HOPS) {
            let Some(address) = parse_address(element.trim()) else { break };
            client = address;
            if !self.include(address) {
                break;
            }
        }
        if client == address {
            return Peer { certificate: None, ..peer.clone() };
        }
        Peer { address: Some(client), label: Some(Arc::from(client.to_string())), certificate: None }
    }

    /// The address whose share of the connections a connection of `peer` takes. `None` for a trusted proxy, which has the
    /// connections of many clients.
    pub(super) fn share_of(&self, peer: &Peer) -> Option<IpAddr> {
        peer.address.filter(|address| !self.include(*address))
    }

    fn include(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// An address, with or without a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    bare.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &str, peer: &str, forwarded: &[&str]) -> String {
        let address: IpAddr = peer.parse().expect("an address");
        let peer = Peer {
            address: Some(address),
            label: Some(Arc::from(format!("{address}:1"))),
            certificate: None,
        };
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", line.parse().expect("a value"));
        }
        let items = proxies.split(',').filter(|item| !item.is_empty());
        let networks = items.map(|item| crate::settings::network(item).expect("a network")).collect();
        let found = Proxies::new(networks).client(&peer, &headers);
        let label = found.label.expect("a label");
        assert!(label.starts_with(&found.address.expect("an address").to_string()));
        label.to_string()
    }

    #[test]
    fn an_ipv4_client_of_a_socket_for_both_versions_has_its_ipv4_address() {
        let peer = |text: &str| Peer::from(text.parse::<SocketAddr>().expect("an address"));
        let mapped = peer("[::ffff:127.0.0.1]:41686");
        assert_eq!(mapped.label.as_deref(), Some("127.0.0.1:41686"));
        assert_eq!(mapped.address, peer("127.0.0.1:1").address);
        assert_eq!(peer("[::1]:1").label.as_deref(), Some("[::1]:1"));
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(client("", "10.0.0.1", &["192.0.2.7"]), "10.0.0.1:1");
        assert_eq!(client("10.0.0.2", "10.0.0.1", &["192.0.2.7"]), "10.0.0.1:1");
        assert_eq!(client("10.0.0.1", "10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.0.0.0/8, ::1", "::1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[]), "10.0.0.1:1");
    }

    #[test]
    fn elements_from_the_client_are_not_read() {
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["203.0.113.1, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["203.0.113.1", "192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["203.0.113.1, 192.0.2.7, 10.9.9.9"]), "192.0.2.7");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["192.0.2.7, nonsense"]), "10.0.0.1:1");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["192.0.2.7, nonsense, 10.9.9.9"]), "10.9.9.9");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["192.0.2.7:4711"]), "192.0.2.7");
        let many = vec!["10.0.0.3"; 1000].join(",");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[&format!("192.0.2.7,{many}")]), "10.0.0.3");
    }

    #[test]
    fn a_network_includes_addresses_with_its_prefix() {
        assert_eq!(client("10.1.0.0/16", "10.1.255.255", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.1.0.0/16", "10.2.0.0", &["192.0.2.7"]), "10.2.0.0:1");
        assert_eq!(client("0.0.0.0/0", "198.51.100.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("2001:db8::/32", "2001:db8:1::1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.0.0.0/8", "::ffff:10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
    }
}
