//! Where things are for `hostd` (docs/architecture.md), and who is who. Options, so that tests can run it elsewhere.

use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Places and users.
#[derive(Debug, Clone, clap::Args)]
pub struct Places {
    /// Data volume with replica/ and backups/
    #[arg(long, default_value = "/data")]
    pub data: PathBuf,
    /// Run folder with clusters/
    #[arg(long, default_value = "/run/infimonitor")]
    pub run: PathBuf,
    /// Folder of PostgreSQL's programs
    #[arg(long, default_value = "/usr/lib/postgresql/17/bin")]
    pub postgresql: PathBuf,
    /// User that PostgreSQL clusters run as
    #[arg(long, default_value = "postgres")]
    pub cluster_user: String,
    /// User of the process that sends requests and asks the standby for its state
    #[arg(long, default_value = "backupd")]
    pub observer: String,
    /// Group that reads manifests and tar indexes
    #[arg(long, default_value = "infimonitor")]
    pub readers: String,
    /// Folders that a cluster must not see: data of others, and every program, a shell above all, that SQL of the
    /// monitor's making could have run
    #[arg(long, default_values = ["/data", "/var/lib/infimonitor", "/var/log", "/usr/bin", "/usr/sbin"])]
    pub hide: Vec<PathBuf>,
}

impl Places {
    /// The replica of `monitor`.
    pub fn replica(&self, monitor: Uuid) -> PathBuf {
        self.data.join("replica").join(monitor.to_string())
    }

    /// A full copy that is not complete yet.
    pub fn copying(&self, monitor: Uuid) -> PathBuf {
        self.data.join("replica").join(format!("{monitor}{COPYING_SUFFIX}"))
    }

    /// The folder of the monitor's backups.
    pub fn backups(&self, monitor: Uuid) -> PathBuf {
        self.data.join("backups").join(monitor.to_string())
    }

    /// The run folder of the monitor's cluster.
    pub fn cluster_run(&self, monitor: Uuid) -> PathBuf {
        self.run.join("clusters").join(monitor.to_string())
    }

    /// A program of PostgreSQL.
    pub fn program(&self, name: &str) -> PathBuf {
        self.postgresql.join(name)
    }
}

/// Ending of a full copy that is not complete.
pub const COPYING_SUFFIX: &str = ".copying";

/// What a power cut or crash left half made below the data volume: copies and snapshots that nothing refers to.
pub fn leftovers(data: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for (folder, nested) in [("replica", false), ("backups", true)] {
        for entry in read_if_there(&data.join(folder))? {
            if nested {
                let partial = |path: &PathBuf| name_of(path).starts_with(backups::PARTIAL_PREFIX);
                found.extend(read_if_there(&entry)?.into_iter().filter(partial));
            } else if name_of(&entry).ends_with(COPYING_SUFFIX) {
                found.push(entry);
            }
        }
    }
    Ok(found)
}

fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn read_if_there(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_half_made_is_left_over() {
        let data = tempfile::tempdir().unwrap();
        for path in [
            "replica/a",
            "replica/b.copying",
            "backups/a/20261123T205430Z",
            "backups/a/.partial-20261123T205431Z",
        ] {
            std::fs::create_dir_all(data.path().join(path)).unwrap();
        }
        let mut found = leftovers(data.path()).unwrap();
        found.sort();
        let expected = ["backups/a/.partial-20261123T205431Z", "replica/b.copying"];
        assert_eq!(found, expected.map(|path| data.path().join(path)));
    }
}
