//! curl, from the tools tree, as a client that is not ours: a scenario then shows what a user's program would see.
//!
//! Requests are handed over on curl's standard input, so that no password stands in a command line.

use std::io::Write;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tools::Toolbox;

/// What curl brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// curl's exit status: 0 success, 67 login refused, 90 the server's key is not the pinned one.
    pub exit: i32,
    /// HTTP's status, or FTP's last reply code; 0 when there was none.
    pub code: u16,
    /// Body, or what FTP transferred (empty when it went into a file).
    pub body: String,
    /// curl's own words when it failed.
    pub error: String,
}

/// A client with one address, user and password.
#[derive(Debug, Clone)]
pub struct Client {
    toolbox: Toolbox,
    server: SocketAddrV4,
    user: Option<(String, String)>,
    pinned_key: Option<String>,
    limit: Duration,
}

impl Client {
    /// A client without credentials that accepts any certificate.
    pub fn new(toolbox: &Toolbox, server: SocketAddrV4) -> Client {
        Client {
            toolbox: toolbox.clone(),
            server,
            user: None,
            pinned_key: None,
            limit: Duration::from_secs(60),
        }
    }

    /// With user name and password.
    pub fn login(mut self, user: &str, password: &str) -> Client {
        self.user = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Accepts only this public key: curl's form, `sha256//BASE64`.
    pub fn pin(mut self, key: &str) -> Client {
        self.pinned_key = Some(key.to_owned());
        self
    }

    /// Gives up after this long; 60 s when not said.
    pub fn limit(mut self, limit: Duration) -> Client {
        self.limit = limit;
        self
    }

    /// An HTTPS request; a body is sent as JSON.
    pub fn https(&self, method: &str, path: &str, body: Option<&str>) -> Result<Reply> {
        let mut config = self.common(&format!("https://{}{path}", self.server));
        config.push(option("request", method));
        if let Some(body) = body {
            config.push(option("header", "Content-Type: application/json"));
            config.push(option("data-binary", body));
        }
        curl(&self.toolbox, &config)
    }

    /// An FTP transfer over explicit TLS: a listing when the path ends with `/`. `to` takes it as a file, resumed
    /// where the file ends when `resume` is set.
    pub fn ftps(&self, path: &str, to: Option<&Path>, resume: bool) -> Result<Reply> {
        let mut config = self.common(&format!("ftp://{}{path}", self.server));
        config.push("ssl-reqd".to_owned());
        if let Some(to) = to {
            config.push(option("output", &to.display().to_string()));
        }
        if resume {
            config.push(option("continue-at", "-"));
        }
        curl(&self.toolbox, &config)
    }

    fn common(&self, url: &str) -> Vec<String> {
        let mut config = vec![
            option("url", url),
            "silent".to_owned(),
            "show-error".to_owned(),
            "insecure".to_owned(),
            // The code goes behind the body, on a line of its own.
            option("write-out", "\n%{response_code}"),
            option("max-time", &self.limit.as_secs().to_string()),
        ];
        if let Some((user, password)) = &self.user {
            config.push(option("user", &format!("{user}:{password}")));
        }
        if let Some(key) = &self.pinned_key {
            config.push(option("pinnedpubkey", key));
        }
        config
    }
}

/// One line of curl's configuration, quoted.
fn option(name: &str, value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    for character in value.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other => quoted.push(other),
        }
    }
    format!("{name} = \"{quoted}\"")
}

fn curl(toolbox: &Toolbox, config: &[String]) -> Result<Reply> {
    let mut child = toolbox
        .command("curl")
        // First, or the user's own ~/.curlrc would be read.
        .args(["--disable", "--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start curl")?;
    let mut stdin = child.stdin.take().ok_or_else(|| anyhow!("curl has no standard input"))?;
    stdin.write_all(config.join("\n").as_bytes()).context("cannot hand curl its request")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for curl")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let (body, code) = said.rsplit_once('\n').unwrap_or_default();
    Ok(Reply {
        exit: output.status.code().unwrap_or(-1),
        code: code.trim().parse().unwrap_or(0),
        body: body.to_owned(),
        error: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    #[test]
    fn values_are_quoted_as_curl_reads_them() {
        assert_eq!(option("user", r#"backup:a"b\c"#), r#"user = "backup:a\"b\\c""#);
        assert_eq!(option("data-binary", "{\n\t}"), r#"data-binary = "{\n\t}""#);
    }

    #[test]
    fn body_and_code_come_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while !lines.next().unwrap().unwrap().is_empty() {}
            let body = "{\n\"field\": 1\n}";
            write!(stream, "HTTP/1.1 400 Bad\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        });
        let toolbox = Toolbox::open().unwrap();
        let config = Client::new(&toolbox, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
            .common(&format!("http://127.0.0.1:{port}/"));
        let reply = curl(&toolbox, &config).unwrap();
        assert_eq!((reply.exit, reply.code), (0, 400));
        assert_eq!(reply.body, "{\n\"field\": 1\n}");
    }

    #[test]
    fn an_unreachable_server_is_told_from_a_refusal() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::new(&Toolbox::open().unwrap(), SocketAddrV4::new(Ipv4Addr::LOCALHOST, free));
        let reply = client.https("GET", "/v1/status", None).unwrap();
        assert_eq!((reply.exit, reply.code), (7, 0));
        assert!(!reply.error.is_empty());
    }
}
