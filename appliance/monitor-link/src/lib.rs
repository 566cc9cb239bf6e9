//! The monitor's side of the link to the backup server: PostgreSQL 17 prepared for replication, reachable on
//! 50001/tcp from the backup server only.
//!
//! - [`setup`]: settings, certificate, access rules, role and slot, port; prints the body of `PUT /v1/peer`.
//! - [`start`]: at boot, our node's cluster and the firewall rules.
//!
//! It runs on our node and on any Debian or Ubuntu host with PostgreSQL 17 from the distribution's packages. On a
//! foreign host it adds files of its own and one line to `pg_hba.conf`; a setting that is good enough stays as it is.
//! What goes into those files is decided by pure functions: [`settings`], [`hba`], [`redirect`], [`sql`].

pub mod address;
pub mod certificate;
pub mod cluster;
pub mod hba;
pub mod redirect;
pub mod settings;
pub mod setup;
pub mod sql;
pub mod start;
