//! A backup's tar, started as a PostgreSQL cluster: the proof that it restores.
//!
//! The recipe of the facts on starting a copy: as a standby first, so that the server replays to a consistent point
//! and says so, then promoted. The recovery program does the same (`recovery::start`).

use crate::monitor::{as_cluster_user, query};
use crate::{CLUSTER_ID, Process, run, test_folder, wait_for};
use anyhow::{Context, Result};
use api::Backup;
use replica::{ControlData, Lsn};
use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::process::Stdio;
use std::time::Duration;
use tools::Toolbox;

/// Recovery of what was written since the last restartpoint.
const RECOVERY_LIMIT: Duration = Duration::from_secs(300);

/// A cluster that was started from a backup and promoted.
#[derive(Debug)]
pub struct Restored {
    toolbox: Toolbox,
    _process: Process,
    folder: tempfile::TempDir,
}

impl Restored {
    /// Unpacks `tar` with GNU tar, starts it, waits until `backup`'s flushed LSN is replayed, and promotes it.
    pub fn start(toolbox: &Toolbox, backup: &Backup, mut tar: impl Read) -> Result<Self> {
        let folder = test_folder()?;
        chown(folder.path(), Some(CLUSTER_ID), Some(CLUSTER_ID))?;
        let mut unpack = as_cluster_user(toolbox, "tar")
            .args(["-x", "-p", "-C"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()?;
        std::io::copy(&mut tar, &mut unpack.stdin.take().context("tar takes no input")?)?;
        anyhow::ensure!(unpack.wait()?.success(), "GNU tar does not unpack the backup");

        let data = folder.path().join("pgdata");
        backups::disarm(folder.path())?;
        let printed = run(toolbox.command("pg_controldata").env("LC_ALL", "C").arg(&data))?;
        let control = ControlData::parse(&String::from_utf8(printed.stdout)?)?;
        let socket = folder.path().display().to_string();
        let config = folder.path().join("postgresql.conf");
        fs::write(
            &config,
            format!(
                "listen_addresses = ''\nunix_socket_directories = '{socket}'\nhba_file = '{socket}/hba'\n\
                 ident_file = '{socket}/ident'\nfsync = off\nhot_standby = on\n\
                 recovery_target_timeline = '{}'\nmax_connections = {}\n\
                 max_worker_processes = {}\nmax_wal_senders = {}\nmax_prepared_transactions = {}\n\
                 max_locks_per_transaction = {}\n",
                control.recovery_timeline(backup.postgresql.timeline),
                control.max_connections,
                control.max_worker_processes,
                control.max_wal_senders,
                control.max_prepared_transactions,
                control.max_locks_per_transaction
            ),
        )?;
        fs::write(folder.path().join("hba"), "local all all trust\n")?;
        fs::write(folder.path().join("ident"), "")?;
        let mut command = as_cluster_user(toolbox, &toolbox.postgresql("postgres"));
        command.arg("-D").arg(&data).arg("-c").arg(format!("config_file={}", config.display()));
        let log = folder.path().join("log");
        let process = Process::start(&mut command, &log)?;
        let restored = Self { toolbox: toolbox.clone(), _process: process, folder };
        let flushed: Lsn = backup.postgresql.flushed_lsn.parse()?;
        wait_for(&format!("replay to {flushed}"), RECOVERY_LIMIT, || {
            let replayed =
                restored.sql("select pg_last_wal_replay_lsn()").map_err(|error| format!("{error:#}"))?;
            match replayed.parse::<Lsn>() {
                Ok(replayed) if replayed >= flushed => Ok(()),
                _ => Err(format!("replayed {replayed:?}")),
            }
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        restored.sql("select pg_promote(true)")?;
        Ok(restored)
    }

    /// Runs SQL as the superuser.
    pub fn sql(&self, sql: &str) -> Result<String> {
        query(&self.toolbox, self.folder.path(), 5432, "postgres", sql)
    }
}
