//! The configuration files under which a replica runs: ours, from the first to the last line (design D7).
//!
//! The monitor's database is hostile input. Its `postgresql.auto.conf` lies in the data directory and would be read
//! whatever `config_file` says; so an empty one is put in its place before each start, and all settings are passed on the
//! command line as well, which no file and no `ALTER SYSTEM` overrides (documentation, "Setting Parameters").

use crate::{ControlData, STREAM_PATIENCE, Source};

/// `cluster_name` of a replica, which its processes' titles begin with.
pub const REPLICA_NAME: &str = "replica";

/// Settings in their order, by name; of two with one name the last one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings(Vec<(&'static str, String)>);

impl Settings {
    /// The same with one more.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    fn extend<const N: usize>(&mut self, more: [(&'static str, String); N]) {
        self.0.extend(more);
    }

    /// `postgresql.conf`
    pub fn conf(&self) -> String {
        let lines = self.0.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")));
        std::iter::once("# Written at each start; changes are lost.\n".to_owned()).chain(lines).collect()
    }

    /// The arguments of `postgres` that make them hold, whatever files and SQL say.
    pub fn arguments(&self) -> Vec<String> {
        self.0.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
    }
}

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
    /// Operating system user of the cluster's own programs, which ask its WAL sender.
    pub cluster_user: &'a str,
    /// PostgreSQL's memory for shared buffers, in MiB.
    pub shared_buffers_mib: u32,
}

impl ReplicaConfig<'_> {
    /// Its settings.
    pub fn settings(&self) -> Settings {
        let run = self.run_dir;
        let conninfo = self.source.conninfo(
            &format!("{run}/{PASS_FILE}"),
            &format!("{run}/{CERTIFICATE_FILE}"),
            STREAM_PATIENCE,
        );
        let mut settings = settings(run, self.control, self.shared_buffers_mib);
        settings.extend([
            // Only to be asked for its state.
            ("hot_standby", "on".into()),
            ("primary_conninfo", conninfo),
            ("primary_slot_name", self.source.slot.clone()),
            // A monitor that was promoted is followed.
            ("recovery_target_timeline", "latest".into()),
            ("wal_receiver_timeout", "30s".into()),
            ("wal_receiver_status_interval", "2s".into()),
            ("wal_retrieve_retry_interval", "2s".into()),
            ("unix_socket_permissions", "0777".into()),
            ("fsync", "on".into()),
            // Copy on write: recycling a segment writes anew in any case (documentation, `wal_recycle`).
            ("wal_recycle", "off".into()),
            ("wal_init_zero", "off".into()),
            ("checkpoint_timeout", "5min".into()),
            ("max_wal_size", megabytes(1024.max(2 * segment_mib(self.control)))),
            ("cluster_name", REPLICA_NAME.into()),
        ]);
        settings
    }

    /// `pg_hba.conf`: only the observer, and the cluster's own user for its WAL sender; only over the socket, only as the
    /// replication role.
    pub fn hba(&self) -> String {
        let Source { database, user, .. } = self.source;
        format!(
            "local \"{database}\" \"{user}\" peer map=observer\nlocal replication \"{user}\" peer map=cluster\n"
        )
    }

    /// `pg_ident.conf`
    pub fn ident(&self) -> String {
        let user = &self.source.user;
        format!("observer \"{}\" \"{user}\"\ncluster \"{}\" \"{user}\"\n", self.observer, self.cluster_user)
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
    /// Its settings: a standby of nobody, which nobody enters until it is promoted. A proof and a restore have the same, so
    /// that one means the other; only what a power cut would do to it differs.
    pub fn settings(&self) -> Settings {
        let mut settings = settings(self.run_dir, self.control, self.shared_buffers_mib);
        settings.extend([
            // What a database says of itself while it recovers decides nothing, so nothing of it runs before.
            ("hot_standby", "off".into()),
            (
                "max_prepared_transactions",
                self.control.max_prepared_transactions.max(PREPARED_LEAST).to_string(),
            ),
            ("unix_socket_permissions", "0700".into()),
            ("primary_conninfo", String::new()),
            ("primary_slot_name", String::new()),
            ("recovery_target_timeline", self.control.recovery_timeline(self.timeline).to_string()),
            ("fsync", if self.stays { "on" } else { "off" }.into()),
            ("autovacuum", "off".into()),
            ("max_wal_size", megabytes(4096.max(2 * segment_mib(self.control)))),
            ("cluster_name", "restore".into()),
        ]);
        settings
    }

    /// The files for the run folder, by name. `pg_hba.conf` lets in everybody who reaches the socket, which is the clone's own
    /// user alone.
    pub fn files(&self, settings: &Settings) -> [(&'static str, String); 3] {
        [
            (POSTGRESQL_CONF, settings.conf()),
            (HBA_FILE, "local all all trust\n".into()),
            (IDENT_FILE, String::new()),
        ]
    }
}

/// Connections for which there is room at least: those of the daemon, of checks and of PostgreSQL's programs.
const CONNECTIONS_LEAST: u32 = 20;

/// WAL senders for which there is room at least: the daemon asks one for its position.
const SENDERS_LEAST: u32 = 4;

/// Prepared transactions for which there is room at least: the monitor may have been given room for them, and have prepared
/// some, in WAL that the control file does not know yet.
const PREPARED_LEAST: u32 = 100;

/// Size of a WAL segment in MiB, from 1 to 1024.
fn segment_mib(control: &ControlData) -> u64 {
    control.wal_segment_bytes >> 20
}

fn megabytes(number: u64) -> String {
    format!("{number}MB")
}

/// What every cluster here runs under: reachable on a local socket only, and nothing that came with the database runs.
fn settings(run: &str, c: &ControlData, shared_buffers_mib: u32) -> Settings {
    Settings(vec![
        ("hba_file", format!("{run}/{HBA_FILE}")),
        ("ident_file", format!("{run}/{IDENT_FILE}")),
        ("listen_addresses", String::new()),
        ("unix_socket_directories", format!("{run}/socket")),
        // never holds back the monitor's vacuum
        ("hot_standby_feedback", "off".into()),
        // At least the monitor's values, or replay stops (documentation, "Hot Standby: Administrator's Overview").
        // And as many as are needed here: a monitor may run with one connection.
        ("max_connections", c.max_connections.max(CONNECTIONS_LEAST).to_string()),
        ("superuser_reserved_connections", "0".into()),
        ("reserved_connections", "0".into()),
        ("max_worker_processes", c.max_worker_processes.to_string()),
        ("max_wal_senders", c.max_wal_senders.max(SENDERS_LEAST).to_string()),
        ("max_prepared_transactions", c.max_prepared_transactions.to_string()),
        ("max_locks_per_transaction", c.max_locks_per_transaction.to_string()),
        // At least two segments, which may be larger than most people's (`initdb --wal-segsize`).
        ("min_wal_size", megabytes(80.max(2 * segment_mib(c)))),
        ("full_page_writes", "on".into()),
        ("shared_buffers", format!("{shared_buffers_mib}MB")),
        ("max_parallel_workers", "0".into()),
        ("event_triggers", "off".into()),
        ("shared_preload_libraries", String::new()),
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
        ("dynamic_library_path", "$libdir".into()),
        ("jit", "off".into()),
        // Not file by file, which goes through folders that came with the data, however deep they are.
        ("recovery_init_sync_method", "syncfs".into()),
        ("archive_mode", "off".into()),
        ("archive_cleanup_command", String::new()),
        ("restore_command", String::new()),
        ("recovery_end_command", String::new()),
        ("ssl", "off".into()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("log_line_prefix", String::new()),
        ("lc_messages", "C".into()),
    ])
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
    fn large_segments_have_room() {
        for (mib, min, max) in [
            (1, "80MB", "4096MB"),
            (16, "80MB", "4096MB"),
            (64, "128MB", "4096MB"),
            (1024, "2048MB", "4096MB"),
        ] {
            let control = ControlData { wal_segment_bytes: mib << 20, ..ControlData::example() };
            let config = CloneConfig {
                run_dir: "/run/x",
                control: &control,
                timeline: 1,
                shared_buffers_mib: 1,
                stays: true,
            };
            let conf = config.settings().conf();
            assert!(conf.contains(&format!("min_wal_size = '{min}'\n")), "{conf}");
            assert!(conf.contains(&format!("max_wal_size = '{max}'\n")), "{conf}");
        }
    }

    #[test]
    fn a_proof_runs_under_what_a_restore_runs_under() {
        let control = ControlData::example();
        let of = |stays| {
            let config = CloneConfig {
                run_dir: "/run/x",
                control: &control,
                timeline: 1,
                shared_buffers_mib: 1,
                stays,
            };
            let mut settings = config.settings();
            settings.0.retain(|(name, _)| *name != "fsync");
            settings
        };
        assert_eq!(of(true), of(false));
        assert!(of(true).conf().contains("hot_standby = 'off'\n"));
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
            cluster_user: "cluster",
            shared_buffers_mib: 128,
        };
        let conf = config.settings().conf();
        assert!(conf.contains("primary_conninfo = 'host=''monitor'' port=''50001''"), "{conf}");
        assert!(conf.contains("passfile=''/run/x/passfile''"));
        assert!(conf.contains("max_connections = '500'\n"));
        assert!(conf.contains("primary_slot_name = 'slot_1'\n"));
        let arguments = config.settings().arguments();
        assert!(arguments.contains(&"primary_slot_name=slot_1".to_owned()), "{arguments:?}");
        assert!(arguments.iter().any(|said| said.starts_with("primary_conninfo=host='monitor'")));
        assert_eq!(
            config.hba(),
            "local \"postgres\" \"backup_server\" peer map=observer\n\
             local replication \"backup_server\" peer map=cluster\n"
        );
        assert_eq!(
            config.ident(),
            "observer \"backupd\" \"backup_server\"\ncluster \"cluster\" \"backup_server\"\n"
        );
    }
}
