//! Where things are, and the fixed numbers of users and groups (docs/architecture.md).

use std::path::{Path, PathBuf};
use std::time::Duration;

use provisioning::smbios;
use storage::disks::Devices;

/// How long disks and partitions are waited for at boot (design D5).
const PATIENCE: Duration = Duration::from_secs(30);

/// Users and groups that own files outliving an image. Only tests use other numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// User and group `root`.
    pub root: u32,
    /// Group `shadow` (Debian's fixed number).
    pub shadow: u32,
    /// User and group `backupd`.
    pub backupd: u32,
    /// Group `infimonitor`.
    pub infimonitor: u32,
}

/// The numbers on the appliance.
pub const IDS: Ids = Ids { root: 0, shadow: 42, backupd: 971, infimonitor: 973 };

/// Paths of one run.
#[derive(Debug, Clone)]
pub struct Places {
    /// The system's root: `/sysroot` in the initrd.
    pub root: PathBuf,
    /// `/run`, which outlives the initrd.
    pub run: PathBuf,
    /// The kernel's command line.
    pub command_line: PathBuf,
    /// The SMBIOS structure table.
    pub smbios: PathBuf,
    /// Kernel log, which reaches the console.
    pub kmsg: PathBuf,
    /// The program that makes a btrfs.
    pub mkfs: PathBuf,
    /// The program for btrfs devices that are there.
    pub btrfs: PathBuf,
    /// The program that puts firewall rules into force.
    pub nft: PathBuf,
    /// The program that puts a keymap into force.
    pub loadkeys: PathBuf,
    /// sysfs and device files.
    pub devices: Devices,
    /// How long the disk is waited for.
    pub patience: Duration,
    /// Owners of files.
    pub ids: Ids,
}

impl Places {
    /// In the initrd, before the root is switched to.
    pub fn initrd() -> Self {
        Self::at("/sysroot")
    }

    /// In the running system.
    pub fn system() -> Self {
        Self::at("/")
    }

    fn at(root: &str) -> Self {
        Self {
            root: root.into(),
            run: "/run".into(),
            command_line: "/proc/cmdline".into(),
            smbios: Path::new("/").join(smbios::TABLE),
            kmsg: "/dev/kmsg".into(),
            mkfs: storage::btrfs::MKFS.into(),
            btrfs: storage::btrfs::BTRFS.into(),
            nft: firewall::NFT.into(),
            loadkeys: "/usr/bin/loadkeys".into(),
            devices: Devices::default(),
            patience: PATIENCE,
            ids: IDS,
        }
    }

    /// A path below the system's root.
    pub fn in_root(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A path in the machine's settings, `/var/lib/infimonitor`.
    pub fn setting(&self, name: &str) -> PathBuf {
        self.root.join("var/lib/infimonitor").join(name)
    }

    /// A path in `/run/infimonitor`.
    pub fn runtime(&self, name: &str) -> PathBuf {
        self.run.join("infimonitor").join(name)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Places in a temporary folder, everything owned by whoever runs the tests.
    pub fn places() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in
            ["root/etc", "root/var", "root/usr/lib/systemd/system", "root/data", "run", "sys/block", "dev"]
        {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        let me = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let places = Places {
            root: at("root"),
            run: at("run"),
            command_line: at("cmdline"),
            smbios: at("DMI"),
            kmsg: at("kmsg"),
            mkfs: storage::btrfs::MKFS.into(),
            btrfs: storage::btrfs::BTRFS.into(),
            nft: "cat".into(), // reads the rules to their end
            loadkeys: "/bin/true".into(),
            devices: Devices { sys: at("sys"), dev: at("dev") },
            patience: Duration::ZERO,
            ids: Ids { root: me, shadow: group, backupd: me, infimonitor: group },
        };
        (dir, places)
    }
}
