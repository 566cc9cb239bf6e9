//! Nothing but a list of features: `xtask` depends on it so that `cargo run --package xtask` compiles each library with
//! the features that the whole workspace has.
//!
//! Cargo unifies features over the packages that one call selects, so that a library was compiled anew for each of
//! `cargo xtask`, the programs of the image and the tests: 62 of them, minutes of two cores. A test in `xtask`
//! compares the sets and says what is missing here. The trade-off: `cargo xtask` compiles some features that it does not
//! need. Programs of a release are compiled by themselves and get what they ask for.
