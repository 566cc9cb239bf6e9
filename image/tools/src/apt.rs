//! Fetching one package of the appliance's release with the host's apt, without touching the host's lists,
//! settings or installed packages.
//!
//! Trade-off: apt runs with folders of its own below the cache and a configuration that keeps nothing of the
//! host's but its proxy, so hooks and pins of the host have no say. Signatures are checked as always.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::mirror::{Mirrors, RELEASE};

/// Downloads `package` in the newest version that matches `version` (a glob of apt's) and returns the file.
pub fn download(cache: &Cache, mirrors: &Mirrors, package: &str, version: &str) -> Result<PathBuf> {
    let base = cache.folder("apt")?;
    for folder in ["lists/partial", "archives/partial", "empty.d"] {
        cache.folder(&format!("apt/{folder}"))?;
    }
    let write = |name: &str, text: &str| {
        let path = base.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("status", "")?;
    write("trixie.sources", &mirrors.sources_file(RELEASE))?;
    write("apt.conf", &format!("{}{}", folders(&base), host_proxies()?))?;
    let apt_get = |arguments: &[&str]| run(Command::new("apt-get").args(arguments), &base);
    apt_get(&["--quiet=2", "update"])?;
    apt_get(&["--quiet=2", "download", &format!("{package}={version}")])?;
    newest_deb(&base, package)
}

fn run(command: &mut Command, base: &Path) -> Result<()> {
    let output = command
        .current_dir(base)
        .env("APT_CONFIG", base.join("apt.conf"))
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}

/// Settings that keep apt inside `base`. `Sandbox::User` is root because apt's own user may not enter a home.
fn folders(base: &Path) -> String {
    let base = base.display();
    format!(
        "Dir::Etc::main \"{base}/none\";\n\
         Dir::Etc::parts \"{base}/empty.d\";\n\
         Dir::Etc::preferences \"{base}/none\";\n\
         Dir::Etc::preferencesparts \"{base}/empty.d\";\n\
         Dir::Etc::sourcelist \"{base}/trixie.sources\";\n\
         Dir::Etc::sourceparts \"{base}/empty.d\";\n\
         Dir::State::lists \"{base}/lists\";\n\
         Dir::State::status \"{base}/status\";\n\
         Dir::Cache \"{base}\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Sandbox::User \"root\";\n"
    )
}

/// The host's proxy settings as apt configuration lines.
pub fn host_proxies() -> Result<String> {
    let output = Command::new("apt-config").arg("dump").output().context("cannot run apt-config")?;
    Ok(proxies_of(&String::from_utf8_lossy(&output.stdout)))
}

fn proxies_of(dump: &str) -> String {
    let is_proxy = |line: &&str| {
        line.starts_with("Acquire::") && line.contains("::Proxy") && !line.contains("Auto-Detect")
    };
    dump.lines().filter(is_proxy).map(|line| format!("{line}\n")).collect()
}

fn newest_deb(folder: &Path, package: &str) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    let listing = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found: Vec<PathBuf> = listing
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .collect();
    found.sort();
    found.pop().with_context(|| format!("apt-get left no {package} package in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_are_taken_from_the_host() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://p:3128\";\n\
                    Acquire::http::Proxy-Auto-Detect \"/usr/bin/x\";\nAcquire::AllowInsecureRepositories \"1\";\n";
        assert_eq!(proxies_of(dump), "Acquire::http::Proxy \"http://p:3128\";\n");
    }
}
