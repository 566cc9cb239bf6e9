//! Partitions of a disk that has no partition table yet, as loop devices: a file system can be made in them before the disk
//! becomes one that boots.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use storage::layout::Partition;

/// A loop device, until it is dropped.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// Shows a future partition of `disk`.
    ///
    /// # Errors
    /// `losetup` fails.
    pub fn of(disk: &Path, sector_bytes: u64, partition: &Partition) -> Result<Self> {
        let device = duct::cmd!(
            "losetup",
            "--find",
            "--show",
            format!("--offset={}", partition.offset_bytes(sector_bytes)),
            format!("--sizelimit={}", partition.size_bytes(sector_bytes)),
            format!("--sector-size={sector_bytes}"),
            disk
        )
        .stdin_null()
        .read()
        .with_context(|| format!("cannot show partition {} of {}", partition.name, disk.display()))?;
        Ok(Self(device.trim().into()))
    }

    /// Its device file.
    pub fn device(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // It holds the disk in use, and nothing more depends on it.
        if let Err(error) = duct::cmd!("losetup", "--detach", &self.0).stdin_null().run() {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
