//! The trees of programs that builds and tests use, as data: name, Debian release, packages.
//!
//! Trade-off: a tree's name carries the hash of its description, so a changed list makes a new tree beside the old
//! one and checkouts of different ages share a cache without harm; old ones are deleted by hand.

use sha2::{Digest, Sha256};

use crate::mirror::RELEASE;
use crate::mkosi::MKOSI_VERSION;

/// One tree's description.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    /// Also the name of its incremental cache.
    label: &'static str,
    /// Its Debian release.
    pub(crate) release: &'static str,
    /// mkosi's configuration of it.
    pub(crate) configuration: &'static str,
    /// The command that makes it.
    pub(crate) made_by: &'static str,
    /// The PostgreSQL major in it, where there is one.
    postgresql: Option<u32>,
}

impl Tree {
    /// All programs of a build and a test, of the appliance's own release (decision D1).
    pub const TOOLS: Self = Self {
        label: "tools",
        release: RELEASE,
        configuration: include_str!("../trees/tools.conf"),
        made_by: "cargo xtask build --tools-only",
        postgresql: Some(17),
    };

    /// A PostgreSQL that is too old for the appliance, for the tests of what such a monitor gets.
    pub const OLD_POSTGRESQL: Self = Self {
        label: "old-postgresql",
        release: "bookworm",
        configuration: include_str!("../trees/old-postgresql.conf"),
        made_by: "cargo xtask test",
        postgresql: Some(15),
    };

    /// An OVMF that finds disks behind VMware's controllers, for the scenarios of the OVA.
    pub const OLD_OVMF: Self = Self {
        label: "old-ovmf",
        release: "bullseye",
        configuration: include_str!("../trees/old-ovmf.conf"),
        made_by: "cargo xtask build --for-scenarios",
        postgresql: None,
    };

    /// The backup programs that the benchmarks compare with.
    pub const PEERS: Self = Self {
        label: "peers",
        release: RELEASE,
        configuration: include_str!("../trees/peers.conf"),
        made_by: "cargo xtask bench",
        postgresql: Some(17),
    };

    /// FTP clients, and the schema of a Zabbix server, for the long tests.
    pub const CLIENTS: Self = Self {
        label: "clients",
        release: RELEASE,
        configuration: include_str!("../trees/clients.conf"),
        made_by: "cargo xtask test --full",
        postgresql: None,
    };

    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::TOOLS, Self::OLD_POSTGRESQL, Self::OLD_OVMF, Self::PEERS, Self::CLIENTS];

    /// What the tree is called.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// The folder's name in the cache.
    pub(crate) fn name(&self) -> String {
        let digest = Sha256::digest(format!("{MKOSI_VERSION}\n{}", self.configuration));
        let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{hex}", self.label)
    }

    /// Where the tree has the programs of PostgreSQL that Debian keeps off PATH; `None` where it has no PostgreSQL.
    pub(crate) fn postgresql_folder(&self) -> Option<String> {
        self.postgresql.map(|major| format!("/usr/lib/postgresql/{major}/bin"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_installs_the_release_and_the_major_that_its_tree_states() {
        for tree in Tree::ALL {
            let has = |line: &str| tree.configuration.lines().any(|found| found.trim() == line);
            assert!(has(&format!("Release={}", tree.release)), "{}", tree.label);
            if let Some(major) = tree.postgresql {
                assert!(has(&format!("postgresql-{major}")), "{}", tree.label);
            }
        }
    }
}
