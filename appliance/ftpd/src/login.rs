//! Who may log in: user `backup`, checked by `auth`, which throttles before any costly hash.
//!
//! Every failure is a bad password to libunftp, and so to the client: an unknown user, a throttled address and a
//! wrong password look the same.

use std::sync::Arc;

use async_trait::async_trait;
use auth::{Outcome, Verifier};
use unftp_core::auth::{AuthenticationError, Authenticator, ChannelEncryptionState, Credentials, Principal};

use crate::session::Session;

/// Checks the logins of one session.
#[derive(Debug)]
pub struct Login {
    verifier: Arc<Verifier>,
    session: Arc<Session>,
    allow_clear: bool,
}

impl Login {
    /// For a session; the verifier is shared by all of them.
    pub fn new(verifier: Arc<Verifier>, session: Arc<Session>, allow_clear: bool) -> Self {
        Self { verifier, session, allow_clear }
    }
}

#[async_trait]
impl Authenticator for Login {
    async fn authenticate(&self, user: &str, given: &Credentials) -> Result<Principal, AuthenticationError> {
        let from = given.source_ip;
        let clear = matches!(given.command_channel_security, ChannelEncryptionState::Plaintext);
        if clear && !self.allow_clear {
            return Err(AuthenticationError::BadPassword); // libunftp refuses this before; never rely on one check
        }
        let (verifier, name) = (Arc::clone(&self.verifier), user.to_string());
        let password = given.password.clone().unwrap_or_default();
        let outcome = tokio::task::spawn_blocking(move || verifier.verify(&name, &password, from)).await;
        match outcome {
            Ok(Outcome::Accepted) => {
                tracing::info!("{from} logged in");
                self.session.logged_in();
                Ok(Principal { username: user.into() })
            }
            Ok(Outcome::Rejected) => {
                tracing::warn!("{from}: wrong user or password");
                Err(AuthenticationError::BadPassword)
            }
            Ok(Outcome::Throttled { retry_after }) => {
                tracing::warn!("{from}: too many wrong passwords, next try in {} s", retry_after.as_secs());
                Err(AuthenticationError::BadPassword)
            }
            Err(error) => {
                tracing::error!("password check failed: {error}");
                Err(AuthenticationError::BadPassword)
            }
        }
    }

    /// STAT shows this name.
    fn name(&self) -> &str {
        "password"
    }
}
