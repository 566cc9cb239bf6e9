//! What was asked when VMware imported the machine: the OVF environment, from a CD (transport `iso`) or from the host
//! (transport `com.vmware.guestInfo`).
//!
//! Asked only of a machine that is nobody yet, so its cost, some seconds of waiting for drives, is paid once. The host is asked by
//! VMware's own program out of the root, as the initrd has none of it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use provisioning::Answers;
use provisioning::ovf::{FILE, GUEST_INFO, answers};
use provisioning::values::Mac;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::places::Places;
use crate::report::say;

/// Who made the machine, as firmware says.
const VENDOR: &str = "class/dmi/id/sys_vendor";
const VMWARE: &str = "VMware";
/// VMware's program, in the root.
const RPC_TOOL: &str = "/usr/bin/vmware-rpctool";
/// The host answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest environment that is read, in bytes.
const LIMIT: u64 = 64 << 10;
/// Where a CD says that it is one (ECMA-119, 8.4.2).
const CD_MARK: (usize, &[u8]) = (32769, b"CD001");

/// The answers that VMware has for this machine, if it has any.
///
/// # Errors
/// There is an environment, and it is wrong.
pub fn find(places: &Places) -> Result<Option<Answers>> {
    let is_vmware =
        fs::read_to_string(places.devices.sys.join(VENDOR)).is_ok_and(|vendor| vendor.starts_with(VMWARE));
    if is_vmware {
        // Drives and network cards may still be coming up. Whatever this says, they are looked at as they are.
        let settled =
            duct::cmd!("udevadm", "settle", "--timeout=10").stdin_null().stdout_null().stderr_null();
        settled.unchecked().run().ok();
    }
    let environment = match on_a_cd(places)? {
        Some(environment) => Some(environment),
        None if is_vmware => of_the_host(places),
        None => None,
    };
    let Some(environment) = environment else { return Ok(None) };
    let first = first_interface(&places.devices.sys);
    answers(&environment, first.as_ref())
        .context("what was asked at the import is wrong; the machine stays unprovisioned until it is mended")
}

/// What the host says.
fn of_the_host(places: &Places) -> Option<String> {
    let question = format!("info-get {GUEST_INFO}");
    let asked = duct::cmd!("chroot", &places.root, RPC_TOOL, question)
        .stdin_null()
        .stdout_capture()
        .stderr_null()
        .unchecked()
        .start()
        .ok()?;
    let output = asked.wait_timeout(PATIENCE).ok().flatten().cloned();
    asked.kill().ok();
    let output = output.filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// What stands on a CD.
fn on_a_cd(places: &Places) -> Result<Option<String>> {
    let block = places.devices.sys.join("block");
    let listing = match fs::read_dir(&block) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", block.display())),
    };
    for entry in listing {
        let name = entry.with_context(|| format!("cannot list {}", block.display()))?.file_name();
        let device = places.devices.dev.join(&name);
        if !name.to_string_lossy().starts_with("sr") || !is_cd(&device) {
            continue;
        }
        let mount_point = places.runtime("ovf-environment");
        fs::create_dir_all(&mount_point).with_context(|| format!("cannot make {}", mount_point.display()))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        if let Err(error) = rustix::mount::mount(&device, &mount_point, "iso9660", flags, None) {
            // A damaged CD that somebody has left in the drive says nothing about this machine.
            say("identity", &format!("{} cannot be mounted ({error}); it is passed over", device.display()));
            continue;
        }
        let found = read(&mount_point.join(FILE));
        rustix::mount::unmount(&mount_point, UnmountFlags::empty())
            .with_context(|| format!("cannot unmount {}", device.display()))?;
        if let Some(text) = found? {
            say("identity", &format!("{FILE} is on {}", device.display()));
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn is_cd(device: &Path) -> bool {
    let (at, mark) = CD_MARK;
    let mut head = vec![0; at + mark.len()];
    // An empty drive cannot be read.
    File::open(device).and_then(|mut device| device.read_exact(&mut head)).is_ok() && head.ends_with(mark)
}

fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let mut text = String::new();
    let count = file.take(LIMIT + 1).read_to_string(&mut text);
    let count = count.with_context(|| format!("cannot read {}", path.display()))?;
    if count as u64 > LIMIT {
        bail!("{} is longer than {LIMIT} bytes", path.display());
    }
    Ok(Some(text))
}

/// The hardware interface with the lowest number.
fn first_interface(sys: &Path) -> Option<Mac> {
    let listing = fs::read_dir(sys.join("class/net")).ok()?;
    let mut interfaces: Vec<(u32, Mac)> = listing
        .filter_map(|entry| {
            let folder: PathBuf = entry.ok()?.path();
            let is_hardware = folder.join("device").exists();
            let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
            let number = text("ifindex")?.trim().parse().ok()?;
            is_hardware.then(|| Some((number, text("address")?.trim().parse().ok()?))).flatten()
        })
        .collect();
    interfaces.sort_by_key(|(number, _)| *number);
    interfaces.into_iter().next().map(|(_, mac)| mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_interface_is_hardware() {
        let folder = tempfile::tempdir().unwrap();
        let interface = |name: &str, number: u32, mac: &str, is_hardware: bool| {
            let place = folder.path().join("class/net").join(name);
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("ifindex"), format!("{number}\n")).unwrap();
            fs::write(place.join("address"), format!("{mac}\n")).unwrap();
            if is_hardware {
                fs::create_dir(place.join("device")).unwrap();
            }
        };
        assert_eq!(first_interface(folder.path()), None);
        interface("lo", 1, "00:00:00:00:00:00", false);
        interface("ens224", 3, "00:50:56:00:00:02", true);
        interface("ens192", 2, "00:50:56:00:00:01", true);
        assert_eq!(first_interface(folder.path()).unwrap().to_string(), "00:50:56:00:00:01");
    }

    #[test]
    fn a_longer_environment_than_there_is_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(read(&path).unwrap(), None);
        fs::write(&path, "x".repeat(LIMIT as usize)).unwrap();
        assert!(read(&path).unwrap().is_some());
        fs::write(&path, "x".repeat(LIMIT as usize + 1)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("is longer than"));
    }
}
