//! What a host needs for a build, all of it checked before anything starts: every missing thing is reported at
//! once, and installed where that is possible.
//!
//! Trade-off: the list is short because programs come from the tools tree; it holds what makes that tree, and what
//! Rust itself needs to link. Facts about the host are gathered apart from the verdict, which is pure.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Free space that a first build takes, in bytes: tools tree 0.8 GB, packages 0.4, incremental trees 1.2,
/// programs 3, payloads and disk 1.5; rounded up.
const NEEDED_FREE_BYTES: u64 = 10 << 30;

/// glibc of the appliance's release, trixie. Programs linked against a newer one would not start there.
const APPLIANCE_GLIBC: (u32, u32) = (2, 41);

/// Programs that must be on the host, and the package that has them.
const PROGRAMS: [(&str, &str); 9] = [
    ("python3", "python3"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("gpgv", "gpgv"),
    ("tar", "tar"),
    ("setpriv", "util-linux"),
    ("cc", "gcc"),
    ("strip", "binutils"),
    ("git", "git"),
];

/// What is known about the host.
#[derive(Debug, Clone)]
struct Host {
    missing_programs: Vec<&'static str>,
    keyring: bool,
    root: bool,
    sudo: bool,
    subordinate_ids: bool,
    glibc: Option<(u32, u32)>,
    free: Vec<(String, u64)>,
}

/// The verdict: packages to install, and what no package mends.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    packages: Vec<&'static str>,
    problems: Vec<String>,
}

/// The host cannot build.
#[derive(Debug)]
pub struct Unfit(String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// Checks the host; installs what is missing unless `install` is false.
///
/// # Errors
/// One error that lists everything that is missing, with the command that mends it.
pub fn run(install: bool, folders: &[&Path]) -> Result<()> {
    let host = inspect(folders)?;
    let verdict = judge(&host);
    if verdict == Verdict::default() {
        return Ok(());
    }
    let command = install_command(&host, &verdict.packages);
    if !verdict.problems.is_empty() || !install || command.is_none() {
        return Err(Unfit(report(&verdict, host.root)).into());
    }
    let Some((program, arguments)) = command else { return Ok(()) };
    eprintln!("installing what the build needs: {program} {}", arguments.join(" "));
    let status =
        Command::new(program).args(&arguments).status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        return Err(Unfit(report(&verdict, host.root)).into());
    }
    let left = judge(&inspect(folders)?);
    if left != Verdict::default() {
        return Err(Unfit(report(&left, host.root)).into());
    }
    Ok(())
}

fn judge(host: &Host) -> Verdict {
    let mut verdict = Verdict::default();
    for (program, package) in PROGRAMS {
        if host.missing_programs.contains(&program) {
            verdict.packages.push(package);
        }
    }
    if !host.keyring {
        verdict.packages.push("debian-archive-keyring");
    }
    if !host.root && !host.subordinate_ids {
        verdict.packages.push("uidmap");
    }
    if let Some((major, minor)) = host.glibc.filter(|version| *version > APPLIANCE_GLIBC) {
        verdict.problems.push(format!(
            "glibc {major}.{minor} of this host is newer than the appliance's {}.{}: programs built here would not \
             start there; build on Debian 13 or older",
            APPLIANCE_GLIBC.0, APPLIANCE_GLIBC.1
        ));
    }
    for (folder, free) in host.free.iter().filter(|(_, free)| *free < NEEDED_FREE_BYTES) {
        verdict.problems.push(format!(
            "{folder} has {:.1} GB free, a build needs {:.0} GB: make room, or set XDG_CACHE_HOME to another disk",
            *free as f64 / 1e9,
            NEEDED_FREE_BYTES as f64 / 1e9
        ));
    }
    verdict
}

fn report(verdict: &Verdict, root: bool) -> String {
    let mut text = String::from("this host cannot build yet:\n");
    for problem in &verdict.problems {
        text.push_str(&format!("  - {problem}\n"));
    }
    if !verdict.packages.is_empty() {
        let sudo = if root { "" } else { "sudo " };
        let packages = verdict.packages.join(" ");
        text.push_str(&format!("  - packages are missing; run: {sudo}apt-get install --yes {packages}\n"));
    }
    text.trim_end().to_owned()
}

fn install_command(host: &Host, packages: &[&'static str]) -> Option<(&'static str, Vec<&'static str>)> {
    if packages.is_empty() || host.missing_programs.contains(&"apt-get") {
        return None;
    }
    let mut arguments = vec!["install", "--yes"];
    arguments.extend(packages);
    match (host.root, host.sudo) {
        (true, _) => Some(("apt-get", arguments)),
        (false, true) => {
            arguments.insert(0, "apt-get");
            Some(("sudo", arguments))
        }
        (false, false) => None,
    }
}

fn inspect(folders: &[&Path]) -> Result<Host> {
    let mut free = Vec::new();
    for folder in folders {
        free.push((folder.display().to_string(), free_bytes(folder)?));
    }
    Ok(Host {
        missing_programs: PROGRAMS
            .iter()
            .map(|(program, _)| *program)
            .filter(|program| !on_path(program))
            .collect(),
        keyring: Path::new(tools::mirror::KEYRING).is_file(),
        root: rustix::process::geteuid().is_root(),
        sudo: on_path("sudo"),
        subordinate_ids: on_path("newuidmap"),
        glibc: host_glibc(),
        free,
    })
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Space for an unprivileged user on the file system that will hold `folder`, which need not exist yet.
fn free_bytes(folder: &Path) -> Result<u64> {
    let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let space = rustix::fs::statvfs(existing)
        .with_context(|| format!("cannot see how much space {} has", existing.display()))?;
    Ok(space.f_bavail * space.f_frsize)
}

fn host_glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    parse_glibc(&String::from_utf8_lossy(&output.stdout))
}

fn parse_glibc(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Host {
        Host {
            missing_programs: vec![],
            keyring: true,
            root: true,
            sudo: false,
            subordinate_ids: false,
            glibc: Some((2, 36)),
            free: vec![("/cache".into(), NEEDED_FREE_BYTES)],
        }
    }

    #[test]
    fn a_good_host_has_nothing_to_mend() {
        assert_eq!(judge(&good()), Verdict::default());
    }

    #[test]
    fn everything_missing_is_reported_at_once_with_one_command() {
        let host = Host {
            missing_programs: vec!["gpgv", "strip"],
            keyring: false,
            root: false,
            glibc: Some((2, 42)),
            free: vec![("/cache".into(), 1_500_000_000)],
            ..good()
        };
        let text = report(&judge(&host), host.root);
        for part in [
            "glibc 2.42",
            "/cache has 1.5 GB free",
            "run: sudo apt-get install --yes gpgv binutils debian-archive-keyring uidmap",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn packages_are_installed_as_root_or_by_sudo_or_not_at_all() {
        let cases = [
            (true, false, Some(("apt-get", vec!["install", "--yes", "gpgv"]))),
            (false, true, Some(("sudo", vec!["apt-get", "install", "--yes", "gpgv"]))),
            (false, false, None),
        ];
        for (root, sudo, expected) in cases {
            assert_eq!(install_command(&Host { root, sudo, ..good() }, &["gpgv"]), expected);
        }
    }

    #[test]
    fn the_glibc_version_is_read_from_getconf() {
        let cases =
            [("glibc 2.36\n", Some((2, 36))), ("glibc 2.41.9000", Some((2, 41))), ("musl", None), ("", None)];
        for (text, expected) in cases {
            assert_eq!(parse_glibc(text), expected, "{text}");
        }
    }
}
