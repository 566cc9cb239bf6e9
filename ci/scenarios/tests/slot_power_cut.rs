//! The power goes while a slot is written, or while grubenv is: whatever reached the disk, what starts is a whole system.

use anyhow::{Context, Result, ensure};
use lab::{BOOT, Firmware, SHUTDOWN, scenario};
use scenarios::{
    BootImage, User, WRITE_SLOT, backup_server_with, built_disk, payload,
    write_log::{Replayed, WriteLog},
};
use slots::{Slot, Store, choose};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Points in time that are tried, besides every one around a write to the ESP.
const CUTS: usize = 120;
/// Until GRUB has started a kernel that says so.
const KERNEL: Duration = Duration::from_secs(120);

/// The disk as it is after some of the writes.
struct Disk {
    disk: Replayed,
    esp: PathBuf,
}

impl Disk {
    fn new(folder: &Path) -> Result<Self> {
        let disk = Replayed::copy_of(&built_disk()?, folder.join("cut.raw"))?;
        Ok(Self { disk, esp: folder.join("cut.esp") })
    }

    /// The slot that starts, and whether it is whole. Which one GRUB takes is what the library says (scenario `grub`).
    fn starts(&self, boot_b: &Path) -> Result<(Slot, bool)> {
        let disk = &self.disk;
        let esp = disk.range("esp")?;
        let mut source = &disk.file;
        source.seek(SeekFrom::Start(esp.start))?;
        std::io::copy(&mut source.take(esp.end - esp.start), &mut File::create(&self.esp)?)?;
        let state = Store::open(&self.esp)?.read()?;
        let startable = |slot: Slot| {
            let mut magic = [0; 4];
            let range = disk.range(&format!("boot-{slot}"));
            let read = range.map(|range| disk.file.read_exact_at(&mut magic, range.start));
            read.is_ok() && &magic == b"hsqs"
        };
        let (choice, _) = choose(&state, startable).context("nothing starts")?;
        let slot = choice.slot;
        let boot = if slot == Slot::A { payload("boot.squashfs") } else { boot_b.to_owned() };
        let whole = disk.holds(&format!("boot-{slot}"), &boot)?
            && disk.holds(&format!("root-{slot}"), &payload("root.erofs"))?
            && disk.holds(&format!("verity-{slot}"), &payload("root.verity"))?;
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
            let mut disk = Disk::new(lab.folder())?;
            let range = |name| disk.disk.range(name);
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

            let mut seen = Vec::new();
            for cut in &cuts {
                disk.disk.to(&log, *cut)?;
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
                let mut disk = Disk::new(lab.folder())?.disk;
                disk.to(&log, cut)?;
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
