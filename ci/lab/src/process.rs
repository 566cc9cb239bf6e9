//! QEMU as a process of the host.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
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

/// A keyboard on a character device's socket. It stays connected: QEMU forgets keys that the guest has not read when
/// the socket is closed.
#[derive(Debug)]
pub(crate) struct Keyboard(UnixStream);

impl Keyboard {
    /// Connects. What the guest says there is in its log, and read here only so that QEMU need not wait.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let cannot = || format!("cannot connect to {}", socket.display());
        let stream = UnixStream::connect(socket).with_context(cannot)?;
        let mut said = stream.try_clone().with_context(cannot)?;
        // Ends with QEMU.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Ok(Self(stream))
    }

    /// Types, no faster than a quick typist.
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
