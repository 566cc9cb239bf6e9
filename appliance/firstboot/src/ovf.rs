//! What was asked when VMware imported the machine: the OVF environment, from a CD (transport `iso`) or from the host
//! (transport `com.vmware.guestInfo`).
//!
//! Asked only of a machine that is nobody yet, so its cost, some seconds of waiting for drives, is paid once. The host is asked by
//! VMware's own programs out of the root, as the initrd has none of them. A host that cannot be asked is said to be so, and the
//! machine goes on as if nothing had been asked: left without identity, it could not be used at all where hosts are forbidden to
//! tell (`guest_rpc.rpci.auth.cmd.info-get`), and these are where nobody could have answered.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use provisioning::Answers;
use provisioning::ovf::{FILE, GUEST_INFO, answers};
use provisioning::values::Mac;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::places::Places;
use crate::provision::PROBLEM;
use crate::report::{problem, say};

/// Who made the machine, as firmware says.
const VENDOR: &str = "class/dmi/id/sys_vendor";
const VMWARE: &str = "VMware";
/// VMware's programs, in the root, and what comes before the question. A host that tells only whom it knows tells the second one
/// (cloud-init, documentation of the datasource OVF).
const PROGRAMS: [(&str, &[&str]); 2] = [("/usr/bin/vmware-rpctool", &[]), ("/usr/bin/vmtoolsd", &["--cmd"])];
/// The host answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long drives may still be coming up beside the disk that was booted.
const DRIVES: Duration = Duration::from_secs(6);
/// Between two looks.
const POLL: Duration = Duration::from_millis(500);
/// What VMware's programs say where nothing was asked at the import.
const NO_VALUE: &str = "No value found";
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
    let environment = if is_vmware { on_vmware(places)? } else { on_a_cd(places)? };
    let Some(environment) = environment else { return Ok(None) };
    let first = first_interface(&places.devices.sys);
    answers(&environment, first.as_ref())
        .context("what was asked at the import is wrong; the machine stays unprovisioned until it is mended")
}

/// From a CD, or from the host; drives and network cards may still be coming up.
fn on_vmware(places: &Places) -> Result<Option<String>> {
    // An address belongs to a network card. Whatever this says, cards and drives are looked at as they are.
    let settled = duct::cmd!("udevadm", "settle", "--timeout=10").stdin_null().stdout_null().stderr_null();
    if let Err(error) = settled.run() {
        say("identity", &format!("devices may still be coming up ({error})"));
    }
    let deadline = Instant::now() + DRIVES;
    loop {
        if let Some(environment) = on_a_cd(places)? {
            return Ok(Some(environment));
        }
        let said = of_the_host(places);
        if let Ok(Some(environment)) = said {
            return Ok(Some(environment));
        }
        if Instant::now() < deadline {
            thread::sleep(POLL);
            continue;
        }
        if let Err(error) = said {
            let text = format!(
                "the host could not be asked for what was entered at the import ({error:#}); it is taken for nothing: DHCP, and \
                 the default password. If something was entered, import the machine again"
            );
            problem(places, PROBLEM, &text);
        }
        return Ok(None);
    }
}

/// What the host says.
fn of_the_host(places: &Places) -> Result<Option<String>> {
    let mut failure = None;
    for (program, arguments) in PROGRAMS {
        match ask(places, program, arguments) {
            Ok(answer) => return Ok(answer),
            Err(error) => failure = Some(error.context(program)),
        }
    }
    failure.map_or(Ok(None), Err)
}

fn ask(places: &Places, program: &str, arguments: &[&str]) -> Result<Option<String>> {
    let question = format!("info-get {GUEST_INFO}");
    let mut command = vec![places.root.as_os_str(), program.as_ref()];
    command.extend(arguments.iter().map(OsStr::new));
    command.push(question.as_ref());
    let asked = duct::cmd("chroot", command).stdin_null().stdout_capture().stderr_capture().unchecked();
    let asked = asked.start().context("cannot be started")?;
    let Some(output) = asked.wait_timeout(PATIENCE).context("cannot be waited for")?.cloned() else {
        asked.kill().context("cannot be ended")?;
        bail!("no answer within {} s", PATIENCE.as_secs());
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    environment(output.status.success(), &text(&output.stdout), &text(&output.stderr))
}

/// The environment in what a program said, if there is one.
fn environment(is_success: bool, output: &str, error: &str) -> Result<Option<String>> {
    match (is_success, output.is_empty()) {
        (true, false) => Ok(Some(output.to_owned())),
        (true, true) => Ok(None),
        (false, _) if output.contains(NO_VALUE) || error.contains(NO_VALUE) => Ok(None),
        (false, true) => bail!("it says {error:?}"),
        (false, false) => bail!("it says {output:?}"),
    }
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
    use crate::places::testing::places;

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
    fn only_a_host_that_says_so_has_nothing() {
        let table = [
            (true, "<Environment/>", "", Ok(Some("<Environment/>"))),
            (true, "", "", Ok(None)),
            (false, "No value found", "", Ok(None)),
            (false, "", "No value found", Ok(None)),
            (false, "Permission denied", "", Err("it says \"Permission denied\"")),
            (false, "", "Failed sending message to VMware.", Err("Failed sending message")),
            (false, "", "", Err("it says \"\"")),
        ];
        for (is_success, output, error, expected) in table {
            match (environment(is_success, output, error), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected),
                (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{found}"),
                (found, _) => panic!("{output:?} {error:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_host_that_cannot_be_asked_is_named_by_its_program() {
        let (_dir, places) = places();
        let error = format!("{:#}", of_the_host(&places).unwrap_err());
        assert!(error.starts_with("/usr/bin/vmtoolsd: "), "{error}");
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
