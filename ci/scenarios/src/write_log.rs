//! Every write that a VM made to its disk, and the disk as it was after any number of them.
//!
//! QEMU's `blklogwrites` writes the format of dm-log-writes (kernel documentation,
//! `admin-guide/device-mapper/log-writes.rst`): a superblock, then entries of one sector each, followed by their data.
//! So a power cut is tried at hundreds of points without booting for each.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use storage::layout;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR_BYTES: u64 = 512;
/// Bytes that are compared at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// Flag of an entry that discards sectors and has no data.
const DISCARD: u64 = 4;

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub bytes: u64,
    /// Where the data is in the log; `None`: the bytes were discarded.
    data: Option<u64>,
}

impl Entry {
    /// Whether it changes something in this range of the disk.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.offset < range.end && range.start < self.offset + self.bytes
    }
}

/// The log of one VM.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    /// All writes, in order.
    pub entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the entries.
    ///
    /// # Errors
    /// It is no such log, or it is cut.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let [magic, version, count, sector_bytes] = words(&file, 0)?;
        ensure!(magic == MAGIC && version == 1, "{} is no log of writes", path.display());
        ensure!(
            sector_bytes & 0xffff_ffff == SECTOR_BYTES,
            "the log's sectors are not of {SECTOR_BYTES} bytes"
        );
        let mut entries = Vec::new();
        let mut at = SECTOR_BYTES;
        for _ in 0..count {
            let [sector, sectors, flags, _] = words(&file, at)?;
            at += SECTOR_BYTES;
            let bytes = sectors * SECTOR_BYTES;
            let discards = flags & DISCARD != 0;
            entries.push(Entry { offset: sector * SECTOR_BYTES, bytes, data: (!discards).then_some(at) });
            if !discards {
                at += bytes;
            }
        }
        Ok(Self { file, entries })
    }

    /// Makes one more write on `disk`.
    pub fn replay(&self, entry: &Entry, disk: &File) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(entry.bytes)?];
        if let Some(at) = entry.data {
            self.file.read_exact_at(&mut bytes, at).context("the log is cut")?;
        }
        disk.write_all_at(&bytes, entry.offset).context("cannot write the disk")
    }
}

/// A disk as it is after some of the writes.
#[derive(Debug)]
pub struct Replayed {
    /// Its file, raw.
    pub path: PathBuf,
    /// The same, open.
    pub file: File,
    bytes: u64,
    done: usize,
}

impl Replayed {
    /// A disk at `path` that was blank before the first write.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn blank(path: PathBuf, bytes: u64) -> Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        file.set_len(bytes)?;
        Ok(Self { path, file, bytes, done: 0 })
    }

    /// A disk at `path` that was a copy of `image` before the first write.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn copy_of(image: &Path, path: PathBuf) -> Result<Self> {
        let status = Command::new("cp").arg("--sparse=always").arg(image).arg(&path).status()?;
        ensure!(status.success(), "cannot copy {}", image.display());
        let file = File::options().read(true).write(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, done: 0 })
    }

    /// Makes the writes up to `cut`, which only grows.
    ///
    /// # Errors
    /// The log is cut, or the disk cannot be written.
    pub fn to(&mut self, log: &WriteLog, cut: usize) -> Result<()> {
        for entry in &log.entries[self.done..cut] {
            log.replay(entry, &self.file)?;
        }
        self.done = cut;
        Ok(())
    }

    /// The next writes are those of another log, from its first on.
    pub fn begin_another_log(&mut self) {
        self.done = 0;
    }

    /// Where a partition of the system's layout is, in bytes.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn range(&self, partition: &str) -> Result<Range<u64>> {
        let table = layout::system_disk(self.bytes, SECTOR_BYTES)?;
        let partition = table.iter().find(|found| found.name == partition).context("no such partition")?;
        let start = partition.offset_bytes(SECTOR_BYTES);
        Ok(start..start + partition.size_bytes(SECTOR_BYTES))
    }

    /// Whether a partition begins with the content of `image`.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn holds(&self, partition: &str, image: &Path) -> Result<bool> {
        let mut at = self.range(partition)?.start;
        let mut image = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
        let (mut expected, mut found) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
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
}

fn words(file: &File, at: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at).context("the log is cut")?;
    let word = |n: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[n * 8..n * 8 + 8]);
        u64::from_le_bytes(word)
    };
    Ok([word(0), word(1), word(2), word(3)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_log_is_replayed_write_by_write() {
        let folder = tempfile::tempdir().unwrap();
        let (path, disk_path) = (folder.path().join("log"), folder.path().join("disk"));
        let sector = |words: [u64; 4]| {
            let mut sector = words.map(u64::to_le_bytes).concat();
            sector.resize(512, 0);
            sector
        };
        let log = [
            sector([MAGIC, 1, 3, 512]),
            sector([2, 1, 0, 0]),
            vec![7; 512],
            sector([0, 0, 1, 0]),
            sector([2, 1, DISCARD, 0]),
        ]
        .concat();
        fs::write(&path, &log).unwrap();
        fs::write(&disk_path, vec![1; 2048]).unwrap();
        let disk = File::options().write(true).open(&disk_path).unwrap();
        let log = WriteLog::open(&path).unwrap();
        assert!(log.entries[0].touches(&(1024..1025)) && !log.entries[0].touches(&(0..1024)));
        assert!(!log.entries[1].touches(&(0..2048)));
        for (entry, byte) in log.entries.iter().zip([7, 7, 0]) {
            log.replay(entry, &disk).unwrap();
            assert_eq!(fs::read(&disk_path).unwrap()[1024..1536], [byte; 512]);
        }
        fs::write(&path, [0; 512]).unwrap();
        assert!(WriteLog::open(&path).is_err());
    }
}
