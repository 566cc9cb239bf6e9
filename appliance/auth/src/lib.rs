//! How parties know each other: the password of the user `backup`, which the control API and FTP ask for, and the
//! certificates that peers pin.
//!
//! - [`certificate`]: self-signed certificates.
//! - [`crowd`]: whose connections have places before a login.
//! - [`hash`]: the password file, one Argon2id PHC string, and how it is written.
//! - [`throttle`]: how many wrong passwords a source may try.
//! - [`ledger`]: where they are counted, so that the control API and FTP count together.
//! - [`turns`]: whose password is hashed next.
//! - [`verifier`]: all together, for a network-facing process.
//! - [`journal`]: how much such a process logs, whoever makes it do so.
//! - [`pin`]: the keys of the paired monitor, and what its signing key vouches for.
//! - [`testing`]: a monitor that signs, for tests.
//! - [`usable`]: what PostgreSQL's programs make of the monitor's certificate.
//!
//! The trade-off: the throttle is asked *before* anything is compared, so a source that has guessed too often is
//! refused even with the right password until its delay is over. In return guessing is slow and costs the machine
//! nothing (design D14). Only a source's own failures count, so nobody can lock out an address that has not failed.
//! What many addresses can take away is time: until the right password has come once since the start, each first guess
//! costs a hash of some 20 ms, and newcomers are hashed before them. Afterwards a guess costs a SHA-256. A proof of the
//! password that is cheap to check (a truncated MAC beside the hash) was left out: it would make a stolen hash easier to
//! guess by as much as it saves, and is not needed, as measured in `tests/crowd.rs`.

pub mod certificate;
pub mod crowd;
pub mod hash;
pub mod journal;
pub mod ledger;
pub mod pin;
pub mod testing;
pub mod throttle;
pub mod turns;
pub mod usable;
pub mod verifier;

pub use hash::{AuthError, DEFAULT_PASSWORD, hash_password, validate_hash, write_password_file};
pub use ledger::Ledgers;
pub use turns::{Asking, Wanted};
pub use verifier::{Outcome, PasswordVersion, Verifier};
