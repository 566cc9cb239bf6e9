//! VHD and VHDX that are the same whenever they are made: `qemu-img` writes the time and random identities into them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::verify::part::{Part, le32, le64};
use crate::verify::vhdx::{HEADER, HEADERS, metadata_item};
use crate::{Error, MIB};

/// Bytes of a VHD's footer.
const FOOTER: usize = 512;
/// Seconds from 1970 to 2000, from which a VHD counts.
const MILLENNIUM: u64 = 946_684_800;
/// The item of a VHDX's metadata that identifies the disk (page 83), as its GUID lies in the file.
const PAGE_83: [u8; 16] =
    [0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46];
/// The largest log that is believed, in bytes: `qemu-img` has one MiB.
const LOG_BYTES: usize = 64 << 20;

fn open(path: &Path) -> Result<File, Error> {
    let failed = |cause| Error::File { path: path.to_owned(), cause };
    File::options().read(true).write(true).open(path).map_err(failed)
}

fn read(file: &File, at: u64, count: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, at).map_err(Error::Read)?;
    Ok(bytes)
}

fn unexpected(what: &str) -> Error {
    Error::Read(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

/// Gives a VHD this identity, and `date` (seconds since 1970) as the time when it was made.
///
/// # Errors
/// It is none, or cannot be written.
pub fn vhd(path: &Path, identity: [u8; 16], date: u64) -> Result<(), Error> {
    let file = open(path)?;
    let length = file.metadata().map_err(Error::Read)?.len();
    let last = length.checked_sub(FOOTER as u64).ok_or_else(|| unexpected("the VHD is cut"))?;
    let mut footer = read(&file, last, FOOTER)?;
    if !footer.starts_with(b"conectix") {
        return Err(unexpected("the VHD has no footer"));
    }
    let seconds = u32::try_from(date.saturating_sub(MILLENNIUM)).unwrap_or(u32::MAX);
    footer[24..28].copy_from_slice(&seconds.to_be_bytes());
    footer[68..84].copy_from_slice(&identity);
    footer[64..68].fill(0);
    let sum = footer.iter().map(|byte| u32::from(*byte)).fold(0, u32::wrapping_add);
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    file.write_all_at(&footer, last).map_err(Error::Write)?;
    // A dynamic disk has a copy at its beginning.
    if read(&file, 0, 8)? == b"conectix" {
        file.write_all_at(&footer, 0).map_err(Error::Write)?;
    }
    Ok(())
}

/// Gives a VHDX this identity.
///
/// # Errors
/// It is none, or cannot be written.
pub fn vhdx(path: &Path, identity: [u8; 16]) -> Result<(), Error> {
    let file = open(path)?;
    let headers = [read(&file, HEADERS[0], HEADER)?, read(&file, HEADERS[1], HEADER)?];
    if headers.iter().any(|header| !header.starts_with(b"head")) {
        return Err(unexpected("the VHDX has no header"));
    }
    // The newer one counts; the numbers themselves begin anywhere.
    let number = |header: &[u8]| le64(header, 8);
    let newer = usize::from(number(&headers[1]) > number(&headers[0]));
    for (index, (at, mut header)) in HEADERS.into_iter().zip(headers).enumerate() {
        header[8..16].copy_from_slice(&(1 + u64::from(index == newer)).to_le_bytes());
        // Of the last write to the file, and to the disk in it.
        header[16..32].copy_from_slice(&identity);
        header[32..48].copy_from_slice(&identity);
        header[4..8].fill(0);
        let sum = crc32c::crc32c(&header);
        header[4..8].copy_from_slice(&sum.to_le_bytes());
        if index == newer {
            clear_log(&file, &header)?;
        }
        file.write_all_at(&header, at).map_err(Error::Write)?;
    }
    let bytes = file.metadata().map_err(Error::Read)?.len();
    let item = metadata_item(&Part::whole(&file, bytes), &PAGE_83, identity.len() as u64);
    let item = item.ok_or_else(|| unexpected("the VHDX does not identify its disk"))?;
    file.write_all_at(&identity, item.start).map_err(Error::Write)
}

/// An empty log may still have what was in it.
fn clear_log(file: &File, header: &[u8]) -> Result<(), Error> {
    let (is_empty, bytes, at) = (header[48..64] == [0; 16], le32(header, 68) as usize, le64(header, 72));
    if !is_empty || bytes > LOG_BYTES {
        return Err(unexpected("the VHDX was not closed in order"));
    }
    // MS-VHDX 2.2.2: behind the first MiB, which has the headers, in whole MiB.
    let length = file.metadata().map_err(Error::Read)?.len();
    let is_inside = at.checked_add(bytes as u64).is_some_and(|end| end <= length);
    if at < MIB || !at.is_multiple_of(MIB) || !is_inside {
        return Err(unexpected("the VHDX's log is not where one may be"));
    }
    file.write_all_at(&vec![0; bytes], at).map_err(Error::Write)
}
