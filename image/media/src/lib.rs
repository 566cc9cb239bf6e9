//! Virtual machine packages from a raw disk: streamOptimized VMDK, OVA, XVA; and what hypervisors refuse of them.
//!
//! Everything is streamed in one pass with all cores, holes are skipped, and memory does not grow with the disk. **Identical
//! input gives identical bytes**: no clock, no random number, no dependence on the number of cores or on which zeros of the disk
//! are holes; identities (content ids, UUIDs, dates) are the caller's.
//!
//! ```no_run
//! use media::{Source, vmdk};
//! let disk = Source::open("disk.raw".as_ref())?;
//! let options = vmdk::Options { name: "disk.vmdk".into(), level: 6, content_id: [7; 16] };
//! let file = std::fs::File::create("disk.vmdk")?;
//! vmdk::write(&disk, &options, std::io::BufWriter::new(file), &mut |done| println!("{done} bytes"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate knows nothing of how the disk came to be. VHD and VHDX are left to `qemu-img`, whose files their hypervisor takes.

mod gzip;
mod member;
mod ordered;
pub mod ova;
pub mod ovf;
pub mod profile;
mod source;
pub mod stable;
pub mod verify;
pub mod vmdk;
mod xml;
pub mod xva;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use source::{Source, is_zero};

/// 1 MiB in bytes.
pub const MIB: u64 = 1 << 20;

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What boots a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// How many bytes of the disk's data are done.
pub type Progress<'p> = dyn FnMut(u64) + 'p;

/// Why a package cannot be made or read.
#[derive(Debug, Error)]
pub enum Error {
    /// A file cannot be opened or inspected.
    #[error("cannot open {}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The disk is a device, or something else that has no size of its own.
    #[error("{} is no file; copy the disk into one, with holes: `dd conv=sparse bs=1M`", .0.display())]
    NoFile(PathBuf),
    /// A disk that no hypervisor takes.
    #[error("{} has {bytes} bytes; a disk must be of whole MiB: enlarge it with `truncate --size=%1M`", path.display())]
    Size {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The disk cannot be read.
    #[error("cannot read the disk: {0}")]
    Read(io::Error),
    /// The package cannot be written.
    #[error("cannot write the package: {0}")]
    Write(io::Error),
    /// More than the format has room for.
    #[error("{what} is larger than {format} allows ({limit})")]
    TooLarge {
        /// What.
        what: String,
        /// Of which format.
        format: &'static str,
        /// How much it allows.
        limit: &'static str,
    },
    /// A level that deflate does not have.
    #[error("there is no deflate level {0}: take 0 to 9")]
    Level(u32),
    /// The compressor gave up, which is an error of the program.
    #[error("the compressor gave up on sound input")]
    Deflate,
    /// A name that the format has no way to write.
    #[error("{0:?} cannot be the name of a file in the package: no quotes and no control characters")]
    Name(String),
    /// Something that has no content to look at, or none that ends.
    #[error("{} is {what}; give a file", path.display())]
    NotRegular {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that is no package, and that is known.
    #[error("{} is {what}, and no OVA, VMDK, VHDX, VHD, XVA or ISO", path.display())]
    Other {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that is no package.
    #[error("{} is no OVA, VMDK, VHDX, VHD, XVA or ISO", .0.display())]
    Unknown(PathBuf),
    /// A member of an OVA that should be text.
    #[error("{name:?} in it cannot be looked at: {cause}")]
    Text {
        /// Its name.
        name: String,
        /// Why.
        cause: String,
    },
    /// An archive around a package.
    #[error("{} is a zip; unpack it, and give the disk that is in it", .0.display())]
    Zip(PathBuf),
    /// A thread ended before its work did, which is an error of the program.
    #[error("a thread ended before its work was done")]
    Worker,
}
