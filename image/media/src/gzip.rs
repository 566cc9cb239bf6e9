//! Deflate in pieces, made on many threads and put together to one gzip member (RFC 1952).
//!
//! Each piece ends at a byte ("sync flush", RFC 1951) and refers to nothing before it, so pieces can be made in any order; that
//! costs five bytes a piece and what a dictionary over the border would have saved. One member and not one a piece: some readers
//! stop after the first.

use std::io::{self, Write};

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::Error;

/// Bytes before the pieces: deflate, no name, no date, an unknown operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block.
const LAST: [u8; 2] = [3, 0];

/// A compressed piece.
#[derive(Debug)]
pub struct Piece {
    deflated: Vec<u8>,
    checksum: Hasher,
}

/// The highest level of deflate.
const LEVEL_LIMIT: u32 = 9;

/// Compresses a piece.
///
/// # Errors
/// There is no such level.
pub fn piece(bytes: &[u8], level: u32) -> Result<Piece, Error> {
    let mut checksum = Hasher::new();
    checksum.update(bytes);
    Ok(Piece { deflated: deflate(bytes, level, false, FlushCompress::Sync)?, checksum })
}

/// Compresses to a zlib stream (RFC 1950).
///
/// # Errors
/// There is no such level.
pub fn zlib(bytes: &[u8], level: u32) -> Result<Vec<u8>, Error> {
    deflate(bytes, level, true, FlushCompress::Finish)
}

fn deflate(bytes: &[u8], level: u32, with_header: bool, flush: FlushCompress) -> Result<Vec<u8>, Error> {
    // The compressor panics at any other.
    if level > LEVEL_LIMIT {
        return Err(Error::Level(level));
    }
    let mut compress = Compress::new(Compression::new(level), with_header);
    // What cannot be compressed grows by five bytes in 16 KiB.
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 1024 + 64);
    loop {
        let rest = &bytes[usize::try_from(compress.total_in()).unwrap_or(bytes.len())..];
        let before = (compress.total_in(), out.len());
        let status = compress.compress_vec(rest, &mut out, flush).map_err(|_| Error::Deflate)?;
        let all_taken = compress.total_in() == bytes.len() as u64;
        let has_room = out.len() < out.capacity();
        if status == Status::StreamEnd {
            return Ok(out);
        }
        // A sync flush is done when it leaves room.
        if all_taken && has_room && flush != FlushCompress::Finish {
            return Ok(out);
        }
        if !has_room {
            out.reserve(4096);
        } else if before == (compress.total_in(), out.len()) {
            return Err(Error::Deflate);
        }
    }
}

/// Puts pieces together.
#[derive(Debug)]
pub struct Gzip<W> {
    out: W,
    checksum: Hasher,
    bytes: u64,
}

impl<W: Write> Gzip<W> {
    /// Begins.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self { out, checksum: Hasher::new(), bytes: 0 })
    }

    /// Adds a piece, which had `bytes` before it was compressed.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn add(&mut self, piece: &Piece, bytes: u64) -> io::Result<()> {
        self.checksum.combine(&piece.checksum);
        self.bytes += bytes;
        self.out.write_all(&piece.deflated)
    }

    /// Ends, and gives `out` back.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&LAST)?;
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        // The length modulo 2^32, as the format has it.
        self.out.write_all(&(self.bytes as u32).to_le_bytes())?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::{GzDecoder, ZlibDecoder};
    use std::io::Read;

    fn pseudo_random(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn pieces_are_one_member() {
        let pieces = [vec![], vec![7; 100_000], pseudo_random(1 << 20), b"end".to_vec()];
        for level in [0, 1, 6, 9] {
            let mut gzip = Gzip::new(Vec::new()).unwrap();
            for bytes in &pieces {
                gzip.add(&piece(bytes, level).unwrap(), bytes.len() as u64).unwrap();
            }
            let file = gzip.finish().unwrap();
            let mut read = Vec::new();
            // This decoder stops after one member.
            GzDecoder::new(file.as_slice()).read_to_end(&mut read).unwrap();
            assert_eq!(read, pieces.concat(), "level {level}");
        }
    }

    #[test]
    fn a_level_that_there_is_not_is_refused() {
        assert_eq!(zlib(b"x", 10).unwrap_err().to_string(), "there is no deflate level 10: take 0 to 9");
        assert!(piece(b"x", u32::MAX).is_err());
    }

    #[test]
    fn zlib_is_read_again() {
        for bytes in [vec![], vec![0; 65536], pseudo_random(65536)] {
            for level in [0, 1, 9] {
                let mut read = Vec::new();
                ZlibDecoder::new(zlib(&bytes, level).unwrap().as_slice()).read_to_end(&mut read).unwrap();
                assert_eq!(read, bytes);
            }
        }
    }
}
