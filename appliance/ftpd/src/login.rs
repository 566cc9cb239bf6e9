//! Who may log in: user `backup`, checked by `auth`, which throttles before any costly hash.
//!
//! An unknown user and a wrong password look alike to the client (530). A throttled address is told to come again (421): its
//! password was not looked at, so a client that knows the right one waits and does not take it for wrong.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use auth::{Asking, Outcome, PasswordVersion, Verifier};
use tokio::task::JoinSet;
use unftp_core::auth::{AuthenticationError, Authenticator, Credentials, Principal};

/// What came of user and password.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Login {
    /// They are right, and the password has this version, where that can be told.
    Right(Option<PasswordVersion>),
    /// One of them is wrong.
    Wrong,
    /// They were not looked at; they may be in so many seconds.
    Later(u64),
}

/// Whether user and password are right.
pub(crate) async fn check(verifier: &Arc<Verifier>, user: &[u8], password: &[u8], from: IpAddr) -> Login {
    let verifier = Arc::clone(verifier);
    let version = verifier.version();
    // What is not UTF-8 is not the password, and counts as a wrong one.
    let user = String::from_utf8_lossy(user).into_owned();
    let password = String::from_utf8_lossy(password).into_owned();
    // Dropped with the connection: a check that has not begun then never does, and one that waits for its turn ends.
    let asking = Asking::default();
    let wanted = asking.wanted();
    let mut check = JoinSet::new();
    check.spawn_blocking(move || verifier.verify_while(&user, &password, from, &wanted));
    match check.join_next().await.transpose() {
        Ok(Some(Outcome::Accepted)) => {
            tracing::info!("{from} logged in");
            Login::Right(version)
        }
        Ok(Some(Outcome::Rejected)) => {
            tracing::warn!("{from}: wrong user or password");
            Login::Wrong
        }
        Ok(Some(Outcome::Throttled { retry_after })) => {
            let seconds = retry_after.as_secs() + 1;
            tracing::warn!("{from}: too many wrong passwords, next try in {seconds} s");
            Login::Later(seconds)
        }
        Ok(None) => Login::Wrong,
        Err(error) => {
            tracing::error!("password check failed: {error}");
            Login::Wrong
        }
    }
}

/// What libunftp asks. Only sessions that have logged in here get to it, over a connection within this process.
#[derive(Debug)]
pub(crate) struct AlreadyLoggedIn;

#[async_trait]
impl Authenticator for AlreadyLoggedIn {
    async fn authenticate(&self, user: &str, _: &Credentials) -> Result<Principal, AuthenticationError> {
        Ok(Principal { username: user.into() })
    }

    /// STAT shows this name.
    fn name(&self) -> &str {
        "password"
    }
}
