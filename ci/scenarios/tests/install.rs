//! From the installation medium and blank disks to a machine that serves: by each firmware, from CD and USB stick, over one
//! disk and several, without a question.

use anyhow::{Context, Result, ensure};
use lab::{Bus, COMMAND, Drive, Firmware, Lab, Machine, backup_server_ports, scenario};
use scenarios::{LONG, ROOT_PASSWORD, User, built_medium, installing, page};
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
    /// Bytes of a logical sector of its disks.
    sector_bytes: u32,
    /// How btrfs shows that data is kept.
    profile: &'static str,
}

fn machine(lab: &Lab, case: Case, install: &str) -> Result<Machine> {
    let mut builder = lab
        .machine("installed")
        .firmware(case.firmware)
        .bus(case.bus)
        .sector_bytes(case.sector_bytes)
        .install_from(&built_medium()?, case.drive, DISK_GIB)
        .provisioning(installing(lab.toolbox(), install)?)
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
        Case {
            firmware: Firmware::SeaBios,
            disks: 2,
            bus: Bus::Sata,
            drive: Drive::Stick,
            sector_bytes: 512,
            profile: "RAID1",
        },
    )
}

/// The other ways, and with pages: each takes minutes, and CI has one of them.
mod full {
    use super::*;

    /// Password of `backup` that is typed.
    const PASSWORD: &str = "of the network";

    /// Each firmware with each number of disks; buses and drives are spread over them. A volume behind a RAID controller by BIOS:
    /// OVMF has no driver for it, which real controllers bring themselves.
    const CASES: [(&str, Firmware, usize, Bus, Drive); 7] = [
        ("bios-1", Firmware::SeaBios, 1, Bus::Megasas, Drive::Cd),
        ("bios-4", Firmware::SeaBios, 4, Bus::VirtioScsi, Drive::Cd),
        ("uefi-1", Firmware::Ovmf, 1, Bus::VirtioBlk, Drive::Cd),
        ("uefi-2", Firmware::Ovmf, 2, Bus::Nvme, Drive::Stick),
        ("uefi-4", Firmware::Ovmf, 4, Bus::Sata, Drive::Stick),
        ("secure-boot-1", Firmware::OvmfSecureBoot, 1, Bus::Nvme, Drive::Stick),
        ("secure-boot-4", Firmware::OvmfSecureBoot, 4, Bus::Sata, Drive::Cd),
    ];

    fn case(name: &str) -> Result<()> {
        let found = CASES.into_iter().find(|case| case.0 == name);
        let (name, firmware, disks, bus, drive) = found.context("there is no such case")?;
        let profile = match disks {
            1 => "single",
            2 | 3 => "RAID1",
            _ => "RAID10",
        };
        let sector_bytes = 512;
        installs(&format!("install-{name}"), Case { firmware, disks, bus, drive, sector_bytes, profile })
    }

    /// Disks with sectors of 4096 bytes alone (4Kn).
    #[test]
    fn disks_of_4096_byte_sectors_by_uefi() -> Result<()> {
        let (firmware, bus, drive) = (Firmware::Ovmf, Bus::VirtioScsi, Drive::Cd);
        let case = Case { firmware, disks: 2, bus, drive, sector_bytes: 4096, profile: "RAID1" };
        installs("install-4kn", case)
    }

    /// A test for each case, so that each can be run by itself.
    macro_rules! cases {
        ($($test:ident $name:literal)*) => {
            $(#[test]
            fn $test() -> Result<()> {
                case($name)
            })*
        };
    }
    cases! {
        bios_1 "bios-1"
        bios_4 "bios-4"
        uefi_1 "uefi-1"
        uefi_2 "uefi-2"
        uefi_4 "uefi-4"
        secure_boot_1 "secure-boot-1"
        secure_boot_4 "secure-boot-4"
    }

    /// Keys of a terminal.
    const ENTER: &str = "\r";
    const UP: &str = "\x1b[A";
    const ESCAPE: &str = "\x1b";

    /// Key by key over the serial console, there and back again.
    #[test]
    fn pages_lead_to_a_machine_that_serves() -> Result<()> {
        scenario("install-pages", |lab| {
            let machine = lab
                .machine("asked")
                .firmware(Firmware::OvmfSecureBoot)
                .bus(Bus::Nvme)
                .install_from(&built_medium()?, Drive::Cd, DISK_GIB)
                .extra_disk(DISK_GIB, Bus::Nvme, "second")
                .root_password(ROOT_PASSWORD)
                .user_nic(MAC, &backup_server_ports())
                .start()?;
            let shows = |text: &str| {
                let screen = page(&machine, text, COMMAND)?;
                println!("{screen}\n");
                anyhow::Ok(screen)
            };
            page(&machine, "Apache License", LONG)?;
            machine.screendump(&lab.folder().join("first-page.png"))?;
            machine.type_on_serial(ENTER)?;
            shows("what this machine becomes")?;
            machine.type_on_serial(ENTER)?;
            let screen = shows("Plan")?;
            ensure!(screen.contains("[x] /dev/nvme0n1") && screen.contains("as raid1"), "{screen}");
            // The other disk is left out, and comes in again later.
            machine.type_on_serial(" ")?;
            shows("as single")?;
            machine.screendump(&lab.folder().join("tty1-meanwhile.png"))?;
            machine.type_on_serial(ESCAPE)?;
            shows("what this machine becomes")?;
            machine.type_on_serial(ENTER)?;
            shows("as single")?;
            machine.type_on_serial(" ")?;
            shows("as raid1")?;
            machine.type_on_serial(ENTER)?;
            shows(MAC)?;
            machine.type_on_serial(&format!("{UP}{ENTER}"))?;
            shows("Such as 192.168.77.2/24")?;
            // Neither on the link nor a VLAN nor an MTU.
            machine.type_on_serial(&format!(
                "10.0.2.15/24{ENTER}10.0.2.2{ENTER}{ENTER}10.0.2.3{ENTER}{ENTER}{ENTER}"
            ))?;
            shows("10.0.2.15/24, gateway")?;
            machine.type_on_serial(ENTER)?;
            shows("Letters, digits and hyphens")?;
            machine.type_on_serial(&format!("-asked{ENTER}Europe/Berlin{ENTER}{ENTER}klingon{ENTER}"))?;
            shows("there is no keymap \"klingon\"")?;
            machine.type_on_serial(&format!("{}uk{ENTER}", "\x7f".repeat(7)))?;
            shows("At least 8 characters")?;
            machine.type_on_serial(&format!("{ROOT_PASSWORD}{ENTER}{ROOT_PASSWORD}{ENTER}"))?;
            machine.type_on_serial(&format!("{PASSWORD}{ENTER}{PASSWORD}{ENTER}"))?;
            let screen = shows("Type install to begin")?;
            ensure!(screen.contains("backup-server-asked") && screen.contains("Europe/Berlin"), "{screen}");
            ensure!(!screen.contains(ROOT_PASSWORD) && !screen.contains(PASSWORD), "{screen}");
            machine.type_on_serial(&format!("install{ENTER}"))?;
            shows("MB/s")?;
            page(&machine, "Take the installation medium out", LONG)?;
            shows("Settings")?;
            machine.type_on_serial("p")?;
            machine.wait_for_end()?;
            machine.take_medium_out();
            machine.boot_again()?;
            let user = User::with_password(&machine, PASSWORD)?;
            let status = user.wait_for_api()?;
            ensure!(!format!("{status:?}").contains("default password"), "{status:?}");
            let said = machine.run_ok(
                "hostname; date +%Z; networkctl status --no-pager | cat; cat /run/systemd/network/*; \
                 btrfs filesystem df /data; ls /run/infimonitor; cat /var/log/infimonitor-install.log",
                COMMAND,
            )?;
            println!("{said}");
            ensure!(said.starts_with("backup-server-asked\nCET\n"), "{said}");
            ensure!(said.contains("Data, RAID1:") && said.contains("Address=10.0.2.15/24"), "{said}");
            ensure!(!said.contains("-problem") && !said.contains(PASSWORD), "{said}");
            Ok(())
        })
    }
}
