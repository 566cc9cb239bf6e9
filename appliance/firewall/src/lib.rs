//! What comes into our machines: exactly the ports of the role (design section 2), IPv4 and IPv6, and nothing else.
//!
//! [`machine`] decides; [`rules`] says it in nftables' words, for this table and for others' (`monitor-link` redirects in one
//! of its own, on any host). Everything goes through the `nftables` crate, which writes what `nft -j` reads, and into force as
//! one transaction: there is no moment without rules.

pub mod machine;
pub mod rules;

pub use machine::ruleset;
pub use rules::{NFT, apply};
