//! Nothing of a test stays on the disk, also when it is killed in the middle.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::{run, test_folder};

/// Set: this process is the test that is killed.
const IS_KILLED: &str = "INFIMONITOR_TEST_IS_KILLED";
const NAME: &str = "what_a_killed_test_leaves_goes_when_the_next_one_begins";

#[test]
fn what_a_killed_test_leaves_goes_when_the_next_one_begins() -> Result<()> {
    if std::env::var_os(IS_KILLED).is_some() {
        let folder = test_folder()?;
        let mounted = folder.path().join("with a blank");
        std::fs::create_dir(&mounted)?;
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&mounted))?;
        std::fs::write(mounted.join("file"), "content")?;
        println!("\nleft: {}", folder.path().display());
        loop {
            std::thread::park();
        }
    }
    let held = test_folder()?;
    let mut killed = Command::new(std::env::current_exe()?)
        .args(["--exact", NAME, "--nocapture"])
        .env(IS_KILLED, "1")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the test that is killed")?;
    let output = killed.stdout.take().context("it has no output")?;
    let left = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("left: ").map(std::path::PathBuf::from));
    killed.kill().context("cannot kill it")?;
    killed.wait()?;
    let left = left.context("it did not say what it leaves")?;
    let _next = test_folder()?;
    ensure!(!left.exists(), "{} is still there", left.display());
    ensure!(held.path().is_dir(), "the folder of a living test is gone");
    Ok(())
}
