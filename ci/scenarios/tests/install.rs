//! From the installation medium and blank disks to a machine that serves: by each firmware, from CD and USB stick, over one
//! disk and several, without a question.

use anyhow::{Context, Result, ensure};
use lab::{Bus, COMMAND, Drive, Firmware, Lab, Machine, backup_server_ports, crypt_hash, scenario};
use provisioning::{Answers, smbios::to_oem_string};
use scenarios::{LONG, ROOT_PASSWORD, User, built_medium};
use std::time::Instant;

/// Size of each disk in GiB.
const DISK_GIB: u64 = 24;
/// Where the machine is reached.
const MAC: &str = "52:54:00:00:06:01";

/// A machine, and how the medium is in it.
#[derive(Debug, Clone, Copy)]
struct Case {
    firmware: Firmware,
    disks: usize,
    bus: Bus,
    drive: Drive,
    /// How btrfs shows that data is kept.
    profile: &'static str,
}

/// What the machine is told.
fn answers(lab: &Lab, install: &str) -> Result<String> {
    let hash = crypt_hash(lab.toolbox(), ROOT_PASSWORD)?;
    let yaml = format!(
        "role: backup-server\nhostname: installed\nroot_password_hash: \"{hash}\"\ninstall:\n{install}"
    );
    Ok(to_oem_string(&Answers::from_yaml(&yaml)?)?)
}

fn machine(lab: &Lab, case: Case, install: &str) -> Result<Machine> {
    let mut builder = lab
        .machine("installed")
        .firmware(case.firmware)
        .bus(case.bus)
        .install_from(&built_medium()?, case.drive, DISK_GIB)
        .provisioning(answers(lab, install)?)
        .root_password(ROOT_PASSWORD)
        .user_nic(MAC, &backup_server_ports());
    for number in 1..case.disks {
        builder = builder.extra_disk(DISK_GIB, case.bus, &format!("disk{number}"));
    }
    builder.start()
}

/// Installs, and looks at what came of it.
fn installs(name: &str, case: Case) -> Result<()> {
    scenario(name, |lab| {
        let started = Instant::now();
        let machine = machine(lab, case, "  then: poweroff\n")?;
        machine.wait_for_serial("Installed.", LONG)?;
        let installed = started.elapsed();
        machine.wait_for_end()?;
        machine.take_medium_out();
        machine.boot_again()?;
        let user = User::of(&machine)?;
        user.wait_for_api()?;
        println!("{case:?}: installed after {installed:.0?}, serves after {:.0?}", started.elapsed());
        let said = machine.run_ok(
            "hostname; cat /var/lib/infimonitor/disks.json; ls /var/lib/infimonitor; \
             btrfs filesystem show --raw /var; btrfs filesystem show --raw /data; \
             btrfs filesystem df /data; btrfs filesystem df /var; systemctl --failed --no-legend --plain; \
             ls /run/infimonitor; cat /var/log/infimonitor-install.log",
            COMMAND,
        )?;
        println!("{said}");
        ensure!(said.starts_with("installed\n") && !said.contains("answers.yaml"), "{said}");
        ensure!(!said.contains("-problem") && !said.contains("-degraded"), "{said}");
        let data = format!("Data, {}:", case.profile);
        ensure!(said.contains(&data), "data is not kept as {}: {said}", case.profile);
        ensure!(said.matches("devid").count() == 2 * case.disks, "not over {} disks: {said}", case.disks);
        let failed = machine.run_ok("systemctl --failed --no-legend --plain", COMMAND)?;
        ensure!(failed.trim().is_empty(), "{failed}");
        Ok(())
    })
    .with_context(|| format!("{case:?}"))
}

#[test]
fn two_disks_by_bios_from_a_stick() -> Result<()> {
    installs(
        "install-stick",
        Case { firmware: Firmware::SeaBios, disks: 2, bus: Bus::Sata, drive: Drive::Stick, profile: "RAID1" },
    )
}

/// The other ways: each takes minutes, and CI has one of them.
mod full {
    use super::*;

    #[test]
    fn one_disk_by_uefi_from_cd() -> Result<()> {
        installs(
            "install-cd",
            Case {
                firmware: Firmware::Ovmf,
                disks: 1,
                bus: Bus::VirtioBlk,
                drive: Drive::Cd,
                profile: "single",
            },
        )
    }
}
