//! The plan as it was carried out, in the machine's settings: first boot makes *data* by it, and later it says which disks
//! are the machine's.

use std::collections::BTreeMap;

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
    /// What they are called: model, serial number, bay. So that one that is lost can be named.
    #[serde(default)]
    pub titles: BTreeMap<Uuid, String>,
}

impl Recorded {
    /// What those are called that are not `there`.
    pub fn lost(&self, there: &[Uuid]) -> Vec<String> {
        let lost = self.disks.iter().filter(|guid| !there.contains(guid));
        lost.filter_map(|guid| self.titles.get(guid).cloned()).collect()
    }
}
