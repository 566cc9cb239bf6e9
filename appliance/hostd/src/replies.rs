//! The way back to whoever asked.

use anyhow::{Context, Result};
use hostd::Reply;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;

/// Sends replies. When nobody listens any more, sending fails, and with it the request: a long one ends then.
pub struct Replies(OwnedWriteHalf);

impl Replies {
    /// Replies on `connection`.
    pub fn new(connection: OwnedWriteHalf) -> Self {
        Self(connection)
    }

    /// Sends one reply.
    pub async fn send(&mut self, reply: &Reply) -> Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.0.write_all(&line).await.context("nobody waits for the reply")
    }
}
