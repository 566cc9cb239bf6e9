//! Disks of the appliance: how a system disk is laid out, how its partitions are found again, what they hold.
//!
//! Decisions ([`layout`], [`contents`]) are pure; effects ([`disks`], [`btrfs`]) are thin around them. The image
//! builder, the installer and the first boot all use [`layout`], so a disk looks the same however it was made.
//!
//! Today one disk is planned: [`layout::system_disk`]. A plan over several disks (design D5: raid1, raid10) comes
//! beside it and lays each of its disks out with the same function; nothing here assumes that `state` and `data`
//! have a single member, except [`btrfs::make_single`], which says so in its name.

pub mod btrfs;
pub mod contents;
pub mod disks;
pub mod layout;
pub mod mounts;
