//! Which files there are: looked for in the folders each time, so there is nothing that could be out of date.
//! Of an index only what says how long its tar is is read, and once.
//!
//! A backup is shown when its snapshot, manifest and tar index exist, which is what makes it complete. The names are
//! `<id>.tar` and `<id>.json`. Should two monitors have a backup of the same second, both go by
//! `<id>_<monitor uuid>.…`, a name that always works, so that a name never means one thing now and another later.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use backups::BackupId;
use uuid::Uuid;

/// The folder of all backups: `<monitor uuid>/<id>`, and `<id>.json` and `<id>.index` beside it.
#[derive(Debug, Clone)]
pub struct Catalog {
    root: PathBuf,
    /// Lengths of tars by their indexes, shared by all sessions. An index never changes: another one is
    /// another file.
    lengths: Arc<Mutex<HashMap<IndexFile, u64>>>,
}

/// What makes an index the same file: number, size, and time of the last change in seconds and nanoseconds.
type IndexFile = (u64, u64, i64, i64);

/// Lengths that are remembered; beyond, all are forgotten and read again.
const LENGTHS_MAX: usize = 10_000;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The backup as a tar.
    Tar,
    /// Its manifest.
    Manifest,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Manifest => "json",
        }
    }
}

/// One file as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name in the root.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was made; of a tar, when the backup was completed.
    pub modified: SystemTime,
    kind: Kind,
    backup: Backup,
}

/// A backup that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backup {
    monitor: Uuid,
    id: BackupId,
}

/// What an item is read from.
pub trait Content: Read + Seek + Send {}
impl<T: Read + Seek + Send> Content for T {}

/// An item that is being read.
pub struct Opened {
    /// Its content.
    pub content: Box<dyn Content>,
    /// Of a tar: the path of its index, and the index, which holds the backup while it is open.
    pub index: Option<(PathBuf, File)>,
}

impl Catalog {
    /// The backups in a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), lengths: Arc::default() }
    }

    /// When something was added or removed last; the epoch while there is no folder.
    pub fn modified(&self) -> SystemTime {
        fs::metadata(&self.root).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// All files, in the order of their names. What cannot be examined is left out and logged: one damaged backup
    /// must not hide the others.
    pub fn list(&self) -> io::Result<Vec<Item>> {
        let mut found = Vec::new();
        for monitor in backups::monitors(&self.root)? {
            match self.backups_of(monitor) {
                Ok(backups) => found.extend(backups),
                Err(error) => tracing::warn!("the backups of monitor {monitor} are not listed: {error}"),
            }
        }
        found.retain(|backup| self.is_complete(backup));
        let mut items = Vec::new();
        for (name, backup) in named(found) {
            for kind in [Kind::Manifest, Kind::Tar] {
                match self.item(format!("{name}.{}", kind.suffix()), kind, &backup) {
                    Ok(item) => items.push(item),
                    Err(error) => tracing::warn!("{name}.{} is not listed: {error}", kind.suffix()),
                }
            }
        }
        items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    fn backups_of(&self, monitor: Uuid) -> io::Result<Vec<Backup>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.folder(monitor))? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|id| id.parse().ok());
            found.extend(id.map(|id| Backup { monitor, id }));
        }
        Ok(found)
    }

    /// The file of a name. `None`: there is none, or the name means more than one.
    pub fn find(&self, name: &str) -> io::Result<Option<Item>> {
        let Some((kind, id, monitor)) = parse(name) else { return Ok(None) };
        let monitors = match monitor {
            Some(monitor) => vec![monitor],
            None => backups::monitors(&self.root)?,
        };
        let backups = monitors.into_iter().map(|monitor| Backup { monitor, id: id.clone() });
        let found: Vec<_> = backups.filter(|backup| self.is_complete(backup)).collect();
        match &found[..] {
            [backup] => self.item(name.into(), kind, backup).map(Some),
            _ => Ok(None),
        }
    }

    /// Opens a file's content. For a tar this reads its index once: about 20 bytes per file of the backup, of which little is
    /// kept in memory.
    pub fn open(&self, item: &Item) -> io::Result<Opened> {
        match item.kind {
            Kind::Manifest => {
                let content = Box::new(File::open(self.beside(&item.backup, "json"))?);
                Ok(Opened { content, index: None })
            }
            Kind::Tar => {
                let path = self.beside(&item.backup, "index");
                let file = File::open(&path)?;
                backups::download::hold(&file)?;
                // Opened once more: what holds the backup is closed at its own time. While it is held, it has this name.
                let index = vtar::Stored::open(File::open(&path)?);
                let reader = index.and_then(|index| index.reader(self.snapshot(&item.backup)));
                Ok(Opened { content: Box::new(reader.map_err(io::Error::other)?), index: Some((path, file)) })
            }
        }
    }

    fn item(&self, name: String, kind: Kind, backup: &Backup) -> io::Result<Item> {
        let (bytes, metadata) = match kind {
            Kind::Manifest => {
                let metadata = fs::metadata(self.beside(backup, "json"))?;
                (metadata.len(), metadata)
            }
            Kind::Tar => {
                // The manifest is written again when a backup is verified or pinned; the index never is.
                let path = self.beside(backup, "index");
                let metadata = fs::metadata(&path)?;
                (self.tar_bytes(&path, &metadata)?, metadata)
            }
        };
        Ok(Item { name, bytes, modified: modified(&metadata), kind, backup: backup.clone() })
    }

    /// The length of the tar of an index.
    fn tar_bytes(&self, path: &Path, index: &Metadata) -> io::Result<u64> {
        let file = (index.ino(), index.len(), index.ctime(), index.ctime_nsec());
        let lengths = || self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = lengths().get(&file) {
            return Ok(*bytes);
        }
        let bytes = vtar::Index::read_len(File::open(path)?).map_err(io::Error::other)?;
        let mut lengths = lengths();
        if lengths.len() >= LENGTHS_MAX {
            lengths.clear();
        }
        lengths.insert(file, bytes);
        Ok(bytes)
    }

    fn is_complete(&self, backup: &Backup) -> bool {
        let is_file = |suffix| self.beside(backup, suffix).is_file();
        self.snapshot(backup).is_dir() && is_file("json") && is_file("index")
    }

    fn folder(&self, monitor: Uuid) -> PathBuf {
        self.root.join(monitor.to_string())
    }

    fn snapshot(&self, backup: &Backup) -> PathBuf {
        self.folder(backup.monitor).join(backup.id.as_str())
    }

    fn beside(&self, backup: &Backup, suffix: &str) -> PathBuf {
        self.folder(backup.monitor).join(format!("{}.{suffix}", backup.id))
    }

    /// Where the backups are.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn modified(metadata: &Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Gives each backup its name without suffix.
fn named(backups: Vec<Backup>) -> Vec<(String, Backup)> {
    let mut same: HashMap<BackupId, usize> = HashMap::with_capacity(backups.len());
    for backup in &backups {
        *same.entry(backup.id.clone()).or_default() += 1;
    }
    let name = |backup: &Backup| {
        let is_alone = same.get(&backup.id).is_none_or(|count| *count == 1);
        if is_alone { backup.id.to_string() } else { format!("{}_{}", backup.id, backup.monitor) }
    };
    backups.into_iter().map(|backup| (name(&backup), backup)).collect()
}

/// Takes a file name apart: `<id>[_<monitor uuid>].(tar|json)`.
fn parse(name: &str) -> Option<(Kind, BackupId, Option<Uuid>)> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let kind = [Kind::Tar, Kind::Manifest].into_iter().find(|kind| kind.suffix() == suffix)?;
    let (id, monitor) = match stem.split_once('_') {
        Some((id, monitor)) => (id, Some(backups::monitor(monitor)?)),
        None => (stem, None),
    };
    Some((kind, id.parse().ok()?, monitor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    const B: &str = "6ba7b811-9dad-41d1-80b4-00c04fd430c8";
    const ID: &str = "20261123T205430Z";

    fn add(root: &Path, monitor: &str, id: &str) {
        let snapshot = root.join(monitor).join(id);
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(snapshot.join("monitor"), monitor).unwrap();
        fs::write(root.join(monitor).join(format!("{id}.json")), "{}").unwrap();
        let index = File::create(root.join(monitor).join(format!("{id}.index"))).unwrap();
        vtar::Index::build(&snapshot).unwrap().write_to(index).unwrap();
    }

    fn names(catalog: &Catalog) -> Vec<String> {
        catalog.list().unwrap().into_iter().map(|item| item.name).collect()
    }

    #[test]
    fn only_names_of_backups_are_names() {
        assert_eq!(parse(&format!("{ID}.tar")), Some((Kind::Tar, ID.parse().unwrap(), None)));
        let with_monitor = Some((Kind::Manifest, ID.parse().unwrap(), Some(A.parse().unwrap())));
        assert_eq!(parse(&format!("{ID}_{A}.json")), with_monitor);
        for wrong in [
            "",
            ".",
            ".tar",
            "x.tar",
            &format!("{ID}.index"),
            &format!("{ID}_x.tar"),
            ID,
            &format!("{ID}_{}.tar", A.to_uppercase()),
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn complete_backups_are_listed_and_found() {
        let root = tempfile::tempdir().unwrap();
        add(root.path(), A, ID);
        add(root.path(), A, "20261123T205431Z");
        fs::remove_file(root.path().join(A).join("20261123T205431Z.index")).unwrap();
        add(root.path(), "no-monitor", ID);
        let catalog = Catalog::new(root.path());
        assert_eq!(names(&catalog), [format!("{ID}.json"), format!("{ID}.tar")]);
        let tar = catalog.find(&format!("{ID}.tar")).unwrap().unwrap();
        assert_eq!(tar.bytes, 10_240);
        assert_eq!(catalog.find("20261123T205431Z.tar").unwrap(), None);
    }

    #[test]
    fn backups_of_the_same_second_carry_their_monitor() {
        let root = tempfile::tempdir().unwrap();
        for (monitor, id) in [(A, ID), (B, ID), (B, "20261124T000000Z")] {
            add(root.path(), monitor, id);
        }
        let catalog = Catalog::new(root.path());
        let [a, b] = [A, B].map(|monitor| format!("{ID}_{monitor}.tar"));
        assert!(names(&catalog).contains(&a) && names(&catalog).contains(&b));
        assert!(names(&catalog).contains(&"20261124T000000Z.tar".into()));
        assert_eq!(catalog.find(&format!("{ID}.tar")).unwrap(), None);
        let mut content = Vec::new();
        let item = catalog.find(&b).unwrap().unwrap();
        catalog.open(&item).unwrap().content.read_to_end(&mut content).unwrap();
        assert!(String::from_utf8_lossy(&content).contains(B));
    }

    #[test]
    fn a_damaged_index_hides_one_tar_only() {
        let root = tempfile::tempdir().unwrap();
        add(root.path(), A, ID);
        add(root.path(), A, "20261124T000000Z");
        fs::write(root.path().join(A).join(format!("{ID}.index")), "damaged").unwrap();
        let catalog = Catalog::new(root.path());
        assert_eq!(
            names(&catalog),
            [format!("{ID}.json"), "20261124T000000Z.json".into(), "20261124T000000Z.tar".into()]
        );
    }

    #[test]
    fn a_volume_that_is_not_there_is_an_error_and_not_an_empty_list() {
        let catalog = Catalog::new("/nonexistent/backups");
        assert!(catalog.list().is_err());
        assert!(catalog.find(&format!("{ID}.tar")).is_err());
    }
}
