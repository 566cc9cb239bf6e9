//! What a restore takes of a backup: one rule, so that a verification proves what a restore does.
//!
//! SQL of the replicated database runs in the replica too (views and policies that every query meets), and writes files
//! there: `COPY … TO`, `lo_export`, tablespaces. A file that it leaves must not spoil a restore, nor make it start in
//! another way than the verification did. So both leave out what no cluster needs.

use std::path::{Component, Path};

/// The folders of a backup: the data directory and the tablespaces.
pub const FOLDERS: [&str; 2] = ["pgdata", "tablespaces"];

/// Files directly in the data directory that say how a server is started, or that one runs. Each start has its own.
pub const OF_A_START: [&str; 9] = [
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
    "recovery.signal",
    "standby.signal",
    "promote",
    "postmaster.pid",
    "postmaster.opts",
];

/// What an entry of a backup's tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link to this.
    Link(&'a Path),
    /// Anything else, such as a socket.
    Other,
}

/// What a restore makes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is unpacked.
    Taken,
    /// The link of the tablespace with this OID: it is made anew, to where the tablespace is then.
    Tablespace(u32),
    /// It belongs to no cluster, or to one start of it.
    LeftOut,
    /// The tablespace with this OID lies where the server has seen a folder of its own, outside of the backup: what is in
    /// it is in no backup.
    Outside(u32),
}

/// What a restore makes of the entry at `path` below the backup's folder.
pub fn fate(path: &Path, kind: Kind<'_>) -> Fate {
    let mut names = path.components();
    let Some(Component::Normal(folder)) = names.next() else { return Fate::LeftOut };
    if !FOLDERS.iter().any(|name| folder == *name) || path.components().any(is_no_name) {
        return Fate::LeftOut;
    }
    let rest = names.as_path();
    let in_pgdata = folder == FOLDERS[0];
    // What is below a folder of such a name goes with it.
    if in_pgdata && OF_A_START.iter().any(|name| rest.starts_with(name)) {
        return Fate::LeftOut;
    }
    match kind {
        Kind::Folder => Fate::Taken,
        // The two folders themselves are folders.
        Kind::File if !rest.as_os_str().is_empty() => Fate::Taken,
        Kind::Link(target) if in_pgdata => tablespace(rest, target),
        Kind::File | Kind::Link(_) | Kind::Other => Fate::LeftOut,
    }
}

fn is_no_name(component: Component<'_>) -> bool {
    !matches!(component, Component::Normal(_))
}

/// What a link in the data directory is. PostgreSQL follows those in `pg_tblspc` alone, which are named by OIDs.
fn tablespace(path: &Path, target: &Path) -> Fate {
    let name = path.strip_prefix("pg_tblspc").ok().and_then(Path::to_str);
    let Some((name, oid)) = name.and_then(|name| Some((name, name.parse::<u32>().ok()?))) else {
        return Fate::LeftOut;
    };
    if name != oid.to_string() {
        return Fate::LeftOut;
    }
    let place = Path::new(replica::TABLESPACES).join(name);
    if target == place { Fate::Tablespace(oid) } else { Fate::Outside(oid) }
}

/// What is wrong with a cluster that has a tablespace outside, as a sentence without full stop.
pub fn outside(oid: u32) -> String {
    format!(
        "tablespace {oid} lies outside of the replica, so what is in it is in no backup; a full copy is needed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_takes_what_a_cluster_needs_and_nothing_else() {
        let ours = Path::new("/srv/cluster/tablespaces/16400");
        let table = [
            ("pgdata", Kind::Folder, Fate::Taken),
            ("pgdata/base/1/2619", Kind::File, Fate::Taken),
            ("pgdata/base/5/recovery.signal", Kind::File, Fate::Taken),
            ("pgdata/backup_label", Kind::File, Fate::Taken),
            ("pgdata/recovery.signal", Kind::File, Fate::LeftOut),
            ("pgdata/recovery.signal", Kind::Folder, Fate::LeftOut),
            ("pgdata/recovery.signal/x", Kind::File, Fate::LeftOut),
            ("pgdata/promoted", Kind::File, Fate::Taken),
            ("pgdata/postgresql.auto.conf", Kind::File, Fate::LeftOut),
            ("pgdata/pg_tblspc/16400", Kind::Link(ours), Fate::Tablespace(16_400)),
            ("pgdata/pg_tblspc/016400", Kind::Link(ours), Fate::LeftOut),
            ("pgdata/pg_tblspc/+1", Kind::Link(ours), Fate::LeftOut),
            ("pgdata/pg_tblspc/16401", Kind::Link(ours), Fate::Outside(16_401)),
            ("pgdata/pg_tblspc/7", Kind::Link(Path::new("/proc/self/cwd/base")), Fate::Outside(7)),
            // In place (allow_in_place_tablespaces).
            ("pgdata/pg_tblspc/8", Kind::Folder, Fate::Taken),
            ("pgdata/base", Kind::Link(Path::new("/srv/cluster/other")), Fate::LeftOut),
            ("pgdata/base/x", Kind::Other, Fate::LeftOut),
            ("pgdata", Kind::Link(Path::new("/")), Fate::LeftOut),
            ("pgdata", Kind::File, Fate::LeftOut),
            ("tablespaces/16400/PG_17_202406281/5/1", Kind::File, Fate::Taken),
            ("tablespaces/16400", Kind::Link(ours), Fate::LeftOut),
            ("x", Kind::File, Fate::LeftOut),
            ("socket", Kind::Folder, Fate::LeftOut),
            ("", Kind::Folder, Fate::LeftOut),
            ("../pgdata/x", Kind::File, Fate::LeftOut),
            ("pgdata/../x", Kind::File, Fate::LeftOut),
            ("/pgdata/x", Kind::File, Fate::LeftOut),
        ];
        for (path, kind, expected) in table {
            assert_eq!(fate(Path::new(path), kind), expected, "{path} {kind:?}");
        }
    }
}
