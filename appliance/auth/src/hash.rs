//! The password file: one line, an Argon2id PHC string.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argon2::password_hash::{PasswordHasher, phc::PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The password until another one is set; a check warns while it is in use (design section 2).
pub const DEFAULT_PASSWORD: &str = "backup";

/// Argon2 memory in KiB: 19 MiB (OWASP Password Storage Cheat Sheet, with [`PASSES`] and [`LANES`]).
pub const MEMORY_KIB: u32 = 19 * 1024;
/// Argon2 passes over the memory.
pub const PASSES: u32 = 2;
/// Argon2 lanes.
pub const LANES: u32 = 1;

/// The most memory that a foreign hash may ask for, in KiB: a provisioned hash must not exhaust a 1 GB machine.
const MAXIMUM_MEMORY_KIB: u32 = 256 * 1024;
/// The most passes that a foreign hash may ask for.
const MAXIMUM_PASSES: u32 = 16;

/// Why a password cannot be hashed, stored or read.
#[derive(Debug, Error)]
pub enum AuthError {
    /// The text is no Argon2id PHC string that this machine accepts.
    #[error("not an Argon2id PHC string ($argon2id$v=19$m=…,t=…,p=…$salt$hash): {0}")]
    Hash(String),
    /// Hashing failed (no memory, no random numbers).
    #[error("cannot hash a password: {0}")]
    Hashing(String),
    /// The file cannot be read or written.
    #[error("password file {path}: {source}", path = path.display())]
    File {
        /// The password file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The table of failed logins cannot be read or written.
    #[error("failed logins {path}: {source}", path = path.display())]
    Ledger {
        /// The table.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Hashes a password with a random salt.
///
/// # Errors
/// [`AuthError::Hashing`] without memory or random numbers.
pub fn hash_password(password: &str) -> Result<String, AuthError> {
    let failed = |error: &dyn std::fmt::Display| AuthError::Hashing(error.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|e| failed(&e))?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes())
        .map_err(|e| failed(&e))?;
    Ok(hash.to_string())
}

/// Checks that `text` is an Argon2id hash with bearable costs; returns it without surrounding white space.
///
/// # Errors
/// [`AuthError::Hash`] says what is wrong with it.
pub fn validate_hash(text: &str) -> Result<String, AuthError> {
    let text = text.trim();
    let bad = |why: String| AuthError::Hash(why);
    let hash = PasswordHash::new(text).map_err(|error| bad(error.to_string()))?;
    let algorithm = hash.algorithm.as_str();
    if algorithm != "argon2id" {
        return Err(bad(format!("the algorithm is {algorithm}")));
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(bad("salt or hash is missing".into()));
    }
    let params = Params::try_from(&hash).map_err(|error| bad(error.to_string()))?;
    if params.m_cost() > MAXIMUM_MEMORY_KIB || params.t_cost() > MAXIMUM_PASSES {
        return Err(bad(format!(
            "m={},t={} is too costly, at most m={MAXIMUM_MEMORY_KIB},t={MAXIMUM_PASSES}",
            params.m_cost(),
            params.t_cost()
        )));
    }
    Ok(text.to_owned())
}

/// The memory that hashing takes, kept for the next hash: taken and given back for each hash, it may stay in the heap of
/// each thread that ever hashed.
#[derive(Debug, Default)]
pub struct Memory(Vec<Block>);

/// Whether `password` belongs to `hash`: the costly comparison.
///
/// # Errors
/// [`AuthError::Hash`] if the hash is malformed, [`AuthError::Hashing`] without memory.
pub fn matches(password: &str, hash: &str, memory: &mut Memory) -> Result<bool, AuthError> {
    let bad = |error: &dyn std::fmt::Display| AuthError::Hash(error.to_string());
    let failed = |error: &dyn std::fmt::Display| AuthError::Hashing(error.to_string());
    let hash = PasswordHash::new(hash).map_err(|error| bad(&error))?;
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else {
        return Err(bad(&"salt or hash is missing"));
    };
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(|error| bad(&error))?;
    let version = hash.version.map_or(Ok(Version::V0x13), Version::try_from).map_err(|error| bad(&error))?;
    let params = Params::try_from(&hash).map_err(|error| bad(&error))?;
    let Memory(blocks) = memory;
    let more = params.block_count().saturating_sub(blocks.len());
    blocks.try_reserve_exact(more).map_err(|error| failed(&error))?;
    blocks.resize(params.block_count().max(blocks.len()), Block::default());
    let mut hashed = vec![0; expected.as_bytes().len()];
    Argon2::new(algorithm, version, params)
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut hashed, &mut *blocks)
        .map_err(|error| failed(&error))?;
    Ok(bool::from(hashed.ct_eq(expected.as_bytes())))
}

/// Replaces the password file by `hash`, mode 0640, of `owner` (`None`: whoever runs this): completely or not at all,
/// also in a power cut.
///
/// # Errors
/// [`AuthError::Hash`] for a text that [`validate_hash`] refuses, [`AuthError::File`].
pub fn write_password_file(path: &Path, hash: &str, owner: Option<files::Owner>) -> Result<(), AuthError> {
    let hash = validate_hash(hash)?;
    files::replace(path, 0o640, owner, |file| writeln!(file, "{hash}"))
        .map_err(|source| AuthError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_hash_belongs_to_its_password_only_and_carries_the_costs() {
        let hash = hash_password("Sesam, öffne dich").unwrap();
        let mut memory = Memory::default();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(matches("Sesam, öffne dich", &hash, &mut memory).unwrap());
        assert!(!matches("sesam, öffne dich", &hash, &mut memory).unwrap());
        assert_ne!(hash, hash_password("Sesam, öffne dich").unwrap(), "salts must differ");
    }

    #[test]
    fn hashes_of_other_kinds_and_excessive_costs_are_refused() {
        let good = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$\
                    4GdCtpBqB9FCbZnRSQnVaZ4fnTcQ5iKTbs1UcGKwyxs";
        assert_eq!(validate_hash(&format!(" {good}\n")).unwrap(), good);
        let table = [
            ("", "not an Argon2id PHC string"),
            ("backup", "not an Argon2id PHC string"),
            ("$6$abc$def", "not an Argon2id PHC string"),
            ("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0", "salt or hash is missing"),
            (&good.replace("argon2id", "argon2i"), "the algorithm is argon2i"),
            (&good.replace("m=8", "m=4194304"), "too costly"),
            (&good.replace("t=1", "t=1000"), "too costly"),
        ];
        for (text, expected) in table {
            let error = validate_hash(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_file_is_replaced_with_its_mode_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let metadata = std::fs::metadata(dir.path()).unwrap();
        let owner = (metadata.uid(), metadata.gid());
        std::fs::write(&path, "old").unwrap();
        let hash = hash_password("a").unwrap();
        write_password_file(&path, &hash, Some(owner)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{hash}\n"));
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!((metadata.uid(), metadata.gid()), owner);
        assert!(write_password_file(&path, "rubbish", Some(owner)).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{hash}\n"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
