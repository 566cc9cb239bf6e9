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

/// Every Ethernet interface that has no file of its own uses DHCP and IPv6 autoconfiguration. `Kind=!*` leaves out
/// bridges, VLANs and the like, which carry a physical interface's address.
const DHCP: &str = "\
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
IPv6AcceptRA=yes

[DHCPv4]
UseHostname=no

[DHCPv6]
UseHostname=no
";

/// The files for these interfaces, and the one for all others.
pub fn render(interfaces: &[Interface]) -> Vec<NetworkFile> {
    let mut files: Vec<_> = interfaces.iter().map(fixed).collect();
    files.push(NetworkFile { name: "90-infimonitor-dhcp.network".into(), text: DHCP.into() });
    files
}

/// Addresses as told and nothing else: no DHCP, no router advertisements.
fn fixed(interface: &Interface) -> NetworkFile {
    let mut text =
        format!("[Match]\nMACAddress={}\nKind=!*\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\n", interface.mac);
    let addresses = interface.addresses.iter().map(|a| format!("Address={a}"));
    let gateway = interface.gateway.iter().map(|g| format!("Gateway={g}"));
    let dns = interface.dns.iter().map(|d| format!("DNS={d}"));
    for line in addresses.chain(gateway).chain(dns) {
        // Writing to a String cannot fail.
        writeln!(text, "{line}").ok();
    }
    let name = format!("10-infimonitor-{}.network", interface.mac.to_string().replace(':', ""));
    NetworkFile { name, text }
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
}
