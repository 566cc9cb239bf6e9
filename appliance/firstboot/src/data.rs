//! The *data* file system: replica and backups, or the monitor's own database.

use anyhow::{Context, Result, anyhow};
use provisioning::Role;
use storage::{btrfs, recorded};

use crate::places::Places;
use crate::report::{problem, say};
use crate::state::{self, Volume};

/// Stands in *state* since *data* was made.
const MADE: &str = "data-made";

/// Mounts *data* and makes the role's folders; what fails is reported, and the role's services find out for
/// themselves that their folders are missing.
pub fn ensure(places: &Places, role: Role) {
    match attach(places, role) {
        Ok(()) => {
            // A mount that was mended without a boot.
            if let Err(error) = files::remove(&places.runtime("data-problem")) {
                say("data", &format!("{error:#}"));
            }
        }
        Err(error) => problem(places, "data-problem", &format!("{error:#}. Nothing was changed there")),
    }
}

/// Mounts *data*, made only once in the machine's life: found blank later, it was lost, and an empty volume in its place
/// would pass for one without backups.
fn attach(places: &Places, role: Role) -> Result<()> {
    let made = places.setting(MADE);
    let target = places.in_root("data");
    let was_made = made.try_exists().with_context(|| format!("cannot look for {}", made.display()))?;
    let plan = files::read(&places.setting(recorded::FILE))?;
    let plan = plan.map(|text| serde_json::from_str(&text)).transpose();
    let plan = plan.with_context(|| format!("{} is damaged", places.setting(recorded::FILE).display()))?;
    let volume = Volume { name: "data", target: &target, flags: btrfs::DATA_FLAGS, was_made, plan };
    state::attach(places, &volume).map_err(|error| {
        if was_made {
            anyhow!("{error:#}. To begin with an empty one, remove {}", made.display())
        } else {
            error
        }
    })?;
    files::write(&made, b"", 0o644, Some((places.ids.root, places.ids.root)))?;
    folders(places, role)
}

/// The folders at the top of *data*, owned by root: only the privileged process makes anything in them, or, on the
/// monitor, pg_createcluster.
fn folders(places: &Places, role: Role) -> Result<()> {
    for name in names(role) {
        let path = places.in_root("data").join(name);
        if files::folder(&path, 0o755, (places.ids.root, places.ids.root))? {
            say("data", &format!("made {}", path.display()));
        }
    }
    Ok(())
}

fn names(role: Role) -> &'static [&'static str] {
    match role {
        Role::BackupServer => &["replica", "backups"],
        Role::Monitor | Role::MonitorRecovery => &["postgresql", "postgresql/etc"],
        Role::Installer => &[],
    }
}
