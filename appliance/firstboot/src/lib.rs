//! What happens at every boot before the role's services start; the first boot is the one that finds nothing.
//!
//! 1. [`initrd`]: *state* is found on the system disk, made if it is blank, mounted as `/var`; the machine gets its
//!    id, on its first boot its identity from the answers, and at each boot its target, network, host name and root
//!    password.
//! 2. [`system`]: certificate, password file, *data* file system.
//!
//! A machine that was booted of the installation medium has none of these: [`medium`] opens its root, and its `/var` is
//! memory.
//!
//! Every step looks first, says what it found and what it does, and may be run again: a power cut at any point is
//! mended by the next boot, because `identity.json` is written last and each file appears whole or not at all
//! (design D15). Nothing that carries data is ever formatted. What goes wrong is written to a file in
//! `/run/infimonitor`, to the console and the journal, and the boot goes on.
//!
//! The steps take their paths from [`Places`], so that tests run them against a folder.

pub mod boot_sector;
pub mod data;
pub mod grow;
pub mod initrd;
pub mod machine_id;
pub mod medium;
mod ovf;
pub mod places;
pub mod provision;
pub mod report;
pub mod settings;
pub mod state;
pub mod system;
pub mod tls;

pub use places::Places;
