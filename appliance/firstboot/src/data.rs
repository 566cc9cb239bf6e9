//! The *data* file system: replica and backups, or the monitor's own database.

use anyhow::Result;
use provisioning::Role;
use storage::btrfs;

use crate::places::Places;
use crate::report::{problem, say};
use crate::state;

/// Mounts *data* and makes the role's folders; what fails is reported, and the role's services find out for
/// themselves that their folders are missing.
pub fn ensure(places: &Places, role: Role) {
    let result = state::attach(places, "data", &places.in_root("data"), btrfs::DATA_FLAGS)
        .and_then(|()| folders(places, role));
    match result {
        Ok(()) => {
            // A mount that was mended without a boot.
            if let Err(error) = files::remove(&places.runtime("data-problem")) {
                say("data", &format!("{error:#}"));
            }
        }
        Err(error) => problem(places, "data-problem", &format!("{error:#}. Nothing was changed there")),
    }
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
