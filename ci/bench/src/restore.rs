//! The way back: our recovery over FTP with TLS against pgBackRest from a local repository and a fresh pg_basebackup.

use crate::database::{LONG, fill, settle};
use crate::peers::{PgBackRest, basebackup, seconds};
use crate::report::{Comparison, Series};
use anyhow::{Context, Result};
use api::{CreateBackup, Fingerprint, Manifest, Secret, Verification};
use integration::{CLUSTER_ID, Monitor, PASSWORD, Server, as_cluster_user, programs, test_folder, wait_for};
use recovery::download::{PATIENCE, Source, Tar};
use recovery::start::Unpacked;
use recovery::unpack::{Destination, unpack};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tools::{Toolbox, Tree};

/// What is measured, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Size of the database in gigabytes
    #[arg(long, default_value_t = 2)]
    gigabytes: u32,
    /// Turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Seconds until the files are there, and until the database takes writes.
type Times = (f64, f64);

/// Runs everything.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    let toolbox = Toolbox::open()?;
    let peers = Toolbox::open_tree(Tree::PEERS)?;
    let mut monitor = Monitor::start(&toolbox)?;
    for (name, value) in
        [("fsync", "on"), ("archive_mode", "on"), ("archive_command", "true"), ("wal_keep_size", "1GB")]
    {
        monitor.sql(&format!("alter system set {name} = '{value}'"))?;
    }
    monitor.stop()?;
    monitor.run_server()?;
    eprintln!("filling the database");
    let size = fill(&toolbox, &monitor, options.gigabytes)?;
    let mut server = Server::start(&toolbox)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], LONG)?;
    client.create_backup(&CreateBackup::default())?;
    eprintln!("verifying our backup, making pgBackRest's");
    // Or the first scheduled one, if that came later: only the newest is verified.
    let backup = wait_for("our backup's proof", LONG, || {
        let list = client.backups().map_err(|error| error.to_string())?.backups;
        let mut backups = list.into_iter();
        let verified = backups.find(|backup| matches!(backup.verification, Verification::Verified(_)));
        verified.ok_or_else(|| "no backup is verified".to_owned())
    })?;
    let pgbackrest = PgBackRest::prepare(&peers, &monitor, server.data())?;
    pgbackrest.backup("full")?;
    pgbackrest.archive(&monitor)?;
    let pem = std::fs::read(server.tls_dir().join("certificate.pem"))?;
    let source = Source {
        host: "127.0.0.1".into(),
        port: server.start_ftpd()?,
        fingerprint: Fingerprint::of_pem(&pem)?,
        password: Secret::new(PASSWORD),
        patience: PATIENCE,
    };
    let manifest: Manifest = serde_json::from_slice(&source.fetch(&format!("{}.json", backup.id))?)?;

    let target = server.data().join("restored");
    let mut measured = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..options.rounds {
        eprintln!("turn {}", round + 1);
        for (side, times) in measured.iter_mut().enumerate() {
            times.push(match side {
                0 => {
                    let files = pgbackrest.restore(&target)?;
                    (files, files + until_writable(&peers, &target)?)
                }
                1 => {
                    let files = basebackup(&toolbox, &monitor, &target)?;
                    (files, files + until_writable(&toolbox, &target)?)
                }
                _ => ours(&toolbox, &monitor, &source, &manifest, &target)?,
            });
            std::fs::remove_dir_all(&target)?;
            settle(server.data())?;
        }
    }
    let names = ["pgBackRest, local repository", "pg_basebackup of the live one", "ours, FTP with TLS"];
    let series = |figure: fn(&Times) -> f64| {
        let sides = names.iter().zip(&measured);
        sides.map(|(name, times)| Series::new(name, "s", times.iter().map(figure).collect())).collect()
    };
    Ok(vec![
        Comparison {
            title: format!("Restore of {size}, until all files are there"),
            series: series(|times| times.0),
        },
        Comparison {
            title: format!("Restore of {size}, until the database takes writes"),
            series: series(|times| times.1),
        },
    ])
}

/// As the recovery program does it, each chunk checked: it is recovered beside, stopped, and started in its place.
fn ours(
    toolbox: &Toolbox,
    monitor: &Monitor,
    source: &Source,
    manifest: &Manifest,
    target: &Path,
) -> Result<Times> {
    let started = Instant::now();
    let destination = Destination {
        pgdata: target.join("pgdata"),
        tablespaces: target.join("tablespaces"),
        owner: (CLUSTER_ID, CLUSTER_ID),
    };
    std::fs::create_dir_all(target)?;
    std::os::unix::fs::chown(target, Some(CLUSTER_ID), Some(CLUSTER_ID))?;
    let tar = Tar {
        name: format!("{}.tar", manifest.backup.id),
        bytes: manifest.backup.sizes.tar,
        digests: Some(manifest.digests.clone().context("the backup is verified and has no hashes")?),
    };
    let name = tar.name.clone();
    unpack(&name, source.stream(tar, 0), 0, &destination, |_| Ok(()))?;
    let files = started.elapsed().as_secs_f64();
    let (programs, run) = (programs(toolbox)?, test_folder()?);
    let run = run.path().join("run");
    let unpacked = Unpacked { programs: &programs, folder: target, run: &run, backup: &manifest.backup };
    unpacked.recover(|_, _| ())?;
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "server.crt", "server.key"] {
        let path = destination.pgdata.join(name);
        std::fs::copy(monitor.data().join(name), &path)?;
        std::os::unix::fs::chown(&path, Some(CLUSTER_ID), Some(CLUSTER_ID))?;
    }
    let recovered = started.elapsed().as_secs_f64();
    Ok((files, recovered + until_writable(toolbox, &destination.pgdata)?))
}

/// Starts a server in `data`; gives seconds until it has recovered and takes writes.
fn until_writable(toolbox: &Toolbox, data: &Path) -> Result<f64> {
    let folder = test_folder()?;
    std::os::unix::fs::chown(folder.path(), Some(CLUSTER_ID), Some(CLUSTER_ID))?;
    let socket = folder.path().display().to_string();
    let started = Instant::now();
    let control = |words: &[&str]| {
        let mut command = as_cluster_user(toolbox, &toolbox.postgresql("pg_ctl"));
        command.args(["--wait", "--silent", "--timeout", "600", "-D"]).arg(data).args(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let options = format!("-k {socket} -p 5432 -c listen_addresses='' -c archive_mode=off");
    let log = folder.path().join("log");
    let server = control(&["-l", &log.to_string_lossy(), "-o", &options, "start"]).status()?;
    anyhow::ensure!(
        server.success(),
        "it does not start: {}",
        std::fs::read_to_string(&log).unwrap_or_default()
    );
    let waited = wait_for("the end of recovery", Duration::from_secs(600), || {
        let asked = as_cluster_user(toolbox, &toolbox.postgresql("psql"))
            .args([
                "-XAtq",
                "-h",
                &socket,
                "-U",
                "postgres",
                "-d",
                "postgres",
                "-c",
                "select pg_is_in_recovery()",
            ])
            .output()
            .map_err(|error| error.to_string())?;
        match String::from_utf8_lossy(&asked.stdout).trim() {
            "f" => Ok(started.elapsed().as_secs_f64()),
            other => Err(format!("{other} {}", String::from_utf8_lossy(&asked.stderr))),
        }
    });
    seconds(&mut control(&["-m", "immediate", "stop"]))?;
    waited
}
