//! Writing a system into a slot: three images onto three partitions, so that a power cut at any point leaves a machine
//! that boots what it booted before, or the new system whole.
//!
//! The order: the slot is marked as one that is never started; the first block of its boot partition goes, so that
//! GRUB would not start it either; root, hashes and the rest of boot are written and synced; boot's first block; all of
//! it is read back and compared; and last grubenv names the slot.

use crate::boot_image::SlotConfig;
use crate::decision::{Slot, State};
use crate::store::Store;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is written at a time, in bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// The part of a boot image without which it is none, in bytes: squashfs has its superblock there.
const HEAD_BYTES: u64 = 4096;

/// One thing for each of a slot's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts<T> {
    /// Kernel, initrd, slot.cfg.
    pub boot: T,
    /// The system.
    pub root: T,
    /// dm-verity's hashes of the root.
    pub verity: T,
}

impl Parts<PathBuf> {
    /// Each image with its device, in the order in which they are written.
    fn pairs<'a>(&'a self, devices: &'a Self) -> [(&'a PathBuf, &'a PathBuf); 3] {
        [(&self.root, &devices.root), (&self.verity, &devices.verity), (&self.boot, &devices.boot)]
    }
}

/// Where a system goes: a slot's partitions on one disk, and that disk's grubenv.
#[derive(Debug)]
pub struct Target {
    /// State of the slots there.
    pub store: Store,
    /// The slot's partitions.
    pub devices: Parts<PathBuf>,
}

/// How far the writing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written and, later, read back.
    pub done: u64,
    /// All bytes, twice.
    pub total: u64,
}

/// Refuses what would overwrite the only system that is known to work.
///
/// # Errors
/// The running slot has not proved itself yet, or it is the one to be written.
pub fn check_target(state: &State, running: Slot, target: Slot) -> Result<()> {
    ensure!(target != running, "slot {target} is running; the other one can be written");
    ensure!(
        state.record(running).good,
        "the system in slot {running} has not proved itself yet, and slot {target} is its only fallback; wait until it \
         is good"
    );
    Ok(())
}

/// Checks images: they belong together, byte by byte.
///
/// # Errors
/// The boot image has no slot.cfg, or the root does not match its hashes.
pub fn verify(images: &Parts<PathBuf>) -> Result<SlotConfig> {
    let config = SlotConfig::read(&images.boot)?
        .with_context(|| format!("{} is no boot image", images.boot.display()))?;
    let mut veritysetup = Command::new("veritysetup");
    veritysetup.arg("verify").args([&images.root, &images.verity]).arg(&config.roothash);
    let output = veritysetup.output().context("cannot run veritysetup")?;
    if !output.status.success() {
        bail!(
            "{} does not belong to {}: {}",
            images.root.display(),
            images.boot.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(config)
}

/// Writes `images` into `slot` of every disk in `targets`, of which the first is the one that was started, and makes it the
/// slot that starts next. Gives what went wrong with the other disks, which go on with what they have.
///
/// # Errors
/// An image does not fit, or reading or writing fails on the first disk; then the machine goes on with what it has.
pub fn write(
    slot: Slot,
    images: &Parts<PathBuf>,
    targets: &[Target],
    mut progress: impl FnMut(Progress),
) -> Result<Vec<String>> {
    let (first, others) = targets.split_first().context("there is no disk to write to")?;
    check_room(images, &first.devices)?;
    let bytes = size(&images.root)? + size(&images.verity)? + size(&images.boot)?;
    let (mut done, total) = (0, 2 * bytes * targets.len() as u64);
    let mut report = |bytes| {
        done += bytes;
        progress(Progress { done, total });
    };
    fill_slot(slot, images, first, &mut report)?;
    let (mut written, mut problems) = (Vec::new(), Vec::new());
    for target in others {
        match check_room(images, &target.devices).and_then(|()| fill_slot(slot, images, target, &mut report))
        {
            Ok(()) => written.push(target),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    // No disk names the slot before all have it, and the one that was started is the last.
    let problem = |target: &Target| finish(slot, target).err().map(|error| format!("{error:#}"));
    problems.extend(written.into_iter().filter_map(problem));
    finish(slot, first)?;
    Ok(problems)
}

fn check_room(images: &Parts<PathBuf>, devices: &Parts<PathBuf>) -> Result<()> {
    for (image, device) in images.pairs(devices) {
        let (bytes, room) = (size(image)?, size(device)?);
        ensure!(bytes <= room, "{} has {bytes} bytes, {} holds {room}", image.display(), device.display());
    }
    Ok(())
}

fn finish(slot: Slot, target: &Target) -> Result<()> {
    let mut state = target.store.read()?;
    state.finish_write(slot);
    target.store.write(&state)
}

/// Writes the images and reads them back; the slot is not named yet.
fn fill_slot(
    slot: Slot,
    images: &Parts<PathBuf>,
    Target { store, devices }: &Target,
    report: &mut impl FnMut(u64),
) -> Result<()> {
    let mut state = store.read()?;
    state.begin_write(slot);
    store.write(&state)?;

    let pairs = images.pairs(devices);
    fill(&devices.boot, 0, &mut std::io::repeat(0).take(HEAD_BYTES), &mut |_| {})?;
    let mut digests = Vec::new();
    for (image, device) in pairs {
        let mut source = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
        let mut digest = Sha256::new();
        if device == &devices.boot {
            let mut head = vec![0; usize::try_from(HEAD_BYTES.min(size(image)?))?];
            source.read_exact(&mut head).with_context(|| format!("cannot read {}", image.display()))?;
            digest.update(&head);
            fill(device, HEAD_BYTES, &mut Digesting(&mut source, &mut digest), report)?;
            fill(device, 0, &mut head.as_slice(), report)?;
        } else {
            fill(device, 0, &mut Digesting(&mut source, &mut digest), report)?;
        }
        digests.push(digest.finalize());
    }
    for ((image, device), written) in pairs.into_iter().zip(digests) {
        let read = digest_of(device, size(image)?, report)?;
        ensure!(
            read == written,
            "{} does not give back what was written; the disk is failing",
            device.display()
        );
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    let size = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    size.with_context(|| format!("cannot open {}", path.display()))
}

/// Writes everything that `source` gives to `device` at `offset`, and waits until it is on the disk.
fn fill(device: &Path, offset: u64, source: &mut impl Read, report: &mut impl FnMut(u64)) -> Result<()> {
    let cannot = || format!("cannot write {}", device.display());
    let mut file = File::options().write(true).open(device).with_context(cannot)?;
    file.seek(SeekFrom::Start(offset)).with_context(cannot)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = source.read(&mut chunk).context("cannot read what is to be written")?;
        if count == 0 {
            break;
        }
        file.write_all(&chunk[..count]).with_context(cannot)?;
        report(count as u64);
    }
    file.sync_all().with_context(cannot)
}

/// SHA-256 of the first `bytes` of `device`, from the disk and not from memory.
fn digest_of(
    device: &Path,
    bytes: u64,
    report: &mut impl FnMut(u64),
) -> Result<sha2::digest::Output<Sha256>> {
    let cannot = || format!("cannot read {} back", device.display());
    let file = File::open(device).with_context(cannot)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).with_context(cannot)?;
    let mut digest = Sha256::new();
    let mut source = file.take(bytes);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = source.read(&mut chunk).with_context(cannot)?;
        if count == 0 {
            return Ok(digest.finalize());
        }
        digest.update(&chunk[..count]);
        report(count as u64);
    }
}

/// Reads through, and notes what was read.
struct Digesting<'a, R>(&'a mut R, &'a mut Sha256);

impl<R: Read> Read for Digesting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::fat::tests::esp;
    use std::fs;

    #[test]
    fn only_the_slot_that_does_not_run_is_written_and_only_by_a_proven_one() {
        let mut state = State::of(&Environment::default());
        check_target(&state, Slot::A, Slot::B).unwrap();
        assert!(
            check_target(&state, Slot::A, Slot::A).unwrap_err().to_string().contains("slot a is running")
        );
        state.finish_write(Slot::B);
        let error = check_target(&state, Slot::B, Slot::A).unwrap_err().to_string();
        assert!(error.contains("slot b has not proved itself yet"), "{error}");
    }

    #[test]
    fn images_are_written_whole_read_back_and_named_last() {
        let folder = tempfile::tempdir().unwrap();
        let block = Environment::default().render().unwrap();
        let store = |name: &str| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).unwrap();
            let files: [(&str, &[u8]); 2] = [("EFI/debian/grubenv", &block), ("EFI/debian/grubenv2", &block)];
            Store::open(&esp(&folder, &files)).unwrap()
        };
        let parts = |prefix: &str| {
            let path = |name: &str| folder.path().join(format!("{prefix}-{name}"));
            Parts { boot: path("boot"), root: path("root"), verity: path("verity") }
        };
        let images = parts("image");
        let targets = ["one", "two", "small"].map(|name| Target { store: store(name), devices: parts(name) });
        for (path, size, byte) in
            [(&images.boot, 3 << 20, 1), (&images.root, (1 << 20) + 17, 2), (&images.verity, 100, 3)]
        {
            fs::write(path, vec![byte; size]).unwrap();
        }
        for Target { devices, .. } in &targets {
            for path in [&devices.boot, &devices.root, &devices.verity] {
                fs::write(path, vec![0xff; 4 << 20]).unwrap();
            }
        }
        // A sibling on which something goes wrong is said, and goes on with what it has.
        fs::write(&targets[2].devices.verity, [0; 99]).unwrap();
        let mut last = None;
        let problems = write(Slot::B, &images, &targets, |progress| last = Some(progress)).unwrap();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("small-verity holds 99"), "{problems:?}");
        for Target { store, devices } in &targets[..2] {
            for (image, device) in images.pairs(devices) {
                let image = fs::read(image).unwrap();
                assert_eq!(fs::read(device).unwrap()[..image.len()], image);
            }
            assert_eq!(store.read().unwrap().first, Slot::B);
        }
        assert_eq!(targets[2].store.read().unwrap().first, Slot::A);
        let last = last.unwrap();
        assert_eq!(last.done * 3, last.total * 2);

        // What does not fit changes nothing.
        fs::write(&targets[0].devices.verity, [0; 99]).unwrap();
        let error = write(Slot::A, &images, &targets, |_| {}).unwrap_err().to_string();
        assert!(error.contains("one-verity holds 99"), "{error}");
        assert_eq!(targets[0].store.read().unwrap().first, Slot::B);
    }
}
