//! The two slots of the system: which one starts, how a new system gets into the other one, and how it proves itself
//! (design D3, D4). The one place that reads and writes slots and grubenv.
//!
//! - [`environment`]: GRUB's environment block; pure.
//! - [`decision`]: which slot is started, and what follows from how it went; pure.
//! - [`fat`], [`store`]: grubenv in the ESP, in place.
//! - [`boot_image`], [`writer`]: a system into a slot, so that a power cut does no harm.
//! - [`health`]: when a new system is good; pure.
//! - [`machine`]: the slots of the machine that this runs on.
//! - [`report`]: what the other programs may know.

pub mod boot_image;
pub mod decision;
pub mod environment;
pub mod fat;
pub mod health;
pub mod machine;
pub mod report;
pub mod store;
pub mod writer;

pub use decision::{Choice, Record, Slot, State, TRIES, choose};
pub use report::Report;
pub use store::Store;
