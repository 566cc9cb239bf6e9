//! What a console of the guest said.
//!
//! QEMU itself writes the log, so nothing is lost while nobody listens and no reader can slow the guest down;
//! waiting for a text is reading that file again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::wait_until;

/// How many lines of the console an error shows.
const SHOWN_LINES: usize = 12;

/// The log of one console, over all boots of a machine.
#[derive(Debug, Clone)]
pub struct SerialLog {
    path: PathBuf,
    boot_begins: u64,
}

impl SerialLog {
    /// The log at this path, with what is in it already belonging to earlier boots.
    pub(crate) fn at(path: &Path) -> SerialLog {
        let boot_begins = fs::metadata(path).map_or(0, |metadata| metadata.len());
        SerialLog { path: path.to_owned(), boot_begins }
    }

    /// What was said since the machine was last switched on, without terminal control sequences.
    pub fn this_boot(&self) -> Result<String> {
        Ok(without_control_sequences(&String::from_utf8_lossy(&self.bytes()?)))
    }

    /// What a terminal of 80 columns and 24 lines shows now.
    pub fn screen(&self) -> Result<String> {
        let mut terminal = vt100::Parser::new(24, 80, 0);
        terminal.process(&self.bytes()?);
        Ok(terminal.screen().contents())
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = fs::read(&self.path)
            .with_context(|| format!("cannot read the console's log {}", self.path.display()))?;
        let begin = usize::try_from(self.boot_begins).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.split_off(begin))
    }

    /// Waits until this boot's output contains `text`, as long as `alive` lets it.
    pub fn wait_for(&self, text: &str, within: Duration, alive: impl Fn() -> Result<()>) -> Result<String> {
        let name = self.path.file_stem().unwrap_or_default().display();
        wait_until(&format!("{text:?} on {name}"), within, || {
            let said = self.this_boot()?;
            if said.contains(text) {
                return Ok(said);
            }
            alive().with_context(|| last_lines(&said, SHOWN_LINES))?;
            bail!("{}", last_lines(&said, SHOWN_LINES))
        })
    }
}

/// The end of a text, for errors.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(count)..];
    if shown.is_empty() { "nothing".to_owned() } else { format!("\n{}", shown.join("\n")) }
}

/// Firmware and systemd colour and position their output; without that it can be searched.
pub(crate) fn without_control_sequences(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => match characters.next() {
                // CSI: parameters, then one final character from @ to ~.
                Some('[') => while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // OSC: up to BEL or the string terminator ESC \.
                Some(']') => {
                    while let Some(c) = characters.next() {
                        if c == '\u{7}' {
                            break;
                        }
                        if c == '\u{1b}' {
                            characters.next();
                            break;
                        }
                    }
                }
                // Character set designations have one character more.
                Some('(' | ')') => drop(characters.next()),
                _ => {}
            },
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_left_out() {
        let cases = [
            ("\u{1b}[2J\u{1b}[01;01HBdsDxe: starting\r\n", "BdsDxe: starting\n"),
            ("[\u{1b}[0;32m  OK  \u{1b}[0m] Reached target", "[  OK  ] Reached target"),
            ("\u{1b}]0;title\u{7}login: ", "login: "),
            ("\u{1b}]3008;start=1\u{1b}\\# ", "# "),
            ("\u{1b}(B\u{1b}[mplain", "plain"),
            ("cut \u{1b}[", "cut "),
        ];
        for (raw, plain) in cases {
            assert_eq!(without_control_sequences(raw), plain);
        }
    }

    #[test]
    fn a_text_of_an_earlier_boot_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial.log");
        fs::write(&path, "backup1 login: ").unwrap();
        let log = SerialLog::at(&path);
        let failed = log.wait_for("login:", Duration::from_millis(10), || Ok(())).unwrap_err().to_string();
        assert!(failed.contains("\"login:\" on serial; last seen: nothing"), "{failed}");
        fs::write(&path, "backup1 login: \nLinux version 6\nbackup1 login: ").unwrap();
        assert!(log.wait_for("login:", Duration::from_millis(10), || Ok(())).unwrap().starts_with("\nLinux"));
    }

    #[test]
    fn an_error_shows_the_last_lines() {
        assert_eq!(last_lines("one\n\ntwo\nthree\n", 2), "\ntwo\nthree");
    }
}
