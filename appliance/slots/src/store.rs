//! The state of the slots in the grubenv files of an ESP, read and written in place.
//!
//! Two copies: `grubenv`, which counts, and `grubenv2`, which stands in for what the first does not say. GRUB reads
//! them in the same order and counts tries in the first one.

use crate::decision::State;
use crate::environment::{BLOCK_BYTES, Environment};
use crate::fat;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Folder of grub.cfg and both files in the ESP.
const FOLDER: [&str; 2] = ["EFI", "debian"];
/// The copy that counts, and the one that stands in for it.
pub const FILES: [&str; 2] = [FIRST, SECOND];
const FIRST: &str = "grubenv";
const SECOND: &str = "grubenv2";
/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// An ESP on a block device, or in a file.
#[derive(Debug)]
pub struct Store {
    device: PathBuf,
    file: File,
}

impl Store {
    /// Opens the ESP for reading and writing.
    ///
    /// # Errors
    /// The device cannot be opened.
    pub fn open(device: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(device);
        let file = file.with_context(|| format!("cannot open the ESP {}", device.display()))?;
        Ok(Self { device: device.into(), file })
    }

    /// The state: what `grubenv` says, otherwise `grubenv2`, otherwise the defaults.
    ///
    /// # Errors
    /// The ESP cannot be read. A damaged grubenv is none: GRUB boots with it, too.
    pub fn read(&self) -> Result<State> {
        Ok(State::of(&self.environment()?))
    }

    /// Stores a state in both files, each of which holds the old or the new state at any time.
    ///
    /// # Errors
    /// A file is missing or has another size, or the ESP cannot be written.
    pub fn write(&self, state: &State) -> Result<()> {
        let mut environment = self.environment()?;
        state.store(&mut environment);
        let block = environment.render()?;
        for name in [SECOND, FIRST] {
            self.replace(name, &block)
                .with_context(|| format!("cannot write {name} on the ESP {}", self.device.display()))?;
        }
        Ok(())
    }

    fn environment(&self) -> Result<Environment> {
        let first = self.block(FIRST)?.and_then(|block| Environment::parse(&block));
        let second = self.block(SECOND)?.and_then(|block| Environment::parse(&block));
        let mut environment = second.unwrap_or_default();
        environment.overlay(first.unwrap_or_default());
        Ok(environment)
    }

    fn block(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Ok(ranges) = fat::locate(&mut &self.file, &[FOLDER[0], FOLDER[1], name]) else {
            return Ok(None); // GRUB goes on without it
        };
        let mut block = Vec::new();
        for range in ranges {
            let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
            self.file
                .read_exact_at(&mut bytes, range.start)
                .with_context(|| format!("cannot read {name} on the ESP {}", self.device.display()))?;
            block.append(&mut bytes);
        }
        Ok(Some(block))
    }

    /// Writes the sectors that change, and waits until they are on the disk.
    fn replace(&self, name: &str, block: &[u8; BLOCK_BYTES]) -> Result<()> {
        let ranges = fat::locate(&mut &self.file, &[FOLDER[0], FOLDER[1], name])?;
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        ensure!(bytes == BLOCK_BYTES as u64, "it has {bytes} bytes, a grubenv has {BLOCK_BYTES}");
        let offsets = ranges.into_iter().flat_map(|range| range.step_by(SECTOR_BYTES));
        for (sector, offset) in block.chunks_exact(SECTOR_BYTES).zip(offsets) {
            let mut old = [0; SECTOR_BYTES];
            self.file.read_exact_at(&mut old, offset)?;
            if old != *sector {
                self.file.write_all_at(sector, offset)?;
            }
        }
        Ok(self.file.sync_all()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Slot;
    use crate::fat::tests::esp;

    fn block(text: &str) -> Vec<u8> {
        let mut block = format!("# GRUB Environment Block\n{text}").into_bytes();
        block.resize(BLOCK_BYTES, b'#');
        block
    }

    fn store(first: &[u8], second: &[u8]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let image = esp(folder.path(), &[("EFI/debian/grubenv", first), ("EFI/debian/grubenv2", second)]);
        (folder, Store::open(&image).unwrap())
    }

    #[test]
    fn the_first_copy_counts_and_the_second_stands_in() {
        let (new, b_first) = (State::of(&Environment::default()), block("ORDER=b a\n"));
        let table: [(&[u8], &[u8], Slot); 5] = [
            (&block(""), &block(""), Slot::A),
            (&b_first, &block("ORDER=a b\n"), Slot::B),
            (&block(""), &b_first, Slot::B),
            (&[0; BLOCK_BYTES], &b_first, Slot::B),
            (&[], &b_first, Slot::B),
        ];
        for (first, second, expected) in table {
            let (_folder, store) = store(first, second);
            assert_eq!(store.read().unwrap().first, expected);
        }
        let (_folder, store) = store(&[1; BLOCK_BYTES], &[]);
        assert_eq!(store.read().unwrap(), new);
    }

    #[test]
    fn writing_changes_two_sectors_and_nothing_else() {
        let (folder, store) = store(&block("other=kept\n"), &[0; BLOCK_BYTES]);
        let image = folder.path().join("esp.img");
        let before = std::fs::read(&image).unwrap();
        let mut state = store.read().unwrap();
        state.begin_write(Slot::B);
        store.write(&state).unwrap();
        assert_eq!(store.read().unwrap(), state);
        assert_eq!(store.environment().unwrap().get("other"), Some("kept"));
        let after = std::fs::read(&image).unwrap();
        let changed = before.chunks(512).zip(after.chunks(512)).filter(|(old, new)| old != new).count();
        // The second copy was damaged: both of its sectors; of the first one only the one that is used.
        assert_eq!(changed, 3);
        state.finish_write(Slot::B);
        store.write(&state).unwrap();
        let again = std::fs::read(&image).unwrap();
        assert_eq!(after.chunks(512).zip(again.chunks(512)).filter(|(old, new)| old != new).count(), 2);
    }

    #[test]
    fn a_grubenv_of_another_size_is_an_error_with_the_way_it_should_be() {
        let (_folder, store) = store(&[], &block(""));
        let error = format!("{:#}", store.write(&store.read().unwrap()).unwrap_err());
        assert!(error.contains("grubenv on the ESP") && error.contains("it has 0 bytes"), "{error}");
    }
}
