//! The monitor's configuration files, as the manifest has them, made ready beside the live ones.
//!
//! Their paths come from the monitor, and root writes: only what lies in PostgreSQL's own configuration folder of this machine is
//! taken, by plain names, and what PostgreSQL reads in its data directory, by names known here. Files of the link to the
//! backup server are not among them: `monitor-link setup` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::filter::{self, Aside, Own};

/// The main configuration file.
pub const MAIN_CONF: &str = "postgresql.conf";
/// What ALTER SYSTEM writes.
pub const AUTO_CONF: &str = "postgresql.auto.conf";
/// Configuration that may lie in a data directory.
pub const IN_DATA: [&str; 4] = [MAIN_CONF, "pg_hba.conf", "pg_ident.conf", AUTO_CONF];

/// Which file of the data directory this path of the monitor's is. That of ALTER SYSTEM is always there, wherever that was.
fn name_in_data(path: &Path, data: &Path) -> Option<&'static str> {
    let is_it = |name: &str| path == data.join(name) || (name == AUTO_CONF && path.ends_with(AUTO_CONF));
    IN_DATA.into_iter().find(|name| is_it(name))
}

/// Path and text of a file of [`IN_DATA`] as the monitor sent it last.
fn in_data<'a>(
    configuration: &'a BTreeMap<String, String>,
    data: &Path,
    name: &str,
) -> Option<(&'a str, &'a str)> {
    let mut files = configuration.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    files.find(|(path, _)| name_in_data(Path::new(path), data) == Some(name))
}

/// The files that are taken over, by path below `folder`; the others by path, without those of the data directory.
pub fn sort<'a>(
    configuration: &'a BTreeMap<String, String>,
    folder: &Path,
    data: &Path,
) -> (BTreeMap<PathBuf, &'a str>, Vec<&'a str>) {
    let (mut taken, mut left) = (BTreeMap::new(), Vec::new());
    for (path, text) in configuration {
        let below = Path::new(path).strip_prefix(folder).ok();
        let plain = below.filter(|below| {
            !below.as_os_str().is_empty()
                && below.components().all(|component| matches!(component, Component::Normal(_)))
        });
        match plain {
            Some(below) => drop(taken.insert(below.to_owned(), text.as_str())),
            None if name_in_data(Path::new(path), data).is_some() => {}
            None => left.push(path.as_str()),
        }
    }
    (taken, left)
}

/// What becomes of the monitor's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Files of the configuration folder, by path below it.
    pub files: BTreeMap<PathBuf, String>,
    /// Files of the data directory.
    pub in_data: BTreeMap<&'static str, String>,
    /// What is not applied unasked.
    pub aside: Vec<Aside>,
    /// Files that have no place here.
    pub left: Vec<String>,
}

/// What this machine has, for [`choose`].
pub struct Here<'h> {
    /// PostgreSQL's configuration folder; `None`: it is the data directory.
    pub folder: Option<&'h Path>,
    /// The data directory.
    pub data: &'h Path,
    /// The text of one of its own files, empty where there is none.
    pub own: &'h dyn Fn(&Path) -> Result<String>,
    /// Names of the libraries in PostgreSQL's own folder.
    pub libraries: &'h BTreeSet<String>,
}

/// Chooses what is applied: what is harmless, or all of it where somebody has `accepted` that.
///
/// # Errors
/// The machine's own configuration cannot be read.
pub fn choose(configuration: &BTreeMap<String, String>, here: &Here<'_>, accepted: bool) -> Result<Chosen> {
    let mut chosen = Chosen::default();
    let folder = here.folder.unwrap_or(here.data);
    let (taken, left) = match here.folder {
        Some(folder) => sort(configuration, folder, here.data),
        None => (BTreeMap::new(), Vec::new()),
    };
    chosen.left = left.into_iter().map(str::to_owned).collect();
    let mut judge = |path: &str, file: &Path, name: &Path, text: &str| -> Result<Option<String>> {
        let is_main = name == Path::new(MAIN_CONF);
        if accepted {
            return Ok(Some(text.to_owned()));
        }
        // What ALTER SYSTEM wrote here goes with the old data.
        let own = if name == Path::new(AUTO_CONF) { String::new() } else { (here.own)(file)? };
        let settings = if is_main { own.clone() } else { (here.own)(&folder.join(MAIN_CONF))? + "\n" + &own };
        let own = Own { settings, file: own, libraries: here.libraries.clone() };
        // In a data directory lies what came with the backup.
        let includes = here.folder.filter(|folder| file.starts_with(folder));
        let (text, aside) = filter::judge(path, name, text, includes, &own);
        chosen.aside.extend(aside);
        Ok(text.map(|text| if is_main { filter::merged(&own.file, &text) } else { text }))
    };
    for (name, text) in taken {
        let file = folder.join(&name);
        let Some(text) = judge(&file.to_string_lossy(), &file, &name, text)? else { continue };
        let is_main = name == Path::new(MAIN_CONF);
        let text = if is_main { with_data_directory(&text, here.data) } else { text };
        chosen.files.insert(name, text);
    }
    let mut data_files = BTreeMap::new();
    for name in IN_DATA {
        let file = here.data.join(name);
        let mut text = match in_data(configuration, here.data, name) {
            Some((path, text)) => judge(path, &file, Path::new(name), text)?,
            None => None,
        };
        // What is in the data directory goes with it, so the machine's own has to be put into the restored one.
        if text.is_none() && here.folder.is_none() && name != AUTO_CONF {
            text = Some((here.own)(&file)?).filter(|own| !own.is_empty());
        }
        data_files.extend(text.map(|text| (name, text)));
    }
    chosen.in_data = data_files;
    Ok(chosen)
}

/// A main configuration file that names `data` as data directory: the monitor's may have been elsewhere. What is said last
/// counts (PostgreSQL documentation, "Parameter Interaction via the Configuration File").
pub fn with_data_directory(text: &str, data: &Path) -> String {
    let quoted = data.to_string_lossy().replace('\'', "''");
    let line = format!("data_directory = '{quoted}'");
    let names_one = |line: &&str| {
        let setting = line.trim_start();
        setting.get(.."data_directory".len()).is_some_and(|name| name.eq_ignore_ascii_case("data_directory"))
    };
    match text.lines().rev().find(names_one) {
        Some(last) if last.split('#').next().unwrap_or(last).trim() == line => text.to_owned(),
        _ => format!("{}\n{line} # this machine's\n", text.trim_end_matches('\n')),
    }
}

/// Makes `beside` a copy of the live configuration folder with `files` in it. What stood at `beside` is an attempt that was
/// cut: it goes first.
///
/// # Errors
/// Those of the file system; something that is no file, folder or link is in the folder; a file would come through a
/// link to somewhere else.
pub fn make(live: &Path, beside: &Path, files: &BTreeMap<PathBuf, String>) -> Result<()> {
    files::remove_folder(beside)?;
    copy(live, beside)?;
    let folder = fs::metadata(live).with_context(|| format!("cannot read {}", live.display()))?;
    let folder_owner = (folder.uid(), folder.gid());
    for (name, text) in files {
        let path = beside.join(name);
        let old = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file);
        let owner = old.as_ref().map_or(folder_owner, |old| (old.uid(), old.gid()));
        // Access rules and user maps are nobody else's business; so is what nobody knows.
        let mode = old.as_ref().map_or(0o640, |old| old.mode() & 0o777);
        let mut folder = beside.to_owned();
        for component in name.parent().into_iter().flat_map(Path::components) {
            folder.push(component);
            match fs::symlink_metadata(&folder) {
                Ok(found) if found.is_symlink() => bail!(
                    "{} is a link, and the monitor's {} would be written through it: replace it by a folder",
                    live.join(folder.strip_prefix(beside).unwrap_or(&folder)).display(),
                    name.display()
                ),
                Ok(_) => {}
                Err(_) => files::folder(&folder, 0o755, folder_owner).map(drop)?,
            }
        }
        files::write(&path, text.as_bytes(), mode, Some(owner))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let cannot = || format!("cannot copy {} to {}", from.display(), to.display());
    let metadata = fs::symlink_metadata(from).with_context(cannot)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        fs::create_dir(to).with_context(cannot)?;
        for entry in fs::read_dir(from).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if kind.is_symlink() {
        symlink(fs::read_link(from).with_context(cannot)?, to).with_context(cannot)?;
    } else if kind.is_file() {
        // Whoever owns the folder may have put a link there since.
        let mut source = files::open_no_link(from)?;
        let mut copy = fs::File::create_new(to).with_context(cannot)?;
        std::io::copy(&mut source, &mut copy).with_context(cannot)?;
    } else {
        bail!("{} is no file, folder or link; PostgreSQL has no use for it there", from.display());
    }
    lchown(to, Some(metadata.uid()), Some(metadata.gid())).with_context(cannot)?;
    if !kind.is_symlink() {
        fs::set_permissions(to, metadata.permissions()).with_context(cannot)?;
        fs::File::open(to).and_then(|copy| copy.sync_all()).with_context(cannot)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const FOLDER: &str = "/etc/postgresql/17/main";

    #[test]
    fn only_the_clusters_own_files_are_taken() {
        let paths = [
            "/etc/passwd",
            "/etc/postgresql/17/main",
            "/etc/postgresql/17/main/../../../passwd",
            "/etc/postgresql/17/main/conf.d/tuning.conf",
            "/etc/postgresql/17/main/pg_hba.conf",
            "/etc/postgresql/17/main/postgresql.conf",
            "/etc/postgresql/17/main2/postgresql.conf",
            "etc/postgresql/17/main/relative",
            "/srv/data/pg_hba.conf",
            "/srv/data/other.conf",
            "/srv/other/postgresql.auto.conf",
        ];
        let configuration =
            paths.iter().map(|path| ((*path).to_owned(), format!("text of {path}"))).collect();
        let data = Path::new("/srv/data");
        let (taken, left) = sort(&configuration, Path::new(FOLDER), data);
        let taken: Vec<_> = taken.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(taken, ["conf.d/tuning.conf", "pg_hba.conf", "postgresql.conf"]);
        assert_eq!(left, [paths[0], paths[1], paths[2], paths[6], paths[9], paths[7]]);
        let in_data = |name| in_data(&configuration, data, name).map(|(path, _)| path);
        assert_eq!(in_data("pg_hba.conf"), Some("/srv/data/pg_hba.conf"));
        assert_eq!(in_data(AUTO_CONF), Some("/srv/other/postgresql.auto.conf"));
        assert_eq!(in_data("postgresql.conf"), None);
    }

    #[test]
    fn the_machines_own_and_what_is_harmless_of_the_monitors_is_chosen() {
        let data = Path::new("/data/postgresql/17/main");
        let own = |path: &Path| {
            Ok(match path.to_str().unwrap() {
                "/etc/postgresql/17/main/postgresql.conf" => {
                    "data_directory = '/data/postgresql/17/main'\nhba_file = '/etc/postgresql/17/main/pg_hba.conf'\n\
                     unix_socket_directories = '/run/own'\ninclude_dir = 'conf.d'\n"
                }
                "/etc/postgresql/17/main/pg_hba.conf" => "local all postgres peer\n",
                _ => "",
            }
            .to_owned())
        };
        let libraries = BTreeSet::new();
        let here = Here { folder: Some(Path::new(FOLDER)), data, own: &own, libraries: &libraries };
        let configuration: BTreeMap<String, String> = [
            (
                "postgresql.conf",
                "data_directory = '/lost'\nhba_file = '/etc/postgresql/17/main/pg_hba.conf'\n\
                 unix_socket_directories = '/lost'\nmax_connections = 300\ninclude_dir = 'conf.d'\n",
            ),
            ("conf.d/own.conf", "work_mem = 1\narchive_command = 'x'\n"),
            ("conf.d/hostile.conf", "archive_command = 'x'\n"),
            ("environment", "LD_PRELOAD = '/tmp/x.so'\n"),
            ("pg_hba.conf", "local all postgres peer\nhost all all 0.0.0.0/0 trust\n"),
            ("pg_ident.conf", "m x postgres\n"),
        ]
        .map(|(name, text)| (format!("{FOLDER}/{name}"), text.to_owned()))
        .into_iter()
        .chain([("/lost/postgresql.auto.conf".into(), "work_mem = 2\nrestore_command = 'x'\n".into())])
        .collect();
        let chosen = choose(&configuration, &here, false).unwrap();
        let files: Vec<_> = chosen.files.keys().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(files, ["conf.d/own.conf", "pg_hba.conf", "postgresql.conf"]);
        let main = &chosen.files[Path::new("postgresql.conf")];
        assert!(
            main.starts_with(&own(Path::new("/etc/postgresql/17/main/postgresql.conf")).unwrap()),
            "{main}"
        );
        assert!(main.ends_with("settings.\nmax_connections = '300'\ninclude_dir = 'conf.d'\n"), "{main}");
        assert!(!main.contains("/lost"));
        assert_eq!(chosen.in_data, [(AUTO_CONF, "work_mem = '2'\n".to_owned())].into());
        // The socket's and the data's places, twice the command, the environment, the rule, the map, and the restore's command.
        assert_eq!(chosen.aside.len(), 8, "{:#?}", chosen.aside);
        let all = choose(&configuration, &here, true).unwrap();
        assert_eq!((all.files.len(), all.aside.len()), (6, 0));
        assert_eq!(all.files[Path::new("environment")], "LD_PRELOAD = '/tmp/x.so'\n");
        assert!(all.files[Path::new("postgresql.conf")].contains("= '/lost'"));
    }

    #[test]
    fn the_live_folder_is_copied_and_the_files_are_put_into_the_copy() {
        let root = tempfile::tempdir().unwrap();
        let (live, beside) = (root.path().join("main"), root.path().join("main.restored"));
        fs::create_dir_all(live.join("conf.d")).unwrap();
        fs::write(live.join("postgresql.conf"), "port = 1\n").unwrap();
        fs::write(live.join("infimonitor.key"), "secret").unwrap();
        fs::set_permissions(live.join("infimonitor.key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(live.join("postgresql.conf"), fs::Permissions::from_mode(0o644)).unwrap();
        symlink("/var/log/postgresql", live.join("log")).unwrap();
        let files = [
            ("postgresql.conf", "port = 2\n"),
            ("conf.d/tuning.conf", "work_mem = '8MB'\n"),
            ("more/deep.conf", ""),
        ];
        let files = files.map(|(name, text)| (name.into(), text.to_owned())).into();
        for _ in 0..2 {
            make(&live, &beside, &files).unwrap();
            let read = |name: &str| fs::read_to_string(beside.join(name)).unwrap();
            let mode = |name: &str| fs::metadata(beside.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!((read("postgresql.conf").as_str(), mode("postgresql.conf")), ("port = 2\n", 0o644));
            assert_eq!(
                (read("conf.d/tuning.conf").as_str(), mode("conf.d/tuning.conf")),
                ("work_mem = '8MB'\n", 0o640)
            );
            assert_eq!((read("infimonitor.key").as_str(), mode("infimonitor.key")), ("secret", 0o600));
            assert_eq!(read("more/deep.conf"), "");
            assert_eq!(fs::read_link(beside.join("log")).unwrap(), Path::new("/var/log/postgresql"));
            assert_eq!(fs::read_to_string(live.join("postgresql.conf")).unwrap(), "port = 1\n");
        }
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (live, beside) = (root.path().join("main"), root.path().join("main.restored"));
        fs::create_dir_all(&live).unwrap();
        fs::create_dir(root.path().join("elsewhere")).unwrap();
        symlink(root.path().join("elsewhere"), live.join("conf.d")).unwrap();
        let error = make(&live, &beside, &[("conf.d/x.conf".into(), String::new())].into()).unwrap_err();
        assert!(error.to_string().contains("main/conf.d is a link"), "{error}");
        assert_eq!(fs::read_dir(root.path().join("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn the_data_directory_is_this_machines() {
        let line = "data_directory = '/srv/it''s'";
        let added = format!("{line} # this machine's\n");
        for (text, expected) in [
            ("port = 1\n", format!("port = 1\n{added}")),
            ("data_directory = '/other'\n", format!("data_directory = '/other'\n{added}")),
            ("Data_Directory '/other'", format!("Data_Directory '/other'\n{added}")),
            ("# data_directory = '/srv/it''s'", format!("# data_directory = '/srv/it''s'\n{added}")),
        ] {
            assert_eq!(with_data_directory(text, Path::new("/srv/it's")), expected);
        }
        let right = format!("a = 1\ndata_directory = '/x'\n {line}\t# here\nb = 2\n");
        assert_eq!(with_data_directory(&right, Path::new("/srv/it's")), right);
    }
}
