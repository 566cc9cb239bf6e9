//! Clients whose cable is pulled: no packet says that they have gone. Needs root, for a network of its own.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use support::{ID, start_on};
use tools::Toolbox;

/// Ends the client even when the test fails.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One session before the login, one that does nothing, one in the midst of a download; then the cable is pulled.
const SESSIONS: &str = "import subprocess
print('here', flush=True)
def ip(words):
    return subprocess.run(['ip', *words.split()], stderr=subprocess.DEVNULL).returncode == 0
while not ip('link set client up'):
    time.sleep(0.05)
ip('address add 192.0.2.2/24 dev client')
new, idle, loading = connect(), login(), login()
fetch(idle, MANIFEST)
data = loading.transfercmd('RETR ' + TAR)
data.recv(1000)
ip('link set client down')
print('gone', flush=True)
time.sleep(600)";

#[test]
fn places_of_clients_that_are_gone_without_a_word_come_back() {
    // The server's network, of this test's process alone.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let toolbox = Toolbox::open().unwrap();
    let ip = |words: String| {
        let ended = toolbox.command("ip").args(words.split_whitespace()).status().unwrap();
        assert!(ended.success(), "ip {words}");
    };
    ip("link set lo up".into());
    let server = start_on("0.0.0.0:0", |config| {
        config.limits.sessions = 2;
        config.limits.login = Duration::from_secs(6);
        config.limits.unused = Duration::from_secs(9);
        config.limits.stall = Duration::from_secs(3);
    });
    fs::File::create(server.snapshot().join("sparse")).unwrap().set_len(256 << 20).unwrap();
    support::complete(&server.backups(), ID);

    let mut command = toolbox.command("unshare");
    command.args(["--net", "--", "python3"]).args(server.python_arguments("192.0.2.1", SESSIONS));
    let mut client = Client(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(client.0.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "here");
    ip(format!("link add server type veth peer name client netns {}", client.0.id()));
    ip("address add 192.0.2.1/24 dev server".into());
    ip("link set server up".into());
    assert_eq!(said.next().unwrap().unwrap(), "gone");

    let script = server.python_arguments(
        "127.0.0.1",
        "start = time.monotonic()
back = [login(), login(source='127.0.0.2')]
assert time.monotonic() - start < 10
assert fetch(back[0], MANIFEST).startswith(b'{')",
    );
    let output = Command::new("python3").args(script).output().unwrap();
    assert!(output.status.success(), "{}", support::stderr(&output));
    let deadline = Instant::now() + Duration::from_secs(30);
    while sessions() > 0 {
        assert!(Instant::now() < deadline, "{} sessions are left", sessions());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Threads of sessions in this process, which is the server's.
fn sessions() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.filter_map(Result::ok).filter(|task| name(task).trim() == "session").count()
}
