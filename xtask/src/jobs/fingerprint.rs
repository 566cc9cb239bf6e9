//! Content fingerprints: of a job's inputs before it runs, of its outputs afterwards.
//!
//! Paths count relative to their input, so a moved checkout builds nothing anew; times never count, permissions do
//! as far as git keeps them (the executable bit).

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use files::hex;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// Something that a job's outputs depend on.
pub enum Input {
    /// A file, or a folder with everything below it.
    Path(PathBuf),
    /// A setting: what it is, and its value.
    Value(&'static str, String),
}

/// Fingerprint of a list of inputs, in hexadecimal.
pub fn of_inputs(inputs: &[Input]) -> Result<String> {
    let mut hash = Sha256::new();
    for input in inputs {
        match input {
            Input::Path(path) => hash.update(of_path(path)?),
            Input::Value(name, value) => hash.update(of_text(&format!("{name}={value}"))),
        }
        hash.update(b"\0");
    }
    Ok(hex(&hash.finalize()))
}

/// Fingerprint of a text, in hexadecimal.
pub fn of_text(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Fingerprint of a file's content, or of a folder's names and contents, in hexadecimal.
pub fn of_path(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for entry in WalkDir::new(path).sort_by_file_name() {
        let entry = entry.with_context(|| format!("cannot read {}", path.display()))?;
        let relative = entry.path().strip_prefix(path).unwrap_or(entry.path());
        hash.update(relative.to_string_lossy().as_bytes());
        hash.update(b"\0");
        let kind = entry.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(entry.path())
                .with_context(|| format!("cannot read the link {}", entry.path().display()))?;
            hash.update(target.to_string_lossy().as_bytes());
        } else if kind.is_file() {
            let metadata =
                entry.metadata().with_context(|| format!("cannot inspect {}", entry.path().display()))?;
            hash.update([u8::from(metadata.permissions().mode() & 0o100 != 0)]);
            hash_file(&mut hash, entry.path())?;
        }
        hash.update(b"\0");
    }
    Ok(hex(&hash.finalize()))
}

/// Adds a file's content to a hash.
///
/// # Errors
/// It cannot be read.
pub fn hash_file(hash: &mut Sha256, path: &Path) -> Result<()> {
    let mut file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(());
        }
        hash.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_names_and_the_executable_bit_count_and_times_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "one").unwrap();
        let first = of_path(folder.path()).unwrap();
        fs::write(&file, "one").unwrap();
        assert_eq!(of_path(folder.path()).unwrap(), first, "rewritten with the same content");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let executable = of_path(folder.path()).unwrap();
        assert_ne!(executable, first);
        fs::rename(&file, folder.path().join("b")).unwrap();
        assert_ne!(of_path(folder.path()).unwrap(), executable);
        fs::write(folder.path().join("b"), "two").unwrap();
        assert_ne!(of_path(folder.path()).unwrap(), executable);
    }

    #[test]
    fn a_missing_input_is_an_error_that_names_it() {
        let error = of_inputs(&[Input::Path("/nonexistent/input".into())]).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/input"));
    }
}
