//! Downloads of a backup: our virtual tar against vsftpd with the same bytes in a file.

use crate::database::{LONG, fill};
use crate::peers::Vsftpd;
use crate::report::{Comparison, Series};
use anyhow::{Context, Result};
use api::CreateBackup;
use integration::{Monitor, PASSWORD, Server, run as run_to_end};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use tools::{Toolbox, Tree};

/// What is measured, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Size of the database in gigabytes
    #[arg(long, default_value_t = 2)]
    gigabytes: u32,
    /// Turns
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Where a file is fetched from.
struct Source<'a> {
    toolbox: &'a Toolbox,
    port: u16,
    user: String,
    file: &'a str,
}

/// One download.
struct Download {
    /// All that whoever downloads waits for, in seconds.
    seconds: f64,
    /// Bytes per second from the first byte to the last, in 10⁶.
    rate: f64,
}

impl Source<'_> {
    fn curl(&self, tls: bool) -> Command {
        let mut curl = self.toolbox.command("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--user", &self.user]);
        if tls {
            curl.args(["--ssl-reqd", "--insecure"]);
        }
        curl.arg(format!("ftp://127.0.0.1:{}/{}", self.port, self.file));
        curl
    }

    fn save(&self, place: &Path) -> Result<()> {
        let status = self.curl(true).stdout(File::create(place)?).status()?;
        anyhow::ensure!(status.success(), "the download failed ({status})");
        Ok(())
    }

    fn measure(&self, tls: bool, bytes: u64) -> Result<Download> {
        let mut curl = self.curl(tls);
        curl.args(["--write-out", "%{stderr}%{time_starttransfer} %{time_total} %{size_download}"]);
        let output = curl.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "the download failed ({}): {said}", output.status);
        let figures: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [first, seconds, size] = figures[..] else { anyhow::bail!("curl says: {said}") };
        anyhow::ensure!(size == bytes as f64, "{size} bytes came, not {bytes}");
        Ok(Download { seconds, rate: size / (seconds - first) / 1e6 })
    }
}

/// Runs everything.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    let toolbox = Toolbox::open()?;
    let peers = Toolbox::open_tree(Tree::PEERS)?;
    let monitor = Monitor::start(&toolbox)?;
    eprintln!("filling the database");
    let size = fill(&toolbox, &monitor, options.gigabytes)?;
    let mut server = Server::start(&toolbox)?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], LONG)?;
    let backup = server.client()?.create_backup(&CreateBackup::default())?;
    server.order_in_words("/usr/lib/infimonitor/hostd order ftp --allow-clear true")?;
    let tar = format!("{}.tar", backup.id);
    let ours = Source {
        toolbox: &toolbox,
        port: server.start_ftpd()?,
        user: format!("backup:{PASSWORD}"),
        file: &tar,
    };

    let folder = server.data().join("vsftpd");
    std::fs::create_dir(&folder).context("cannot make vsftpd's folder")?;
    ours.save(&folder.join(&tar))?;
    run_to_end(Command::new("chmod").args(["-R", "a+rX"]).arg(&folder))?;
    let bytes = std::fs::metadata(folder.join(&tar))?.len();
    let vsftpd = Vsftpd::start(&peers, &folder, &server.tls_dir())?;
    let theirs = Source { toolbox: &toolbox, port: vsftpd.port, user: "anonymous:".to_owned(), file: &tar };

    let sides = [("vsftpd", theirs), ("our virtual tar", ours)];
    let mut comparisons = Vec::new();
    for (tls, way) in [(false, "in clear"), (true, "with TLS")] {
        let mut measured = [Vec::new(), Vec::new()];
        // The first of each is not counted: the files come into the cache.
        for round in 0..=options.rounds {
            eprintln!("{way}, turn {round}");
            for (side, downloads) in sides.iter().zip(&mut measured) {
                let download = side.1.measure(tls, bytes).with_context(|| format!("{} {way}", side.0))?;
                if round > 0 {
                    downloads.push(download);
                }
            }
        }
        let series = |unit, figure: fn(&Download) -> f64| {
            let sides = sides.iter().zip(&measured);
            sides
                .map(|(side, downloads)| Series::new(side.0, unit, downloads.iter().map(figure).collect()))
                .collect()
        };
        let of = format!("a tar of {:.1} GB, database {size}", bytes as f64 / 1e9);
        comparisons.push(Comparison {
            title: format!("Download {way}, {of} (goal: at least 0.9 × vsftpd in clear)"),
            series: series("MB/s", |download| download.rate),
        });
        comparisons.push(Comparison {
            title: format!("The same with connecting and the login, whose hash takes its time ({way})"),
            series: series("s", |download| download.seconds),
        });
    }
    Ok(comparisons)
}
