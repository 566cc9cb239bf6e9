//! Files that appear whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file with this mode and owner (user, group; `None`: ours), atomically and durably. Returns whether the
/// contents are new.
///
/// # Errors
/// The folder is missing, full or read-only.
pub fn write(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<bool> {
    let same = std::fs::read(path).is_ok_and(|old| old == contents);
    replace(path, contents, mode, owner).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(!same)
}

fn replace(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("has no folder"))?;
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(contents)?;
    if let Some((user, group)) = owner {
        fchown(file.as_file(), Some(user), Some(group))?;
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Reads a text file; `None` if it is not there.
///
/// # Errors
/// It is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
