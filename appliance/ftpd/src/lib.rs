//! The FTP server of the backup server: backups as files to be fetched, and nothing else.
//!
//! It serves `<id>.tar` and `<id>.json` of every complete backup, read-only, to the one user `backup`, over explicit
//! TLS on both channels. libunftp speaks FTP; what it is given is ours: the files ([`catalog`], [`backend`]), who may
//! log in ([`login`]), the passive ports ([`ports`]), how fast it may go ([`pace`]), what stays while it is downloaded
//! ([`backups::download`]) and, above all, the frame that each session runs in
//! ([`session`], [`server`]).
//!
//! # How libunftp's weak places are closed
//! Found by reading libunftp 0.24.0; each has a test in `tests/`.
//!
//! Every session runs on a thread and a runtime of its own and is watched from there. Whatever a session got stuck
//! in, ending it drops the runtime and with it every task and socket. That, and a deadline for each thing that a
//! client owes, closes most:
//!
//! | weakness | closed by |
//! |---|---|
//! | a restart offset survives a failed RETR, and the next one starts there | a session with such a failure serves nothing more and ends ([`session`]) |
//! | a session is locked for a whole transfer, ABOR waits | the data connection's end ends the transfer; a stall ends it too ([`backend`]) |
//! | a data connection without TLS handshake panics or hangs, and the session never idles out | deadline for the data connection ([`session`]) |
//! | no data connection within 15 s: the next command hangs | the same deadline |
//! | passive ports are tried at random, nine times | all are tried, in turn ([`ports`]) |
//! | PASV on an IPv6 connection closes it | a listener for each family, so that no IPv4 client is met by it |
//! | unknown users are not counted, locked-out logins are still checked | [`login`] leaves that to `auth` and always gives one answer |
//! | no limit of connections, none per address | [`server`] |
//! | TLS is demanded of PASV but not of EPSV, so EPSV after PROT C would send a backup in clear | the kernel hands over only data connections on which the client speaks first ([`ports`]) |
//! | a line without end fills the memory, before any login | bytes received are counted ([`session`]) |
//! | a TLS handshake on the control connection may take for ever | deadline for the login ([`session`]) |

pub mod backend;
pub mod catalog;
mod chunks;
pub mod login;
mod pace;
pub mod path;
pub mod ports;
pub mod server;
pub mod session;
mod socket;
mod unfinished;

pub use server::{Config, Server};
pub use session::Limits;
