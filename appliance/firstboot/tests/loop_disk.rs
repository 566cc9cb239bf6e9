//! The first and the second boot with a real GPT and real btrfs, made by the tools tree's mkfs. *state* and *data* are
//! loop devices over a file each: mkfs.btrfs takes two loop devices over one file for the same device. Needs root
//! (loop devices, mounts) and the tools tree.
//!
//! `sethostname` is left out: it would rename the machine that runs the test.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use firstboot::places::Ids;
use firstboot::{Places, data, machine_id, provision, settings, state, system};
use provisioning::Role;
use storage::disks::Devices;
use storage::layout::{self, MINIMUM_DISK_BYTES};
use storage::plan::Profile;
use storage::recorded::{self, Recorded};
use storage::{btrfs, contents, mounts};
use tools::Toolbox;

const GUID: &str = "8c5f2a30-1111-4222-8333-444455556666";
/// Of a second disk.
const OTHER_GUID: &str = "8c5f2a30-1111-4222-8333-444455556667";

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} failed (this test needs root, for loop devices and mounts): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A machine that is switched off when it goes out of scope.
struct Machine {
    dir: tempfile::TempDir,
    places: Places,
    loops: Vec<String>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["root/etc", "root/var", "root/data", "root/usr/lib/systemd/system", "run", "dev"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for unit in ["backup-server.target", "monitor.target", "multi-user.target"] {
            fs::write(at("root/usr/lib/systemd/system").join(unit), "").unwrap();
        }
        fs::write(at("root/etc/machine-id"), "").unwrap();
        fs::write(at("root/etc/shadow"), "root:!:20000:0:99999:7:::\n").unwrap();
        fs::write(at("cmdline"), format!("infimonitor.slot=a infimonitor.disk={GUID}")).unwrap();
        fs::write(at("kmsg"), "").unwrap();
        for program in ["mkfs.btrfs", "btrfs"] {
            fs::write(at(program), wrapper(program)).unwrap();
            fs::set_permissions(at(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let places = Places {
            root: at("root"),
            run: at("run"),
            command_line: at("cmdline"),
            smbios: at("DMI"),
            kmsg: at("kmsg"),
            mkfs: at("mkfs.btrfs"),
            btrfs: at("btrfs"),
            loadkeys: "/bin/true".into(),
            nft: "cat".into(), // the rules of this machine are not ours
            devices: Devices { sys: at("sys"), dev: at("dev") },
            patience: Duration::from_secs(1),
            ids: Ids { root: 0, shadow: 42, backupd: 971, infimonitor: 973 },
        };
        let mut machine = Self { dir, places, loops: Vec::new() };
        machine.add_disk("vda", GUID);
        machine
    }

    fn add_disk(&mut self, name: &str, guid: &str) {
        let disk = self.dir.path().join("dev").join(name);
        let file = File::options().create_new(true).read(true).write(true).open(&disk).unwrap();
        file.set_len(MINIMUM_DISK_BYTES).unwrap();
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .create_from_device(file, Some(guid.parse().unwrap()))
            .unwrap();
        let sysfs = self.dir.path().join("sys/block").join(name);
        fs::create_dir_all(sysfs.join("queue")).unwrap();
        fs::write(sysfs.join("size"), (MINIMUM_DISK_BYTES / 512).to_string()).unwrap();
        fs::write(sysfs.join("queue/logical_block_size"), "512").unwrap();
        let mut entries = BTreeMap::new();
        for (number, p) in (1..).zip(layout::system_disk(MINIMUM_DISK_BYTES, 512).unwrap()) {
            let type_guid = p.type_guid.parse().unwrap();
            let entry = gpt::partition::Partition {
                part_type_guid: gpt::partition_types::Type {
                    guid: type_guid,
                    os: gpt::partition_types::OperatingSystem::None,
                },
                part_guid: uuid::Uuid::new_v4(),
                first_lba: p.first_lba,
                last_lba: p.last_lba,
                flags: p.flags,
                name: p.name.into(),
            };
            entries.insert(number, entry);
            if ["state", "data"].contains(&p.name) {
                let partition = format!("{name}{number}");
                let image = self.dir.path().join(&partition);
                File::create_new(&image).unwrap().set_len(p.size_bytes(512)).unwrap();
                self.plug_in(&partition);
                let partition = sysfs.join(partition);
                fs::create_dir_all(&partition).unwrap();
                fs::write(partition.join("partition"), number.to_string()).unwrap();
            }
        }
        table.update_partitions(entries).unwrap();
        drop(table.write().unwrap());
    }

    /// Makes a partition's device appear.
    fn plug_in(&mut self, partition: &str) {
        let image = self.dir.path().join(partition);
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image));
        symlink(&device, self.dir.path().join("dev").join(partition)).unwrap();
        self.loops.push(device);
    }

    /// Makes it vanish.
    fn pull_out(&mut self, partition: &str) {
        let link = self.dir.path().join("dev").join(partition);
        let device = fs::read_link(&link).unwrap();
        fs::remove_file(&link).unwrap();
        run(Command::new("losetup").arg("--detach").arg(&device));
        self.loops.retain(|other| Path::new(other) != device);
    }

    /// What the initrd and the system do at a boot. Returns whether *state* is there.
    fn boot(&self) -> bool {
        let places = &self.places;
        let has_state = state::mount(places).unwrap();
        let id = machine_id::ensure(places).unwrap();
        settings::bind(&id, &places.in_root("etc/machine-id")).unwrap();
        if has_state {
            let identity = provision::ensure(places).unwrap();
            settings::target(places, &format!("{}.target", identity.role.name())).unwrap();
            settings::root_password(places).unwrap();
            settings::network(places).unwrap();
            system::settings(places, identity.role).unwrap();
            data::ensure(places, identity.role);
        }
        has_state
    }

    fn shut_down(&self) {
        for target in ["etc/shadow", "etc/machine-id", "data", "var"] {
            let target = self.places.in_root(target);
            if mounts::at(&target).unwrap().is_some() {
                rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
            }
        }
        fs::remove_dir_all(&self.places.run).unwrap();
        fs::create_dir(&self.places.run).unwrap();
        self.loops.iter().for_each(|device| wait_until_unused(device));
    }

    fn partition(&self, number: u32) -> File {
        let path = self.dir.path().join(format!("dev/vda{number}"));
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn head(&self, number: u32) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        self.partition(number).read_exact(&mut bytes).unwrap();
        bytes
    }

    fn patch(&self, number: u32, at: u64, bytes: &[u8]) {
        let mut file = self.partition(number);
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shut_down();
        for device in &self.loops {
            run(Command::new("losetup").args(["--detach", device]));
        }
    }
}

/// Waits until no file system uses a device. A program of another test that runs in a mount namespace of its own keeps what
/// was mounted when it began until it ends, and btrfs writes its last superblock only then.
fn wait_until_unused(device: &str) {
    // Of a block device `O_EXCL` means: nobody has claimed it (open(2)).
    let claim = || {
        let mut options = File::options();
        options.read(true).custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed()).open(device)
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = claim() {
        assert!(Instant::now() < deadline, "{device} is still in use: {error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A script that runs a program of the tools tree.
fn wrapper(program: &str) -> String {
    let command = Toolbox::open().unwrap().command(program);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<_> =
        words.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"))).collect();
    format!("#!/bin/sh\nexec {} \"$@\"\n", quoted.join(" "))
}

fn listing(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u32, u32, u32)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let m = fs::symlink_metadata(&path).unwrap();
        found.insert(path.clone(), (m.ino(), m.mtime(), m.mtime_nsec(), m.mode(), m.uid(), m.gid()));
        if m.is_dir() {
            found.extend(listing(&path));
        }
    }
    found
}

#[test]
fn the_first_boot_makes_everything_and_the_second_changes_nothing() {
    let machine = Machine::new();
    let root = &machine.places.root;
    assert!(machine.boot());
    let state = mounts::at(&root.join("var")).unwrap().unwrap();
    let data = mounts::at(&root.join("data")).unwrap().unwrap();
    assert_eq!((state.fs_type.as_str(), data.fs_type.as_str()), ("btrfs", "btrfs"));
    assert_eq!(fs::read_to_string(root.join("etc/machine-id")).unwrap().len(), 33);
    for name in ["replica", "backups"] {
        assert!(root.join("data").join(name).is_dir());
    }
    let (var, data) = (listing(&root.join("var")), listing(&root.join("data")));
    let modes = |name: &str| {
        let found = var[&machine.places.setting(name)];
        (found.3 & 0o7777, found.4, found.5)
    };
    assert_eq!(modes("tls/key.pem"), (0o640, 0, 973));
    assert_eq!(modes("tls/certificate.pem"), (0o640, 0, 973));
    assert_eq!(modes("auth/password"), (0o640, 0, 973));
    assert_eq!(modes("backupd"), (0o700, 971, 971));
    assert_eq!(modes("machine-id"), (0o444, 0, 0));
    machine.shut_down();
    assert!(machine.boot());
    assert_eq!(listing(&root.join("var")), var);
    assert_eq!(listing(&root.join("data")), data);
    // ... and so does a second call in the same boot.
    assert!(machine.boot());
    assert_eq!(listing(&root.join("var")), var);
    assert!(!machine.places.runtime("state-problem").exists());
    assert!(!machine.places.runtime("data-problem").exists());
}

#[test]
fn a_stored_root_password_is_bound_over_the_shadow_file() {
    let machine = Machine::new();
    assert!(machine.boot());
    let hash = format!("$6$salt${}", "a".repeat(86));
    fs::write(machine.places.setting("root-password-hash"), &hash).unwrap();
    machine.shut_down();
    assert!(machine.boot());
    let shadow = machine.places.in_root("etc/shadow");
    assert_eq!(fs::read_to_string(&shadow).unwrap(), format!("root:{hash}:20000:0:99999:7:::\n"));
    let metadata = fs::metadata(&shadow).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 0, 42));
}

#[test]
fn a_foreign_state_partition_is_left_alone_and_the_machine_says_so() {
    let machine = Machine::new();
    machine.patch(9, 1024 + 56, &[0x53, 0xef]);
    let before = machine.head(9);
    assert!(!machine.boot());
    assert_eq!(machine.head(9), before);
    let var = mounts::at(&machine.places.in_root("var")).unwrap().unwrap();
    assert_eq!(var.fs_type, "tmpfs");
    let problem = fs::read_to_string(machine.places.runtime("state-problem")).unwrap();
    assert!(problem.contains("partition state") && problem.contains("is no btrfs"), "{problem}");
    assert!(!machine.places.setting("identity.json").exists());
}

#[test]
fn a_broken_btrfs_is_not_made_anew() {
    let machine = Machine::new();
    assert!(machine.boot());
    machine.shut_down();
    machine.patch(9, 65_536 + 128, &[0xff; 64]); // superblock: checksum no longer matches
    machine.patch(10, 65_536 + 128, &[0xff; 64]);
    let (state, data) = (machine.head(9), machine.head(10));
    assert!(!machine.boot());
    let problem = fs::read_to_string(machine.places.runtime("state-problem")).unwrap();
    assert!(problem.contains("cannot mount") && problem.contains("(btrfs)"), "{problem}");
    data::ensure(&machine.places, Role::BackupServer);
    let problem = fs::read_to_string(machine.places.runtime("data-problem")).unwrap();
    assert!(problem.contains("cannot mount"), "{problem}");
    assert_eq!((machine.head(9), machine.head(10)), (state, data));
}

#[test]
fn a_file_system_whose_making_was_cut_off_is_made_again() {
    let machine = Machine::new();
    machine.patch(9, 65_536 + 64, b"!BHRfS_M");
    machine.patch(10, 65_536 + 64, b"!BHRfS_M");
    assert!(machine.boot());
    assert!(machine.places.in_root("data/backups").is_dir());
}

/// A mirror as the installer leaves it: *state* with the plan in it, *data* blank.
fn as_installed(machine: &Machine) {
    let dev = machine.dir.path().join("dev");
    let state = ["vda9", "vdb9"].map(|name| dev.join(name));
    let paths = state.each_ref().map(PathBuf::as_path);
    btrfs::make(&machine.places.mkfs, &paths, "state", Profile::Raid1).unwrap();
    let var = machine.places.in_root("var");
    btrfs::mount(&state, &var, btrfs::STATE_FLAGS, false).unwrap();
    let disks = [GUID, OTHER_GUID].map(|guid| guid.parse().unwrap()).into();
    let plan = Recorded { profile: Profile::Raid1, disks, titles: Default::default() };
    let file = machine.places.setting(recorded::FILE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, serde_json::to_string(&plan).unwrap()).unwrap();
    rustix::mount::unmount(&var, rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
fn a_mirror_whose_making_was_cut_between_its_disks_is_made_again() {
    for half_made in ["vda10", "vdb10"] {
        let mut machine = Machine::new();
        machine.add_disk("vdb", OTHER_GUID);
        as_installed(&machine);
        let dev = machine.dir.path().join("dev");
        let data = ["vda10", "vdb10"].map(|name| dev.join(name));
        let paths = data.each_ref().map(PathBuf::as_path);
        btrfs::make(&machine.places.mkfs, &paths, "data", Profile::Raid1).unwrap();
        let mut device = File::options().write(true).open(dev.join(half_made)).unwrap();
        device.seek(SeekFrom::Start(65_536 + 64)).unwrap();
        device.write_all(b"!BHRfS_M").unwrap();
        drop(device);
        assert!(machine.boot(), "{half_made}");
        assert!(machine.places.in_root("data/backups").is_dir(), "{half_made}");
        let problem = fs::read_to_string(machine.places.runtime("data-degraded"));
        assert!(problem.is_err(), "{half_made}: {problem:?}");
        machine.shut_down();
    }
}

#[test]
fn the_disk_that_was_replaced_does_not_start_a_new_machine() {
    let mut machine = Machine::new();
    machine.add_disk("vdb", OTHER_GUID);
    assert!(machine.boot());
    let identity = fs::read_to_string(machine.places.in_root("var/lib/infimonitor/identity.json")).unwrap();
    let dev = machine.dir.path().join("dev");
    for (partition, target) in [("vdb9", "var"), ("vdb10", "data")] {
        let status = std::process::Command::new(&machine.places.btrfs)
            .args(["replace", "start", "-B", "1"])
            .args([dev.join(partition), machine.places.in_root(target)])
            .status()
            .unwrap();
        assert!(status.success());
    }
    machine.shut_down();
    // Firmware starts from the old one again.
    assert!(machine.boot());
    let again = fs::read_to_string(machine.places.in_root("var/lib/infimonitor/identity.json")).unwrap();
    assert_eq!(again, identity);
    assert!(machine.places.in_root("data/backups").is_dir());
    machine.shut_down();
}

#[test]
fn a_blank_disk_beside_the_machines_own_does_not_start_a_new_machine() {
    let mut machine = Machine::new();
    machine.add_disk("vdb", OTHER_GUID);
    assert!(machine.boot());
    machine.shut_down();
    let other = format!("infimonitor.slot=a infimonitor.disk={OTHER_GUID}");
    fs::write(&machine.places.command_line, other).unwrap();
    assert!(!machine.boot());
    let problem = fs::read_to_string(machine.places.runtime("state-problem")).unwrap();
    assert!(problem.contains("of another disk does. Start from that one"), "{problem}");
}

#[test]
fn a_mirror_is_used_without_a_disk_and_a_disk_that_was_away_is_not_mounted_in() {
    let mut machine = Machine::new();
    machine.add_disk("vdb", OTHER_GUID);
    let dev = machine.dir.path().join("dev");
    let problem = |machine: &Machine, name: &str| fs::read_to_string(machine.places.runtime(name)).ok();
    as_installed(&machine);
    let superblock = |partition: &str| {
        let mut device = File::open(dev.join(partition)).unwrap();
        contents::superblock(&contents::read_head(&mut device).unwrap()).unwrap()
    };
    assert!(machine.boot());
    assert_eq!(problem(&machine, "data-degraded"), None);
    machine.shut_down();
    let both = [superblock("vda10"), superblock("vdb10")];
    assert_eq!(
        (both[0].fsid, both[0].num_devices, both[0].generation),
        (both[1].fsid, 2, both[1].generation)
    );

    // One is pulled out.
    for partition in ["vdb9", "vdb10"] {
        machine.pull_out(partition);
    }
    assert!(machine.boot());
    for name in ["state-degraded", "data-degraded"] {
        let text = problem(&machine, name).unwrap();
        assert!(text.contains("without 1 of its 2 disks"), "{text}");
    }
    fs::write(machine.places.in_root("data/written-meanwhile"), "x").unwrap();
    machine.shut_down();

    // It is put back, and even started from.
    for partition in ["vdb9", "vdb10"] {
        machine.plug_in(partition);
    }
    let left_behind = superblock("vdb10");
    for guid in [GUID, OTHER_GUID] {
        fs::write(&machine.places.command_line, format!("infimonitor.slot=a infimonitor.disk={guid}"))
            .unwrap();
        assert!(machine.boot());
        let text = problem(&machine, "data-degraded").unwrap();
        assert!(text.contains("vdb10 was away"), "{text}");
        assert!(machine.places.in_root("data/written-meanwhile").exists());
        machine.shut_down();
        assert_eq!(superblock("vdb10"), left_behind, "it was mounted in");
    }
}
