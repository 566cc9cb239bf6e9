//! A monitor's database of a size.

use anyhow::Result;
use integration::{Monitor, as_cluster_user, run};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tools::Toolbox;

/// pgbench's scale per gigabyte: 15 MB each.
const SCALE_PER_GB: u32 = 67;
/// Until something that takes long is given up.
pub const LONG: Duration = Duration::from_secs(3600);

/// pgbench on the monitor's database; options follow.
pub fn pgbench(toolbox: &Toolbox, monitor: &Monitor) -> Command {
    let mut command = as_cluster_user(toolbox, &toolbox.postgresql("pgbench"));
    command.arg("-h").arg(monitor.socket_dir());
    command.args(["-p", &monitor.peer.port.to_string(), "-U", "postgres", "-d", "postgres"]);
    command
}

/// Fills it; gives its size, for titles.
pub fn fill(toolbox: &Toolbox, monitor: &Monitor, gigabytes: u32) -> Result<String> {
    let scale = (gigabytes * SCALE_PER_GB).to_string();
    run(pgbench(toolbox, monitor).args(["-i", "-q", "-s", &scale]))?;
    monitor.sql("checkpoint")?;
    let bytes = monitor.sql("select pg_database_size('postgres')")?;
    Ok(format!("{:.1} GB", bytes.parse::<f64>()? / 1e9))
}

/// Lets deleted things be gone and written ones be written, so that a turn does not pay for the one before.
pub fn settle(data: &Path) -> Result<()> {
    run(Command::new("sync").arg("-f").arg(data)).map(drop)
}
