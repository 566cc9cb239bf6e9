//! Lists and status with thousands of backups: what hostd and backupd remember of the manifests, against reading each of them.

use crate::report::{Comparison, Series};
use anyhow::{Context, Result};
use api::{Manifest, Peer, Secret};
use integration::{Certificate, PASSWORD, Server};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tools::Toolbox;
use uuid::Uuid;

/// Bytes of configuration in each manifest: those of a monitor with many files.
const CONFIGURATION_BYTES: usize = 300_000;
/// Whose backups they are.
const MONITOR: Uuid = Uuid::from_u128(0x6ba7_b810_9dad_41d1_80b4_00c0_4fd4_30c8);
/// Time until a daemon answers.
const MINUTE: Duration = Duration::from_secs(60);

/// What is measured, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Number of backups
    #[arg(long, default_value_t = 2000)]
    backups: u32,
    /// Calls of each
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// Runs everything.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    let toolbox = Toolbox::open()?;
    let mut server = Server::start(&toolbox)?;
    eprintln!("making up {} backups", options.backups);
    let ids = make_up(&server.backups(MONITOR), options.backups)?;
    let middle = ids.get(ids.len() / 2).context("there have to be backups")?;
    let client = server.client()?;
    let peer = peer()?;
    integration::wait_for("backupd", MINUTE, || client.pair(&peer).map_err(|error| error.to_string()))?;

    eprintln!("reading each manifest");
    let reading = (0..options.rounds.min(5)).map(|_| read_all(&server.backups(MONITOR), &ids));
    let reading = Series::of("each manifest is read", "ms", reading);
    let https = format!("https://127.0.0.1:{}", server.port);
    let mut series = vec![reading];
    for path in
        ["/v1/backups", "/v1/status", "/metrics", "/v1/rotation/plan", &format!("/v1/backups/{middle}")]
    {
        eprintln!("{path}");
        let times = times(&toolbox, &format!("{https}{path}"), options.rounds);
        series.push(named(path, times));
    }
    let port = server.start_ftpd()?;
    eprintln!("FTP");
    series.push(named(
        "FTP, with the login",
        times(&toolbox, &format!("ftp://127.0.0.1:{port}/"), options.rounds),
    ));
    let title = format!(
        "Lists and status of {} backups with {} kB of configuration each (goal: at most 30 ms)",
        options.backups,
        CONFIGURATION_BYTES / 1000
    );
    Ok(vec![Comparison { title, series }])
}

fn named(name: &str, times: Result<Vec<f64>>) -> Series {
    match times {
        Ok(times) => Series::new(name, "ms", times),
        Err(error) => Series::of(name, "ms", [Err(error)]),
    }
}

/// Milliseconds in which all manifests are read and understood.
fn read_all(folder: &Path, ids: &[String]) -> Result<f64> {
    let began = Instant::now();
    for id in ids {
        backups::read_manifest(folder, &id.parse()?)?;
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// Milliseconds of so many calls over one connection, after a first one that is not counted: it brings login and cache.
fn times(toolbox: &Toolbox, url: &str, count: usize) -> Result<Vec<f64>> {
    let mut command: Command = toolbox.command("curl");
    command.args(["--silent", "--show-error", "--insecure", "--fail", "--ssl-reqd", "--noproxy", "*"]);
    command.args(["--user", &format!("backup:{PASSWORD}"), "--write-out", "%{stderr}%{time_total}\n"]);
    command.args(std::iter::repeat_n(url, count + 1));
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{url} does not answer ({}): {said}", output.status);
    said.lines()
        .skip(1)
        .map(|line| Ok(line.trim().parse::<f64>().with_context(|| format!("curl says: {line}"))? * 1000.0))
        .collect()
}

/// Backups with empty snapshots and large manifests; gives their ids. Their dates are long ago, so rotation has no newer proof
/// by which it would remove them.
fn make_up(folder: &Path, count: u32) -> Result<Vec<String>> {
    let collation = |database: &str| {
        serde_json::json!({"database": database, "provider": "c", "collate": "en_US.UTF-8",
            "ctype": "en_US.UTF-8", "version": "2.41"})
    };
    let databases: Vec<_> = ["postgres", "template1", "template0", "monitor"].map(collation).into();
    let line = "# a line of the monitor's configuration with \"quotes\" in it\n";
    let text = line.repeat(CONFIGURATION_BYTES / line.len());
    let first: jiff::Timestamp = "2020-01-01T00:00:00Z".parse()?;
    let mut ids = Vec::new();
    for number in 0..count {
        let created = first.checked_add(jiff::SignedDuration::from_hours(i64::from(number)))?;
        let id = created.strftime("%Y%m%dT%H%M%SZ").to_string();
        let snapshot = folder.join(&id);
        std::fs::create_dir_all(&snapshot)?;
        let backup = serde_json::json!({
            "format": 1, "id": id, "sequence": number + 1, "created": created, "reason": "schedule",
            "monitor": {"id": MONITOR, "version": "1.0"},
            "postgresql": {"major": 17, "version": "17.6", "system_identifier": "7400000000000000000",
                "timeline": 1, "superuser": "postgres", "flushed_lsn": "1/23456789", "block_size": 8192,
                "checksums": true, "architecture": "x86_64", "collations": databases},
            "sizes": {"files": 1, "tar": 2}, "snapshot_ms": 1.0,
            "verification": {"status": "verified", "at": created, "restore_seconds": 1.0, "seconds": 2.0,
                "depth": "full", "limits": []}
        });
        let manifest = Manifest {
            backup: serde_json::from_value(backup)?,
            configuration: BTreeMap::from([("/etc/postgresql/17/main/postgresql.conf".into(), text.clone())]),
            digests: None,
        };
        backups::write_manifest(folder, &manifest, None)?;
        vtar::write_index(&snapshot, std::fs::File::create(folder.join(format!("{id}.index")))?)?;
        ids.push(id);
    }
    Ok(ids)
}

/// A monitor that does not answer: nothing is copied, and nothing else is done with the backups.
fn peer() -> Result<Peer> {
    Ok(Peer {
        id: MONITOR,
        version: "1.0".into(),
        address: "127.0.0.1".into(),
        port: 1,
        user: "backup_server".into(),
        password: Secret::new("secret"),
        slot: "backup_server".into(),
        database: "postgres".into(),
        certificate: Certificate::new("monitor")?.certificate,
        configuration: BTreeMap::new(),
        signing_key: None,
        signature: None,
    })
}
