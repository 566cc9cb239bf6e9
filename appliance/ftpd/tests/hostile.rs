//! Strangers who connect first, and hold what they have: the rightful client gets in and gets its backup.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod support;

use api::FtpSettings;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{ID, Running, set, start, stderr};

/// Every kind of connection that stops before its login.
const HOLD: &str = "
import threading
def held(source, kind):
    raw = socket.create_connection((HOST, PORT), timeout=20, source_address=(source, 0))
    try:
        if kind > 0:
            raw.recv(1000)
            raw.sendall(b'AUTH TLS\\r\\n')
            raw.recv(1000)
        if kind == 2:
            raw.sendall(b'\\x16\\x03\\x01\\x02\\x00\\x01')
        if kind == 3:
            raw = context().wrap_socket(raw, server_hostname='backup-server')
            raw.sendall(b'USER backup\\r\\n')
    except OSError:
        pass
    return raw
";

#[test]
fn connections_without_a_login_keep_nobody_out() {
    let server = start(|_| {});
    let said = server.python(&format!(
        "{HOLD}
held_by = []
def hold(source):
    held_by.append([held(source, number % 4) for number in range(24)])
for source in ['127.0.0.2', '127.0.0.3', '127.0.0.1']:
    hold(source)
done = threading.Event()
def flood(source):
    while not done.wait(0.01):
        held(source, 0)
for source in ['127.0.0.4', '127.0.0.5']:
    threading.Thread(target=flood, args=(source,), daemon=True).start()
took = []
for number in range(20):
    start = time.monotonic()
    ftp = login()
    took.append(time.monotonic() - start)
    assert fetch(ftp, MANIFEST).startswith(b'{{')
    ftp.quit()
    hold(['127.0.0.2', '127.0.0.3', '127.0.0.1'][number % 3])
done.set()
print(len(took), 'logins, the slowest took s:', round(max(took), 2))"
    ));
    println!("{said}");
}

#[test]
fn more_addresses_than_there_are_places_keep_nobody_out() {
    let server = start(|_| {});
    server.python(&format!(
        "{HOLD}
kept = [held(f'127.0.1.{{number + 1}}', number % 4) for number in range(150)]
for number in range(10):
    assert fetch(login(), MANIFEST).startswith(b'{{')
    kept += [held(f'127.0.2.{{number * 10 + more + 1}}', more % 4) for more in range(10)]"
    ));
}

#[test]
fn what_waits_for_a_login_takes_no_place_of_a_session_and_no_session_one_of_them() {
    let server = start(|config| {
        config.limits.sessions = 2;
        config.limits.waiting = 2;
        config.limits.waiting_per_address = 2;
    });
    server.python(&format!(
        "{HOLD}
first, second = login(), login(source='127.0.0.2')
kept = [held('127.0.0.3', kind) for kind in range(4)]
for ftp in [first, second]:
    assert fetch(ftp, MANIFEST).startswith(b'{{')"
    ));
}

/// Every kind of use that somebody with the password can make of a session, again and again.
const THIEF: &str = "
import os, threading
done = threading.Event()
def end():
    done.set()
    sys.stdout.flush()
    # An interpreter that ends while threads are in OpenSSL may crash.
    os._exit(0)
def thief(source, number):
    while not done.is_set():
        try:
            ftp = login(source=source)
            if number % 3 == 0:
                data = ftp.transfercmd('RETR ' + TAR)
                while data.recv(1000):
                    if done.wait(0.02):
                        return
            else:
                while ftp.sendcmd('PWD' if number % 3 == 1 else 'NOOP'):
                    if done.wait(0.1):
                        return
        except (ftplib.Error, OSError, EOFError, ValueError):
            done.wait(0.05)
def thieves(sources, each):
    for source in sources:
        for number in range(each):
            threading.Thread(target=thief, args=(source, number), daemon=True).start()
    time.sleep(2)
";

#[test]
fn a_stolen_password_keeps_no_node_out_and_ends_no_restore() {
    let server = start(|_| {});
    fs::write(server.path("expected"), server.tar()).unwrap();
    let said = server.python(&format!(
        "{THIEF}
tar = open({:?}, 'rb').read()
thieves(['127.0.0.2', '127.0.0.3'], 8)
for number in range(3):
    start = time.monotonic()
    ftp = login(source='127.0.0.9')
    took = time.monotonic() - start
    data, got = ftp.transfercmd('RETR ' + TAR), b''
    while piece := data.recv(65536):
        got += piece
        time.sleep(0.02)
    data.close()
    assert ftp.voidresp().startswith('226') and got == tar
    print('login took s:', round(took, 2))
    ftp.quit()
end()",
        server.path("expected")
    ));
    println!("{said}");
}

#[test]
fn a_password_stolen_by_many_addresses_delays_a_restore_that_resumes() {
    let server = start(|_| {});
    fs::write(server.path("expected"), server.tar()).unwrap();
    let said = server.python(&format!(
        "{THIEF}
tar = open({:?}, 'rb').read()
thieves([f'127.0.1.{{number + 1}}' for number in range(24)], 1)
got, logins, start = b'', 0, time.monotonic()
while len(got) < len(tar):
    assert time.monotonic() - start < 60, len(got)
    try:
        ftp = login(source='127.0.0.9')
        logins += 1
        data = ftp.transfercmd('RETR ' + TAR, rest=len(got) or None)
        while piece := data.recv(65536):
            got += piece
        data.close()
    except (ftplib.Error, OSError, EOFError):
        pass
done.set()
assert got == tar
print(logins, 'logins,', round(time.monotonic() - start, 2), 's')",
        server.path("expected")
    ));
    println!("{said}");
}

#[test]
fn another_password_ends_all_sessions_of_the_old_one() {
    let server = start(|_| {});
    fs::File::create(server.snapshot().join("sparse")).unwrap().set_len(256 << 20).unwrap();
    support::complete(&server.backups(), ID);
    let hash = auth::hash_password("another").unwrap();
    auth::write_password_file(&server.path("next"), &hash, None).unwrap();
    server.python(&format!(
        "import os
idle, busy = login(), login()
data = busy.transfercmd('RETR ' + TAR)
assert data.recv(1000)
os.replace({:?}, {:?})
idle.sock.settimeout(10)
said = idle.getmultiline()
assert said.startswith('421') and 'password' in said, said
data.settimeout(10)
try:
    while data.recv(65536):
        pass
except ConnectionError:
    pass
assert ended(busy, 10) < 10
refused('530', login)
after = login(password='another')
time.sleep(2.5)
assert fetch(after, MANIFEST).startswith(b'{{')",
        server.path("next"),
        server.path("password")
    ));
}

#[test]
fn a_known_address_has_a_place_before_the_login_apart_from_strangers() {
    let server = start(|_| {});
    server.python(&format!(
        "{HOLD}
login(source='127.0.0.9').quit()
half = connect('127.0.0.9')
kept = [held(f'127.0.3.{{number + 1}}', number % 2) for number in range(100)]
half.login('backup', PASSWORD)
half.prot_p()
assert fetch(half, MANIFEST).startswith(b'{{')"
    ));
}

#[test]
fn a_client_that_has_failed_has_time_to_log_in() {
    let server = start(|_| {});
    server.python(&format!(
        "{HOLD}
for number in range(3):
    refused('530', lambda: login(password='wrong', source='127.0.0.9'))
kept = [held(f'127.0.3.{{number + 1}}', number % 2) for number in range(100)]
slow = connect('127.0.0.9')
kept += [held(f'127.0.4.{{number + 1}}', number % 2) for number in range(20)]
slow.login('backup', PASSWORD)
slow.prot_p()
assert fetch(slow, MANIFEST).startswith(b'{{')"
    ));
}

#[test]
fn who_guessed_too_often_is_told_to_wait_and_not_that_the_password_is_wrong() {
    let server = start(|_| {});
    server.python(
        "for number in range(5):
    refused('530', lambda: login(password=f'wrong {number}', source='127.0.0.9'))
said = refused('421', lambda: login(source='127.0.0.9'))
assert 'try again in' in said, said
time.sleep(2)
assert fetch(login(source='127.0.0.9'), MANIFEST).startswith(b'{')",
    );
}

/// The address, kind and number of strangers who are at the port before the client.
const STRANGERS: &str = "
import threading
def stranger(port, source, kind, got):
    try:
        raw = socket.create_connection((HOST, port), timeout=20, source_address=(source, 0))
        got.append([kind, 0])
        mine = got[-1]
        if kind == 'garbage':
            raw.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')
        elif kind == 'part':
            raw.sendall(b'\\x16\\x03\\x01\\x02\\x00')
        elif kind in ('tls12', 'tls13'):
            tls = context()
            tls.minimum_version = tls.maximum_version = (
                ssl.TLSVersion.TLSv1_2 if kind == 'tls12' else ssl.TLSVersion.TLSv1_3)
            raw = tls.wrap_socket(raw, server_hostname=HOST)
        elif kind == 'other session':
            raw = other.context.wrap_socket(raw, server_hostname=HOST, session=other.sock.session)
        kept.append(raw)
        mine[1] += len(raw.recv(65536))
    except OSError as error:
        pass
other, kept = login(), []
";

#[test]
fn strangers_who_connect_first_neither_break_a_transfer_nor_get_a_byte() {
    let server = start(|_| {});
    fs::write(server.path("expected"), server.tar()).unwrap();
    let said = server.python(&format!(
        "{STRANGERS}
tar = open({:?}, 'rb').read()
def transfer(source, kind, command, rest=None):
    ftp, got = login(), []
    port = int(ftp.sendcmd('EPSV').split('|')[3])
    threads = [threading.Thread(target=stranger, args=(port, source, kind, got), daemon=True) for _ in range(4)]
    [thread.start() for thread in threads]
    deadline = time.monotonic() + 20
    while len(got) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    raw = socket.create_connection((HOST, port), timeout=20)
    if rest:
        ftp.sendcmd(f'REST {{rest}}')
    assert ftp.sendcmd(command).startswith('150')
    data, all = ftp.context.wrap_socket(raw, server_hostname=HOST, session=ftp.sock.session), b''
    while piece := data.recv(65536):
        all += piece
    data.close()
    assert ftp.voidresp().startswith('226')
    time.sleep(0.1)
    assert len(got) == 4 and all, (source, kind, got)
    # Of TLS it may get an alert, 7 bytes.
    most = 0 if 'tls' in kind or kind == 'other session' else 7
    assert max(bytes for _, bytes in got) <= most, (source, kind, got)
    return all
for source in ['127.0.0.2', '127.0.0.1']:
    for kind in ['silent', 'garbage', 'part', 'tls12', 'tls13', 'other session']:
        assert transfer(source, kind, 'RETR ' + TAR) == tar, (source, kind)
assert transfer('127.0.0.1', 'tls13', 'RETR ' + TAR, 1000) == tar[1000:]
assert TAR.encode() in transfer('127.0.0.1', 'tls13', 'MLSD')
print('ok')",
        server.path("expected")
    ));
    assert!(said.contains("ok"));
}

/// Without TLS there is only the address to go by.
#[test]
fn in_clear_another_address_does_not_get_in_between() {
    let server = start(|config| set(config, FtpSettings { allow_clear: true, ..FtpSettings::default() }));
    server.python(
        "ftp = ftplib.FTP(timeout=20)
ftp.connect(HOST, PORT)
ftp.login('backup', PASSWORD)
port = int(ftp.sendcmd('EPSV').split('|')[3])
strangers = [socket.create_connection((HOST, port), source_address=('127.0.0.2', 0)) for _ in range(20)]
data = socket.create_connection((HOST, port), timeout=20)
ftp.putcmd('RETR ' + MANIFEST)
assert data.recv(1000).startswith(b'{')
for stranger in strangers:
    stranger.settimeout(5)
    try:
        assert stranger.recv(1000) == b''
    except ConnectionError:
        pass",
    );
}

#[test]
fn more_strangers_than_are_looked_at_at_once_break_no_transfer() {
    let server = start(|_| {});
    server.python(&format!(
        "{STRANGERS}
ftp = login()
port = int(ftp.sendcmd('EPSV').split('|')[3])
kept = [socket.create_connection((HOST, port), timeout=20) for _ in range(100)]
raw = socket.create_connection((HOST, port), timeout=20)
kept += [socket.create_connection((HOST, port), timeout=20) for _ in range(10)]
ftp.putcmd('RETR ' + MANIFEST)
data = ftp.context.wrap_socket(raw, server_hostname=HOST, session=ftp.sock.session)
assert data.recv(1000).startswith(b'{{')"
    ));
}

/// A stranger cannot get a ticket from a handshake of its own and come back with it.
#[test]
fn a_handshake_on_a_data_port_gives_nothing_to_come_back_with() {
    let server = start(|_| {});
    server.python(
        "ftp = login()
port = int(ftp.sendcmd('EPSV').split('|')[3])
for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
    tls = context()
    tls.minimum_version = tls.maximum_version = version
    session = None
    for attempt in range(2):
        raw = socket.create_connection((HOST, port), timeout=20)
        try:
            stranger = tls.wrap_socket(raw, server_hostname=HOST, session=session)
            stranger.settimeout(1)
            assert stranger.recv(1000) == b''
            session = stranger.session
        except OSError:
            continue
        assert not stranger.session_reused
ftp.putcmd('RETR ' + MANIFEST)
raw = socket.create_connection((HOST, port), timeout=20)
assert ftp.context.wrap_socket(raw, server_hostname=HOST, session=ftp.sock.session).recv(1000).startswith(b'{')",
    );
}

#[test]
fn a_client_that_cannot_resume_is_told_and_the_console_can_allow_it() {
    let script = "
def plain(server_ends):
    ftp = login()
    ftp.resumes = False
    try:
        return fetch(ftp, MANIFEST)
    except (OSError, EOFError):
        return ftp.getmultiline()
";
    let server = start(|config| config.limits.unresumed = Duration::from_secs(1));
    server.python(&format!(
        "{script}
said = plain(True)
assert said.startswith('421') and '--allow-unproven-data true' in said, said"
    ));
    let settings = FtpSettings { allow_unproven_data: true, ..FtpSettings::default() };
    let server = start(|config| set(config, settings));
    server.python(&format!("{script}\nassert plain(False).startswith(b'{{')"));
    // Their own sessions go on being resumed.
    let output = server.curl(&[&server.url(&format!("{ID}.tar"))]);
    assert!(output.stdout == server.tar(), "{}", stderr(&output));
}

#[test]
fn many_transfers_in_one_session_resume_each_time() {
    let server = start(|_| {});
    server.python(
        "for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
    ftp = connect()
    ftp.context.minimum_version = ftp.context.maximum_version = version
    ftp.login('backup', PASSWORD)
    ftp.prot_p()
    for number in range(100):
        assert fetch(ftp, MANIFEST).startswith(b'{'), number
    # Broken off, so that tickets of that handshake may not have been read.
    for number in range(10):
        data = ftp.transfercmd('RETR ' + TAR)
        data.close()
        try:
            ftp.voidresp()
        except ftplib.error_temp:
            pass
    assert fetch(ftp, MANIFEST).startswith(b'{')",
    );
    // A name each: curl keeps the control connection and takes a ticket for each.
    let urls: Vec<String> = (0..20).map(|_| server.url(&format!("{ID}.json"))).collect();
    let output = server.curl(&urls.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The program itself, with the files of a server that a test has started.
struct Program {
    child: Child,
    port: u16,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Program {
    fn start(files: &Running) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = files.path("");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftpd"));
        command.args(["--passive-ports", "0-0", "--listen"]).arg(format!("127.0.0.1:{port}"));
        command.arg("--backups").arg(folder.join("backups")).arg("--tls-dir").arg(&folder);
        command.arg("--password-file").arg(folder.join("password"));
        command.arg("--settings").arg(folder.join("ftp.json"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "ftpd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, port }
    }

    /// The most memory that it has had, in KiB.
    fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Everything full at once: connections before the login in the midst of TLS and of a line, sessions in the midst of
/// a transfer, strangers in the midst of a handshake on their ports, and wrong passwords.
#[test]
fn memory_stays_small_under_attack() {
    let files = start(|_| {});
    fs::File::create(files.snapshot().join("sparse")).unwrap().set_len(256 << 20).unwrap();
    support::complete(&files.backups(), ID);
    let program = Program::start(&files);
    let mut arguments = files.python_arguments(
        "127.0.0.1",
        &format!(
            "{HOLD}
kept = []
for number in range(8):
    source = f'127.0.0.{{number % 2 + 1}}'
    ftp = login(source=source)
    if number > 5:
        port = int(ftp.sendcmd('EPSV').split('|')[3])
        for stranger in range(40):
            raw = socket.create_connection((HOST, port), timeout=20, source_address=(source, 0))
            raw.sendall(b'\\x16\\x03\\x01\\x40\\x00\\x01\\x00\\x3f\\xfc' + b'x' * 15000)
            kept.append(raw)
        kept.append(ftp)
        continue
    data = ftp.transfercmd('RETR ' + TAR)
    data.recv(1)
    kept.append((ftp, data))
for round in range(3):
    for number in range(120):
        raw = held(f'127.0.{{round + 1}}.{{number + 1}}', number % 4)
        try:
            raw.sendall(b'x' * 4000)
        except OSError:
            pass
        kept.append(raw)
for number in range(3):
    try:
        login(password='wrong', source='127.0.9.1')
    except (ftplib.error_perm, OSError, EOFError):
        pass
print('full')"
        ),
    );
    arguments[3] = program.port.to_string();
    let output = Command::new("python3").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let most = program.most_memory();
    println!("most memory: {most} KiB");
    assert!(most <= 64 * 1024, "{most} KiB");
}
