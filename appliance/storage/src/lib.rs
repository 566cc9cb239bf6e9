//! Disks of the appliance: how a system disk is laid out, how its partitions are found again, what they hold.
//!
//! Decisions ([`layout`], [`contents`], [`plan`], [`sizing`], [`members`]) are pure; effects ([`disks`],
//! [`inventory`], [`smart`], [`table`], [`btrfs`], [`volume`], [`life`]) are thin around them. The image builder, the
//! installer and the first boot all use [`layout`], so a disk looks the same however it was made; a plan over several disks
//! (design D5) lays each of them out with it.

pub mod btrfs;
pub mod command_line;
pub mod contents;
pub mod disks;
pub mod inventory;
pub mod layout;
pub mod life;
pub mod medium;
pub mod members;
pub mod mounts;
pub mod plan;
pub mod recorded;
pub mod sizing;
pub mod smart;
pub mod table;
pub mod volume;
