//! From a blocking reader to an asynchronous one: a thread reads ahead while what it read is sent.
//!
//! A few buffers go around between the two, so memory is bounded and nothing is allocated per chunk. The channel
//! being closed tells each side that the other is gone.

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::catalog::Content;

/// Bytes read at once. Larger ones gain nothing on the disk and spoil the processor's cache.
const CHUNK_BYTES: usize = 256 * 1024;

/// Buffers per transfer: one being sent, one being read, one waiting.
const BUFFERS: usize = 3;

/// A piece of content in a buffer.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
}

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

/// Content being read ahead.
#[derive(Debug)]
pub(crate) struct Chunks {
    full: Receiver<io::Result<Chunk>>,
    empty: Sender<Chunk>,
    /// For `AsyncRead`: the chunk being given out and how much of it was.
    current: Option<(Chunk, usize)>,
}

impl Chunks {
    /// Starts reading from `offset` on, on a thread of the runtime for blocking work.
    pub(crate) fn start(mut content: Box<dyn Content>, offset: u64) -> Self {
        let (full_sender, full) = channel(BUFFERS);
        let (empty, mut empty_receiver) = channel::<Chunk>(BUFFERS);
        for _ in 0..BUFFERS {
            // Cannot fail: the channel is as large as the number of buffers.
            let _sent = empty.try_send(Chunk { buffer: vec![0; CHUNK_BYTES], filled: 0 });
        }
        tokio::task::spawn_blocking(move || {
            let mut seek = Some(SeekFrom::Start(offset));
            while let Some(mut chunk) = empty_receiver.blocking_recv() {
                let result = match seek.take() {
                    Some(to) => content.seek(to).and_then(|_| content.read(&mut chunk.buffer)),
                    None => content.read(&mut chunk.buffer),
                };
                let message = match result {
                    Ok(0) => break,
                    Ok(filled) => {
                        chunk.filled = filled;
                        Ok(chunk)
                    }
                    Err(error) => Err(error),
                };
                let failed = message.is_err();
                if full_sender.blocking_send(message).is_err() || failed {
                    break;
                }
            }
        });
        Self { full, empty, current: None }
    }

    /// The next chunk; `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Chunk>> {
        self.full.recv().await.transpose()
    }

    /// Gives a chunk's buffer back.
    pub(crate) fn reuse(&self, chunk: Chunk) {
        // Fails when the reading side has ended, which then needs no buffers.
        let _returned = self.empty.try_send(chunk);
    }
}

impl AsyncRead for Chunks {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        output: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.current.is_none() {
            match ready!(self.full.poll_recv(cx)).transpose()? {
                Some(chunk) => self.current = Some((chunk, 0)),
                None => return Poll::Ready(Ok(())),
            }
        }
        if let Some((chunk, given)) = self.current.take() {
            let rest = &chunk.bytes()[given..];
            let count = rest.len().min(output.remaining());
            output.put_slice(&rest[..count]);
            if count == rest.len() {
                self.reuse(chunk);
            } else {
                self.current = Some((chunk, given + count));
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Read, Seek};
    use tokio::io::AsyncReadExt;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn content_arrives_whole_from_any_offset() {
        let content: Vec<u8> = (0..3 * CHUNK_BYTES + 17).map(|number| (number % 251) as u8).collect();
        for offset in [0, 1, CHUNK_BYTES, content.len() - 1, content.len()] {
            let got = runtime().block_on(async {
                let mut got = Vec::new();
                let mut chunks = Chunks::start(Box::new(Cursor::new(content.clone())), offset as u64);
                chunks.read_to_end(&mut got).await.map(|_| got)
            });
            assert!(got.unwrap() == content[offset..], "from {offset}");
        }
    }

    #[test]
    fn a_failure_arrives_after_what_was_read_before_it() {
        struct Failing(Cursor<Vec<u8>>);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match Read::read(&mut self.0, buffer)? {
                    0 => Err(io::Error::other("disk")),
                    count => Ok(count),
                }
            }
        }
        impl Seek for Failing {
            fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
                self.0.seek(to)
            }
        }
        runtime().block_on(async {
            let mut chunks = Chunks::start(Box::new(Failing(Cursor::new(vec![7; 10]))), 0);
            assert_eq!(chunks.next().await.unwrap().unwrap().bytes(), [7; 10]);
            assert_eq!(chunks.next().await.unwrap_err().to_string(), "disk");
        });
    }
}
