//! Why a restore does not go on. Each kind wants another answer of whoever restores, and is an exit status of its own.

use crate::trust::Fingerprint;

/// What ended a step.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no way to the server, or it went away and did not come back in time.
    #[error("backup server {endpoint} does not answer: {cause}")]
    Unreachable {
        /// `address:port`
        endpoint: String,
        /// What the network says.
        cause: String,
    },
    /// Somebody else answers.
    #[error(
        "backup server {endpoint} shows the key {shown}, not {expected}: it is another machine, or somebody stands \
         between; nothing was sent to it"
    )]
    OtherKey {
        /// `address:port`
        endpoint: String,
        /// The key that was shown.
        shown: Fingerprint,
        /// The one that was confirmed.
        expected: Fingerprint,
    },
    /// The password is wrong, or there were too many wrong ones.
    #[error("backup server {endpoint} refuses the password; after several wrong ones it refuses for a while")]
    Password {
        /// `address:port`
        endpoint: String,
    },
    /// The server has no such file (any more).
    #[error("backup server {endpoint} has no {name}: {cause}")]
    Missing {
        /// `address:port`
        endpoint: String,
        /// Name of the file.
        name: String,
        /// What the server says.
        cause: String,
    },
    /// What comes is not what the manifest promises.
    #[error("{name} is damaged: {problem}; choose another backup")]
    Damaged {
        /// Name of the file.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// This machine does not let us.
    #[error("{0:#}")]
    Here(#[from] anyhow::Error),
}
