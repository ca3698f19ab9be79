//! The network of an address: what counts as one client in limits by address.

use std::net::IpAddr;

use ipnet::Ipv6Net;

/// An IPv4 address itself, and the /64 of an IPv6 address: that is one customer, as a rule.
pub(crate) fn of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Net::new(v6, 64).map_or(v6, |network| network.network())),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let a: IpAddr = "2001:db8::1".parse().expect("an address");
        let b: IpAddr = "2001:db8::ffff".parse().expect("an address");
        let c: IpAddr = "2001:db8:0:1::1".parse().expect("an address");
        assert_eq!(of(a), of(b));
        assert_ne!(of(a), of(c));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(of(mapped), "192.0.2.1".parse::<IpAddr>().expect("an address"));
    }
}
