//! The disk of each package boots with the controllers and the network card of its target, as far as QEMU has them, to an API that
//! answers; and what was asked at an import holds.

use anyhow::{Context, Result, ensure};
use lab::{Bus, COMMAND, Card, Drive, Firmware, Lab, backup_server_ports, scenario};
use scenarios::{ROOT_PASSWORD, User, package, payload};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The shipped disks' size.
const DISK_GIB: u64 = 100;
const MAC: &str = "52:54:00:00:09:01";

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The disk in a package as a raw one, by programs that are not ours.
fn disk(lab: &Lab, end: &str) -> Result<PathBuf> {
    let package = package(end)?;
    let folder = lab.folder().join("unpacked");
    std::fs::create_dir_all(&folder)?;
    let raw = lab.folder().join("disk.raw");
    let inside = |ending: &str| -> Result<PathBuf> {
        let mut files = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        files
            .find(|path| path.extension().is_some_and(|found| found == ending))
            .with_context(|| format!("no .{ending} in it"))
    };
    let convert = |from: &Path, format: &str| {
        run(lab
            .toolbox()
            .command("qemu-img")
            .args(["convert", "-f", format, "-O", "raw"])
            .arg(from)
            .arg(&raw))
    };
    match package.extension().and_then(|end| end.to_str()) {
        Some("ova") => {
            run(Command::new("tar").arg("-xf").arg(&package).arg("-C").arg(&folder))?;
            let schema =
                concat!(env!("CARGO_MANIFEST_DIR"), "/../../image/media/tests/ovf-schema/dsp8023_1.1.1.xsd");
            let ovf = inside("ovf")?;
            run(lab.toolbox().command("xmllint").args(["--nonet", "--noout", "--schema", schema]).arg(ovf))?;
            convert(&inside("vmdk")?, "vmdk")?;
        }
        Some("zip") => {
            run(lab.toolbox().command("bsdtar").arg("-xf").arg(&package).arg("-C").arg(&folder))?;
            convert(&inside("vhdx")?, "vhdx")?;
        }
        Some("vhd") => convert(&package, "vpc")?,
        _ => {
            run(Command::new("tar").arg("-xf").arg(&package).arg("-C").arg(&folder))?;
            // It writes every zero of the disk, for which there is no room: they become holes on their way.
            let pipe = folder.join("pipe");
            run(Command::new("mkfifo").arg(&pipe))?;
            let mut holes = Command::new("dd")
                .args(["bs=1M", "iflag=fullblock", "conv=sparse", "status=none"])
                .arg(format!("if={}", pipe.display()))
                .arg(format!("of={}", raw.display()))
                .spawn()
                .context("cannot run dd")?;
            let chunks = folder.join("Ref:3/");
            let exported = run(lab.toolbox().command("xva-img").arg("disk-export").arg(chunks).arg(&pipe));
            if exported.is_err() {
                // Nobody writes into the pipe any more, and it may not have been opened.
                holes.kill().context("cannot end dd")?;
            }
            let status = holes.wait().context("dd has no end")?;
            exported?;
            ensure!(status.success(), "dd: {status}");
        }
    }
    // What is shipped is what was built.
    let built = payload(&format!("disk-{}-mib.raw", DISK_GIB << 10));
    run(lab
        .toolbox()
        .command("qemu-img")
        .args(["compare", "-q", "-f", "raw", "-F", "raw"])
        .args([&built, &raw]))?;
    std::fs::remove_dir_all(&folder)?;
    Ok(raw)
}

fn boots(name: &str, end: &str, firmware: Firmware, bus: Bus, card: Card) -> Result<()> {
    scenario(name, |lab| {
        let disk = disk(lab, end)?;
        let begun = Instant::now();
        let machine = lab
            .machine("imported")
            .firmware(firmware)
            .bus(bus)
            .card(card)
            .disk(&disk)
            .user_nic(MAC, &backup_server_ports())
            .start()?;
        let status = User::of(&machine)?.wait_for_api()?;
        println!("{end}, {firmware:?}, {bus:?}, {card:?}: the API answers after {:.0?}", begun.elapsed());
        let total = status.space.context("there is no data volume")?.total;
        ensure!(total > (DISK_GIB - 6) << 30, "{total} bytes");
        Ok(())
    })
}

#[test]
fn of_the_ova_by_secure_boot() -> Result<()> {
    boots("ova-secure-boot", "esxi.ova", Firmware::OvmfSecureBoot, Bus::VirtioScsi, Card::Vmxnet3)
}

/// The other packages: each takes a minute.
mod full {
    use super::*;

    #[test]
    fn of_the_ova_with_what_it_asks_for() -> Result<()> {
        boots("ova", "esxi.ova", Firmware::OvmfSecureBoot, Bus::LsiLogicSas, Card::Vmxnet3)
    }

    #[test]
    fn of_the_ova_with_the_faster_controller() -> Result<()> {
        boots("ova-pvscsi", "esxi.ova", Firmware::OvmfSecureBoot, Bus::Pvscsi, Card::E1000e)
    }

    /// Generation 1: IDE and BIOS. Hyper-V's network card has no stand-in.
    #[test]
    fn of_the_archive_for_hyperv_by_bios() -> Result<()> {
        boots("hyperv-gen1", "hyperv.zip", Firmware::SeaBios, Bus::Ide, Card::Virtio)
    }

    /// Generation 2: Hyper-V's SCSI has no stand-in; its firmware and Secure Boot have.
    #[test]
    fn of_the_archive_for_hyperv_by_secure_boot() -> Result<()> {
        boots("hyperv-gen2", "hyperv.zip", Firmware::OvmfSecureBoot, Bus::VirtioScsi, Card::Virtio)
    }

    /// Xen's devices have no stand-in; an HVM guest's emulated disk is IDE.
    #[test]
    fn of_the_xva_by_bios() -> Result<()> {
        boots("xva-bios", "xenserver-bios.xva", Firmware::SeaBios, Bus::Ide, Card::Virtio)
    }

    #[test]
    fn of_the_xva_by_uefi() -> Result<()> {
        boots("xva-uefi", "xenserver-uefi.xva", Firmware::Ovmf, Bus::Sata, Card::E1000e)
    }

    #[test]
    fn of_the_vhd_by_bios() -> Result<()> {
        boots("vhd", "xenserver-bios.vhd", Firmware::SeaBios, Bus::Ide, Card::Virtio)
    }

    /// What was asked at the import, from a CD as vCenter attaches it, with the disk enlarged.
    #[test]
    fn what_was_asked_at_the_import_holds() -> Result<()> {
        scenario("ovf-properties", |lab| {
            let tree = lab.folder().join("environment");
            std::fs::create_dir_all(&tree)?;
            let hash = lab::crypt_hash(lab.toolbox(), ROOT_PASSWORD)?;
            let property =
                |key: &str, value: &str| format!("<Property oe:key=\"{key}\" oe:value=\"{value}\"/>");
            let properties = [
                ("address", "10.0.2.77/24"),
                ("gateway", "10.0.2.2"),
                ("dns", "10.0.2.3"),
                ("hostname", "imported"),
                ("password_hash", ""),
                ("root_password_hash", &hash),
            ];
            let properties: String = properties.iter().map(|(key, value)| property(key, value)).collect();
            std::fs::write(
                tree.join("ovf-env.xml"),
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Environment \
                     xmlns=\"http://schemas.dmtf.org/ovf/environment/1\" \
                     xmlns:oe=\"http://schemas.dmtf.org/ovf/environment/1\" \
                     xmlns:ve=\"http://www.vmware.com/schema/ovfenv\" oe:id=\"\">\
                     <PropertySection>{properties}</PropertySection><ve:EthernetAdapterSection>\
                     <ve:Adapter ve:mac=\"{MAC}\" ve:network=\"VM Network\" ve:unitNumber=\"7\"/>\
                     </ve:EthernetAdapterSection></Environment>\n"
                ),
            )?;
            let cd = lab.folder().join("environment.iso");
            let mut xorriso = lab.toolbox().command("xorriso");
            run(xorriso.args(["-as", "mkisofs", "-quiet", "-volid", "OVF ENV", "-o"]).arg(&cd).arg(&tree))?;
            let machine = lab
                .machine("imported")
                .firmware(Firmware::OvmfSecureBoot)
                .bus(Bus::LsiLogicSas)
                .card(Card::Vmxnet3)
                .disk(&disk(lab, "esxi.ova")?)
                .medium(&cd, Drive::Cd)
                .root_password(ROOT_PASSWORD)
                .user_nic(MAC, &backup_server_ports())
                .start()?;
            let user = User::of(&machine)?;
            // The address that was given is not the one that QEMU's network gives, and so not forwarded to.
            let said = machine.run_ok(
                "hostname; ip -brief address; cat /etc/resolv.conf /run/systemd/network/*",
                COMMAND,
            )?;
            println!("{said}");
            ensure!(said.starts_with("imported\n") && said.contains("10.0.2.77/24"), "{said}");
            machine.shutdown(scenarios::LONG)?;
            machine.take_medium_out();
            machine.enlarge_disk(lab::SYSTEM_DISK, DISK_GIB + 50)?;
            machine.boot_again()?;
            let grown = machine.run_ok("hostname; df --output=size -BG /data | tail -1", COMMAND)?;
            println!("{grown}");
            ensure!(grown.starts_with("imported\n"), "{grown}");
            let gib: u64 = grown.lines().last().unwrap_or_default().trim().trim_end_matches('G').parse()?;
            ensure!(gib > DISK_GIB + 40, "{grown}");
            drop(user);
            Ok(())
        })
    }
}
