//! The appliance's programs: compiled by cargo, stripped, and laid out as in the image.
//!
//! cargo decides by itself what must be compiled, so this job always runs; what depends on it does only when a
//! program changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Profile;
use crate::jobs::{Job, Room, names};
use crate::{cargo, paths};

/// Each program (package and file name) and its folder in the image.
const PROGRAMS: [(&str, &str); 8] = [
    ("firstboot", "usr/lib/infimonitor"),
    ("hostd", "usr/lib/infimonitor"),
    ("backupd", "usr/lib/infimonitor"),
    ("ftpd", "usr/lib/infimonitor"),
    ("monitor-link", "usr/bin"),
    ("installer", "usr/lib/infimonitor"),
    ("recovery", "usr/lib/infimonitor"),
    ("slots", "usr/lib/infimonitor"),
];

/// Where the finished tree of programs lies.
pub fn tree(work: &Path) -> PathBuf {
    work.join("programs")
}

/// The program that the initrd runs, in the tree.
pub fn firstboot(work: &Path) -> PathBuf {
    tree(work).join("usr/lib/infimonitor/firstboot")
}

/// Compiles and lays out all programs.
pub fn job<'a>(profile: Profile, work: &Path) -> Job<'a> {
    Job {
        name: "programs".into(),
        needs: names(&[]),
        inputs: vec![],
        outputs: vec![("tree", tree(work))],
        always: true,
        hash_outputs: true,
        action: Box::new(move |room| make(room, profile)),
    }
}

/// Compiles all programs before there are jobs, as the tools tree is made meanwhile; the job then finds them done.
///
/// # Errors
/// A program does not compile; the end of the log is in the error.
pub fn compile(profile: Profile, work: &Path) -> Result<()> {
    Room::alone(&work.join("logs/compile.log"), "compile", |room| room.run(&mut compiler(profile)))
}

/// Those of the image alone for a release. For dev all that the workspace has: they are compiled once for image and tests, with
/// one set of features.
fn compiler(profile: Profile) -> Command {
    let mut cargo = cargo::command();
    cargo.current_dir(paths::root()).args(["build", "--locked", "--profile", profile.name()]);
    match profile {
        Profile::Dev => {
            cargo.args(["--workspace", "--bins"]);
        }
        Profile::Release => {
            for (program, _) in PROGRAMS {
                cargo.args(["--package", program]);
            }
            // A release is the same wherever it is built. Not for dev: the flags would have cargo compile everything
            // twice, for the image and for the tests.
            cargo.env(
                "CARGO_ENCODED_RUSTFLAGS",
                without_paths(&[
                    (paths::root(), "/build"),
                    (&paths::target(), "/build/target"),
                    (&cargo::home(), "/cargo"),
                ]),
            );
        }
    }
    cargo
}

fn make(room: &Room, profile: Profile) -> Result<()> {
    room.run(&mut compiler(profile))?;
    for (program, folder) in PROGRAMS {
        let folder = room.scratch("tree").join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let place = folder.join(program);
        room.run(
            Command::new("strip").arg("--strip-all").arg("-o").args([&place, &compiled(profile, program)]),
        )?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", place.display()))?;
    }
    Ok(())
}

/// Flags that put a fixed name in the place of each folder that rustc would write into programs (panic messages).
fn without_paths(folders: &[(&Path, &str)]) -> String {
    let flag = |(folder, name): &(&Path, &str)| format!("--remap-path-prefix={}={name}", folder.display());
    folders.iter().map(flag).collect::<Vec<_>>().join("\x1f")
}

/// Where cargo puts a program: profile `dev` writes to `debug`.
fn compiled(profile: Profile, program: &str) -> PathBuf {
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    paths::target().join(folder).join(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_get_fixed_names() {
        let flags = without_paths(&[(Path::new("/home/a b"), "/build"), (Path::new("/c"), "/cargo")]);
        assert_eq!(flags, "--remap-path-prefix=/home/a b=/build\x1f--remap-path-prefix=/c=/cargo");
    }
}
