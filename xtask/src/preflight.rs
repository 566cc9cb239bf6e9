//! What a host needs for a build, all of it checked before anything starts: every missing thing is reported at
//! once, and installed where that is possible.
//!
//! Trade-off: the list is short because programs come from the tools tree; it holds what makes that tree, and what
//! Rust itself needs to link. Facts about the host are gathered apart from the verdict, which is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tools::scratch;

use crate::paths;

/// Room that a command takes below a folder, at most: what lies there already counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// For what.
    pub what: &'static str,
    /// Where.
    pub folder: PathBuf,
    /// How much, in bytes.
    pub bytes: u64,
}

/// A gigabyte as it is counted here.
const GIB: u64 = 1 << 30;

impl Need {
    /// What a build takes, measured and rounded up: tools trees and packages in the cache, incremental trees, payloads and disks in
    /// the checkout, programs where cargo compiles.
    pub fn of_build(cache: &Path, work: &Path) -> Vec<Self> {
        vec![
            Self { what: "tools and packages", folder: cache.to_owned(), bytes: 2 * GIB },
            Self { what: "the images", folder: work.to_owned(), bytes: 5 * GIB },
            Self { what: "the programs", folder: paths::target(), bytes: 3 * GIB },
        ]
    }

    /// What tests take beside a build: their programs, and their folders, which are removed afterwards.
    pub fn of_tests(with_machines: bool) -> Vec<Self> {
        let mut needs = vec![
            Self { what: "the tests' programs", folder: paths::target(), bytes: 7 * GIB },
            Self { what: "the tests' volumes, three at a time", folder: "/var/tmp".into(), bytes: 9 * GIB },
        ];
        if with_machines {
            let folder = paths::target().join("lab");
            needs.push(Self {
                what: "the disks of virtual machines, two scenarios at a time",
                folder,
                bytes: 9 * GIB,
            });
        }
        needs
    }
}

/// What is needed on one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    free: u64,
    /// What for, where, and how many bytes are still to come.
    needs: Vec<(&'static str, String, u64)>,
}

impl Disk {
    fn needed(&self) -> u64 {
        self.needs.iter().map(|(.., bytes)| bytes).sum()
    }

    /// How much room is needed, of how much, and what for.
    fn told(&self) -> String {
        let parts: Vec<String> = self
            .needs
            .iter()
            .map(|(what, folder, bytes)| format!("{} GB for {what} in {folder}", gigabytes(*bytes)))
            .collect();
        format!(
            "{} GB of {} GB that are free: {}",
            gigabytes(self.needed()),
            gigabytes(self.free),
            parts.join(", ")
        )
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e9)
}

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
    disks: Vec<Disk>,
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
pub fn run(install: bool, needs: &[Need]) -> Result<()> {
    let host = inspect(needs)?;
    for disk in host.disks.iter().filter(|disk| disk.needed() > 0) {
        eprintln!("room: at most {}", disk.told());
    }
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
    let left = judge(&inspect(needs)?);
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
    for disk in host.disks.iter().filter(|disk| disk.needed() > disk.free) {
        verdict.problems.push(format!(
            "there is too little room, it takes {}: make room, or set XDG_CACHE_HOME or CARGO_TARGET_DIR to another disk",
            disk.told()
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

fn inspect(needs: &[Need]) -> Result<Host> {
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
        disks: disks(needs)?,
    })
}

/// The file systems on which room is needed. What lies in the folders is counted only where it matters: that takes seconds.
fn disks(needs: &[Need]) -> Result<Vec<Disk>> {
    let mut disks = BTreeMap::<u64, Vec<&Need>>::new();
    for need in needs {
        let existing = scratch::existing(&need.folder);
        let found =
            std::fs::metadata(existing).with_context(|| format!("cannot see {}", existing.display()))?;
        disks.entry(found.dev()).or_default().push(need);
    }
    let disk = |needs: Vec<&Need>| {
        let free = scratch::free_bytes(&needs[0].folder)?;
        let is_enough = needs.iter().map(|need| need.bytes).sum::<u64>() <= free;
        let there = if is_enough { BTreeMap::new() } else { there(&needs) };
        Ok(Disk { free, needs: still(&needs, there) })
    };
    disks.into_values().map(disk).collect()
}

/// The bytes that are in each folder, once for all that is needed there.
fn there(needs: &[&Need]) -> BTreeMap<PathBuf, u64> {
    let folders: BTreeSet<&PathBuf> = needs.iter().map(|need| &need.folder).collect();
    // The system's own folder holds other things.
    let own = folders.into_iter().filter(|folder| !folder.starts_with("/var/tmp"));
    own.map(|folder| (folder.clone(), bytes_in(folder))).collect()
}

/// What is still to come, when so many bytes are there already.
fn still(needs: &[&Need], mut there: BTreeMap<PathBuf, u64>) -> Vec<(&'static str, String, u64)> {
    let left = |need: &&Need| {
        let has = there.entry(need.folder.clone()).or_default();
        let counted = need.bytes.min(*has);
        *has -= counted;
        (need.what, paths::shown(&need.folder), need.bytes - counted)
    };
    needs.iter().map(left).collect()
}

/// Bytes that a folder takes on its disk, as far as it can be read; links are not followed.
fn bytes_in(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            // Counted in units of 512 bytes, whatever the file system's are (stat(2)).
            bytes += found.blocks() * 512;
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
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
            disks: vec![Disk { free: 10 * GIB, needs: vec![("the images", "/cache".into(), 10 * GIB)] }],
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
            disks: vec![
                Disk { free: 1_500_000_000, needs: vec![("the images", "/cache".into(), 10 * GIB)] },
                Disk { free: 0, needs: vec![("the programs", "/there".into(), 0)] },
            ],
            ..good()
        };
        let text = report(&judge(&host), host.root);
        for part in [
            "glibc 2.42",
            "it takes 10.7 GB of 1.5 GB that are free: 10.7 GB for the images in /cache",
            "run: sudo apt-get install --yes gpgv binutils debian-archive-keyring uidmap",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn what_lies_there_already_counts_once_and_one_disk_has_one_sum() {
        let need = |what, folder: &str, bytes| Need { what, folder: folder.into(), bytes };
        let (a, b, c) = (need("a", "/t", 3), need("b", "/t", 7), need("c", "/c", 5));
        let there = BTreeMap::from([(PathBuf::from("/t"), 4)]);
        let left: Vec<u64> = still(&[&a, &b, &c], there).into_iter().map(|(.., bytes)| bytes).collect();
        assert_eq!(left, [0, 6, 5]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::write(folder.path().join("in/file"), vec![1; 100_000]).unwrap();
        assert!(bytes_in(folder.path()) >= 100_000);
        assert_eq!(bytes_in(&folder.path().join("none")), 0);
        // Folders that are not there yet lie on the disk that will hold them.
        let on_one = [folder.path().join("x/y"), folder.path().join("z")].map(|folder| Need {
            what: "a",
            folder,
            bytes: u64::MAX / 4,
        });
        let disks = disks(&on_one).unwrap();
        assert_eq!((disks.len(), disks[0].needs.len()), (1, 2));
        assert!(disks[0].needed() > disks[0].free);
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
