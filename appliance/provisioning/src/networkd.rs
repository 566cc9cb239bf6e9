//! Network settings as systemd-networkd reads them (systemd.network(5)).

use std::fmt::Write;

use crate::answers::Interface;

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
    let mut files: Vec<_> = interfaces.iter().flat_map(files).collect();
    files.push(NetworkFile {
        name: "90-infimonitor-dhcp.network".into(),
        text: format!("{EVERY_OTHER}{DHCP_SETTINGS}"),
    });
    files
}

/// An interface's own file; where it carries a VLAN, also the VLAN's device and its file.
fn files(interface: &Interface) -> Vec<NetworkFile> {
    let own = format!("10-infimonitor-{}.network", interface.mac.to_string().replace(':', ""));
    let matched = format!("[Match]\nMACAddress={}\nKind=!*\n\n[Network]\n", interface.mac);
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
            text: format!("[Match]\nName={device}\n\n[Network]\n{}", settings(interface)),
        },
    ]
}

/// Addresses as told and nothing else, without DHCP and router advertisements; or DHCP where no addresses were told.
fn settings(interface: &Interface) -> String {
    if interface.addresses.is_empty() {
        return DHCP_SETTINGS.to_owned();
    }
    let mut text = String::from("DHCP=no\nIPv6AcceptRA=no\n");
    let addresses = interface.addresses.iter().map(|a| format!("Address={a}"));
    let gateways = interface.gateways.iter().map(|g| format!("Gateway={g}"));
    let dns = interface.dns.iter().map(|d| format!("DNS={d}"));
    for line in addresses.chain(gateways).chain(dns) {
        // Writing to a String cannot fail.
        writeln!(text, "{line}").ok();
    }
    text
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
}
