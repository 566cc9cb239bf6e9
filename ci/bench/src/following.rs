//! What it costs the monitor to be followed: by nobody, by a plain standby with and without TLS, by pg_receivewal, and by
//! us, by turns, at full rate and at a part of it.
//!
//! The monitor and its load have one CPU and whoever follows has another, as two machines have: on shared ones the
//! follower's own work would be taken for a cost of being followed. What is left is what PostgreSQL itself pays for a WAL
//! sender.

use crate::database::{LONG, fill, pgbench};
use crate::peers::basebackup;
use crate::report::{Comparison, Series};
use anyhow::{Context, Result, anyhow, ensure};
use integration::{Monitor, Process, Server, as_cluster_user, free_port, run as run_to_end, wait_for};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tools::Toolbox;

/// CPU of the monitor and its load.
const MONITOR_CPU: usize = 0;
/// CPU of whoever follows.
const FOLLOWER_CPU: usize = 1;
/// `application_name` of the peers.
const PEER_NAME: &str = "peer";
/// Further behind than this in bytes, a follower has not caught up.
const CAUGHT_UP: u64 = 1 << 20;

/// The command `following`: this alone.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Size of the database in gigabytes
    #[arg(long, default_value_t = 1)]
    gigabytes: u32,
    /// Settings of the monitor to try, such as wal_compression=lz4
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    #[command(flatten)]
    load: Load,
}

/// The load.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Turns of each follower
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Seconds of load in each turn
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// The lower rate, in percent of what the monitor does alone
    #[arg(long, default_value_t = 30)]
    percent: u32,
}

impl Load {
    /// As a plan.
    pub fn plan(&self) -> Plan {
        Plan { rounds: self.turns, seconds: self.seconds, percent: self.percent }
    }
}

fn setting(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("a setting is NAME=VALUE")?;
    ensure!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name:?} is no setting's name");
    Ok((name.to_owned(), value.replace('\'', "''")))
}

/// Runs it.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    let toolbox = Toolbox::open()?;
    let mut monitor = Monitor::start(&toolbox)?;
    let ours = [("fsync", "on"), ("max_wal_size", "4GB"), ("shared_buffers", "512MB")];
    let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in ours.iter().chain(&options.settings) {
        monitor.sql(&format!("alter system set {name} = '{value}'"))?;
    }
    monitor.stop()?;
    monitor.run_server()?;
    eprintln!("{} GB: filling the database", options.gigabytes);
    let size = fill(&toolbox, &monitor, options.gigabytes)?;
    let mut server = Server::start(&toolbox)?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], LONG)?;
    let (monitor, server) = (&mut monitor, &mut server);
    Bench { toolbox: &toolbox, monitor, server, size: &size }.run(options.load.plan())
}

/// How long, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Turns of each.
    pub rounds: usize,
    /// Seconds of load in each turn.
    pub seconds: u32,
    /// The lower rate, in percent of what the monitor does alone.
    pub percent: u32,
}

/// Who follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follower {
    Nobody,
    Standby { tls: bool },
    ReceiveWal,
    Ours,
}

impl Follower {
    const ALL: [Self; 5] = [
        Self::Nobody,
        Self::Standby { tls: false },
        Self::Standby { tls: true },
        Self::ReceiveWal,
        Self::Ours,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Nobody => "without a follower",
            Self::Standby { tls: false } => "plain standby without TLS",
            Self::Standby { tls: true } => "plain standby",
            Self::ReceiveWal => "pg_receivewal",
            Self::Ours => "our backup server",
        }
    }
}

/// What one turn measured.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Transactions a second.
    rate: f64,
    /// The time in seconds that 99 % of the transactions took at most.
    p99: f64,
}

/// A monitor, filled, and a server that follows it; both run.
pub struct Bench<'a> {
    pub toolbox: &'a Toolbox,
    pub monitor: &'a mut Monitor,
    pub server: &'a mut Server,
    /// The database's size, for titles.
    pub size: &'a str,
}

impl Bench<'_> {
    /// Runs all turns.
    ///
    /// # Errors
    /// There is one CPU only, or a program fails.
    pub fn run(&mut self, plan: Plan) -> Result<Vec<Comparison>> {
        ensure!(
            std::thread::available_parallelism()?.get() >= 2,
            "monitor and follower need a CPU each, and this machine has one"
        );
        self.server.stop("TERM")?;
        self.monitor.stop()?;
        let hba = self.monitor.data().join("pg_hba.conf");
        let more = "hostnossl replication backup_server 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(&hba, std::fs::read_to_string(&hba)? + more)?;
        on_cpu(MONITOR_CPU, || self.monitor.run_server())?;
        // A standby has no slot, and is away in the turns of the others.
        self.monitor.sql("alter system set wal_keep_size = '24GB'")?;
        self.monitor.sql("select pg_reload_conf()")?;
        let standby = self.server.data().join("standby");
        on_cpu(FOLLOWER_CPU, || basebackup(self.toolbox, self.monitor, &standby))?;
        std::fs::write(standby.join("standby.signal"), "")?;
        let result = self.turns(plan, &standby);
        std::fs::remove_dir_all(&standby)?;
        result
    }

    fn turns(&mut self, plan: Plan, standby: &Path) -> Result<Vec<Comparison>> {
        let size = self.size;
        let full = self.at_rate(plan, standby, None)?;
        let alone = series("tps", &full, |turn| turn.rate);
        let most = alone.first().and_then(Series::median).context("nothing was measured")?;
        let rate = most * f64::from(plan.percent) / 100.0;
        let part = self.at_rate(plan, standby, Some(rate))?;
        let p99 = |turns: &Turns| series("s", turns, |turn| turn.p99);
        let lag = self.lag(plan)?;
        Ok(vec![
            Comparison {
                title: format!(
                    "Transactions of the monitor, {size} (goal: at most 1 % below a plain standby's)"
                ),
                series: alone,
            },
            Comparison { title: format!("Latency at full rate, p99, {size}"), series: p99(&full) },
            Comparison {
                title: format!("Latency at {} % of the full rate ({rate:.0} tps), p99, {size}", plan.percent),
                series: p99(&part),
            },
            lag,
        ])
    }

    fn at_rate(&mut self, plan: Plan, standby: &Path, rate: Option<f64>) -> Result<Turns> {
        let mut turns: Turns = Follower::ALL.into_iter().map(|follower| (follower, Vec::new())).collect();
        for round in 1..=plan.rounds {
            for (follower, measured) in &mut turns {
                eprintln!(
                    "{}, {}, turn {round} of {}",
                    follower.title(),
                    rate.map_or("full rate".into(), |rate| format!("{rate:.0} tps")),
                    plan.rounds
                );
                let turn = self.turn(*follower, standby, plan.seconds, rate);
                measured.push(turn.with_context(|| follower.title())?);
            }
        }
        Ok(turns)
    }

    fn turn(&mut self, follower: Follower, standby: &Path, seconds: u32, rate: Option<f64>) -> Result<Turn> {
        let folder = integration::test_folder()?;
        let log = folder.path().join("log");
        let received = self.server.data().join("received");
        let process = on_cpu(FOLLOWER_CPU, || match follower {
            Follower::Nobody => Ok(None),
            Follower::Standby { tls } => self.start_standby(standby, tls, &log).map(Some),
            Follower::ReceiveWal => self.start_receivewal(&received, &log).map(Some),
            Follower::Ours => {
                self.server.start_hostd()?;
                self.server.start_backupd()?;
                self.server.wait_for_state(&["synchronized"], LONG)?;
                Ok(None)
            }
        })?;
        if process.is_some() {
            self.wait_for_peer(&log)?;
        }
        self.monitor.sql("checkpoint")?;
        let measured = on_cpu(MONITOR_CPU, || self.load(seconds, rate));
        drop(process);
        if follower == Follower::Ours {
            self.server.stop("TERM")?;
        }
        if follower == Follower::ReceiveWal {
            std::fs::remove_dir_all(&received)?;
        }
        measured
    }

    /// How far behind our replica is at full rate. Apart from the turns, as asking takes time of the monitor's CPU.
    fn lag(&mut self, plan: Plan) -> Result<Comparison> {
        eprintln!("lag of {}", Follower::Ours.title());
        on_cpu(FOLLOWER_CPU, || {
            self.server.start_hostd()?;
            self.server.start_backupd()?;
            self.server.wait_for_state(&["synchronized"], LONG).map(drop)
        })?;
        let ask = "select coalesce(extract(epoch from max(replay_lag)), 0) from pg_stat_replication \
                   where usename = 'backup_server'";
        let lags = on_cpu(MONITOR_CPU, || {
            std::thread::scope(|scope| {
                let load = scope.spawn(|| self.load(plan.seconds, None));
                let mut lags = Vec::new();
                while !load.is_finished() {
                    lags.push(self.monitor.sql(ask)?.parse()?);
                    std::thread::sleep(Duration::from_millis(250));
                }
                load.join().map_err(|_| anyhow!("the load's thread panicked"))??;
                Ok(lags)
            })
        })?;
        self.server.stop("TERM")?;
        let lag = Series::new("lag of replay", "s", lags);
        let at = |name, part| Series::new(name, "s", lag.percentile(part).into_iter().collect());
        Ok(Comparison {
            title: format!("Lag at full rate, {} (goal: p99 below 1 s)", self.size),
            series: vec![at("lag of replay, p50", 0.5), at("lag of replay, p99", 0.99)],
        })
    }

    fn source(&self, tls: bool) -> String {
        let peer = &self.monitor.peer;
        format!(
            "host={} port={} user={} application_name={PEER_NAME} sslmode={}",
            peer.address,
            peer.port,
            peer.user,
            if tls { "require" } else { "disable" }
        )
    }

    fn start_standby(&self, standby: &Path, tls: bool, log: &Path) -> Result<Process> {
        let mut command = as_cluster_user(self.toolbox, &self.toolbox.postgresql("postgres"));
        command.env("PGPASSWORD", self.monitor.peer.password.reveal()).arg("-D").arg(standby);
        for (name, value) in [
            ("port", free_port()?.to_string()),
            ("listen_addresses", String::new()),
            ("unix_socket_directories", self.monitor.socket_dir().display().to_string()),
            ("fsync", "on".into()),
            ("archive_mode", "off".into()),
            ("primary_conninfo", self.source(tls)),
        ] {
            command.args(["-c", &format!("{name}={value}")]);
        }
        Process::start(&mut command, log)
    }

    fn start_receivewal(&self, received: &PathBuf, log: &Path) -> Result<Process> {
        std::fs::create_dir_all(received)?;
        let owner = Some(integration::CLUSTER_ID);
        std::os::unix::fs::chown(received, owner, owner)?;
        let mut command = as_cluster_user(self.toolbox, &self.toolbox.postgresql("pg_receivewal"));
        command.env("PGPASSWORD", self.monitor.peer.password.reveal());
        command.args(["-d", &self.source(true), "-D"]).arg(received);
        Process::start(&mut command, log)
    }

    fn wait_for_peer(&self, log: &Path) -> Result<()> {
        let behind = format!(
            "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), coalesce(replay_lsn, flush_lsn, sent_lsn)))::bigint, \
             {}) from pg_stat_replication where application_name = '{PEER_NAME}'",
            i64::MAX
        );
        let waited = wait_for("the peer has caught up", LONG, || {
            let bytes = self.monitor.sql(&behind).map_err(|error| format!("{error:#}"))?;
            let bytes: u64 = bytes.parse().map_err(|_| bytes)?;
            if bytes <= CAUGHT_UP { Ok(()) } else { Err(format!("{bytes} bytes behind")) }
        });
        waited.with_context(|| std::fs::read_to_string(log).unwrap_or_default())
    }

    /// Runs pgbench, with what it logs of each transaction.
    fn load(&self, seconds: u32, rate: Option<f64>) -> Result<Turn> {
        let prefix = self.monitor.socket_dir().join("transactions");
        let mut command = pgbench(self.toolbox, self.monitor);
        command
            .args(["-n", "-c", "4", "-j", "1", "-l", "-T", &seconds.to_string(), "--log-prefix"])
            .arg(&prefix);
        if let Some(rate) = rate {
            command.args(["-R", &rate.to_string()]);
        }
        let printed = String::from_utf8(run_to_end(&mut command)?.stdout)?;
        let mut times = Vec::new();
        for entry in std::fs::read_dir(self.monitor.socket_dir())? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("transactions")) {
                times.extend(latencies(&std::fs::read_to_string(&path)?)?);
                std::fs::remove_file(&path)?;
            }
        }
        let p99 =
            Series::new("", "s", times).percentile(0.99).context("pgbench has logged no transaction")?;
        Ok(Turn { rate: tps(&printed)?, p99 })
    }
}

type Turns = Vec<(Follower, Vec<Turn>)>;

fn series(unit: &'static str, turns: &Turns, value: impl Fn(&Turn) -> f64) -> Vec<Series> {
    let one = |(follower, turns): &(Follower, Vec<Turn>)| {
        Series::new(follower.title(), unit, turns.iter().map(&value).collect())
    };
    turns.iter().map(one).collect()
}

/// Runs `work` on one CPU, with all that it starts; they stay there.
fn on_cpu<T>(cpu: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(None).context("cannot tell on which CPUs this runs")?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).with_context(|| format!("cannot run on CPU {cpu}"))?;
    let done = work();
    sched_setaffinity(None, &before).context("cannot run on all CPUs again")?;
    done
}

/// The rate that pgbench prints.
pub fn tps(printed: &str) -> Result<f64> {
    let line =
        printed.lines().find_map(|line| line.strip_prefix("tps = ")).context("pgbench prints no tps")?;
    line.split_whitespace().next().unwrap_or_default().parse().context("pgbench's tps are no number")
}

/// The seconds of each transaction, from pgbench's log: its third column has microseconds (documentation, "Per-Transaction
/// Logging").
fn latencies(log: &str) -> Result<Vec<f64>> {
    let of_line = |line: &str| {
        let column = line.split_whitespace().nth(2).with_context(|| format!("no latency in {line:?}"))?;
        Ok(column.parse::<f64>().with_context(|| format!("no latency in {line:?}"))? / 1e6)
    };
    log.lines().map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_read() {
        assert_eq!(
            tps("latency average = 1 ms\ntps = 812.5 (without initial connection time)\n").unwrap(),
            812.5
        );
        assert!(tps("nothing").is_err());
        let log = "0 1 1500 0 1700000000 12 3\n1 2 250 0 1700000000 13\n";
        assert_eq!(latencies(log).unwrap(), [0.0015, 0.00025]);
        assert!(latencies("0 1\n").is_err());
    }
}
