//! An address to listen on: an IP address with a port, or the path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The start of the text form of a Unix socket.
const UNIX: &str = "unix:";

/// An address to listen on. Its text form is `127.0.0.1:8080`, or `unix:/run/secrets.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port. Port 0 is a free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this host can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    /// # Errors
    /// The rule that the text breaks.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        match text.strip_prefix(UNIX) {
            Some("") => None,
            Some(path) => Some(Self::Unix(path.into())),
            None => text.parse().ok().map(Self::Tcp),
        }
        .ok_or("must be an address and port such as 127.0.0.1:8080, or a Unix socket such as unix:/run/secrets.sock; separate several by commas")
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_and_sockets_are_local() {
        let is_local = |text: &str| text.parse::<ListenAddress>().expect(text).is_local();
        for text in ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/s"] {
            assert!(is_local(text), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"] {
            assert!(!is_local(text), "{text}");
        }
    }

    #[test]
    fn an_address_is_one_of_ip_or_the_path_of_a_socket() {
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/secrets.sock", "unix:relative"] {
            let address: ListenAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
            assert_eq!(matches!(address, ListenAddress::Unix(_)), text.starts_with(UNIX), "{text}");
        }
        for text in ["", "unix:", "localhost:8080", "8080", "/run/secrets.sock"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
