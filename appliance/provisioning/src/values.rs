//! The types of the fields of an answer document. Each is made by parsing only, so a value that exists is valid.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest host name in bytes: Linux's HOST_NAME_MAX, and a DNS label's limit is the same less one.
const HOST_NAME_BYTES: usize = 63;
/// Longest name of DNS in bytes, written with dots (RFC 1035).
const DNS_NAME_BYTES: usize = 253;

/// Implements the string conversions that serde uses for a type with `FromStr` and `Display`.
macro_rules! as_string {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

/// Hardware address of a network interface, kept in lower case with colons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no MAC address such as \"52:54:00:12:34:56\"");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|c| c.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(bad)?, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() || bytes == [0; 6] {
            return Err(bad());
        }
        if bytes[0] & 1 == 1 {
            return Err(format!("{text:?} is a multicast address, no interface has it"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
as_string!(Mac);

/// An address of an interface with the length of its network's prefix: `192.168.77.2/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The address itself.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether `other` lies in the same network.
    pub fn contains(&self, other: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether `other`, which lies in the same network, can be a host's: it is neither the network's own address nor its
    /// broadcast address. Networks of one or two addresses have neither (RFC 3021), and IPv6 has no broadcast.
    pub fn has_host(&self, other: IpAddr) -> bool {
        match other {
            IpAddr::V4(v4) if self.prefix <= 30 => {
                let host = v4.to_bits() & (u32::MAX >> self.prefix);
                host != 0 && host != u32::MAX >> self.prefix
            }
            _ => true,
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no address with prefix length such as \"192.168.77.2/24\"");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.parse().ok().filter(|p| (1..=bits).contains(p)).ok_or_else(bad)?;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(format!("{text:?} cannot be the address of an interface"));
        }
        let cidr = Self { address, prefix };
        if !cidr.has_host(address) {
            return Err(format!("{text:?} is the network's own or broadcast address, not a host's"));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
as_string!(Cidr);

/// A host name: one DNS label (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        let good = (1..=HOST_NAME_BYTES).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("{text:?} is no host name: 1 to 63 letters, digits and hyphens, none at either end"))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
as_string!(HostName);

/// A time zone of the IANA database, such as `Europe/Berlin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeZone(String);

impl FromStr for TimeZone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // In the spelling of the database, which is a file's name, too.
        let known = jiff::tz::TimeZone::get(text).ok().and_then(|zone| zone.iana_name().map(str::to_owned));
        known
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no time zone such as \"Europe/Berlin\" or \"UTC\""))
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
as_string!(TimeZone);

/// An NTP server: an address or a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NtpServer(String);

impl FromStr for NtpServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name =
            text.len() <= DNS_NAME_BYTES && text.split('.').all(|label| label.parse::<HostName>().is_ok());
        if is_name || text.parse::<IpAddr>().is_ok() {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("{text:?} is neither an address nor a name of a server"))
        }
    }
}

impl fmt::Display for NtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
as_string!(NtpServer);

/// A keymap of the console, by its name for loadkeys(1), such as `de-latin1-nodeadkeys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Keymap(String);

impl FromStr for Keymap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // loadkeys takes paths and options, too; a name is neither.
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_+.".contains(&c);
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with(['-', '.']) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is no keymap such as \"us\", \"uk\" or \"de-latin1-nodeadkeys\""))
        }
    }
}

impl fmt::Display for Keymap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
as_string!(Keymap);

/// The number of a VLAN (IEEE 802.1Q): 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl TryFrom<u16> for VlanId {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, String> {
        if (1..=4094).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is no VLAN: 1 to 4094 are"))
        }
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> u16 {
        vlan.0
    }
}

impl FromStr for VlanId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: u16 = text.parse().map_err(|_| format!("{text:?} is no VLAN: 1 to 4094 are"))?;
        number.try_into()
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The largest packet of an interface in bytes: 1280, which IPv6 needs (RFC 8200), to 9216, which switches carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u16);

/// What an MTU can be.
const MTU: std::ops::RangeInclusive<u16> = 1280..=9216;

impl TryFrom<u32> for Mtu {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        let mtu = u16::try_from(number).ok().filter(|mtu| MTU.contains(mtu));
        mtu.map(Self).ok_or_else(|| not_an_mtu(number))
    }
}

fn not_an_mtu(shown: impl fmt::Display) -> String {
    format!("{shown} is not an MTU: {} to {} are", MTU.start(), MTU.end())
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> u32 {
        mtu.0.into()
    }
}

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: u32 = text.parse().map_err(|_| not_an_mtu(format!("{text:?}")))?;
        number.try_into()
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How the cards of a bond share the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BondMode {
    /// One card carries all, another takes over when it fails; the switch needs to know nothing.
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// All cards carry traffic (LACP); the switch is configured for it.
    #[serde(rename = "802.3ad")]
    Lacp,
}

impl BondMode {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ActiveBackup, Self::Lacp];

    /// The name, which is the kernel's.
    pub fn name(self) -> &'static str {
        match self {
            Self::ActiveBackup => "active-backup",
            Self::Lacp => "802.3ad",
        }
    }
}

impl FromStr for BondMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text.to_ascii_lowercase());
        found.ok_or_else(|| format!("{text:?} is not a mode of a bond: active-backup and 802.3ad are"))
    }
}

impl fmt::Display for BondMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A network card in a bond.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Member {
    /// By its address.
    Mac(Mac),
    /// By the kernel's name of it, such as `enp1s0`.
    Name(String),
}

/// The longest name of an interface in bytes: Linux's IFNAMSIZ without the end.
const LINK_NAME_BYTES: usize = 15;
/// Interfaces that are not cards: names of what the appliance makes end with a number.
const MADE: [&str; 2] = ["bond", "vlan"];

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(mac) = text.parse() {
            return Ok(Self::Mac(mac));
        }
        // networkd reads `*`, `?`, `!` and brackets as patterns.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_made = |prefix: &&str| {
            text.strip_prefix(*prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let is_name = (1..=LINK_NAME_BYTES).contains(&text.len())
            && text.bytes().all(allowed)
            && text.starts_with(|first: char| first.is_ascii_alphabetic());
        if !is_name || text == "lo" || MADE.iter().any(is_made) {
            return Err(format!(
                "{text:?} is neither a MAC address nor the name of a network card such as \"enp1s0\""
            ));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}
as_string!(Member);

/// A crypt(5) hash, as in /etc/shadow. Never shown: not by `Debug`, not in errors.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CryptHash(String);

impl FromStr for CryptHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // $id$[parameters$]salt$hash: SHA-512, SHA-256 or yescrypt (crypt(5)); one line of shadow has no colons
        let fields: Vec<_> = text.split('$').collect();
        let known = matches!(fields.get(1), Some(&("5" | "6" | "y")));
        let shape = fields.first() == Some(&"") && (4..=5).contains(&fields.len());
        let legal = |c: u8| c.is_ascii_alphanumeric() || b"./$=,".contains(&c);
        let hash_is_long = fields.last().is_some_and(|hash| hash.len() >= 43);
        if known && shape && hash_is_long && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err("not a crypt(5) hash of kind $6$ (SHA-512), $5$ (SHA-256) or $y$ (yescrypt); \
                 `openssl passwd -6` makes one"
                .into())
        }
    }
}

impl CryptHash {
    /// The hash, for /etc/shadow.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CryptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CryptHash(hidden)")
    }
}

impl TryFrom<String> for CryptHash {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CryptHash> for String {
    fn from(value: CryptHash) -> String {
        value.0
    }
}

/// An Argon2id hash of the `backup` user's password. Never shown: not by `Debug`, not in errors.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The PHC string, for the password file.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(hidden)")
    }
}

impl TryFrom<String> for PasswordHash {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let why = |error| format!("it is no hash of Argon2id ({error}); `installer hash` prints one");
        auth::validate_hash(&text).map(Self).map_err(why)
    }
}

impl From<PasswordHash> for String {
    fn from(value: PasswordHash) -> String {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<T: FromStr<Err = String> + fmt::Display>(text: &str) -> Option<String> {
        text.parse::<T>().ok().map(|value| value.to_string())
    }

    #[test]
    fn mac_addresses() {
        let table = [
            ("52:54:00:12:34:56", Some("52:54:00:12:34:56")),
            ("52-54-00-AB-cd-EF", Some("52:54:00:ab:cd:ef")),
            ("52:54:00:12:34", None),
            ("52:54:00:12:34:56:78", None),
            ("52:54:00:12:34:5", None),
            ("52:54:00:12:34:+5", None),
            ("525400123456", None),
            ("00:00:00:00:00:00", None),
            ("ff:ff:ff:ff:ff:ff", None),
            ("01:00:5e:00:00:01", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(shown::<Mac>(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn addresses_with_prefix() {
        let table = [
            ("192.168.77.2/24", true),
            ("10.0.0.1/31", true),
            ("10.0.0.1/32", true),
            ("2001:db8::5/64", true),
            ("2001:db8::/128", true),
            ("192.168.77.2", false),
            ("192.168.77.2/33", false),
            ("192.168.77.2/0", false),
            ("192.168.77.2/-1", false),
            ("192.168.77.0/24", false),
            ("192.168.77.255/24", false),
            ("127.0.0.1/8", false),
            ("0.0.0.0/8", false),
            ("224.0.0.1/4", false),
            ("2001:db8::5/129", false),
            ("host/24", false),
        ];
        for (text, good) in table {
            assert_eq!(shown::<Cidr>(text).as_deref(), good.then_some(text), "{text}");
        }
    }

    #[test]
    fn who_lies_in_the_same_network() {
        let table = [
            ("192.168.77.2/24", "192.168.77.1", true),
            ("192.168.77.2/24", "192.168.78.1", false),
            ("192.168.77.2/32", "192.168.77.1", false),
            ("192.168.77.2/1", "10.0.0.1", false),
            ("10.1.2.3/8", "10.200.0.1", true),
            ("2001:db8::5/64", "2001:db8::1", true),
            ("2001:db8::5/64", "2001:db8:0:1::1", false),
            ("2001:db8::5/64", "192.168.77.1", false),
        ];
        for (network, other, expected) in table {
            let network: Cidr = network.parse().unwrap();
            assert_eq!(network.contains(other.parse().unwrap()), expected, "{network} {other}");
        }
    }

    #[test]
    fn host_names() {
        let longest = "a".repeat(63);
        let too_long = "a".repeat(64);
        let table = [
            ("backup1", Some("backup1")),
            ("Backup-1", Some("backup-1")),
            (&longest, Some(longest.as_str())),
            (&too_long, None),
            ("", None),
            ("-a", None),
            ("a-", None),
            ("a.b", None),
            ("a b", None),
            ("a\nb", None),
            ("bäckup", None),
        ];
        for (text, expected) in table {
            assert_eq!(shown::<HostName>(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn time_zones_are_those_of_the_database() {
        let table = [
            ("Europe/Berlin", Some("Europe/Berlin")),
            ("europe/berlin", Some("Europe/Berlin")),
            ("UTC", Some("UTC")),
            ("Mars/Base", None),
            ("../etc/passwd", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(shown::<TimeZone>(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn servers_keymaps_and_vlans() {
        for (text, good) in [
            ("pool.ntp.org", true),
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("a b", false),
            ("a..b", false),
            ("", false),
        ] {
            assert_eq!(shown::<NtpServer>(text).is_some(), good, "{text}");
        }
        for (text, good) in [
            ("us", true),
            ("de-latin1-nodeadkeys", true),
            ("--help", false),
            ("/tmp/map", false),
            ("", false),
        ] {
            assert_eq!(shown::<Keymap>(text).is_some(), good, "{text}");
        }
        for (text, good) in
            [("1", true), ("4094", true), ("0", false), ("4095", false), ("70000", false), ("x", false)]
        {
            assert_eq!(shown::<VlanId>(text).is_some(), good, "{text}");
        }
    }

    #[test]
    fn crypt_hashes_are_recognised_and_never_shown() {
        let sha512 = format!("$6$salt${}", "a".repeat(86));
        let table = [
            (sha512.clone(), true),
            (format!("$6$rounds=5000$salt${}", "a".repeat(86)), true),
            (format!("$y$j9T$salt${}", "a".repeat(43)), true),
            (format!("{sha512}:"), false),
            (format!("{sha512}\nroot2"), false),
            (sha512.replace("$6$", "$1$"), false),
            ("$6$salt$short".into(), false),
            ("secret".into(), false),
            ("*".into(), false),
            (String::new(), false),
        ];
        for (text, good) in table {
            let result = text.parse::<CryptHash>();
            assert_eq!(result.is_ok(), good, "{text}");
            let debug = format!("{result:?}");
            assert!(text.is_empty() || !debug.contains(&text), "{debug}");
        }
    }
}
