//! QEMU's machine protocol: one JSON object a line, over a unix socket.
//!
//! Calls are synchronous; events that arrive in between are kept until somebody waits for them. That is enough
//! for a lab and needs no thread.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::lines::Lines;

/// How long QEMU may take to answer. Its main loop can be busy for seconds when the host is.
const ANSWER: Duration = Duration::from_secs(60);
/// Granularity of reading with a deadline.
const READ_SLICE: Duration = Duration::from_millis(200);

/// One message from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first message of a connection.
    Greeting,
    /// A command succeeded.
    Return(Value),
    /// A command failed.
    Error {
        /// QEMU's error class, such as `GenericError`.
        class: String,
        /// For people.
        description: String,
    },
    /// Something happened.
    Event(Event),
}

/// Something that happened in QEMU, such as `SHUTDOWN`.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its particulars; null when it has none.
    pub data: Value,
}

/// Reads one line of the protocol.
pub fn parse(line: &str) -> Result<Message> {
    let message: Value =
        serde_json::from_str(line).with_context(|| format!("not JSON from QMP: {line:?}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if message.get("QMP").is_some() {
        return Ok(Message::Greeting);
    }
    if let Some(value) = message.get("return") {
        return Ok(Message::Return(value.clone()));
    }
    if let Some(error) = message.get("error") {
        return Ok(Message::Error { class: text(&error["class"]), description: text(&error["desc"]) });
    }
    if let Some(name) = message.get("event") {
        return Ok(Message::Event(Event { name: text(name), data: message["data"].clone() }));
    }
    bail!("unknown message from QMP: {line:?}")
}

/// A connection, ready for commands.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: Lines,
    events: VecDeque<Event>,
}

impl Qmp {
    /// Connects and negotiates. QEMU serves one client at a time.
    pub fn connect(socket: &Path) -> Result<Qmp> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to QEMU's control socket {}", socket.display()))?;
        stream.set_read_timeout(Some(READ_SLICE)).context("cannot set QMP's read timeout")?;
        stream.set_write_timeout(Some(ANSWER)).context("cannot set QMP's write timeout")?;
        let mut qmp = Qmp { stream, lines: Lines::default(), events: VecDeque::new() };
        match qmp.receive(Instant::now() + ANSWER)? {
            Some(Message::Greeting) => {}
            other => bail!("QMP did not greet: {other:?}"),
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot send QMP command {command}"))?;
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.receive(deadline).with_context(|| format!("QMP command {command}"))? {
                Some(Message::Return(value)) => return Ok(value),
                Some(Message::Error { class, description }) => {
                    bail!("QMP command {command} failed: {description} ({class})")
                }
                Some(Message::Event(event)) => self.events.push_back(event),
                Some(Message::Greeting) => bail!("QMP greeted in the middle of command {command}"),
                None => bail!("no answer to QMP command {command} within {} s", ANSWER.as_secs()),
            }
        }
    }

    /// Waits for an event of this name, also one that arrived earlier, and forgets those before it.
    pub fn wait_event(&mut self, name: &str, within: Duration) -> Result<Event> {
        let deadline = Instant::now() + within;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.name == name {
                    return Ok(event);
                }
            }
            match self.receive(deadline)? {
                Some(Message::Event(event)) => self.events.push_back(event),
                Some(other) => bail!("unasked QMP message while waiting for event {name}: {other:?}"),
                None => bail!("no QMP event {name} within {} s", within.as_secs()),
            }
        }
    }

    /// Ends QEMU at once; the guest notices nothing before.
    pub fn quit(&mut self) -> Result<()> {
        self.execute("quit", json!({})).map(drop)
    }

    /// Presses the power button: the guest shuts itself down.
    pub fn system_powerdown(&mut self) -> Result<()> {
        self.execute("system_powerdown", json!({})).map(drop)
    }

    /// Writes what the screen shows to a PNG file.
    pub fn screendump(&mut self, png: &Path) -> Result<()> {
        self.execute("screendump", json!({ "filename": png, "format": "png" })).map(drop)
    }

    /// Plugs a network card's cable in or out; the guest sees its carrier change. `nic` is a [`crate::nic_id`].
    pub fn set_link(&mut self, nic: &str, up: bool) -> Result<()> {
        self.execute("set_link", json!({ "name": nic, "up": up })).map(drop)
    }

    /// Takes a device out while the guest runs, as far as its bus allows that.
    pub fn unplug(&mut self, device: &str) -> Result<()> {
        self.execute("device_del", json!({ "id": device })).map(drop)
    }

    /// Halts the processors. The guest's clock stands still.
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop", json!({})).map(drop)
    }

    /// Lets the processors run on.
    pub fn cont(&mut self) -> Result<()> {
        self.execute("cont", json!({})).map(drop)
    }

    /// The next message, or none when the deadline passed.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Message>> {
        let mut piece = [0; 4096];
        loop {
            if let Some(line) = self.lines.next_line() {
                return parse(&line).map(Some);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(anyhow!("QEMU closed its control socket")),
                Ok(length) => self.lines.push(&piece[..length]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("cannot read from QEMU's control socket"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let cases = [
            (r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}"#, Message::Greeting),
            (r#"{"return": {}}"#, Message::Return(json!({}))),
            (
                r#"{"error": {"class": "GenericError", "desc": "Device 'x' not found"}}"#,
                Message::Error { class: "GenericError".into(), description: "Device 'x' not found".into() },
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true}}"#,
                Message::Event(Event { name: "SHUTDOWN".into(), data: json!({ "guest": true }) }),
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
                Message::Event(Event { name: "STOP".into(), data: Value::Null }),
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_named() {
        assert!(parse("qemu: oops").unwrap_err().to_string().contains("qemu: oops"));
        assert!(parse(r#"{"id": 1}"#).unwrap_err().to_string().contains("unknown message"));
    }

    /// Answers each line that it receives with the next of `answers`, after the greeting.
    fn served(answers: Vec<&'static str>) -> (tempfile::TempDir, Qmp) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut commands = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            for answer in ["{\"return\": {}}"].into_iter().chain(answers) {
                commands.next().unwrap().unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                stream.write_all(b"\r\n").unwrap();
            }
        });
        let qmp = Qmp::connect(&socket).unwrap();
        (folder, qmp)
    }

    #[test]
    fn events_before_an_answer_are_kept() {
        let (_folder, mut qmp) = served(vec!["{\"event\": \"STOP\"}\r\n{\"return\": {\"running\": false}}"]);
        assert_eq!(qmp.execute("query-status", json!({})).unwrap(), json!({ "running": false }));
        assert_eq!(qmp.wait_event("STOP", Duration::from_secs(1)).unwrap().name, "STOP");
    }

    #[test]
    fn a_refused_command_says_why() {
        let (_folder, mut qmp) =
            served(vec![r#"{"error": {"class": "DeviceNotFound", "desc": "Device 'nic7' not found"}}"#]);
        let message = qmp.set_link("nic7", false).unwrap_err().to_string();
        assert_eq!(message, "QMP command set_link failed: Device 'nic7' not found (DeviceNotFound)");
    }
}
