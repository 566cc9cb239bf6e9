//! `firstboot grow`: a disk that somebody has enlarged, such as a virtual one, is used to its end. Runs at every boot, when the
//! volumes are mounted; what fails keeps nothing else from working.

use std::path::Path;

use anyhow::{Context, Result};
use storage::life::Machine;
use storage::mounts;

use crate::places::Places;
use crate::report::{problem, say};

/// Looks at the machine's disks, and uses all of those that have grown.
///
/// # Errors
/// The list of mounts cannot be read; what else fails is reported.
pub fn run(places: &Places) -> Result<()> {
    let machine = Machine::this(Path::new("/data"));
    for (_, target) in &machine.mounted {
        // Whoever mounts them has said why not.
        if mounts::at(target)
            .context("cannot read the list of mounts")?
            .is_none_or(|mount| mount.fs_type != "btrfs")
        {
            return Ok(());
        }
    }
    match machine.grow() {
        Ok(grown) if grown.is_empty() => {}
        Ok(grown) => say("grow", &format!("all of {} is used now", grown.join(", "))),
        Err(error) => problem(places, "grow-problem", &format!("{error}. What was used before still is")),
    }
    Ok(())
}
