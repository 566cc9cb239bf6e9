//! mkosi, run straight from Debian's package: it is plain Python and needs no installation.
//!
//! Trade-off: pinned to one upstream version, because releases differ in mirror, tools tree and split output
//! semantics; 25.3 is trixie's own and stays on the mirrors as long as trixie does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::cache::{Cache, CacheLock};
use crate::mirror::Mirrors;
use crate::tree::Tree;

/// Upstream version of mkosi; Debian's revision is whatever trixie carries.
pub const MKOSI_VERSION: &str = "25.3";

/// An unpacked mkosi with what its calls have in common.
#[derive(Debug, Clone)]
pub struct Mkosi {
    cache: Cache,
    modules: PathBuf,
}

impl Mkosi {
    /// Fetches and unpacks mkosi when it is not in the cache, and renews the sandbox tree, which tells it the
    /// mirrors.
    pub fn prepare(cache: &Cache, mirrors: &Mirrors) -> Result<Self> {
        let lock = cache.lock()?;
        let mkosi = Self::at(cache);
        if !mkosi.helper().is_file() {
            mkosi.unpack(mirrors, &lock)?;
        }
        for release in BTreeSet::from(Tree::ALL.map(|tree| tree.release)) {
            mkosi.write_sandbox_tree(mirrors, release)?;
        }
        Ok(mkosi)
    }

    /// Where mkosi is, or will be, in the cache.
    pub(crate) fn at(cache: &Cache) -> Self {
        let root = cache.root().join(format!("mkosi-{MKOSI_VERSION}"));
        Self { cache: cache.clone(), modules: root.join("usr/lib/python3/dist-packages") }
    }

    /// mkosi's small sandbox program, usable on its own.
    pub(crate) fn helper(&self) -> PathBuf {
        self.modules.join("mkosi/sandbox.py")
    }

    /// A call of mkosi with the shared caches and mirrors set; the caller adds folder, output and verb.
    ///
    /// `image` names the incremental cache: mkosi keeps one tree a folder and throws it away when another image
    /// with other packages comes along. `release` is the image's Debian release; each has package lists of its own.
    pub fn command(&self, image: &str, release: &str) -> Result<Command> {
        let mut command = Command::new("python3");
        command
            .args(["-B", "-m", "mkosi"])
            .env("PYTHONPATH", &self.modules)
            .arg(flag("sandbox-tree", &self.sandbox_tree(release)))
            .arg(flag("package-cache-directory", &self.cache.folder(&format!("packages/{release}"))?))
            .arg(flag("workspace-directory", &self.cache.folder("workspace")?))
            .arg(flag("cache-directory", &self.cache.folder(&format!("incremental/{image}"))?));
        Ok(command)
    }

    /// Unpacks beside the final place first: an interrupted call leaves no half mkosi behind.
    fn unpack(&self, mirrors: &Mirrors, _lock: &CacheLock) -> Result<()> {
        let package = apt::download(&self.cache, mirrors, "mkosi", &format!("{MKOSI_VERSION}*"))?;
        let partial = self.cache.root().join(format!("mkosi-{MKOSI_VERSION}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        let status = Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &partial])
            .status()
            .context("cannot run dpkg-deb")?;
        if !status.success() {
            bail!("dpkg-deb could not unpack {} ({status})", package.display());
        }
        let place = self.cache.root().join(format!("mkosi-{MKOSI_VERSION}"));
        fs::rename(&partial, &place).with_context(|| format!("cannot move mkosi to {}", place.display()))
    }

    fn sandbox_tree(&self, release: &str) -> PathBuf {
        self.cache.root().join("sandbox-trees").join(release)
    }

    /// The sandbox tree's sources replace mkosi's own list, which always has a debug archive that few mirrors
    /// carry.
    fn write_sandbox_tree(&self, mirrors: &Mirrors, release: &str) -> Result<()> {
        let proxies = apt::host_proxies()?;
        let files = [
            ("etc/apt/sources.list.d/mkosi.sources", mirrors.sources_file(release)),
            ("etc/apt/apt.conf.d/50proxy", proxies),
        ];
        for (name, text) in files {
            write_if_changed(&self.sandbox_tree(release).join(name), &text)?;
        }
        Ok(())
    }
}

fn flag(name: &str, value: &Path) -> String {
    format!("--{name}={}", value.display())
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
