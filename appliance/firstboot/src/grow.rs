//! `firstboot grow`: a disk that somebody has enlarged, such as a virtual one, is used to its end. Runs at every boot, when the
//! volumes are mounted; what fails keeps nothing else from working.

use anyhow::Result;
use storage::life::Machine;

use crate::places::Places;
use crate::report::{problem, say};

/// Looks at the machine's disks, and uses all of those that have grown.
///
/// # Errors
/// None so far: what fails is reported.
pub fn run(places: &Places) -> Result<()> {
    match Machine::this().grow() {
        Ok(grown) if grown.is_empty() => {}
        Ok(grown) => say("grow", &format!("all of {} is used now", grown.join(", "))),
        Err(error) => problem(places, "grow-problem", &format!("{error}. What was used before still is")),
    }
    Ok(())
}
