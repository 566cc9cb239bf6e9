//! A part of a file, read where one wants.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// The largest piece that is read at once.
const PIECE_LIMIT: usize = 64 << 20;

/// Some bytes of a file.
#[derive(Debug, Clone, Copy)]
pub struct Part<'f> {
    pub file: &'f File,
    /// Where it begins in the file.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
}

impl<'f> Part<'f> {
    /// Reads `count` bytes at `offset`.
    pub fn read(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(count as u64);
        if end.is_none_or(|end| end > self.bytes) || count > PIECE_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{count} bytes at {offset} are not in it"),
            ));
        }
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, self.start + offset)?;
        Ok(bytes)
    }

    /// Whether these bytes stand at `offset`.
    pub fn has(&self, offset: u64, expected: &[u8]) -> bool {
        self.read(offset, expected.len()).is_ok_and(|found| found == expected)
    }

    /// Some bytes of it as a part of their own; no more than it has.
    pub fn part(&self, offset: u64, bytes: u64) -> Part<'f> {
        let offset = offset.min(self.bytes);
        Part { file: self.file, start: self.start + offset, bytes: bytes.min(self.bytes - offset) }
    }

    /// It from its beginning, as a stream.
    pub fn stream(&self) -> Stream<'f> {
        Stream { part: *self, at: 0 }
    }
}

/// A part that is read in order.
#[derive(Debug)]
pub struct Stream<'f> {
    part: Part<'f>,
    at: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.part.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let count = self.part.file.read_at(&mut buffer[..count], self.part.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Stream<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.part.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A little-endian number in `bytes`, 0 where it is not.
pub fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The same with eight bytes.
pub fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A big-endian number in `bytes`, 0 where it is not.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The same with eight bytes.
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_be_bytes)
}
