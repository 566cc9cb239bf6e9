//! The FTP server of the backup server: backups as files to be fetched, and nothing else.
//!
//! It serves `<id>.tar` and `<id>.json` of every complete backup, read-only, to the one user `backup`, over explicit
//! TLS on both channels. libunftp looks files up and lists them for those who have logged in; what is around it is ours:
//!
//! ```text
//!  client ── control ──▶ TLS, login, ports, replies ([server], control, commands, requests) ── inside ──▶ libunftp
//!    │                                                                                                    │ lists
//!    └────── data ─────▶ the right connection among all that come (data, tls) ◀── files ([backend]) ◀─────┘
//! ```
//!
//! - Before the login a connection is a task with a deadline and a place in a pool of its own (`waiting`); libunftp does
//!   not see it. A newcomer always gets a place, and time to log in ([`auth::crowd`]).
//! - A login takes one of a few places for sessions; one too many ends another session, which can resume (`places`). Each
//!   has a thread and a runtime of its own, and is watched from there. Ending it drops the runtime and with it every task
//!   and socket, whatever the session got stuck in ([`session`]). Another password ends all of them.
//! - A data connection counts only when it comes from the client's address and resumes the TLS session of its control
//!   connection (`tls`); all others are closed, and accepting goes on until the right one comes (`data`).
//!
//! Who cannot resume TLS sessions: Python's `ftplib` as it is, Apache Commons Net, and rclone with several sessions.
//! curl, lftp, wget, basic-ftp and the recovery program do (`docs/ftp-clients.md`). The console can allow the others
//! (`hostd order ftp --allow-unproven-data true`): then the address and a TLS handshake suffice, and whoever shares the
//! client's address can take its place. In clear FTP, where the console allows that, the address alone must do.
//!
//! # How libunftp's weak places are closed
//! Found by reading libunftp 0.24.0; each has a test in `tests/`.
//!
//! | weakness | closed by |
//! |---|---|
//! | a restart offset survives a failed RETR, and the next one starts there | REST is answered here and never reaches it (`control`) |
//! | a session is locked for a whole transfer, ABOR waits | ABOR ends the transfer here ([`backend`], `data`), as its data connection's end and a stall do |
//! | a command that it cannot parse ends the session | it gets commands that are made here (`requests`) |
//! | 150 comes before it looks, and then 550 | 150 is held back until there is something to send (`control`) |
//! | a listing that cannot be written has no reply | all of it is always taken (`data`) |
//! | one text for every failure | the backend gives the reply ([`backend`], `control`) |
//! | TYPE A is taken, and files go out in binary | a tar needs TYPE I (`requests`) |
//! | one data connection is accepted, whoever comes first | it gets ours, from inside the machine (`ports`); clients are accepted by `data` |
//! | a data connection without TLS handshake panics or hangs, and the session never idles out | TLS is ours (`data`), with deadlines ([`session`]) |
//! | no data connection within 15 s: the next command hangs | it always has one (`ports`); the client's has a deadline ([`session`]) |
//! | several PASVs leak ports | the port before is given back (`ports`) |
//! | passive ports are tried at random, nine times | all are tried, in turn (`ports`) |
//! | PASV on an IPv6 connection closes it | it is asked for EPSV alone; PASV gets 425 there (`commands`) |
//! | unknown users are not counted, locked-out logins are still checked | the login is ours: `auth` decides, and there is one answer (`login`) |
//! | no limit of connections, none per address | `waiting`, `places` |
//! | TLS is demanded of PASV but not of EPSV, so EPSV after PROT C would send a backup in clear | TLS and PROT are ours (`commands`) |
//! | a line without end fills the memory, before any login | lines are bounded (`lines`) |
//! | a TLS handshake on the control connection may take for ever | deadline for the login ([`server`]) |
//!
//! Not closed: a client that is flooded with connections from its own address faster than it can log in, or than its
//! data connection can shake hands, does not get through while that lasts.

pub mod backend;
pub mod catalog;
mod chunks;
mod commands;
mod control;
mod data;
mod lines;
mod login;
mod pace;
pub mod path;
mod pattern;
mod places;
mod ports;
mod requests;
pub mod server;
pub mod session;
mod socket;
mod tls;
mod unfinished;
mod waiting;

pub use server::{Config, Server};
pub use session::Limits;
