//! What is mounted where: /proc/self/mountinfo, so that steps of the boot can be run twice.

use std::io;
use std::path::{Path, PathBuf};

/// One line of mountinfo, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount point.
    pub target: PathBuf,
    /// Type of the file system.
    pub fs_type: String,
    /// Source, a device file for btrfs.
    pub source: String,
    /// Path inside the file system that is mounted here: tells bind mounts of files apart.
    pub root: PathBuf,
}

/// The topmost mount at exactly `target`, if there is one.
///
/// # Errors
/// mountinfo cannot be read.
pub fn at(target: &Path) -> io::Result<Option<Mount>> {
    Ok(topmost(&std::fs::read_to_string("/proc/self/mountinfo")?, target))
}

/// The topmost mount at `target` in the text of a mountinfo file.
pub fn topmost(mountinfo: &str, target: &Path) -> Option<Mount> {
    mountinfo.lines().filter_map(parse).rfind(|mount| mount.target == target)
}

fn parse(line: &str) -> Option<Mount> {
    // 36 35 98:0 /root /target rw,noatime shared:1 - btrfs /dev/vda9 rw (proc(5))
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, target) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    Some(Mount {
        root: unescape(root).into(),
        target: unescape(target).into(),
        fs_type: right.next()?.into(),
        source: unescape(right.next()?),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 0:20 / / ro,relatime shared:1 - erofs /dev/dm-0 ro
30 22 0:31 / /var rw,noatime shared:5 - tmpfs tmpfs rw
31 22 0:32 / /var rw,noatime - btrfs /dev/vda9 rw,ssd
32 22 0:32 /lib/infimonitor/machine-id /etc/machine-id rw - btrfs /dev/vda9 rw
33 22 0:33 / /mnt/a\\040b rw master:2 - ext4 /dev/sdb1 rw
";

    #[test]
    fn the_topmost_mount_counts() {
        let table = [
            ("/", Some(("erofs", "/dev/dm-0", "/"))),
            ("/var", Some(("btrfs", "/dev/vda9", "/"))),
            ("/etc/machine-id", Some(("btrfs", "/dev/vda9", "/lib/infimonitor/machine-id"))),
            ("/mnt/a b", Some(("ext4", "/dev/sdb1", "/"))),
            ("/var/lib", None),
        ];
        for (target, expected) in table {
            let found = topmost(TEXT, Path::new(target));
            let found =
                found.as_ref().map(|m| (m.fs_type.as_str(), m.source.as_str(), m.root.to_str().unwrap()));
            assert_eq!(found, expected, "{target}");
        }
    }

    #[test]
    fn the_running_system_has_a_root() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert!(at(Path::new("/no/such/place")).unwrap().is_none());
    }
}
