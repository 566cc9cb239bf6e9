//! A host's address as people write it: IPv4, IPv6 or a name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest host name in bytes (RFC 1035, 2.3.4).
const NAME_BYTES: usize = 253;
/// Longest label of a host name in bytes (RFC 1035, 2.3.4).
const LABEL_BYTES: usize = 63;

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
        let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = unbracketed.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let label = |label: &str| {
            (1..=LABEL_BYTES).contains(&label.len())
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
            ("[2001:db8::1", None),
            ("[[::1]]", None),
            ("[::1]:5", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Host>().ok().map(|h| h.to_string()).as_deref(), expected, "{text}");
        }
    }
}
