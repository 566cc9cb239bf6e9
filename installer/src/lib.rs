//! From the installation medium to a machine: what both ways, by pages and unattended, share.
//!
//! 1. [`sources`]: the answers, from wherever they were given.
//! 2. [`machine`]: what the machine has, and the plan for its disks with all that is to be said about it.
//! 3. [`apply`]: erases, writes, and makes the disks bootable last, so that no half installation ever boots.
//!
//! Decisions are those of `storage`; the two ways differ only in who answers.

pub mod apply;
pub mod hash;
pub mod links;
pub mod loops;
pub mod machine;
pub mod medium;
pub mod pages;
pub mod report;
pub mod sources;
pub mod unattended;
