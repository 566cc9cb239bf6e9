//! Where the build keeps what a fresh clone should not have to fetch again: the user's cache directory.
//!
//! Trade-off: outside the checkout, so several clones share it; everything in it can be deleted at any time and
//! is made again by the next build.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The project's folder in the user's cache directory.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// An exclusive hold on the cache, ended by dropping it.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

impl Cache {
    /// The cache of the calling user, from `XDG_CACHE_HOME` or `HOME`. Nothing is created yet.
    pub fn locate() -> Result<Self> {
        match cache_root(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            Some(root) => Ok(Self { root }),
            None => bail!("neither XDG_CACHE_HOME nor HOME names an absolute folder: set one of them"),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder in the cache, created when missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot create the cache folder {}", path.display()))?;
        Ok(path)
    }

    /// Waits until no other process prepares the cache, and keeps others out until the lock is dropped.
    pub fn lock(&self) -> Result<CacheLock> {
        let path = self.folder("")?.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(CacheLock { _file: file })
    }
}

/// The XDG base directory rule: a relative or empty `XDG_CACHE_HOME` counts as unset.
fn cache_root(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(xdg)
        .or_else(|| absolute(home).map(|home| home.join(".cache")))
        .map(|base| base.join("infimonitor-backup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_xdg_folder_wins_and_a_relative_one_counts_as_unset() {
        let root =
            |xdg: Option<&str>, home: Option<&str>| cache_root(xdg.map(Into::into), home.map(Into::into));
        let cases = [
            (Some("/x"), Some("/home/u"), Some("/x/infimonitor-backup")),
            (None, Some("/home/u"), Some("/home/u/.cache/infimonitor-backup")),
            (Some(""), Some("/home/u"), Some("/home/u/.cache/infimonitor-backup")),
            (Some("rel"), None, None),
        ];
        for (xdg, home, expected) in cases {
            assert_eq!(root(xdg, home), expected.map(PathBuf::from), "{xdg:?} {home:?}");
        }
    }
}
