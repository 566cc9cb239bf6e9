//! Where things are for `hostd` (docs/architecture.md), and who is who. Options, so that tests can run it elsewhere.

use crate::scope::Scopes;
use anyhow::{Context, Result, ensure};
use backups::{BackupId, DELETING_PREFIX, PARTIAL_PREFIX};
use std::collections::BTreeSet;
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
    /// User that clones of backups run as while they are verified
    #[arg(long, default_value = "verifier")]
    pub verifier: String,
    /// Folder of what hostd remembers
    #[arg(long, default_value = "/var/lib/infimonitor/hostd")]
    pub state: PathBuf,
    /// User of the process that sends requests and asks the standby for its state
    #[arg(long, default_value = "backupd")]
    pub observer: String,
    /// Group that reads manifests and tar indexes
    #[arg(long, default_value = "infimonitor")]
    pub readers: String,
    /// Limits of clusters; found when hostd begins to serve
    #[arg(skip)]
    pub scopes: Scopes,
}

impl Places {
    /// The replica of `monitor`.
    pub fn replica(&self, monitor: Uuid) -> PathBuf {
        self.data.join("replica").join(monitor.to_string())
    }

    /// What the console has set of FTP ([`api::FTP_SETTINGS_PATH`]).
    pub fn ftp_settings(&self) -> PathBuf {
        self.run.join("ftp.json")
    }

    /// Whether there is a replica of `monitor`.
    ///
    /// # Errors
    /// It cannot be told: the data volume is not mounted or cannot be read.
    pub fn has_replica(&self, monitor: Uuid) -> Result<bool> {
        let replica = self.replica(monitor);
        if replica.try_exists().with_context(|| format!("cannot look for {}", replica.display()))? {
            return Ok(true);
        }
        let folder = self.data.join("replica");
        ensure!(
            folder.is_dir(),
            "{} is missing: the data volume is not mounted; see `systemctl status infimonitor-firstboot`",
            folder.display()
        );
        Ok(false)
    }

    /// The monitors of which there is a replica, also one that is being copied, or a backup.
    ///
    /// # Errors
    /// It cannot be told: the data volume is not mounted or cannot be read.
    pub fn monitors(&self) -> Result<Vec<Uuid>> {
        let mut found = Vec::new();
        for name in ["replica", "backups"] {
            let folder = self.data.join(name);
            ensure!(
                folder.is_dir(),
                "{} is missing: the data volume is not mounted; see `systemctl status infimonitor-firstboot`",
                folder.display()
            );
            for path in entries(&folder)? {
                // What is beside them has an ending: a copy that is not complete, a list.
                let name = name_of(&path);
                found.extend(name.split('.').next().and_then(|name| name.parse::<Uuid>().ok()));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// A full copy that is not complete yet.
    pub fn copying(&self, monitor: Uuid) -> PathBuf {
        self.data.join("replica").join(format!("{monitor}{COPYING_SUFFIX}"))
    }

    /// The last full copy as it came, until it is verified.
    pub fn unverified(&self, monitor: Uuid) -> PathBuf {
        self.data.join("replica").join(format!("{monitor}{UNVERIFIED_SUFFIX}"))
    }

    /// The folder of the monitor's backups.
    pub fn backups(&self, monitor: Uuid) -> PathBuf {
        self.data.join("backups").join(monitor.to_string())
    }

    /// The file that keeps space aside.
    pub fn reserve(&self) -> PathBuf {
        self.data.join("reserve")
    }

    /// The clone of a backup that is being verified.
    pub fn verification(&self, id: &BackupId) -> PathBuf {
        self.data.join(VERIFICATION).join(id.as_str())
    }

    /// Every clone of a backup that is there.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn clones(&self) -> Result<Vec<PathBuf>> {
        let folder = self.data.join(VERIFICATION);
        if folder.try_exists().with_context(|| format!("cannot look for {}", folder.display()))? {
            entries(&folder)
        } else {
            Ok(Vec::new())
        }
    }

    /// The run folder of the clone's cluster.
    pub fn verification_run(&self) -> PathBuf {
        self.run.join(VERIFICATION)
    }

    /// The last lines that PostgreSQL logged in the last verification.
    pub fn verification_log(&self) -> PathBuf {
        self.state.join("last-verification.log")
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

/// What a cluster must not see, beside the data volume: secrets and logs; every program, a shell above all, that SQL
/// of the monitor's making could have run; and places where a monitor may have tablespaces: what is not there ends the
/// replay, and a full copy brings them, while what is there would be outside of the backups.
pub const HIDDEN: [&str; 6] = ["/var/lib", "/var/log", "/home", "/opt", "/usr/bin", "/usr/sbin"];

/// Folder of the clones that are being verified, and of what they run with.
const VERIFICATION: &str = "verification";

/// Ending of a full copy that is not complete.
pub const COPYING_SUFFIX: &str = ".copying";

/// Ending of the snapshot of a full copy that is not verified.
pub const UNVERIFIED_SUFFIX: &str = ".unverified";

/// Something left half made that nothing refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A copy or snapshot that never got its name.
    Subvolume(PathBuf),
    /// A manifest or index, or the beginning of one, whose snapshot never got its name.
    File(PathBuf),
    /// A backup whose deletion has begun.
    Deletion(Uuid, BackupId),
}

/// Where something is left half made; whoever makes such things holds a lock meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Full copies.
    Copies,
    /// Clones under verification.
    Clones,
    /// Backups.
    Backups,
}

/// What a failure, a crash or a power cut left half made below the data volume. It tells what is left over
/// from what is being made only while nothing is made there.
///
/// # Errors
/// A folder cannot be read; then nothing is known to be left over.
pub fn leftovers(data: &Path, area: Area) -> Result<Vec<Leftover>> {
    match area {
        Area::Copies => half_made_copies(&data.join("replica")),
        // None outlives the process that verifies it.
        Area::Clones if !data.join(VERIFICATION).is_dir() => Ok(Vec::new()),
        Area::Clones => Ok(entries(&data.join(VERIFICATION))?.into_iter().map(Leftover::Subvolume).collect()),
        Area::Backups => half_made_backups(&data.join("backups")),
    }
}

fn half_made_copies(folder: &Path) -> Result<Vec<Leftover>> {
    let replicas = entries(folder)?;
    let half_made = |path: &&PathBuf| {
        let name = name_of(path);
        // What is kept of a copy that never became a replica is of no use either.
        let is_orphan = |name: &str| !replicas.contains(&path.with_file_name(name));
        name.ends_with(COPYING_SUFFIX) || name.strip_suffix(UNVERIFIED_SUFFIX).is_some_and(is_orphan)
    };
    Ok(replicas.iter().filter(half_made).cloned().map(Leftover::Subvolume).collect())
}

fn half_made_backups(backups: &Path) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let cannot_read = || format!("cannot read {}", backups.display());
    for monitor in backups::monitors(backups).with_context(cannot_read)? {
        let entries: BTreeSet<PathBuf> = entries(&backups.join(monitor.to_string()))?.into_iter().collect();
        let is_there = |path: &Path, prefix: &str, id: &BackupId| {
            entries.contains(&path.with_file_name(format!("{prefix}{id}")))
        };
        for path in &entries {
            let name = name_of(path);
            if let Some(id) = name.strip_prefix(DELETING_PREFIX).and_then(|id| id.parse().ok()) {
                found.push(Leftover::Deletion(monitor, id));
            } else if name.starts_with(PARTIAL_PREFIX) {
                found.push(Leftover::Subvolume(path.clone()));
            } else if let Some(id) = backups::id_beside(&name)
                && !is_there(path, "", &id)
                // What is beside one that is deleted goes with it, when its turn comes.
                && !is_there(path, DELETING_PREFIX, &id)
            {
                found.push(Leftover::File(path.clone()));
            }
        }
    }
    Ok(found)
}

fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = || -> std::io::Result<_> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()
    };
    entries().with_context(|| format!("cannot read {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    #[test]
    fn only_what_is_half_made_is_left_over() {
        const A: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
        let data = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            data.path().join(name.replace("A/", &format!("{A}/")).replace("A.", &format!("{A}.")))
        };
        for folder in [
            "replica/A/",
            "replica/b.copying",
            "replica/A.unverified",
            "replica/b.unverified",
            "verification/20261123T205430Z",
            "backups/A/20261123T205430Z",
            "backups/A/.partial-20261123T205431Z",
            "backups/A/.deleting-20261123T205432Z",
            "backups/A/.deleting-what",
            "backups/lost+found/.partial-20261123T205431Z",
        ] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        for file in [
            "backups/A/20261123T205430Z.json",
            "backups/A/20261123T205430Z.index",
            "backups/A/.20261123T205430Z.json.new",
            "backups/A/20261123T205431Z.index",
            "backups/A/.20261123T205431Z.json.new",
            "backups/A/20261123T205432Z.json",
            "backups/A/20261123T205432Z.index",
            "backups/A/notes.json",
        ] {
            std::fs::write(path(file), "").unwrap();
        }
        let areas = [Area::Copies, Area::Clones, Area::Backups];
        let mut found: Vec<_> =
            areas.into_iter().flat_map(|area| leftovers(data.path(), area).unwrap()).collect();
        found.sort();
        let expected = [
            Leftover::Subvolume(path("backups/A/.partial-20261123T205431Z")),
            Leftover::Subvolume(path("replica/b.copying")),
            Leftover::Subvolume(path("replica/b.unverified")),
            Leftover::Subvolume(path("verification/20261123T205430Z")),
            Leftover::File(path("backups/A/.20261123T205431Z.json.new")),
            Leftover::File(path("backups/A/20261123T205431Z.index")),
            Leftover::Deletion(A.parse().unwrap(), "20261123T205432Z".parse().unwrap()),
        ];
        assert_eq!(found, expected);
        for area in [Area::Copies, Area::Backups] {
            assert!(leftovers(&data.path().join("not-mounted"), area).is_err());
        }
    }

    fn defaults() -> Places {
        let matches = Places::augment_args(clap::Command::new("hostd")).get_matches_from(["hostd"]);
        Places::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn a_volume_that_is_not_there_is_no_absent_replica() {
        let data = tempfile::tempdir().unwrap();
        let places = Places { data: data.path().into(), ..defaults() };
        let monitor = Uuid::from_u128(1);
        assert!(places.has_replica(monitor).unwrap_err().to_string().contains("is not mounted"));
        std::fs::create_dir_all(data.path().join("replica")).unwrap();
        assert!(!places.has_replica(monitor).unwrap());
        std::fs::create_dir(places.replica(monitor)).unwrap();
        assert!(places.has_replica(monitor).unwrap());
    }
}
