//! Network interfaces that can be given addresses: real ones with a hardware address, as sysfs shows them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use provisioning::Interface;
use provisioning::answers::{Bond, Hardware};
use provisioning::values::{Mac, Member};

/// Where the kernel shows them.
const SYSFS: &str = "/sys/class/net";
/// ARPHRD_ETHER of `linux/if_arp.h`.
const ETHERNET: &str = "1";

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name now; another medium or kernel may name it otherwise.
    pub name: String,
    /// Its hardware address, by which it is known.
    pub mac: Mac,
    /// Whether a cable is in it and the other side answers; `None`: it is not up, so that nobody knows.
    pub carrier: Option<bool>,
    /// The kernel's driver.
    pub driver: String,
}

/// The interfaces of this machine, by name.
///
/// # Errors
/// sysfs cannot be read.
pub fn links() -> Result<Vec<Link>> {
    links_in(Path::new(SYSFS))
}

/// What answers say of interfaces, with the address of each card in the place of its name: the installed machine may name it
/// otherwise.
///
/// # Errors
/// A card is not there, or is named twice: installed so, the machine would not be reached where it is expected.
pub fn resolved(interfaces: &[Interface], links: &[Link]) -> Result<Vec<Interface>> {
    let mut seen = BTreeSet::new();
    let mut there = |member: &Member| -> Result<Mac> {
        let mac = match found(member, links) {
            Some(link) => link.mac.clone(),
            None => {
                let all: Vec<String> =
                    links.iter().map(|link| format!("{} ({})", link.mac, link.name)).collect();
                let all = if all.is_empty() { "none".into() } else { all.join(", ") };
                bail!(
                    "network names the interface {member}, which this machine does not have; there are: {all}"
                );
            }
        };
        ensure!(seen.insert(mac.clone()), "network names the interface {mac} twice, by its name too");
        Ok(mac)
    };
    let mut resolved = Vec::new();
    for interface in interfaces {
        let hardware = match &interface.hardware {
            Hardware::Card(mac) => Hardware::Card(there(&Member::Mac(mac.clone()))?),
            Hardware::Bond(Bond { mode, members }) => {
                let members = members.iter().map(|member| there(member).map(Member::Mac));
                Hardware::Bond(Bond { mode: *mode, members: members.collect::<Result<_>>()? })
            }
        };
        resolved.push(Interface { hardware, ..interface.clone() });
    }
    Ok(resolved)
}

/// The card that a member of a bond is.
pub fn found<'l>(member: &Member, links: &'l [Link]) -> Option<&'l Link> {
    links.iter().find(|link| match member {
        Member::Mac(mac) => link.mac == *mac,
        Member::Name(name) => link.name == *name,
    })
}

fn links_in(folder: &Path) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        links.extend(link(&entry.path(), entry.file_name().to_string_lossy().into_owned()));
    }
    links.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(links)
}

/// Only what a device is behind: no bridges, VLANs and the like.
fn link(folder: &Path, name: String) -> Option<Link> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok().map(|text| text.trim().to_owned());
    let driver = fs::read_link(folder.join("device/driver")).ok();
    if read("type")? != ETHERNET || !folder.join("device").exists() {
        return None;
    }
    Some(Link {
        name,
        mac: read("address")?.parse().ok()?,
        // Reading it fails while the interface is down.
        carrier: read("carrier").map(|carrier| carrier == "1"),
        driver: driver
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn real_interfaces_are_found_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, kind: &str, mac: &str, carrier: Option<&str>, driver: Option<&str>| {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("type"), format!("{kind}\n")).unwrap();
            fs::write(path.join("address"), format!("{mac}\n")).unwrap();
            if let Some(carrier) = carrier {
                fs::write(path.join("carrier"), format!("{carrier}\n")).unwrap();
            }
            if let Some(driver) = driver {
                fs::create_dir(path.join("device")).unwrap();
                symlink(format!("/sys/bus/pci/drivers/{driver}"), path.join("device/driver")).unwrap();
            }
        };
        make("lo", "772", "00:00:00:00:00:00", Some("1"), None);
        make("ens5", "1", "52:54:00:00:00:05", None, Some("e1000e"));
        make("ens4", "1", "52:54:00:00:00:04", Some("1"), Some("virtio_net"));
        make("vlan20", "1", "52:54:00:00:00:04", Some("1"), None);
        let links = links_in(folder.path()).unwrap();
        let of = |list: &str| {
            let answers = provisioning::Answers::from_yaml(&format!("role: monitor\nnetwork: [{list}]\n"));
            resolved(&answers.unwrap().network, &links).map_err(|error| error.to_string())
        };
        let table = [
            ("{mac: 52:54:00:00:00:05, mtu: 1400}", Ok("52:54:00:00:00:05")),
            (
                "{bond: {mode: 802.3ad, members: [ens4, 52:54:00:00:00:05]}}",
                Ok("the bond of 52:54:00:00:00:04 and 52:54:00:00:00:05"),
            ),
            (
                "{mac: 52:54:00:00:00:06, mtu: 1400}",
                Err(
                    "network names the interface 52:54:00:00:00:06, which this machine does not have; there are: \
                     52:54:00:00:00:04 (ens4), 52:54:00:00:00:05 (ens5)",
                ),
            ),
            (
                "{bond: {mode: 802.3ad, members: [ens4, ens7]}}",
                Err("network names the interface ens7, which this machine does not have; there are: \
                     52:54:00:00:00:04 (ens4), 52:54:00:00:00:05 (ens5)"),
            ),
            (
                "{bond: {mode: 802.3ad, members: [ens4, 52:54:00:00:00:04]}}",
                Err("network names the interface 52:54:00:00:00:04 twice, by its name too"),
            ),
            (
                "{mac: 52:54:00:00:00:05, mtu: 1400}, {bond: {mode: 802.3ad, members: [ens4, ens5]}}",
                Err("network names the interface 52:54:00:00:00:05 twice, by its name too"),
            ),
        ];
        for (list, expected) in table {
            let found = of(list).map(|all| all.last().unwrap().hardware.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{list}");
        }
        assert!(resolved(&[], &[]).unwrap().is_empty());
        let shown: Vec<_> = links
            .iter()
            .map(|link| (link.name.as_str(), link.mac.to_string(), link.carrier, link.driver.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("ens4", "52:54:00:00:00:04".to_owned(), Some(true), "virtio_net"),
                ("ens5", "52:54:00:00:00:05".to_owned(), None, "e1000e")
            ]
        );
    }
}
