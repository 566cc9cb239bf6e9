//! Disks as streamOptimized VMDK: the form inside an OVA.
//!
//! By "Virtual Disk Format 5.0" (VMware): a header, a descriptor, then the data in grains of 64 KiB, each compressed by itself
//! and preceded by a marker, each grain table after its grains, then the grain directory, a footer (the header with the place of
//! the directory) and an end-of-stream marker. `qemu-img` writes no footer's marker and no end of stream, and vSphere's import
//! refuses its files (siderolabs/talos#8148, qemu issue 1357).

use std::io::Write;

use crate::ordered::{ordered, workers};
use crate::{Error, MIB, Progress, Source, gzip, hex, is_zero};

/// Bytes of a sector.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a grain.
pub const GRAIN_BYTES: u64 = 64 << 10;
/// Entries of a grain table.
pub const TABLE_ENTRIES: u64 = 512;
/// "KDMV"
pub const MAGIC: u32 = 0x564d_444b;
/// Version of the header: the one with markers.
pub const VERSION: u32 = 3;
/// Flags: newlines can be checked, grains are compressed, there are markers.
pub const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
/// Deflate.
pub const COMPRESSION: u16 = 1;
/// "The directory's place stands in the footer."
pub const DIRECTORY_AT_END: u64 = u64::MAX;

/// Kinds of metadata markers.
pub mod marker {
    /// End of stream: a sector of zeros.
    pub const END: u32 = 0;
    /// A grain table follows.
    pub const TABLE: u32 = 1;
    /// The grain directory follows.
    pub const DIRECTORY: u32 = 2;
    /// The footer follows.
    pub const FOOTER: u32 = 3;
}

/// Sector of the descriptor, and how many it has.
const DESCRIPTOR: (u64, u64) = (1, 20);
/// Sectors before the first grain: a grain's length, as VMware's own files have it.
const OVERHEAD: u64 = 128;
/// Heads and sectors of the geometry.
const HEADS: u64 = 255;
const SECTORS: u64 = 63;
const MAX_CYLINDERS: u64 = 65535;

/// What the caller decides.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name under which the file is shipped: it stands in its descriptor.
    pub name: String,
    /// Deflate level, 0 to 9.
    pub level: u32,
    /// What tells this content from others.
    pub content_id: [u8; 16],
}

/// The text part of the file.
fn descriptor(options: &Options, disk_bytes: u64) -> String {
    let sectors = disk_bytes / SECTOR_BYTES;
    let id = options.content_id;
    let short = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
    let long = hex(&id);
    // ffffffff means "none", and fffffffe is what open-vmdk calls undefined.
    let short = if short >= 0xffff_fffe { 1 } else { short };
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={short:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRDONLY {sectors} SPARSE \"{}\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{}\"\nddb.geometry.heads = \"{HEADS}\"\n\
         ddb.geometry.sectors = \"{SECTORS}\"\nddb.longContentID = \"{long}\"\nddb.toolsVersion = \"2147483647\"\n\
         ddb.virtualHWVersion = \"15\"\n",
        options.name,
        (sectors / (HEADS * SECTORS)).min(MAX_CYLINDERS),
    )
}

/// The header, which is also the footer.
fn header(disk_bytes: u64, directory: u64) -> [u8; SECTOR_BYTES as usize] {
    let mut bytes = Vec::with_capacity(SECTOR_BYTES as usize);
    for word in [MAGIC, VERSION, FLAGS] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for word in [disk_bytes / SECTOR_BYTES, GRAIN_BYTES / SECTOR_BYTES, DESCRIPTOR.0, DESCRIPTOR.1] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&(TABLE_ENTRIES as u32).to_le_bytes());
    // No second directory.
    for word in [0, directory, OVERHEAD] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    // It was closed in order; what newlines look like, so that a transfer as text is seen.
    bytes.extend_from_slice(b"\0\n \r\n");
    bytes.extend_from_slice(&COMPRESSION.to_le_bytes());
    let mut sector = [0; SECTOR_BYTES as usize];
    sector[..bytes.len()].copy_from_slice(&bytes);
    sector
}

/// A marker before metadata of so many sectors.
fn metadata_marker(sectors: u64, kind: u32) -> [u8; SECTOR_BYTES as usize] {
    let mut sector = [0; SECTOR_BYTES as usize];
    sector[..8].copy_from_slice(&sectors.to_le_bytes());
    sector[12..16].copy_from_slice(&kind.to_le_bytes());
    sector
}

/// A grain with its marker, padded to whole sectors.
fn grain(first_sector: u64, bytes: &[u8], level: u32) -> Result<Vec<u8>, Error> {
    let deflated = gzip::zlib(bytes, level)?;
    let mut out = Vec::with_capacity((12 + deflated.len()).next_multiple_of(SECTOR_BYTES as usize));
    out.extend_from_slice(&first_sector.to_le_bytes());
    out.extend_from_slice(&(deflated.len() as u32).to_le_bytes());
    out.extend_from_slice(&deflated);
    out.resize(out.len().next_multiple_of(SECTOR_BYTES as usize), 0);
    Ok(out)
}

/// What counts sectors while it writes.
struct Sectors<W> {
    out: W,
    written: u64,
}

impl<W: Write> Sectors<W> {
    /// Writes whole sectors, and gives the number of the first.
    fn put(&mut self, bytes: &[u8]) -> Result<u32, Error> {
        let first = u32::try_from(self.written).map_err(|_| Error::TooLarge {
            what: "the compressed disk".into(),
            format: "VMDK",
            limit: "2 TiB",
        })?;
        self.out.write_all(bytes).map_err(Error::Write)?;
        self.written += bytes.len() as u64 / SECTOR_BYTES;
        Ok(first)
    }

    /// Writes a table of sector numbers behind its marker, and gives the number of its own first.
    fn put_table(&mut self, entries: &[u32], kind: u32) -> Result<u32, Error> {
        let mut bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES as usize), 0);
        self.put(&metadata_marker(bytes.len() as u64 / SECTOR_BYTES, kind))?;
        self.put(&bytes)
    }
}

/// Writes the disk; `progress` hears how many bytes of its data are done.
///
/// # Errors
/// The disk cannot be read, or `out` not written; name or level are none; or the file would have more than 2 TiB.
pub fn write(
    disk: &Source,
    options: &Options,
    out: impl Write,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let mut file = Sectors { out, written: 0 };
    if options.name.chars().any(|character| character == '"' || character.is_control()) {
        return Err(Error::Name(options.name.clone()));
    }
    let mut text = descriptor(options, disk.bytes()).into_bytes();
    if text.len() as u64 > DESCRIPTOR.1 * SECTOR_BYTES {
        return Err(Error::TooLarge {
            what: "the name".into(),
            format: "a VMDK's descriptor",
            limit: "9 KB",
        });
    }
    text.resize((DESCRIPTOR.1 * SECTOR_BYTES) as usize, 0);
    let mut head = header(disk.bytes(), DIRECTORY_AT_END).to_vec();
    head.extend_from_slice(&text);
    head.resize((OVERHEAD * SECTOR_BYTES) as usize, 0);
    file.put(&head)?;

    let covered = GRAIN_BYTES * TABLE_ENTRIES;
    let mut directory = vec![0u32; disk.bytes().div_ceil(covered) as usize];
    // The table that is being filled, and its number.
    let mut table = vec![0u32; TABLE_ENTRIES as usize];
    let mut current = 0;
    let mut close = |file: &mut Sectors<_>, table: &mut Vec<u32>, number: usize| {
        if table.iter().any(|entry| *entry != 0) {
            directory[number] = file.put_table(table, marker::TABLE)?;
            table.fill(0);
        }
        Ok::<_, Error>(())
    };
    let mut done = 0;
    let compress = |at: u64| {
        let mut bytes = vec![0; MIB as usize];
        disk.read(at, &mut bytes)?;
        let grains = bytes.chunks(GRAIN_BYTES as usize).enumerate().filter(|(_, bytes)| !is_zero(bytes));
        let grains = grains.map(|(index, bytes)| {
            let number = at / GRAIN_BYTES + index as u64;
            Ok((number, grain(number * (GRAIN_BYTES / SECTOR_BYTES), bytes, options.level)?))
        });
        grains.collect::<Result<Vec<_>, Error>>()
    };
    ordered(disk.pieces(MIB), workers(), compress, |grains| {
        for (number, bytes) in grains {
            let of_table = (number / TABLE_ENTRIES) as usize;
            if of_table != current {
                close(&mut file, &mut table, current)?;
                current = of_table;
            }
            table[(number % TABLE_ENTRIES) as usize] = file.put(&bytes)?;
        }
        done += MIB;
        progress(done);
        Ok(())
    })?;
    close(&mut file, &mut table, current)?;
    let at = file.put_table(&directory, marker::DIRECTORY)?;
    file.put(&metadata_marker(1, marker::FOOTER))?;
    file.put(&header(disk.bytes(), at.into()))?;
    file.put(&metadata_marker(0, marker::END))?;
    file.out.flush().map_err(Error::Write)
}
