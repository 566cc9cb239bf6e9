//! A file of the backup server, as a stream that survives every break and gives out nothing that it did not check.
//!
//! A thread fetches the next chunk while the last one is being used; memory is a few chunks, whatever the size. After a
//! break it connects anew, with growing pauses, and goes on at the byte at which it was (REST). A chunk whose SHA-256
//! is not the manifest's is fetched once more and then given up: nothing of it is handed on. Without hashes in the
//! manifest (the backup was never verified) only the length is checked.
//!
//! suppaftp speaks FTP: both channels by TLS with the pinned key, or not at all.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use api::{DIGEST_CHUNK_BYTES, Digests, Secret};
use sha2::{Digest, Sha256};
use suppaftp::types::FileType;
use suppaftp::{FtpError, Mode, RustlsConnector, RustlsFtpStream, Status, TlsConnector, TransferStream};

use crate::Failure;
use crate::server::THROTTLED;
use crate::trust::{self, Fingerprint};

/// How long a server that was reached once may stay away.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Longest pause between two tries to connect.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Bytes read at once.
const PIECE_BYTES: usize = 256 << 10;
/// A chunk is fetched so often before it counts as damaged: once more, as the way may have been to blame.
const TRIES: u32 = 2;
/// Longest manifest that is taken, in bytes.
const SMALL_BYTES: u64 = 16 << 20;

/// The backup server's FTP.
#[derive(Debug, Clone)]
pub struct Source {
    /// IPv4 or IPv6 address, or name.
    pub host: String,
    /// Port of the control connection, normally [`api::FTP_PORT`].
    pub port: u16,
    /// Its key.
    pub fingerprint: Fingerprint,
    /// Password of user `backup`.
    pub password: Secret,
    /// How long it may stay away, normally [`PATIENCE`].
    pub patience: Duration,
}

/// A tar to be fetched.
#[derive(Debug, Clone)]
pub struct Tar {
    /// Name of the file.
    pub name: String,
    /// Its length in bytes, by the manifest.
    pub bytes: u64,
    /// Its hashes, by the manifest.
    pub digests: Option<Digests>,
}

/// What goes wrong on the way: worth another try, or not.
enum Trouble {
    Passing(String),
    /// The password was not looked at: somebody at this address has tried too many wrong ones.
    Throttled(String),
    Final(Failure),
}

impl Source {
    fn endpoint(&self) -> String {
        api::endpoint(&self.host, self.port)
    }

    fn unreachable(&self, cause: impl ToString) -> Failure {
        Failure::Unreachable { endpoint: self.endpoint(), cause: cause.to_string() }
    }

    /// Logs in.
    fn session(&self) -> Result<Session, Trouble> {
        let passing = |error: &dyn ToString| Trouble::Passing(error.to_string());
        let stream = trust::connect(&self.host, self.port).map_err(|error| passing(&error))?;
        let control = stream.try_clone().map_err(|error| passing(&error))?;
        let ftp = RustlsFtpStream::connect_with_stream(stream).map_err(|error| passing(&error))?;
        let config =
            trust::pinned(self.fingerprint).map_err(|error| Trouble::Final(self.unreachable(error)))?;
        let connector = RustlsConnector::from(Arc::new(config));
        // suppaftp sends nothing more in clear after AUTH TLS, and a server that refuses it is an error.
        let secured = ftp.into_secure(connector, api::SERVER_NAME).map_err(|error| match &error {
            FtpError::ConnectionError(cause) => match trust::other_key(cause) {
                Some(shown) => Trouble::Final(Failure::OtherKey {
                    endpoint: self.endpoint(),
                    shown,
                    expected: self.fingerprint,
                }),
                None => match trust::without_tls(&self.endpoint(), cause) {
                    Failure::Unreachable { cause, .. } => Trouble::Passing(cause),
                    untrusted => Trouble::Final(untrusted),
                },
            },
            _ => passing(&error),
        })?;
        let mut ftp = secured.passive_stream_builder(|address| {
            let stream = TcpStream::connect_timeout(&address, trust::CONNECT_PATIENCE);
            let limited = stream.and_then(|stream| trust::limit(&stream).map(|()| stream));
            limited.map_err(FtpError::ConnectionError)
        });
        ftp.set_mode(Mode::ExtendedPassive);
        ftp.login(api::USER, self.password.reveal()).map_err(|error| match error {
            FtpError::UnexpectedResponse(answer) if answer.status == Status::NotLoggedIn => {
                Trouble::Final(Failure::Password { endpoint: self.endpoint() })
            }
            FtpError::UnexpectedResponse(answer) if answer.status == Status::NotAvailable => {
                Trouble::Throttled(String::from_utf8_lossy(&answer.body).trim().to_owned())
            }
            other => passing(&other),
        })?;
        ftp.transfer_type(FileType::Binary).map_err(|error| passing(&error))?;
        Ok(Session { ftp, control, transfer: None })
    }

    fn throttled(&self, message: String) -> Failure {
        Failure::TooManyTries { endpoint: self.endpoint(), message }
    }

    /// Whether the server has the right key and takes the password.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], [`Failure::OtherKey`], [`Failure::Password`]; [`Failure::TooManyTries`] after
    /// [`THROTTLED`], or the patience where that is shorter.
    pub fn check(&self) -> Result<(), Failure> {
        let (began, patience) = (Instant::now(), THROTTLED.min(self.patience));
        let mut pause = Duration::from_secs(1);
        loop {
            // Over FTP's own port the certificate comes after AUTH TLS: the session itself refuses another key.
            match self.session() {
                Ok(session) => {
                    drop(session);
                    return Ok(());
                }
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Passing(cause)) => return Err(self.unreachable(cause)),
                Err(Trouble::Throttled(message)) if began.elapsed() + pause > patience => {
                    return Err(self.throttled(message));
                }
                Err(Trouble::Throttled(_)) => thread::sleep(pause),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Fetches a small file, such as a manifest.
    ///
    /// # Errors
    /// As [`Self::check`], and [`Failure::Missing`].
    pub fn fetch(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let attempt = || -> Result<Vec<u8>, Trouble> {
            let mut session = self.session()?;
            let transfer = session.begin(self, name, 0)?;
            let mut bytes = Vec::new();
            let read = transfer.take(SMALL_BYTES + 1).read_to_end(&mut bytes);
            read.map_err(|error| Trouble::Passing(error.to_string()))?;
            if bytes.len() as u64 > SMALL_BYTES {
                let problem = format!("it has more than {SMALL_BYTES} bytes");
                return Err(Trouble::Final(Failure::Damaged { name: name.into(), problem }));
            }
            session.finish(self, name)?;
            Ok(bytes)
        };
        self.keep_trying(attempt)
    }

    /// What an answer to RETR means: that there is no such file is final, before the data connection and after it.
    fn refused(&self, name: &str, error: FtpError) -> Trouble {
        match error {
            FtpError::UnexpectedResponse(answer) if answer.status == Status::FileUnavailable => {
                let cause = String::from_utf8_lossy(&answer.body).trim().to_owned();
                Trouble::Final(Failure::Missing { endpoint: self.endpoint(), name: name.into(), cause })
            }
            other => Trouble::Passing(other.to_string()),
        }
    }

    /// Repeats what fails in passing, with growing pauses.
    fn keep_trying<T>(&self, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Failure> {
        let (began, mut pause) = (Instant::now(), Duration::from_millis(500));
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Passing(cause)) if began.elapsed() + pause > self.patience => {
                    return Err(self.unreachable(cause));
                }
                Err(Trouble::Throttled(message)) if began.elapsed() + pause > self.patience => {
                    return Err(self.throttled(message));
                }
                Err(Trouble::Passing(_) | Trouble::Throttled(_)) => thread::sleep(pause),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The file's content from byte `from` on, checked, in pieces.
    pub fn stream(&self, tar: Tar, from: u64) -> Checked {
        // One chunk waits while the next one is fetched.
        let (sender, receiver) = sync_channel(0);
        let source = self.clone();
        thread::spawn(move || {
            let name = tar.name.clone();
            let chunk_bytes =
                match tar.digests.as_ref().map_or(DIGEST_CHUNK_BYTES, |digests| digests.chunk_bytes) {
                    bytes @ 1..=DIGEST_CHUNK_BYTES => bytes,
                    bytes => {
                        // More would be kept in memory.
                        let problem = format!("its manifest has hashes of {bytes} bytes each");
                        sender.send(Err(Failure::Damaged { name, problem })).ok();
                        return;
                    }
                };
            let mut fetcher = Fetcher { source, tar, session: None };
            let (mut chunk, mut skip) = first_chunk(from, chunk_bytes);
            while chunk.saturating_mul(chunk_bytes) < fetcher.tar.bytes {
                let fetched = fetcher.chunk(chunk, chunk_bytes).map(|mut bytes| {
                    bytes.drain(..skip.min(bytes.len()));
                    Some(bytes)
                });
                let failed = fetched.is_err();
                // Fails when nobody reads any more.
                if sender.send(fetched).is_err() || failed {
                    return;
                }
                (chunk, skip) = (chunk + 1, 0);
            }
            sender.send(Ok(None)).ok();
        });
        Checked { receiver, current: Vec::new(), given: 0, ended: false }
    }
}

/// Where an offset lies: the number of the chunk, and how much of it is not wanted.
fn first_chunk(from: u64, chunk_bytes: u64) -> (u64, usize) {
    let chunk = from / chunk_bytes;
    (chunk, usize::try_from(from - chunk * chunk_bytes).unwrap_or(usize::MAX))
}

/// suppaftp's stream of TLS, which it does not name in public.
type Tls = <RustlsConnector as TlsConnector>::Stream;

/// A control connection and the transfer that is under way on it.
struct Session {
    ftp: RustlsFtpStream,
    control: TcpStream,
    transfer: Option<(TransferStream<Tls>, u64)>,
}

impl Session {
    fn begin(&mut self, source: &Source, name: &str, from: u64) -> Result<&mut TransferStream<Tls>, Trouble> {
        let passing = |error: FtpError| Trouble::Passing(error.to_string());
        let offset = usize::try_from(from).map_err(|error| Trouble::Passing(error.to_string()))?;
        // For 0 nothing is sent, which is right in a session of its own: nobody has named an offset in it before.
        self.ftp.resume_transfer(offset).map_err(passing)?;
        let transfer = self.ftp.retr_as_stream(name).map_err(|error| source.refused(name, error))?;
        let (transfer, _) = self.transfer.insert((transfer, from));
        Ok(transfer)
    }

    /// The end of a transfer that was read to its end: the server says whether it was all, or why nothing came.
    fn finish(&mut self, source: &Source, name: &str) -> Result<(), Trouble> {
        let Some((transfer, _)) = self.transfer.take() else { return Ok(()) };
        transfer.finish().map_err(|error| source.refused(name, error))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.transfer.is_some() {
            // Or ending the transfer would wait for the server's answer to it. Fails where it has gone already.
            self.control.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Fetches chunk after chunk.
struct Fetcher {
    source: Source,
    tar: Tar,
    session: Option<Session>,
}

impl Fetcher {
    fn chunk(&mut self, number: u64, chunk_bytes: u64) -> Result<Vec<u8>, Failure> {
        let begin = number * chunk_bytes;
        let range = begin..self.tar.bytes.min(begin.saturating_add(chunk_bytes));
        let damaged = |problem| Failure::Damaged { name: self.tar.name.clone(), problem };
        let expected = match &self.tar.digests {
            Some(digests) => {
                let place = usize::try_from(number).ok().and_then(|number| digests.chunks.get(number));
                Some(
                    place
                        .cloned()
                        .ok_or_else(|| damaged(format!("the manifest has no hash of chunk {number}")))?,
                )
            }
            None => None,
        };
        for _ in 0..TRIES {
            let bytes = self.range(range.clone())?;
            let hash = files::hex(&Sha256::digest(&bytes));
            if expected.as_ref().is_none_or(|expected| *expected == hash) {
                return Ok(bytes);
            }
            self.session = None;
        }
        Err(Failure::Damaged {
            name: self.tar.name.clone(),
            problem: format!("bytes {} to {} do not have the manifest's hash", range.start, range.end),
        })
    }

    /// The bytes of a range. Each break that comes after something was received begins the patience anew.
    fn range(&mut self, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        let wanted = usize::try_from(range.end - range.start).map_err(anyhow::Error::from)?;
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            let source = self.source.clone();
            let before = bytes.len();
            source.keep_trying(|| match self.receive(&range, &mut bytes) {
                // What came counts: the next try is the first one again.
                Err(Trouble::Passing(_) | Trouble::Throttled(_)) if bytes.len() > before => Ok(()),
                other => other,
            })?;
        }
        Ok(bytes)
    }

    /// Receives what is missing of a range until it is there or the connection breaks.
    fn receive(&mut self, range: &Range<u64>, bytes: &mut Vec<u8>) -> Result<(), Trouble> {
        let result = self.receive_until_broken(range, bytes);
        if result.is_err() {
            self.session = None;
        }
        result
    }

    fn receive_until_broken(&mut self, range: &Range<u64>, bytes: &mut Vec<u8>) -> Result<(), Trouble> {
        let at = range.start + bytes.len() as u64;
        let is_there =
            |session: &Session| matches!(&session.transfer, Some((_, position)) if *position == at);
        let mut session = match self.session.take().filter(is_there) {
            Some(session) => session,
            None => {
                let mut session = self.source.session()?;
                session.begin(&self.source, &self.tar.name, at)?;
                session
            }
        };
        let mut piece = vec![0; PIECE_BYTES];
        while range.start + (bytes.len() as u64) < range.end {
            let Some((transfer, position)) = &mut session.transfer else { break };
            let missing = usize::try_from(range.end - *position).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let count = transfer
                .read(&mut piece[..missing])
                .map_err(|error| Trouble::Passing(format!("the transfer broke off: {error}")))?;
            if count == 0 {
                session.finish(&self.source, &self.tar.name)?;
                return Err(Trouble::Passing("the transfer ended early".into()));
            }
            bytes.extend_from_slice(&piece[..count]);
            *position += count as u64;
        }
        self.session = Some(session);
        Ok(())
    }
}

/// Checked content. Its errors carry a [`Failure`] (see [`failure_of`]).
#[derive(Debug)]
pub struct Checked {
    /// `None`: all was sent.
    receiver: Receiver<Result<Option<Vec<u8>>, Failure>>,
    current: Vec<u8>,
    given: usize,
    ended: bool,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.current.len() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.recv() {
                Ok(Ok(Some(chunk))) => (self.current, self.given) = (chunk, 0),
                Ok(Ok(None)) => self.ended = true,
                Ok(Err(failure)) => return Err(io::Error::other(failure)),
                // Not the end of the file: whoever sends has broken down, or has said why before.
                Err(_) => return Err(io::Error::other("the download has stopped")),
            }
        }
        let rest = &self.current[self.given..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}

/// The failure behind an error of reading [`Checked`].
pub fn failure_of(error: io::Error) -> Failure {
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::Here(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_lies_in_its_chunk() {
        for (from, expected) in [(0, (0, 0)), (3, (0, 3)), (4, (1, 0)), (9, (2, 1))] {
            assert_eq!(first_chunk(from, 4), expected);
        }
    }
}
