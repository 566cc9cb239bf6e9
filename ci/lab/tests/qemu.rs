//! QEMU itself, with disks that hold nothing: what the lab promises about VMs as processes. No operating system is
//! booted, so these take seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Bus, Firmware, Lab, Machine, MachineEnded};

/// A lab in a folder that goes with the test, and an empty disk image.
fn lab() -> anyhow::Result<(tempfile::TempDir, Lab, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("empty.raw");
    fs::File::create(&image)?.set_len(64 << 20)?;
    let lab = Lab::lasting(&folder.path().join("run"))?;
    Ok((folder, lab, image))
}

fn process_exists(id: &str) -> bool {
    Path::new("/proc").join(id.trim()).exists()
}

#[test]
fn a_killed_vm_is_gone_and_starts_again_at_the_same_address() {
    let (_folder, lab, image) = lab().unwrap();
    let machine = lab.machine("one").disk(&image).user_nic("52:54:00:00:00:01", &[50000]).start().unwrap();
    let endpoint = machine.endpoint(50000).unwrap();
    let first = fs::read_to_string(machine.folder().join("pid")).unwrap();
    assert!(process_exists(&first));
    assert!(format!("{:#}", machine.boot_again().unwrap_err()).contains("is running"));

    machine.kill().unwrap();
    assert!(!process_exists(&first));
    assert!(machine.alive().unwrap_err().is::<MachineEnded>());
    machine.kill().unwrap();

    machine.boot_again().unwrap();
    assert_eq!(machine.endpoint(50000).unwrap(), endpoint);
    assert!(machine.endpoint(2121).unwrap_err().to_string().contains("2121"));
    let second = fs::read_to_string(machine.folder().join("pid")).unwrap();
    assert_ne!(first, second);
    drop(lab);
    assert!(!process_exists(&second), "it outlived its lab");
}

#[test]
fn the_firmware_speaks_on_the_serial_port_and_the_screen_can_be_seen() {
    let (_folder, lab, image) = lab().unwrap();
    for firmware in [Firmware::Ovmf, Firmware::OvmfSecureBoot, Firmware::SeaBios] {
        let name = format!("{firmware:?}");
        let machine = lab
            .machine(&name)
            .disk(&image)
            .memory_mib(512)
            .firmware(firmware)
            .bus(Bus::VirtioScsi)
            .extra_disk(1, Bus::VirtioBlk, "second")
            .start()
            .unwrap();
        if firmware != Firmware::SeaBios {
            machine.wait_for_serial("BdsDxe", Duration::from_secs(120)).unwrap();
        }
        let png = machine.folder().join("screen.png");
        machine.screendump(&png).unwrap();
        assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
        machine.kill().unwrap();
    }
}

#[test]
fn both_ends_of_a_link_come_and_go() {
    let (_folder, lab, image) = lab().unwrap();
    let (listening, connecting) = lab.link("cable");
    // The connecting end first: it must wait for the other.
    let start = |name: &str, mac: &str, end| {
        lab.machine(name)
            .disk(&image)
            .memory_mib(256)
            .firmware(Firmware::SeaBios)
            .link_nic(mac, end)
            .start()
            .unwrap()
    };
    let one = start("one", "52:54:00:00:00:01", connecting);
    let other = start("other", "52:54:00:00:00:02", listening);
    // The end that was there all the time sees the other come.
    let connected = |machine: &Machine| {
        machine.qmp(|qmp| qmp.wait_event("NETDEV_STREAM_CONNECTED", Duration::from_secs(30))).unwrap();
    };
    connected(&one);
    for (goes, stays) in [(&one, &other), (&other, &one)] {
        goes.kill().unwrap();
        goes.boot_again().unwrap();
        connected(stays);
    }
    one.set_link(0, false).unwrap();
    one.set_link(0, true).unwrap();
    assert!(format!("{:#}", one.set_link(3, false).unwrap_err()).contains("nic3"));
}

#[test]
fn a_lasting_vm_goes_on_until_its_image_changes() {
    let (_folder, lab, image) = lab().unwrap();
    let start = || lab.machine("one").disk(&image).memory_mib(256).firmware(Firmware::SeaBios).start();
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let machine = start().unwrap();
    let disk = machine.folder().join("disk.qcow2");
    let first = inode(&disk);
    machine.kill().unwrap();
    let machine = start().unwrap();
    assert_eq!(inode(&disk), first);
    machine.kill().unwrap();

    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let message = format!("{:#}", start().unwrap_err());
    assert!(message.contains("was built anew") && message.contains("--fresh"), "{message}");
}

#[test]
fn a_qemu_that_cannot_start_says_why() {
    let (_folder, lab, image) = lab().unwrap();
    let failed = lab.machine("one").disk(&image).user_nic("no-mac", &[]).start();
    let message = format!("{:#}", failed.unwrap_err());
    assert!(
        message.contains("VM one is not running: exit status: 1") && message.contains("mac"),
        "{message}"
    );
    let failed = lab.machine("two").disk(Path::new("/nonexistent/disk.raw")).start();
    assert!(format!("{:#}", failed.unwrap_err()).contains("no disk image /nonexistent/disk.raw"));
}
