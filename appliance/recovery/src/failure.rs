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
    /// It answers, and its certificate is not accepted.
    #[error("backup server {endpoint} answers, but {cause}; the password was not sent to it")]
    Untrusted {
        /// `address:port`
        endpoint: String,
        /// What is wrong with its certificate, and the way out.
        cause: String,
    },
    /// The password is wrong.
    #[error("backup server {endpoint} refuses the password: it is wrong")]
    Password {
        /// `address:port`
        endpoint: String,
    },
    /// There were too many wrong passwords, so this one was not looked at.
    #[error(
        "backup server {endpoint} did not look at the password, which may be right: {message}. Wait, and try again; a wrong \
         one that somebody at your address tries lengthens the time"
    )]
    TooManyTries {
        /// `address:port`
        endpoint: String,
        /// The server's sentence.
        message: String,
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
    /// The server has no such backup.
    #[error("backup server {endpoint} has no backup {wanted}; `monitor-link restore list` shows what it has")]
    NoSuchBackup {
        /// `address:port`
        endpoint: String,
        /// What was asked for.
        wanted: String,
    },
    /// It cannot be restored here.
    #[error("backup {id} cannot be restored here: {}", .obstacles.join(" "))]
    Unsuitable {
        /// The backup.
        id: String,
        /// Why, as sentences.
        obstacles: Vec<String>,
    },
    /// The server knows us, and does not do it now.
    #[error("backup server {endpoint} refuses: {message}")]
    Refused {
        /// `address:port`
        endpoint: String,
        /// The server's sentence.
        message: String,
    },
    /// This machine does not let us.
    #[error("{0:#}")]
    Here(#[from] anyhow::Error),
}

/// The exit statuses of the program, for its help. The words are those of [`Failure::exit_status`].
pub const EXIT_STATUSES: &str = "0 done, 1 this machine does not let it, 2 wrong command line,\n\
    3 the server does not answer, 4 another key or a certificate that is not accepted, 5 wrong password, 6 it cannot be restored here, 7 damaged,\n\
    8 no such backup, 9 the server refuses it now (also after too many wrong passwords)";

impl Failure {
    /// The exit status of the program, which scripts tell kinds by; 2 is clap's for a wrong command line.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Here(_) => 1,
            Self::Unreachable { .. } => 3,
            Self::OtherKey { .. } | Self::Untrusted { .. } => 4,
            Self::Password { .. } => 5,
            Self::Unsuitable { .. } => 6,
            Self::Damaged { .. } => 7,
            Self::NoSuchBackup { .. } | Self::Missing { .. } => 8,
            Self::Refused { .. } | Self::TooManyTries { .. } => 9,
        }
    }
}
