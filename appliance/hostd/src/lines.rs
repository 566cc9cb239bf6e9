//! Reading the lines of a program's output, whatever it writes.
//!
//! A cluster's log is hostile input (design D7): one `raise log` writes a line of any length. Of each line
//! only the beginning is kept, the rest is read, dropped and counted, so that memory does not grow with the
//! line.

use std::io;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// What is kept of a line, in bytes. PostgreSQL's own messages are shorter.
pub const LINE_BYTES: usize = 4096;

/// Lines of `source`, each bounded.
#[derive(Debug)]
pub struct Lines<R> {
    source: BufReader<R>,
    kept: Vec<u8>,
    dropped: u64,
    begun: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self { source: BufReader::new(source), kept: Vec::new(), dropped: 0, begun: false }
    }

    /// The next line, without its end; `None` at the end of the source. A line that was cut says how much was
    /// dropped. What is no UTF-8 is replaced. Can be dropped and called again without losing anything.
    ///
    /// # Errors
    /// Those of the source.
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            let available = self.source.fill_buf().await?;
            if available.is_empty() {
                return Ok(if self.begun { Some(self.take()) } else { None });
            }
            self.begun = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            let fits = part.len().min(LINE_BYTES - self.kept.len());
            self.kept.extend_from_slice(&part[..fits]);
            self.dropped += (part.len() - fits) as u64;
            let used = end.map_or(available.len(), |end| end + 1);
            self.source.consume(used);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> String {
        self.begun = false;
        let dropped = std::mem::take(&mut self.dropped);
        let mut line = String::from_utf8_lossy(&self.kept).into_owned();
        self.kept.clear();
        if dropped > 0 {
            line += &format!(" … ({dropped} bytes more)");
        } else if line.ends_with('\r') {
            line.pop();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(text);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(line);
        }
        found
    }

    #[tokio::test]
    async fn lines_are_those_of_the_text() {
        let table: [(&[u8], &[&str]); 6] = [
            (b"", &[]),
            (b"a", &["a"]),
            (b"a\n", &["a"]),
            (b"a\r\n\nb", &["a", "", "b"]),
            (b"\n\n", &["", ""]),
            (b"\xff\n", &["\u{fffd}"]),
        ];
        for (text, expected) in table {
            assert_eq!(all(text).await, expected, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_line_without_end_takes_no_more_memory_than_a_long_one() {
        let mut text = vec![b'x'; 20_000_000];
        text.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(&text[..]);
        let line = lines.next().await.unwrap().unwrap();
        assert!(line.ends_with(&format!("x … ({} bytes more)", 20_000_000 - LINE_BYTES)), "{}", line.len());
        assert!(lines.kept.capacity() <= 2 * LINE_BYTES, "{}", lines.kept.capacity());
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("next"));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn nothing_is_lost_when_waiting_is_given_up() {
        use tokio::io::AsyncWriteExt;
        let (mut write, read) = tokio::io::duplex(64);
        let mut lines = Lines::new(read);
        write.write_all(b"first ").await.unwrap();
        let short = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(short, lines.next()).await.is_err());
        write.write_all(b"half\n").await.unwrap();
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("first half"));
    }
}
