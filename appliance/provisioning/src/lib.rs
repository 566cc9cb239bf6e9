//! What a machine is told at its first boot, and what it becomes by it.
//!
//! - [`answers`]: the YAML document: role, host name, network, password hashes.
//! - [`values`]: the types of its fields; a value that exists is valid.
//! - [`smbios`]: how the document reaches a VM: an SMBIOS OEM string.
//! - [`ovf`]: how properties of an import reach a VM of VMware.
//! - [`networkd`]: network settings as systemd-networkd files.
//! - [`identity`]: what the machine is from then on.
//!
//! All of it is pure; `firstboot` does the reading and writing. Everything is checked while it is parsed, so an
//! answer with one mistake is refused as a whole, naming field and line: half a provisioning is worse than none.

pub mod answers;
pub mod identity;
pub mod networkd;
pub mod ovf;
pub mod smbios;
pub mod values;

pub use answers::{Answers, AnswersError, Interface, Role};
pub use identity::Identity;
