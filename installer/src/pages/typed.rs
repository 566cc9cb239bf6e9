//! From what was typed to answers. Each check names the field, so that the page can go there.

use std::str::FromStr;

use auth::DEFAULT_PASSWORD;
use provisioning::answers::{Bond, Hardware, Interface};
use provisioning::values::{BondMode, HostName, Keymap, Mac, Member, Mtu, NtpServer, TimeZone, VlanId};
use provisioning::{Answers, Role};
use screen::{Field, Form, Typed};

use crate::links::{self, Link};

/// Labels of the fields.
pub const HOST_NAME: &str = "Host name";
const TIME_ZONE: &str = "Time zone";
const NTP: &str = "NTP servers";
const KEYMAP: &str = "Keyboard";
const VLAN: &str = "VLAN";
const ADDRESSES: &str = "Addresses";
const GATEWAY: &str = "Gateway";
const ON_LINK: &str = "Gateway on link";
const DNS: &str = "Name servers";
const MTU: &str = "MTU";
const MEMBERS: &str = "Cards";
const MODE: &str = "Mode";
const CONSOLE: &str = "Console password";
const CONSOLE_AGAIN: &str = "The same again";
const NETWORK: &str = "Password of backup";
const NETWORK_AGAIN: &str = "And again";

/// Characters that a password has at least.
const PASSWORD_CHARACTERS: usize = crate::hash::LEAST;

/// A field that is wrong, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its label.
    pub label: &'static str,
    /// Why, as a sentence.
    pub cause: String,
}

/// What the page about the system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Host name.
    pub host_name: HostName,
    /// Time zone; none: UTC.
    pub time_zone: Option<TimeZone>,
    /// NTP servers.
    pub ntp: Vec<NtpServer>,
    /// Keymap; none: `us`.
    pub keymap: Option<Keymap>,
}

/// The passwords; `None`: the answers have a hash already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passwords {
    /// root's at the console.
    pub console: Option<Typed>,
    /// That of user `backup`, for API and FTP.
    pub network: Option<Typed>,
}

fn wrong(label: &'static str) -> impl Fn(String) -> Wrong {
    move |cause| Wrong { label, cause }
}

/// Values that are separated by commas or spaces.
fn list<T: FromStr>(form: &Form, label: &'static str, what: &str) -> Result<Vec<T>, Wrong> {
    let parts = form.value(label).split([',', ' ']).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(|_| wrong(label)(format!("{part:?} is no {what}.")))).collect()
}

/// A value, or nothing.
fn optional<T: FromStr<Err = String>>(form: &Form, label: &'static str) -> Result<Option<T>, Wrong> {
    match form.value(label) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(wrong(label)),
    }
}

fn joined(parts: impl IntoIterator<Item = impl ToString>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}

fn shown(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// The page about an interface.
pub fn interface_form(interface: Option<&Interface>) -> Form {
    Form::new(interface_fields(interface))
}

fn interface_fields(interface: Option<&Interface>) -> Vec<Field> {
    let of = |text: fn(&Interface) -> String| interface.map(text).unwrap_or_default();
    vec![
        Field::new(
            ADDRESSES,
            "Such as 192.168.77.2/24, fd00::2/64. Empty: DHCP and IPv6 autoconfiguration.",
            of(|interface| joined(&interface.addresses)),
        ),
        Field::new(
            GATEWAY,
            "Its address, or one of IPv4 and one of IPv6; empty: none.",
            of(|interface| joined(&interface.gateways)),
        ),
        Field::new(
            ON_LINK,
            "yes, if the provider's gateway is in no network of the addresses; empty: no.",
            of(|interface| if interface.on_link { "yes".into() } else { String::new() }),
        ),
        Field::new(
            DNS,
            "Their addresses, with commas between; empty: none.",
            of(|interface| joined(&interface.dns)),
        ),
        Field::new(
            VLAN,
            "Its number, 1 to 4094; empty: none.",
            of(|interface| shown(interface.vlan.as_ref())),
        ),
        Field::new(
            MTU,
            "Bytes of the largest packet, 1280 to 9216; empty: as the driver has it.",
            of(|interface| shown(interface.mtu.as_ref())),
        ),
    ]
}

/// What the page about an interface says; `None`: it uses DHCP.
///
/// # Errors
/// A field is wrong.
pub fn interface(mac: &Mac, form: &Form) -> Result<Option<Interface>, Wrong> {
    let interface = settings(form, Hardware::Card(mac.clone()))?;
    let Interface { vlan, mtu, addresses, .. } = &interface;
    let uses_dhcp = addresses.is_empty() && vlan.is_none() && mtu.is_none();
    if uses_dhcp { Ok(None) } else { interface.checked().map(Some).map_err(wrong(GATEWAY)) }
}

/// What the page about a card or a bond says of its network.
fn settings(form: &Form, hardware: Hardware) -> Result<Interface, Wrong> {
    let addresses: Vec<_> = list(form, ADDRESSES, "address with prefix length such as 192.168.77.2/24")?;
    let dns: Vec<_> = list(form, DNS, "address")?;
    let gateways: Vec<_> = list(form, GATEWAY, "address")?;
    let on_link = match form.value(ON_LINK).to_ascii_lowercase().as_str() {
        "" | "no" => false,
        "yes" => true,
        other => return Err(wrong(ON_LINK)(format!("{other:?} is neither yes nor no."))),
    };
    let (vlan, mtu) = (optional::<VlanId>(form, VLAN)?, optional::<Mtu>(form, MTU)?);
    if addresses.is_empty() && (!gateways.is_empty() || !dns.is_empty() || on_link) {
        return Err(wrong(ADDRESSES)("A gateway and name servers need an address beside them.".into()));
    }
    Ok(Interface { hardware, vlan, mtu, addresses, gateways, on_link, dns })
}

/// The page about a bond of cards, which are called by the names that they have here.
pub fn bond_form(interface: Option<&Interface>, cards: &[Link]) -> Form {
    let name = |member: &Member| {
        links::found(member, cards).map_or_else(|| member.to_string(), |link| link.name.clone())
    };
    let bond = interface.and_then(Interface::bond);
    let members = bond.map(|bond| joined(bond.members.iter().map(name)));
    let mode = bond.map_or(BondMode::ActiveBackup, |bond| bond.mode);
    let mut fields = vec![
        Field::new(
            MEMBERS,
            "Two or more, with commas between, such as enp1s0, enp2s0. Empty: no bond.",
            members.unwrap_or_default(),
        ),
        Field::new(
            MODE,
            "active-backup goes with any switch; 802.3ad (LACP) has to be set up there too.",
            mode.to_string(),
        ),
    ];
    fields.extend(interface_fields(interface));
    Form::new(fields)
}

/// What the page about a bond says; `None`: there is none.
///
/// # Errors
/// A field is wrong, or a card is not there.
pub fn bond(form: &Form, cards: &[Link]) -> Result<Option<Interface>, Wrong> {
    let named: Vec<Member> = list(form, MEMBERS, "network card")?;
    if named.is_empty() {
        return Ok(None);
    }
    let there = |member: Member| match links::found(&member, cards) {
        Some(link) => Ok(Member::Mac(link.mac.clone())),
        None => Err(wrong(MEMBERS)(format!("{member} is not a network card of this machine."))),
    };
    let members = named.into_iter().map(there).collect::<Result<_, _>>()?;
    let mode = form.value(MODE).parse().map_err(wrong(MODE))?;
    let bond = Bond::checked(mode, members).map_err(wrong(MEMBERS))?;
    settings(form, Hardware::Bond(bond))?.checked().map(Some).map_err(wrong(GATEWAY))
}

/// The page about the system.
pub fn system_form(given: &Answers, role: Role) -> Form {
    let host_name = given.hostname.as_ref().map_or_else(|| role.name().to_owned(), ToString::to_string);
    Form::new(vec![
        Field::new(HOST_NAME, "Letters, digits and hyphens.", host_name),
        Field::new(TIME_ZONE, "Such as Europe/Berlin; empty: UTC.", shown(given.time_zone.as_ref())),
        Field::new(
            NTP,
            "Addresses or names, with commas between; empty: those that DHCP names, and Debian's.",
            joined(&given.ntp),
        ),
        Field::new(
            KEYMAP,
            "Such as us, uk, de-latin1-nodeadkeys or fr-latin9; empty: us. It is in force from here on.",
            shown(given.keymap.as_ref()),
        ),
    ])
}

/// What the page about the system says.
///
/// # Errors
/// A field is wrong.
pub fn system(form: &Form) -> Result<System, Wrong> {
    Ok(System {
        host_name: form.value(HOST_NAME).parse().map_err(wrong(HOST_NAME))?,
        time_zone: optional(form, TIME_ZONE)?,
        ntp: list(form, NTP, "address or name of a server")?,
        keymap: optional(form, KEYMAP)?,
    })
}

/// The page for passwords, with those that were typed before.
pub fn passwords_form(given: &Answers, role: Role, typed: &Passwords) -> Form {
    let before = |typed: &Option<Typed>| typed.as_ref().map(|typed| typed.0.clone()).unwrap_or_default();
    let (of_console, of_network) = (before(&typed.console), before(&typed.network));
    let console = match given.root_password_hash {
        Some(_) => "Of root, at this machine's own console. Empty: the one that the answers have.",
        None => "Of root, at this machine's own console. At least 8 characters.",
    };
    let mut fields = vec![
        Field::secret(CONSOLE, console, of_console.clone()),
        Field::secret(CONSOLE_AGAIN, "The same, so that no slip locks you out.", of_console),
    ];
    if role == Role::BackupServer {
        let network = match given.password_hash {
            Some(_) => {
                "With it the monitor pairs and backups are fetched. Empty: the one that the answers have."
            }
            None => "With it the monitor pairs and backups are fetched. At least 8 characters.",
        };
        fields.push(Field::secret(NETWORK, network, of_network.clone()));
        fields.push(Field::secret(NETWORK_AGAIN, "The same, so that no slip locks you out.", of_network));
    }
    Form::new(fields)
}

/// What the page for passwords says.
///
/// # Errors
/// A field is wrong.
pub fn passwords(form: &Form, given: &Answers, role: Role) -> Result<Passwords, Wrong> {
    let console = password(form, CONSOLE, CONSOLE_AGAIN, given.root_password_hash.is_some())?;
    let network = match role {
        Role::BackupServer => password(form, NETWORK, NETWORK_AGAIN, given.password_hash.is_some())?,
        _ => None,
    };
    Ok(Passwords { console, network })
}

fn password(
    form: &Form,
    label: &'static str,
    again: &'static str,
    is_given: bool,
) -> Result<Option<Typed>, Wrong> {
    let (text, repeated) = (form.value(label), form.value(again));
    if text.is_empty() && repeated.is_empty() && is_given {
        return Ok(None);
    }
    if text == DEFAULT_PASSWORD {
        return Err(wrong(label)("This is the password that everybody tries first.".into()));
    }
    if text.chars().count() < PASSWORD_CHARACTERS {
        return Err(wrong(label)(format!("A password has at least {PASSWORD_CHARACTERS} characters.")));
    }
    if text != repeated {
        return Err(wrong(again)("The two differ.".into()));
    }
    Ok(Some(Typed(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use screen::ratatui::crossterm::event::KeyCode;

    /// A form whose fields say this from the first to the last.
    fn filled(mut form: Form, texts: &[&str]) -> Form {
        for text in texts {
            let typed = text.chars().map(KeyCode::Char);
            for key in [KeyCode::Backspace; 60].into_iter().chain(typed).chain([KeyCode::Tab]) {
                form.key(key);
            }
        }
        form
    }

    #[test]
    fn an_interface_is_what_was_typed() {
        let mac: Mac = "52:54:00:00:00:01".parse().unwrap();
        type Expected<'e> = Result<&'e str, (&'e str, &'e str)>;
        let table: [(&[&str], Expected<'_>); 16] = [
            (&["", "", "", "", "", ""], Ok("DHCP")),
            (
                &["203.0.113.10/32", "172.31.1.1", "yes"],
                Ok("203.0.113.10/32 via 172.31.1.1 on link dns  vlan "),
            ),
            (&["203.0.113.10/32", "172.31.1.1", ""], Err((GATEWAY, "say that it is on the link"))),
            (&["203.0.113.10/32", "172.31.1.1", "maybe"], Err((ON_LINK, "neither yes nor no"))),
            (&["", "", "yes"], Err((ADDRESSES, "need an address"))),
            (&["", "", "", "", "", "9000"], Ok(" via  dns  vlan  mtu 9000")),
            (&["10.0.0.2/8", "", "", "", "", "100"], Err((MTU, "100 is not an MTU: 1280 to 9216 are"))),
            (&["10.0.0.2/8", "", "", ""], Ok("10.0.0.2/8 via  dns  vlan ")),
            (
                &["10.0.0.2/8, fd00::2/64", "10.0.0.1", "", "10.0.0.1 fd00::1", "20"],
                Ok("10.0.0.2/8, fd00::2/64 via 10.0.0.1 dns 10.0.0.1, fd00::1 vlan 20"),
            ),
            (&["", "", "", "", "20"], Ok(" via  dns  vlan 20")),
            (
                &["10.0.0.2/8, fd00::2/64", "10.0.0.1 fe80::1", "", ""],
                Ok("10.0.0.2/8, fd00::2/64 via 10.0.0.1, fe80::1 dns  vlan "),
            ),
            (&["10.0.0.2/8", "10.0.0.1 10.0.0.3", "", ""], Err((GATEWAY, "one of IPv4 and one of IPv6"))),
            (&["10.0.0.2", "", "", ""], Err((ADDRESSES, "\"10.0.0.2\" is no address with prefix"))),
            (&["10.0.0.2/8", "11.0.0.1", "", ""], Err((GATEWAY, "lies in no network"))),
            (&["", "10.0.0.1", "", ""], Err((ADDRESSES, "need an address"))),
            (&["10.0.0.2/8", "", "", "", "5000"], Err((VLAN, "5000 is no VLAN"))),
        ];
        for (texts, expected) in table {
            let found = interface(&mac, &filled(interface_form(None), texts));
            match (found, expected) {
                (Ok(None), Ok("DHCP")) => {}
                (Ok(Some(interface)), Ok(expected)) => {
                    let Interface { vlan, mtu, addresses, gateways, on_link, dns, .. } = &interface;
                    let shown = format!(
                        "{} via {}{} dns {} vlan {}{}",
                        joined(addresses),
                        joined(gateways),
                        if *on_link { " on link" } else { "" },
                        joined(dns),
                        shown(vlan.as_ref()),
                        mtu.map_or(String::new(), |mtu| format!(" mtu {mtu}"))
                    );
                    assert_eq!(shown, expected);
                    // The page that is opened again says the same.
                    assert_eq!(
                        super::interface(&mac, &interface_form(Some(&interface))).unwrap().unwrap(),
                        interface
                    );
                }
                (Err(wrong), Err((label, cause))) => {
                    assert_eq!(wrong.label, label);
                    assert!(wrong.cause.contains(cause), "{wrong:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_bond_is_what_was_typed() {
        let card = |name: &str, mac: &str| Link {
            name: name.into(),
            mac: mac.parse().unwrap(),
            carrier: None,
            driver: String::new(),
        };
        let cards = [card("enp1s0", "52:54:00:00:00:01"), card("enp2s0", "52:54:00:00:00:02")];
        type Expected<'e> = Result<&'e str, (&'e str, &'e str)>;
        let table: [(&[&str], Expected<'_>); 8] = [
            (&["", "802.3ad"], Ok("none")),
            (
                &["enp1s0 enp2s0", "802.3AD", "10.0.0.2/8"],
                Ok("the bond of 52:54:00:00:00:01 and 52:54:00:00:00:02, 802.3ad"),
            ),
            (
                &["52-54-00-00-00-02, enp1s0", "active-backup", "", "", "", "", "", "9000"],
                Ok("the bond of 52:54:00:00:00:02 and 52:54:00:00:00:01, active-backup"),
            ),
            (&["enp1s0", "802.3ad"], Err((MEMBERS, "a bond has 2 to 8 members"))),
            (&["enp1s0, 52:54:00:00:00:01", "802.3ad"], Err((MEMBERS, "twice"))),
            (&["enp1s0, enp7s0", "802.3ad"], Err((MEMBERS, "enp7s0 is not a network card of this machine"))),
            (&["enp1s0, enp2s0", "balance-rr"], Err((MODE, "active-backup and 802.3ad are"))),
            (&["enp1s0, enp2s0", "802.3ad", "10.0.0.2/8", "11.0.0.1"], Err((GATEWAY, "lies in no network"))),
        ];
        for (texts, expected) in table {
            match (bond(&filled(bond_form(None, &cards), texts), &cards), expected) {
                (Ok(None), Ok("none")) => {}
                (Ok(Some(interface)), Ok(expected)) => {
                    let mode = interface.bond().unwrap().mode;
                    assert_eq!(format!("{}, {mode}", interface.hardware), expected);
                    // The page that is opened again says the same.
                    assert_eq!(
                        bond(&bond_form(Some(&interface), &cards), &cards).unwrap().unwrap(),
                        interface
                    );
                }
                (Err(wrong), Err((label, cause))) => {
                    assert_eq!(wrong.label, label);
                    assert!(wrong.cause.contains(cause), "{wrong:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_system_is_what_was_typed() {
        let given = Answers::for_role(Role::Monitor);
        let form = || system_form(&given, Role::Monitor);
        assert_eq!(system(&form()).unwrap().host_name.to_string(), "monitor");
        let filled_in = filled(form(), &["Backup-1", "europe/berlin", "10.0.0.1, pool.ntp.org", "de-latin1"]);
        let System { host_name, time_zone, ntp, keymap } = system(&filled_in).unwrap();
        assert_eq!(
            (host_name.to_string(), shown(time_zone.as_ref()), joined(&ntp), shown(keymap.as_ref())),
            ("backup-1".into(), "Europe/Berlin".into(), "10.0.0.1, pool.ntp.org".into(), "de-latin1".into())
        );
        for (texts, label) in [
            (["a b", "", "", ""], HOST_NAME),
            (["a", "Mars", "", ""], TIME_ZONE),
            (["a", "", "a..b", ""], NTP),
            (["a", "", "", "/etc"], KEYMAP),
        ] {
            assert_eq!(system(&filled(form(), &texts)).unwrap_err().label, label);
        }
    }

    #[test]
    fn passwords_are_long_enough_and_typed_twice() {
        let given = Answers::for_role(Role::BackupServer);
        let typed = |texts: &[&str]| {
            let form = filled(passwords_form(&given, Role::BackupServer, &Passwords::default()), texts);
            passwords(&form, &given, Role::BackupServer).map_err(|wrong| wrong.label)
        };
        let good = typed(&["console-1", "console-1", "network-1", "network-1"]).unwrap();
        assert_eq!(
            (good.console.unwrap().0, good.network.unwrap().0),
            ("console-1".into(), "network-1".into())
        );
        for (texts, label) in [
            (["short", "short", "", ""], CONSOLE),
            (["", "", "", ""], CONSOLE),
            (["console-1", "console-2", "", ""], CONSOLE_AGAIN),
            (["console-1", "console-1", "backup", "backup"], NETWORK),
            (["console-1", "console-1", "network-1", ""], NETWORK_AGAIN),
        ] {
            assert_eq!(typed(&texts).unwrap_err(), label);
        }
        let mut given = Answers::for_role(Role::Monitor);
        given.root_password_hash = Some(format!("$6$salt${}", "a".repeat(86)).parse().unwrap());
        // The page that is opened again has them.
        let before = Passwords { console: Some(Typed("console-1".into())), network: None };
        let form = passwords_form(&given, Role::Monitor, &before);
        assert_eq!(passwords(&form, &given, Role::Monitor).unwrap(), before);
        let form = passwords_form(&given, Role::Monitor, &Passwords::default());
        assert_eq!(passwords(&form, &given, Role::Monitor).unwrap(), Passwords::default());
    }
}
