//! The backup server's and our own address: IPv4, IPv6 or a name.

use std::fmt;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::str::FromStr;

use anyhow::{Context, Result};

/// Longest host name in bytes (RFC 1035).
const NAME_BYTES: usize = 253;

/// An address or a name of a host. Made by parsing, so it can stand in configuration files as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name.
    Name(String),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        };
        // A name of digits only would be a mistyped address.
        let digits = text.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        if !digits && text.len() <= NAME_BYTES && text.split('.').all(label) {
            Ok(Self::Name(text.to_ascii_lowercase()))
        } else {
            Err(format!("{text:?} is neither an IPv4 or IPv6 address nor a host name"))
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Host {
    /// The addresses behind it now; empty for a name that cannot be resolved.
    pub fn resolve(&self) -> Vec<IpAddr> {
        match self {
            Self::Address(address) => vec![*address],
            Self::Name(name) => {
                let mut found: Vec<_> = (name.as_str(), 0)
                    .to_socket_addrs()
                    .map(|list| list.map(|socket| socket.ip().to_canonical()).collect())
                    .unwrap_or_default();
                found.sort();
                found.dedup();
                found
            }
        }
    }
}

/// Our address on the way to the server: what the kernel would send from. Nothing is sent.
///
/// # Errors
/// There is no way to it.
pub fn own_towards(server: IpAddr) -> Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).context("cannot open a socket")?;
    socket
        .connect((server, api::CONTROL_PORT))
        .and_then(|()| socket.local_addr())
        .map(|own| own.ip())
        .with_context(|| {
            format!("there is no route to the backup server {server}; name our address with --address")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart_and_anything_else_is_refused() {
        let table = [
            ("192.0.2.1", Some("192.0.2.1")),
            ("2001:DB8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("Backup1.example.com", Some("backup1.example.com")),
            ("backup_1", Some("backup_1")),
            ("192.0.2.256", None),
            ("192.0.2", None),
            ("", None),
            ("a b", None),
            ("a/24", None),
            ("a\"", None),
            ("a#b", None),
            ("-a", None),
            ("a..b", None),
            ("a,b", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Host>().ok().map(|h| h.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn our_own_address_is_the_one_on_the_way() {
        assert_eq!(own_towards("127.0.0.1".parse().unwrap()).unwrap().to_string(), "127.0.0.1");
    }
}
