//! Reading and writing manifests: JSON, written atomically, of a known form.

use crate::BackupId;
use api::{MANIFEST_FORMAT, Manifest};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not there or cannot be read.
    #[error("manifest {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no manifest.
    #[error("manifest {path} is damaged: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A newer version wrote it.
    #[error(
        "manifest {path}: its format is {format}, this version reads up to {MANIFEST_FORMAT}; update this machine"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// It says something else than its place.
    #[error("manifest {path} is damaged: {problem}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
}

/// Manifests are small; what is larger is none (bytes).
const MANIFEST_MAX: u64 = 16 * 1024 * 1024;

/// `<folder>/<id>.json`
pub fn manifest_path(folder: &Path, id: &BackupId) -> PathBuf {
    folder.join(format!("{id}.json"))
}

/// `<folder>/<id>.index`
pub fn index_path(folder: &Path, id: &BackupId) -> PathBuf {
    folder.join(format!("{id}.index"))
}

/// The backup beside whose snapshot a file of this name stands: its manifest, its index, or one of them while it is
/// written (see [`files::replace`]).
pub fn id_beside(name: &str) -> Option<BackupId> {
    let written = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new"));
    let name = written.unwrap_or(name);
    name.strip_suffix(".json").or_else(|| name.strip_suffix(".index"))?.parse().ok()
}

/// Reads the manifest of `id`.
///
/// # Errors
/// Not readable, no manifest, of a newer form, or of another backup.
pub fn read_manifest(folder: &Path, id: &BackupId) -> Result<Manifest, ManifestError> {
    let path = manifest_path(folder, id);
    let io = |source| ManifestError::Io { path: path.clone(), source };
    let contradiction = |problem: String| ManifestError::Contradiction { path: path.clone(), problem };
    let size = fs::metadata(&path).map_err(io)?.len();
    if size > MANIFEST_MAX {
        return Err(contradiction(format!("it has {size} bytes, more than any manifest")));
    }
    parse_manifest(&path, &fs::read(&path).map_err(io)?, id)
}

/// Reads the text of the manifest of `id`; `path` is where it is from.
///
/// # Errors
/// No manifest, of a newer form, or of another backup.
pub fn parse_manifest(path: &Path, text: &[u8], id: &BackupId) -> Result<Manifest, ManifestError> {
    let contradiction = |problem: String| ManifestError::Contradiction { path: path.to_owned(), problem };
    let malformed = |source| ManifestError::Malformed { path: path.to_owned(), source };
    // First the form alone: what a newer version wrote may look damaged to this one.
    let form: Form = serde_json::from_slice(text).map_err(malformed)?;
    if form.format > MANIFEST_FORMAT {
        return Err(ManifestError::Newer { path: path.to_owned(), format: form.format });
    }
    let manifest: Manifest = serde_json::from_slice(text).map_err(malformed)?;
    if manifest.backup.id != id.as_str() {
        return Err(contradiction(format!("it is of backup {:?}", manifest.backup.id)));
    }
    Ok(manifest)
}

/// What manifests of every form have.
#[derive(serde::Deserialize)]
struct Form {
    format: u32,
}

/// Writes the manifest of a backup beside its snapshot, readable by its owner and group (`None`: whoever runs this).
///
/// # Errors
/// As [`files::replace`]; an id that is none.
pub fn write_manifest(folder: &Path, manifest: &Manifest, owner: Option<files::Owner>) -> io::Result<()> {
    let id: BackupId = manifest.backup.id.parse().map_err(io::Error::other)?;
    let mut text = serde_json::to_vec_pretty(manifest)?;
    text.push(b'\n');
    files::replace(&manifest_path(folder, &id), 0o640, owner, |file| file.write_all(&text))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use api::Backup;
    use std::collections::BTreeMap;

    pub(crate) fn manifest(id: &str) -> Manifest {
        let configuration = BTreeMap::from([("/etc/pg_hba.conf".to_owned(), "local".to_owned())]);
        Manifest { backup: backup(id), configuration, digests: None }
    }

    pub(crate) fn backup(id: &str) -> Backup {
        serde_json::from_value(serde_json::json!({
            "format": 1, "id": id, "created": "2026-11-23T20:54:30Z", "reason": "on-demand",
            "monitor": {"id": "00000000-0000-0000-0000-000000000001", "version": "1.0"},
            "postgresql": {"major": 17, "version": "17.6", "system_identifier": "1", "timeline": 1,
                "flushed_lsn": "0/1", "block_size": 8192, "checksums": true, "collations": []},
            "sizes": {"files": 1, "tar": 2}, "snapshot_ms": 1.0, "verification": {"status": "pending"}
        }))
        .unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest("20261123T205430Z");
        write_manifest(folder.path(), &manifest, None).unwrap();
        let id = manifest.backup.id.parse().unwrap();
        assert_eq!(read_manifest(folder.path(), &id).unwrap(), manifest);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_manifest_of_this_backup_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let id: BackupId = "20261123T205430Z".parse().unwrap();
        let other = serde_json::to_string(&backup("20261123T205431Z")).unwrap();
        let newer = serde_json::to_string(&Backup { format: 2, ..backup(id.as_str()) }).unwrap();
        for (text, problem) in [("{", "damaged"), (&*other, "of backup"), (&*newer, "update this machine")] {
            fs::write(manifest_path(folder.path(), &id), text).unwrap();
            let error = read_manifest(folder.path(), &id).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
