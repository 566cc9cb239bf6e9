//! The commands: everything is given as options, progress goes to standard error or as JSON lines to standard output.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use api::{Backup, Host, Secret, Verification};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use recovery::Failure;
use recovery::checks::{gigabytes, obstacles};
use recovery::local::Local;
use recovery::restore::{Restore, Stage, Written};
use recovery::server::{Address, Before, LATEST, Server};
use recovery::steps::{self, Configuration, Event, Pairing};
use recovery::trust::Fingerprint;
use serde_json::json;

/// Between two JSON lines of the same kind.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub enum Command {
    /// Shows the fingerprint of the server's key, to be compared with what its console shows
    Fingerprint {
        #[command(flatten)]
        at: At,
    },
    /// Lists the server's backups, and why one cannot be restored here
    List {
        #[command(flatten)]
        access: Access,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Goes on with a restore that was cut after its download, without the server
    Continue {
        /// Progress as JSON lines on standard output
        #[arg(long)]
        json: bool,
    },
    /// Says what is under way on this machine
    Status {
        /// One JSON document: null, or the backup's id, the stage, and the size of its tar
        #[arg(long)]
        json: bool,
    },
    /// Removes the data that was there before the restore: whoever restored is content
    Confirm,
    /// Goes back to what was there before: removes what the restore made
    Abandon {
        /// Also where it is live: what was written since is lost
        #[arg(long)]
        live: bool,
    },
}

#[derive(Args)]
pub struct At {
    /// The backup server's address or name
    #[arg(long)]
    server: String,
    /// Port of its control API
    #[arg(long, default_value_t = api::CONTROL_PORT)]
    control_port: u16,
    /// Port of its FTP
    #[arg(long, default_value_t = api::FTP_PORT)]
    ftp_port: u16,
}

#[derive(Args)]
pub struct Access {
    #[command(flatten)]
    at: At,
    /// The server's key, as its console and `monitor-link restore fingerprint` show it: sha256//…
    #[arg(long)]
    fingerprint: Fingerprint,
    /// A file with the password of user `backup`; `-` is standard input
    #[arg(long)]
    password_file: PathBuf,
}

/// A restore, or going on with what was cut. As [`Access`], with all of it or nothing.
#[derive(Args)]
pub struct Restoring {
    /// The backup server's address or name
    #[arg(long, requires_all = ["fingerprint", "password_file"])]
    server: Option<String>,
    /// Port of its control API
    #[arg(long, default_value_t = api::CONTROL_PORT)]
    control_port: u16,
    /// Port of its FTP
    #[arg(long, default_value_t = api::FTP_PORT)]
    ftp_port: u16,
    /// The server's key, as its console and `monitor-link restore fingerprint` show it: sha256//…
    #[arg(long, requires = "server")]
    fingerprint: Option<Fingerprint>,
    /// A file with the password of user `backup`; `-` is standard input
    #[arg(long, requires = "server")]
    password_file: Option<PathBuf>,
    /// Id of the backup, or `latest`: the newest that can be restored here, verified ones first
    #[arg(long, requires = "server", default_value = LATEST)]
    backup: String,
    /// Apply all of the monitor's configuration, also what runs programs, loads libraries or lets in without a password:
    /// without it that is kept aside and listed
    #[arg(long, requires = "server")]
    accept_configuration: bool,
    /// Pair with the server again afterwards
    #[arg(long, requires = "server")]
    pair: bool,
    /// For that, this machine's address or name as the backup server sees it, where it is not the one of this machine's
    /// way there
    #[arg(long, requires = "pair")]
    address: Option<Host>,
    /// For that, the certificate of the authority that has signed PostgreSQL's, where it has one of its own
    #[arg(long, requires = "pair")]
    ca: Option<PathBuf>,
    /// Pair even where the server cannot keep what it has of the monitor as a backup
    #[arg(long, requires = "pair")]
    pair_without_backup: bool,
    /// Progress as JSON lines on standard output
    #[arg(long, requires = "server")]
    json: bool,
}

impl Restoring {
    /// What is needed for it, if it was asked for.
    pub fn access(&self) -> Option<Access> {
        let at =
            At { server: self.server.clone()?, control_port: self.control_port, ftp_port: self.ftp_port };
        Some(Access { at, fingerprint: self.fingerprint?, password_file: self.password_file.clone()? })
    }

    pub fn run(&self, access: &Access, cluster: Option<&str>) -> Result<(), Failure> {
        telling_failure(self.json, self.restore(access, cluster))
    }

    fn restore(&self, access: &Access, cluster: Option<&str>) -> Result<(), Failure> {
        let _lock = crate::lock()?;
        let local = Local::find(cluster)?;
        let server = access.open()?;
        local.host().finish_removal()?;
        let wanted = self.backup.as_str();
        let mut teller = Teller::new(self.json);
        let going_on = {
            let host = local.host();
            Restore::under_way(&host)?.map(|restore| (restore.manifest().clone(), restore.stage()))
        };
        let manifest = match going_on {
            // The newest one may be another by now; what was begun is meant.
            Some((manifest, stage))
                if [LATEST, &manifest.backup.id, &manifest.backup.full_name()].contains(&wanted) =>
            {
                // On a node that only waits to be called a monitor that is what goes on.
                let is_done = matches!(stage, Stage::Live | Stage::Confirming);
                if is_done && !self.pair && !local.become_monitor()? {
                    return Err(anyhow!(
                        "backup {} is restored already and not confirmed yet; nothing was done now. `monitor-link restore \
                         confirm` keeps it, `monitor-link restore abandon --live` goes back to what was there before",
                        manifest.backup.id
                    )
                    .into());
                }
                let text = sentence(&manifest.backup, stage, &local);
                teller.tell(&Event::Note { text: format!("{text} It goes on.") });
                manifest
            }
            _ => {
                let backup = server.choose(wanted, &local.facts()?)?;
                teller.tell(&Event::Chosen {
                    backup: backup.id.clone(),
                    created: backup.created,
                    verified: matches!(backup.verification, Verification::Verified(_)),
                    bytes: backup.sizes.files,
                    newer: server.newer_than(backup).iter().map(|newer| newer.id.clone()).collect(),
                });
                server.manifest(backup)?
            }
        };
        let configuration =
            if self.accept_configuration { Configuration::All } else { Configuration::Harmless };
        let before = if self.pair_without_backup { Before::MayBeLost } else { Before::Kept };
        let pairing = Pairing { address: self.address.as_ref(), authority: self.ca.as_deref(), before };
        let pairing = self.pair.then_some(&pairing);
        let tell = &mut |event| teller.tell(&event);
        steps::restore(&local, Some(&server), &manifest, configuration, pairing, tell)?;
        if let Some(pairing) = pairing {
            steps::pair(&local, &server, &manifest, pairing, tell)?;
        }
        local.become_monitor()?;
        teller.done(&local, &manifest.backup.id)?;
        Ok(())
    }
}

impl At {
    fn address(&self) -> Address {
        Address { host: self.server.clone(), control_port: self.control_port, ftp_port: self.ftp_port }
    }
}

impl Access {
    fn open(&self) -> Result<Server, Failure> {
        Server::open(self.at.address(), self.fingerprint, password(&self.password_file)?)
    }
}

/// The first line of a file.
fn password(path: &Path) -> Result<Secret> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text).map(drop)),
    };
    read.with_context(|| format!("cannot read the password from {}", path.display()))?;
    Ok(Secret::new(text.lines().next().unwrap_or_default()))
}

impl Command {
    pub fn run(&self, cluster: Option<&str>) -> Result<(), Failure> {
        match self {
            Self::Fingerprint { at } => {
                say(&at.address().fingerprint()?.to_string())?;
                Ok(())
            }
            Self::List { access, json } => list(&access.open()?, &Local::find(cluster)?, *json),
            Self::Continue { json } => telling_failure(*json, go_on(cluster, *json)),
            Self::Status { json: true } => {
                let local = Local::find(cluster)?;
                let under_way = Restore::under_way(&local.host())?.map(|restore| {
                    let Backup { id, sizes, .. } = &restore.manifest().backup;
                    json!({ "backup": id, "stage": restore.stage(), "tar_bytes": sizes.tar })
                });
                say(&json!(under_way).to_string())?;
                Ok(())
            }
            Self::Status { json: false } => {
                let local = Local::find(cluster)?;
                let host = local.host();
                let text = match Restore::under_way(&host)? {
                    None if host.is_removing() => {
                        "What a restore has left is being removed; any other command of `monitor-link restore` goes on \
                         with it."
                            .to_owned()
                    }
                    None => "No restore is under way here.".to_owned(),
                    Some(restore) => sentence(&restore.manifest().backup, restore.stage(), &local),
                };
                say(&text)?;
                Ok(())
            }
            Self::Confirm => {
                let _lock = crate::lock()?;
                let local = Local::find(cluster)?;
                let host = local.host();
                let cut = host.finish_removal()?;
                let notes = match (Restore::under_way(&host)?, cut) {
                    (Some(restore), _) => restore.confirm()?,
                    (None, Some(notes)) => notes,
                    (None, None) => return Err(anyhow!("no restore is under way here").into()),
                };
                for note in notes {
                    say(&note)?;
                }
                say("What was there before is removed.")?;
                Ok(())
            }
            Self::Abandon { live } => {
                let _lock = crate::lock()?;
                let local = Local::find(cluster)?;
                let host = local.host();
                let cut = host.finish_removal()?;
                match (Restore::under_way(&host)?, cut) {
                    (Some(restore), _) => {
                        restore.abandon(if *live { Written::Lost } else { Written::Kept })?
                    }
                    (None, Some(_)) => {}
                    (None, None) => return Err(anyhow!("no restore is under way here").into()),
                }
                say("What the restore made is removed; the machine has what it had before.")?;
                Ok(())
            }
        }
    }
}

fn go_on(cluster: Option<&str>, json: bool) -> Result<(), Failure> {
    let _lock = crate::lock()?;
    let local = Local::find(cluster)?;
    let manifest = {
        let host = local.host();
        host.finish_removal()?;
        let restore = Restore::under_way(&host)?.context("no restore is under way here")?;
        restore.manifest().clone()
    };
    let mut teller = Teller::new(json);
    steps::restore(&local, None, &manifest, Configuration::Harmless, None, &mut |event| teller.tell(&event))?;
    local.become_monitor()?;
    teller.done(&local, &manifest.backup.id)?;
    Ok(())
}

/// Says a failure as an event too, where events are wanted.
fn telling_failure(json: bool, result: Result<(), Failure>) -> Result<(), Failure> {
    if let (Err(failure), true) = (&result, json) {
        let (status, text) = (failure.exit_status(), failure.to_string());
        say(&json!({ "event": "failed", "status": status, "text": text }).to_string())?;
    }
    result
}

/// What the journal says, for people.
pub fn sentence(backup: &Backup, stage: Stage, local: &Local) -> String {
    let Backup { id, sizes, .. } = backup;
    match stage {
        Stage::Unpacking(bytes) => {
            let (bytes, all) = (gigabytes(bytes), gigabytes(sizes.tar));
            format!("Backup {id} is being restored: {bytes} of {all} are unpacked.")
        }
        Stage::Unpacked => format!("Backup {id} is unpacked and not recovered yet."),
        Stage::Ready => format!("Backup {id} is recovered and can take the live data's place."),
        Stage::Swapping => format!("Backup {id} was taking the live data's place."),
        Stage::GoingBack => format!("What was there before backup {id} was being brought back."),
        Stage::Confirming => format!("Backup {id} is restored, and the data before it is being removed."),
        Stage::Live => format!(
            "Backup {id} is restored; the data before it is kept in {}, until `monitor-link restore confirm`.",
            local.host().work().display()
        ),
    }
}

fn list(server: &Server, local: &Local, as_json: bool) -> Result<(), Failure> {
    let machine = local.facts()?;
    if as_json {
        let rows: Vec<_> = server
            .backups()
            .into_iter()
            .map(|backup| json!({ "backup": backup, "obstacles": obstacles(backup, &machine) }))
            .collect();
        say(&serde_json::to_string_pretty(&rows).context("cannot write the list")?)?;
        return Ok(());
    }
    for backup in server.backups() {
        let Backup { id, created, monitor, sizes, pinned, comment, .. } = backup;
        let pinned = if *pinned { "  pinned" } else { "" };
        let bytes = gigabytes(sizes.files);
        let created = created.strftime("%Y-%m-%d %H:%M UTC");
        let verified = verification(&backup.verification);
        say(&format!("{id}  {created}  monitor {}  {bytes}  {verified}{pinned}", monitor.version))?;
        if !comment.is_empty() {
            say(&format!("    {comment}"))?;
        }
        for obstacle in obstacles(backup, &machine) {
            say(&format!("    {obstacle}"))?;
        }
    }
    Ok(())
}

/// One word for a verification.
pub fn verification(verification: &Verification) -> &'static str {
    match verification {
        Verification::Verified(_) => "verified",
        Verification::Pending => "not verified yet",
        Verification::Superseded => "not verified",
        Verification::Failed { .. } => "cannot be restored",
    }
}

/// A line for a terminal. What the server sends are a monitor's words, perhaps a hostile one's, so control characters are not
/// handed on.
fn say(text: &str) -> Result<()> {
    let text = harmless(text);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

fn harmless(text: &str) -> String {
    let show = |character: char| match character {
        '\n' => vec!['\n'],
        character if character.is_control() => character.escape_unicode().collect(),
        character => vec![character],
    };
    text.chars().flat_map(show).collect()
}

/// Tells events: JSON lines, or a progress bar and lines.
struct Teller {
    json: bool,
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl Teller {
    fn new(json: bool) -> Self {
        Self { json, bar: None, last: None }
    }

    /// What cannot be told, as nobody listens any more, is no reason to stop a restore.
    fn tell(&mut self, event: &Event) {
        let is_frequent = matches!(event, Event::Downloaded { .. } | Event::Replayed { .. });
        if self.json {
            let is_end = matches!(event, Event::Downloaded { bytes, total } if bytes == total);
            if is_frequent && !is_end && self.last.is_some_and(|last| last.elapsed() < PERIOD) {
                return;
            }
            self.last = Some(Instant::now()).filter(|_| is_frequent);
            if let Ok(line) = serde_json::to_string(event) {
                say(&line).ok();
            }
            return;
        }
        match event {
            Event::Chosen { backup, created, verified, bytes, newer } => {
                let (created, size) = (created.strftime("%Y-%m-%d %H:%M UTC"), gigabytes(*bytes));
                let verified = if *verified { "verified" } else { "not verified" };
                self.line(&format!("Restoring backup {backup} of {created}, {size}, {verified}."));
                if !newer.is_empty() {
                    let newer = newer.join(", ");
                    self.line(&format!("Newer, and passed over: {newer}. Take one with `--backup ID`."));
                }
            }
            Event::Step { step } => self.line(step.sentence()),
            Event::Note { text } => self.line(text),
            Event::Downloaded { bytes, total } => {
                let bar = self.bar.get_or_insert_with(|| bar(*total, *bytes));
                bar.set_position(*bytes);
                if bytes == total {
                    bar.finish();
                    self.bar = None;
                }
            }
            Event::Replayed { .. } => {}
        }
    }

    fn line(&mut self, text: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        eprintln!("monitor-link restore: {}", harmless(text));
    }

    fn done(&mut self, local: &Local, id: &str) -> Result<()> {
        let kept = local.host().work();
        if self.json {
            return say(&json!({ "event": "done", "backup": id, "kept": kept }).to_string());
        }
        self.line(&format!(
            "Backup {id} is restored. The data before it is kept in {}; `monitor-link restore confirm` removes it.",
            kept.display()
        ));
        Ok(())
    }
}

/// Bytes, rate and time left; from where a cut download goes on, so that the rate is that of now.
fn bar(total: u64, from: u64) -> ProgressBar {
    // A serial line is slow, and has 80 columns.
    let target = ProgressDrawTarget::stderr_with_hz(2);
    let bar = ProgressBar::with_draw_target(Some(total), target).with_position(from);
    bar.reset_eta();
    let template = "{bar:16} {percent:>3} %  {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(harmless("a\x1b[2J\u{9b}ü\nb\r"), "a\\u{1b}[2J\\u{9b}ü\nb\\u{d}");
    }
}
