//! `slots`: shows, writes and proves the system's slots. Runs as root; see the library's documentation.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use provisioning::{Identity, Role};
use slots::health::{Seen, Verdict, inactive, judge, units};
use slots::machine::Machine;
use slots::report::{self, Report};
use slots::writer::{self, Parts, Progress};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Time between two looks at a system that proves itself.
const ROUND: Duration = Duration::from_secs(2);
/// How long one service may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for an orderly restart; then it is forced.
const RESTART_LIMIT: Duration = Duration::from_secs(90);
/// Where first boot says why *state* is not there.
const STATE_PROBLEM: &str = "/run/infimonitor/state-problem";

/// The system's two slots.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show which slot runs and what is in the other one
    Status,
    /// Write a system into the slot that does not run, to be started next
    Write {
        /// Image with kernel, initrd and slot.cfg
        #[arg(long)]
        boot: PathBuf,
        /// Image of the root
        #[arg(long)]
        root: PathBuf,
        /// dm-verity's hashes of the root
        #[arg(long)]
        verity: PathBuf,
    },
    /// Watch the running system until it has proved itself; restart the machine if it does not
    Prove,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().action {
        Action::Status => status(),
        Action::Write { boot, root, verity } => write(&Parts { boot, root, verity }),
        Action::Prove => prove(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slots: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn report_of(machine: &Machine, problem: Option<String>) -> Result<Report> {
    let state = machine.store()?.read()?;
    let running = machine.boot.slot;
    let version = machine.version(running).unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    Ok(Report::new(&state, running, version, machine.version(running.other()), problem))
}

fn status() -> Result<()> {
    let report = report_of(&Machine::find()?, None)?;
    let other = &report.other;
    println!("{}", report.check().1);
    match &other.version {
        Some(version) => println!("Slot {} has version {version}.", other.slot),
        None => println!("Slot {} is empty.", other.slot),
    }
    Ok(())
}

fn write(images: &Parts<PathBuf>) -> Result<()> {
    let machine = Machine::find()?;
    let (store, target) = (machine.store()?, machine.boot.slot.other());
    writer::check_target(&store.read()?, machine.boot.slot, target)?;
    println!("checking the images");
    let config = writer::verify(images)?;
    println!("writing version {} into slot {target}", config.version);
    let started = Instant::now();
    let mut shown = 0;
    let (targets, mut problems) = machine.targets(target)?;
    problems.extend(writer::write(target, images, &targets, |at| {
        let tenth = at.done * 10 / at.total.max(1);
        if tenth > shown {
            shown = tenth;
            println!("{}", progress_line(at, started.elapsed()));
        }
    })?);
    println!("slot {target} starts next; restart the machine");
    publish(&report_of(&machine, (!problems.is_empty()).then(|| problems.join("; ")))?)
}

fn progress_line(at: Progress, elapsed: Duration) -> String {
    let rate = at.done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = (at.total - at.done) as f64 / rate;
    let [done, total, rate] = [at.done as f64, at.total as f64, rate].map(|bytes| bytes / 1e6);
    format!("written and read back: {done:.0} of {total:.0} MB, {rate:.0} MB/s, {left:.0} s left")
}

fn prove() -> Result<()> {
    let machine = Machine::find()?;
    let store = machine.store()?;
    let slot = machine.boot.slot;
    let was_good = store.read()?.record(slot).good;
    let started = Instant::now();
    let (mut healthy_since, mut booted_since): (Option<Instant>, Option<Instant>) = (None, None);
    let mut said = None;
    loop {
        let problem = if was_good { None } else { problem() };
        healthy_since = if problem.is_some() { None } else { healthy_since.or(Some(Instant::now())) };
        if booted_since.is_none() && !was_good && boot_is_over() {
            booted_since = Some(Instant::now());
        }
        let since = |instant: Option<Instant>| instant.map(|instant| instant.elapsed());
        let seen = Seen { up: started.elapsed(), booted: since(booted_since), healthy: since(healthy_since) };
        match judge(machine.boot, was_good, seen) {
            Verdict::Good => {
                let problems = machine.mark_good(slot);
                for problem in &problems {
                    eprintln!("slots: {problem}");
                }
                println!("the system in slot {slot} came up; it is good");
                let problem = (!problems.is_empty()).then(|| problems.join("; "));
                return publish(&report_of(&machine, problem)?);
            }
            Verdict::Wait => {
                let problem = problem.unwrap_or_else(|| "it is being watched".into());
                if said.as_ref() != Some(&problem) {
                    println!("the system in slot {slot} is new and proves itself: {problem}");
                    publish(&report_of(&machine, Some(problem.clone()))?)?;
                    said = Some(problem);
                }
            }
            Verdict::Restart => {
                eprintln!(
                    "slots: the system in slot {slot} did not come up ({}); restarting",
                    said.unwrap_or_default()
                );
                return restart();
            }
            Verdict::Stay => {
                bail!("the system in slot {slot} did not come up, and there is no other one to start")
            }
        }
        std::thread::sleep(ROUND);
    }
}

fn publish(report: &Report) -> Result<()> {
    let text = serde_json::to_vec_pretty(report).context("cannot write the report")?;
    files::write(Path::new(report::PATH), &text, 0o644, None).map(drop)
}

/// What is wrong with the running system; `None` if it is healthy.
fn problem() -> Option<String> {
    if let Ok(problem) = std::fs::read_to_string(STATE_PROBLEM) {
        return Some(problem.trim().to_owned());
    }
    let role = match role() {
        Ok(role) => role,
        Err(error) => return Some(format!("{error:#}")),
    };
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["show", "--property=Id,ActiveState"]).args(units(role));
    let shown = match systemctl.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => return Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => return Some(format!("cannot run systemctl: {error}")),
    };
    inactive(&shown).or_else(|| if role == Some(Role::BackupServer) { unanswered() } else { None })
}

/// Whether systemd has started what is started at boot, with whatever outcome.
fn boot_is_over() -> bool {
    let output = Command::new("systemctl").arg("is-system-running").output();
    output.is_ok_and(|output| matches!(output.stdout.trim_ascii(), b"running" | b"degraded"))
}

fn role() -> Result<Option<Role>> {
    let path = Path::new(provisioning::identity::PATH);
    let Some(text) = files::read(&Path::new("/").join(path))? else { return Ok(None) };
    let identity: Identity = serde_json::from_str(&text).context("identity.json is damaged")?;
    Ok(Some(identity.role))
}

/// Which of the backup server's ports does not answer.
fn unanswered() -> Option<String> {
    let certificate = match std::fs::read_to_string("/var/lib/infimonitor/tls/certificate.pem") {
        Ok(certificate) => certificate,
        Err(error) => return Some(format!("the certificate cannot be read: {error}")),
    };
    let api = api::Client::new("127.0.0.1", api::CONTROL_PORT, &certificate, "")
        .and_then(|client| client.answers());
    if let Err(error) = api {
        return Some(error.to_string());
    }
    ftp_greeting().err().map(|error| format!("FTP does not answer: {error}"))
}

fn ftp_greeting() -> std::io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, api::FTP_PORT));
    let stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.starts_with("220") { Ok(()) } else { Err(std::io::Error::other(format!("it says {line:?}"))) }
}

fn restart() -> Result<()> {
    let systemctl = |arguments: &[&str]| {
        let status = Command::new("systemctl").args(arguments).status();
        status.context("cannot run systemctl").map(drop)
    };
    systemctl(&["--no-block", "reboot"])?;
    std::thread::sleep(RESTART_LIMIT);
    systemctl(&["--force", "--force", "reboot"])
}
