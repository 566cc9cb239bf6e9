//! Where things lie in the checkout. Commands work from any folder in it: the root is where this crate stands.

use std::path::{Path, PathBuf};

/// The checkout.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Intermediate results, stamps and logs; safe to delete.
pub fn work() -> PathBuf {
    root().join(".build")
}

/// Finished files only.
pub fn dist() -> PathBuf {
    root().join("dist")
}

/// Where cargo compiles.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The system disk that `cargo xtask build` makes.
pub fn system_disk() -> PathBuf {
    dist().join("infimonitor-backup-server.raw")
}

/// The installation medium that `cargo xtask build` makes.
pub fn iso() -> PathBuf {
    dist().join("infimonitor-backup-server.iso")
}

/// A path as people write it: relative to the working folder where it lies below that.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
