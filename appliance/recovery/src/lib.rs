//! The way back: from a backup server to a monitor's PostgreSQL (design D12).
//!
//! Who the server is ([`trust`]) and what it has ([`server`]), what this machine is ([`local`]), what cannot be restored here
//! and why ([`checks`]), the download that survives every break and believes nothing that it did not hash ([`download`]),
//! unpacking beside the live data, which can be cut at any point and goes on ([`unpack`]), the monitor's configuration, without
//! what would run something ([`filter`]), made ready beside the live one ([`configuration`]), the recovery of what was unpacked by PostgreSQL itself ([`start`]), taking
//! the place of what was there, and back ([`swap`]), what is under way and how far it is ([`restore`]), and all of it in
//! order ([`steps`]).
//!
//! Nothing of a backup is stored twice: what was downloaded and hashed is unpacked at once, so a restore needs the
//! room of the database and not of its tar as well. The price is that a restore that was cut goes on at the last point
//! at which all before was on the disk: 128 MiB and a file of at most 1 GiB before.

pub mod aside;
pub mod checks;
pub mod configuration;
pub mod download;
mod failure;
pub mod filter;
pub mod harmless;
pub mod local;
pub mod restore;
pub mod server;
pub mod start;
pub mod steps;
pub mod swap;
pub mod trust;
pub mod unpack;

pub use failure::{EXIT_STATUSES, Failure};
