//! Reading the tar: any byte range, computed from the index and the files as they are asked for.
//!
//! One file is open at a time and nothing but the current entry and a piece of the index is held in memory, so a reader
//! costs the same for any size and number of files. Files are opened beneath the root only (see `beneath`), one open per file: a snapshot of
//! PostgreSQL has files of up to 1 GiB, and small ones are cheap to open.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FileType};

use crate::entry::{Entry, Kind};
use crate::stored::Cursor;
use crate::{Error, Stored, beneath, header};

/// The tar as something to read from and to seek in.
#[derive(Debug)]
pub struct Reader {
    index: Stored,
    cursor: Cursor,
    root: OwnedFd,
    root_path: PathBuf,
    position: u64,
    current: Option<Current>,
}

/// The entry at the position.
#[derive(Debug)]
struct Current {
    entry: Entry,
    start: u64,
    header: Vec<u8>,
    content: u64,
    file: Option<File>,
}

impl Current {
    fn content_start(&self) -> u64 {
        self.start + self.header.len() as u64
    }

    fn padding_start(&self) -> u64 {
        self.content_start() + self.content
    }

    fn end(&self) -> u64 {
        self.content_start() + self.content.next_multiple_of(crate::BLOCK_BYTES)
    }
}

impl Reader {
    pub(crate) fn open(index: Stored, root_path: PathBuf) -> Result<Self, Error> {
        let root = beneath::open_root(&root_path).map_err(|source| Error::Tree {
            action: "open",
            path: root_path.clone(),
            source,
        })?;
        Ok(Self { index, cursor: Cursor::default(), root, root_path, position: 0, current: None })
    }

    /// Size of the tar in bytes.
    #[allow(clippy::len_without_is_empty)] // a tar is never empty
    pub fn len(&self) -> u64 {
        self.index.len()
    }

    /// Reads the next bytes into a buffer that is not empty; the position lies before the end.
    fn read_piece(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let known = self.current.as_ref().is_some_and(|now| (now.start..now.end()).contains(&self.position));
        if !known {
            self.current = None;
            let found = self.index.locate(&mut self.cursor, self.position).map_err(io::Error::other)?;
            self.current = match found {
                Some((start, entry)) => Some(enter(entry, start)),
                None => return Ok(zeros(buffer, self.index.len() - self.position)),
            };
        }
        let Some(current) = self.current.as_mut() else {
            return Err(io::Error::other("tar index ends early"));
        };
        if self.position < current.content_start() {
            let from = (self.position - current.start) as usize;
            let count = buffer.len().min(current.header.len() - from);
            buffer[..count].copy_from_slice(&current.header[from..from + count]);
            return Ok(count);
        }
        if self.position >= current.padding_start() {
            return Ok(zeros(buffer, current.end() - self.position));
        }
        let offset = self.position - current.content_start();
        let entry = &current.entry;
        let file = match &current.file {
            Some(file) => file,
            None => current.file.insert(open_content(&self.root, &self.root_path, entry)?),
        };
        let count = at_most(buffer, current.content - offset);
        match file.read_at(&mut buffer[..count], offset)? {
            0 => Err(shorter(&self.root_path, entry)),
            count => Ok(count),
        }
    }
}

fn enter(entry: Entry, start: u64) -> Current {
    Current { header: header::blocks(&entry), content: entry.content_bytes(), entry, start, file: None }
}

impl Read for Reader {
    /// Fills the whole buffer unless the tar ends or a file fails: an entry's boundaries do not show.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.position < self.index.len() {
            match self.read_piece(&mut buffer[filled..]) {
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was read is given out; the failure shows when the next read meets it again.
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.index.len().checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

fn open_content(root: &OwnedFd, root_path: &Path, entry: &Entry) -> io::Result<File> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot open {}: {error}", full(root_path, entry).display()))
    };
    let fd = beneath::open_file(root, &entry.path).map_err(named)?;
    let stat = rustix::fs::fstat(&fd)?;
    let Kind::File(size) = entry.kind else {
        return Err(io::Error::other("only files have content"));
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other(format!("{} is no longer a file", full(root_path, entry).display())));
    }
    if !u64::try_from(stat.st_size).is_ok_and(|now| now >= size) {
        return Err(shorter(root_path, entry));
    }
    // A hint for the kernel's read-ahead; without it reading is only slower.
    let _hint = rustix::fs::fadvise(&fd, 0, None, Advice::Sequential);
    Ok(File::from(fd))
}

fn shorter(root_path: &Path, entry: &Entry) -> io::Error {
    let text = format!("{} is shorter than when its index was made", full(root_path, entry).display());
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

fn full(root_path: &Path, entry: &Entry) -> PathBuf {
    root_path.join(OsStr::from_bytes(&entry.path))
}

fn zeros(buffer: &mut [u8], limit: u64) -> usize {
    let count = at_most(buffer, limit);
    buffer[..count].fill(0);
    count
}

fn at_most(buffer: &[u8], limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).min(buffer.len())
}
