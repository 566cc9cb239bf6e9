//! The answer document (docs/architecture/provisioning.md): types, reading, and writing for tests and the lab.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use storage::plan::{Filter, Wish};
use thiserror::Error;

use crate::values::{
    BondMode, Cidr, CryptHash, HostName, Keymap, Mac, Member, Mtu, NtpServer, PasswordHash, TimeZone, VlanId,
};

/// Name of the file in which answers lie: on a medium, and in a new machine's settings.
pub const FILE: &str = "answers.yaml";

/// What a machine is for. Each role is a systemd target of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Protects a monitor.
    BackupServer,
    /// The monitoring node: PostgreSQL and monitor-link.
    Monitor,
    /// A monitoring node that is restored from a backup.
    MonitorRecovery,
    /// Installs one of the others; only on the ISO.
    Installer,
}

impl Role {
    /// The role's name, which is also its target's.
    pub fn name(self) -> &'static str {
        match self {
            Self::BackupServer => "backup-server",
            Self::Monitor => "monitor",
            Self::MonitorRecovery => "monitor-recovery",
            Self::Installer => "installer",
        }
    }
}

/// Cards that a bond has at most: more than any machine has ports to one switch.
const MEMBERS_LIMIT: usize = 8;

/// What carries an interface's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hardware {
    /// One network card, by its address.
    Card(Mac),
    /// Several network cards that act as one.
    Bond(Bond),
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Card(mac) => mac.fmt(f),
            Self::Bond(bond) => {
                let members: Vec<String> = bond.members.iter().map(ToString::to_string).collect();
                write!(f, "the bond of {}", members.join(" and "))
            }
        }
    }
}

/// Network cards that act as one (the kernel's bonding).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedBond")]
pub struct Bond {
    /// How the cards share the traffic.
    pub mode: BondMode,
    /// The cards. The bond has the address of the first one that is named by its address.
    pub members: Vec<Member>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedBond {
    mode: BondMode,
    members: Vec<Member>,
}

impl TryFrom<UncheckedBond> for Bond {
    type Error = String;

    fn try_from(UncheckedBond { mode, members }: UncheckedBond) -> Result<Self, String> {
        Self::checked(mode, members)
    }
}

impl Bond {
    /// A bond whose members go together.
    ///
    /// # Errors
    /// There are too few or too many members, or one is named twice; the cause as a sentence's part.
    pub fn checked(mode: BondMode, members: Vec<Member>) -> Result<Self, String> {
        if !(2..=MEMBERS_LIMIT).contains(&members.len()) {
            return Err(format!(
                "a bond has 2 to {MEMBERS_LIMIT} members, and this one has {}",
                members.len()
            ));
        }
        let mut seen = BTreeSet::new();
        match members.iter().find(|member| !seen.insert(*member)) {
            Some(member) => Err(format!("the bond names its member {member} twice")),
            None => Ok(Self { mode, members }),
        }
    }
}

/// A network interface that is told something: addresses, a VLAN, an MTU, or that it is a bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedInterface", into = "UncheckedInterface")]
pub struct Interface {
    /// What carries the traffic. In the document: `mac` or `bond`.
    pub hardware: Hardware,
    /// The VLAN that is all it carries for this machine; none: what comes without a tag.
    pub vlan: Option<VlanId>,
    /// The largest packet; none: the driver's value.
    pub mtu: Option<Mtu>,
    /// Its addresses; none: DHCP.
    pub addresses: Vec<Cidr>,
    /// Default gateways, one of each family at most; each lies in the network of one of the addresses, is an IPv6 link-local
    /// address, or is said to be on the link. In the document one stands alone, or both in a list.
    pub gateways: Vec<IpAddr>,
    /// Whether gateways are reached directly though they lie in no network of the addresses.
    pub on_link: bool,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

/// An interface as it stands in a document.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedInterface {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bond: Option<Bond>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<VlanId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<Mtu>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Cidr>,
    #[serde(default, skip_serializing_if = "Gateways::is_empty")]
    gateway: Gateways,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    on_link: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dns: Vec<IpAddr>,
}

/// One address, or several in a list.
#[derive(Default, Serialize)]
struct Gateways(Vec<IpAddr>);

impl Gateways {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Gateways {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneOrMore)
    }
}

struct OneOrMore;

impl<'de> Visitor<'de> for OneOrMore {
    type Value = Gateways;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an IP address, or a list of one of IPv4 and one of IPv6")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Gateways, E> {
        let gateway = text.parse().map_err(|_| E::custom(format!("{text:?} is no IP address")))?;
        Ok(Gateways(vec![gateway]))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Gateways, S::Error> {
        let mut gateways = Vec::new();
        while let Some(gateway) = list.next_element()? {
            gateways.push(gateway);
        }
        Ok(Gateways(gateways))
    }
}

impl TryFrom<UncheckedInterface> for Interface {
    type Error = String;

    fn try_from(raw: UncheckedInterface) -> Result<Self, String> {
        let UncheckedInterface { mac, bond, vlan, mtu, addresses, gateway, on_link, dns } = raw;
        let hardware = match (mac, bond) {
            (Some(mac), None) => Hardware::Card(mac),
            (None, Some(bond)) => Hardware::Bond(bond),
            (None, None) => return Err("it has neither mac nor bond, so no interface is meant".into()),
            (Some(mac), Some(_)) => {
                return Err(format!(
                    "it has both mac {mac} and bond; the members of a bond say what it is made of"
                ));
            }
        };
        let Gateways(gateways) = gateway;
        Self { hardware, vlan, mtu, addresses, gateways, on_link, dns }.checked()
    }
}

impl From<Interface> for UncheckedInterface {
    fn from(interface: Interface) -> Self {
        let Interface { hardware, vlan, mtu, addresses, gateways, on_link, dns } = interface;
        let (mac, bond) = match hardware {
            Hardware::Card(mac) => (Some(mac), None),
            Hardware::Bond(bond) => (None, Some(bond)),
        };
        Self { mac, bond, vlan, mtu, addresses, gateway: Gateways(gateways), on_link, dns }
    }
}

impl Interface {
    /// An interface that is told nothing yet.
    pub fn new(hardware: Hardware) -> Self {
        Self {
            hardware,
            vlan: None,
            mtu: None,
            addresses: Vec::new(),
            gateways: Vec::new(),
            on_link: false,
            dns: Vec::new(),
        }
    }

    /// The address of the card, where it is one.
    pub fn mac(&self) -> Option<&Mac> {
        match &self.hardware {
            Hardware::Card(mac) => Some(mac),
            Hardware::Bond(_) => None,
        }
    }

    /// The bond, where it is one.
    pub fn bond(&self) -> Option<&Bond> {
        match &self.hardware {
            Hardware::Card(_) => None,
            Hardware::Bond(bond) => Some(bond),
        }
    }

    /// The interface, if its settings go together.
    ///
    /// # Errors
    /// They do not; the cause as a sentence's part.
    pub fn checked(self) -> Result<Self, String> {
        let Self { hardware, vlan, mtu, addresses, gateways, on_link, .. } = &self;
        let is_told_nothing = addresses.is_empty() && vlan.is_none() && mtu.is_none();
        if is_told_nothing && matches!(hardware, Hardware::Card(_)) {
            return Err(format!("{hardware} has no addresses; leave the interface out to use DHCP"));
        }
        for is_v4 in [true, false] {
            if gateways.iter().filter(|gateway| gateway.is_ipv4() == is_v4).count() > 1 {
                return Err(format!("gateway of {hardware}: one of IPv4 and one of IPv6, and no more"));
            }
        }
        if *on_link && gateways.is_empty() {
            return Err(format!("on_link of {hardware} is about a gateway, and there is none"));
        }
        gateways.iter().try_for_each(|gateway| self.check_gateway(*gateway))?;
        Ok(self)
    }

    fn check_gateway(&self, gateway: IpAddr) -> Result<(), String> {
        let Self { hardware, addresses, on_link, .. } = self;
        if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() {
            return Err(not_a_host(gateway, hardware));
        }
        if addresses.iter().any(|cidr| cidr.address() == gateway) {
            return Err(format!("gateway {gateway} of {hardware} is the interface's own address"));
        }
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if link_local || addresses.iter().any(|cidr| cidr.contains(gateway)) {
            return Ok(());
        }
        let is_of_a_family = addresses.iter().any(|cidr| cidr.address().is_ipv4() == gateway.is_ipv4());
        match (on_link, is_of_a_family) {
            (true, true) => Ok(()),
            (true, false) => {
                Err(format!("gateway {gateway} of {hardware} needs an address of its family beside it"))
            }
            (false, true) => Err(format!(
                "gateway {gateway} of {hardware} lies in no network of its addresses; if the provider gives it so, say \
                 that it is on the link (on_link)"
            )),
            (false, false) => {
                Err(format!("gateway {gateway} of {hardware} lies in no network of its addresses"))
            }
        }
    }
}

/// What a machine does when its installation is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// It starts again, from the installed disk.
    #[default]
    Reboot,
    /// It is switched off.
    Poweroff,
}

/// How the machine is installed without a question. Without this section answers are those that the installer's pages show at
/// first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedInstall")]
pub struct Install {
    /// The disks; none: all that are blank and suit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Filter>,
    /// Whether named disks must be blank, too.
    pub require_empty: bool,
    /// Whether all is looked at and said, and nothing done.
    pub dry_run: bool,
    /// What comes after it.
    pub then: Then,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedInstall {
    #[serde(default)]
    disks: Vec<Filter>,
    #[serde(default = "yes")]
    require_empty: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    then: Then,
}

fn yes() -> bool {
    true
}

impl TryFrom<UncheckedInstall> for Install {
    type Error = String;

    fn try_from(raw: UncheckedInstall) -> Result<Self, String> {
        let UncheckedInstall { disks, require_empty, dry_run, then } = raw;
        if let Some(index) = disks.iter().position(|filter| *filter == Filter::default()) {
            return Err(format!("disks[{index}] says nothing, so it would be about every disk"));
        }
        for (index, filter) in disks.iter().enumerate() {
            filter.check().map_err(|cause| format!("disks[{index}]: {cause}"))?;
        }
        if disks.is_empty() && !require_empty {
            return Err("require_empty: false needs disks that name what is erased".into());
        }
        Ok(Self { disks, require_empty, dry_run, then })
    }
}

impl Install {
    /// What it wants of the disks.
    pub fn wish(&self) -> Wish {
        Wish { disks: self.disks.clone(), require_empty: self.require_empty }
    }
}

/// The answer document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedAnswers")]
pub struct Answers {
    /// What the machine is to be.
    pub role: Role,
    /// Host name; the role's name without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
    /// Interfaces with fixed addresses; every other one uses DHCP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<Interface>,
    /// Time zone in which people are shown times; UTC without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZone>,
    /// NTP servers; without them those that DHCP names, and Debian's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<NtpServer>,
    /// Keymap of the console; `us` without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keymap: Option<Keymap>,
    /// root's password at the console; locked without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_password_hash: Option<CryptHash>,
    /// The `backup` user's password; the default one without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<PasswordHash>,
    /// How it is installed unattended; only the installer reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<Install>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedAnswers {
    role: Role,
    hostname: Option<HostName>,
    #[serde(default)]
    network: Vec<Interface>,
    time_zone: Option<TimeZone>,
    #[serde(default)]
    ntp: Vec<NtpServer>,
    keymap: Option<Keymap>,
    root_password_hash: Option<CryptHash>,
    password_hash: Option<PasswordHash>,
    #[serde(default, deserialize_with = "section")]
    install: Option<Install>,
}

/// A section that is named is there: nothing behind its name is a slip, and not that it is missing.
fn section<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Install>, D::Error> {
    Install::deserialize(from).map(Some)
}

impl TryFrom<UncheckedAnswers> for Answers {
    type Error = String;

    fn try_from(raw: UncheckedAnswers) -> Result<Self, String> {
        let UncheckedAnswers {
            role,
            hostname,
            network,
            time_zone,
            ntp,
            keymap,
            root_password_hash,
            password_hash,
            install,
        } = raw;
        together(&network)?;
        if install.is_some() && role == Role::Installer {
            return Err("role is installer, and that is what installs the others".into());
        }
        Ok(Self {
            role,
            hostname,
            network,
            time_zone,
            ntp,
            keymap,
            root_password_hash,
            password_hash,
            install,
        })
    }
}

fn not_a_host(gateway: IpAddr, hardware: &Hardware) -> String {
    format!("gateway {gateway} of {hardware} is not the address of a host")
}

/// Whether interfaces go together: no two claim the same card, VLAN or address, and gateways can be hosts. This is asked of answers
/// alone: a machine keeps the settings that it has, as long as each of its interfaces can be understood.
///
/// # Errors
/// They do not; the cause as a sentence's part.
pub fn together(network: &[Interface]) -> Result<(), String> {
    let (mut cards, mut vlans, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for Interface { hardware, vlan, addresses: cidrs, gateways, .. } in network {
        let used = match hardware {
            Hardware::Card(mac) => vec![Member::Mac(mac.clone())],
            Hardware::Bond(bond) => bond.members.clone(),
        };
        for card in used {
            if cards.contains(&card) {
                return Err(format!("network names {card} twice"));
            }
            cards.insert(card);
        }
        if let Some(vlan) = vlan.filter(|vlan| !vlans.insert(*vlan)) {
            return Err(format!("network names VLAN {vlan} twice"));
        }
        let is_no_host = |gateway: &&IpAddr| {
            cidrs.iter().any(|cidr| cidr.contains(**gateway) && !cidr.has_host(**gateway))
        };
        if let Some(gateway) = gateways.iter().find(is_no_host) {
            return Err(not_a_host(*gateway, hardware));
        }
        if let Some(cidr) = cidrs.iter().find(|cidr| !addresses.insert(cidr.address())) {
            return Err(format!("network names the address {} twice", cidr.address()));
        }
    }
    Ok(())
}

impl Answers {
    /// What a machine becomes that nobody told anything (docs/architecture/provisioning.md).
    pub fn unattended_default() -> Self {
        Self::for_role(Role::BackupServer)
    }

    /// Answers that name the role only.
    pub fn for_role(role: Role) -> Self {
        Self {
            role,
            hostname: None,
            network: Vec::new(),
            time_zone: None,
            ntp: Vec::new(),
            keymap: None,
            root_password_hash: None,
            password_hash: None,
            install: None,
        }
    }

    /// Reads an answer document.
    ///
    /// # Errors
    /// [`AnswersError::Document`] with field, line and cause; never with a hash that stands in the document.
    pub fn from_yaml(text: &str) -> Result<Self, AnswersError> {
        let mut field = None;
        serde_saphyr::with_deserializer_from_str(text, |deserializer| {
            serde_path_to_error::deserialize(deserializer).map_err(|error| {
                field = Some(error.path().to_string()).filter(|path| path != "." && path != "?");
                error.into_inner()
            })
        })
        .map_err(|error| describe(field.as_deref().unwrap_or("the document"), &error))
    }

    /// The document as YAML.
    ///
    /// # Errors
    /// [`AnswersError::Write`] if it cannot be represented.
    pub fn to_yaml(&self) -> Result<String, AnswersError> {
        serde_saphyr::to_string(self).map_err(|error| AnswersError::Write(error.to_string()))
    }
}

fn describe(field: &str, error: &serde_saphyr::Error) -> AnswersError {
    // Without the snippet: it quotes the document, which holds password hashes.
    let error = error.without_snippet();
    let place = match error.location() {
        Some(location) => format!("{field}, line {}", location.line()),
        None => field.to_owned(),
    };
    let text = error.to_string();
    // The first line ends with the place once more.
    let cause = text.lines().next().unwrap_or_default();
    let cause = in_words(cause.rsplit_once(" at line ").map_or(cause, |(cause, _)| cause));
    AnswersError::Document { place, cause }
}

/// What the parser says, in words of somebody who writes answers.
fn in_words(cause: &str) -> String {
    const WORDS: [(&str, &str); 5] = [
        ("expected mapping start", "a section belongs here: its fields indented below, or {} for none"),
        ("expected sequence start", "a list belongs here, such as [first, second]"),
        ("invalid IP address syntax", "an IP address belongs here, such as 192.0.2.7"),
        ("invalid boolean", "true or false belongs here"),
        ("unexpected end of input", "there is nothing in it; the role at least has to be"),
    ];
    if let Some((key, _)) =
        cause.strip_prefix("duplicate mapping key: ").and_then(|rest| rest.split_once(", set "))
    {
        return format!("{key} is given twice");
    }
    let known = WORDS.iter().find(|(said, _)| cause.starts_with(said));
    known.map_or_else(|| cause.to_owned(), |(_, words)| (*words).to_owned())
}

/// Why an answer document cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AnswersError {
    /// The document is malformed or a value is invalid.
    #[error("answers: {place}: {cause}")]
    Document {
        /// Field and line, such as `network[0].mac, line 3`.
        place: String,
        /// What is wrong.
        cause: String,
    },
    /// The document cannot be written.
    #[error("cannot write answers as YAML: {0}")]
    Write(String),
    /// The OEM string is not base64 of UTF-8 text.
    #[error("answers: the SMBIOS string after {prefix:?} is not base64 of a text: {cause}", prefix = crate::smbios::PREFIX)]
    Encoding {
        /// What is wrong.
        cause: String,
    },
    /// Several answer strings.
    #[error("answers: {0} SMBIOS strings carry answers, only one may")]
    Several(usize),
    /// The table is damaged where the answers are.
    #[error("answers: the SMBIOS table is damaged before the answers end")]
    Table,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGON: &str =
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$4GdCtpBqB9FCbZnRSQnVaZ4fnTcQ5iKTbs1UcGKwyxs";

    fn full() -> String {
        format!(
            r#"role: backup-server
hostname: backup1
network:
  - mac: "52:54:00:00:00:02"
    addresses: ["192.168.77.2/24", "2001:db8::2/64"]
    gateway: 192.168.77.1
    dns: [192.168.77.1]
  - mac: "52:54:00:00:00:03"
    vlan: 20
    addresses: ["10.0.0.2/8"]
time_zone: Europe/Berlin
ntp: [ntp.example.net, "fd00::7b"]
keymap: de-latin1-nodeadkeys
root_password_hash: "$6$salt${}"
password_hash: "{ARGON}"
install:
  disks:
    - model: EVO
      min_size: 400 GB
    - serial: S5
  then: poweroff
"#,
            "a".repeat(86)
        )
    }

    #[test]
    fn a_full_document_is_understood_and_survives_a_round_trip() {
        let answers = Answers::from_yaml(&full()).unwrap();
        assert_eq!(answers.role, Role::BackupServer);
        assert_eq!(answers.hostname.as_ref().unwrap().to_string(), "backup1");
        assert_eq!(answers.network.len(), 2);
        assert_eq!(answers.network[0].gateways, ["192.168.77.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(answers.password_hash.as_ref().unwrap().reveal(), ARGON);
        assert_eq!(answers.network[1].vlan.map(u16::from), Some(20));
        assert_eq!(answers.time_zone.as_ref().unwrap().to_string(), "Europe/Berlin");
        assert_eq!(answers.ntp[1].to_string(), "fd00::7b");
        assert_eq!(answers.keymap.as_ref().unwrap().to_string(), "de-latin1-nodeadkeys");
        let install = answers.install.as_ref().unwrap();
        assert_eq!((install.disks.len(), install.require_empty, install.dry_run), (2, true, false));
        assert_eq!(install.disks[0].min_size, Some(400_000_000_000));
        assert_eq!(Answers::from_yaml(&answers.to_yaml().unwrap()).unwrap(), answers);
    }

    #[test]
    fn one_gateway_stands_alone_and_two_in_a_list() {
        for (gateway, expected) in [("10.0.0.1", "10.0.0.1"), ("[10.0.0.1, 'fe80::1']", "10.0.0.1 fe80::1")] {
            let yaml = format!(
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.2/8, 'fd00::2/64']\n    \
                 gateway: {gateway}\n"
            );
            let answers = Answers::from_yaml(&yaml).unwrap();
            let found: Vec<String> = answers.network[0].gateways.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected);
            assert_eq!(Answers::from_yaml(&answers.to_yaml().unwrap()).unwrap(), answers);
        }
    }

    /// Answers with this list of interfaces.
    fn network(list: &str) -> Result<Answers, AnswersError> {
        Answers::from_yaml(&format!("role: monitor\nnetwork:\n{list}\n"))
    }

    #[test]
    fn what_providers_and_switches_ask_for_is_understood() {
        let table = [
            // What clouds and hosters hand out.
            "  - {mac: 52:54:00:00:00:01, addresses: [203.0.113.10/32], gateway: 172.31.1.1, on_link: true}",
            "  - {mac: 52:54:00:00:00:01, addresses: [203.0.113.10/32, '2001:db8::2/64'], gateway: [172.31.1.1, 'fe80::1'], on_link: true}",
            "  - {mac: 52:54:00:00:00:01, addresses: ['2001:db8:1::2/128'], gateway: '2001:db8::1', on_link: true}",
            "  - {mac: 52:54:00:00:00:01, addresses: [10.0.0.2/31], gateway: 10.0.0.3}",
            "  - {mac: 52:54:00:00:00:01, mtu: 1400}",
            "  - {mac: 52:54:00:00:00:01, mtu: 9000, addresses: [10.0.0.2/8]}",
            "  - {bond: {mode: active-backup, members: [52:54:00:00:00:01, eth1]}}",
            "  - {bond: {mode: 802.3ad, members: [eth0, eth1]}, vlan: 7, mtu: 9216, addresses: [10.0.0.2/8], gateway: 10.0.0.1}",
        ];
        for list in table {
            let answers = network(list).unwrap_or_else(|error| panic!("{list}: {error}"));
            assert_eq!(Answers::from_yaml(&answers.to_yaml().unwrap()).unwrap(), answers, "{list}");
            // As a machine stores it.
            let stored = serde_json::to_string(&answers.network).unwrap();
            assert_eq!(serde_json::from_str::<Vec<Interface>>(&stored).unwrap(), answers.network, "{list}");
        }
    }

    #[test]
    fn interfaces_that_make_no_sense_are_refused_with_the_reason() {
        let of_card = |rest: &str| format!("  - {{mac: 52:54:00:00:00:01, {rest}}}");
        let table = [
            (of_card("addresses: [203.0.113.10/32], gateway: 172.31.1.1"), "say that it is on the link (on_link)"),
            (of_card("addresses: [10.0.0.2/8], on_link: true"), "is about a gateway, and there is none"),
            (of_card("addresses: ['fd00::2/64'], gateway: 172.31.1.1, on_link: true"), "needs an address of its family"),
            (of_card("mtu: 1500, gateway: 10.0.0.1, on_link: true"), "needs an address of its family"),
            (of_card("addresses: [10.0.0.2/32], gateway: 10.0.0.2, on_link: true"), "is the interface's own address"),
            (of_card("addresses: [10.0.0.2/32], gateway: 0.0.0.0, on_link: true"), "is not the address of a host"),
            (of_card("addresses: [10.0.0.2/32], gateway: 224.0.0.1, on_link: true"), "is not the address of a host"),
            (of_card("addresses: [10.0.0.2/24], gateway: 10.0.0.255"), "is not the address of a host"),
            (of_card("addresses: [10.0.0.2/24], gateway: 10.0.0.0"), "is not the address of a host"),
            (of_card("addresses: [10.0.0.2/24, 10.0.0.2/8]"), "network names the address 10.0.0.2 twice"),
            (of_card("on_link: perhaps"), "true or false belongs here"),
            (of_card("mtu: 1279"), "1279 is not an MTU: 1280 to 9216 are"),
            (of_card("mtu: 9217"), "9217 is not an MTU: 1280 to 9216 are"),
            (of_card("mtu: 65536"), "is not an MTU: 1280 to 9216 are"),
            ("  - {addresses: [10.0.0.2/8]}".into(), "it has neither mac nor bond"),
            (of_card("bond: {mode: 802.3ad, members: [eth0, eth1]}"), "it has both mac 52:54:00:00:00:01 and bond"),
            ("  - bond: {mode: balance-rr, members: [eth0, eth1]}".into(), "unknown variant `balance-rr`"),
            ("  - bond: {mode: 802.3ad, members: [eth0]}".into(), "a bond has 2 to 8 members, and this one has 1"),
            ("  - bond: {mode: 802.3ad, members: [eth0, eth0]}".into(), "names its member eth0 twice"),
            (
                "  - bond: {mode: 802.3ad, members: [52:54:00:00:00:0A, 52-54-00-00-00-0a]}".into(),
                "names its member 52:54:00:00:00:0a twice",
            ),
            ("  - bond: {mode: 802.3ad, members: [eth0, 'eth*']}".into(), "\"eth*\" is neither a MAC address nor"),
            ("  - bond: {mode: 802.3ad, members: [eth0, bond0]}".into(), "\"bond0\" is neither a MAC address nor"),
            ("  - bond: {mode: 802.3ad, members: [eth0, lo]}".into(), "\"lo\" is neither a MAC address nor"),
            (
                format!("{}\n  - bond: {{mode: 802.3ad, members: [52:54:00:00:00:01, eth1]}}", of_card("mtu: 1500")),
                "network names 52:54:00:00:00:01 twice",
            ),
            (
                "  - bond: {mode: 802.3ad, members: [eth0, eth1]}\n  - bond: {mode: 802.3ad, members: [eth1, eth2]}".into(),
                "network names eth1 twice",
            ),
            (
                format!(
                    "{}\n  - {{mac: 52:54:00:00:00:02, addresses: [10.0.0.2/24]}}",
                    of_card("addresses: [10.0.0.2/8]")
                ),
                "network names the address 10.0.0.2 twice",
            ),
        ];
        for (list, cause) in table {
            let error = network(&list).unwrap_err().to_string();
            assert!(error.contains(cause), "{list}: {error}");
        }
    }

    #[test]
    fn what_a_machine_has_stored_stays_understood() {
        for stored in [
            r#"[{"mac":"52:54:00:00:00:01","addresses":["10.0.0.2/24","10.0.0.2/8"]}]"#,
            r#"[{"mac":"52:54:00:00:00:01","addresses":["10.0.0.2/24"],"gateway":["10.0.0.255"]}]"#,
        ] {
            let interfaces = serde_json::from_str::<Vec<Interface>>(stored).unwrap();
            assert!(together(&interfaces).is_err(), "{stored}");
        }
    }

    #[test]
    fn the_role_alone_is_enough() {
        for role in [Role::BackupServer, Role::Monitor, Role::MonitorRecovery, Role::Installer] {
            let answers = Answers::from_yaml(&format!("role: {}", role.name())).unwrap();
            assert_eq!(answers, Answers::for_role(role));
        }
    }

    #[test]
    fn a_wrong_document_is_refused_with_field_line_and_cause() {
        let table = [
            ("", "answers: the document, line ", "the role at least"),
            ("hostname: a\n", "answers: the document, line 1", "missing field `role`"),
            ("role: mainframe\n", "answers: role, line 1", "unknown variant `mainframe`"),
            ("role: monitor\nhostnam: a\n", "answers: hostnam, line 2", "unknown field `hostnam`"),
            ("role: monitor\nhostname: a b\n", "answers: hostname, line 2", "\"a b\" is no host name"),
            ("role: monitor\nrole: monitor\n", "line 2", "role is given twice"),
            ("role: monitor\ninstall:\n", "answers: install, line 2", "a section belongs here"),
            ("role: monitor\nntp: pool.ntp.org\n", "answers: ntp, line 2", "a list belongs here"),
            (
                "role: monitor\ninstall: {dry_run: maybe}\n",
                "answers: install.dry_run, line 2",
                "true or false belongs here",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00\n    addresses: [10.0.0.1/8]\n",
                "answers: network[0].mac, line 3",
                "is no MAC address",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1]\n",
                "answers: network[0].addresses[0], line 4",
                "is no address with prefix length",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: []\n",
                "answers: network[0], line 3",
                "has no addresses; leave the interface out",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1/8]\n    gateway: 11.0.0.1\n",
                "answers: network[0], line 3",
                "gateway 11.0.0.1 of 52:54:00:00:00:01 lies in no network of its addresses",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1/8]\n    gateway: 10.0.0.1\n",
                "answers: network[0], line 3",
                "is the interface's own address",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1/8]\n    \
                 gateway: [10.0.0.2, 10.0.0.3]\n",
                "answers: network[0], line 3",
                "gateway of 52:54:00:00:00:01: one of IPv4 and one of IPv6, and no more",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1/8]\n    gateway: gw\n",
                "answers: network[0].gateway, line 5",
                "\"gw\" is no IP address",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1/8]\n    dns: [ns]\n",
                "answers: network[0].dns[0], line 5",
                "an IP address belongs here",
            ),
            (
                "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1/8]\n  \
                 - mac: 52-54-00-00-00-01\n    addresses: [10.0.0.2/8]\n",
                "answers: the document: ",
                "network names 52:54:00:00:00:01 twice",
            ),
            (
                "role: monitor\nnetwork:\n  - {mac: 52:54:00:00:00:01, vlan: 5}\n  - {mac: 52:54:00:00:00:02, vlan: 5}\n",
                "answers: the document: ",
                "network names VLAN 5 twice",
            ),
            (
                "role: monitor\nnetwork:\n  - {mac: 52:54:00:00:00:01, vlan: 4095}\n",
                "answers: network[0].vlan, line 3",
                "4095 is no VLAN: 1 to 4094 are",
            ),
            (
                "role: monitor\ntime_zone: Mars/Base\n",
                "answers: time_zone, line 2",
                "\"Mars/Base\" is no time zone",
            ),
            ("role: monitor\nntp: [\"a b\"]\n", "answers: ntp[0], line 2", "\"a b\" is neither an address"),
            ("role: monitor\nkeymap: /tmp/map\n", "answers: keymap, line 2", "is no keymap"),
            (
                "role: monitor\ninstall:\n  disks:\n    - {serial: A, modle: B}\n",
                "answers: install.disks[0].modle, line 4",
                "unknown field `modle`",
            ),
            (
                "role: monitor\ninstall:\n  disks: [{}]\n",
                "answers: install, line 3",
                "disks[0] says nothing, so it would be about every disk",
            ),
            (
                "role: monitor\ninstall:\n  disks: [{min_size: 400}]\n",
                "answers: install, line 3",
                "disks[0]: min_size is 400 bytes; write it with its unit, such as `400 GB`",
            ),
            (
                "role: monitor\ninstall:\n  disks: [{min_size: 900 GB, max_size: 200 GB}]\n",
                "answers: install, line 3",
                "disks[0]: min_size is larger than max_size, so no disk is meant",
            ),
            (
                "role: monitor\ninstall:\n  disks: [{serial: ''}]\n",
                "answers: install, line 3",
                "disks[0]: serial is empty; leave it out",
            ),
            (
                "role: monitor\ninstall:\n  disks: [{path: sda}]\n",
                "answers: install, line 3",
                "disks[0]: path \"sda\" is not a device file, such as /dev/sda",
            ),
            (
                "role: monitor\ninstall:\n  require_empty: false\n",
                "answers: install, line 3",
                "require_empty: false needs disks that name what is erased",
            ),
            (
                "role: monitor\ninstall:\n  then: dance\n",
                "answers: install.then, line 3",
                "unknown variant `dance`",
            ),
            ("role: installer\ninstall: {}\n", "answers: the document: ", "role is installer"),
            ("role: [monitor\n", "answers: ", ""),
            ("role: monitor\n---\nrole: monitor\n", "answers: the document", ""),
        ];
        for (text, place, cause) in table {
            let error = Answers::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(place), "{text:?}: {error}");
            assert!(error.contains(cause), "{text:?}: {error}");
        }
    }

    #[test]
    fn an_error_never_quotes_a_secret() {
        let table = [
            "role: monitor\nroot_password_hash: hunter2\n",
            "role: monitor\npassword_hash: hunter2\n",
            "role: monitor\npassword_hash: [hunter2]\n",
            "role: monitor\nroot_password_hash: {hunter2: 1}\n",
            "role: monitor\nroot_password_hash: \"hunter2\"\nwrong: 1\n",
        ];
        for text in table {
            let error = Answers::from_yaml(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
