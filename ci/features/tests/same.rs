//! Each library is compiled once for `cargo xtask`, the programs of the image and the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::process::Command;

/// Name and version of each library, and the sets of features with which a call of cargo compiles it.
fn libraries(selection: &[&str]) -> Result<BTreeMap<String, BTreeSet<String>>, Box<dyn Error>> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}\t{f}"])
        .args(selection)
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let Some((package, features)) = line.trim_end_matches(" (*)").split_once('\t') else { continue };
        let package = package.trim_end_matches(" (proc-macro)");
        all.entry(package.into()).or_default().insert(features.trim().into());
    }
    // Our own packages are named with their folders, and have no features that a selection changes.
    all.retain(|package, _| !package.contains(" ("));
    assert!(all.len() > 100, "{all:?}");
    Ok(all)
}

#[test]
fn every_call_of_cargo_compiles_the_same_libraries() -> Result<(), Box<dyn Error>> {
    let tests = libraries(&["--workspace", "--edges", "normal,build,dev"])?;
    for selection in [["--workspace"].as_slice(), &["--package", "xtask"]] {
        let arguments = [selection, &["--edges", "normal,build"]].concat();
        let others: Vec<_> = libraries(&arguments)?
            .into_iter()
            .filter(|(package, sets)| !tests.get(package).is_some_and(|known| sets.is_subset(known)))
            .map(|(package, sets)| format!("{package}: {sets:?}, in tests {:?}", tests.get(&package)))
            .collect();
        assert!(
            others.is_empty(),
            "cargo build {} compiles these anew; name them with the tests' features in ci/features/Cargo.toml \
             (under build-dependencies too, where a macro uses them):\n{}",
            selection.join(" "),
            others.join("\n")
        );
    }
    Ok(())
}
