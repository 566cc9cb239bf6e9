//! Backups, the first copy, and what it costs the monitor to be followed.

use crate::database::{LONG, fill, pgbench, settle};
use crate::following;
use crate::peers::{Barman, PgBackRest, basebackup};
use crate::report::{Comparison, Series};
use anyhow::{Context, Result};
use api::CreateBackup;
use hostd::Request;
use integration::{Monitor, Process, Server, run as run_to_end};
use std::path::Path;
use std::time::{Duration, Instant};
use tools::{Toolbox, Tree};

/// What is measured, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Sizes of the database in gigabytes
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    gigabytes: Vec<u32>,
    /// Turns of each comparison
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(flatten)]
    following: following::Load,
    /// Backups of each kind that takes no time
    #[arg(long, default_value_t = 15)]
    snapshots: usize,
}

/// Runs everything.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    let toolbox = Toolbox::open()?;
    let peers = Toolbox::open_tree(Tree::PEERS)?;
    let mut comparisons = Vec::new();
    for gigabytes in &options.gigabytes {
        let bench = Bench { toolbox: &toolbox, peers: &peers, options, gigabytes: *gigabytes };
        comparisons.extend(bench.run().with_context(|| format!("with {gigabytes} GB"))?);
    }
    Ok(comparisons)
}

struct Bench<'a> {
    toolbox: &'a Toolbox,
    peers: &'a Toolbox,
    options: &'a Options,
    gigabytes: u32,
}

impl Bench<'_> {
    fn run(&self) -> Result<Vec<Comparison>> {
        let mut monitor = Monitor::start(self.toolbox)?;
        for (name, value) in [
            ("fsync", "on"),
            ("max_wal_size", "4GB"),
            ("shared_buffers", "512MB"),
            ("archive_mode", "on"),
            ("archive_command", "true"),
        ] {
            monitor.sql(&format!("alter system set {name} = '{value}'"))?;
        }
        monitor.stop()?;
        monitor.run_server()?;
        self.say("filling the database");
        let size = fill(self.toolbox, &monitor, self.gigabytes)?;

        let mut server = Server::start(self.toolbox)?;
        let mut comparisons = vec![self.first_copy(&monitor, &server, &size)?];
        server.client()?.pair(&monitor.peer)?;
        server.wait_for_state(&["synchronized"], LONG)?;
        comparisons.push(self.backups(&monitor, &server, &size)?);
        let plan = self.options.following.plan();
        let (toolbox, monitor, server) = (self.toolbox, &mut monitor, &mut server);
        comparisons.extend(following::Bench { toolbox, monitor, server, size: &size }.run(plan)?);
        Ok(comparisons)
    }

    fn say(&self, what: &str) {
        eprintln!("{} GB: {what}", self.gigabytes);
    }

    fn load(&self, monitor: &Monitor, seconds: u32) -> std::process::Command {
        let mut command = pgbench(self.toolbox, monitor);
        command.args(["-n", "-c", "4", "-j", "1", "-T", &seconds.to_string()]);
        command
    }

    /// Our first copy and pg_basebackup, by turns, onto the same volume, the monitor idle.
    fn first_copy(&self, monitor: &Monitor, server: &Server, size: &str) -> Result<Comparison> {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for round in 0..self.options.rounds {
            self.say(&format!("first copy, turn {}", round + 1));
            let target = server.data().join("basebackup");
            theirs.push(basebackup(self.toolbox, monitor, &target)?);
            std::fs::remove_dir_all(&target)?;
            settle(server.data())?;
            let copy = Request::FullCopy {
                peer: Box::new(monitor.peer.clone()),
                tablespaces: Vec::new(),
                replace: round > 0,
            };
            let started = Instant::now();
            server.order(&copy)?;
            ours.push(started.elapsed().as_secs_f64());
            settle(server.data())?;
        }
        Ok(Comparison {
            title: format!("First copy of {size}, monitor idle (goal: at most 1.1 × pg_basebackup)"),
            series: vec![Series::new("pg_basebackup", "s", theirs), Series::new("our full copy", "s", ours)],
        })
    }

    /// Backups of all kinds under load.
    fn backups(&self, monitor: &Monitor, server: &Server, size: &str) -> Result<Comparison> {
        let folder = integration::test_folder()?;
        let load = Process::start(&mut self.load(monitor, 36_000), &folder.path().join("load"))?;
        std::thread::sleep(Duration::from_secs(5));
        self.say("our backups and bare snapshots");
        let client = server.client()?;
        let replica = server.data().join("replica").join(monitor.peer.id.to_string());
        let (mut bare, mut ours, mut snapshots, mut calls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in 0..self.options.snapshots {
            bare.push(self.bare_snapshot(&replica, &server.data().join(format!("bare-{number}")))?);
            let started = Instant::now();
            let backup = client.create_backup(&CreateBackup::default())?;
            ours.push(started.elapsed().as_secs_f64());
            snapshots.push(backup.snapshot_ms / 1000.0);
            let started = Instant::now();
            client.settings()?;
            calls.push(started.elapsed().as_secs_f64());
        }
        self.say("pg_basebackup, pgBackRest, Barman");
        let target = server.data().join("basebackup");
        let base = Series::of("pg_basebackup", "s", [basebackup(self.toolbox, monitor, &target)]);
        std::fs::remove_dir_all(&target)?;
        let (full, incremental) = match PgBackRest::prepare(self.peers, monitor, server.data()) {
            Ok(peer) => (
                Series::of("pgBackRest, full", "s", [peer.backup("full")]),
                Series::of(
                    "pgBackRest, incremental",
                    "s",
                    (0..self.options.rounds).map(|_| peer.backup("incr")),
                ),
            ),
            Err(error) => {
                let problem = Some(format!("{error:#}"));
                let none = |name| Series { problem: problem.clone(), ..Series::new(name, "s", Vec::new()) };
                (none("pgBackRest, full"), none("pgBackRest, incremental"))
            }
        };
        let barman = Barman::prepare(self.peers, monitor, server.data()).and_then(|peer| peer.backup());
        drop(load);
        Ok(Comparison {
            title: format!(
                "Backup of {size} under load (goal: at most 2 × the bare snapshot, and flat over size)"
            ),
            series: vec![
                Series::new("bare btrfs snapshot", "s", bare),
                Series::new("our backup, as the API's user waits", "s", ours),
                Series::new("of it, the snapshot", "s", snapshots),
                Series::new("an API call that does nothing", "s", calls),
                base,
                full,
                incremental,
                Series::of("Barman", "s", [barman]),
            ],
        })
    }

    /// Seconds of one `btrfs subvolume snapshot -r`, without what it costs to start a program of the tools tree.
    fn bare_snapshot(&self, source: &Path, target: &Path) -> Result<f64> {
        let script =
            "s=$EPOCHREALTIME; btrfs subvolume snapshot -r \"$0\" \"$1\" >&2; e=$EPOCHREALTIME; echo $s $e";
        let output = run_to_end(
            self.toolbox.command("bash").env("LC_ALL", "C").args(["-ec", script]).arg(source).arg(target),
        )?;
        let text = String::from_utf8(output.stdout)?;
        let (start, end) = text.trim().split_once(' ').context("two times are printed")?;
        Ok(end.parse::<f64>()? - start.parse::<f64>()?)
    }
}
