//! Life with several disks: one is lost, the machine boots from the other and serves, a new one takes its place; rot is mended;
//! what comes back from before is not mounted in; a disk that has grown is used.

/// A story of many boots.
mod full {
    use anyhow::{Context, Result, ensure};
    use api::Level;
    use lab::{
        BOOT, Bus, COMMAND, Drive, Firmware, Lab, Machine, SYSTEM_DISK, backup_server_ports, scenario,
        wait_until,
    };
    use scenarios::{LONG, ROOT_PASSWORD, User, built_medium, installing};
    use std::time::{Duration, Instant};

    /// Size of each disk in GiB.
    const DISK_GIB: u64 = 22;
    const MAC: &str = "52:54:00:00:07:01";
    /// Time for a shutdown.
    const SHUTDOWN: Duration = Duration::from_secs(180);
    const ORDER: &str = "/usr/lib/infimonitor/hostd order";

    /// Installs over the disks with these serial numbers; one more, `spare`, is attached from the beginning.
    fn installed(lab: &Lab, firmware: Firmware, bus: Bus, others: &[&str]) -> Result<Machine> {
        let filters: String =
            [SYSTEM_DISK].iter().chain(others).map(|serial| format!("    - serial: {serial}\n")).collect();
        let install = format!("  then: poweroff\n  disks:\n{filters}");
        let mut builder = lab
            .machine("disks")
            .firmware(firmware)
            .bus(bus)
            .install_from(&built_medium()?, Drive::Cd, DISK_GIB)
            .provisioning(installing(lab.toolbox(), &install)?)
            .root_password(ROOT_PASSWORD)
            .user_nic(MAC, &backup_server_ports());
        for serial in others.iter().chain(&["spare"]) {
            builder = builder.extra_disk(DISK_GIB, bus, serial);
        }
        let machine = builder.start()?;
        machine.wait_for_serial("Installed.", LONG)?;
        machine.wait_for_end()?;
        machine.take_medium_out();
        machine.boot_again()?;
        Ok(machine)
    }

    /// Waits until the check has this level and says this.
    fn says(user: &User, name: &str, level: Level, text: &str) -> Result<()> {
        wait_until(&format!("check {name} to say {text:?}"), BOOT, || {
            let check = user.check(name)?;
            ensure!(check.level == level && check.message.contains(text), "{check:?}");
            println!("{check:?}");
            Ok(())
        })
    }

    /// The device file of the disk with this serial number.
    fn device(machine: &Machine, serial: &str) -> Result<String> {
        let found = machine
            .run_ok(&format!("lsblk -dno PATH,SERIAL | awk '$2 == \"{serial}\" {{print $1}}'"), COMMAND)?;
        ensure!(!found.trim().is_empty(), "there is no disk {serial}");
        Ok(found.trim().to_owned())
    }

    /// What the kernel reads and writes of the volumes. `btrfs filesystem show` also names what it has only heard of.
    fn members(machine: &Machine) -> Result<String> {
        machine.run_ok("ls /sys/fs/btrfs/*/devices", COMMAND)
    }

    fn order(machine: &Machine, order: &str) -> Result<String> {
        let said = machine.run_ok(&format!("{ORDER} {order}"), LONG)?;
        println!("{order}:\n{said}");
        Ok(said)
    }

    /// A machine that lost the disk that it was booted from, and gets another one.
    fn a_lost_disk_is_replaced(name: &str, firmware: Firmware, others: &[&str], profile: &str) -> Result<()> {
        scenario(name, |lab| {
            let machine = installed(lab, firmware, Bus::Sata, others)?;
            let user = User::of(&machine)?;
            user.wait_for_api()?;
            let all = others.len() + 1;
            says(&user, "disks", Level::Ok, &format!("All {all} disks are there"))?;
            // What was not named was not touched.
            let spare = device(&machine, "spare")?;
            machine.run_ok(&format!("cmp -n 1073741824 {spare} /dev/zero"), LONG)?;
            let kept =
                "yes 'to be found again on the disk' | head -c 64M >/data/kept; sync; sha256sum </data/kept";
            let expected = machine.run_ok(kept, COMMAND)?;

            // Rot on one disk: its second copy mends it.
            let rotten = device(&machine, others[0])?;
            // A MiB of it, where it lies on this disk: btrfs's own addresses are others.
            machine.run_ok(
                &format!(
                    "at=$(grep -m1 -abo 'to be found again on the disk' {rotten}10 | head -1 | cut -d: -f1) && \
                     dd if=/dev/urandom of={rotten}10 bs=4096 seek=$((at / 4096)) count=256 conv=notrunc status=none && \
                     sync && echo 3 >/proc/sys/vm/drop_caches"
                ),
                LONG,
            )?;
            order(&machine, "scrub")?;
            says(&user, "scrub", Level::Warn, "mended")?;
            ensure!(
                machine.run_ok("sha256sum </data/kept", COMMAND)? == expected,
                "what was kept has changed"
            );
            let again = order(&machine, "scrub")?;
            ensure!(again.contains("nothing was wrong"), "{again}");
            // A disk that has lost what was written is to be replaced, unless somebody knows better.
            says(&user, "disks", Level::Warn, "second")?;
            order(&machine, "clear-disk-errors")?;
            says(&user, "disks", Level::Ok, &format!("All {all} disks are there"))?;

            // The disk that it boots from is pulled.
            machine.shutdown(SHUTDOWN)?;
            machine.pull_disk(SYSTEM_DISK);
            let began = Instant::now();
            machine.boot_again()?;
            user.wait_for_api()?;
            println!("without the disk that it booted from it serves after {:.0?}", began.elapsed());
            says(&user, "disks", Level::Fail, &format!("1 of {all} disks are missing"))?;
            ensure!(
                machine.run_ok("sha256sum </data/kept", COMMAND)? == expected,
                "what was kept has changed"
            );
            machine.run_ok("echo written without it >/data/degraded; sync", COMMAND)?;

            // It comes back with the state of before: it is not mounted in.
            machine.shutdown(SHUTDOWN)?;
            machine.put_disk_back(SYSTEM_DISK);
            machine.boot_again()?;
            user.wait_for_api()?;
            says(&user, "disks", Level::Fail, &format!("1 of {all} disks are missing"))?;
            let returned = device(&machine, SYSTEM_DISK)?;
            let used = members(&machine)?;
            ensure!(!used.contains(returned.trim_start_matches("/dev/")), "{used}");
            ensure!(machine.run_ok("cat /data/degraded", COMMAND)?.trim() == "written without it", "{used}");
            let refused = machine.run(&format!("{ORDER} replace-disk {returned}"), COMMAND)?;
            let refused = format!("{refused:?}");
            ensure!(refused.contains("is not empty"), "{refused}");

            // Another one takes its place.
            let spare = device(&machine, "spare")?;
            let began = Instant::now();
            order(&machine, &format!("replace-disk {spare}"))?;
            println!("replaced after {:.0?}", began.elapsed());
            says(&user, "disks", Level::Ok, &format!("All {all} disks are there"))?;
            let said = machine.run_ok(
                "{ btrfs filesystem df /data; btrfs filesystem df /var; } | grep -v GlobalReserve; cat /var/lib/infimonitor/disks.json; \
                 ls /run/infimonitor; btrfs device stats /data",
                COMMAND,
            )?;
            println!("{said}");
            ensure!(!said.contains("single") && !said.contains("-degraded"), "{said}");
            ensure!(said.contains(&format!("Data, {profile}:")), "{said}");

            // The machine boots from the new one alone as far as firmware is concerned.
            machine.shutdown(SHUTDOWN)?;
            machine.pull_disk(SYSTEM_DISK);
            machine.pull_disk(others[0]);
            machine.boot_again()?;
            user.wait_for_api()?;
            says(&user, "disks", Level::Fail, &format!("1 of {all} disks are missing"))?;
            ensure!(
                machine.run_ok("sha256sum </data/kept", COMMAND)? == expected,
                "what was kept has changed"
            );
            Ok(())
        })
    }

    #[test]
    fn two_disks_by_uefi() -> Result<()> {
        a_lost_disk_is_replaced("disks-two-uefi", Firmware::Ovmf, &["second"], "RAID1")
    }

    #[test]
    fn four_disks_by_bios() -> Result<()> {
        a_lost_disk_is_replaced(
            "disks-four-bios",
            Firmware::SeaBios,
            &["second", "third", "fourth"],
            "RAID10",
        )
    }

    /// The only disk fails slowly and is replaced in time; it stays in the machine, in front of the new one. By UEFI: of several
    /// hard disks SeaBIOS tries the first one alone.
    #[test]
    fn a_failing_disk_is_replaced_and_left_in_the_machine() -> Result<()> {
        scenario("disks-failing", |lab| {
            let machine = installed(lab, Firmware::Ovmf, Bus::Sata, &[])?;
            let user = User::of(&machine)?;
            user.wait_for_api()?;
            machine.run_ok("echo kept >/data/kept; sync", COMMAND)?;
            let identity = machine.run_ok("cat /var/lib/infimonitor/identity.json", COMMAND)?;
            let (old, spare) = (device(&machine, SYSTEM_DISK)?, device(&machine, "spare")?);
            order(&machine, &format!("replace-disk --old {old} {spare}"))?;
            says(&user, "disks", Level::Ok, "The disk is there")?;
            machine.shutdown(SHUTDOWN)?;
            machine.boot_again()?;
            user.wait_for_api()?;
            says(&user, "disks", Level::Ok, "The disk is there")?;
            let said = machine.run_ok("cat /var/lib/infimonitor/identity.json", COMMAND)?;
            ensure!(said == identity, "it is another machine: {said}");
            ensure!(machine.run_ok("cat /data/kept", COMMAND)?.trim() == "kept", "data is gone");
            let (used, old) = (members(&machine)?, device(&machine, SYSTEM_DISK)?);
            ensure!(!used.contains(old.trim_start_matches("/dev/")), "{used}");
            Ok(())
        })
    }

    /// A disk drops off the bus while the server runs: it is missed, and replaced without a restart.
    #[test]
    fn a_disk_is_pulled_and_replaced_while_the_server_goes_on() -> Result<()> {
        scenario("disks-hot", |lab| {
            let machine = installed(lab, Firmware::Ovmf, Bus::VirtioScsi, &["second"])?;
            let user = User::of(&machine)?;
            user.wait_for_api()?;
            says(&user, "disks", Level::Ok, "All 2 disks are there")?;
            machine.run_ok("dd if=/dev/urandom of=/data/kept bs=1M count=64 status=none; sync", COMMAND)?;
            let expected = machine.run_ok("sha256sum </data/kept", COMMAND)?;
            machine.pull_disk_now("second")?;
            machine.run_ok("echo meanwhile >/data/meanwhile; sync", COMMAND)?;
            says(&user, "disks", Level::Fail, "1 of 2 disks are missing (")?;
            let spare = device(&machine, "spare")?;
            order(&machine, &format!("replace-disk {spare}"))?;
            says(&user, "disks", Level::Ok, "All 2 disks are there")?;
            let said = machine.run_ok(
                "{ btrfs filesystem df /data; btrfs filesystem df /var; } | grep -v GlobalReserve",
                COMMAND,
            )?;
            ensure!(!said.contains("single"), "{said}");
            machine.shutdown(SHUTDOWN)?;
            machine.pull_disk(SYSTEM_DISK);
            machine.boot_again()?;
            user.wait_for_api()?;
            ensure!(
                machine.run_ok("sha256sum </data/kept", COMMAND)? == expected,
                "what was kept has changed"
            );
            ensure!(machine.run_ok("cat /data/meanwhile", COMMAND)?.trim() == "meanwhile", "it is gone");
            Ok(())
        })
    }

    /// One disk becomes a mirror, and what has grown is used.
    #[test]
    fn a_disk_is_added_and_grown_ones_are_used() -> Result<()> {
        scenario("disks-more", |lab| {
            let machine = installed(lab, Firmware::Ovmf, Bus::Sata, &[])?;
            let user = User::of(&machine)?;
            user.wait_for_api()?;
            says(&user, "disks", Level::Ok, "The disk is there")?;
            says(&user, "disks", Level::Ok, "is blank: `hostd order add-disk")?;
            machine.shutdown(SHUTDOWN)?;
            machine.enlarge_disk(SYSTEM_DISK, DISK_GIB + 6)?;
            machine.boot_again()?;
            let status = user.wait_for_api()?;
            let total = status.space.context("there is no data volume")?.total;
            let expected = (DISK_GIB + 6 - 5) << 30;
            ensure!(
                total > expected - (1 << 30) && total < expected + (1 << 30),
                "{total} and not {expected}"
            );
            let table = machine
                .run_ok("ls /run/infimonitor; dmesg | grep -i gpt; journalctl -b | grep grow", COMMAND)?;
            println!("{total} bytes\n{table}");
            ensure!(!table.contains("grow-problem"), "{table}");
            let spare = device(&machine, "spare")?;
            order(&machine, &format!("add-disk {spare}"))?;
            says(&user, "disks", Level::Ok, "All 2 disks are there")?;
            let said = machine.run_ok(
                "{ btrfs filesystem df /data; btrfs filesystem df /var; } | grep -v GlobalReserve",
                COMMAND,
            )?;
            ensure!(
                said.matches("RAID1").count() >= 4 && !said.contains("single") && !said.contains("DUP"),
                "{said}"
            );
            machine.shutdown(SHUTDOWN)?;
            machine.pull_disk(SYSTEM_DISK);
            machine.boot_again()?;
            user.wait_for_api()?;
            says(&user, "disks", Level::Fail, "1 of 2 disks are missing")
        })
    }
}
