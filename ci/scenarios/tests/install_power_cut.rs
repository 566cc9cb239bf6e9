//! The power goes at any point of an installation and of the first boot: either nothing boots and the installation can be begun
//! again, or the machine is whole.

/// A quarter of an hour without KVM, of which most are boots.
mod full {
    use anyhow::{Result, ensure};
    use lab::{Bus, Drive, Firmware, Lab, Machine, backup_server_ports, scenario};
    use scenarios::write_log::{Replayed, WriteLog};
    use scenarios::{LONG, ROOT_PASSWORD, User, built_medium, installing, payload};
    use std::collections::BTreeSet;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::time::Duration;
    use storage::contents::{self, Contents};
    use storage::{layout, table};

    /// Points that are looked at, of the installation and of the first boot each.
    const CUTS: usize = 120;
    /// Points of the first boot after which a machine is booted.
    const BOOTS: usize = 8;
    const GIB: u64 = 22;
    const SHUTDOWN: Duration = Duration::from_secs(180);

    /// What firmware needs of a disk: a boot sector.
    fn boots(disk: &mut Replayed) -> Result<bool> {
        Ok(table::mbr_code(&mut disk.file)?.is_some())
    }

    fn contents_of(disk: &Replayed, partition: &str) -> Result<Contents> {
        let mut head = vec![0; contents::PROBE_BYTES];
        disk.file.read_exact_at(&mut head, disk.range(partition)?.start)?;
        Ok(contents::classify(&head))
    }

    /// Of `count` points so many, and those around which the ends of the disk are written, where its tables are.
    fn cuts(log: &WriteLog) -> BTreeSet<usize> {
        let ends = [0..layout::MIB, (GIB << 30) - layout::MIB..GIB << 30];
        let tables =
            log.entries.iter().enumerate().filter(|(_, entry)| ends.iter().any(|end| entry.touches(end)));
        let around = tables.flat_map(|(index, _)| [index, index + 1]);
        around.chain((0..log.entries.len()).step_by((log.entries.len() / CUTS).max(1))).collect()
    }

    fn machine_of(lab: &Lab, name: &str, disk: &Path, number: u8) -> Result<Machine> {
        lab.machine(name)
            .firmware(if number.is_multiple_of(2) { Firmware::Ovmf } else { Firmware::SeaBios })
            .disk(disk)
            .root_password(ROOT_PASSWORD)
            .user_nic(&format!("52:54:00:00:08:{number:02x}"), &backup_server_ports())
            .start()
    }

    #[test]
    fn whatever_reached_the_disk_it_is_whole_or_can_be_begun_again() -> Result<()> {
        scenario("install-power-cut", |lab| {
            let writes = lab.folder().join("writes.log");
            let machine = lab
                .machine("installed")
                .firmware(Firmware::Ovmf)
                .bus(Bus::VirtioBlk)
                .install_from(&built_medium()?, Drive::Cd, GIB)
                .provisioning(installing(lab.toolbox(), "  then: poweroff\n")?)
                .root_password(ROOT_PASSWORD)
                .user_nic("52:54:00:00:08:fe", &backup_server_ports())
                .log_writes(&writes)
                .start()?;
            machine.wait_for_serial("Installed.", LONG)?;
            machine.wait_for_end()?;
            let installation = lab.folder().join("installation.log");
            std::fs::copy(&writes, &installation)?;
            machine.take_medium_out();
            machine.boot_again()?;
            User::of(&machine)?.wait_for_api()?;
            machine.shutdown(SHUTDOWN)?;

            let log = WriteLog::open(&installation)?;
            let mut disk = Replayed::blank(lab.folder().join("cut.raw"), GIB << 30)?;
            let (mut before, mut after) = (0, 0);
            for cut in cuts(&log) {
                disk.to(&log, cut)?;
                if !boots(&mut disk)? {
                    before += 1;
                    continue;
                }
                after += 1;
                for (partition, name) in
                    [("boot-a", "boot.squashfs"), ("root-a", "root.erofs"), ("verity-a", "root.verity")]
                {
                    ensure!(
                        disk.holds(partition, &payload(name))?,
                        "after {cut} writes it boots, and {partition} is not whole"
                    );
                }
                ensure!(
                    contents_of(&disk, "state")? == Contents::Btrfs,
                    "after {cut} writes it boots without state"
                );
            }
            println!(
                "installation: {} writes; {before} points before it boots, {after} after",
                log.entries.len()
            );
            ensure!(before > CUTS / 2 && after > 0, "the points are badly chosen");

            // Begun again on what a cut in the middle left.
            let mut half = Replayed::blank(lab.folder().join("half.raw"), GIB << 30)?;
            half.to(&log, log.entries.len() / 2)?;
            let again = lab
                .machine("again")
                .firmware(Firmware::Ovmf)
                .bus(Bus::VirtioBlk)
                .disk(&half.path)
                .medium(&built_medium()?, Drive::Cd)
                .provisioning(installing(lab.toolbox(), "  then: poweroff\n")?)
                .root_password(ROOT_PASSWORD)
                .user_nic("52:54:00:00:08:fd", &backup_server_ports())
                .start()?;
            again.wait_for_serial("Installed.", LONG)?;
            again.wait_for_end()?;
            again.take_medium_out();
            again.boot_again()?;
            User::of(&again)?.wait_for_api()?;
            again.shutdown(SHUTDOWN)?;

            // The first boot.
            disk.to(&log, log.entries.len())?;
            let log = WriteLog::open(&writes)?;
            disk.begin_another_log();
            let all = cuts(&log);
            let mut booted = 0;
            for (number, cut) in all.iter().enumerate() {
                disk.to(&log, *cut)?;
                ensure!(
                    contents_of(&disk, "state")? == Contents::Btrfs,
                    "after {cut} writes of the first boot state is gone"
                );
                let data = contents_of(&disk, "data")?;
                ensure!(
                    data != Contents::Foreign,
                    "after {cut} writes of the first boot data is neither blank nor btrfs"
                );
                if number % (all.len() / BOOTS).max(1) == 0 {
                    let machine = machine_of(lab, &format!("cut-{cut}"), &disk.path, u8::try_from(booted)?)?;
                    User::of(&machine)?.wait_for_api()?;
                    machine.kill()?;
                    booted += 1;
                    println!("after {cut} of {} writes of the first boot it serves", log.entries.len());
                }
            }
            ensure!(booted >= BOOTS, "{booted} boots");
            Ok(())
        })
    }
}
