//! Commands and their results as lines of text that survive a terminal.
//!
//! A terminal in canonical mode takes at most 4095 bytes of unread input, may echo, and may be written to by
//! others. So everything travels as base64 in short lines, a random tag marks the answer's parts, the sizes are
//! told, and what arrives damaged is asked for again; the command itself runs once. The tag is put together by the
//! guest's shell, so that an echo of what was typed is never taken for an answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest line typed, in bytes; N_TTY_BUF_SIZE in Linux is 4096.
const LINE: usize = 3000;
/// Where the guest keeps the parts of a command: a variable that [`prepare`] sets.
pub(crate) const FOLDER: &str = "$LAB_FOLDER";

/// What a command returned.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 + n when signal n ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// The line that makes the folder and the terminal ready, and then says `tag`. /run is there when all else is
/// full or broken; who may not write there (a test on the host) gets a folder elsewhere.
pub(crate) fn prepare(tag: &str) -> String {
    format!(
        "{}stty -echo cols 1000; mesg n; export LAB_FOLDER=\"$(mktemp -d -p /run lab.XXXXXX || mktemp -d)\"; {}",
        assign(tag),
        "echo \"$T\""
    )
}

/// Lines that put `bytes` as base64 into `file`, each to be sent after the one before was acknowledged.
pub(crate) fn store(bytes: &[u8], file: &str, tag: &str) -> Vec<String> {
    let encoded = STANDARD.encode(bytes);
    let mut lines = vec![format!("{}: >{file}; {}", assign(tag), acknowledge(0))];
    for (number, chunk) in encoded.as_bytes().chunks(LINE).enumerate() {
        let chunk = String::from_utf8_lossy(chunk);
        lines.push(format!("printf %s {chunk} >>{file}; {}", acknowledge(number + 1)));
    }
    lines
}

/// What the guest says when the n-th line of [`store`] is done.
pub(crate) fn acknowledgement(tag: &str, number: usize) -> String {
    format!("{tag}:stored:{number}:")
}

/// The line that runs the stored script and sends its answer.
pub(crate) fn run(tag: &str) -> String {
    format!(
        "{}base64 -d {FOLDER}/script.b64 >{FOLDER}/script && bash {FOLDER}/script </dev/null >{FOLDER}/out \
         2>{FOLDER}/err; echo $? >{FOLDER}/status; {}",
        assign(tag),
        send()
    )
}

/// The line that sends the answer once more.
pub(crate) fn send_again(tag: &str) -> String {
    format!("{}{}", assign(tag), send())
}

/// What the guest says last in the answer to a line that carried `tag`.
pub(crate) fn end(tag: &str) -> String {
    format!("{tag}:end")
}

/// Reads the answer to a line that carried `tag` out of what the console said up to the answer's end; none when
/// something else stands in between.
pub(crate) fn parse(received: &str, tag: &str) -> Option<Output> {
    let (received, _) = received.rsplit_once(&end(tag))?;
    let (_, answer) = received.split_once(&format!("{tag}:status:"))?;
    let (numbers, streams) = answer.split_once('\n')?;
    let mut numbers = numbers.trim_end().split(':');
    let status = numbers.next()?.parse().ok()?;
    let stdout_length: usize = numbers.next()?.trim().parse().ok()?;
    let stderr_length: usize = numbers.next()?.trim().parse().ok()?;
    let (stdout, stderr) = streams.split_once(&format!("{tag}:stderr"))?;
    let (stdout, stderr) = (decoded(stdout)?, decoded(stderr)?);
    let complete = stdout.len() == stdout_length && stderr.len() == stderr_length;
    complete.then_some(Output { status, stdout, stderr })
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(packed).ok()
}

/// Sets `$T` to the tag, in two halves so that the line itself does not contain it.
fn assign(tag: &str) -> String {
    let (first, second) = tag.split_at(tag.len() / 2);
    format!("T={first}\"\"{second}; ")
}

fn acknowledge(number: usize) -> String {
    format!("echo \"$T:stored:{number}:\"")
}

fn send() -> String {
    format!(
        "echo; echo \"$T:status:$(cat {FOLDER}/status):$(wc -c <{FOLDER}/out):$(wc -c <{FOLDER}/err)\"; \
         base64 {FOLDER}/out; echo \"$T:stderr\"; base64 {FOLDER}/err; echo \"$T:end\""
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    const TAG: &str = "0123456789abcdef";

    fn answer(status: &str, sizes: &str, out: &str, err: &str) -> String {
        format!("\r\n{TAG}:status:{status}:{sizes}\r\n{out}\r\n{TAG}:stderr\r\n{err}\r\n{TAG}:end\r\n")
    }

    #[test]
    fn an_answer_is_read_with_its_streams_and_status() {
        let expected = Output { status: 3, stdout: b"hello\n".to_vec(), stderr: b"no\n".to_vec() };
        assert_eq!(parse(&answer("3", "6:3", "aGVsbG8K", "bm8K"), TAG), Some(expected));
    }

    #[test]
    fn an_answer_without_its_end_is_none() {
        let whole = answer("0", "6:0", "aGVsbG8K", "");
        for cut in 0..whole.len() - 3 {
            assert_eq!(parse(&whole[..cut], TAG), None, "cut at {cut}");
        }
    }

    #[test]
    fn foreign_text_in_between_is_noticed() {
        let cases = [
            answer("0", "6:0", "aGVs\r\n[ 12.3] virtio: oops\r\nbG8K", ""),
            answer("0", "6:0", "aGVs\r\nbG9v\r\nbG8K", ""),
            answer("0", "6:0", "aGVs", ""),
            answer("x", "6:0", "aGVsbG8K", ""),
            format!("{TAG}:end"),
        ];
        for case in cases {
            assert_eq!(parse(&case, TAG), None, "{case}");
        }
    }

    #[test]
    fn other_commands_answers_are_left_alone() {
        let mut received = answer("0", "0:0", "", "").replace(TAG, "fedcba9876543210");
        assert_eq!(parse(&received, TAG), None);
        received.push_str(&answer("0", "6:0", "aGVsbG8K", ""));
        assert_eq!(parse(&received, TAG).unwrap().stdout, b"hello\n");
    }

    #[test]
    fn lines_fit_the_terminal_and_never_contain_the_tag() {
        let mut lines = store(&[7; 20_000], "file.b64", TAG);
        lines.push(prepare(TAG));
        lines.push(run(TAG));
        lines.push(send_again(TAG));
        for line in lines {
            assert!(line.len() < 4095, "{} bytes", line.len());
            assert!(!line.contains(TAG) && !line.contains('\n'), "{line}");
        }
    }

    /// The lines mean to a real shell what this module thinks.
    #[test]
    fn a_shell_answers_as_expected() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("printf 'a\\0b'; echo oops >&2; # {}\nexit 7", "x".repeat(9000));
        let mut input: Vec<String> = store(script.as_bytes(), &format!("{FOLDER}/script.b64"), TAG);
        let stored = input.len();
        input.push(run(TAG));
        let mut shell = Command::new("sh")
            .env("LAB_FOLDER", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        for line in input {
            writeln!(stdin, "{line}").unwrap();
        }
        drop(stdin);
        let said = String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap();
        for number in 0..stored {
            assert!(said.contains(&acknowledgement(TAG, number)), "line {number}");
        }
        let expected = Output { status: 7, stdout: b"a\0b".to_vec(), stderr: b"oops\n".to_vec() };
        assert_eq!(parse(&said, TAG), Some(expected));
    }
}
