//! Where a file's bytes lie in a FAT32 file system.
//!
//! grubenv is written in place, sector by sector, while nothing else of the ESP changes: no mount, which would mark the
//! file system dirty, and no directory entry. So all that is needed of FAT is to follow a path of short names to its
//! clusters. Microsoft's "FAT32 File System Specification", 1.03. Reading only: nothing here can harm an ESP.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

const ENTRY_BYTES: usize = 32;
/// Attribute byte of the entries that hold parts of a long name.
const LONG_NAME: u8 = 0x0f;
/// Attribute bit of a folder.
const FOLDER: u8 = 0x10;
/// Cluster numbers from here on end a chain.
const END_OF_CHAIN: u32 = 0x0fff_fff8;
/// Upper four bits of a table entry are reserved.
const CLUSTER_MASK: u32 = 0x0fff_ffff;
/// Longest chain that is followed: folders and files of an ESP are small; a chain that goes in circles ends here.
const CHAIN_MAX: usize = 4096;

/// The byte ranges of the file at `path` (short names, any case), in the order of its content.
///
/// # Errors
/// No FAT32 file system, no such file, or a damaged chain.
pub fn locate(device: &mut (impl Read + Seek), path: &[&str]) -> Result<Vec<Range<u64>>> {
    let volume = Volume::read(device)?;
    let (mut cluster, mut size) = (volume.root, None);
    for (depth, name) in path.iter().enumerate() {
        let folder = volume.content(device, cluster)?;
        let entry = find(&folder, name).with_context(|| format!("there is no {name:?} in the ESP"))?;
        ensure!(entry.folder == (depth + 1 < path.len()), "{name:?} in the ESP is of the wrong kind");
        (cluster, size) = (entry.cluster, Some(entry.size));
    }
    let mut left = u64::from(size.context("the root folder is no file")?);
    let mut ranges = Vec::new();
    if left > 0 {
        for cluster in volume.chain(device, cluster)? {
            let start = volume.offset(cluster);
            let length = left.min(volume.cluster_bytes);
            ranges.push(start..start + length);
            left -= length;
            if left == 0 {
                break;
            }
        }
    }
    ensure!(left == 0, "the file's clusters end before its size");
    Ok(ranges)
}

struct Volume {
    table: u64,
    table_bytes: u64,
    data: u64,
    cluster_bytes: u64,
    root: u32,
}

impl Volume {
    fn read(device: &mut (impl Read + Seek)) -> Result<Self> {
        let mut sector = [0; 512];
        read_at(device, 0, &mut sector)?;
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
        let u32_at =
            |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
        let (sector_bytes, reserved, tables) = (u16_at(11), u16_at(14), u64::from(sector[16]));
        let (cluster_sectors, table_sectors) = (u64::from(sector[13]), u64::from(u32_at(36)));
        let sound = sector[510..] == [0x55, 0xaa]
            && [512, 1024, 2048, 4096].contains(&sector_bytes)
            && cluster_sectors.is_power_of_two()
            && (1..=2).contains(&tables)
            && u16_at(17) == 0
            && u16_at(22) == 0
            && table_sectors > 0;
        ensure!(sound, "the ESP holds no FAT32 file system");
        let (table, table_bytes) = (reserved * sector_bytes, table_sectors * sector_bytes);
        Ok(Self {
            table,
            table_bytes,
            data: table + tables * table_bytes,
            cluster_bytes: cluster_sectors * sector_bytes,
            root: u32_at(44),
        })
    }

    fn offset(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster - 2) * self.cluster_bytes
    }

    fn chain(&self, device: &mut (impl Read + Seek), first: u32) -> Result<Vec<u32>> {
        let mut chain = Vec::new();
        let mut cluster = first;
        while cluster < END_OF_CHAIN {
            let at = u64::from(cluster) * 4;
            if cluster < 2 || at + 4 > self.table_bytes || chain.len() == CHAIN_MAX {
                bail!("the ESP's file system is damaged: cluster {cluster} in a chain");
            }
            chain.push(cluster);
            let mut entry = [0; 4];
            read_at(device, self.table + at, &mut entry)?;
            cluster = u32::from_le_bytes(entry) & CLUSTER_MASK;
        }
        Ok(chain)
    }

    fn content(&self, device: &mut (impl Read + Seek), first: u32) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        for cluster in self.chain(device, first)? {
            let mut bytes = vec![0; usize::try_from(self.cluster_bytes)?];
            read_at(device, self.offset(cluster), &mut bytes)?;
            content.append(&mut bytes);
        }
        Ok(content)
    }
}

struct Entry {
    cluster: u32,
    size: u32,
    folder: bool,
}

fn find(folder: &[u8], name: &str) -> Option<Entry> {
    let wanted = short_name(name)?;
    let entries = folder.chunks_exact(ENTRY_BYTES).take_while(|entry| entry[0] != 0);
    let entry = entries.into_iter().find(|entry| entry[11] != LONG_NAME && entry[..11] == wanted)?;
    let cluster = [entry[26], entry[27], entry[20], entry[21]];
    Some(Entry {
        cluster: u32::from_le_bytes(cluster) & CLUSTER_MASK,
        size: u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]),
        folder: entry[11] & FOLDER != 0,
    })
}

/// `name` as it stands in a directory entry: 8 and 3 characters, upper case, filled with spaces.
fn short_name(name: &str) -> Option<[u8; 11]> {
    let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
    if stem.is_empty() || stem.len() > 8 || suffix.len() > 3 || !name.is_ascii() {
        return None;
    }
    let mut short = [b' '; 11];
    short[..stem.len()].copy_from_slice(stem.to_ascii_uppercase().as_bytes());
    short[8..8 + suffix.len()].copy_from_slice(suffix.to_ascii_uppercase().as_bytes());
    Some(short)
}

fn read_at(device: &mut (impl Read + Seek), offset: u64, bytes: &mut [u8]) -> Result<()> {
    device
        .seek(SeekFrom::Start(offset))
        .and_then(|_| device.read_exact(bytes))
        .with_context(|| format!("cannot read {} bytes of the ESP at {offset}", bytes.len()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::{self, File};
    use std::io::Cursor;
    use std::path::{Path, PathBuf};
    use tools::Toolbox;

    /// An ESP as the build makes it, with `files` in it.
    pub(crate) fn esp(folder: &Path, files: &[(&str, &[u8])]) -> PathBuf {
        let toolbox = Toolbox::open().unwrap();
        let image = folder.join("esp.img");
        File::create(&image).unwrap().set_len(storage::layout::ESP_BYTES).unwrap();
        let mtools = |program: &str, arguments: &[&str]| {
            let mut command = toolbox.command(program);
            command.env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(&image).args(arguments);
            assert!(command.status().unwrap().success(), "{program}");
        };
        mtools("mformat", &["-F", "-c", "1", "::"]);
        mtools("mmd", &["::EFI", "::EFI/BOOT", "::EFI/debian"]);
        for (name, content) in files {
            let source = folder.join("content");
            fs::write(&source, content).unwrap();
            mtools("mcopy", &[source.to_str().unwrap(), &format!("::{name}")]);
        }
        image
    }

    #[test]
    fn files_are_found_cluster_by_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..3000u32).flat_map(|n| n.to_le_bytes()).collect();
        let image = esp(
            folder.path(),
            &[
                ("EFI/debian/grubenv", &[b'x'; 1024]),
                ("EFI/debian/a-long-name.bin", &[1]),
                ("EFI/x.bin", &long),
            ],
        );
        let bytes = fs::read(&image).unwrap();
        let content = |path: &[&str]| -> Result<Vec<u8>> {
            let ranges = locate(&mut Cursor::new(&bytes), path)?;
            let slice = |range: Range<u64>| &bytes[range.start as usize..range.end as usize];
            Ok(ranges.into_iter().flat_map(slice).copied().collect())
        };
        assert_eq!(content(&["EFI", "debian", "grubenv"]).unwrap(), [b'x'; 1024]);
        assert_eq!(content(&["efi", "X.BIN"]).unwrap(), long);
        for (path, problem) in [
            (&["EFI", "debian", "grubenv2"][..], "no \"grubenv2\""),
            (&["EFI", "debian"], "wrong kind"),
            (&["EFI", "x.bin", "y"], "wrong kind"),
            (&["a-long-name.bin"], "no \"a-long-name.bin\""),
        ] {
            let error = content(path).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        assert!(
            locate(&mut Cursor::new(vec![0; 4096]), &["x"]).unwrap_err().to_string().contains("no FAT32")
        );
        assert!(locate(&mut Cursor::new(vec![]), &["x"]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_damaged_file_system_is_an_error_and_no_endless_loop(
            mut bytes in prop::collection::vec(any::<u8>(), 8192),
            sound in any::<bool>(),
        ) {
            if sound {
                bytes[11..24].copy_from_slice(&[0, 2, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
                bytes[36..40].copy_from_slice(&4u32.to_le_bytes());
                bytes[44..48].copy_from_slice(&2u32.to_le_bytes());
                bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            }
            drop(locate(&mut Cursor::new(bytes), &["EFI", "grubenv"]));
        }
    }
}
