//! Whole trees, made on disk: the tar against its own stream, and against what tar programs make of it.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use proptest::prelude::*;
use vtar::{Entry, Index, Kind, RECORD_BYTES, Reader};

/// A thing to make in a tree.
#[derive(Debug, Clone)]
struct Thing {
    directories: Vec<Vec<u8>>,
    name: Vec<u8>,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    File { size: usize, mode: u32, mtime: i64 },
    Directory { mode: u32 },
    Symlink(Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = prop::collection::vec(1_u8..=255, 1..20);
    let long = (90_usize..=255).prop_map(|len| vec![b'n'; len]);
    let usual = "[a-z0-9_.]{1,12}".prop_map(String::into_bytes);
    prop_oneof![3 => usual, 2 => any_byte, 2 => long]
        .prop_map(|name| name.into_iter().map(|byte| if byte == b'/' { b'_' } else { byte }).collect())
        .prop_filter("names of their own", |name: &Vec<u8>| !matches!(&name[..], b"." | b".."))
}

fn content() -> impl Strategy<Value = Content> {
    let size = prop_oneof![Just(0), Just(512), 1_usize..3000, 100_000_usize..200_000];
    let mtime =
        prop_oneof![4 => 0_i64..4_000_000_000, 1 => -1_000_000_i64..0, 1 => Just(0o77777777777_i64 + 1)];
    prop_oneof![
        4 => (size, 0_u32..0o10000, mtime)
            .prop_map(|(size, mode, mtime)| Content::File { size, mode: mode | 0o400, mtime }),
        1 => (0_u32..0o10000).prop_map(|mode| Content::Directory { mode: mode | 0o700 }),
        1 => prop::collection::vec(1_u8..=255, 1..300).prop_map(Content::Symlink),
    ]
}

fn tree() -> impl Strategy<Value = Vec<Thing>> {
    let thing = (prop::collection::vec(name(), 0..4), name(), content())
        .prop_map(|(directories, name, content)| Thing { directories, name, content });
    prop::collection::vec(thing, 0..12)
}

/// Makes what can be made: a thing whose place is taken is left out.
fn make(root: &Path, things: &[Thing]) {
    for (number, thing) in things.iter().enumerate() {
        let mut path = root.to_path_buf();
        path.extend(thing.directories.iter().map(|name| OsStr::from_bytes(name)));
        if fs::create_dir_all(&path).is_err() {
            continue;
        }
        path.push(OsStr::from_bytes(&thing.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &thing.content {
            Content::File { size, mode, mtime } => {
                fs::write(&path, noise(number as u64, *size)).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
                set_mtime(&path, *mtime);
            }
            Content::Directory { mode } => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
            }
            Content::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
        }
    }
}

fn set_mtime(path: &Path, seconds: i64) {
    let time = if seconds < 0 {
        std::time::UNIX_EPOCH - std::time::Duration::from_secs(seconds.unsigned_abs())
    } else {
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs())
    };
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Bytes that do not repeat, so that a read from a wrong place shows.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// An index of all of a tree, however deep.
fn whole(root: &Path) -> Result<Index, vtar::Error> {
    Index::build_up_to(root, usize::MAX)
}

fn reader(root: &Path) -> Reader {
    Arc::new(whole(root).unwrap()).reader(root).unwrap()
}

fn stream(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader(root).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Runs a program with a tar as its input; its error output must stay empty but for lines with an allowed text.
fn feed(program: &mut Command, tar: &[u8], allowed: &str) {
    let mut child =
        program.env("LC_ALL", "C.UTF-8").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaints: Vec<_> =
        errors.lines().filter(|line| allowed.is_empty() || !line.contains(allowed)).collect();
    assert!(output.status.success() && complaints.is_empty(), "{program:?}: {errors}");
}

fn extract_with_gnu_tar(tar: &[u8], into: &Path) {
    // GNU tar says that it does not know hdrcharset; it keeps the bytes as they are, as meant.
    let mut program = Command::new("tar");
    program.arg("--warning=no-timestamp"); // times in the future are made on purpose
    program
        .args(["--extract", "--preserve-permissions", "--no-same-owner", "--file=-", "--directory"])
        .arg(into);
    feed(&mut program, tar, "hdrcharset");
}

// It would take a leading backslash off a name (-P), and drop set-ID bits where owners are not kept (--same-owner).
fn extract_with_bsdtar(tar: &[u8], into: &Path) {
    let mut program = tools::Toolbox::open().unwrap().command("bsdtar");
    program.args(["-x", "-p", "-P", "--same-owner", "-f", "-", "-C"]).arg(into);
    feed(&mut program, tar, "");
}

fn extract_with_python(tar: &[u8], into: &Path) {
    let script = "import sys, tarfile\n\
        with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as tar:\n\
        \x20   for member in tar:\n\
        \x20       assert (member.uname, member.gname) == ('postgres', 'postgres')\n\
        \x20       member.uid = member.gid = 0; member.uname = member.gname = ''\n\
        \x20       tar.members = []\n\
        \x20       tar.extract(member, sys.argv[1], **({'filter': 'fully_trusted'} if hasattr(tarfile, 'fully_trusted_filter') else {}))\n";
    feed(Command::new("python3").args(["-c", script]).arg(into), tar, "");
}

/// What must be equal after extraction by a program that sets no times on directories and links while streaming.
fn without_times_of(entries: &[Entry], kinds: fn(&Kind) -> bool) -> Vec<Entry> {
    let adjust =
        |entry: &Entry| if kinds(&entry.kind) { Entry { mtime: 0, ..entry.clone() } } else { entry.clone() };
    entries.iter().map(adjust).collect()
}

fn contents(root: &Path) -> Vec<Vec<u8>> {
    let index = whole(root).unwrap();
    let files = index.entries().iter().filter(|entry| matches!(entry.kind, Kind::File(_)));
    files.map(|entry| fs::read(root.join(OsStr::from_bytes(&entry.path))).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_range_equals_the_stream(things in tree(), ranges in prop::collection::vec((0.0..1.05_f64, 0_usize..70_000), 1..30)) {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &things);
        let whole = stream(root.path());
        let mut reader = reader(root.path());
        prop_assert_eq!(whole.len() as u64, reader.len());
        prop_assert_eq!(whole.len() as u64 % RECORD_BYTES, 0);
        for (place, count) in ranges {
            let from = (whole.len() as f64 * place) as usize;
            reader.seek(SeekFrom::Start(from as u64)).unwrap();
            let mut got = Vec::new();
            reader.by_ref().take(count as u64).read_to_end(&mut got).unwrap();
            let expected = whole.get(from..whole.len().min(from + count)).unwrap_or_default();
            prop_assert!(got == expected, "{} bytes from {}", count, from);
        }
    }

    #[test]
    fn an_index_that_was_stored_gives_the_same_tar(things in tree()) {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &things);
        let index = whole(root.path()).unwrap();
        let mut stored = Vec::new();
        index.write_to(&mut stored).unwrap();
        let again = Index::read_from(&stored[..]).unwrap();
        prop_assert_eq!(&again, &index);
        prop_assert_eq!(whole(root.path()).unwrap(), index);
    }

    #[test]
    fn gnu_tar_extracts_an_identical_tree(things in tree()) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(from.path(), &things);
        let tar = stream(from.path());
        extract_with_gnu_tar(&tar, to.path());
        prop_assert_eq!(whole(from.path()).unwrap(), whole(to.path()).unwrap());
        prop_assert!(stream(to.path()) == tar);
    }

    #[test]
    fn bsdtar_extracts_an_identical_tree(things in tree()) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(from.path(), &things);
        let tar = stream(from.path());
        extract_with_bsdtar(&tar, to.path());
        prop_assert_eq!(whole(from.path()).unwrap(), whole(to.path()).unwrap());
        prop_assert!(stream(to.path()) == tar);
    }

    #[test]
    fn python_extracts_an_identical_tree(things in tree()) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(from.path(), &things);
        extract_with_python(&stream(from.path()), to.path());
        // extract() of one member after the other sets neither links' times nor keeps directories' ones.
        let kept = |root: &Path| {
            without_times_of(whole(root).unwrap().entries(), |kind| !matches!(kind, Kind::File(_)))
        };
        prop_assert_eq!(kept(from.path()), kept(to.path()));
        prop_assert_eq!(contents(from.path()), contents(to.path()));
    }
}

#[test]
fn paths_deeper_than_one_system_call_takes_are_read() {
    let root = tempfile::tempdir().unwrap();
    // Made from inside, as the whole path cannot be given to one call.
    let script = "import os, sys\nos.chdir(sys.argv[1])\n\
        for i in range(30):\n    os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('end', 'w').write('deep')\n";
    assert!(Command::new("python3").args(["-c", script]).arg(root.path()).status().unwrap().success());
    let index = Arc::new(whole(root.path()).unwrap());
    let mut tar = Vec::new();
    index.reader(root.path()).unwrap().read_to_end(&mut tar).unwrap();
    assert!(tar.windows(4).any(|window| window == b"deep"));
    // As deep as PostgreSQL goes: two folders with a path of up to 512 bytes, and the third is left out.
    let index = Index::build(root.path()).unwrap();
    assert_eq!((index.entries().len(), index.skipped()), (2, 1));
    let listing = "import sys, tarfile\nwith tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as tar:\n\
        \x20   names = tar.getnames()\nassert names[-1].endswith('/end') and len(names[-1]) == 30 * 201 + 3, names[-1]\n";
    feed(Command::new("python3").args(["-c", listing]), &tar, "");
}

#[test]
fn folders_without_end_do_not_make_an_index_without_end() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "kept").unwrap();
    let script =
        "import os, sys\nos.chdir(sys.argv[1])\nfor i in range(5000):\n    os.mkdir('d'); os.chdir('d')\n";
    assert!(Command::new("python3").args(["-c", script]).arg(root.path()).status().unwrap().success());
    let index = Index::build(root.path()).unwrap();
    assert_eq!((index.entries().len(), index.skipped()), (256 + 1, 1));
    assert!(index.entries().iter().all(|entry| entry.path.len() <= vtar::PATH_MAX));
    // The standard library's way to remove it would use up the stack.
    assert!(Command::new("rm").arg("-r").arg(root.path().join("d")).status().unwrap().success());
}

#[test]
fn files_beyond_8_gib_are_listed_and_passed_over_by_gnu_tar() {
    const SIZE: u64 = 9 << 30;
    let root = tempfile::tempdir().unwrap();
    File::create(root.path().join("large")).unwrap().set_len(SIZE).unwrap();
    fs::write(root.path().join("next"), "after").unwrap();
    let mut reader = reader(root.path());
    // The tar as a sparse file: headers and the end are written, the content's zeros are a hole.
    let tar = tempfile::NamedTempFile::new().unwrap();
    tar.as_file().set_len(reader.len()).unwrap();
    for from in [0, SIZE] {
        let mut piece = vec![0; 64 << 10];
        reader.seek(SeekFrom::Start(from)).unwrap();
        let count = reader.read(&mut piece).unwrap();
        tar.as_file().write_all_at(&piece[..count], from).unwrap();
    }
    let output =
        Command::new("tar").args(["--list", "--verbose", "--file"]).arg(tar.path()).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines.contains("postgres/postgres 9663676416"), "{lines}");
    assert!(lines.lines().nth(1).unwrap().ends_with(" next"), "{lines}");
}

#[test]
fn sockets_and_fifos_are_left_out_and_counted() {
    let root = tempfile::tempdir().unwrap();
    let _socket = UnixListener::bind(root.path().join(".s.PGSQL.5432")).unwrap();
    assert!(Command::new("mkfifo").arg(root.path().join("fifo")).status().unwrap().success());
    fs::write(root.path().join("file"), "").unwrap();
    let index = whole(root.path()).unwrap();
    assert_eq!((index.skipped(), index.entries().len()), (2, 1));
}

#[test]
fn a_file_that_became_shorter_is_an_error_and_a_longer_one_keeps_its_size() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, noise(1, 5000)).unwrap();
    let index = Arc::new(whole(root.path()).unwrap());
    let before = stream(root.path());

    fs::write(&path, [noise(1, 5000), noise(2, 5000)].concat()).unwrap();
    let mut longer = Vec::new();
    index.reader(root.path()).unwrap().read_to_end(&mut longer).unwrap();
    assert_eq!(longer, before);

    fs::write(&path, noise(1, 4999)).unwrap();
    let error = index.reader(root.path()).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("file is shorter"), "{error}");
}

#[test]
fn nothing_outside_the_root_is_read_when_a_link_takes_a_place() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("file"), "secret").unwrap();
    fs::create_dir(root.path().join("d")).unwrap();
    fs::write(root.path().join("d/file"), "public").unwrap();
    let index = Arc::new(whole(root.path()).unwrap());

    fs::remove_dir_all(root.path().join("d")).unwrap();
    symlink(outside.path(), root.path().join("d")).unwrap();
    let mut got = Vec::new();
    assert!(index.reader(root.path()).unwrap().read_to_end(&mut got).is_err());
    assert!(!got.windows(6).any(|window| window == b"secret"));

    fs::remove_file(root.path().join("d")).unwrap();
    fs::create_dir(root.path().join("d")).unwrap();
    symlink(outside.path().join("file"), root.path().join("d/file")).unwrap();
    assert!(index.reader(root.path()).unwrap().read_to_end(&mut got).is_err());
    assert!(!got.windows(6).any(|window| window == b"secret"));
}

#[test]
fn links_are_recorded_and_never_followed() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("file"), "secret").unwrap();
    symlink(outside.path(), root.path().join("link")).unwrap();
    let index = whole(root.path()).unwrap();
    let target = outside.path().as_os_str().as_bytes();
    assert_eq!(index.entries().len(), 1);
    assert_eq!(index.entries()[0].kind, Kind::Symlink(target.into()));
}

#[test]
fn a_root_that_is_missing_is_named_in_the_error() {
    let error = whole(Path::new("/nonexistent/snapshot")).unwrap_err();
    assert!(error.to_string().starts_with("cannot open /nonexistent/snapshot: "), "{error}");
}
