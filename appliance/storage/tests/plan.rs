//! Machines, as `lsblk` shows them, and the layouts that they get.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::collections::BTreeMap;
use std::path::PathBuf;

use storage::inventory::{Disk, parse};
use storage::plan::{Filter, Firmware, Plan, Profile, Wish, plan};
use storage::smart::Health;

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn machine_behind(name: &str, drivers: &[(&str, &str)]) -> Vec<Disk> {
    let drivers: BTreeMap<_, _> =
        drivers.iter().map(|(device, driver)| (PathBuf::from(device), (*driver).to_owned())).collect();
    parse(&fixture(name), &drivers).unwrap()
}

fn machine(name: &str) -> Vec<Disk> {
    machine_behind(name, &[])
}

fn planned(name: &str) -> Plan {
    plan(&machine(name), &Wish::default(), Firmware::Uefi).unwrap()
}

/// What is taken, by the end of its device file.
fn taken(plan: &Plan) -> Vec<&str> {
    plan.disks.iter().map(|disk| disk.disk.device.to_str().unwrap().trim_start_matches("/dev/")).collect()
}

/// Why a disk is left out.
fn reason<'a>(plan: &'a Plan, device: &str) -> &'a str {
    let is_it = |out: &&storage::plan::LeftOut| out.disk.device.ends_with(device);
    &plan.left_out.iter().find(is_it).unwrap().reason
}

fn named(filter: Filter) -> Wish {
    Wish { disks: vec![filter], require_empty: true }
}

fn path(path: &str) -> Filter {
    Filter { path: Some(path.into()), ..Filter::default() }
}

#[test]
fn blank_disks_get_the_profile_of_their_number() {
    // Usable gigabytes: what is left of each disk after 4.6 GB of boot set and state.
    let table: [(&str, &[&str], Profile, u64); 8] = [
        ("one-virtio", &["vda"], Profile::Single, 48),
        ("two-equal", &["sda", "sdb"], Profile::Raid1, 995),
        ("four-equal", &["sda", "sdb", "sdc", "sdd"], Profile::Raid10, 1990),
        ("unequal", &["sda", "sdb", "sdc"], Profile::Raid1, 1490),
        ("four-unequal", &["sda", "sdb", "sdc", "sdd"], Profile::Raid1, 2990),
        ("nvme", &["nvme0n1", "nvme1n1"], Profile::Raid1, 955),
        ("usb-installer", &["sda"], Profile::Single, 995),
        ("with-data", &["sdb"], Profile::Single, 995),
    ];
    for (name, disks, profile, usable_gb) in table {
        let plan = planned(name);
        assert_eq!((taken(&plan).as_slice(), plan.profile), (disks, profile), "{name}");
        assert!(
            plan.usable_bytes.abs_diff(usable_gb * 1_000_000_000) < 2_000_000_000,
            "{name}: {}",
            plan.usable_bytes
        );
        for disk in &plan.disks {
            let names: Vec<_> = disk.partitions.iter().map(|partition| partition.name).collect();
            assert_eq!(names.first(), Some(&"bios-boot"), "{name}");
            assert_eq!(names.last(), Some(&"data"), "{name}");
        }
    }
}

#[test]
fn what_is_left_out_says_why() {
    let table: [(&str, &str, &str); 3] = [
        ("usb-installer", "sdb", "is in use: /dev/sdb is mounted at /run/medium"),
        (
            "with-data",
            "sda",
            "is not empty: it holds a partition table (gpt), vfat \"EFI System Partition\" on /dev/sda1, \
             LVM2_member on /dev/sda2",
        ),
        (
            "mixed",
            "nvme0n1",
            "is an SSD and the others are hard disks: a mirror is as slow as its slowest disk; name all to use them together",
        ),
    ];
    for (name, device, expected) in table {
        assert_eq!(reason(&planned(name), device), expected, "{name}");
    }
    let error = plan(&machine("in-use"), &Wish::default(), Firmware::Uefi).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no disk can be used: /dev/sda (1.0 TB, S, 1) is in use: /dev/sda is mounted at /; \
         /dev/sdb (1.0 TB, S, 2) is in use: part of raid1 /dev/md0; \
         /dev/sdc (1.0 TB, S, 3) can only be read; /dev/sdd (8 GB, S, 4) is smaller than 20 GB"
    );
    assert_eq!(
        plan(&[], &Wish::default(), Firmware::Uefi).unwrap_err().to_string(),
        "no disk can be used: the machine has none"
    );
}

#[test]
fn firmware_raid_is_no_blank_disk() {
    let error = plan(&machine("imsm"), &named(path("/dev/sda")), Firmware::Uefi).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/dev/sda (1.0 TB, ST1000NM0008-2F2100, ZFA0a) was named and cannot be used: it belongs to a RAID of the \
         mainboard's firmware (isw_raid_member): delete that RAID in the firmware and set the controller to AHCI; \
         the mirror is made by the file system"
    );
}

#[test]
fn a_disk_of_4096_byte_sectors_needs_uefi() {
    let error = plan(&machine("4kn"), &Wish::default(), Firmware::Bios).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no disk can be used: /dev/sda (8.0 TB, MG06ACA800E, 4KN1) has sectors of 4096 bytes, from which no BIOS \
         boots: switch the machine to UEFI"
    );
    let plan = planned("4kn");
    assert!(plan.disks[0].partitions.iter().all(|partition| partition.offset_bytes(4096) % (1 << 20) == 0));
}

#[test]
fn a_volume_of_a_raid_controller_is_one_disk_whose_members_are_not_visible() {
    let disks = machine_behind("megaraid-volume", &[("/dev/sda", "megaraid_sas")]);
    let plan = plan(&disks, &Wish::default(), Firmware::Bios).unwrap();
    assert_eq!(plan.profile, Profile::Single);
    assert_eq!(
        plan.notes,
        [
            "/dev/sda is behind a RAID controller (megaraid_sas): how its disks are is not visible here; watch the \
          controller's own report."
        ]
    );
    assert_eq!(disks[0].model.as_deref(), Some("PERC H730P Mini"));
}

#[test]
fn partitions_keep_to_the_stripe_and_not_to_nonsense() {
    let mut disk = machine("two-equal").remove(0);
    // Stripe, and what partitions are aligned to, in KiB; three data disks of 512 KiB have a stripe of 1.5 MiB.
    for (stripe, aligned) in [(0, 1024), (64, 1024), (256, 1024), (1536, 3072), (4096, 4096)] {
        disk.optimal_io_bytes = stripe << 10;
        let plan = plan(std::slice::from_ref(&disk), &Wish::default(), Firmware::Uefi).unwrap();
        for partition in &plan.disks[0].partitions[1..] {
            assert_eq!(partition.offset_bytes(512) % (aligned << 10), 0, "{stripe} {}", partition.name);
        }
    }
    disk.optimal_io_bytes = 33_553_920;
    let plan = plan(&[disk], &Wish::default(), Firmware::Uefi).unwrap();
    assert!(
        plan.notes.iter().any(|note| note.contains("33553920 bytes, which makes no sense")),
        "{:?}",
        plan.notes
    );
}

#[test]
fn what_is_named_is_taken_or_refused_and_nothing_else() {
    let blank = plan(&machine("with-data"), &named(path("/dev/sda")), Firmware::Uefi).unwrap_err();
    assert!(
        blank.to_string().starts_with(
            "/dev/sda (1.0 TB, ST1000NM0008, A) is not empty, it holds a partition table (gpt), "
        ),
        "{blank}"
    );
    let wish = Wish { require_empty: false, ..named(path("/dev/sda")) };
    let erased = plan(&machine("with-data"), &wish, Firmware::Uefi).unwrap();
    assert_eq!(taken(&erased), ["sda"]);
    assert!(
        erased.notes[0].starts_with("/dev/sda (1.0 TB, ST1000NM0008, A) is erased: it holds "),
        "{:?}",
        erased.notes
    );
    assert_eq!(reason(&erased, "sdb"), "was not named");

    let mixed = Wish { disks: vec![Filter::default()], require_empty: true };
    let all = plan(&machine("mixed"), &mixed, Firmware::Uefi).unwrap();
    assert_eq!(taken(&all), ["sda", "sdb", "nvme0n1"]);
    assert!(
        all.notes.iter().any(|note| note.starts_with("SSDs and hard disks are mixed")),
        "{:?}",
        all.notes
    );

    let table = [
        (Filter { model: Some("intel".into()), ..Filter::default() }, vec!["nvme0n1"]),
        (Filter { serial: Some("H2".into()), ..Filter::default() }, vec!["sdb"]),
        (Filter { min_size: Some(900_000_000_000), ..Filter::default() }, vec!["sda", "sdb"]),
        (Filter { max_size: Some(900_000_000_000), ..Filter::default() }, vec!["nvme0n1"]),
    ];
    for (filter, expected) in table {
        let plan = plan(&machine("mixed"), &named(filter.clone()), Firmware::Uefi).unwrap();
        assert_eq!(taken(&plan), expected, "{filter}");
    }
    let none = Filter { model: Some("intel".into()), min_size: Some(900_000_000_000), ..Filter::default() };
    assert_eq!(
        plan(&machine("mixed"), &named(none), Firmware::Uefi).unwrap_err().to_string(),
        "no disk is model \"intel\", at least 900 GB; there are: /dev/sda (1.0 TB, ST1000NM0008, H1), \
         /dev/sdb (1.0 TB, ST1000NM0008, H2), /dev/nvme0n1 (480 GB, INTEL SSDPE, N1)"
    );
}

#[test]
fn a_disk_that_says_that_it_fails_is_taken_only_by_name() {
    let mut disks = machine("two-equal");
    disks[1].health = Health::Failing;
    let blank = plan(&disks, &Wish::default(), Firmware::Uefi).unwrap();
    assert_eq!(taken(&blank), ["sda"]);
    assert_eq!(reason(&blank, "sdb"), "says that it fails soon (SMART); name it to use it all the same");
    let by_name = plan(&disks, &named(path("/dev/sdb")), Firmware::Uefi).unwrap();
    assert_eq!(taken(&by_name), ["sdb"]);
    assert!(
        by_name.notes[0].contains("says that it fails soon (SMART): take another"),
        "{:?}",
        by_name.notes
    );
}

#[test]
fn disks_that_cannot_be_mirrored_whole_say_how_much_stays_unused() {
    let plan = planned("unequal");
    assert!(
        plan.notes.iter().any(|note| note.contains("2.5 TB of the largest disk stay unused")),
        "{:?}",
        plan.notes
    );
    assert_eq!(planned("two-equal").notes, Vec::<String>::new());
}

/// Two disks, `/dev/sda` and `/dev/sdb`, as `lsblk` shows them with these identities: WWN, serial number.
fn two_disks(identities: [(&str, &str); 2]) -> Vec<Disk> {
    let mut text = fixture("two-equal");
    for (device, (wwn, serial)) in ["A", "B"].into_iter().zip(identities) {
        let before = format!("\"serial\": \"ZFA0{}\", \"wwn\": null", device.repeat(4));
        assert!(text.contains(&before));
        text = text.replace(&before, &format!("\"serial\": \"{serial}\", \"wwn\": \"{wwn}\""));
    }
    parse(&text, &BTreeMap::new()).unwrap()
}

#[test]
fn disks_with_one_eui_and_their_own_serial_numbers_are_two() {
    let disks = two_disks([("eui.0025385b71b0a1c2", "S1"), ("eui.0025385b71b0a1c2", "S2")]);
    let plan = plan(&disks, &Wish::default(), Firmware::Uefi).unwrap();
    assert_eq!((taken(&plan), plan.profile), (vec!["sda", "sdb"], Profile::Raid1));
}

#[test]
fn of_a_disk_with_two_paths_the_one_that_is_named_is_taken() {
    let disks = two_disks([("naa.5000c500a1b2c3d4", "S1"), ("naa.5000c500a1b2c3d4", "S1")]);
    let none = plan(&disks, &Wish::default(), Firmware::Uefi).unwrap_err().to_string();
    assert!(
        none.contains(
            "is the same disk as /dev/sdb, by another path to it: name one of them by its path to use it"
        ),
        "{none}"
    );
    let by_size = Filter { min_size: Some(10_000_000_000), ..Filter::default() };
    assert!(plan(&disks, &named(by_size), Firmware::Uefi).is_err());
    let one = plan(&disks, &named(path("/dev/sdb")), Firmware::Uefi).unwrap();
    assert_eq!((taken(&one), one.profile), (vec!["sdb"], Profile::Single));
    assert!(reason(&one, "sda").contains("is the same disk as /dev/sdb"), "{}", reason(&one, "sda"));
    // Both are meant by these, and a mirror of them would be none.
    for both in [
        Wish { disks: vec![path("/dev/sda"), path("/dev/sdb")], require_empty: true },
        named(Filter { serial: Some("s1".into()), ..Filter::default() }),
    ] {
        let error = plan(&disks, &both, Firmware::Uefi).unwrap_err().to_string();
        assert!(error.contains("a disk cannot mirror itself"), "{error}");
    }
}

#[test]
fn a_disk_is_named_as_people_and_tools_write_it() {
    let mut disks = machine("two-equal");
    disks[1].serial = Some("WD-WCC 4N12".into());
    disks[1].model = Some("WDC_WD10EZEX 00B".into());
    disks[1].links =
        vec!["/dev/disk/by-id/ata-WDC_4N12".into(), "/dev/disk/by-path/pci-0000:00:1f.2-ata-2".into()];
    let serial = |text: &str| Filter { serial: Some(text.into()), ..Filter::default() };
    let model = |text: &str| Filter { model: Some(text.into()), ..Filter::default() };
    for filter in [
        path("/dev/disk/by-id/ata-WDC_4N12"),
        path("/dev/disk/by-path/pci-0000:00:1f.2-ata-2"),
        serial("  WD-WCC 4N12 "),
        serial("wd-wcc 4n12"),
        serial("WD-WCC_4N12"),
        serial("WD-WCC   4N12"),
        model(" wd10ezex_00b "),
        model("WDC WD10EZEX"),
    ] {
        assert_eq!(filter.check(), Ok(()), "{filter}");
        assert_eq!(
            taken(&plan(&disks, &named(filter.clone()), Firmware::Uefi).unwrap()),
            ["sdb"],
            "{filter}"
        );
    }
    let gone =
        plan(&disks, &named(path("/dev/disk/by-id/ata-GONE")), Firmware::Uefi).unwrap_err().to_string();
    assert!(gone.starts_with("no disk is path /dev/disk/by-id/ata-GONE; there are: "), "{gone}");
}

#[test]
fn a_path_that_no_disk_has_is_refused_before_a_machine_is_there() {
    for good in [
        "/dev/sda",
        "/dev/sdaa",
        "/dev/vdb",
        "/dev/xvda",
        "/dev/nvme0n1",
        "/dev/mmcblk0",
        "/dev/disk/by-id/nvme-eui.0025385b71b0a1c2",
        "/dev/disk/by-id/ata-Disk-party2",
        "/dev/disk/by-path/pci-0000:00:1f.2-ata-2",
    ] {
        assert_eq!(path(good).check(), Ok(()), "{good}");
    }
    let table = [
        ("sda", "is not a device file, such as /dev/sda"),
        ("/dev", "is not a device file"),
        ("/dev/", "is not a device file"),
        ("/dev/sda ", "is not a device file"),
        ("/dev/../dev/sda", "is not a device file"),
        ("/dev/disk//by-id/a", "is not a device file"),
        ("/dev/sda1", "is a partition; the disk is /dev/sda"),
        ("/dev/nvme0n1p3", "is a partition; the disk is /dev/nvme0n1"),
        ("/dev/mmcblk0p2", "is a partition; the disk is /dev/mmcblk0"),
        ("/dev/nvme0", "is a controller; a disk behind it is /dev/nvme0n1"),
        ("/dev/disk/by-id/ata-EVO_S5-part1", "is a partition; name the disk that it is on"),
        ("/dev/disk/by-id/md-uuid-1", "is a volume over disks"),
        ("/dev/disk/by-uuid/1234", "is a link to what is on a disk"),
        ("/dev/disk/by-label/data", "those in /dev/disk/by-id and /dev/disk/by-path name a disk"),
        ("/dev/mapper/vg-lv", "is a link to what is on a disk, or to no disk"),
        ("/dev/md0", "is not a disk that a system is installed on"),
        ("/dev/dm-1", "is not a disk that a system is installed on"),
        ("/dev/sr0", "is not a disk that a system is installed on"),
        ("/dev/loop7", "is not a disk that a system is installed on"),
    ];
    for (bad, cause) in table {
        let error = path(bad).check().unwrap_err();
        assert!(error.contains(cause), "{bad}: {error}");
    }
}
