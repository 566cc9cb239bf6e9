//! `installer`: installs a machine from the medium that it was booted of, and looks at answers before they are used.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use installer::apply::Progress;
use installer::medium::{MOUNTED, Medium};
use installer::report::Report;
use installer::sources::Remote;
use installer::{hash, pages, sources, unattended};
use provisioning::answers::Then;
use provisioning::{Answers, Role};

/// On the kernel's command line: the medium is checked, and nothing installed (image/grub/medium.cfg).
const CHECK: &str = "infimonitor.check";
/// Starts a unit on every console of the machine.
const CONSOLES: &str = "/usr/lib/infimonitor/consoles";
/// The unit that asks on a console.
const PAGES: &str = "infimonitor-installer";

/// Installs InfiMONITOR from its medium
#[derive(Debug, Parser)]
#[command(name = "installer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at a file with answers: is it understood, and what would be done?
    Check {
        /// The file
        #[arg(required_unless_present = "url")]
        file: Option<PathBuf>,
        /// Where it is, as a machine would fetch it: an https URL
        #[arg(long, requires = "sha256", conflicts_with = "file")]
        url: Option<String>,
        /// The SHA-256 of what is there
        #[arg(long, requires = "url")]
        sha256: Option<String>,
    },
    /// Print the hash of a password, for `password_hash` in answers; asks for it, or reads it from standard input
    Hash {
        /// Of root at the console, for `root_password_hash`
        #[arg(long)]
        console: bool,
    },
    /// Install by the answers that were given to this machine, or ask on its consoles; what the medium runs when it is
    /// booted
    Start,
    /// Ask on this console, and install
    Ask,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Check { file, url, sha256 } => {
            read(file.as_deref(), url.zip(sha256)).map(|(answers, source)| check(&answers, &source))
        }
        Command::Hash { console } => hash::run(console),
        Command::Start => start(),
        Command::Ask => pages::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("installer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The answers of a file or a URL, and which that is.
fn read(file: Option<&Path>, remote: Option<(String, String)>) -> Result<(Answers, String)> {
    if let Some((url, sha256)) = remote {
        return Ok((Remote::new(&url, &sha256)?.fetch()?, url));
    }
    let file = file.context("neither a file nor a URL is named")?;
    let answers =
        sources::from_file(file)?.with_context(|| format!("there is no file {}", file.display()))?;
    Ok((answers, file.display().to_string()))
}

fn check(answers: &Answers, source: &str) {
    println!("{source} is right: role {}", answers.role.name());
    let shown = |value: Option<String>, without: &str| value.unwrap_or_else(|| without.to_owned());
    println!(
        "Host name {}, time zone {}, keymap {}.",
        shown(answers.hostname.as_ref().map(ToString::to_string), answers.role.name()),
        shown(answers.time_zone.as_ref().map(ToString::to_string), "UTC"),
        shown(answers.keymap.as_ref().map(ToString::to_string), "us")
    );
    for interface in &answers.network {
        println!("Interface {}: {}.", interface.hardware, pages::told(Some(interface)));
    }
    println!("Every {}interface uses DHCP.", if answers.network.is_empty() { "" } else { "other " });
    if answers.root_password_hash.is_none() {
        println!("root_password_hash is not given: root is locked, so nobody can log in at the console.");
    }
    if answers.password_hash.is_none() && answers.role == Role::BackupServer {
        println!(
            "password_hash is not given: user backup has the default password, of which the server warns."
        );
    }
    match &answers.install {
        None => {
            println!("It has no section `install`: the installer asks, and shows these answers at first.")
        }
        Some(install) if install.disks.is_empty() => println!("It installs on all blank disks that suit."),
        Some(install) => {
            let loss = if install.require_empty { "if they are blank" } else { "and all on them is lost" };
            install.disks.iter().for_each(|disk| println!("It installs on disks with {disk}, {loss}."));
        }
    }
    if let Some(install) = &answers.install {
        let then = if install.then == Then::Reboot { "it restarts" } else { "it is switched off" };
        let dry = if install.dry_run { "It is a dry run: nothing is written. " } else { "" };
        println!("{dry}Afterwards {then}.");
    }
}

fn start() -> Result<()> {
    let mut report = Report::of_machine()?;
    let command_line = std::fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
    if storage::command_line::has(&command_line, CHECK) {
        return check_medium(&mut report);
    }
    let result = installed(&mut report);
    if let Err(error) = &result {
        report.say(&format!("Not installed: {error:#}"));
        report.say("None of the disks that were to be used boots by a half installation; begin again when it is mended.");
    }
    result
}

/// Reads all of the medium, and says whether it is what was published.
fn check_medium(report: &mut Report) -> Result<()> {
    report.say("Reading the installation medium …");
    let checked = Medium::open(Path::new(MOUNTED)).and_then(|medium| {
        let total = medium.bytes();
        medium.check(|done| report.progress(Progress::Bytes { done, total }))
    });
    match &checked {
        Ok(()) => report.say("The medium is good. Ctrl-Alt-Del restarts the machine."),
        Err(error) => report.say(&format!("{error:#}. Ctrl-Alt-Del restarts the machine.")),
    }
    checked
}

fn installed(report: &mut Report) -> Result<()> {
    // Disks that are slow to come are there.
    duct::cmd!("udevadm", "settle", "--timeout=60").run().context("cannot wait for the disks")?;
    let found = sources::find(Path::new(MOUNTED))?;
    let Some((found, install)) =
        found.as_ref().and_then(|found| Some((found, found.answers.install.as_ref()?)))
    else {
        duct::cmd!(CONSOLES, "start", PAGES).run().context("cannot show the installer on the consoles")?;
        return Ok(());
    };
    report.say(&format!("Installing by the answers of {}", found.source));
    match unattended::run(&found.answers, install, report)? {
        Some(then) => unattended::then(then),
        None => Ok(()),
    }
}
