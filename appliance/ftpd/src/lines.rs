//! Lines of a control connection, bounded: a line that is too long is skipped, and one without end costs its
//! connection, not the memory.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest line. Commands name files with short names, replies are shorter still.
const LONGEST: usize = 4096;
/// A longer line that goes on to here ends its connection.
const LONGEST_SKIPPED: usize = 2 * LONGEST;
/// Bytes read at once.
const PIECE: usize = 1024;

/// What bytes go through: TCP, or TLS over it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Stream for T {}

/// A connection that lines are read from and written to.
pub(crate) struct Lines {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
    /// How long the other side may take none of what is written.
    stall: Duration,
}

impl Lines {
    pub(crate) fn new(stream: Box<dyn Stream>, stall: Duration) -> Self {
        Self { stream, read: Vec::new(), stall }
    }

    /// The next line with its end; `None` at the connection's end. Of a line that was too long, an empty one. Dropping
    /// the future loses nothing.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.read[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.read, rest);
                return Ok(Some(if line.len() > LONGEST { Vec::new() } else { line }));
            }
            if self.read.len() >= LONGEST_SKIPPED {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a line has more than {LONGEST_SKIPPED} bytes"),
                ));
            }
            searched = self.read.len();
            let mut piece = [0; PIECE];
            let count = self.stream.read(&mut piece).await?;
            if count == 0 {
                return Ok(None);
            }
            self.read.extend_from_slice(&piece[..count]);
        }
    }

    /// How long the other side may take nothing.
    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }

    /// Writes all of it.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(self.stall, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says good-bye to the transport, so that the other side sees an orderly end.
    pub(crate) async fn end(mut self) {
        // Whoever does not take it is gone.
        let _ended = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }

    /// The stream alone. Refused where the other side has sent more than was asked for: what was sent in clear must
    /// not count once there is TLS.
    pub(crate) fn into_stream(self) -> io::Result<Box<dyn Stream>> {
        if self.read.is_empty() {
            Ok(self.stream)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "commands came in clear after AUTH TLS"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_as_they_were_sent_and_endless_ones_end() {
        let (mut client, server) = tokio::io::duplex(65536);
        let mut lines = Lines::new(Box::new(server), Duration::from_secs(1));
        client.write_all(b"NOOP\r\nUSER a\nrest").await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), b"NOOP\r\n");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"USER a\n");
        // A future that is dropped in the midst of a line.
        assert!(tokio::time::timeout(Duration::from_millis(1), lines.next()).await.is_err());
        client.write_all(b" of it\r\n").await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), b"rest of it\r\n");
        client.write_all(&[&[b'x'; LONGEST][..], b"\r\nNOOP\r\n"].concat()).await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), b"", "too long");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"NOOP\r\n");
        client.write_all(&[b'x'; 2 * LONGEST]).await.unwrap();
        assert_eq!(lines.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
