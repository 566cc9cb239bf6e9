//! What a machine is: `identity.json` on the state file system. Its presence means "provisioned".

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::answers::Role;

/// Path of the identity below the root of the file system.
pub const PATH: &str = "var/lib/infimonitor/identity.json";

/// Contents of `identity.json`. Unknown fields are left alone: a later version may add some, and a machine that fell
/// back to its old slot must still know who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The machine's own UUID.
    pub id: Uuid,
    /// What it is for.
    pub role: Role,
    /// When it was told so.
    pub provisioned: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_later_version_is_still_understood() {
        let text = r#"{"id":"8c5f2a30-1111-4222-8333-444455556666","role":"monitor",
            "provisioned":"2026-11-23T20:54:30Z","added-later":1}"#;
        let identity: Identity = serde_json::from_str(text).unwrap();
        assert_eq!(identity.role, Role::Monitor);
        let again: Identity = serde_json::from_str(&serde_json::to_string(&identity).unwrap()).unwrap();
        assert_eq!(again, identity);
    }
}
