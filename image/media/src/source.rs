//! The raw disk that a package is made of: a file with holes, read from many threads at once.
//!
//! What is a hole and what is written as zeros is the file system's affair: writers ask [`is_zero`] of what they read, so that
//! the same bytes give the same package. The holes only save the reading.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::Error;

/// A raw disk.
#[derive(Debug)]
pub struct Source {
    file: File,
    bytes: u64,
    data: Vec<Range<u64>>,
}

impl Source {
    /// Opens a raw disk and looks where its data is.
    ///
    /// # Errors
    /// It cannot be read, it is no file, or it is not of whole MiB: ESXi and Hyper-V take nothing else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |cause: io::Error| Error::File { path: path.to_owned(), cause };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::NoFile(path.to_owned()));
        }
        let bytes = metadata.len();
        if bytes == 0 || !bytes.is_multiple_of(crate::MIB) {
            return Err(Error::Size { path: path.to_owned(), bytes });
        }
        let data = extents(&file, bytes).map_err(failed)?;
        Ok(Self { file, bytes, data })
    }

    /// Size of the disk in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are not in holes.
    pub fn data_bytes(&self) -> u64 {
        self.data.iter().map(|extent| extent.end - extent.start).sum()
    }

    /// The starts of all pieces of `piece` bytes that hold data, in order. The disk's size is a multiple of `piece`.
    pub fn pieces(&self, piece: u64) -> impl Iterator<Item = u64> + '_ {
        let mut next = 0;
        self.data.iter().flat_map(move |extent| {
            let first = (extent.start / piece).max(next);
            next = extent.end.div_ceil(piece);
            (first..next).map(move |number| number * piece)
        })
    }

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buffer, offset).map_err(Error::Read)
    }
}

/// Where data is, in order, without overlaps.
fn extents(file: &File, bytes: u64) -> io::Result<Vec<Range<u64>>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < bytes {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            // The file system does not tell.
            Err(Errno::INVAL) => return Ok(std::iter::once(0..bytes).collect()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(bytes);
        at = end;
        // Small holes are read rather than remembered: so many extents a MiB would fill the memory.
        match found.last_mut() {
            Some(before) if start / crate::MIB <= before.end / crate::MIB => before.end = end,
            _ => found.push(start..end),
        }
    }
    Ok(found)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // In words, which the compiler turns into wide instructions.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_with_data_come_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = File::options().write(true).create_new(true).open(&path).unwrap();
        file.set_len(64 * crate::MIB).unwrap();
        for (at, bytes) in
            [(0, 1), (crate::MIB + 70_000, 100_000), (40 * crate::MIB - 1, 2), (64 * crate::MIB - 1, 1)]
        {
            file.write_all_at(&vec![1; bytes], at).unwrap();
        }
        let source = Source::open(&path).unwrap();
        let found: Vec<u64> = source.pieces(crate::MIB).map(|at| at / crate::MIB).collect();
        // A file system may keep more than was written, never less.
        for piece in [0, 1, 39, 40, 63] {
            assert!(found.contains(&piece), "{found:?}");
        }
        assert!(found.is_sorted_by(|a, b| a < b) && found.len() < 20, "{found:?}");
        assert!(source.data_bytes() < source.bytes());
    }

    #[test]
    fn a_disk_of_broken_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for bytes in [0, 512, crate::MIB + 512] {
            File::create(&path).unwrap().set_len(bytes).unwrap();
            let error = Source::open(&path).unwrap_err().to_string();
            assert!(error.contains("whole MiB"), "{error}");
        }
        assert!(matches!(Source::open(folder.path()), Err(Error::NoFile(_))));
    }

    #[test]
    fn zeros_are_known() {
        for length in [0, 1, 15, 16, 17, 4096] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            if let Some(last) = bytes.last_mut() {
                *last = 1;
                assert!(!is_zero(&bytes), "{length}");
            }
        }
    }
}
