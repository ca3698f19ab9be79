//! Who is at the other end, behind a load balancer.
//!
//! Only what comes from an address that the operator named is believed: from the right of `X-Forwarded-For`, where each
//! proxy adds who it was called by, to the first address that is no such proxy. What a client itself put there stands
//! further left and is never read. An element that is no address ends the reading: the last proxy is then the client.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;

use super::listener::Peer;

/// Most elements that are looked at.
const MOST: usize = 16;

/// The load balancers that are believed.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Proxies {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// The peer that a request came from, given the one that the connection came from.
    pub(super) fn client(&self, peer: &Peer, headers: &HeaderMap) -> Peer {
        let Some(address) = peer.address.filter(|address| self.include(*address)) else {
            return peer.clone();
        };
        let mut client = address;
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let elements = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        for element in elements.take(MOST) {
            let Some(address) = parse(element.trim()) else { break };
            client = address;
            if !self.include(address) {
                break;
            }
        }
        if client == address {
            return peer.clone();
        }
        Peer { address: Some(client), label: Some(Arc::from(client.to_string())) }
    }

    fn include(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// An address, perhaps with a port behind it.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().or_else(|_| text.parse::<std::net::SocketAddr>().map(|it| it.ip()));
    bare.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &str, peer: &str, forwarded: &[&str]) -> String {
        let address: IpAddr = peer.parse().expect("an address");
        let peer = Peer { address: Some(address), label: Some(Arc::from(format!("{address}:1"))) };
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
    fn only_a_proxy_that_was_named_is_believed() {
        assert_eq!(client("", "10.0.0.1", &["192.0.2.7"]), "10.0.0.1:1");
        assert_eq!(client("10.0.0.2", "10.0.0.1", &["192.0.2.7"]), "10.0.0.1:1");
        assert_eq!(client("10.0.0.1", "10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.0.0.0/8, ::1", "::1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[]), "10.0.0.1:1");
    }

    #[test]
    fn what_the_client_put_there_itself_is_not_read() {
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
    fn networks_are_compared_by_their_first_bits() {
        assert_eq!(client("10.1.0.0/16", "10.1.255.255", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.1.0.0/16", "10.2.0.0", &["192.0.2.7"]), "10.2.0.0:1");
        assert_eq!(client("0.0.0.0/0", "198.51.100.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("2001:db8::/32", "2001:db8:1::1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.0.0.0/8", "::ffff:10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
    }
}
