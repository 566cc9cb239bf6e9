//! Lines out of a byte stream that arrives in pieces.

/// Bytes received so far that do not yet make a line.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    /// Appends what was received.
    pub(crate) fn push(&mut self, received: &[u8]) {
        self.0.extend_from_slice(received);
    }

    /// Takes the oldest complete line, without its end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.0.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_arrive_in_pieces() {
        let mut lines = Lines::default();
        lines.push(b"{\"a\"");
        assert_eq!(lines.next_line(), None);
        lines.push(b":1}\r\n{\"b\":2}\r\n{");
        assert_eq!(lines.next_line().unwrap(), "{\"a\":1}");
        assert_eq!(lines.next_line().unwrap(), "{\"b\":2}");
        assert_eq!(lines.next_line(), None);
    }
}
