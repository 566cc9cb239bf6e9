//! Room on a host's disks: what a run needs is asked before it begins, and what a run has left is removed at the latest when the
//! next one begins.
//!
//! A run that ends, also by a failure, removes its folder itself. One that is killed cannot, and what it leaves may be a mounted
//! volume of some gigabytes. So each folder is *held*: a file of its name in a folder beside is locked as long as the run's process
//! lives, and the kernel ends the lock with it. What is not held any more belongs to nobody. Folders without such a file are never
//! touched, whatever they are called.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Ends when the process does.
#[derive(Debug)]
pub struct Hold {
    _file: File,
}

/// The folders of runs below one folder.
#[derive(Debug)]
pub struct Scratch {
    parent: PathBuf,
    prefix: String,
    held: PathBuf,
}

impl Scratch {
    /// Those below `parent` whose names begin with `prefix`.
    pub fn new(parent: &Path, prefix: &str) -> Self {
        let held = parent.join(format!(".{}held", prefix));
        Self { parent: parent.to_owned(), prefix: prefix.to_owned(), held }
    }

    /// Removes what earlier runs have left, as far as `is_old` says so of a folder's name, makes a folder and holds it.
    ///
    /// # Errors
    /// The folder cannot be made or held. What cannot be removed is said on standard error, and is no error.
    pub fn make<T>(
        &self,
        is_old: impl Fn(&str) -> bool,
        make: impl FnOnce() -> Result<(T, PathBuf)>,
    ) -> Result<(T, Hold)> {
        let failed = |path: &Path| format!("cannot hold {}", path.display());
        fs::create_dir_all(&self.held).with_context(|| failed(&self.held))?;
        // Between a folder's making and its hold nobody else may look.
        let gate = self.held.join("gate");
        let gate_file = File::create(&gate).with_context(|| failed(&gate))?;
        gate_file.lock().with_context(|| failed(&gate))?;
        self.sweep(is_old)?;
        let (made, folder) = make()?;
        let name = folder.file_name().context("a run's folder has no name")?;
        let path = self.held.join(name);
        let file = File::create(&path).with_context(|| failed(&path))?;
        file.lock().with_context(|| failed(&path))?;
        Ok((made, Hold { _file: file }))
    }

    fn sweep(&self, is_old: impl Fn(&str) -> bool) -> Result<()> {
        let held = &self.held;
        for entry in fs::read_dir(held).with_context(|| format!("cannot list {}", held.display()))? {
            let entry = entry.with_context(|| format!("cannot list {}", held.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(&self.prefix) || name == "gate" || !is_old(&name) {
                continue;
            }
            let Ok(file) = File::options().write(true).open(entry.path()) else { continue };
            if file.try_lock().is_err() {
                continue;
            }
            let folder = self.parent.join(&name);
            match remove(&folder) {
                Ok(was_there) => {
                    if was_there {
                        eprintln!("removed what an earlier run has left: {}", folder.display());
                    }
                    drop(fs::remove_file(entry.path()));
                }
                Err(error) => eprintln!("an earlier run has left {}: {error:#}", folder.display()),
            }
        }
        Ok(())
    }
}

/// Removes a folder, with what is mounted in it; says whether it was there.
fn remove(folder: &Path) -> Result<bool> {
    if !folder.is_dir() {
        return Ok(false);
    }
    end_users(folder)?;
    let mounted = || -> Result<Vec<PathBuf>> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        Ok(mounts_below(&mounts, folder))
    };
    for place in mounted()? {
        let output = Command::new("umount").arg(&place).output().context("cannot run umount")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("{said}; end what uses it, and unmount it");
        }
    }
    // What is still mounted would be emptied.
    if let Some(place) = mounted()?.first() {
        bail!("{} is mounted again", place.display());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(true)
}

/// Looks for processes that are killed, and the time between two.
const LOOKS: u32 = 100;
const POLL: Duration = Duration::from_millis(50);

/// Kills what a run has started and what has outlived it: programs that lie in its `folder` or are told of it, servers whose
/// data is there, and whoever sees a volume that is mounted there in another place of a mount namespace of its own.
///
/// # Errors
/// One does not end, or they cannot be told.
pub fn end_users(folder: &Path) -> Result<()> {
    let own = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let volumes = volumes_below(&own, folder);
    for _ in 0..LOOKS {
        let found = users(folder, &volumes)?;
        if found.is_empty() {
            return Ok(());
        }
        for process in found {
            // One that has ended meanwhile is what is wanted.
            if let Err(error) = rustix::process::kill_process(process, rustix::process::Signal::KILL)
                && error != rustix::io::Errno::SRCH
            {
                return Err(error).with_context(|| format!("cannot kill process {process:?}"));
            }
        }
        std::thread::sleep(POLL);
    }
    let found = users(folder, &volumes)?;
    if !found.is_empty() {
        bail!("processes {found:?} use {}, were killed and do not end", folder.display());
    }
    Ok(())
}

/// The processes that [`end_users`] kills.
fn users(folder: &Path, volumes: &[String]) -> Result<Vec<rustix::process::Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list the processes")? {
        let process = entry.context("cannot list the processes")?;
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(id) = rustix::process::Pid::from_raw(id).filter(|id| *id != rustix::process::getpid())
        else {
            continue;
        };
        // What cannot be read has ended meanwhile.
        let text = |name: &str| {
            String::from_utf8_lossy(&fs::read(process.path().join(name)).unwrap_or_default()).into_owned()
        };
        let is_below =
            |name: &str| fs::read_link(process.path().join(name)).is_ok_and(|to| to.starts_with(folder));
        let is_server = || text("comm").trim() == "postgres" && is_below("cwd");
        let is_told = || text("cmdline").split('\0').any(|word| Path::new(word).starts_with(folder));
        if is_below("exe") || is_server() || is_told() || sees(&text("mountinfo"), folder, volumes) {
            found.push(id);
        }
    }
    Ok(found)
}

/// The devices that are mounted in a folder.
fn volumes_below(mountinfo: &str, folder: &Path) -> Vec<String> {
    let mounted = mountinfo.lines().filter_map(mount).filter(|(_, place)| place.starts_with(folder));
    mounted.map(|(source, _)| source).filter(|source| source.starts_with("/dev/")).collect()
}

/// Whether one of the `volumes` is mounted outside of `folder`, in which they are mounted for all.
fn sees(mountinfo: &str, folder: &Path, volumes: &[String]) -> bool {
    let mut mounts = mountinfo.lines().filter_map(mount);
    mounts.any(|(source, place)| volumes.contains(&source) && !place.starts_with(folder))
}

/// What is mounted, and where, of a line of mountinfo (proc_pid_mountinfo(5)).
fn mount(line: &str) -> Option<(String, PathBuf)> {
    let (fields, file_system) = line.split_once(" - ")?;
    let place = unescaped(fields.split(' ').nth(4)?).into();
    Some((unescaped(file_system.split(' ').nth(1)?), place))
}

/// What is mounted in a folder, what was mounted last first (proc_pid_mountinfo(5)).
fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let places =
        mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped).map(PathBuf::from);
    let mut below: Vec<_> = places.filter(|place| place.starts_with(folder)).collect();
    below.reverse();
    below
}

/// The kernel writes blanks and the like as octal numbers.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                whole.push(char::from(byte));
                whole += &part[3..];
            }
            None => {
                whole.push('\\');
                whole += part;
            }
        }
    }
    whole
}

/// Bytes that are free for an unprivileged user on the file system that holds `folder`, or will hold it.
///
/// # Errors
/// The file system cannot be asked.
pub fn free_bytes(folder: &Path) -> Result<u64> {
    let existing = existing(folder);
    let space = rustix::fs::statvfs(existing)
        .with_context(|| format!("cannot see how much space {} has", existing.display()))?;
    Ok(space.f_bavail * space.f_frsize)
}

/// A folder, or the nearest one above it that is there.
pub fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

/// Refuses what would fill the disk.
///
/// # Errors
/// The file system of `folder` has less than `bytes` free.
pub fn require(folder: &Path, bytes: u64, what: &str) -> Result<()> {
    let free = free_bytes(folder)?;
    if free < bytes {
        bail!(
            "{} has {:.1} GB free, and {what} needs {:.1} GB: make room there",
            folder.display(),
            free as f64 / 1e9,
            bytes as f64 / 1e9
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_removed_and_what_somebody_holds_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path(), "run-");
        let make = |name: &str| {
            let folder = parent.path().join(name);
            scratch.make(
                |name| name.starts_with("run-"),
                || {
                    fs::create_dir(&folder)?;
                    fs::write(folder.join("file"), "content")?;
                    Ok(((), folder.clone()))
                },
            )
        };
        // Made by somebody else.
        fs::create_dir(parent.path().join("run-foreign")).unwrap();
        let ((), first) = make("run-1").unwrap();
        let ((), second) = make("run-2").unwrap();
        assert!(parent.path().join("run-1/file").exists());
        drop(first);
        let ((), _third) = make("run-3").unwrap();
        let there = |name: &str| parent.path().join(name).exists();
        assert!(!there("run-1") && there("run-2") && there("run-3") && there("run-foreign"));
        drop(second);
        // Another kind of run leaves it alone.
        let ((), _other) = scratch
            .make(
                |name| name == "run-9",
                || {
                    fs::create_dir(parent.path().join("run-4"))?;
                    Ok(((), parent.path().join("run-4")))
                },
            )
            .unwrap();
        assert!(there("run-2"));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_not_held() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path(), "run-");
        let error = scratch.make(|_| true, || -> Result<((), PathBuf)> { bail!("no room") }).unwrap_err();
        assert_eq!(error.to_string(), "no room");
    }

    #[test]
    fn mounts_in_a_folder_come_the_last_first() {
        let line = |place: &str| format!("36 35 98:0 / {place} rw,noatime - ext4 /dev/root rw\n");
        let mounts: String =
            ["/", "/var/tmp/run-1/data", "/var/tmp/run-1/data/in\\040side", "/var/tmp/run-10/data"]
                .into_iter()
                .map(line)
                .collect();
        let found = mounts_below(&mounts, Path::new("/var/tmp/run-1"));
        assert_eq!(found, [Path::new("/var/tmp/run-1/data/in side"), Path::new("/var/tmp/run-1/data")]);
        assert_eq!(unescaped("a\\134b\\x"), "a\\b\\x");
    }

    #[test]
    fn who_sees_a_volume_of_a_folder_elsewhere_is_told() {
        let line = |place: &str, source: &str| format!("36 35 98:0 / {place} rw - btrfs {source} rw\n");
        let folder = Path::new("/var/tmp/run-1");
        let own = line("/", "/dev/vda") + &line("/var/tmp/run-1/data", "/dev/loop3");
        let own = own + &line("/var/tmp/run-1/tmp", "tmpfs") + &line("/var/tmp/run-2/data", "/dev/loop4");
        let volumes = volumes_below(&own, folder);
        assert_eq!(volumes, ["/dev/loop3"]);
        for (more, expected) in [
            (line("/srv/cluster", "/dev/loop3"), true),
            (line("/srv/cluster", "/dev/loop4"), false),
            (line("/srv", "tmpfs"), false),
            (String::new(), false),
        ] {
            assert_eq!(sees(&(own.clone() + &more), folder, &volumes), expected, "{more}");
        }
    }

    #[test]
    fn what_a_run_has_started_ends_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sleeps");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut inside = Command::new(&program).arg("600").spawn().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "").unwrap();
        let mut told = Command::new("tail").arg("-f").arg(&log).spawn().unwrap();
        let mut other = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        // Nobody waits for what an earlier run has left, so init does.
        let waits = std::thread::spawn(move || (inside.wait().unwrap(), told.wait().unwrap()));
        end_users(folder.path()).unwrap();
        let (inside, told) = waits.join().unwrap();
        assert!(!inside.success() && !told.success());
        assert!(other.try_wait().unwrap().is_none(), "a stranger was killed");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn room_is_refused_with_what_there_is_and_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(require(folder.path(), 1, "a test").is_ok());
        // Of a folder that is not there yet its file system is asked.
        let error = require(&folder.path().join("a/b"), u64::MAX, "a test").unwrap_err().to_string();
        assert!(error.contains("GB free, and a test needs 18446744073.7 GB"), "{error}");
    }
}
