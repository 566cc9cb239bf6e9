//! The tools tree and how its programs are run.
//!
//! Trade-off: a program sees the tree's `/usr` in place of the host's and all else of the host (checkout, `/tmp`,
//! `/dev`, home), by mkosi's small sandbox helper. It costs about 50 ms a call, and no process stands between:
//! the child's process id is the program's own, so a kill reaches the virtual machine and not a wrapper.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::mkosi::Mkosi;
use crate::tree::Tree;

/// Top-level folders and links that come from the tree instead of the host.
const FROM_TREE: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib32", "lib64"];

/// The programs of the tools tree, ready to be run.
#[derive(Debug, Clone)]
pub struct Toolbox {
    tree: Tree,
    folder: PathBuf,
    helper: PathBuf,
}

impl Toolbox {
    /// The tools tree of this source version, which an earlier build made.
    pub fn open() -> Result<Self> {
        Self::open_tree(Tree::TOOLS)
    }

    /// `tree` of this source version, which an earlier build or test made.
    pub fn open_tree(tree: Tree) -> Result<Self> {
        let cache = Cache::locate()?;
        let toolbox = Self::at(&cache, tree);
        if !toolbox.exists() {
            bail!("the tree {} is missing: run `{}` once", toolbox.folder.display(), tree.made_by);
        }
        Ok(toolbox)
    }

    /// Makes `tree` when it is missing; mkosi's output goes to `log`.
    pub fn prepare(cache: &Cache, mkosi: &Mkosi, tree: Tree, log: fs::File) -> Result<Self> {
        let toolbox = Self::at(cache, tree);
        let _lock = cache.lock()?;
        if toolbox.exists() {
            return Ok(toolbox);
        }
        let name = tree.name();
        let partial = format!("{name}.partial");
        let configuration = cache.folder(&format!("{name}.conf"))?;
        fs::write(configuration.join("mkosi.conf"), tree.configuration).with_context(|| {
            format!("cannot write the tree's configuration to {}", configuration.display())
        })?;
        let mut command = mkosi.command(tree.label(), tree.release)?;
        command
            .arg(format!("--directory={}", configuration.display()))
            .arg(format!("--output-directory={}", cache.root().display()))
            .arg(format!("--output={partial}"))
            .args(["--force", "build"])
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log);
        let status = command.status().context("cannot run mkosi")?;
        if !status.success() {
            bail!("mkosi could not make the tree {name} ({status})");
        }
        let root = cache.root();
        fs::rename(root.join(format!("{partial}.manifest")), root.join(format!("{name}.manifest")))
            .with_context(|| format!("cannot keep the package list of {name}"))?;
        fs::rename(root.join(&partial), &toolbox.folder)
            .with_context(|| format!("cannot move the tree to {}", toolbox.folder.display()))?;
        Ok(toolbox)
    }

    fn at(cache: &Cache, tree: Tree) -> Self {
        Self { tree, folder: cache.root().join(tree.name()), helper: Mkosi::at(cache).helper() }
    }

    /// Whether tree and helper are there.
    pub fn exists(&self) -> bool {
        self.folder.join("usr").is_dir() && self.helper.is_file()
    }

    /// The tree's folder, for mkosi's `--tools-tree`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A name that changes whenever the tree's content description does.
    pub fn identity(&self) -> String {
        self.tree.name()
    }

    /// The host's path of a data file in the tree, such as `/usr/share/OVMF/OVMF_CODE_4M.fd`.
    ///
    /// Needed by programs outside the sandbox only: inside, the file is at its own path.
    pub fn path_of(&self, in_tree: &str) -> PathBuf {
        self.folder.join(in_tree.trim_start_matches('/'))
    }

    /// A command that runs `program` (a name on the tree's PATH, or an absolute path) from the tree.
    ///
    /// Arguments, environment, streams and working folder are the caller's to set, as with any command; the
    /// working folder is kept because the sandbox changes to where it was started.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("python3");
        command.args(["-SI"]).arg(&self.helper).args(self.sandbox_arguments()).arg("--").arg(program);
        command
    }

    /// The path in the tree of one of PostgreSQL's programs, which are not all on Debian's PATH.
    pub fn postgresql(&self, program: &str) -> String {
        match self.tree.postgresql_folder() {
            Some(folder) => format!("{folder}/{program}"),
            None => program.to_owned(),
        }
    }

    fn sandbox_arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["--ro-bind", &text(&self.folder.join("usr")), "/usr"]);
        for name in FROM_TREE.iter().filter(|name| **name != "usr") {
            if let Ok(target) = fs::read_link(self.folder.join(name)) {
                add(&["--symlink", &text(&target), &format!("/{name}")]);
            }
        }
        // These two belong to /usr. A missing one is not created: that would change the host's /etc.
        for name in ["/etc/alternatives", "/etc/ld.so.cache"] {
            if Path::new(name).exists() && self.path_of(name).exists() {
                add(&["--ro-bind", &text(&self.path_of(name)), name]);
            }
        }
        for entry in host_top_level() {
            match &entry {
                TopLevel::Proc => add(&["--proc", "/proc"]),
                TopLevel::Link { place, target } => add(&["--symlink", &text(target), &text(place)]),
                TopLevel::Bound(place) => add(&["--bind", &text(place), &text(place)]),
            }
        }
        let folders =
            self.tree.postgresql_folder().into_iter().chain(["/usr/bin".into(), "/usr/sbin".into()]);
        add(&["--setenv", "PATH", &folders.collect::<Vec<_>>().join(":"), "--same-dir"]);
        arguments
    }
}

enum TopLevel {
    Proc,
    Link { place: PathBuf, target: PathBuf },
    Bound(PathBuf),
}

/// What stands in the host's root folder and is not replaced by the tree.
fn host_top_level() -> Vec<TopLevel> {
    let Ok(listing) = fs::read_dir("/") else { return Vec::new() };
    let mut places: Vec<PathBuf> = listing.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    places.sort();
    places.into_iter().filter_map(top_level).collect()
}

fn top_level(place: PathBuf) -> Option<TopLevel> {
    let name = place.file_name()?.to_str()?;
    if FROM_TREE.contains(&name) {
        return None;
    }
    if name == "proc" {
        return Some(TopLevel::Proc);
    }
    let kind = fs::symlink_metadata(&place).ok()?.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(&place).ok()?;
        return Some(TopLevel::Link { place, target });
    }
    let bindable = !kind.is_socket() && !kind.is_fifo();
    bindable.then_some(TopLevel::Bound(place))
}
