//! Network settings as systemd-networkd reads them (systemd.network(5), systemd.netdev(5)).
//!
//! An interface is a card, or a bond of cards; either may carry a VLAN. Each layer has its own file: `10-` the cards, `15-` bonds,
//! `20-` VLANs, `90-` all other cards. The first file that matches counts, so that a card in a bond is never given DHCP.

use std::net::IpAddr;

use crate::answers::{Bond, Hardware, Interface};
use crate::values::{BondMode, Member};

/// A file for `/run/systemd/network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFile {
    /// File name.
    pub name: String,
    /// Contents.
    pub text: String,
}

/// Settings of an interface that is told all by the network; its host name is the machine's own matter.
const DHCP_SETTINGS: &str = "\
DHCP=yes
IPv6AcceptRA=yes

[DHCPv4]
UseHostname=no

[DHCPv6]
UseHostname=no
";

/// Every Ethernet interface that has no file of its own. `Kind=!*` leaves out bridges, VLANs and the like, which carry a
/// physical interface's address.
const EVERY_OTHER: &str = "\
[Match]
Type=ether
Kind=!*

[Network]
";

/// The files for these interfaces, and the one for all others.
pub fn render(interfaces: &[Interface]) -> Vec<NetworkFile> {
    let mut bonds = 0..;
    let mut files = Vec::new();
    for interface in interfaces {
        match &interface.hardware {
            Hardware::Card(mac) => {
                let name = format!("10-infimonitor-{}.network", mac.to_string().replace(':', ""));
                files.extend(with_vlan(name, &format!("MACAddress={mac}\nKind=!*"), interface));
            }
            Hardware::Bond(bond) => {
                // The range has no end.
                let name = format!("bond{}", bonds.next().unwrap_or_default());
                files.extend(bond_files(&name, bond));
                let own = format!("15-infimonitor-{name}.network");
                files.extend(with_vlan(own, &format!("Name={name}"), interface));
            }
        }
    }
    files.push(NetworkFile {
        name: "90-infimonitor-dhcp.network".into(),
        text: format!("{EVERY_OTHER}{DHCP_SETTINGS}"),
    });
    files
}

/// A bond's device, and a file for each of its cards.
fn bond_files(name: &str, bond: &Bond) -> Vec<NetworkFile> {
    let mut files = Vec::new();
    for member in &bond.members {
        // In a bond all cards show the bond's address, which is that of the first one here: each of them still finds a file of
        // this bond.
        let (own, matched) = match member {
            Member::Mac(mac) => (mac.to_string().replace(':', ""), format!("MACAddress={mac}")),
            Member::Name(name) => (name.clone(), format!("Name={name}")),
        };
        files.push(NetworkFile {
            name: format!("10-infimonitor-{own}.network"),
            text: format!("[Match]\n{matched}\nKind=!*\n\n[Network]\nBond={name}\n"),
        });
    }
    let first = bond.members.iter().find_map(|member| match member {
        Member::Mac(mac) => Some(format!("MACAddress={mac}\n")),
        Member::Name(_) => None,
    });
    // A link is looked at every 100 ms: the kernel does not look at all by itself. By address and port several downloads use
    // several cards.
    let shared = match bond.mode {
        BondMode::ActiveBackup => "",
        BondMode::Lacp => "TransmitHashPolicy=layer3+4\n",
    };
    files.push(NetworkFile {
        name: format!("15-infimonitor-{name}.netdev"),
        text: format!(
            "[NetDev]\nName={name}\nKind=bond\n{}\n[Bond]\nMode={}\nMIIMonitorSec=100ms\n{shared}",
            first.unwrap_or_default(),
            bond.mode
        ),
    });
    files
}

/// The file of a card or a bond; where it carries a VLAN, also the VLAN's device and its file.
fn with_vlan(own: String, matched: &str, interface: &Interface) -> Vec<NetworkFile> {
    let mtu = interface.mtu.map_or(String::new(), |mtu| format!("[Link]\nMTUBytes={mtu}\n\n"));
    let matched = format!("[Match]\n{matched}\n\n{mtu}[Network]\n");
    let Some(vlan) = interface.vlan else {
        return vec![NetworkFile { name: own, text: matched + &settings(interface) }];
    };
    let device = format!("vlan{vlan}");
    vec![
        NetworkFile {
            name: own,
            text: format!("{matched}VLAN={device}\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"),
        },
        NetworkFile {
            name: format!("20-infimonitor-{device}.netdev"),
            text: format!("[NetDev]\nName={device}\nKind=vlan\n\n[VLAN]\nId={vlan}\n"),
        },
        NetworkFile {
            name: format!("20-infimonitor-{device}.network"),
            text: format!("[Match]\nName={device}\n\n{mtu}[Network]\n{}", settings(interface)),
        },
    ]
}

/// Addresses as told and nothing else, without DHCP and router advertisements; or DHCP where no addresses were told.
fn settings(interface: &Interface) -> String {
    let Interface { addresses, gateways, dns, .. } = interface;
    if addresses.is_empty() {
        return DHCP_SETTINGS.to_owned();
    }
    // A gateway outside of the addresses' networks has to be said to be on the link (RFC 8200 lets link-local ones be so).
    let is_outside =
        |gateway: &IpAddr| interface.on_link && !addresses.iter().any(|cidr| cidr.contains(*gateway));
    let (outside, inside): (Vec<&IpAddr>, Vec<&IpAddr>) =
        gateways.iter().partition(|gateway| is_outside(gateway));
    let lines = ["DHCP=no".to_owned(), "IPv6AcceptRA=no".to_owned()]
        .into_iter()
        .chain(addresses.iter().map(|cidr| format!("Address={cidr}")))
        .chain(inside.iter().map(|gateway| format!("Gateway={gateway}")))
        .chain(dns.iter().map(|server| format!("DNS={server}")))
        .map(|line| line + "\n");
    let routes = outside.iter().map(|gateway| format!("\n[Route]\nGateway={gateway}\nGatewayOnLink=yes\n"));
    lines.chain(routes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::Answers;

    #[test]
    fn without_settings_every_interface_uses_dhcp() {
        let files = render(&[]);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].name, "90-infimonitor-dhcp.network");
        assert!(files[0].text.contains("\nDHCP=yes\n"));
    }

    #[test]
    fn a_named_interface_gets_exactly_its_settings() {
        let answers = Answers::from_yaml(
            "role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:0A\n    addresses: [192.168.77.2/24, 'fd00::2/64']\n    \
             gateway: 192.168.77.1\n    dns: [192.168.77.1, 'fd00::1']\n",
        )
        .unwrap();
        let files = render(&answers.network);
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].name, "10-infimonitor-52540000000a.network");
        assert_eq!(
            files[0].text,
            "[Match]\nMACAddress=52:54:00:00:00:0a\nKind=!*\n\n\
             [Network]\nDHCP=no\nIPv6AcceptRA=no\nAddress=192.168.77.2/24\nAddress=fd00::2/64\n\
             Gateway=192.168.77.1\nDNS=192.168.77.1\nDNS=fd00::1\n"
        );
    }

    #[test]
    fn a_vlan_has_a_device_and_the_interface_carries_nothing_else() {
        let answers = |rest: &str| {
            let yaml = format!("role: monitor\nnetwork:\n  - mac: 52:54:00:00:00:0A\n    vlan: 20\n{rest}");
            render(&Answers::from_yaml(&yaml).unwrap().network)
        };
        let files = answers("    addresses: [192.168.77.2/24]\n");
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "10-infimonitor-52540000000a.network",
                "20-infimonitor-vlan20.netdev",
                "20-infimonitor-vlan20.network",
                "90-infimonitor-dhcp.network"
            ]
        );
        assert!(files[0].text.ends_with("VLAN=vlan20\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"));
        assert_eq!(files[1].text, "[NetDev]\nName=vlan20\nKind=vlan\n\n[VLAN]\nId=20\n");
        assert_eq!(
            files[2].text,
            "[Match]\nName=vlan20\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nAddress=192.168.77.2/24\n"
        );
        assert!(answers("")[2].text.contains("[Network]\nDHCP=yes\n"));
    }

    /// The files of one interface, without the one for all others, as `name: text`.
    fn files(interface: &str) -> Vec<(String, String)> {
        let yaml = format!("role: monitor\nnetwork:\n  - {interface}\n");
        let mut files = render(&Answers::from_yaml(&yaml).unwrap().network);
        assert_eq!(files.pop().unwrap().name, "90-infimonitor-dhcp.network");
        files.into_iter().map(|file| (file.name, file.text)).collect()
    }

    #[test]
    fn a_gateway_outside_of_the_networks_is_on_the_link() {
        let table = [
            (
                "{mac: 52:54:00:00:00:01, addresses: [203.0.113.10/32], gateway: 172.31.1.1, on_link: true, dns: [9.9.9.9]}",
                "Address=203.0.113.10/32\nDNS=9.9.9.9\n\n[Route]\nGateway=172.31.1.1\nGatewayOnLink=yes\n",
            ),
            (
                "{mac: 52:54:00:00:00:01, addresses: [203.0.113.10/32, 'fd00::2/64'], gateway: [172.31.1.1, 'fd00::1'], \
                 on_link: true}",
                "Address=203.0.113.10/32\nAddress=fd00::2/64\nGateway=fd00::1\n\n\
                 [Route]\nGateway=172.31.1.1\nGatewayOnLink=yes\n",
            ),
            (
                "{mac: 52:54:00:00:00:01, addresses: [10.0.0.2/8], gateway: 10.0.0.1, on_link: true}",
                "Address=10.0.0.2/8\nGateway=10.0.0.1\n",
            ),
        ];
        for (interface, expected) in table {
            let files = files(interface);
            assert_eq!(files.len(), 1);
            let (_, settings) = files[0].1.split_once("IPv6AcceptRA=no\n").unwrap();
            assert_eq!(settings, expected, "{interface}");
        }
    }

    #[test]
    fn an_mtu_holds_for_what_carries_a_vlan_too() {
        let texts = |interface: &str| files(interface).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        let plain = texts("{mac: 52:54:00:00:00:01, mtu: 1400}");
        assert!(plain[0].contains("Kind=!*\n\n[Link]\nMTUBytes=1400\n\n[Network]\nDHCP=yes\n"), "{plain:?}");
        let vlan = texts("{mac: 52:54:00:00:00:01, mtu: 9000, vlan: 20}");
        assert!(vlan[0].contains("[Link]\nMTUBytes=9000\n") && vlan[2].contains("[Link]\nMTUBytes=9000\n"));
        assert!(!vlan[1].contains("MTU"));
    }

    #[test]
    fn a_bond_has_a_device_and_its_cards_carry_nothing_else() {
        let found = files(
            "{bond: {mode: 802.3ad, members: [eth0, 52:54:00:00:00:02]}, vlan: 20, mtu: 9000, addresses: [10.0.0.2/8]}",
        );
        let expected = [
            ("10-infimonitor-eth0.network", "[Match]\nName=eth0\nKind=!*\n\n[Network]\nBond=bond0\n"),
            (
                "10-infimonitor-525400000002.network",
                "[Match]\nMACAddress=52:54:00:00:00:02\nKind=!*\n\n[Network]\nBond=bond0\n",
            ),
            (
                "15-infimonitor-bond0.netdev",
                "[NetDev]\nName=bond0\nKind=bond\nMACAddress=52:54:00:00:00:02\n\n[Bond]\nMode=802.3ad\n\
                 MIIMonitorSec=100ms\nTransmitHashPolicy=layer3+4\n",
            ),
            (
                "15-infimonitor-bond0.network",
                "[Match]\nName=bond0\n\n[Link]\nMTUBytes=9000\n\n[Network]\nVLAN=vlan20\nDHCP=no\nIPv6AcceptRA=no\n\
                 LinkLocalAddressing=no\n",
            ),
            ("20-infimonitor-vlan20.netdev", "[NetDev]\nName=vlan20\nKind=vlan\n\n[VLAN]\nId=20\n"),
            (
                "20-infimonitor-vlan20.network",
                "[Match]\nName=vlan20\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\n\
                 Address=10.0.0.2/8\n",
            ),
        ];
        assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        let found = files("{bond: {mode: active-backup, members: [eth0, eth1]}}");
        let (_, device) = found.iter().find(|(name, _)| name.ends_with(".netdev")).unwrap();
        assert_eq!(
            device,
            "[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n"
        );
        let (name, text) = found.last().unwrap();
        assert_eq!(name, "15-infimonitor-bond0.network");
        assert!(text.starts_with("[Match]\nName=bond0\n\n[Network]\nDHCP=yes\n"), "{text}");
    }

    #[test]
    fn bonds_are_numbered_and_no_two_files_have_one_name() {
        let answers = Answers::from_yaml(
            "role: monitor\nnetwork:\n  - bond: {mode: 802.3ad, members: [a0, a1]}\n  - {mac: 52:54:00:00:00:01, vlan: 7}\n  \
             - bond: {mode: active-backup, members: [b0, b1]}\n    vlan: 8\n",
        )
        .unwrap();
        let mut names: Vec<_> = render(&answers.network).into_iter().map(|file| file.name).collect();
        assert!(names.iter().any(|name| name == "15-infimonitor-bond1.netdev"), "{names:?}");
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
