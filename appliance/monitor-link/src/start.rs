//! `monitor-link start`, at every boot: firewall rules, and on our node the monitor's own cluster.
//!
//! The cluster lies on the *data* file system, its configuration too: `/etc/postgresql` is a link there. A marker
//! stands beside it while it is made, so that a power cut leaves no half-made cluster in use: what the marker stands
//! beside was never started and is made anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nftables::schema::Nftables;

use crate::cluster::{self, MAJOR};
use crate::setup::{RULES_FILE, STATE, service};

/// Present on our node only.
const IDENTITY: &str = "/var/lib/infimonitor/identity.json";
/// Made by `firstboot system` on the mounted data file system.
const FOLDER: &str = "/data/postgresql";
const NAME: &str = "main";
/// Stands beside a cluster while it is made.
const MARKER: &str = "creating";
/// What runs the steps at boot.
const UNIT: &str = "infimonitor-monitor.service";

/// Runs the steps.
///
/// # Errors
/// The rules cannot be set, or the cluster cannot be made or started.
pub fn run() -> Result<()> {
    rules(&Path::new(STATE).join(RULES_FILE))?;
    if !Path::new(IDENTITY).exists() {
        return Ok(()); // a host of somebody else's: it starts its PostgreSQL itself
    }
    if !Path::new(FOLDER).is_dir() {
        bail!(
            "{FOLDER} is missing: the data file system is not mounted; /run/infimonitor/data-problem says why"
        );
    }
    create(Path::new(FOLDER))?;
    let cluster = cluster::choose(&cluster::list()?, Some(&format!("{MAJOR}/{NAME}")))?;
    if !cluster.online {
        service("start", &cluster)?;
    }
    eprintln!("monitor-link: PostgreSQL cluster {MAJOR}/{NAME} runs");
    Ok(())
}

/// Waits on our own node until its boot has run these steps: a command may come before they are done. That they failed is
/// noted only: a restore is what mends a cluster that does not start.
///
/// # Errors
/// systemctl cannot be run; the cluster is not made to its end.
pub fn wait() -> Result<()> {
    if !Path::new(IDENTITY).exists() {
        return Ok(());
    }
    let output = Command::new("systemctl").args(["start", UNIT]).stdin(Stdio::null()).output();
    let output = output.context("cannot run systemctl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        eprintln!("monitor-link: the node's own PostgreSQL was not started: {}", said.trim());
    }
    // The next boot removes what this stands beside.
    let marker = Path::new(FOLDER).join(MARKER);
    if marker.exists() {
        bail!("the node's own PostgreSQL is not made yet; see `systemctl status {UNIT}`, and restart it");
    }
    Ok(())
}

fn rules(path: &Path) -> Result<()> {
    let Some(text) = files::read(path)? else {
        eprintln!("monitor-link: no backup server was set up yet; no firewall rules");
        return Ok(());
    };
    let rules: Nftables<'_> = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; run monitor-link setup again", path.display()))?;
    firewall::apply(Path::new(firewall::NFT), &rules)?;
    eprintln!("monitor-link: firewall rules are loaded");
    Ok(())
}

/// What is done about the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Keep,
    Create,
    /// Remove what an interrupted creation left, then create.
    CreateAnew,
}

/// Decides: is the marker there, the cluster's configuration, its data?
fn action(marker: bool, configuration: bool, data: bool) -> Result<Action> {
    match (marker, configuration, data) {
        (true, _, _) => Ok(Action::CreateAnew),
        (false, true, true) => Ok(Action::Keep),
        (false, false, false) => Ok(Action::Create),
        (false, true, false) => bail!("the cluster's data directory is missing, its configuration is there"),
        (false, false, true) => bail!("the cluster's configuration is missing, its data directory is there"),
    }
}

fn create(folder: &Path) -> Result<()> {
    let (configuration, data) = (folder.join("etc").join(MAJOR).join(NAME), folder.join(MAJOR).join(NAME));
    let marker = folder.join(MARKER);
    let action = action(marker.exists(), configuration.exists(), data.exists())
        .with_context(|| format!("{} is not complete; restore it or remove the rest", folder.display()))?;
    if action == Action::Keep {
        return Ok(());
    }
    files::write(&marker, b"", 0o644, None)?;
    if action == Action::CreateAnew {
        eprintln!("monitor-link: making the cluster was interrupted; making it anew");
        for path in [&configuration, &data] {
            if path.exists() {
                fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    eprintln!("monitor-link: making PostgreSQL cluster {MAJOR}/{NAME}");
    cluster::run(
        Command::new("pg_createcluster")
            .args([MAJOR, NAME, "--port=5432", "--locale=C.UTF-8", "--datadir"])
            .arg(&data)
            .args(["--", "--data-checksums"]),
    )?;
    // initdb syncs the data; the marker goes only when all of it is on the disk, and durably: found after a power
    // cut, it would have a cluster deleted that was in use.
    let opened = fs::File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    rustix::fs::syncfs(opened).context("cannot bring the cluster to the disk")?;
    files::remove(&marker).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_made_where_there_is_none_and_anew_where_its_making_was_cut_off() {
        let table = [
            ((false, false, false), Some(Action::Create)),
            ((false, true, true), Some(Action::Keep)),
            ((true, false, false), Some(Action::CreateAnew)),
            ((true, false, true), Some(Action::CreateAnew)),
            ((true, true, true), Some(Action::CreateAnew)),
            ((false, true, false), None),
            ((false, false, true), None),
        ];
        for ((marker, configuration, data), expected) in table {
            assert_eq!(action(marker, configuration, data).ok(), expected);
        }
    }

    #[test]
    fn the_stored_rules_are_read_back_as_they_were() {
        let rules = crate::redirect::ruleset(&["192.0.2.5".parse().unwrap()], 5432, true);
        let text = serde_json::to_string_pretty(&rules).unwrap();
        let again: Nftables<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(again, rules);
    }
}
