//! Opening what lies beneath a root, and nothing else.
//!
//! The tree came from a monitor that may be hostile. The kernel itself refuses to leave the root or to follow any
//! symbolic link on the way (openat2), so no check of ours can be raced.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Longest piece of a path given to one system call, in bytes: below PATH_MAX (4096, with its NUL).
const STEP_BYTES: usize = 4000;

/// Opens the root directory itself.
pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens a directory beneath the root; the empty path is the root.
pub(crate) fn open_directory(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, if path.is_empty() { b"." } else { path }, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a regular file beneath the root.
pub(crate) fn open_file(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    // NONBLOCK: opening a FIFO that has taken a file's place must not hang. It has no effect on regular files.
    open(root, path, OFlags::RDONLY | OFlags::NONBLOCK)
}

fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut directory: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let step = step_bytes(rest);
        let (part, last) = (&rest[..step], step == rest.len());
        let flags = if last { flags } else { OFlags::PATH | OFlags::DIRECTORY };
        let from = directory.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        let opened = rustix::fs::openat2(
            from,
            part,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        if last {
            return Ok(opened);
        }
        directory = Some(opened);
        rest = &rest[step + 1..];
    }
}

/// How many bytes of the path to resolve at once: all of it, or up to the last slash that leaves a short piece.
fn step_bytes(path: &[u8]) -> usize {
    if path.len() <= STEP_BYTES {
        return path.len();
    }
    path[..STEP_BYTES].iter().rposition(|byte| *byte == b'/').unwrap_or(path.len())
}
