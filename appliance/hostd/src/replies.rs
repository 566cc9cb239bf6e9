//! The way back to whoever asked.

use anyhow::{Context, Result};
use hostd::Reply;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;

/// Time for a reply to be read, as far as the socket does not keep it: a client that stands still holds up no request.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

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
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.0.write_all(&line)).await;
        sent.context("nobody reads the reply")?.context("nobody waits for the reply")
    }
}
