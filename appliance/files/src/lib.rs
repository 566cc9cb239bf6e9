//! Files that appear whole or not at all, with the right owner and mode: how every program of the appliance writes
//! what must survive a power cut.
//!
//! Trade-off: a new file is made beside the old one under one fixed name, so that an attempt that was cut leaves no
//! litter behind the next one; in return a file has one writer at a time, and a second one at the same moment gets an
//! error instead of a mixture.

mod document;
mod tree;

pub use document::{Document, Loaded};
pub use tree::{PATH_MAX, remove_folder, tree};

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;

/// Who owns a file: user and group number.
pub type Owner = (u32, u32);

/// Writes a file unless it already has these contents, this mode and owner (`None`: whoever runs this). Survives a
/// power cut: the old contents or the new ones. Returns whether it wrote.
///
/// # Errors
/// The file's folder is missing, full or read-only.
pub fn write(path: &Path, contents: &[u8], mode: u32, owner: Option<Owner>) -> Result<bool> {
    if is_right(path, contents, mode, owner) {
        return Ok(false);
    }
    replace(path, mode, owner, |file| file.write_all(contents))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

fn is_right(path: &Path, contents: &[u8], mode: u32, owner: Option<Owner>) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    metadata.is_file()
        && metadata.mode() & 0o7777 == mode
        && owner.is_none_or(|owner| owner == (metadata.uid(), metadata.gid()))
        && fs::read(path).is_ok_and(|old| old == contents)
}

/// Makes `path` hold what `fill` writes: beside it first, synced, renamed, folder synced. Missing folders are made.
///
/// # Errors
/// Those of the file system or of `fill`; then the old file stays and nothing is left beside it.
pub fn replace(
    path: &Path,
    mode: u32,
    owner: Option<Owner>,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let no_file = || io::Error::other("has no folder or no name");
    let folder = path.parent().ok_or_else(no_file)?;
    let name = path.file_name().ok_or_else(no_file)?.to_string_lossy();
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!(".{name}.new"));
    // Removed and made anew, never opened: in a folder of another user it could be a link to anywhere.
    unless_missing(fs::remove_file(&beside))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let attempt = (|| {
        fill(&mut file)?;
        if let Some((user, group)) = owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if attempt.is_err() {
        // The first error counts; a leftover goes with the next attempt.
        drop(fs::remove_file(&beside));
    }
    attempt?;
    File::open(folder)?.sync_all()
}

fn unless_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives what is at `from` the name `to` in the same folder, durably: what comes after finds it so, also after a power
/// cut.
///
/// # Errors
/// Those of the file system.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("{} has its name, but it cannot be synced to the disk", to.display()))
}

/// Exchanges the names of what is at `one` and at `other`, on one file system, in one step and durably: both folders are
/// synced.
///
/// # Errors
/// Those of the file system; one of them may not be there.
pub fn exchange(one: &Path, other: &Path) -> Result<()> {
    let exchange = || -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
        for path in [one, other] {
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    };
    exchange().with_context(|| format!("cannot exchange {} and {}", one.display(), other.display()))
}

/// Removes a file if it is there, durably. Returns whether it was there.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(path: &Path) -> Result<bool> {
    let removed = || -> io::Result<bool> {
        let was_there = unless_missing(fs::remove_file(path))?;
        if let (true, Some(folder)) = (was_there, path.parent()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(was_there)
    };
    removed().with_context(|| format!("cannot remove {}", path.display()))
}

/// Makes sure that a folder is there with this mode and owner. Returns whether it changed something.
///
/// # Errors
/// It cannot be made, or something else has its name.
pub fn folder(path: &Path, mode: u32, (user, group): Owner) -> Result<bool> {
    let wrong = || format!("cannot make the folder {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => bail!("{} is there and is no folder", path.display()),
        Ok(found) if found.mode() & 0o7777 == mode && (found.uid(), found.gid()) == (user, group) => {
            return Ok(false);
        }
        Ok(_) => {}
        Err(_) => fs::create_dir_all(path).with_context(wrong)?,
    }
    // By what was opened, no link: whoever owns the folder around it may have put one there since.
    let opened = File::options()
        .read(true)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::DIRECTORY))
        .open(path)
        .with_context(wrong)?;
    fchown(&opened, Some(user), Some(group)).with_context(wrong)?;
    opened.set_permissions(Permissions::from_mode(mode)).with_context(wrong)?;
    Ok(true)
}

/// Opens a file for reading that is no link: in folders of another user, who may have put one there.
///
/// # Errors
/// Those of the file system; it is a link, or no file.
pub fn open_no_link(path: &Path) -> Result<File> {
    // What is a pipe by now does not keep us waiting.
    let flags = flags(OFlags::NOFOLLOW | OFlags::NONBLOCK);
    let cannot = || format!("cannot open {}", path.display());
    let file = File::options().read(true).custom_flags(flags).open(path).with_context(cannot)?;
    if !file.metadata().with_context(cannot)?.is_file() {
        bail!("{} is no file", path.display());
    }
    Ok(file)
}

/// The flags as the standard library takes them: its number has another sign.
fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Reads a text file; `None` if it is not there.
///
/// # Errors
/// It is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Sum of the sizes of the files below `folder` but not below `left_out`, in bytes. What is not there, or vanishes meanwhile,
/// does not count, nor what lies deeper than [`tree`] goes.
///
/// # Errors
/// Something cannot be read.
pub fn bytes_below(folder: &Path, left_out: Option<&Path>) -> Result<u64> {
    sum_below(folder, left_out, std::fs::Metadata::len)
}

/// Sum of what the files below `folder` have allocated, in bytes, otherwise as [`bytes_below`]: holes take nothing.
///
/// # Errors
/// Something cannot be read.
pub fn allocated_below(folder: &Path) -> Result<u64> {
    // Blocks of 512 bytes, whatever the file system's own are (POSIX leaves it open, Linux does not).
    sum_below(folder, None, |file| file.blocks() * 512)
}

fn sum_below(
    folder: &Path,
    left_out: Option<&Path>,
    size: impl Fn(&std::fs::Metadata) -> u64,
) -> Result<u64> {
    let bytes_of = |entry: walkdir::Result<walkdir::DirEntry>| -> walkdir::Result<u64> {
        let entry = entry?;
        if entry.file_type().is_file() { Ok(size(&entry.metadata()?)) } else { Ok(0) }
    };
    let mut bytes = 0;
    let left_out = left_out.map(Path::to_owned);
    for entry in tree(folder, move |path| Some(path) != left_out.as_deref()) {
        bytes += match bytes_of(entry) {
            Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => 0,
            measured => measured.with_context(|| format!("cannot measure {}", folder.display()))?,
        };
    }
    Ok(bytes)
}

/// Bytes in hexadecimal, lower case, as `sha256sum` writes digests.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_right_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/file");
        let table = [
            ("a", 0o640, true),
            ("a", 0o640, false),
            ("b", 0o640, true),
            ("b", 0o600, true),
            ("b", 0o600, false),
        ];
        for (contents, mode, changed) in table {
            assert_eq!(
                write(&path, contents.as_bytes(), mode, None).unwrap(),
                changed,
                "{contents} {mode:o}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
        }
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "old").unwrap();
        assert!(replace(&path, 0o600, None, |_| Err(io::Error::other("full"))).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_under_the_name_beside_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("x"), folder.path().join("victim"));
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(".x.new")).unwrap();
        assert!(write(&path, b"new", 0o600, None).unwrap());
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_folder_is_mended_but_a_file_in_its_place_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let owner = (fs::metadata(dir.path()).unwrap().uid(), fs::metadata(dir.path()).unwrap().gid());
        let path = dir.path().join("a/b");
        assert!(folder(&path, 0o750, owner).unwrap());
        assert!(!folder(&path, 0o750, owner).unwrap());
        assert!(folder(&path, 0o700, owner).unwrap());
        let file = dir.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(folder(&file, 0o700, owner).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
