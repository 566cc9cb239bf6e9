//! What is compiled and checked before the tests run, beside the images: mkosi leaves one core and more to the compiler.
//!
//! Cargo lets one call at a time into the target folder, so that these jobs follow each other.

use anyhow::Result;

use crate::jobs::{Job, Room, names};
use crate::{cargo, paths};

/// Compiles the tests, checks format and lints, and has the runner of the tests.
pub fn jobs<'a>() -> Vec<Job<'a>> {
    vec![
        cargo_job("format", &[], &["fmt", "--all", "--check"]),
        cargo_job("tests", &["programs", "format"], &["test", "--no-run", "--workspace", "--locked"]),
        cargo_job(
            "lints",
            &["tests"],
            &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        ),
        job("runner", &["lints"], |room| {
            if cargo::has("nextest")? {
                return Ok(());
            }
            room.run(&mut cargo::installer(
                "cargo-nextest",
                &["--no-default-features", "--features", "default-no-update"],
            ))
        }),
    ]
}

fn cargo_job<'a>(name: &str, needs: &[&str], arguments: &'static [&'static str]) -> Job<'a> {
    job(name, needs, move |room| room.run(cargo::command().args(arguments).current_dir(paths::root())))
}

/// A job without outputs of its own: cargo knows what is there.
fn job<'a>(name: &str, needs: &[&str], action: impl Fn(&Room) -> Result<()> + Send + Sync + 'a) -> Job<'a> {
    Job {
        name: name.into(),
        needs: names(needs),
        inputs: vec![],
        outputs: vec![],
        always: true,
        hash_outputs: false,
        action: Box::new(action),
    }
}
