//! Calling cargo from a program that cargo runs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

/// The cargo that runs this program, without what it told this program about itself.
///
/// Build scripts (ring's) run again when a variable such as `CARGO_MANIFEST_DIR` changes, so passing those on would
/// compile half the tree at each turn between `cargo xtask` and plain cargo.
pub fn command() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_running_package(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    cargo
}

/// Whether cargo has a command, such as `nextest`.
///
/// # Errors
/// cargo cannot be run.
pub fn has(command_name: &str) -> Result<bool> {
    let there = command().args([command_name, "--version"]).output().context("cannot run cargo")?;
    Ok(there.status.success())
}

/// What installs a package's program from the registry that cargo uses. Compiled as quickly as can be: a tool of the tests
/// runs for seconds, and its optimisation took minutes.
pub fn installer(package: &str, options: &[&str]) -> Command {
    let mut cargo = command();
    cargo.args(["install", "--locked", package]).args(options);
    for (name, value) in [("OPT_LEVEL", "0"), ("LTO", "off"), ("CODEGEN_UNITS", "16"), ("DEBUG", "false")] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    cargo
}

/// Where cargo keeps the sources of libraries.
pub fn home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// Whether cargo set a variable to describe the package that it runs, which is this one.
fn is_of_running_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "DEP_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || variable == "OUT_DIR"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_describes_this_package_is_kept_from_cargo() {
        for (variable, expected) in [
            ("CARGO_PKG_NAME", true),
            ("CARGO_MANIFEST_DIR", true),
            ("OUT_DIR", true),
            ("CARGO_HOME", false),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_NET_OFFLINE", false),
            ("PATH", false),
        ] {
            assert_eq!(is_of_running_package(variable), expected, "{variable}");
        }
    }
}
