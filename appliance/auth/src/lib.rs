//! How parties know each other: the password of the user `backup`, which the control API and FTP ask for, and the
//! certificates that peers pin.
//!
//! - [`certificate`]: self-signed certificates.
//! - [`hash`]: the password file, one Argon2id PHC string, and how it is written.
//! - [`pin`]: the keys of the paired monitor, and what they vouch for.
//! - [`throttle`]: how many wrong passwords a source may try; pure.
//! - [`verifier`]: both together, for a network-facing process.
//!
//! The trade-off: the throttle is asked *before* anything is compared, so a source that has guessed too often is
//! refused even with the right password until its delay is over. In return guessing is slow and costs the machine
//! nothing (design D14).

pub mod certificate;
pub mod hash;
pub mod pin;
pub mod throttle;
pub mod verifier;

pub use hash::{AuthError, DEFAULT_PASSWORD, hash_password, validate_hash, write_password_file};
pub use verifier::{Outcome, Verifier};
