//! The build's own cache and its *tools tree*: a Debian userland with QEMU, PostgreSQL, mkosi's helpers and the
//! rest, so that a build or test host needs Rust, Python 3 and apt only (decision D1).
//!
//! Trade-off: a tree costs about a gigabyte of the user's cache and half a minute once, and in return every host
//! builds and tests with the same programs, in the versions of the release that the appliance is made of.
//! Programs run *inside* the tree's `/usr` but see the host's files (see [`Toolbox::command`]).

mod apt;
mod cache;
pub mod mirror;
mod mkosi;
pub mod scratch;
mod toolbox;
mod tree;

pub use cache::Cache;
pub use mkosi::{MKOSI_VERSION, Mkosi};
pub use toolbox::Toolbox;
pub use tree::Tree;
