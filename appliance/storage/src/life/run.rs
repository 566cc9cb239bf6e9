//! Running `btrfs` and the like, saying how far it is, and reading what it says.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{LifeError, Machine, Progress, Scrubbed};

/// Between two looks at how far btrfs is.
const POLL: Duration = Duration::from_secs(1);

impl Machine {
    /// Runs `btrfs` and returns what it says.
    pub(super) fn btrfs_run(
        &self,
        step: &str,
        arguments: &[&str],
        paths: &[&Path],
    ) -> Result<String, LifeError> {
        run(&self.btrfs.to_string_lossy(), arguments, paths).map_err(|cause| LifeError::step(step)(&cause))
    }

    /// The same for what takes long: meanwhile `btrfs STATUS status` is asked how far it is.
    pub(super) fn btrfs_with_progress(
        &self,
        step: &str,
        arguments: &[&str],
        paths: &[&Path],
        (what, options): (&str, &[&str]),
        target: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<String, LifeError> {
        progress(step, None);
        thread::scope(|scope| {
            let work = scope.spawn(|| self.btrfs_run(step, arguments, paths));
            let mut said = None;
            while !work.is_finished() {
                thread::sleep(POLL);
                let asked: Vec<&str> = [what, "status"].into_iter().chain(options.iter().copied()).collect();
                // It may not have begun, or have ended.
                let percent = run(&self.btrfs.to_string_lossy(), &asked, &[target])
                    .ok()
                    .and_then(|text| percent(&text));
                if percent.is_some() && percent != said {
                    progress(step, percent);
                    said = percent;
                }
            }
            work.join().unwrap_or_else(|_| Err(LifeError::step(step)(&"the step panicked")))
        })
    }
}

/// A disk, to be read and written.
pub(super) fn open(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(device)
}

/// Runs a program, and returns what it says; or why it failed.
pub(super) fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<String, String> {
    let arguments = arguments.iter().map(|argument| (*argument).into());
    let arguments: Vec<std::ffi::OsString> = arguments.chain(paths.iter().map(|path| path.into())).collect();
    let output = duct::cmd(program, arguments)
        .env("LC_ALL", "C")
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()
        .map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // `btrfs scrub` says 3 for blocks that it could not mend; that it found them is its result.
    if output.status.success() || (output.status.code() == Some(3) && said.contains("uncorrectable_errors")) {
        return Ok(said);
    }
    Err(format!("{program}: {}: {}{}", output.status, said, String::from_utf8_lossy(&output.stderr))
        .trim()
        .into())
}

/// The first number with a percent sign; of what `btrfs balance status` says, which is how much is left, the rest.
fn percent(text: &str) -> Option<f32> {
    let number = text.split('%').next().filter(|before| before.len() < text.len())?;
    let number: f32 = number.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()?;
    Some(if text.contains("% left") { 100.0 - number } else { number })
}

/// What `btrfs scrub start -B -R` says at its end.
pub(super) fn scrubbed(text: &str) -> Scrubbed {
    let count = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Scrubbed { corrected: count("corrected_errors"), uncorrectable: count("uncorrectable_errors") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_btrfs_is() {
        let table = [
            ("12.3% done, 0 write errs, 0 uncorr. read errs\n", Some(12.3)),
            (
                "Balance on '/data' is running\n3 out of about 8 chunks balanced (4 considered),  62% left\n",
                Some(38.0),
            ),
            ("Bytes scrubbed:   1.20GiB  (40.00%)\n", Some(40.0)),
            ("Never started\n", None),
            ("%\n", None),
        ];
        for (text, expected) in table {
            assert_eq!(percent(text), expected, "{text}");
        }
    }

    #[test]
    fn what_a_scrub_found() {
        let text =
            "scrub done for 7\n\tdata_bytes_scrubbed: 1\n\tuncorrectable_errors: 2\n\tcorrected_errors: 30\n";
        assert_eq!(scrubbed(text), Scrubbed { corrected: 30, uncorrectable: 2 });
    }
}
