//! QEMU as a process of the host.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tools::Toolbox;

use crate::serial::last_lines;
use crate::spawn::{DIE_WITH_PARENT, spawn};

const SHOWN_LINES: usize = 5;

/// Starts QEMU; its errors are appended to `stderr`. Interactive: it has the caller's terminal.
pub(crate) fn start(toolbox: &Toolbox, argv: Vec<String>, stderr: &Path, interactive: bool) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(stderr)
        .with_context(|| format!("cannot open {}", stderr.display()))?;
    let mut command = toolbox.command("setpriv");
    command.args(DIE_WITH_PARENT).arg("qemu-system-x86_64").args(argv).stderr(log);
    if !interactive {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    spawn(command)
}

/// A kill must reach QEMU itself, not a wrapper that leaves it running: the id that QEMU wrote must be ours.
pub(crate) fn check_id(pid_file: &Path, child: u32) -> Result<()> {
    let text = fs::read_to_string(pid_file).with_context(|| format!("cannot read {}", pid_file.display()))?;
    if text.trim() != child.to_string() {
        bail!(
            "QEMU's process id is {}, but the process started is {child}: it could not be killed",
            text.trim()
        );
    }
    Ok(())
}

/// What QEMU said last on its standard error.
pub(crate) fn last_words(stderr: &Path) -> String {
    match fs::read_to_string(stderr) {
        Ok(said) => last_lines(&said, SHOWN_LINES),
        Err(error) => format!("cannot read {}: {error}", stderr.display()),
    }
}

/// How long a key may take to be taken by the guest.
const KEY: Duration = Duration::from_millis(40);

/// A keyboard on a pipe that QEMU reads.
#[derive(Debug)]
pub(crate) struct Keyboard(File);

impl Keyboard {
    /// Makes the pipe, unless it is there, and holds it open for reading, too: QEMU waits for nobody then.
    pub(crate) fn at(pipe: &Path) -> Result<Self> {
        let cannot = || format!("cannot make the pipe {}", pipe.display());
        if !pipe.exists() {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).with_context(cannot)?;
        }
        Ok(Self(File::options().read(true).write(true).open(pipe).with_context(cannot)?))
    }

    /// Types, no faster than a quick typist: QEMU takes a few keys at a time, as the guest reads them.
    pub(crate) fn type_keys(&mut self, text: &str) -> Result<()> {
        for key in keys(text) {
            self.0.write_all(key.as_bytes()).context("cannot type")?;
            thread::sleep(KEY);
        }
        Ok(())
    }
}

/// A text as keys: an arrow is an escape and two characters.
fn keys(mut text: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    while let Some(first) = text.chars().next() {
        let length = if text.starts_with("\x1b[") { 3 } else { first.len_utf8() };
        let (key, rest) = text.split_at_checked(length).unwrap_or((text, ""));
        keys.push(key);
        text = rest;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_that_is_not_qemus_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        fs::write(&file, "4242\n").unwrap();
        check_id(&file, 4242).unwrap();
        assert!(check_id(&file, 4241).unwrap_err().to_string().contains("4242"));
    }

    #[test]
    fn an_arrow_is_one_key() {
        assert_eq!(keys("a\x1b[Aü\x1b\r"), ["a", "\x1b[A", "ü", "\x1b", "\r"]);
    }
}
