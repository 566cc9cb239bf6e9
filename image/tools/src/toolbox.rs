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
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::mkosi::{MKOSI_VERSION, Mkosi};

/// The tree's description; its hash names the tree, so a changed list makes a new one.
const TREE_CONFIGURATION: &str = include_str!("../tree/mkosi.conf");

/// Top-level folders and links that come from the tree instead of the host.
const FROM_TREE: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib32", "lib64"];

/// The programs of the tools tree, ready to be run.
#[derive(Debug, Clone)]
pub struct Toolbox {
    tree: PathBuf,
    helper: PathBuf,
}

impl Toolbox {
    /// The tree of this source version, which an earlier build made.
    pub fn open() -> Result<Self> {
        let cache = Cache::locate()?;
        let toolbox = Self::at(&cache);
        if !toolbox.exists() {
            bail!(
                "the tools tree {} is missing: run `cargo xtask build --tools-only` (or a whole `cargo xtask \
                 build`) once",
                toolbox.tree.display()
            );
        }
        Ok(toolbox)
    }

    /// Makes the tree when it is missing; mkosi's output goes to `log`.
    pub fn prepare(cache: &Cache, mkosi: &Mkosi, log: fs::File) -> Result<Self> {
        let toolbox = Self::at(cache);
        let _lock = cache.lock()?;
        if toolbox.exists() {
            return Ok(toolbox);
        }
        let name = tree_name();
        let partial = format!("{name}.partial");
        let configuration = cache.folder(&format!("{name}.conf"))?;
        fs::write(configuration.join("mkosi.conf"), TREE_CONFIGURATION).with_context(|| {
            format!("cannot write the tree's configuration to {}", configuration.display())
        })?;
        let mut command = mkosi.command("tools")?;
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
            bail!("mkosi could not make the tools tree ({status})");
        }
        let root = cache.root();
        fs::rename(root.join(format!("{partial}.manifest")), root.join(format!("{name}.manifest")))
            .context("cannot keep the tools tree's package list")?;
        fs::rename(root.join(&partial), &toolbox.tree)
            .with_context(|| format!("cannot move the tools tree to {}", toolbox.tree.display()))?;
        Ok(toolbox)
    }

    fn at(cache: &Cache) -> Self {
        Self { tree: cache.root().join(tree_name()), helper: Mkosi::at(cache).helper() }
    }

    /// Whether tree and helper are there.
    pub fn exists(&self) -> bool {
        self.tree.join("usr").is_dir() && self.helper.is_file()
    }

    /// The tree's folder, for mkosi's `--tools-tree`.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// A name that changes whenever the tree's content description does.
    pub fn identity() -> String {
        tree_name()
    }

    /// The host's path of a data file in the tree, such as `/usr/share/OVMF/OVMF_CODE_4M.fd`.
    ///
    /// Needed by programs outside the sandbox only: inside, the file is at its own path.
    pub fn path_of(&self, in_tree: &str) -> PathBuf {
        self.tree.join(in_tree.trim_start_matches('/'))
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

    fn sandbox_arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["--ro-bind", &text(&self.tree.join("usr")), "/usr"]);
        for name in FROM_TREE.iter().filter(|name| **name != "usr") {
            if let Ok(target) = fs::read_link(self.tree.join(name)) {
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
        add(&["--setenv", "PATH", "/usr/lib/postgresql/17/bin:/usr/bin:/usr/sbin", "--same-dir"]);
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

fn tree_name() -> String {
    let digest = Sha256::digest(format!("{MKOSI_VERSION}\n{TREE_CONFIGURATION}"));
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("tools-{hex}")
}
