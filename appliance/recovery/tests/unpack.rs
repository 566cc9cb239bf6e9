//! Whole trees: what comes out of a tar, after a cut too, and what is never let out of it.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use recovery::Failure;
use recovery::unpack::{Destination, unpack};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

fn destination(folder: &TempDir) -> Destination {
    let metadata = fs::metadata(folder.path()).unwrap();
    let place = |name: &str| folder.path().join(name);
    Destination {
        pgdata: place("data"),
        tablespaces: place("spaces"),
        owner: (metadata.uid(), metadata.gid()),
    }
}

/// A tree as a backup has it.
fn backup() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| root.path().join(name);
    for folder in ["pgdata/base/1", "pgdata/pg_tblspc", "pgdata/empty", "tablespaces/16400/PG_17"] {
        fs::create_dir_all(place(folder)).unwrap();
    }
    fs::write(place("pgdata/PG_VERSION"), "17\n").unwrap();
    fs::write(place("pgdata/postmaster.pid"), "1\n").unwrap();
    fs::write(place("pgdata/base/1/1259"), vec![7; 100_000]).unwrap();
    fs::write(place("pgdata/base/1/nothing"), "").unwrap();
    fs::write(place(&format!("pgdata/{}", "n".repeat(200))), "a long name").unwrap();
    fs::write(place("tablespaces/16400/PG_17/1"), vec![9; 513]).unwrap();
    symlink("/srv/cluster/tablespaces/16400", place("pgdata/pg_tblspc/16400")).unwrap();
    fs::set_permissions(place("pgdata"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(place("pgdata/PG_VERSION"), fs::Permissions::from_mode(0o4646)).unwrap();
    root
}

fn tar_of(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let index = Arc::new(vtar::Index::build(root).unwrap());
    index.reader(root).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn assert_unpacked(to: &Destination) {
    let read = |path: &Path| fs::read(path).unwrap();
    assert_eq!(read(&to.pgdata.join("PG_VERSION")), b"17\n");
    assert_eq!(read(&to.pgdata.join("base/1/1259")), [7; 100_000]);
    assert_eq!(read(&to.pgdata.join("base/1/nothing")), b"");
    assert_eq!(read(&to.pgdata.join("n".repeat(200))), b"a long name");
    assert!(to.pgdata.join("empty").is_dir());
    assert!(!to.pgdata.join("postmaster.pid").exists());
    // The tablespace is where it is to stay, and the link says so.
    assert_eq!(fs::read_link(to.pgdata.join("pg_tblspc/16400")).unwrap(), to.tablespaces.join("16400"));
    assert_eq!(read(&to.pgdata.join("pg_tblspc/16400/PG_17/1")), [9; 513]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&to.pgdata), 0o700);
    assert_eq!(mode(&to.pgdata.join("PG_VERSION")), 0o600); // no set-user-ID, nothing for others
}

#[test]
fn a_backup_is_unpacked_and_can_be_again() {
    let (root, folder) = (backup(), tempfile::tempdir().unwrap());
    let (tar, to) = (tar_of(root.path()), destination(&folder));
    for _ in 0..2 {
        let mut last = 0;
        unpack("x.tar", &tar[..], 0, &to, |reached| {
            last = reached;
            Ok(())
        })
        .unwrap();
        assert!(last > 0 && last < tar.len() as u64, "the end marker follows {last}");
        assert_unpacked(&to);
    }
}

#[test]
fn after_a_cut_anywhere_it_goes_on_at_the_entry() {
    let root = backup();
    let tar = tar_of(root.path());
    // Where entries begin.
    let mut begins = vec![0];
    for entry in tar::Archive::new(Cursor::new(&tar)).entries().unwrap() {
        let entry = entry.unwrap();
        begins.push(entry.raw_file_position() + entry.size().next_multiple_of(512));
    }
    for cut in (0..tar.len()).step_by(7_777) {
        let folder = tempfile::tempdir().unwrap();
        let to = destination(&folder);
        // The rest never comes; what was begun is half there.
        drop(unpack("x.tar", &tar[..cut], 0, &to, |_| Ok(())));
        let from = *begins.iter().rfind(|begin| **begin <= cut as u64).unwrap();
        unpack("x.tar", &tar[usize::try_from(from).unwrap()..], from, &to, |_| Ok(())).unwrap();
        assert_unpacked(&to);
    }
}

/// A tar with one more entry after the folders of a backup.
fn hostile(kind: EntryType, path: &str, link: Option<&str>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut append = |kind: EntryType, path: &str, link: Option<&str>, content: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o777);
        header.set_size(content.len() as u64);
        // Written by hand: the library refuses such names itself.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    };
    for folder in ["pgdata/", "pgdata/pg_tblspc/", "tablespaces/"] {
        append(EntryType::Directory, folder, None, b"");
    }
    let content: &[u8] = if kind == EntryType::Regular { b"evil" } else { b"" };
    append(kind, path, link, content);
    builder.into_inner().unwrap()
}

#[test]
fn nothing_else_comes_out_of_a_tar() {
    use EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    // What our tars never hold ends the restore; what SQL may have left in the replica is passed over.
    let never = Some("which no backup has");
    let outside = Some("lies outside");
    let table = [
        (Regular, "/evil", None, never),
        (Regular, "../evil", None, never),
        (Regular, "pgdata/../../evil", None, never),
        (Regular, "elsewhere/evil", None, None),
        (Regular, "pgdata/recovery.signal", None, None),
        (Regular, "pgdata/postgresql.auto.conf", None, None),
        (Directory, "evil/", None, None),
        (Regular, "pgdata", None, None),
        (Symlink, "pgdata/base", Some("/etc"), None),
        (Symlink, "pgdata/pg_wal", Some("../../outside"), None),
        (Symlink, "pgdata/pg_tblspc/16400", Some("/etc"), outside),
        (Symlink, "pgdata/pg_tblspc/16400", Some("/srv/cluster/tablespaces/../../../etc"), outside),
        (Symlink, "pgdata/pg_tblspc/name", Some("/srv/cluster/tablespaces/name"), None),
        (Symlink, "pgdata", Some("/etc"), None),
        (Link, "pgdata/passwd", Some("/etc/passwd"), never),
        (Char, "pgdata/device", None, never),
        (Fifo, "pgdata/fifo", None, never),
    ];
    for (kind, path, link, expected) in table {
        let folder = tempfile::tempdir().unwrap();
        let to = destination(&folder);
        let tar = hostile(kind, path, link);
        match (unpack("x.tar", &tar[..], 0, &to, |_| Ok(())), expected) {
            (Err(Failure::Damaged { problem, .. }), Some(words)) if problem.contains(words) => {}
            (Ok(()), None) => {}
            other => panic!("{path} {link:?}: {other:?}"),
        }
        assert_eq!(fs::read_dir(&to.pgdata).unwrap().count(), 1, "{path}");
        assert_eq!(fs::read_dir(to.pgdata.join("pg_tblspc")).unwrap().count(), 0, "{path}");
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["data", "spaces"], "{path}");
    }
}

#[test]
fn no_link_is_followed_on_the_way() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let to = destination(&folder);
    fs::create_dir_all(&to.pgdata).unwrap();
    symlink(outside.path(), to.pgdata.join("base")).unwrap();
    symlink(outside.path().join("file"), to.pgdata.join("file")).unwrap();
    for path in ["pgdata/base/evil", "pgdata/file", "pgdata/base/"] {
        let kind = if path.ends_with('/') { EntryType::Directory } else { EntryType::Regular };
        let tar = hostile(kind, path, None);
        assert!(unpack("x.tar", &tar[..], 0, &to, |_| Ok(())).is_err(), "{path}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_tar_that_ends_early_or_is_none_is_damaged() {
    let root = backup();
    let tar = tar_of(root.path());
    for bytes in [&tar[..50_000], &[1; 5000]] {
        let folder = tempfile::tempdir().unwrap();
        let result = unpack("x.tar", bytes, 0, &destination(&folder), |_| Ok(()));
        assert!(matches!(&result, Err(Failure::Damaged { name, .. }) if name == "x.tar"), "{result:?}");
    }
}
