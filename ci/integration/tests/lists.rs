//! How long lists and status take with thousands of backups: a measurement, run by hand.
//!
//! `cargo nextest run --release -p integration --test lists --run-ignored all --no-capture`; `LISTS_BIN`
//! names a folder with other `backupd` and `ftpd` to compare with.

use api::{Client, Manifest, Peer, Secret};
use integration::{Certificate, PASSWORD, Process, free_port, program, run, test_folder, wait_for};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Backups that are made up.
const BACKUPS: u32 = 2000;
/// Bytes of configuration in each manifest.
const CONFIGURATION_BYTES: usize = 300_000;
const MONITOR: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

/// Backups with empty snapshots and large manifests.
fn make_up(root: &Path) -> anyhow::Result<()> {
    let folder = root.join(MONITOR);
    let databases: Vec<_> = ["postgres", "template1", "template0", "monitor"]
        .map(|database| {
            serde_json::json!({"database": database, "provider": "c", "collate": "en_US.UTF-8",
                "ctype": "en_US.UTF-8", "version": "2.41"})
        })
        .into();
    let line = "# a line of the monitor's configuration with \"quotes\" in it\n";
    let text = line.repeat(CONFIGURATION_BYTES / line.len());
    for number in 0..BACKUPS {
        let created = time_of(number);
        let id = created.replace(['-', ':'], "");
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
        backups::write_manifest(&folder, &manifest, None)?;
        let index = std::fs::File::create(folder.join(format!("{id}.index")))?;
        vtar::Index::build(&snapshot)?.write_to(index)?;
    }
    Ok(())
}

/// The time of a backup: one an hour.
fn time_of(number: u32) -> String {
    let (day, hour) = (number / 24, number % 24);
    format!("2026-{:02}-{:02}T{hour:02}:00:00Z", day / 28 + 1, day % 28 + 1)
}

fn print(what: &str, times: &[f64]) {
    let mut sorted = times[1..].to_vec();
    sorted.sort_by(f64::total_cmp);
    let (median, most) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    let first = times[0];
    println!("{what:<34} first {first:>8.1} ms, then median {median:>8.1} ms, most {most:>8.1} ms");
}

/// Milliseconds that a process has had a processor (proc_pid_stat(5), fields 14 and 15, in hundredths of a
/// second).
fn cpu_ms(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    Ok(fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10.0)
}

/// The daemons alone, on folders.
struct Daemons {
    folder: tempfile::TempDir,
    certificate: Certificate,
    bin: Option<PathBuf>,
}

impl Daemons {
    fn new() -> anyhow::Result<Self> {
        let (folder, certificate) = (test_folder()?, Certificate::new(api::SERVER_NAME)?);
        for name in ["tls", "state", "data/replica", "data/backups"] {
            std::fs::create_dir_all(folder.path().join(name))?;
        }
        std::fs::write(folder.path().join("tls/certificate.pem"), &certificate.certificate)?;
        std::fs::write(folder.path().join("tls/key.pem"), &certificate.key)?;
        auth::write_password_file(&folder.path().join("password"), &auth::hash_password(PASSWORD)?, None)?;
        Ok(Self { folder, certificate, bin: std::env::var_os("LISTS_BIN").map(PathBuf::from) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, name: &str, arguments: &[String]) -> anyhow::Result<Process> {
        let bin = self.bin.as_ref().map(|bin| bin.join(name));
        let mut command = Command::new(bin.map_or_else(|| program(name), Ok)?);
        command.args(arguments).arg("--tls-dir").arg(self.path("tls"));
        command.arg("--password-file").arg(self.path("password"));
        Process::start(&mut command, &self.path("log"))
    }

    /// Milliseconds of so many calls over one connection.
    fn times(&self, url: &str, count: usize) -> anyhow::Result<Vec<f64>> {
        let mut command = Command::new("curl");
        command.args(["-sk", "--fail", "--ftp-pasv", "--ssl", "-u", &format!("backup:{PASSWORD}")]);
        command.args(["-w", "%{stderr}%{time_total}\n"]);
        for _ in 0..count {
            command.arg("-o").arg(self.path("answer")).arg(url);
        }
        let said = String::from_utf8(run(&mut command)?.stderr)?;
        said.lines().map(|line| Ok(line.trim().parse::<f64>()? * 1000.0)).collect()
    }
}

#[test]
#[ignore = "a measurement"]
fn lists_of_thousands_of_backups() -> anyhow::Result<()> {
    let daemons = Daemons::new()?;
    let backups = daemons.path("data/backups");
    make_up(&backups)?;
    let monitor = Certificate::new("monitor")?;
    // Without and with the record that hostd keeps.
    for is_recorded in [false, true] {
        if is_recorded {
            let lists = backups::Lists::default();
            lists.list(&backups.join(MONITOR))?;
            lists.save(&backups.join(MONITOR), None)?;
        }
        println!("{BACKUPS} backups, with hostd's record: {is_recorded}");
        let (port, ftp) = (free_port()?, free_port()?);
        let words = |words: &[(&str, String)]| -> Vec<String> {
            words.iter().flat_map(|(option, value)| [(*option).to_owned(), value.clone()]).collect()
        };
        let path = |name: &str| daemons.path(name).to_string_lossy().into_owned();
        let backupd = daemons.start(
            "backupd",
            &words(&[
                ("--listen", format!("127.0.0.1:{port}")),
                ("--data", path("data")),
                ("--state-dir", path("state")),
                ("--hostd", path("hostd.sock")),
                ("--data-problem", path("data-problem")),
                ("--slots-report", path("slots.json")),
                ("--ftp-settings", path("ftp.json")),
            ]),
        )?;
        let client = Client::new("127.0.0.1", port, &daemons.certificate.certificate, PASSWORD)?;
        let peer = Peer {
            id: MONITOR.parse()?,
            version: "1.0".into(),
            address: "127.0.0.1".into(),
            port: 1,
            user: "backup_server".into(),
            password: Secret::new("secret"),
            slot: "backup_server".into(),
            database: "postgres".into(),
            certificate: monitor.certificate.clone(),
            configuration: BTreeMap::new(),
            signing_key: None,
            signature: None,
        };
        wait_for("backupd", MINUTE, || client.pair(&peer).map(drop).map_err(|error| error.to_string()))?;
        for path in ["/v1/backups", "/v1/status", "/metrics", "/v1/backups/20260103T000000Z"] {
            let url = format!("https://127.0.0.1:{port}{path}");
            print(path, &daemons.times(&url, 12)?);
            // What a call costs on a machine that has nothing else to do.
            let before = cpu_ms(backupd.id())?;
            daemons.times(&url, 50)?;
            println!("{:<34} {:>8.1} ms of a processor", "", (cpu_ms(backupd.id())? - before) / 50.0);
        }
        let memory = std::fs::read_to_string(format!("/proc/{}/status", backupd.id()))?;
        println!("backupd {}", memory.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
        let ftpd = daemons.start(
            "ftpd",
            &words(&[
                ("--listen", format!("127.0.0.1:{ftp}")),
                ("--passive-ports", "0-0".into()),
                ("--backups", path("data/backups")),
                ("--settings", path("ftp.json")),
            ]),
        )?;
        let url = format!("ftp://127.0.0.1:{ftp}/");
        wait_for("ftpd", MINUTE, || daemons.times(&url, 2).map(drop).map_err(|error| format!("{error:#}")))?;
        print("FTP list", &daemons.times(&url, 8)?);
        drop(ftpd);
    }
    Ok(())
}
