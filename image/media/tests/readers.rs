//! What independent programs read of our packages: qemu-img, vmdkinfo, vhdiinfo, xva-img, GNU tar, xmllint with DMTF's schema.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::{DISK_BYTES, disk, make_ova, make_vmdk, make_xva};
use media::{Firmware, MIB, Source};
use tools::Toolbox;

fn tool(name: &str) -> Command {
    Toolbox::open().unwrap().command(name)
}

/// Runs a program and gives what it says.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}: {text}", output.status);
    text
}

fn same_content(disk: &Path, format: &str, package: &Path) {
    let text = said(tool("qemu-img").args(["compare", "-f", "raw", "-F", format]).arg(disk).arg(package));
    assert!(text.contains("Images are identical"), "{text}");
}

#[test]
fn a_vmdk_has_the_disk_whatever_is_a_hole_and_however_hard_it_was_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let (sparse, full) = (disk(folder.path(), false), disk(folder.path(), true));
    assert!(Source::open(&sparse).unwrap().data_bytes() < Source::open(&full).unwrap().data_bytes());
    for level in [0, 1, 6, 9] {
        let (one, two) =
            (folder.path().join("one").join("disk.vmdk"), folder.path().join("two").join("disk.vmdk"));
        for (from, to) in [(&sparse, &one), (&full, &two)] {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            make_vmdk(from, to, level);
            same_content(from, "vmdk", to);
        }
        assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "level {level}: the bytes differ");
        let text = said(tool("vmdkinfo").arg(&one));
        assert!(text.contains("Stream optimized"), "{text}");
        assert!(text.contains(&format!("({DISK_BYTES} bytes)")), "{text}");
    }
}

#[test]
fn an_empty_disk_is_small_and_a_large_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("empty.raw");
    for bytes in [MIB, 1 << 40] {
        File::create(&raw).unwrap().set_len(bytes).unwrap();
        let vmdk = folder.path().join("empty.vmdk");
        make_vmdk(&raw, &vmdk, 6);
        assert!(fs::metadata(&vmdk).unwrap().len() < MIB);
        let xva = folder.path().join("empty.xva");
        make_xva(&raw, &xva, Firmware::Bios, None);
        assert!(fs::metadata(&xva).unwrap().len() < 4 * MIB);
        for package in [vmdk, xva] {
            let report = media::verify::verify(&package).unwrap();
            assert!(report.findings.is_empty(), "{report:?}");
        }
    }
}

#[test]
fn an_ova_is_as_the_schema_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let ova = make_ova(folder.path());
    let listing = said(Command::new("tar").arg("--list").arg("--verbose").arg("--file").arg(&ova));
    let rows: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<&str> = rows.iter().map(|row| *row.last().unwrap()).collect();
    assert_eq!(names, ["appliance.ovf", "appliance.mf", "appliance.vmdk"]);
    assert!(rows.iter().all(|row| row[0] == "-rw-r--r--" && row[1] == "0/0"), "{listing}");
    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    said(Command::new("tar").arg("--extract").arg("--file").arg(&ova).arg("--directory").arg(&unpacked));
    same_content(&folder.path().join("disk.raw"), "vmdk", &unpacked.join("appliance.vmdk"));
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ovf-schema/dsp8023_1.1.1.xsd");
    said(
        tool("xmllint")
            .args(["--nonet", "--noout", "--schema"])
            .arg(schema)
            .arg(unpacked.join("appliance.ovf")),
    );
    // The manifest, by a program of its own.
    let manifest = fs::read_to_string(unpacked.join("appliance.mf")).unwrap();
    let sums: String = manifest
        .lines()
        .map(|line| {
            let (name, digest) = line.strip_prefix("SHA256(").unwrap().split_once(")= ").unwrap();
            format!("{digest}  {name}\n")
        })
        .collect();
    fs::write(unpacked.join("sums"), sums).unwrap();
    said(Command::new("sha256sum").current_dir(&unpacked).args(["--strict", "--check", "sums"]));
    // Again, it is the same, also when the holes of the disk are written as zeros.
    let before = fs::read(&ova).unwrap();
    assert!(fs::read(make_ova(folder.path())).unwrap() == before);
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::rename(disk(folder.path(), true), folder.path().join("disk.raw")).unwrap();
    assert!(fs::read(common::make_ova_of(&folder.path().join("disk.raw"), &full)).unwrap() == before);
}

#[test]
fn an_xva_is_unpacked_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, full) = (disk(folder.path(), false), disk(folder.path(), true));
    for (number, level) in [None, Some(1), Some(9)].into_iter().enumerate() {
        let xva = folder.path().join("machine.xva");
        make_xva(&disk, &xva, Firmware::Uefi, level);
        let unpacked = folder.path().join(format!("unpacked{number}"));
        fs::create_dir(&unpacked).unwrap();
        said(Command::new("tar").arg("--extract").arg("--file").arg(&xva).arg("--directory").arg(&unpacked));
        let raw = folder.path().join(format!("{number}.raw"));
        said(tool("xva-img").args(["-p", "disk-export"]).arg(unpacked.join("Ref:3/")).arg(&raw));
        assert!(fs::read(&raw).unwrap() == fs::read(&disk).unwrap(), "level {level:?}: the disk differs");
        // The same, when the holes of the disk are written as zeros.
        let again = folder.path().join("full.xva");
        make_xva(&full, &again, Firmware::Uefi, level);
        assert!(
            fs::read(&again).unwrap() == fs::read(&xva).unwrap(),
            "level {level:?}: holes make a difference"
        );
        // What xva-img makes of the same disk has the same chunks and checksums.
        if level.is_none() {
            let again = folder.path().join("again");
            fs::create_dir(&again).unwrap();
            said(tool("xva-img").args(["-p", "disk-import"]).arg(&again).arg(&disk));
            for entry in fs::read_dir(&again).unwrap() {
                let entry = entry.unwrap();
                let ours = fs::read(unpacked.join("Ref:3").join(entry.file_name()));
                assert!(fs::read(entry.path()).unwrap() == ours.unwrap(), "{:?}", entry.file_name());
            }
        }
    }
}

#[test]
fn vhd_and_vhdx_of_qemu_img_are_read_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), false);
    for (format, options) in
        [("vpc", "subformat=dynamic,force_size=on"), ("vhdx", "subformat=dynamic,block_size=1M")]
    {
        let package = folder.path().join(format!("disk.{format}"));
        said(
            tool("qemu-img")
                .args(["convert", "-f", "raw", "-O", format, "-o", options])
                .arg(&disk)
                .arg(&package),
        );
        let again = folder.path().join(format!("again.{format}"));
        fs::copy(&package, &again).unwrap();
        // What qemu-img makes anew each time is made to be the same.
        for (number, file) in [&package, &again].into_iter().enumerate() {
            if number == 1 {
                said(
                    tool("qemu-img")
                        .args(["convert", "-f", "raw", "-O", format, "-o", options])
                        .arg(&disk)
                        .arg(file),
                );
            }
            match format {
                "vpc" => media::stable::vhd(file, [3; 16], common::DATE).unwrap(),
                _ => media::stable::vhdx(file, [3; 16]).unwrap(),
            }
        }
        assert!(fs::read(&package).unwrap() == fs::read(&again).unwrap(), "{format}: the bytes differ");
        assert!(media::verify::verify(&package).unwrap().findings.is_empty());
        same_content(&disk, format, &package);
        let text = said(tool("vhdiinfo").arg(&package));
        assert!(text.contains(&format!("({DISK_BYTES} bytes)")), "{text}");
    }
}
