//! The configuration files under which a replica runs: ours, from the first to the last line (design D7).
//!
//! The monitor's database is hostile input. Its `postgresql.auto.conf` lies in the data directory and would be read
//! whatever `config_file` says; `hostd` puts an empty one in its place, and these files say everything else.

use crate::{ControlData, STREAM_PATIENCE, Source};

/// Main configuration file in the cluster's run folder.
pub const POSTGRESQL_CONF: &str = "postgresql.conf";
/// Host-based authentication.
pub const HBA_FILE: &str = "pg_hba.conf";
/// User name maps.
pub const IDENT_FILE: &str = "pg_ident.conf";
/// Password of the replication role.
pub const PASS_FILE: &str = "passfile";
/// The monitor's pinned certificate.
pub const CERTIFICATE_FILE: &str = "monitor.pem";

/// What the files of one replica are made from.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaConfig<'a> {
    /// The cluster's run folder, absolute, as the cluster sees it.
    pub run_dir: &'a str,
    /// Where the WAL comes from.
    pub source: &'a Source,
    /// The settings that hot standby takes over from the monitor.
    pub control: &'a ControlData,
    /// Operating system user who may ask the standby for its state.
    pub observer: &'a str,
    /// PostgreSQL's memory for shared buffers, in MiB.
    pub shared_buffers_mib: u32,
}

impl ReplicaConfig<'_> {
    /// `postgresql.conf`
    pub fn postgresql_conf(&self) -> String {
        let run = self.run_dir;
        let conninfo = self
            .source
            .conninfo(&format!("{run}/{PASS_FILE}"), &format!("{run}/{CERTIFICATE_FILE}"), STREAM_PATIENCE)
            .replace('\'', "''");
        let mut lines = settings(run, self.control, self.shared_buffers_mib);
        lines.extend([
            format!("primary_conninfo = '{conninfo}'"),
            format!("primary_slot_name = '{}'", self.source.slot),
            // A monitor that was promoted is followed.
            "recovery_target_timeline = 'latest'".into(),
            "wal_receiver_timeout = 30s".into(),
            "wal_receiver_status_interval = 2s".into(),
            "wal_retrieve_retry_interval = 2s".into(),
            "unix_socket_permissions = 0777".into(),
            "fsync = on".into(),
            // Copy on write: recycling a segment writes anew in any case (documentation, `wal_recycle`).
            "wal_recycle = off".into(),
            "wal_init_zero = off".into(),
            "checkpoint_timeout = 5min".into(),
            "max_wal_size = 1GB".into(),
            "cluster_name = 'replica'".into(),
        ]);
        lines.join("\n") + "\n"
    }

    /// `pg_hba.conf`: only the observer, only over the socket, only as the replication role.
    pub fn hba(&self) -> String {
        format!("local \"{}\" \"{}\" peer map=observer\n", self.source.database, self.source.user)
    }

    /// `pg_ident.conf`
    pub fn ident(&self) -> String {
        format!("observer \"{}\" \"{}\"\n", self.observer, self.source.user)
    }
}

/// What the files of a clone are made from: a copy of a backup that is started on its own.
#[derive(Debug, Clone, Copy)]
pub struct CloneConfig<'a> {
    /// The cluster's run folder, absolute, as the cluster sees it.
    pub run_dir: &'a str,
    /// The settings that hot standby takes over from the monitor.
    pub control: &'a ControlData,
    /// The timeline that the backup was made on.
    pub timeline: u32,
    /// PostgreSQL's memory for shared buffers, in MiB.
    pub shared_buffers_mib: u32,
    /// It is to stay, as what was restored; otherwise it proves a backup and is thrown away, and what a power cut would
    /// do to it is of no interest.
    pub stays: bool,
}

impl CloneConfig<'_> {
    /// `postgresql.conf`: a standby of nobody, until it is promoted.
    pub fn postgresql_conf(&self) -> String {
        let mut lines = settings(self.run_dir, self.control, self.shared_buffers_mib);
        lines.extend([
            "unix_socket_permissions = 0700".into(),
            "primary_conninfo = ''".into(),
            "primary_slot_name = ''".into(),
            format!("recovery_target_timeline = '{}'", self.control.recovery_timeline(self.timeline)),
            format!("fsync = {}", if self.stays { "on" } else { "off" }),
            "autovacuum = off".into(),
            "max_wal_size = 4GB".into(),
            format!("cluster_name = '{}'", if self.stays { "restore" } else { "verification" }),
        ]);
        lines.join("\n") + "\n"
    }

    /// The files for the run folder, by name. `pg_hba.conf` lets in everybody who reaches the socket, which is the clone's own
    /// user alone.
    pub fn files(&self) -> [(&'static str, String); 3] {
        [
            (POSTGRESQL_CONF, self.postgresql_conf()),
            (HBA_FILE, "local all all trust\n".into()),
            (IDENT_FILE, String::new()),
        ]
    }
}

/// What every cluster here runs under: reachable on a local socket only, and nothing that came with the database runs.
fn settings(run: &str, c: &ControlData, shared_buffers_mib: u32) -> Vec<String> {
    vec![
        "# Written at each start; changes are lost.".to_owned(),
        format!("hba_file = '{run}/{HBA_FILE}'"),
        format!("ident_file = '{run}/{IDENT_FILE}'"),
        "listen_addresses = ''".into(),
        format!("unix_socket_directories = '{run}/socket'"),
        "hot_standby = on".into(),
        // never holds back the monitor's vacuum
        "hot_standby_feedback = off".into(),
        // At least the monitor's values, or replay stops (documentation, "Hot Standby: Administrator's Overview").
        format!("max_connections = {}", c.max_connections),
        format!("max_worker_processes = {}", c.max_worker_processes),
        format!("max_wal_senders = {}", c.max_wal_senders),
        format!("max_prepared_transactions = {}", c.max_prepared_transactions),
        format!("max_locks_per_transaction = {}", c.max_locks_per_transaction),
        "full_page_writes = on".into(),
        format!("shared_buffers = {shared_buffers_mib}MB"),
        "max_parallel_workers = 0".into(),
        "event_triggers = off".into(),
        "shared_preload_libraries = ''".into(),
        "session_preload_libraries = ''".into(),
        "local_preload_libraries = ''".into(),
        "dynamic_library_path = '$libdir'".into(),
        "jit = off".into(),
        // Not file by file, which goes through folders that came with the data, however deep they are.
        "recovery_init_sync_method = syncfs".into(),
        "archive_mode = off".into(),
        "archive_cleanup_command = ''".into(),
        "restore_command = ''".into(),
        "recovery_end_command = ''".into(),
        "ssl = off".into(),
        "logging_collector = off".into(),
        "log_destination = 'stderr'".into(),
        "log_line_prefix = ''".into(),
        "lc_messages = 'C'".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            address: "monitor".into(),
            port: 50001,
            user: "backup_server".into(),
            slot: "slot_1".into(),
            database: "postgres".into(),
        }
    }

    #[test]
    fn conninfo_is_quoted_twice_and_settings_are_the_monitors() {
        let control = ControlData { max_connections: 500, ..ControlData::example() };
        let source = source();
        let config = ReplicaConfig {
            run_dir: "/run/x",
            source: &source,
            control: &control,
            observer: "backupd",
            shared_buffers_mib: 128,
        };
        let conf = config.postgresql_conf();
        assert!(conf.contains("primary_conninfo = 'host=''monitor'' port=''50001''"), "{conf}");
        assert!(conf.contains("passfile=''/run/x/passfile''"));
        assert!(conf.contains("max_connections = 500\n"));
        assert!(conf.contains("primary_slot_name = 'slot_1'\n"));
        assert_eq!(config.hba(), "local \"postgres\" \"backup_server\" peer map=observer\n");
        assert_eq!(config.ident(), "observer \"backupd\" \"backup_server\"\n");
    }
}
