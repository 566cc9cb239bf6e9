//! Network interfaces that can be given addresses: real ones with a hardware address, as sysfs shows them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use provisioning::Interface;
use provisioning::values::Mac;

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

/// Whether the interfaces that answers name are there.
///
/// # Errors
/// One is not: installed so, the machine would not be reached where it is expected.
pub fn known(interfaces: &[Interface], links: &[Link]) -> Result<()> {
    let there = |interface: &Interface| links.iter().any(|link| link.mac == interface.mac);
    if let Some(Interface { mac, .. }) = interfaces.iter().find(|interface| !there(interface)) {
        let all: Vec<String> = links.iter().map(|link| format!("{} ({})", link.mac, link.name)).collect();
        let all = if all.is_empty() { "none".into() } else { all.join(", ") };
        bail!("network names the interface {mac}, which this machine does not have; there are: {all}");
    }
    Ok(())
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
        let named = |mac: &str| {
            let cidr = vec!["10.0.0.2/8".parse().unwrap()];
            [Interface::checked(mac.parse().unwrap(), None, cidr, Vec::new(), Vec::new()).unwrap()]
        };
        assert!(known(&named("52:54:00:00:00:05"), &links).is_ok() && known(&[], &[]).is_ok());
        assert_eq!(
            known(&named("52:54:00:00:00:06"), &links).unwrap_err().to_string(),
            "network names the interface 52:54:00:00:00:06, which this machine does not have; there are: \
             52:54:00:00:00:04 (ens4), 52:54:00:00:00:05 (ens5)"
        );
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
