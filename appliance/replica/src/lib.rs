//! Following a monitor's PostgreSQL: every decision and every text format, and no effects.
//!
//! The daemon (`backupd`) observes and carries out; the privileged process (`hostd`) runs the cluster. What state the
//! observations mean, what our configuration files say, how PostgreSQL's programs are called and how their output is
//! read stands here, as pure functions that tables can test.

mod config;
mod conninfo;
mod controldata;
mod headroom;
mod login;
mod lsn;
mod prepared;
mod progress;
mod promise;
mod replay;
mod state;
mod steady;
mod step;
mod stream;
mod working;

pub use config::{
    CERTIFICATE_FILE, CloneConfig, HBA_FILE, IDENT_FILE, PASS_FILE, POSTGRESQL_CONF, REPLICA_NAME,
    ReplicaConfig, Settings,
};
pub use conninfo::{COPY_PATIENCE, STREAM_PATIENCE, Source, passfile_line, sender_conninfo};
pub use controldata::{ClusterState, ControlData, ControlDataError};
pub use headroom::{WalRate, seconds_until_lost};
pub use login::{
    Entrance, Refusal, name_in_ascii, name_of, options_of_everybody, options_of_replication_role,
    options_of_superuser, refusal, superuser_conninfo,
};
pub use lsn::{Lsn, LsnError};
pub use prepared::{PREPARED_FOLDER, not_proven, prepared, restored};
pub use progress::{CopyProgress, meter, parse_basebackup_progress};
pub use promise::{Identified, Promise, promise};
pub use replay::{
    Next, Replay, history_file, is_early_or_late, is_whole, next_timeline, promote_arguments, psql_arguments,
    recovered_to,
};
pub use state::{
    FULL_BYTES, HANG, LagClock, MonitorView, Observations, Pause, ReplicaView, SYNCHRONIZED_BYTES,
    SYNCHRONIZED_SECONDS, is_full, state,
};
pub use steady::Steady;
pub use step::{Backoff, Step, next_step};
pub use stream::{broken_stream, has_what_the_monitor_lost, looks_empty, refused_stream, set_back};
pub use working::{Believed, Working, believe};

/// The PostgreSQL major that this product replicates (design D6).
pub const POSTGRESQL_MAJOR: u32 = 17;

/// Where a cluster sees its subvolume, in its own mount namespace (docs/architecture.md).
pub const CLUSTER_ROOT: &str = "/srv/cluster";
/// The data directory below [`CLUSTER_ROOT`].
pub const PGDATA: &str = "/srv/cluster/pgdata";
/// Tablespaces, one folder per OID, below [`CLUSTER_ROOT`].
pub const TABLESPACES: &str = "/srv/cluster/tablespaces";
