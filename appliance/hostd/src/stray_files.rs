//! `hostd remove-stray-files`: removes from the clone of a backup what is not PostgreSQL's in the folders of its tables.
//!
//! `pg_checksums` reads every file there as a table's, whatever its name. At a core dump or an editor's backup it gives
//! up, or calls its pages bad. One stray file must not decide for all tables, so the result names what was not checked.
//! It runs in the clone's namespace as the clone's user, when its server has ended.

use anyhow::{Context, Result};
use std::fs::{self, FileType};
use std::path::{Path, PathBuf};

/// Names that are told.
const NAMED: usize = 10;

/// Files that PostgreSQL has beside those of tables: `pg_checksums` passes over what has exactly such a name.
const OTHERS: [&str; 3] = ["PG_VERSION", "pg_control", "pg_filenode.map"];

/// What begins like this is passed over, too: these names have a process's number behind them.
const PREFIXES: [&str; 2] = ["pg_internal.init", "pgsql_tmp"];

/// Removes stray files below `root` and prints how many, and the names of the first ones, a line each.
pub fn run(root: &Path) -> Result<()> {
    let mut removed = Vec::new();
    let pgdata = root.join("pgdata");
    remove_stray(&pgdata.join("global"), |name, _| is_file_of_tables(name), &mut removed)?;
    // Links, and folders of tablespaces that are in place.
    remove_stray(&pgdata.join("pg_tblspc"), |_, kind| !kind.is_file(), &mut removed)?;
    let mut places = vec![pgdata.join("base")];
    for tablespace in entries(&root.join("tablespaces"))? {
        // A folder for each major that has used it.
        places.extend(entries(&tablespace)?);
    }
    for place in places {
        let is_own = |name: &str, kind: FileType| kind.is_dir() && (is_number(name) || name == "pgsql_tmp");
        remove_stray(&place, is_own, &mut removed)?;
        for database in entries(&place)? {
            remove_stray(&database, |name, _| is_file_of_tables(name), &mut removed)?;
        }
    }
    println!("{}", removed.len());
    for path in removed.iter().take(NAMED) {
        println!("{}", path.strip_prefix(root).unwrap_or(path).display().to_string().escape_debug());
    }
    Ok(())
}

/// Sentences about what was removed, from what [`run`] has printed.
///
/// # Errors
/// It has not printed how many there were.
pub fn limits(printed: &str) -> Result<Vec<String>> {
    let mut lines = printed.lines();
    let count = lines.next().and_then(|count| count.trim().parse::<usize>().ok());
    let count = count.with_context(|| format!("the search for stray files printed {printed:?}"))?;
    let named: Vec<&str> = lines.take(NAMED).collect();
    let more = count.saturating_sub(named.len());
    let mut said: Vec<String> = named
        .iter()
        .map(|name| format!("Not checked: {name}, which is not a file of PostgreSQL's."))
        .collect();
    if more > 0 {
        said.push(format!("Not checked: {more} more such files."));
    }
    Ok(said)
}

/// What is in a folder that is one itself, and no link; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return Ok(Vec::new());
    }
    let cannot = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(cannot)?;
    entries.map(|entry| Ok(entry.with_context(cannot)?.path())).collect()
}

fn remove_stray(
    folder: &Path,
    is_own: impl Fn(&str, FileType) -> bool,
    removed: &mut Vec<PathBuf>,
) -> Result<()> {
    for path in entries(folder)? {
        let found = path.symlink_metadata().with_context(|| format!("cannot look at {}", path.display()))?;
        let kind = found.file_type();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_own(name, kind)) {
            continue;
        }
        if kind.is_dir() {
            files::remove_folder(&path)?;
        } else {
            files::remove(&path)?;
        }
        removed.push(path);
    }
    Ok(())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_digit())
}

/// Whether a name is one of a table's file (documentation, "Database File Layout"), a temporary one's too.
fn is_file_of_tables(name: &str) -> bool {
    if OTHERS.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return true;
    }
    let (file, segment) = name.split_once('.').map_or((name, None), |(file, segment)| (file, Some(segment)));
    let file = ["_fsm", "_vm", "_init"].iter().find_map(|fork| file.strip_suffix(fork)).unwrap_or(file);
    let is_table = match file.strip_prefix('t') {
        Some(temporary) => {
            temporary.split_once('_').is_some_and(|(backend, number)| is_number(backend) && is_number(number))
        }
        None => is_number(file),
    };
    // Segments are counted from 1, and a table of a million of them is none.
    is_table
        && segment.is_none_or(|number| is_number(number) && !number.starts_with('0') && number.len() <= 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_tables_are_told_from_others() {
        for name in [
            "1",
            "16384.1",
            "16384_fsm",
            "16384_vm.2",
            "16385_init",
            "t3_16384",
            "t3_16384_fsm.1",
            "PG_VERSION",
            "pg_filenode.map",
            "pg_internal.init",
            "pg_internal.init.77",
            "pg_control",
            "pgsql_tmp",
        ] {
            assert!(is_file_of_tables(name), "{name}");
        }
        for name in
            ["x.map", "core.1234", "1.", "1.0", "1.x", "1_other", "t3", "t_4", "", "1~", "notes", "1.1234567"]
        {
            assert!(!is_file_of_tables(name), "{name}");
        }
    }

    #[test]
    fn stray_files_go_and_are_named_and_tables_stay() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        let own = [
            "pgdata/base/5/1259",
            "pgdata/base/5/PG_VERSION",
            "pgdata/global/pg_control",
            "tablespaces/16390/PG_17_202406281/5/16391",
            "pgdata/pg_wal/kept",
        ];
        let stray = [
            "pgdata/base/5/x.map",
            "pgdata/base/many/1",
            "pgdata/global/core.1234",
            "tablespaces/16390/PG_17_202406281/5/y",
        ];
        own.into_iter().chain(stray).for_each(make);
        run(root.path()).unwrap();
        for path in own {
            assert!(root.path().join(path).exists(), "{path}");
        }
        for path in stray {
            assert!(!root.path().join(path).exists(), "{path}");
        }
        let said = limits("12\npgdata/base/5/x.map\npgdata/global/core.1234\n").unwrap();
        assert_eq!(said[0], "Not checked: pgdata/base/5/x.map, which is not a file of PostgreSQL's.");
        assert_eq!(said[2], "Not checked: 10 more such files.");
        assert_eq!(limits("0\n").unwrap(), Vec::<String>::new());
        assert!(limits("").is_err());
    }
}
