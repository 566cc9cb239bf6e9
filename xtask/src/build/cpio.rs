//! A cpio archive (format "newc") as the kernel unpacks it over the initrd.
//!
//! Written here instead of by a tool because it is forty lines, and then says exactly what is in it: owner root,
//! no times, no device numbers, so the same files give the same archive.

use std::path::Path;

/// One member of an archive.
pub enum Member<'a> {
    /// A folder, mode 0755.
    Folder(&'a str),
    /// A program, mode 0755, with its content.
    Program(&'a str, &'a [u8]),
}

/// The end of an archive.
const TRAILER: &str = "TRAILER!!!";
/// File type bits of a mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// Encodes the members in order; folders must come before what is in them.
pub fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let inode = index as u32 + 1;
        match member {
            Member::Folder(name) => append(&mut bytes, inode, FOLDER | 0o755, name, &[]),
            Member::Program(name, content) => append(&mut bytes, inode, FILE | 0o755, name, content),
        }
    }
    append(&mut bytes, 0, 0, TRAILER, &[]);
    bytes
}

/// Every program on the way to `program`, and the program itself, for a path such as `usr/lib/x/program`.
pub fn with_folders<'a>(path: &'a str, content: &'a [u8]) -> Vec<Member<'a>> {
    let mut members: Vec<Member<'a>> = Path::new(path)
        .ancestors()
        .skip(1)
        .filter_map(|folder| folder.to_str().filter(|name| !name.is_empty()))
        .map(Member::Folder)
        .collect();
    members.reverse();
    members.push(Member::Program(path, content));
    members
}

fn append(bytes: &mut Vec<u8>, inode: u32, mode: u32, name: &str, content: &[u8]) {
    let links = if mode & FOLDER != 0 { 2 } else { 1 };
    let header = [inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    bytes.extend_from_slice(b"070701");
    for field in header {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(content);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn folders_come_before_the_program() {
        let names: Vec<&str> = with_folders("usr/lib/x/program", b"")
            .iter()
            .map(|member| match member {
                Member::Folder(name) | Member::Program(name, _) => *name,
            })
            .collect();
        assert_eq!(names, ["usr", "usr/lib", "usr/lib/x", "usr/lib/x/program"]);
    }

    #[test]
    fn cpio_itself_reads_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(&with_folders("usr/lib/x/program", b"content"));
        assert_eq!(archive.len() % 4, 0);
        let mut cpio = tools::Toolbox::open().unwrap().command("cpio");
        let mut child: std::process::Child = Command::current_dir(&mut cpio, folder.path())
            .args(["-i", "--quiet"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(child.wait().unwrap().success());
        let unpacked = std::fs::read(folder.path().join("usr/lib/x/program")).unwrap();
        assert_eq!(unpacked, b"content");
    }
}
