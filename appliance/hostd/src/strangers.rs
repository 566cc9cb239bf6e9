//! `hostd set-aside`: removes from the clone of a backup what is not PostgreSQL's in the folders of its tables.
//!
//! `pg_checksums` reads every file there as a table's, whatever its name: at a core dump or an editor's backup it gives up, or calls
//! its pages bad. One stray file must not decide for all tables; the result names what was not checked. Runs in the clone's namespace as
//! the clone's user, when its server has ended.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Names that are told.
const NAMED: usize = 10;

/// Files that PostgreSQL has beside those of tables.
const OTHERS: [&str; 5] = ["PG_VERSION", "pg_control", "pg_filenode.map", "pg_internal.init", "pgsql_tmp"];

/// Removes strangers below `root` and prints how many, and the names of the first ones, a line each.
pub fn run(root: &Path) -> Result<()> {
    let mut removed = Vec::new();
    let pgdata = root.join("pgdata");
    remove_strangers(&pgdata.join("global"), is_file_of_tables, &mut removed)?;
    let mut places = vec![pgdata.join("base")];
    for tablespace in entries(&root.join("tablespaces"))? {
        // A folder for each major that has used it.
        places.extend(entries(&tablespace)?);
    }
    for place in places {
        remove_strangers(&place, |name| is_number(name) || name == "pgsql_tmp", &mut removed)?;
        for database in entries(&place)? {
            remove_strangers(&database, is_file_of_tables, &mut removed)?;
        }
    }
    println!("{}", removed.len());
    for path in removed.iter().take(NAMED) {
        println!("{}", path.strip_prefix(root).unwrap_or(path).display().to_string().escape_debug());
    }
    Ok(())
}

/// What is said of what was removed, as sentences, from what [`run`] has printed.
pub fn limits(printed: &str) -> Vec<String> {
    let mut lines = printed.lines();
    let count: usize = lines.next().and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    let named: Vec<&str> = lines.take(NAMED).collect();
    let more = count.saturating_sub(named.len());
    let mut said: Vec<String> = named
        .iter()
        .map(|name| format!("Not checked: {name}, which is not a file of PostgreSQL's."))
        .collect();
    if more > 0 {
        said.push(format!("Not checked: {more} more such files."));
    }
    said
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

fn remove_strangers(folder: &Path, is_own: impl Fn(&str) -> bool, removed: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        let is_known = path.file_name().and_then(|name| name.to_str()).is_some_and(&is_own);
        if is_known {
            continue;
        }
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
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
    if OTHERS
        .iter()
        .any(|own| name == *own || name.strip_prefix(own).is_some_and(|rest| rest.starts_with('.')))
    {
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
    fn strangers_go_and_are_named_and_tables_stay() {
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
        let strangers = [
            "pgdata/base/5/x.map",
            "pgdata/base/many/1",
            "pgdata/global/core.1234",
            "tablespaces/16390/PG_17_202406281/5/y",
        ];
        own.into_iter().chain(strangers).for_each(make);
        run(root.path()).unwrap();
        for path in own {
            assert!(root.path().join(path).exists(), "{path}");
        }
        for path in strangers {
            assert!(!root.path().join(path).exists(), "{path}");
        }
        let said = limits("12\npgdata/base/5/x.map\npgdata/global/core.1234\n");
        assert_eq!(said[0], "Not checked: pgdata/base/5/x.map, which is not a file of PostgreSQL's.");
        assert_eq!(said[2], "Not checked: 10 more such files.");
        assert_eq!(limits("0\n"), Vec::<String>::new());
    }
}
