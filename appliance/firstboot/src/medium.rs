//! `firstboot medium`: the installation medium of which the machine was booted, before its root can be opened.
//!
//! It is mounted, and the root's image and verity hashes on it become the loop devices that the kernel's command line names;
//! systemd does the rest as on an installed machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags};
use storage::command_line;
use storage::medium::{self, FOLDER, PROBE_BYTES};

use crate::places::Places;
use crate::report::say;

/// Where it is mounted, in `/run/infimonitor`.
pub const MOUNTED: &str = "medium";
/// The loop devices that grub.cfg names, with the payloads that they show.
const LOOPS: [(&str, &str); 2] = [("loop0", medium::ROOT), ("loop1", medium::VERITY)];
/// Drives of virtual media take their time; systemd waits 90 s for the loop devices.
const PATIENCE: Duration = Duration::from_secs(80);
/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// The root hash of the medium that was booted; `None`: an installed machine.
///
/// # Errors
/// The command line cannot be read.
pub fn booted(places: &Places) -> Result<Option<String>> {
    let text = fs::read_to_string(&places.command_line).context("cannot read the kernel's command line")?;
    Ok(command_line::value(&text, medium::KEY).map(str::to_owned))
}

/// Finds the medium, mounts it and makes the loop devices.
///
/// # Errors
/// It is not found, or its files cannot be used.
pub fn run(places: &Places) -> Result<()> {
    let Some(hash) = booted(places)? else { return Ok(()) };
    let mount_point = places.runtime(MOUNTED);
    fs::create_dir_all(&mount_point).with_context(|| format!("cannot make {}", mount_point.display()))?;
    let device = wait(places, &mount_point, &medium::marker(&hash))?;
    say("medium", &format!("{} is mounted at {}", device.display(), mount_point.display()));
    for (name, file) in LOOPS {
        let (device, file) = (places.devices.dev.join(name), mount_point.join(FOLDER).join(file));
        duct::cmd!("losetup", "--read-only", &device, &file)
            .stdin_null()
            .stderr_to_stdout()
            .read()
            .with_context(|| format!("cannot show {} as {}", file.display(), device.display()))?;
    }
    Ok(())
}

fn wait(places: &Places, mount_point: &Path, marker: &str) -> Result<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (found, looked_at) = look(places, mount_point, marker)?;
        if let Some(device) = found {
            return Ok(device);
        }
        if Instant::now() >= deadline {
            let looked_at = if looked_at.is_empty() { "no disk at all".into() } else { looked_at.join(", ") };
            bail!(
                "the medium that was booted is not found: no volume with label {} and the file {FOLDER}/{marker}; looked at: \
                 {looked_at}. If it is a USB stick, try another port; if it is a virtual medium, attach it again",
                medium::LABEL
            );
        }
        thread::sleep(POLL);
    }
}

/// Looks at every disk and partition. Returns what was mounted, or what was looked at.
fn look(places: &Places, mount_point: &Path, marker: &str) -> Result<(Option<PathBuf>, Vec<String>)> {
    let block = places.devices.sys.join("class/block");
    let mut looked_at = Vec::new();
    let listing = fs::read_dir(&block).with_context(|| format!("cannot list {}", block.display()))?;
    for entry in listing {
        let name = entry.with_context(|| format!("cannot list {}", block.display()))?.file_name();
        let device = places.devices.dev.join(&name);
        let mut head = vec![0; PROBE_BYTES];
        // Empty drives and unused loop devices cannot be read.
        if File::open(&device).and_then(|mut device| device.read_exact(&mut head)).is_err() {
            continue;
        }
        looked_at.push(name.to_string_lossy().into_owned());
        let Some(kind) = medium::kind(&head) else { continue };
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount(&device, mount_point, kind, flags, None)
            .with_context(|| format!("cannot mount {} ({kind})", device.display()))?;
        if mount_point.join(FOLDER).join(marker).exists() {
            return Ok((Some(device), looked_at));
        }
        rustix::mount::unmount(mount_point, UnmountFlags::empty())
            .with_context(|| format!("cannot unmount {}", device.display()))?;
    }
    Ok((None, looked_at))
}
