//! A btrfs volume on a loop device.

use crate::run;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use tools::Toolbox;

/// A mounted volume, unmounted at the end; `mount -o loop` frees the loop device with it.
#[derive(Debug)]
pub struct Volume {
    mount_point: PathBuf,
}

impl Volume {
    /// Makes and mounts a volume of `bytes` below `folder`, mounted as on the appliance.
    pub fn new(toolbox: &Toolbox, folder: &Path, bytes: u64) -> Result<Self> {
        let image = folder.join("volume.img");
        let mount_point = folder.join("data");
        std::fs::File::create(&image)?.set_len(bytes)?;
        std::fs::create_dir(&mount_point)?;
        run(toolbox.command("mkfs.btrfs").args(["--quiet", "--label", "data"]).arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop,noatime,noexec,nosuid,nodev"])
            .arg(&image)
            .arg(&mount_point))?;
        let volume = Self { mount_point };
        for name in ["replica", "backups"] {
            std::fs::create_dir(volume.path().join(name))?;
        }
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A hostd that was killed by force leaves what its clusters have started, and that holds the volume.
        if let Err(error) = tools::scratch::end_users(&self.mount_point) {
            eprintln!("what uses the test's volume runs on: {error:#}");
        }
        if let Err(error) = run(Command::new("umount").arg(&self.mount_point)) {
            eprintln!("cannot unmount the test's volume: {error:#}");
        }
    }
}
