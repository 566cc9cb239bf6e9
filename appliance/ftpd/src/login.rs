//! Who may log in: user `backup`, checked by `auth`, which throttles before any costly hash.
//!
//! Every failure is the same to the client: an unknown user, a throttled address and a wrong password look alike.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use auth::{Outcome, Verifier};
use tokio::task::JoinSet;
use unftp_core::auth::{AuthenticationError, Authenticator, Credentials, Principal};

/// Whether user and password are right.
pub(crate) async fn is_right(verifier: &Arc<Verifier>, user: &[u8], password: &[u8], from: IpAddr) -> bool {
    let verifier = Arc::clone(verifier);
    // What is not UTF-8 is not the password, and counts as a wrong one.
    let user = String::from_utf8_lossy(user).into_owned();
    let password = String::from_utf8_lossy(password).into_owned();
    // Dropped with the connection: a check that has not begun then never does.
    let mut check = JoinSet::new();
    check.spawn_blocking(move || verifier.verify(&user, &password, from));
    match check.join_next().await.transpose() {
        Ok(Some(Outcome::Accepted)) => {
            tracing::info!("{from} logged in");
            true
        }
        Ok(Some(Outcome::Rejected)) => {
            tracing::warn!("{from}: wrong user or password");
            false
        }
        Ok(Some(Outcome::Throttled { retry_after })) => {
            tracing::warn!("{from}: too many wrong passwords, next try in {} s", retry_after.as_secs());
            false
        }
        Ok(None) => false,
        Err(error) => {
            tracing::error!("password check failed: {error}");
            false
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
