//! How a volume's block groups are kept, and how they should be over the disks that it has. Pure.
//!
//! Told from the block groups themselves: a balance that was cut, blocks that were written while a disk was away, a disk that
//! was taken in and nothing more, all look the same here, and the same balance mends them.

use std::collections::BTreeSet;

use crate::layout::DATA;
use crate::plan::{self, Profile};

/// How block groups of both kinds should be kept, in btrfs's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Those with data.
    pub data: &'static str,
    /// Those with metadata, and the system's own.
    pub metadata: &'static str,
}

/// How the volume with this GPT name should be kept over disks whose shares of *data* have these sizes.
pub fn wanted(volume: &str, data_sizes: &[u64]) -> Wanted {
    let profile = plan::profile_of(data_sizes);
    // *state* and all metadata are kept twice at most.
    let data = match (volume, profile) {
        (DATA, profile) => profile,
        (_, Profile::Single) => Profile::Single,
        (_, _) => Profile::Raid1,
    };
    Wanted { data: data.name(), metadata: profile.metadata() }
}

/// How block groups are kept, as `btrfs filesystem df` says it: profiles of data, and of metadata and system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Profiles that block groups with data have.
    pub data: BTreeSet<String>,
    /// Profiles that the others have.
    pub metadata: BTreeSet<String>,
}

/// Reads what `btrfs filesystem df` prints.
pub fn kept(text: &str) -> Kept {
    let mut kept = Kept::default();
    for line in text.lines() {
        let Some((kind, profile)) = line.split_once(':').and_then(|(head, _)| head.split_once(", ")) else {
            continue;
        };
        let profiles = match kind.trim() {
            "Data" => &mut kept.data,
            "Metadata" | "System" => &mut kept.metadata,
            // The reserve is no block group.
            _ => continue,
        };
        profiles.insert(profile.trim().to_lowercase());
    }
    kept
}

impl Kept {
    /// Whether all is kept as wanted. A volume without data yet is.
    pub fn is(&self, wanted: Wanted) -> bool {
        let all = |kept: &BTreeSet<String>, wanted: &str| kept.iter().all(|profile| profile == wanted);
        all(&self.data, wanted.data) && all(&self.metadata, wanted.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str = "Data, RAID1: total=1.00GiB, used=64.00MiB\nSystem, RAID1: total=8.00MiB, used=16.00KiB\n\
                          Metadata, RAID1: total=1.00GiB, used=1.00MiB\nGlobalReserve, single: total=3.25MiB, used=0.00B\n";

    #[test]
    fn a_volume_is_kept_as_its_disks_allow() {
        let (one, two, four) = (&[9][..], &[9, 9][..], &[9, 9, 9, 9][..]);
        let table = [
            ("state", one, "single", "dup"),
            ("state", two, "raid1", "raid1"),
            ("state", four, "raid1", "raid1"),
            ("data", one, "single", "dup"),
            ("data", two, "raid1", "raid1"),
            ("data", four, "raid10", "raid1"),
            ("data", &[9, 9, 9, 20], "raid1", "raid1"),
        ];
        for (volume, sizes, data, metadata) in table {
            assert_eq!(wanted(volume, sizes), Wanted { data, metadata }, "{volume} {sizes:?}");
        }
    }

    #[test]
    fn what_was_not_finished_is_seen_in_the_block_groups() {
        let wanted = wanted("data", &[9, 9]);
        let degraded = format!("{MIRROR}Data, single: total=1.00GiB, used=8.00MiB\n");
        let added = MIRROR.replace("Data, RAID1", "Data, single").replace("System, RAID1", "System, DUP");
        for (text, expected) in [(MIRROR, true), (&degraded, false), (&added, false), ("", true)] {
            assert_eq!(kept(text).is(wanted), expected, "{text}");
        }
        assert_eq!(kept(MIRROR).data, ["raid1".to_owned()].into());
    }
}
