//! A part of a file, read where one wants.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// The largest piece that is read at once.
const PIECE_LIMIT: usize = 64 << 20;

/// Some bytes of a file, or of its pieces one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Part<'f> {
    file: &'f File,
    /// In what order the file's bytes are read; none: as they stand.
    pieces: &'f [Piece],
    /// Where it begins in the file, or in the row of pieces.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
}

/// A piece of a file in a row of them.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Where it begins in the row.
    at: u64,
    /// Where it begins in the file.
    start: u64,
    bytes: u64,
}

impl<'f> Part<'f> {
    /// A whole file.
    pub fn whole(file: &'f File, bytes: u64) -> Self {
        Self { file, pieces: &[], start: 0, bytes }
    }

    /// The row that these parts of one file make.
    pub fn row(parts: impl IntoIterator<Item = Part<'f>>) -> Vec<Piece> {
        let mut at = 0;
        let piece = |part: Part<'f>| {
            let piece = Piece { at, start: part.start, bytes: part.bytes };
            at += part.bytes;
            piece
        };
        parts.into_iter().map(piece).collect()
    }

    /// A row of pieces of the file that this is a part of.
    pub fn of_row<'r>(&self, pieces: &'r [Piece]) -> Part<'r>
    where
        'f: 'r,
    {
        let bytes = pieces.last().map_or(0, |last| last.at + last.bytes);
        Part { file: self.file, pieces, start: 0, bytes }
    }

    /// Reads some bytes at `offset`, as many as stand there together.
    fn read_some(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = self.start + offset;
        if self.pieces.is_empty() {
            return self.file.read_at(buffer, at);
        }
        // Pieces without a byte are passed by.
        let next = self.pieces.partition_point(|piece| piece.at + piece.bytes <= at);
        let Some(piece) = self.pieces.get(next) else { return Ok(0) };
        let skipped = at - piece.at;
        let count = usize::try_from(piece.bytes - skipped).unwrap_or(usize::MAX).min(buffer.len());
        self.file.read_at(&mut buffer[..count], piece.start + skipped)
    }

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
        let mut done = 0;
        while done < count {
            match self.read_some(&mut bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(some) => done += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Whether these bytes stand at `offset`.
    pub fn has(&self, offset: u64, expected: &[u8]) -> bool {
        self.read(offset, expected.len()).is_ok_and(|found| found == expected)
    }

    /// Some bytes of it as a part of their own; no more than it has.
    pub fn part(&self, offset: u64, bytes: u64) -> Part<'f> {
        let offset = offset.min(self.bytes);
        Part { start: self.start + offset, bytes: bytes.min(self.bytes - offset), ..*self }
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
        let count = self.part.read_some(&mut buffer[..count], self.at)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn pieces_are_read_as_one() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"--abc---defg-h").unwrap();
        let whole = Part::whole(&file, 14);
        let row = Part::row([whole.part(2, 3), whole.part(5, 0), whole.part(8, 4), whole.part(13, 1)]);
        let part = whole.of_row(&row);
        assert_eq!(part.bytes, 8);
        for offset in 0..8 {
            for count in 0..=8 - offset {
                let expected = &b"abcdefgh"[offset..offset + count];
                assert_eq!(part.read(offset as u64, count).unwrap(), expected);
                assert_eq!(part.part(offset as u64, count as u64).read(0, count).unwrap(), expected);
            }
        }
        let mut read = Vec::new();
        part.part(1, 6).stream().read_to_end(&mut read).unwrap();
        assert_eq!(read, b"bcdefg");
        assert!(part.read(7, 2).is_err() && part.has(2, b"cd") && !part.has(8, b"x"));
    }
}
