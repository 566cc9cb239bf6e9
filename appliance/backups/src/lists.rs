//! The lists of backups, from small records: a manifest is read when it is new, and not again while it is the
//! same file.
//!
//! A manifest carries the monitor's configuration and the hashes of the tar, which no list shows, and there
//! may be thousands. What a list needs of each is kept in memory, and in one file beside the monitor's folder
//! for the next start (`<root>/<monitor>.list`, which only root writes). Neither is ever believed unasked:
//! each record names the file that it is of, by number, size and times, and one that is not of the file as it
//! is now is read anew. So the record can be missing, old or damaged, and costs time then, and nothing else.

use crate::manifest::ManifestError;
use crate::{BackupId, Entry, catalog, manifest_path, read_manifest};
use api::Backup;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// What this process knows of manifests. Nothing depends on it but time.
static KNOWN: LazyLock<Lists> = LazyLock::new(Lists::default);

/// Lists the backups in a monitor's folder: [`Lists::list`] of this process.
///
/// # Errors
/// As [`Lists::list`].
pub fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    KNOWN.list(folder)
}

/// One backup in a monitor's folder: [`Lists::find`] of this process.
pub fn find(folder: &Path, id: &BackupId) -> Option<Entry> {
    KNOWN.find(folder, id)
}

/// Keeps what is known of a monitor's folder for the next start: [`Lists::save`] of this process.
///
/// # Errors
/// As [`Lists::save`].
pub fn keep_list(folder: &Path, owner: Option<files::Owner>) -> io::Result<bool> {
    KNOWN.save(folder, owner)
}

/// Largest record that is read, in bytes: 64 kB for each of a thousand backups.
const RECORD_MAX: u64 = 64 << 20;

/// What makes a manifest the same file: each is written anew beside the old one, so that its number changes
/// with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// What is known of a manifest.
#[derive(Debug, Clone)]
struct Known {
    identity: Identity,
    entry: Entry,
    /// The look at which it was there last.
    seen: u64,
}

/// What is known of a monitor's backups.
#[derive(Debug, Default)]
struct Folder {
    known: HashMap<BackupId, Known>,
    /// Something is known that the record does not have.
    is_news: bool,
    /// Looks so far.
    looks: u64,
}

/// The record of one manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Recorded {
    identity: Identity,
    backup: Backup,
}

/// The record of a monitor's backups.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Version of the program that wrote it: another one may know more of a backup, or less.
    version: String,
    backups: Vec<Recorded>,
}

/// The lists as one process knows them.
#[derive(Debug, Default)]
pub struct Lists {
    folders: Mutex<HashMap<PathBuf, Folder>>,
}

impl Lists {
    /// Lists the backups in a monitor's folder, in the order of their ids, the last one first. A folder that
    /// does not exist has none.
    ///
    /// # Errors
    /// Those of reading the folder; a backup that cannot be read is an [`Entry::Damaged`].
    pub fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let ids = catalog::ids(folder)?;
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let Folder { known, is_news, looks } =
            folders.entry(folder.to_owned()).or_insert_with(|| recorded(folder));
        *looks += 1;
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids.into_iter().rev() {
            let (entry, is_new) = look(folder, &id, known, *looks);
            *is_news |= is_new;
            entries.push(entry);
        }
        let before = known.len();
        known.retain(|_, known| known.seen == *looks);
        *is_news |= known.len() < before;
        Ok(entries)
    }

    /// One backup in a monitor's folder; `None`: there is none of this id.
    pub fn find(&self, folder: &Path, id: &BackupId) -> Option<Entry> {
        if !folder.join(id.as_str()).is_dir() {
            return None;
        }
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let Folder { known, is_news, looks } =
            folders.entry(folder.to_owned()).or_insert_with(|| recorded(folder));
        let (entry, is_new) = look(folder, id, known, *looks);
        *is_news |= is_new;
        Some(entry)
    }

    /// Writes what is known of a monitor's folder for the next start, where the record lacks some of it.
    /// Whoever is not root does not call this.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn save(&self, folder: &Path, owner: Option<files::Owner>) -> io::Result<bool> {
        let Some(backups) = self.take_news(folder) else { return Ok(false) };
        let text = serde_json::to_vec(&Record { version: env!("CARGO_PKG_VERSION").into(), backups })?;
        let written = files::replace(&record_path(folder), 0o640, owner, |file| file.write_all(&text));
        if written.is_err() {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            folders.entry(folder.to_owned()).or_default().is_news = true;
        }
        written.map(|()| true)
    }

    /// All that is known of a folder, where the record lacks some of it. From then on the record counts as
    /// complete.
    fn take_news(&self, folder: &Path) -> Option<Vec<Recorded>> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let Folder { known, is_news, .. } = folders.get_mut(folder).filter(|folder| folder.is_news)?;
        *is_news = false;
        let recorded = |known: &Known| match &known.entry {
            Entry::Complete(backup) => {
                Some(Recorded { identity: known.identity, backup: (**backup).clone() })
            }
            Entry::Damaged { .. } => None,
        };
        let mut backups: Vec<Recorded> = known.values().filter_map(recorded).collect();
        backups.sort_by(|one, other| one.backup.id.cmp(&other.backup.id));
        Some(backups)
    }
}

/// The entry of a backup, by what is known where that is of the same file; puts it to what is known, and says
/// whether it was not there before.
fn look(folder: &Path, id: &BackupId, known: &mut HashMap<BackupId, Known>, looks: u64) -> (Entry, bool) {
    // Looked at before it is read: one that is replaced in between has another identity at the next look.
    let identity = Identity::of(&manifest_path(folder, id));
    if let (Ok(identity), Some(before)) = (&identity, known.get_mut(id))
        && before.identity == *identity
    {
        before.seen = looks;
        return (before.entry.clone(), false);
    }
    known.remove(id);
    let read = read_manifest(folder, id);
    // What the disk says now it may not say the next time.
    let is_lasting = !matches!(read, Err(ManifestError::Io { .. }));
    let entry = match read {
        Ok(manifest) => Entry::Complete(Box::new(manifest.backup)),
        Err(error) => Entry::Damaged { id: id.clone(), problem: error.to_string() },
    };
    if let (Ok(identity), true) = (identity, is_lasting) {
        known.insert(id.clone(), Known { identity, entry: entry.clone(), seen: looks });
    }
    (entry, true)
}

/// `<root>/<monitor>.list` for the folder `<root>/<monitor>`.
fn record_path(folder: &Path) -> PathBuf {
    folder.with_extension("list")
}

/// What the record of a monitor's folder says. One that is missing, damaged or of another version says
/// nothing.
fn recorded(folder: &Path) -> Folder {
    let read = || -> io::Result<Option<Record>> {
        let mut text = Vec::new();
        let file = match fs::File::open(record_path(folder)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.take(RECORD_MAX + 1).read_to_end(&mut text)?;
        if text.len() as u64 > RECORD_MAX {
            return Err(io::Error::other("it is larger than any record"));
        }
        let record: Record = serde_json::from_slice(&text)?;
        Ok(Some(record).filter(|record| record.version == env!("CARGO_PKG_VERSION")))
    };
    // It is a copy of what the manifests say, so they are read instead.
    let record = read().unwrap_or_default();
    let is_news = record.is_none();
    let known =
        record.into_iter().flat_map(|record| record.backups).filter_map(|Recorded { identity, backup }| {
            let id: BackupId = backup.id.parse().ok()?;
            Some((id, Known { identity, entry: Entry::Complete(Box::new(backup)), seen: 0 }))
        });
    Folder { known: known.collect(), is_news, looks: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;
    use crate::write_manifest;
    use std::os::unix::fs::PermissionsExt;

    const IDS: [&str; 3] = ["20261123T205430Z", "20261123T205430Z-2", "20261124T000000Z"];

    /// A root with a monitor's folder with three backups.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("monitor");
        for id in IDS {
            fs::create_dir_all(folder.join(id)).unwrap();
            write_manifest(&folder, &manifest(id), None).unwrap();
        }
        (root, folder)
    }

    fn ids(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(Entry::id).collect()
    }

    /// A file whose content is no manifest any more, though it looks the same from outside: it shows whether
    /// it was read.
    fn spoil_unseen(folder: &Path, id: &str) {
        use std::fs::FileTimes;
        let path = folder.join(format!("{id}.json"));
        let before = fs::metadata(&path).unwrap();
        let text = " ".repeat(usize::try_from(before.len()).unwrap());
        let file = fs::File::options().write(true).open(&path).unwrap();
        (&file).write_all(text.as_bytes()).unwrap();
        file.set_times(FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
    }

    #[test]
    fn every_snapshot_is_listed_newest_first_and_damage_is_shown() {
        let (_root, folder) = folder();
        fs::remove_file(folder.join(format!("{}.json", IDS[1]))).unwrap();
        fs::create_dir(folder.join(".partial-20261125T000000Z")).unwrap();
        fs::create_dir(folder.join(".deleting-20261125T000000Z")).unwrap();
        let lists = Lists::default();
        for _ in 0..2 {
            let entries = lists.list(&folder).unwrap();
            assert_eq!(ids(&entries), [IDS[2], IDS[1], IDS[0]]);
            assert!(
                matches!(&entries[1], Entry::Damaged { problem, .. } if problem.contains("No such file"))
            );
        }
        let found = lists.find(&folder, &IDS[1].parse().unwrap());
        assert!(matches!(found, Some(Entry::Damaged { .. })), "{found:?}");
        assert_eq!(lists.find(&folder, &"20261125T000000Z".parse().unwrap()), None);
        assert_eq!(lists.list(Path::new("/nonexistent/x")).unwrap(), []);
    }

    #[test]
    fn a_manifest_that_changed_is_read_again_and_one_that_is_gone_is_forgotten() {
        let (_root, folder) = folder();
        let lists = Lists::default();
        let before = lists.list(&folder).unwrap();
        let mut changed = manifest(IDS[0]);
        changed.backup.pinned = true;
        write_manifest(&folder, &changed, None).unwrap();
        fs::remove_dir(folder.join(IDS[1])).unwrap();
        let after = lists.list(&folder).unwrap();
        assert_eq!(after, [before[0].clone(), Entry::Complete(Box::new(changed.backup.clone()))]);
        assert_eq!(lists.find(&folder, &IDS[0].parse().unwrap()), Some(after[1].clone()));
        // Damage is found when the file is another one, and its end as well.
        fs::write(folder.join(format!("{}.json", IDS[0])), "{").unwrap();
        assert!(matches!(&lists.list(&folder).unwrap()[1], Entry::Damaged { .. }));
        write_manifest(&folder, &changed, None).unwrap();
        assert_eq!(lists.list(&folder).unwrap(), after);
    }

    #[test]
    fn the_record_spares_the_next_start_the_reading_and_is_never_believed_against_the_files() {
        let (root, folder) = folder();
        let record = root.path().join("monitor.list");
        let lists = Lists::default();
        let entries = lists.list(&folder).unwrap();
        assert!(lists.save(&folder, None).unwrap());
        assert!(!lists.save(&folder, None).unwrap(), "nothing is new");
        assert_eq!(fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o640);
        // Nothing of a manifest is read that the record has: not even its damage could be seen.
        let next = Lists::default();
        assert_eq!(next.list(&folder).unwrap(), entries);
        assert!(!next.save(&folder, None).unwrap());

        // What differs from the record is read: a changed file, a new one, one that only looks the same.
        let mut changed = manifest(IDS[0]);
        changed.backup.comment = "changed".into();
        write_manifest(&folder, &changed, None).unwrap();
        spoil_unseen(&folder, IDS[1]);
        fs::create_dir(folder.join("20261125T000000Z")).unwrap();
        write_manifest(&folder, &manifest("20261125T000000Z"), None).unwrap();
        let next = Lists::default();
        let seen = next.list(&folder).unwrap();
        assert_eq!(ids(&seen), ["20261125T000000Z", IDS[2], IDS[1], IDS[0]]);
        assert!(matches!(&seen[2], Entry::Damaged { .. }), "{seen:?}");
        assert_eq!(seen[3], Entry::Complete(Box::new(changed.backup)));
        assert!(next.save(&folder, None).unwrap());

        // A record that says nothing, or is of another program, is made again.
        for text in ["", "{", r#"{"version":"0.0.0","backups":[]}"#] {
            fs::write(&record, text).unwrap();
            let next = Lists::default();
            assert_eq!(next.list(&folder).unwrap(), seen, "{text}");
            assert!(next.save(&folder, None).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_too_large_for_a_manifest_is_damaged_and_not_read() {
        let (_root, folder) = folder();
        let path = folder.join(format!("{}.json", IDS[0]));
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let entries = Lists::default().list(&folder).unwrap();
        assert!(
            matches!(&entries[2], Entry::Damaged { problem, .. } if problem.contains("more than any manifest")),
            "{entries:?}"
        );
    }
}
