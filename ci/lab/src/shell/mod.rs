//! A root shell in the guest, over the virtio console.
//!
//! The console needs neither network nor a service of ours in the guest, so it answers when everything else is
//! broken, and it is the way a person would look. It is slow (150 kB/s in, 40 kB/s out under TCG): bulk data goes
//! over the network.

mod frame;
mod login;

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

use self::frame::FOLDER;
pub use self::frame::Output;
use self::login::{Keys, Login, Step};
use crate::serial::{last_lines, without_control_sequences};

const READ_SLICE: Duration = Duration::from_millis(50);
/// How often a damaged answer is asked for again.
const RESENDS: usize = 3;
/// How long the guest may take to store one line of a file.
const STORE: Duration = Duration::from_secs(30);
const SHOWN_LINES: usize = 8;
/// Length of " login: ", which may arrive in pieces.
const LOGIN_PROMPT: usize = 8;
const INTERRUPT: &[u8] = b"\x03\n";

/// As text: failed assertions show it.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("status", &self.status)
            .field("stdout", &self.text())
            .field("stderr", &self.error_text())
            .finish()
    }
}

impl Output {
    /// Standard output as text, without white space at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard output as text when the command succeeded; otherwise an error with its first line and what it said.
    pub fn success(&self, script: &str) -> Result<String> {
        if self.status == 0 {
            return Ok(self.text());
        }
        let (line, status) = (first_line(script), self.status);
        let said = last_lines(&format!("{}\n{}", self.text(), self.error_text()), SHOWN_LINES);
        bail!("`{line}` failed in the guest with status {status}; it said: {said}")
    }

    /// Standard error as text, without white space at its end.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }
}

/// A logged-in shell.
#[derive(Debug)]
pub struct Shell {
    stream: UnixStream,
    /// What the console said since the last [`Shell::type_line`].
    received: Vec<u8>,
    last_byte: Instant,
    lost: bool,
}

impl Shell {
    /// Logs in as root on the console behind `socket`, however far the guest's boot has come.
    pub fn login(socket: &Path, password: &str, within: Duration) -> Result<Shell> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to the console socket {}", socket.display()))?;
        stream.set_read_timeout(Some(READ_SLICE)).context("cannot set the console's read timeout")?;
        stream.set_write_timeout(Some(STORE)).context("cannot set the console's write timeout")?;
        let mut shell = Shell { stream, received: Vec::new(), last_byte: Instant::now(), lost: false };
        shell.log_in(password, within)?;
        shell.prepare()?;
        Ok(shell)
    }

    fn log_in(&mut self, password: &str, within: Duration) -> Result<()> {
        let begun = Instant::now();
        let (first, second) = (tag(), tag());
        let mut login = Login::default();
        let mut seen = String::new();
        while begun.elapsed() < within {
            let shown = self.shown();
            if !shown.trim().is_empty() {
                seen.clone_from(&shown);
            }
            let line = match login.next(&shown, self.last_byte.elapsed(), &format!("{first}{second}")) {
                Step::Wait => {
                    self.receive()?;
                    continue;
                }
                Step::LoggedIn => return Ok(()),
                Step::Refused => bail!("the guest refuses root's password on its virtio console"),
                Step::Send(Keys::Newline) => String::new(),
                Step::Send(Keys::User) => "root".to_owned(),
                Step::Send(Keys::Password) => password.to_owned(),
                Step::Send(Keys::Probe) => format!("echo {first}\"\"{second}"),
            };
            self.type_line(&line)?;
        }
        bail!(
            "no root shell on the guest's virtio console within {} s; last seen there: {}",
            within.as_secs(),
            last_lines(&seen, SHOWN_LINES)
        )
    }

    /// A shell without line editing, echo, prompt and messages from other users: what it says is what it is asked.
    fn prepare(&mut self) -> Result<()> {
        self.type_line("exec env PS1= PS2= ENV= TERM=dumb PAGER=cat sh")?;
        let tag = tag();
        self.type_line(&frame::prepare(&tag))?;
        self.read_until(&tag, "a prepared shell", STORE)
    }

    /// Runs a bash script and waits for its end. Its standard input is empty.
    pub fn run(&mut self, script: &str, within: Duration) -> Result<Output> {
        self.store(script.as_bytes(), &format!("{FOLDER}/script.b64"))?;
        let mut tag = tag();
        self.type_line(&frame::run(&tag))?;
        let what = format!("the end of `{}`", first_line(script));
        for _ in 0..RESENDS {
            if let Err(failure) = self.read_until(&frame::end(&tag), &what, within) {
                // Let the next command find a shell that listens.
                self.stream.write_all(INTERRUPT).context("cannot interrupt the guest's command")?;
                return Err(failure);
            }
            if let Some(output) = frame::parse(&String::from_utf8_lossy(&self.received), &tag) {
                return Ok(output);
            }
            tag = self::tag();
            self.type_line(&frame::send_again(&tag))?;
        }
        bail!("the answer to `{}` arrived damaged {RESENDS} times", first_line(script))
    }

    /// Whether this shell can never answer again: the guest ended or logged it out.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Writes a file of the guest (mode 0600 when it is new), making its folder when needed.
    pub fn write_file(&mut self, path: &str, bytes: &[u8], within: Duration) -> Result<()> {
        let packed = format!("{FOLDER}/file.b64");
        self.store(bytes, &packed)?;
        let script = format!(
            "set -e; umask 077; mkdir -p \"$(dirname '{path}')\"; base64 -d {packed} >'{path}'; rm {packed}; \
             wc -c <'{path}'"
        );
        let written = self.run(&script, within)?.success(&script)?;
        if written.trim() != bytes.len().to_string() {
            bail!("{path} in the guest has {written} bytes instead of {}", bytes.len());
        }
        Ok(())
    }

    /// Reads a file of the guest.
    pub fn read_file(&mut self, path: &str, within: Duration) -> Result<Vec<u8>> {
        let output = self.run(&format!("cat '{path}'"), within)?;
        if output.status != 0 {
            bail!("cannot read {path} in the guest: {}", output.error_text());
        }
        Ok(output.stdout)
    }

    /// Puts bytes into a file of the guest as base64, a line at a time.
    fn store(&mut self, bytes: &[u8], file: &str) -> Result<()> {
        let tag = tag();
        for (number, line) in frame::store(bytes, file, &tag).iter().enumerate() {
            self.type_line(line)?;
            self.read_until(&frame::acknowledgement(&tag, number), "the guest to take a line", STORE)?;
        }
        Ok(())
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        self.received.clear();
        self.last_byte = Instant::now();
        self.stream.write_all(format!("{line}\n").as_bytes()).context("cannot type on the guest's console")
    }

    /// Reads on until `text` was said since the last line typed.
    fn read_until(&mut self, text: &str, what: &str, within: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut searched = 0;
        loop {
            // Only what is new: an answer may have megabytes.
            let new = String::from_utf8_lossy(&self.received[searched..]);
            if new.contains(text) {
                return Ok(());
            }
            // A login prompt can only mean that the shell is gone.
            if new.trim_end().ends_with(" login:") {
                self.lost = true;
                bail!("the guest logged us out (did it boot again?) while waiting for {what}");
            }
            searched = self.received.len().saturating_sub(text.len().max(LOGIN_PROMPT));
            if begun.elapsed() >= within {
                let said = last_lines(&self.shown(), SHOWN_LINES);
                bail!("waited {} s for {what}; last seen: {said}", within.as_secs());
            }
            self.receive()?;
        }
    }

    /// Appends what arrives within a short while.
    fn receive(&mut self) -> Result<()> {
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) => {
                self.lost = true;
                bail!("QEMU closed the console")
            }
            Ok(length) => {
                self.received.extend_from_slice(&piece[..length]);
                self.last_byte = Instant::now();
                Ok(())
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(e).context("cannot read the guest's console"),
        }
    }

    fn shown(&self) -> String {
        without_control_sequences(&String::from_utf8_lossy(&self.received))
    }
}

fn tag() -> String {
    Uuid::new_v4().simple().to_string()
}

fn first_line(script: &str) -> &str {
    script.trim().lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::thread;

    use super::*;

    /// A console as a guest has it: getty and login in a few lines, then a real interactive bash, on a real terminal
    /// that Python makes.
    const GETTY: &str = "while true; do printf '\nbackup1 login: '; read -r user; stty -echo; printf 'Password: '; \
         read -r password; stty echo; [ \"$user:$password\" = root:secret ] && break; sleep 1; \
         printf '\n\nLogin incorrect\n'; done; printf '\nLast login: Mon\n'; exec bash --norc -i";
    const WITHIN: Duration = Duration::from_secs(60);

    struct Console {
        _folder: tempfile::TempDir,
        socket: PathBuf,
        guest: Child,
    }

    impl Drop for Console {
        fn drop(&mut self) {
            self.guest.kill().unwrap();
            self.guest.wait().unwrap();
        }
    }

    /// Each piece at once; `io::copy` may let the kernel hold one back until the next arrives.
    fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
        let mut piece = [0; 4096];
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(()),
                length => to.write_all(&piece[..length])?,
            }
        }
    }

    fn console() -> Console {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("hvc0");
        let listener = UnixListener::bind(&socket).unwrap();
        let spawn = "import pty, sys; pty.spawn(['bash', '-c', sys.argv[1]])";
        let mut guest = Command::new("python3")
            .args(["-c", spawn, GETTY])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut typed, mut shown) = (guest.stdin.take().unwrap(), guest.stdout.take().unwrap());
        thread::spawn(move || {
            let (mut from, _) = listener.accept().unwrap();
            let mut to = from.try_clone().unwrap();
            thread::spawn(move || pass_on(&mut shown, &mut to));
            pass_on(&mut from, &mut typed)
        });
        Console { _folder: folder, socket, guest }
    }

    #[test]
    fn commands_and_files_pass_a_terminal_unharmed() {
        let console = console();
        let mut shell = Shell::login(&console.socket, "secret", WITHIN).unwrap();

        let output = shell.run("echo out; echo err >&2; read -r nothing; exit 3", WITHIN).unwrap();
        assert_eq!((output.status, output.text(), output.error_text()), (3, "out".into(), "err".into()));
        let failure = output.success("exit 3\nmore").unwrap_err().to_string();
        assert_eq!(failure, "`exit 3` failed in the guest with status 3; it said: \nout\nerr");

        let bytes: Vec<u8> = (0..40_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        let file = console.socket.with_file_name("in the guest");
        let file = file.to_str().unwrap();
        shell.write_file(file, &bytes, WITHIN).unwrap();
        assert_eq!(std::fs::read(file).unwrap(), bytes);
        assert!(shell.read_file(file, WITHIN).unwrap() == bytes);
        assert!(shell.read_file("/nonexistent", WITHIN).unwrap_err().to_string().contains("/nonexistent"));
    }

    #[test]
    fn a_command_that_hangs_is_ended_and_the_shell_goes_on() {
        let console = console();
        let mut shell = Shell::login(&console.socket, "secret", WITHIN).unwrap();
        let hung = shell.run("sleep 600", Duration::from_secs(1)).unwrap_err().to_string();
        assert!(hung.contains("the end of `sleep 600`"), "{hung}");
        assert!(!shell.is_lost());
        assert_eq!(shell.run("echo here", WITHIN).unwrap().text(), "here");
    }

    #[test]
    fn a_wrong_password_is_said_so() {
        let console = console();
        let refused = Shell::login(&console.socket, "wrong", WITHIN).unwrap_err().to_string();
        assert!(refused.contains("refuses root's password"), "{refused}");
    }

    #[test]
    fn a_console_that_ends_loses_the_shell() {
        let mut console = console();
        let mut shell = Shell::login(&console.socket, "secret", WITHIN).unwrap();
        console.guest.kill().unwrap();
        console.guest.wait().unwrap();
        assert!(shell.run("true", Duration::from_secs(5)).is_err());
    }
}
