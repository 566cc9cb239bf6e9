//! An installation on disks that are files: nothing boots before its end, whatever is wrong, and other disks stay as they are.

use anyhow::{Context, Result, ensure};
use installer::apply::{Host, Progress, install};
use installer::medium::Medium;
use integration::test_folder;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use provisioning::{Answers, Role};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use storage::contents::{Contents, identify};
use storage::inventory::{Disk, parse};
use storage::layout::{GIB, Partition, STATE};
use storage::medium::{FOLDER, MBR_CODE, PAYLOADS, SUMS};
use storage::plan::{Firmware, Plan, Wish, plan};
use storage::table::{self, MBR_CODE_BYTES};
use tools::Toolbox;

const DISK_BYTES: u64 = 22 * GIB;
/// No partition is smaller.
const PAYLOAD_BYTES: usize = 900_000;
/// What was on the disks before, at both ends, where partition tables are: a system that starts.
const BEFORE: [u8; 4096] = {
    let mut bytes = [0xab; 4096];
    (bytes[450], bytes[510], bytes[511]) = (0xee, 0x55, 0xaa);
    bytes
};

/// Disks, a medium, and where the installation has its places.
struct Machine {
    folder: tempfile::TempDir,
    host: Host,
    disks: Vec<Disk>,
}

/// A script that runs a program of the tools tree.
fn script(toolbox: &Toolbox, program: &str, folder: &Path) -> Result<PathBuf> {
    let command = toolbox.command(program);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let quoted: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let path = folder.join(program);
    fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", quoted.join(" ")))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A medium with small payloads, each of its own byte.
fn medium(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let mut sums = String::new();
    for (number, name) in (1..).zip(PAYLOADS.iter().map(|(_, name)| *name).chain([MBR_CODE])) {
        let content = vec![number; if name == MBR_CODE { MBR_CODE_BYTES } else { PAYLOAD_BYTES }];
        let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        sums += &format!("{digest}  {name}\n");
        fs::write(folder.join(name), content)?;
    }
    Ok(fs::write(folder.join(SUMS), sums)?)
}

/// Where the last bytes of the ESP lie, which the medium does not have.
fn end_of_esp(partitions: &[Partition]) -> Result<u64> {
    let esp = partitions.iter().find(|partition| partition.name == "esp").context("no ESP")?;
    Ok(esp.offset_bytes(512) + esp.size_bytes(512) - BEFORE.len() as u64)
}

/// Gives this test mounts of its own: a cluster that another test begins takes all that it sees into its namespace, and *state*
/// would be in use after it was unmounted here.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make the mounts private")
}

impl Machine {
    fn new() -> Result<Self> {
        own_mounts()?;
        let folder = test_folder()?;
        let toolbox = Toolbox::open()?;
        medium(&folder.path().join("medium"))?;
        let host = Host {
            mkfs: script(&toolbox, "mkfs.btrfs", folder.path())?,
            btrfs: script(&toolbox, "btrfs", folder.path())?,
            mount_point: folder.path().join("state"),
            log: folder.path().join("log"),
        };
        let fixture = include_str!("../../../appliance/storage/tests/fixtures/two-equal.json");
        let mut disks = parse(fixture, &BTreeMap::new())?;
        for (disk, name) in disks.iter_mut().zip(["sda", "sdb"]) {
            (disk.device, disk.size_bytes) = (folder.path().join(name), DISK_BYTES);
        }
        let machine = Self { folder, host, disks };
        for disk in machine.disks.iter().map(|disk| disk.device.as_path()).chain([machine.other().as_path()])
        {
            let file = File::create(disk)?;
            file.set_len(DISK_BYTES)?;
            file.write_all_at(&BEFORE, 0)?;
            file.write_all_at(&BEFORE, DISK_BYTES - BEFORE.len() as u64)?;
        }
        for planned in &machine.plan()?.disks {
            let file = File::options().write(true).open(&planned.disk.device)?;
            file.write_all_at(&BEFORE, end_of_esp(&planned.partitions)?)?;
        }
        Ok(machine)
    }

    /// A disk that nobody named.
    fn other(&self) -> PathBuf {
        self.folder.path().join("other")
    }

    fn plan(&self) -> Result<Plan> {
        Ok(plan(&self.disks, &Wish::default(), Firmware::Uefi)?)
    }

    fn install(&self, plan: &Plan, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let medium = Medium::open(&self.folder.path().join("medium"))?;
        install(&self.host, plan, &Answers::for_role(Role::BackupServer), &medium, progress)
    }

    /// Which of the disks firmware would start.
    fn bootable(&self) -> Result<Vec<bool>> {
        let is_bootable = |disk: &Disk| Ok(table::mbr_code(&mut File::open(&disk.device)?)?.is_some());
        self.disks.iter().map(is_bootable).collect()
    }

    /// Checks that both disks hold the whole system.
    fn is_whole(&self, plan: &Plan) -> Result<()> {
        ensure!(self.bootable()? == [true, true], "not both disks boot");
        for planned in &plan.disks {
            let file = File::open(&planned.disk.device)?;
            for (number, (name, _)) in (1..).zip(PAYLOADS) {
                let found = planned.partitions.iter().find(|partition| partition.name == name);
                let partition = found.with_context(|| format!("no partition {name}"))?;
                let mut content = vec![0; PAYLOAD_BYTES + 1];
                file.read_exact_at(&mut content, partition.offset_bytes(512))?;
                let (rest, payload) = content.split_last().context("it is empty")?;
                ensure!(payload.iter().all(|byte| *byte == number) && *rest == 0, "{name} is not whole");
            }
            let mut end = BEFORE;
            file.read_exact_at(&mut end, end_of_esp(&planned.partitions)?)?;
            ensure!(end == [0; BEFORE.len()], "at the end of the ESP is what was there before");
            let state = planned.partitions.iter().find(|partition| partition.name == STATE);
            let state = state.context("no state")?;
            let mut head = vec![0; storage::contents::PROBE_BYTES];
            file.read_exact_at(&mut head, state.offset_bytes(512))?;
            ensure!(identify(&mut std::io::Cursor::new(head))? == Contents::Btrfs, "state is no btrfs");
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Where an installation has stopped in between; otherwise there is nothing to unmount.
        if let Ok(()) = nix::mount::umount(&self.host.mount_point) {
            eprintln!("{} was still mounted", self.host.mount_point.display());
        }
    }
}

#[test]
fn disks_boot_only_when_all_is_written_and_others_stay_as_they_are() -> Result<()> {
    let machine = Machine::new()?;
    let plan = machine.plan()?;
    let (mut steps, mut early, mut last) = (0, None, (0, 0));
    machine.install(&plan, &mut |progress| {
        match progress {
            Progress::Step(step) => {
                steps += 1;
                let bootable = machine.bootable().unwrap_or_default();
                // The first two erase a disk each.
                if bootable != [false, false] && steps > 2 {
                    early.get_or_insert(format!("{step}: {bootable:?}"));
                }
            }
            Progress::Bytes { done, total } => last = (done, total),
        };
    })?;
    let total = (2 * PAYLOADS.len() * PAYLOAD_BYTES) as u64;
    assert_eq!((early, last), (None, (total, total)));
    machine.is_whole(&plan)?;
    let other = fs::metadata(machine.other())?;
    let mut head = [0; 4096];
    File::open(machine.other())?.read_exact_at(&mut head, 0)?;
    assert!(head == BEFORE && other.len() == DISK_BYTES);
    Ok(())
}

#[test]
fn what_a_damaged_medium_leaves_does_not_boot_and_can_be_installed_again() -> Result<()> {
    let machine = Machine::new()?;
    let plan = machine.plan()?;
    let damaged = machine.folder.path().join("medium").join(FOLDER).join("root.erofs");
    let good = fs::read(&damaged)?;
    let mut bad = good.clone();
    bad[PAYLOAD_BYTES / 2] ^= 1;
    fs::write(&damaged, bad)?;
    let error = machine.install(&plan, &mut |_| ()).expect_err("it is damaged");
    let error = format!("{error:#}");
    assert!(error.contains("root.erofs on the installation medium is damaged"), "{error}");
    assert_eq!(machine.bootable()?, [false, false]);
    fs::write(&damaged, good)?;
    machine.install(&plan, &mut |_| ())?;
    machine.is_whole(&plan)
}

#[test]
fn a_disk_that_is_another_one_now_is_not_erased() -> Result<()> {
    let machine = Machine::new()?;
    let plan = machine.plan()?;
    let swapped = &machine.disks[1].device;
    File::options().write(true).open(swapped)?.set_len(DISK_BYTES - 512)?;
    let error = machine.install(&plan, &mut |_| ()).expect_err("it is another disk").to_string();
    assert!(error.contains("another disk took its place; begin again"), "{error}");
    for disk in &machine.disks {
        let mut head = [0; 4096];
        File::open(&disk.device)?.read_exact_at(&mut head, 0)?;
        assert_eq!(head, BEFORE, "{} was erased", disk.device.display());
    }
    Ok(())
}
