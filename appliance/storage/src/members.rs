//! The members of a btrfs over several disks: which belong to it, whether all are there, and which have been left behind.
//!
//! btrfs itself waits for ever for a member that is gone, and takes in one that comes back with the state of before, whose
//! blocks it then finds wrong one by one. So the decision is ours (design D5): what has missed transactions is never
//! mounted in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use thiserror::Error;

use crate::contents::Superblock;
use crate::volume::REPLACING;

/// A commit writes the members' superblocks one after the other, so a power cut leaves them one transaction apart, and
/// btrfs takes the newer. Whoever misses more was away. A mount without a member makes more than that at once, see
/// `firstboot`.
const APART_BY_A_CUT: u64 = 1;

/// A partition with a finished btrfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Device file.
    pub device: PathBuf,
    /// What it says.
    pub superblock: Superblock,
}

/// A file system, as far as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    /// What is mounted together, in the order of the members' numbers.
    pub devices: Vec<PathBuf>,
    /// How many members are missing, the stale ones among them.
    pub missing: u64,
    /// Members that have missed transactions: to be wiped and put in anew, never mounted.
    pub stale: Vec<PathBuf>,
}

/// Why a file system cannot be put together.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MembersError {
    /// A disk was copied.
    #[error("{} and {} are the same member of one btrfs: detach the copy", .0.display(), .1.display())]
    Copied(PathBuf, PathBuf),
}

/// Puts together the file system of which `one` is a member, from all that was `found`, `one` among them.
///
/// # Errors
/// [`MembersError::Copied`]
pub fn assemble(one: &Member, found: &[Member]) -> Result<Assembly, MembersError> {
    let members = || found.iter().filter(|member| member.superblock.fsid == one.superblock.fsid);
    let newest = members().max_by_key(|member| member.superblock.generation).unwrap_or(one);
    let oldest = newest.superblock.generation.saturating_sub(APART_BY_A_CUT);
    let (mut present, mut stale) = (BTreeMap::new(), Vec::new());
    for member in members() {
        if member.superblock.generation < oldest {
            stale.push(member.device.clone());
        } else if let Some(other) = present.insert(member.superblock.devid, member.device.clone()) {
            return Err(MembersError::Copied(other, member.device.clone()));
        }
    }
    // What one is replaced by does not count before it has taken its number.
    let there = present.keys().filter(|devid| **devid != REPLACING).count() as u64;
    let missing = newest.superblock.num_devices.saturating_sub(there);
    Ok(Assembly { devices: present.into_values().collect(), missing, stale })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn member(name: &str, devid: u64, generation: u64) -> Member {
        let fsid = Uuid::from_u128(7);
        Member { device: name.into(), superblock: Superblock { fsid, generation, num_devices: 3, devid } }
    }

    #[test]
    fn what_belongs_together_is_mounted_together_and_what_was_away_is_not() {
        let other = {
            let mut other = member("other", 1, 900);
            other.superblock.fsid = Uuid::from_u128(8);
            other
        };
        type Expected<'a> = (&'a [&'a str], u64, &'a [&'a str]);
        let table: [(&[Member], Expected<'_>); 6] = [
            (
                &[member("c", 3, 10), member("a", 1, 10), other.clone(), member("b", 2, 10)],
                (&["a", "b", "c"], 0, &[]),
            ),
            (&[member("a", 1, 10), member("b", 2, 10)], (&["a", "b"], 1, &[])),
            // A power cut in the midst of a commit.
            (&[member("a", 1, 11), member("b", 2, 10), member("c", 3, 10)], (&["a", "b", "c"], 0, &[])),
            // One is missing, and being replaced.
            (&[member("a", 1, 10), member("b", 2, 10), member("new", 0, 10)], (&["new", "a", "b"], 1, &[])),
            // One was away.
            (&[member("a", 1, 12), member("b", 2, 12), member("c", 3, 10)], (&["a", "b"], 1, &["c"])),
            // The disk that was booted is the one that was away.
            (&[member("a", 1, 5), member("b", 2, 12), member("c", 3, 12)], (&["b", "c"], 1, &["a"])),
        ];
        for (found, (devices, missing, stale)) in table {
            let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
            let expected = Assembly { devices: paths(devices), missing, stale: paths(stale) };
            assert_eq!(assemble(&found[0], found), Ok(expected));
        }
    }

    #[test]
    fn a_copied_disk_is_named_beside_its_original_unless_it_is_old() {
        let (one, copy) = (member("a", 1, 10), member("b", 1, 10));
        let error = assemble(&one, &[one.clone(), copy]).unwrap_err().to_string();
        assert_eq!(error, "a and b are the same member of one btrfs: detach the copy");
        let old = member("b", 1, 3);
        assert_eq!(assemble(&one, &[one.clone(), old]).unwrap().stale, [PathBuf::from("b")]);
    }
}
