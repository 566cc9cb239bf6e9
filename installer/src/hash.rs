//! Hashes of passwords, as answers take them: a password itself never stands in a file.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, Result, anyhow, ensure};
use provisioning::values::{CryptHash, PasswordHash};

/// 16 characters in base64: crypt(3) cuts a longer salt off, and what it says then is not what stands in /etc/shadow.
const SALT_BYTES: usize = 12;
/// The shortest password that is taken, in characters.
pub const LEAST: usize = 8;

/// Of root's password at the console (crypt(3), SHA-512).
///
/// # Errors
/// There are no random bytes.
pub fn console(password: &str) -> Result<CryptHash> {
    use sha_crypt::PasswordHasher;
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).context("cannot get random bytes for the console password's salt")?;
    let hasher = sha_crypt::ShaCrypt::default();
    let hash = hasher.hash_password_with_salt(password.as_bytes(), &salt);
    let hash = hash.context("cannot hash the console password")?;
    hash.to_string().parse().map_err(|cause: String| anyhow!("the console password's hash is {cause}"))
}

/// Of the `backup` user's password (Argon2id).
///
/// # Errors
/// There are no random bytes.
pub fn network(password: &str) -> Result<PasswordHash> {
    let hash = auth::hash_password(password)?;
    PasswordHash::try_from(hash).map_err(|cause| anyhow!("the password's hash is {cause}"))
}

/// Asks for a password, twice at a terminal, and prints its hash; `is_console`: for root at the console.
///
/// # Errors
/// The two differ, or it is too short.
pub fn run(is_console: bool) -> Result<()> {
    let password = if io::stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ").context("cannot read the password")?;
        let second = rpassword::prompt_password("The same again: ").context("cannot read the password")?;
        ensure!(first == second, "they differ; try again");
        first
    } else {
        io::stdin().lock().lines().next().transpose().context("cannot read the password")?.unwrap_or_default()
    };
    ensure!(password.chars().count() >= LEAST, "it is too short: at least {LEAST} characters");
    match is_console {
        true => println!("{}", console(&password)?.reveal()),
        false => println!("{}", network(&password)?.reveal()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_answers_take() {
        let hash = console("correct horse").unwrap();
        let salt =
            hash.reveal().strip_prefix("$6$rounds=5000$").and_then(|rest| rest.split_once('$')).unwrap().0;
        assert_eq!(salt.len(), 16, "crypt(3) does not give this hash");
        assert!(network("correct horse").unwrap().reveal().starts_with("$argon2id$"));
    }
}
