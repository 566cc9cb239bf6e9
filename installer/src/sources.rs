//! Where answers come from. The nearest to this one machine goes first: what its hypervisor or its management board says, a
//! volume that somebody attached, a file on the medium.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use provisioning::answers::FILE;
use provisioning::{Answers, smbios};
use rustix::mount::UnmountFlags;

/// Label of a volume with answers.
pub const LABEL: &str = "ANSWERS";
/// Where it is mounted for a moment.
const MOUNT_POINT: &str = "/run/infimonitor/answers";
/// More than any answers have, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// Answers, and where they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What they say.
    pub answers: Answers,
    /// For people.
    pub source: String,
}

/// The answers for this machine; `None`: nobody gave any.
///
/// # Errors
/// They are there and cannot be read or understood. Then nothing is installed: what was meant is not known.
pub fn find(medium: &Path) -> Result<Option<Found>> {
    let of = |source: &str| {
        let source = source.to_owned();
        move |answers| Found { answers, source }
    };
    if let Some(answers) = from_smbios(&Path::new("/").join(smbios::TABLE))? {
        return Ok(Some(of("SMBIOS")(answers)));
    }
    let volume = Path::new("/dev/disk/by-label").join(LABEL);
    if volume.exists() {
        let source = format!("the volume {LABEL}");
        return from_volume(&volume).map(|answers| answers.map(of(&source))).with_context(|| source.clone());
    }
    Ok(from_file(&medium.join(FILE))?.map(of("the medium")))
}

fn from_smbios(table: &Path) -> Result<Option<Answers>> {
    match fs::read(table) {
        Ok(table) => Ok(smbios::answers_in_table(&table)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", table.display())),
    }
}

fn from_volume(volume: &Path) -> Result<Option<Answers>> {
    let mount_point = Path::new(MOUNT_POINT);
    fs::create_dir_all(mount_point).with_context(|| format!("cannot make {MOUNT_POINT}"))?;
    duct::cmd!("mount", "-o", "ro,nosuid,nodev,noexec", volume, mount_point)
        .stdin_null()
        .run()
        .with_context(|| format!("cannot mount {}", volume.display()))?;
    let answers = from_file(&mount_point.join(FILE));
    rustix::mount::unmount(mount_point, UnmountFlags::empty())
        .with_context(|| format!("cannot unmount {MOUNT_POINT}"))?;
    answers
}

/// The answers in a file; `None`: there is no such file.
///
/// # Errors
/// It cannot be read or understood.
pub fn from_file(path: &Path) -> Result<Option<Answers>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let mut text = String::new();
    file.take(FILE_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Answers::from_yaml(&text).map(Some).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(from_file(&path).unwrap(), None);
        fs::write(&path, "role: monitor\ninstall: {}\n").unwrap();
        assert!(from_file(&path).unwrap().unwrap().install.is_some());
        fs::write(&path, "role: mainframe\n").unwrap();
        let error = format!("{:#}", from_file(&path).unwrap_err());
        assert!(
            error.contains("answers.yaml: answers: role, line 1: unknown variant `mainframe`"),
            "{error}"
        );
    }
}
