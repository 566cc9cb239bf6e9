//! Strangers at the ports: they hold connections open, guess passwords from many addresses, and fill the logs.
//! Addresses of 127.0.0.0/8 are the different sources.

use anyhow::{Context, Result};
use integration::{PASSWORD, Process, Server, wait_for};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tools::Toolbox;

/// The aim is 2 s; the machine that tests is busy.
const LOGIN: Duration = Duration::from_secs(15);
const MINUTE: Duration = Duration::from_secs(60);
/// Peak of resident memory in KiB.
const MEMORY: u64 = 64 * 1024;
/// Descriptors: 256 sockets at most, and the daemon's own.
const DESCRIPTORS: usize = 300;

/// What the scripts share.
const COMMON: &str = "
import base64, ftplib, itertools, resource, socket, ssl, sys, threading, time
port = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
context = ssl._create_unverified_context()
def connect(source, tls=True):
    stream = socket.create_connection(('127.0.0.1', port), timeout=20, source_address=(source, 0))
    return context.wrap_socket(stream) if tls else stream
def request(password):
    credentials = base64.b64encode(b'backup:' + password.encode()).decode()
    return f'GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Basic {credentials}\\r\\n\\r\\n'.encode()
def ask(stream, password):
    stream.sendall(request(password))
    answer = stream.recv(65536)
    if not answer:
        raise OSError('closed')
    return int(answer.split()[1])
def in_threads(count, work):
    for number in range(count):
        threading.Thread(target=work, args=(number,), daemon=True).start()
";

/// 1 100 connections that say nothing, or half a request, and come again when they are closed.
const HALF_OPEN: &str = "
def hold(thread):
    held = []
    while True:
        for number in range(thread, 1100, 22):
            source = f'127.0.{1 + number // 250}.{1 + number % 250}'
            try:
                stream = connect(source, tls=number % 2)
                stream.sendall(b'GET /v1/status HTTP/1.1\\r\\nX: ' if number % 2 else b'\\x16\\x03')
                held = held[-60:] + [stream]
            except OSError:
                pass
        if thread == 0:
            print('round', flush=True)
in_threads(22, hold)
time.sleep(600)
";

/// 10 000 guesses from 1 000 addresses.
const GUESSES: &str = "
numbers = itertools.count()
def guess(_):
    for number in numbers:
        if number >= 10000:
            return
        try:
            with connect(f'127.1.{number % 1000 // 250}.{1 + number % 250}') as stream:
                print('guess', ask(stream, f'wrong {number}'), flush=True)
        except OSError:
            pass
in_threads(40, guess)
time.sleep(600)
";

/// As many wrong passwords as can be sent from one address; then it is done.
const FLOOD: &str = "
answers, until = {}, time.monotonic() + 5
while time.monotonic() < until:
    try:
        with connect('127.0.8.8') as stream:
            while True:
                code = ask(stream, 'wrong')
                answers[code] = answers.get(code, 0) + 1
    except OSError:
        pass
print(answers)
assert answers[401] <= 8 and answers[429] > 20, answers
";

/// Somebody with the password: requests under way that do not end, and more connections than there are places.
const THIEF: &str = "
credentials = base64.b64encode(b'backup:' + sys.argv[2].encode()).decode()
head = f'Host: x\\r\\nAuthorization: Basic {credentials}\\r\\n'
half = f'POST /v1/backups HTTP/1.1\\r\\n{head}Content-Length: 9\\r\\n\\r\\n{{'.encode()
def hold(thread):
    held = []
    while True:
        for number in range(thread, 240, 8):
            try:
                stream = connect(f'127.4.0.{1 + number % 30}')
                if number % 2:
                    stream.sendall(half)
                else:
                    ask(stream, sys.argv[2])
                held = held[-40:] + [stream]
            except OSError:
                pass
        if thread == 0:
            print('round', flush=True)
in_threads(8, hold)
time.sleep(600)
";

/// One connection that has logged in and one that listens end when the password is set again.
const OUTLIVED: &str = "
credentials = base64.b64encode(b'backup:' + sys.argv[2].encode()).decode()
listens, idle = connect('127.5.0.1'), connect('127.5.0.1')
head = f'Host: x\\r\\nAuthorization: Basic {credentials}\\r\\n\\r\\n'
listens.sendall(f'GET /v1/events/live HTTP/1.1\\r\\n{head}'.encode())
assert b'200' in listens.recv(1000)
assert ask(idle, sys.argv[2]) == 200
print('here', flush=True)
start = time.monotonic()
for stream in [listens, idle]:
    stream.settimeout(10)
    try:
        while stream.recv(65536):
            pass
    except ConnectionError:
        pass
print('ended after s:', round(time.monotonic() - start, 1), flush=True)
time.sleep(600)
";

/// Rotation plans without a pause.
const PLANS: &str = "
credentials = base64.b64encode(b'backup:' + sys.argv[2].encode()).decode()
question = f'GET /v1/rotation/plan HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Basic {credentials}\\r\\n\\r\\n'.encode()
took, until = [], time.monotonic() + 6
def plans(thread):
    stream = connect(f'127.6.0.{1 + thread}')
    while time.monotonic() < until:
        start = time.monotonic()
        stream.sendall(question)
        assert stream.recv(65536).startswith(b'HTTP/1.1 200')
        took.append(time.monotonic() - start)
in_threads(6, plans)
time.sleep(12)
print(len(took), 'plans, the slowest took s:', round(max(took), 2))
assert 6 <= len(took) <= 6 * 9 and max(took) < 6, took
";

fn script(text: &str, port: u16) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", &format!("{COMMON}{text}"), &port.to_string(), PASSWORD]);
    command
}

/// Starts a script and waits until it has printed so many lines.
fn start(text: &str, port: u16, log: &Path, lines: usize) -> Result<Process> {
    let process = Process::start(&mut script(text, port), log)?;
    wait_for("the strangers", 2 * MINUTE, || {
        let text = fs::read_to_string(log).unwrap_or_default();
        if text.lines().count() >= lines { Ok(()) } else { Err(text) }
    })?;
    Ok(process)
}

/// Logs in from an address; gives the status code and how long it took.
fn log_in(server: &Server, from: &str) -> (Result<u16>, Duration) {
    let started = Instant::now();
    let code = server.curl(&["--interface", from, "--max-time", "30"], "/v1/status").map(|(code, _)| code);
    (code, started.elapsed())
}

fn peak(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn strangers_neither_lock_a_client_out_nor_fill_descriptors_memory_and_logs() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let mut server = Server::start(&toolbox)?;
    let folder = integration::test_folder()?;
    let backupd =
        server.processes().into_iter().find(|(name, _)| *name == "backupd").context("no backupd")?.1;
    let descriptors = || fs::read_dir(format!("/proc/{backupd}/fd")).map(Iterator::count);

    println!("at the start: {} KiB at most", peak(backupd)?);
    let mut half_open = start(HALF_OPEN, server.port, &folder.path().join("half-open"), 1)?;
    for n in 1..=10 {
        let (code, took) = log_in(&server, &format!("127.2.0.{n}"));
        println!("while connections are held open: {code:?} after {took:?}, {} descriptors", descriptors()?);
        assert_eq!(code.with_context(|| server.logs())?, 200);
        assert!(took < LOGIN, "{took:?}");
        assert!(descriptors()? < DESCRIPTORS);
    }
    half_open.stop("KILL")?;
    println!("after connections held open: {} KiB at most", peak(backupd)?);

    // From here on each guess costs a hash, until the right password comes.
    server.renew_password()?;
    let mut guesses = start(GUESSES, server.port, &folder.path().join("guesses"), 60)?;
    let (code, took) = log_in(&server, "127.3.0.1");
    println!("while a thousand addresses guess: {code:?} after {took:?}");
    assert_eq!(code.with_context(|| server.logs())?, 200);
    assert!(took < LOGIN, "{took:?}");
    for n in 2..=5 {
        let (code, took) = log_in(&server, &format!("127.3.0.{n}"));
        assert_eq!(code.with_context(|| format!("after {took:?}: {}", server.logs()))?, 200);
    }
    guesses.stop("KILL")?;
    println!("after guesses: {} KiB at most", peak(backupd)?);

    let output = integration::run(&mut script(FLOOD, server.port))?;
    println!("a flood from one address: {}", String::from_utf8_lossy(&output.stdout).trim());
    // What failed at the API has to wait at FTP, too, and the other way round.
    let ftp = server.start_ftpd()?;
    let right = format!(
        "def log_in(source, password):
    ftp = ftplib.FTP_TLS(context=context, source_address=(source, 0))
    ftp.connect('127.0.0.1', port, timeout=30)
    try:
        ftp.login('backup', password)
        return True
    except (ftplib.error_perm, ftplib.error_temp):
        return False
assert not log_in('127.0.8.8', '{PASSWORD}')
assert log_in('127.0.9.1', '{PASSWORD}')
assert not any(log_in('127.0.9.2', 'wrong') for _ in range(6))
"
    );
    integration::run(&mut script(&right, ftp)).with_context(|| server.log_of("ftpd").unwrap_or_default())?;
    assert_eq!(log_in(&server, "127.0.9.2").0?, 429);

    let log = server.log_of("backupd")?;
    let lines = log.lines().filter(|line| line.contains(" 127.") || line.contains(" lines in the")).count();
    println!("{lines} lines about strangers in {} bytes of log, {} KiB at most", log.len(), peak(backupd)?);
    assert!(lines < 200, "{log}");
    assert!(log.contains(" more lines in the last minute") || lines < 60);
    assert!(peak(backupd)? < MEMORY, "{} KiB", peak(backupd)?);
    Ok(())
}

#[test]
fn a_stolen_password_keeps_nobody_out_and_another_one_ends_what_it_holds() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let server = Server::start(&toolbox)?;
    let folder = integration::test_folder()?;
    let backupd =
        server.processes().into_iter().find(|(name, _)| *name == "backupd").context("no backupd")?.1;

    let output = integration::run(&mut script(PLANS, server.port))?;
    println!("{}", String::from_utf8_lossy(&output.stdout).trim());

    let mut thief = start(THIEF, server.port, &folder.path().join("thief"), 2)?;
    // Addresses of its own, and one that the thief uses as well.
    for from in ["127.2.0.1", "127.2.0.2", "127.2.0.3", "127.4.0.1", "127.4.0.2"] {
        let (code, took) = log_in(&server, from);
        println!("while somebody uses the password from 30 addresses: {code:?} after {took:?}");
        assert_eq!(code.with_context(|| server.logs())?, 200);
        assert!(took < LOGIN, "{took:?}");
    }
    thief.stop("KILL")?;

    let log = folder.path().join("outlived");
    let outlived = start(OUTLIVED, server.port, &log, 1)?;
    server.renew_password()?;
    wait_for("the end of what logged in before", MINUTE, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() >= 2 { Ok(()) } else { Err(text) }
    })?;
    println!("{}", fs::read_to_string(&log)?.trim());
    drop(outlived);
    println!("{} KiB at most", peak(backupd)?);
    assert!(peak(backupd)? < MEMORY, "{} KiB", peak(backupd)?);
    Ok(())
}
