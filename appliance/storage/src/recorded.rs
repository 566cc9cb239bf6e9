//! The plan as it was carried out, in the machine's settings: first boot makes *data* by it, and later it says which disks
//! are the machine's.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::plan::Profile;

/// Name of the file in the machine's settings.
pub const FILE: &str = "disks.json";

/// The disks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// How *data* is kept.
    pub profile: Profile,
    /// GUIDs of the disks' GPTs.
    pub disks: Vec<Uuid>,
}
