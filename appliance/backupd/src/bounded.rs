//! A connection to a PostgreSQL that may be hostile: its answers are bounded in size and time.
//!
//! The monitor's database is hostile input (design D7): whoever owns it may put anything in the place of what is asked for,
//! so no SQL can bound the answer. The bytes that are read are counted below TLS instead. What comes for one question,
//! asked for or not, is at most [`ANSWER_BYTES`]; more ends the connection. A connection that has taken much over its
//! life is renewed ([`Connection::is_worn`]), as the library keeps some of what a server announces for as long as it lives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};

/// Bytes of an answer: the list of a thousand databases is shorter.
pub const ANSWER_BYTES: usize = 256 * 1024;
/// Bytes after which a connection is renewed: some thousand answers.
const LIFE_BYTES: usize = 1024 * 1024;
/// Characters of what a server says that are passed on.
const SAID_CHARACTERS: usize = 300;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Not in time.
    #[error("it does not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The answer has no end.
    #[error("its answer is longer than {} KiB", ANSWER_BYTES / 1024)]
    TooLong,
    /// The answer has bytes that are not UTF-8, which the library cannot give.
    #[error("its answer is not text")]
    NotText,
    /// It answers with an error, or the connection has ended.
    #[error("{}", said_by(.0))]
    Failed(#[source] tokio_postgres::Error),
}

impl Unanswered {
    /// The server's own error.
    pub fn of_server(&self) -> Option<&tokio_postgres::error::DbError> {
        match self {
            Self::Failed(error) => error.as_db_error(),
            _ => None,
        }
    }
}

/// What an error says, bounded.
fn said_by(error: &tokio_postgres::Error) -> String {
    let cause = || std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    short(&error.as_db_error().map_or_else(cause, |answer| answer.message().to_owned()))
}

/// The beginning of a text of a server, on one line.
pub fn short(text: &str) -> String {
    let line = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut short: String = line.take(SAID_CHARACTERS).collect();
    if short.len() < text.len() && text.chars().nth(SAID_CHARACTERS).is_some() {
        short.push('…');
    }
    short
}

/// A row of an answer, which is text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(Vec<Option<String>>);

impl Row {
    /// The library's own panics at what is not UTF-8, and a database sends what bytes it likes.
    fn read(row: &SimpleQueryRow) -> Result<Self, Unanswered> {
        let column = |at| row.try_get(at).map(|value| value.map(str::to_owned));
        (0..row.len()).map(column).collect::<Result<_, _>>().map(Self).map_err(|_| Unanswered::NotText)
    }

    /// The column number `at`; `None`: it is null, or is not there.
    pub fn get(&self, at: usize) -> Option<&str> {
        self.0.get(at)?.as_deref()
    }
}

/// A connection. It ends when this is dropped.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    budget: Arc<Budget>,
    task: AbortHandle,
}

impl Connection {
    /// Connects over `stream`. The caller bounds the time.
    ///
    /// # Errors
    /// The server refuses, or says more than an answer may be long.
    pub async fn over<S, T>(
        config: &Config,
        stream: Bounded<S>,
        tls: T,
    ) -> Result<Self, tokio_postgres::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: TlsConnect<Bounded<S>>,
        T::Stream: Send + 'static,
    {
        let budget = Arc::clone(&stream.budget);
        let (client, connection) = config.connect_raw(stream, tls).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection to PostgreSQL ended: {}", said_by(&error));
            }
        });
        Ok(Self { client, budget, task: task.abort_handle() })
    }

    /// Asks, by a simple query, and gives the rows. After an error the connection is not to be used again.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn ask(&self, question: &str, limit: Duration) -> Result<Vec<Row>, Unanswered> {
        self.budget.begin_answer();
        let asked = tokio::time::timeout(limit, self.client.simple_query(question)).await;
        let messages = match asked {
            Err(_) => return Err(Unanswered::Silent(limit)),
            // The library says only that the connection has ended.
            Ok(Err(_)) if self.budget.is_exceeded() => return Err(Unanswered::TooLong),
            Ok(Err(error)) => return Err(Unanswered::Failed(error)),
            Ok(Ok(messages)) => messages,
        };
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(Row::read(&row)),
            _ => None,
        });
        rows.collect()
    }

    /// Whether it has taken so much that it is to be renewed.
    pub fn is_worn(&self) -> bool {
        self.budget.life.load(Ordering::Relaxed) > LIFE_BYTES
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bytes that were read.
#[derive(Debug, Default)]
struct Budget {
    /// Since the last question.
    answer: AtomicUsize,
    /// Since the connection was made.
    life: AtomicUsize,
}

impl Budget {
    fn begin_answer(&self) {
        if !self.is_exceeded() {
            self.answer.store(0, Ordering::Relaxed);
        }
    }

    fn is_exceeded(&self) -> bool {
        self.answer.load(Ordering::Relaxed) > ANSWER_BYTES
    }
}

/// A stream whose answers are bounded.
#[derive(Debug)]
pub struct Bounded<S> {
    stream: S,
    budget: Arc<Budget>,
}

impl<S> Bounded<S> {
    /// Bounds what is read from `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, budget: Arc::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.budget.is_exceeded() {
            return Poll::Ready(Err(io::Error::other(Unanswered::TooLong.to_string())));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        self.budget.answer.fetch_add(count, Ordering::Relaxed);
        self.budget.life.fetch_add(count, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_postgres::NoTls;

    /// `AuthenticationOk`, `ReadyForQuery`
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

    /// A server that lets anyone in, and says `answer` to each question, so many times.
    async fn server(mut stream: DuplexStream, answer: Vec<u8>, times: usize) -> io::Result<()> {
        let mut said = vec![0; 1024];
        // The start-up message, and then questions.
        assert!(stream.read(&mut said).await? > 0);
        stream.write_all(WELCOME).await?;
        while stream.read(&mut said).await? > 0 {
            for _ in 0..times {
                stream.write_all(&answer).await?;
            }
        }
        Ok(())
    }

    async fn connected(answer: Vec<u8>, times: usize) -> Connection {
        let (ours, theirs) = tokio::io::duplex(8192);
        tokio::spawn(server(theirs, answer, times));
        Connection::over(Config::new().user("u"), Bounded::new(ours), NoTls).await.unwrap()
    }

    /// A message of the protocol.
    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    /// An answer of one row that goes on.
    fn open_row(bytes: usize) -> Vec<u8> {
        let described = message(b'T', b"\0\x01x\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\0\0\0\0\0\0");
        let value = [&[0, 1], &u32::try_from(bytes).unwrap().to_be_bytes()[..], &vec![b'v'; bytes]].concat();
        [described, message(b'D', &value)].concat()
    }

    fn row_of(bytes: usize) -> Vec<u8> {
        [open_row(bytes), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn an_answer_of_usual_size_is_read() {
        let connection = connected(row_of(1000), 1).await;
        for _ in 0..3 {
            let rows = connection.ask("select", 30 * SECOND).await.unwrap();
            assert_eq!((rows.len(), rows[0].get(0).unwrap().len()), (1, 1000));
        }
        assert!(!connection.is_worn());
    }

    #[tokio::test]
    async fn an_answer_that_is_not_text_is_no_panic() {
        let described = message(b'T', b"\0\x01x\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\0\0\0\0\0\0");
        let row = message(b'D', b"\0\x01\0\0\0\x04caf\xe9");
        let answer = [described, row, message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
        let unanswered = connected(answer, 1).await.ask("select", 30 * SECOND).await.unwrap_err();
        assert!(matches!(unanswered, Unanswered::NotText), "{unanswered}");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read() {
        let notice =
            message(b'N', &[b"SNOTICE\0VNOTICE\0C00000\0M".as_slice(), &vec![b'n'; 9000], b"\0\0"].concat());
        let parameter = message(b'S', b"a\0b\0");
        let announced = [&[b'D'][..], &i32::MAX.to_be_bytes(), &vec![0; 9000]].concat();
        for (answer, times) in [
            (row_of(100_000_000), 1),
            (open_row(10), 1_000_000),
            (notice, 100_000),
            (parameter, 1_000_000),
            (announced, 1000),
        ] {
            let connection = connected(answer, times).await;
            let unanswered = connection.ask("select", 30 * SECOND).await.unwrap_err();
            assert!(matches!(unanswered, Unanswered::TooLong), "{unanswered}");
            let read = connection.budget.life.load(Ordering::Relaxed);
            assert!(read < ANSWER_BYTES + 64 * 1024, "{read} bytes were read");
            // It stays closed.
            assert!(connection.ask("select", 30 * SECOND).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_server_that_stays_silent_is_not_waited_for() {
        let connection = connected(Vec::new(), 0).await;
        let unanswered = connection.ask("select", Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(unanswered, Unanswered::Silent(_)), "{unanswered}");
    }

    #[tokio::test]
    async fn a_welcome_without_end_is_not_read() {
        let (ours, mut theirs) = tokio::io::duplex(8192);
        tokio::spawn(async move {
            let parameter = message(b'S', b"a\0b\0").repeat(1000);
            drop(theirs.write_all(b"R\0\0\0\x08\0\0\0\0").await);
            while theirs.write_all(&parameter).await.is_ok() {}
        });
        let error = Connection::over(Config::new().user("u"), Bounded::new(ours), NoTls).await.unwrap_err();
        assert!(said_by(&error).contains("longer than 256 KiB"), "{}", said_by(&error));
    }

    #[tokio::test]
    async fn a_connection_that_took_much_is_renewed() {
        let connection = connected(row_of(200_000), 1).await;
        for _ in 0..6 {
            connection.ask("select", 30 * SECOND).await.unwrap();
        }
        assert!(connection.is_worn());
    }

    #[tokio::test]
    async fn an_error_without_end_is_passed_on_short() {
        let body = [b"SERROR\0VERROR\0C42501\0M".as_slice(), &vec![b'e'; 200_000], b"\nx\0\0"].concat();
        let connection = connected([message(b'E', &body), message(b'Z', b"I")].concat(), 1).await;
        let unanswered = connection.ask("select", 30 * SECOND).await.unwrap_err();
        assert!(unanswered.of_server().is_some());
        assert_eq!(unanswered.to_string().chars().count(), SAID_CHARACTERS + 1);
    }

    #[test]
    fn what_is_said_is_one_short_line() {
        assert_eq!(short("a\nb\tc"), "a b c");
        assert_eq!(short(&"ü".repeat(300)).chars().count(), 300);
        assert!(short(&"ü".repeat(301)).ends_with("ü…"));
    }
}
