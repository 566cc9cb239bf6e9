//! The power goes while a slot is written, or while grubenv is: whatever reached the disk, what starts is a whole system.

use anyhow::{Context, Result, ensure};
use lab::{BOOT, Firmware, SHUTDOWN, scenario};
use scenarios::{BootImage, User, WRITE_SLOT, backup_server_with, built_disk, payload, write_log::WriteLog};
use slots::{Slot, Store, choose};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use storage::layout;

/// Points in time that are tried, besides every one around a write to the ESP.
const CUTS: usize = 120;
/// Until GRUB has started a kernel that says so.
const KERNEL: Duration = Duration::from_secs(120);

/// The disk as it is after some of the writes.
struct Disk {
    path: PathBuf,
    file: File,
    esp: PathBuf,
}

fn range(name: &str) -> Result<Range<u64>> {
    let table = layout::system_disk(20 << 30, 512)?;
    let partition = table.iter().find(|partition| partition.name == name).context("no such partition")?;
    let start = partition.offset_bytes(512);
    Ok(start..start + partition.size_bytes(512))
}

impl Disk {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("cut.raw");
        let status = Command::new("cp").arg("--sparse=always").arg(built_disk()?).arg(&path).status()?;
        ensure!(status.success(), "cannot copy the disk");
        let file = File::options().read(true).write(true).open(&path)?;
        Ok(Self { path, file, esp: folder.join("cut.esp") })
    }

    /// Whether a partition begins with the content of `image`.
    fn holds(&self, partition: &str, image: &Path) -> Result<bool> {
        let mut at = range(partition)?.start;
        let mut image = File::open(image)?;
        let (mut expected, mut found) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        loop {
            let count = image.read(&mut expected)?;
            if count == 0 {
                return Ok(true);
            }
            self.file.read_exact_at(&mut found[..count], at)?;
            if expected[..count] != found[..count] {
                return Ok(false);
            }
            at += count as u64;
        }
    }

    /// The slot that starts, and whether it is whole. Which one GRUB takes is what the library says (scenario `grub`).
    fn starts(&self, boot_b: &Path) -> Result<(Slot, bool)> {
        let esp = range("esp")?;
        let mut source = &self.file;
        source.seek(SeekFrom::Start(esp.start))?;
        std::io::copy(&mut source.take(esp.end - esp.start), &mut File::create(&self.esp)?)?;
        let state = Store::open(&self.esp)?.read()?;
        let startable = |slot: Slot| {
            let mut magic = [0; 4];
            let read =
                range(&format!("boot-{slot}")).map(|range| self.file.read_exact_at(&mut magic, range.start));
            read.is_ok() && &magic == b"hsqs"
        };
        let (choice, _) = choose(&state, startable).context("nothing starts")?;
        let slot = choice.slot;
        let boot = if slot == Slot::A { payload("boot.squashfs") } else { boot_b.to_owned() };
        let whole = self.holds(&format!("boot-{slot}"), &boot)?
            && self.holds(&format!("root-{slot}"), &payload("root.erofs"))?
            && self.holds(&format!("verity-{slot}"), &payload("root.verity"))?;
        Ok((slot, whole))
    }
}

/// Six minutes.
mod full {
    use super::*;

    #[test]
    fn whatever_reached_the_disk_a_whole_system_starts() -> anyhow::Result<()> {
        scenario("slot-power-cut", |lab| {
            let boot =
                BootImage { name: "new", version: "9.0.2", options: "" }.make(lab.toolbox(), lab.folder())?;
            let log = lab.folder().join("writes.log");
            let (end, _) = lab.link("nobody-else");
            let server = backup_server_with(lab, end, |builder| {
                builder
                    .image("good", &boot)
                    .image("root", &payload("root.erofs"))
                    .image("verity", &payload("root.verity"))
                    .log_writes(&log)
            })?;
            User::of(&server)?.wait_for_api()?;
            server.run_ok(
                "/usr/lib/infimonitor/slots write --boot /dev/disk/by-id/virtio-good \
                 --root /dev/disk/by-id/virtio-root --verity /dev/disk/by-id/virtio-verity",
                WRITE_SLOT,
            )?;
            server.shutdown(SHUTDOWN)?;

            let log = WriteLog::open(&log)?;
            let (esp, slot_b) = (range("esp")?, range("boot-b")?.start..range("verity-b")?.end);
            let of = |range: &Range<u64>| -> Vec<usize> {
                let touching = log.entries.iter().enumerate().filter(|(_, entry)| entry.touches(range));
                touching.map(|(index, _)| index).collect()
            };
            let (env, slot) = (of(&esp), of(&slot_b));
            ensure!(
                env.len() >= 4 && slot.len() > CUTS,
                "{} writes to the ESP, {} to slot b",
                env.len(),
                slot.len()
            );
            let spread = slot.iter().step_by(slot.len() / CUTS);
            let cuts: BTreeSet<usize> =
                env.iter().flat_map(|index| [*index, index + 1]).chain(spread.copied()).collect();

            let disk = Disk::new(lab.folder())?;
            let (mut done, mut seen) = (0, Vec::new());
            for cut in &cuts {
                for entry in &log.entries[done..*cut] {
                    log.replay(entry, &disk.file)?;
                }
                done = *cut;
                let (slot, whole) = disk.starts(&boot)?;
                ensure!(
                    whole,
                    "after {cut} of {} writes slot {slot} starts, and it is not whole",
                    log.entries.len()
                );
                seen.push((*cut, slot));
            }
            let before = seen.iter().filter(|(_, slot)| *slot == Slot::A).count();
            println!("{} cuts: slot a starts {before} times, slot b {}", seen.len(), seen.len() - before);
            ensure!(
                seen.last().is_some_and(|(_, slot)| *slot == Slot::B),
                "slot b was written and does not start"
            );

            // GRUB itself, at a cut in the middle of the writing and at the end.
            let middle = slot[slot.len() / 2];
            for (cut, expected) in [(middle, Slot::A), (log.entries.len(), Slot::B)] {
                let disk = Disk::new(lab.folder())?;
                for entry in &log.entries[..cut] {
                    log.replay(entry, &disk.file)?;
                }
                let machine = lab
                    .machine(&format!("cut-{cut}"))
                    .disk(&disk.path)
                    .firmware(Firmware::SeaBios)
                    .start()?;
                machine.wait_for_serial(&format!("infimonitor.slot={expected} "), KERNEL)?;
                machine.wait_for_serial(&format!("system in slot {expected} "), BOOT)?;
                machine.kill()?;
            }
            Ok(())
        })
    }
}
