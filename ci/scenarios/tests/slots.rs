//! A new system in the other slot proves itself, or the machine is back on the old one within three tries; and a slot
//! that was good is never restarted because of its data.

use anyhow::{Result, ensure};
use api::Level;
use lab::{BOOT, Bus, COMMAND, Machine, SHUTDOWN, scenario, wait_until};
use scenarios::{BootImage, User, WRITE_SLOT, backup_server_with, built_disk, payload};
use std::time::Duration;

/// Three tries that fail, each by running into a watchdog, and a boot that succeeds.
const FALLBACK: Duration = Duration::from_secs(900);
/// A good slot that wanted to restart because of its data would have done it by then.
const STEADY: Duration = Duration::from_secs(60);

/// Writes a boot image (by serial number) and the common root into the slot that does not run.
fn write_slot(server: &Machine, boot: &str) -> Result<()> {
    let said = server.run_ok(
        &format!(
            "/usr/lib/infimonitor/slots write --boot /dev/disk/by-id/virtio-{boot} \
             --root /dev/disk/by-id/virtio-root --verity /dev/disk/by-id/virtio-verity"
        ),
        WRITE_SLOT,
    )?;
    ensure!(said.contains("starts next"), "{said}");
    Ok(())
}

/// Waits until the check `system` says this.
fn wait_for_system(user: &User, level: Level, message: &str, within: Duration) -> Result<()> {
    wait_until(message, within, || {
        let check = user.check("system")?;
        ensure!(check.level == level && check.message == message, "{check:?}");
        Ok(())
    })
}

/// How often the kernel of a slot was started since the last restart that was asked for.
fn starts(server: &Machine, slot: &str) -> Result<usize> {
    let started = format!("infimonitor.slot={slot} ");
    let lines = server.serial()?;
    Ok(lines.lines().filter(|line| line.contains("] Command line:") && line.contains(&started)).count())
}

#[test]
fn a_new_system_proves_itself_or_the_old_one_is_back_within_three_tries() -> anyhow::Result<()> {
    scenario("slots", |lab| {
        let good =
            BootImage { name: "good", version: "9.0.2", options: "" }.make(lab.toolbox(), lab.folder())?;
        let (end, _) = lab.link("nobody-else");
        let server = backup_server_with(lab, end, |builder| {
            builder
                .image("good", &good)
                .image("root", &payload("root.erofs"))
                .image("verity", &payload("root.verity"))
        })?;
        let user = User::of(&server)?;
        let first = user.wait_for_api()?.versions.server;
        wait_for_system(&user, Level::Ok, &format!("Version {first} runs from slot a."), COMMAND)?;

        // What does not belong together is refused.
        let wrong = server.run(
            "/usr/lib/infimonitor/slots write --boot /dev/disk/by-id/virtio-good \
             --root /dev/disk/by-id/virtio-verity --verity /dev/disk/by-id/virtio-root",
            WRITE_SLOT,
        )?;
        ensure!(wrong.success("slots write").is_err(), "images that do not belong together were written");

        write_slot(&server, "good")?;
        let expected =
            format!("Version {first} runs from slot a; version 9.0.2 in slot b starts at the next restart.");
        wait_for_system(&user, Level::Ok, &expected, COMMAND)?;
        server.reboot(SHUTDOWN)?;
        wait_for_system(&user, Level::Ok, "Version 9.0.2 runs from slot b.", BOOT)?;
        assert_eq!((starts(&server, "a")?, starts(&server, "b")?), (0, 1));

        // Its boot partition is damaged: GRUB takes the other slot at once; which lives with a full data volume.
        write_slot(&server, "good")?;
        server.run_ok(
            "fallocate -l $(( $(df --output=avail -B1 /data | tail -n 1) - 100000000 )) /data/fill && \
             dd if=/dev/zero of=/dev/disk/by-partlabel/boot-a bs=4096 count=1; sync",
            COMMAND,
        )?;
        server.reboot(SHUTDOWN)?;
        let expected = "Slot a should run, and cannot be read; version 9.0.2 runs from slot b instead.";
        wait_for_system(&user, Level::Warn, expected, BOOT)?;
        wait_until("the full volume in the status", COMMAND, || {
            let check = user.check("free-space")?;
            ensure!(check.level == Level::Fail && check.message.contains("full"), "{check:?}");
            Ok(())
        })?;
        assert_eq!((starts(&server, "a")?, starts(&server, "b")?), (0, 1));

        // Its root is damaged: verity notices, the kernel panics and restarts, until the other slot is taken; which
        // lives with a lost data volume.
        write_slot(&server, "good")?;
        server.run_ok(
            "dd if=/dev/urandom of=/dev/disk/by-partlabel/root-a bs=1M count=8 && \
             systemctl stop infimonitor-backupd infimonitor-hostd infimonitor-ftpd && umount /data && \
             dd if=/dev/zero of=/dev/disk/by-partlabel/data bs=1M count=65; sync",
            COMMAND,
        )?;
        server.reboot(SHUTDOWN)?;
        let failed = "Version 9.0.2 in slot a did not come up; version 9.0.2 runs from slot b instead.";
        wait_for_system(&user, Level::Warn, failed, FALLBACK)?;
        let lost = user.check("data-volume")?;
        assert!(lost.level == Level::Fail && lost.message.contains("is blank, and it held"), "{lost:?}");
        server.wait_for_serial("infimonitor data-problem: ", COMMAND)?;
        std::thread::sleep(STEADY);
        assert_eq!((starts(&server, "a")?, starts(&server, "b")?), (3, 1));
        user.status().map(drop)
    })
}

/// Tries that take minutes each.
mod full {
    use super::*;

    #[test]
    fn a_new_system_that_fails_its_check_or_hangs_is_given_up_after_three_tries() -> anyhow::Result<()> {
        let variants = [
            ("unhealthy", "9.0.3", "systemd.mask=infimonitor-backupd.service"),
            // The root's systemd never takes over from the initrd's.
            ("hanging", "9.0.4", "init=/usr/bin/cat systemd.watchdog_sec=20"),
        ];
        scenario("slots-full", |lab| {
            let (end, _) = lab.link("nobody-else");
            let mut images = Vec::new();
            for (name, version, options) in variants {
                let image = BootImage { name, version, options }.make(lab.toolbox(), lab.folder())?;
                images.push((name, image));
            }
            let server = backup_server_with(lab, end, |mut builder| {
                for (name, image) in &images {
                    builder = builder.image(name, image);
                }
                builder.image("root", &payload("root.erofs")).image("verity", &payload("root.verity"))
            })?;
            let user = User::of(&server)?;
            let first = user.wait_for_api()?.versions.server;
            for (name, version, _) in variants {
                write_slot(&server, name)?;
                server.reboot(SHUTDOWN)?;
                let failed = format!(
                    "Version {version} in slot b did not come up; version {first} runs from slot a instead."
                );
                wait_for_system(&user, Level::Warn, &failed, FALLBACK)?;
                assert_eq!((starts(&server, "a")?, starts(&server, "b")?), (1, 3), "{name}");
            }
            Ok(())
        })
    }

    /// A second disk that carries the system and is a member of *state* (design D4) gets what the first one gets.
    #[test]
    fn every_disk_of_the_system_gets_a_new_system_and_its_state() -> anyhow::Result<()> {
        scenario("slots-disks", |lab| {
            let toolbox = lab.toolbox();
            let good =
                BootImage { name: "good", version: "9.0.2", options: "" }.make(toolbox, lab.folder())?;
            // The same partitions under GUIDs of their own, as an installer makes them.
            let copy = lab.folder().join("copy.raw");
            let mut command = toolbox.command("cp");
            ensure!(command.arg("--sparse=always").arg(built_disk()?).arg(&copy).status()?.success(), "cp");
            let randomized = toolbox.command("sgdisk").arg("-G").arg(&copy).output()?;
            ensure!(randomized.status.success(), "{}", String::from_utf8_lossy(&randomized.stdout));
            let (end, _) = lab.link("nobody-else");
            let server = backup_server_with(lab, end, |builder| {
                builder
                    .extra_disk(20, Bus::VirtioBlk, "second")
                    .image("copy", &copy)
                    .image("good", &good)
                    .image("root", &payload("root.erofs"))
                    .image("verity", &payload("root.verity"))
            })?;
            let user = User::of(&server)?;
            user.wait_for_api()?;
            server.run_ok(
                "second=/dev/disk/by-id/virtio-second && \
                 dd if=/dev/disk/by-id/virtio-copy of=$second bs=1M count=2600 conv=sparse,fsync 2>&1 && \
                 blockdev --rereadpt $second && udevadm settle && \
                 btrfs device add $second-part9 /var",
                WRITE_SLOT,
            )?;
            write_slot(&server, "good")?;
            let second = "/dev/disk/by-id/virtio-second-part";
            let same = |part: u8, image: &str| {
                server.run_ok(
                    &format!("cmp /dev/disk/by-id/virtio-{image} - <{second}{part} || [ $? = 1 ]"),
                    WRITE_SLOT,
                )
            };
            for (part, image) in [(4, "good"), (7, "root"), (8, "verity")] {
                // cmp ends at the image's end; a difference before would be said.
                let said = same(part, image)?;
                assert!(!said.contains("differ"), "{image}: {said}");
            }
            server
                .run_ok(&format!("grep -aq 'ORDER=b a' {second}2 && grep -aq B_OK=0 {second}2"), COMMAND)?;
            server.reboot(SHUTDOWN)?;
            wait_for_system(&user, Level::Ok, "Version 9.0.2 runs from slot b.", BOOT)?;
            server.run_ok(&format!("grep -aq B_OK=1 {second}2"), COMMAND)?;
            Ok(())
        })
    }
}
