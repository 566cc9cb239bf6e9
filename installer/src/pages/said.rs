//! What was answered, in words: the lines of the summary, and what single answers are called.

use provisioning::Role;
use provisioning::answers::Interface;
use storage::inventory::Disk;

use super::app::{App, ROLES};

impl App {
    /// All that was answered, as lines: the label and what was said.
    pub fn summary_lines(&self) -> Vec<(&'static str, String)> {
        let answers = self.described();
        let mut lines = vec![("Role", role_title(self.role).to_owned())];
        if let Ok((plan, _)) = &self.planned {
            for planned in &plan.disks {
                let Disk { contents, .. } = &planned.disk;
                let lost = if contents.is_empty() {
                    "blank".to_owned()
                } else {
                    format!("ERASED: {}", contents.join(", "))
                };
                lines.push(("Disk", format!("{}, {lost}", planned.disk.title())));
            }
            lines.push((
                "Data",
                format!(
                    "{}, {} for backups",
                    plan.profile.name(),
                    storage::inventory::gigabytes(plan.usable_bytes)
                ),
            ));
        }
        for (link, interface) in &self.links {
            let said = match self.bond_of(link) {
                Some(number) => format!("in bond{number}"),
                None => told(interface.as_ref()),
            };
            lines.push(("Network", format!("{}: {said}", link.name)));
        }
        for (number, bond) in self.bonds.iter().enumerate() {
            lines.push(("Network", format!("bond{number}: {}", told(Some(bond)))));
        }
        let text = |value: Option<String>, without: &str| value.unwrap_or_else(|| without.to_owned());
        lines.push(("Host name", text(answers.hostname.map(|name| name.to_string()), self.role.name())));
        let ntp: Vec<_> = answers.ntp.iter().map(ToString::to_string).collect();
        let uses_dhcp = self.links.iter().any(|(link, interface)| {
            let is_told = interface.as_ref().is_some_and(|interface| !interface.addresses.is_empty());
            !is_told && self.bond_of(link).is_none()
        }) || self.bonds.iter().any(|bond| bond.addresses.is_empty());
        let without_ntp = if uses_dhcp { "those that DHCP names, and Debian's" } else { "Debian's" };
        lines.push((
            "Time",
            format!(
                "{}, NTP servers: {}",
                text(answers.time_zone.map(|zone| zone.to_string()), "UTC"),
                if ntp.is_empty() { without_ntp.to_owned() } else { ntp.join(", ") }
            ),
        ));
        let passwords = match self.role {
            Role::BackupServer => "of root at the console, and of backup for API and FTP",
            _ => "of root at the console",
        };
        lines.push(("Passwords", passwords.to_owned()));
        lines.push(("Keyboard", text(answers.keymap.map(|keymap| keymap.to_string()), "us")));
        lines
    }
}

/// What an interface is told, for people.
pub fn told(interface: Option<&Interface>) -> String {
    let Some(interface) = interface else { return "DHCP".into() };
    let Interface { vlan, mtu, addresses, gateways, on_link, dns, .. } = interface;
    let mut parts: Vec<String> = interface.bond().iter().map(|bond| bond.mode.to_string()).collect();
    match addresses.as_slice() {
        [] => parts.push("DHCP".to_owned()),
        some => parts.extend(some.iter().map(ToString::to_string)),
    }
    let link = if *on_link { " on the link" } else { "" };
    parts.extend(gateways.iter().map(|gateway| format!("gateway {gateway}{link}")));
    parts.extend(dns.iter().map(|server| format!("DNS {server}")));
    parts.extend(vlan.iter().map(|vlan| format!("VLAN {vlan}")));
    parts.extend(mtu.iter().map(|mtu| format!("MTU {mtu}")));
    parts.join(", ")
}

/// A role as the pages and the boot menu call it.
pub fn role_title(role: Role) -> &'static str {
    ROLES.iter().find(|(other, ..)| *other == role).map_or("", |(_, title, _)| title)
}
