//! Fuzz target: whatever path an FTP client sends, it leads to the root, to a file that is listed there, or nowhere.

#![no_main]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;

use ftpd::catalog::Catalog;
use ftpd::path::{Place, resolve};
use libfuzzer_sys::fuzz_target;

const MONITORS: [&str; 2] = ["6ba7b810-9dad-41d1-80b4-00c04fd430c8", "6ba7b811-9dad-41d1-80b4-00c04fd430c8"];
/// The first is of both monitors, so it goes by its long name.
const IDS: [&str; 2] = ["20261123T205430Z", "20261123T205431Z-2"];

struct Served {
    _folder: tempfile::TempDir,
    catalog: Catalog,
    /// Every name that may be found: listed ones, and the long ones, which always work.
    names: Vec<String>,
}

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("backups");
    let complete = [(MONITORS[0], IDS[0]), (MONITORS[1], IDS[0]), (MONITORS[0], IDS[1])];
    for (monitor, id) in complete {
        let snapshot = root.join(monitor).join(id);
        fs::create_dir_all(snapshot.join("pgdata")).expect("a snapshot");
        fs::write(snapshot.join("pgdata/PG_VERSION"), "17\n").expect("a file");
        let beside = |suffix: &str| root.join(monitor).join(format!("{id}.{suffix}"));
        fs::write(beside("json"), "{}").expect("a manifest");
        let index = fs::File::create(beside("index")).expect("an index");
        vtar::Index::build(&snapshot).and_then(|built| built.write_to(index)).expect("an index");
    }
    // What must not be found: beside the backups, and a backup that is not complete.
    fs::write(folder.path().join(format!("{}.json", IDS[0])), "secret").expect("a file");
    fs::create_dir_all(root.join(MONITORS[1]).join(IDS[1])).expect("a folder");
    let catalog = Catalog::new(root);
    let mut names: Vec<_> = catalog.list().expect("a list").into_iter().map(|item| item.name).collect();
    for (monitor, id) in complete {
        names.extend(["json", "tar"].map(|suffix| format!("{id}_{monitor}.{suffix}")));
    }
    Served { _folder: folder, catalog, names }
});

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new(OsStr::from_bytes(bytes));
    let Some(Place::Name(name)) = resolve(path) else { return };
    assert!(!name.is_empty() && name != "." && name != ".." && !name.contains('/'), "{name:?}");
    // No file can have a name with a zero byte: that is an error and not a find.
    if let Ok(Some(item)) = SERVED.catalog.find(name) {
        assert!(SERVED.names.contains(&item.name) && item.name == name, "{name:?} led to {item:?}");
        SERVED.catalog.open(&item).expect("what is found can be opened");
    }
});
