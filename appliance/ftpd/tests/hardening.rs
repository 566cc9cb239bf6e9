//! Clients that break off, hang or attack: each weakness of libunftp named in the crate's documentation.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod support;

use api::FtpSettings;
use std::fs;
use std::net::TcpListener;
use std::time::Duration;
use support::{ID, start, stderr};

/// Shortens the wait for data connections. curl is slow on them: it looks at the control connection once a second
/// while its handshake on the other is under way.
fn impatient(config: &mut ftpd::Config) {
    config.limits.data_connection = Duration::from_secs(2);
}

#[test]
fn an_offset_of_a_failed_transfer_is_never_applied_to_the_next() {
    let server = start(|_| {});
    server.python(
        "ftp = login()
refused('550', fetch, ftp, TAR, 10 ** 12)
assert fetch(ftp, MANIFEST).startswith(b'{')
# Nor is one that no transfer followed, once something else was sent.
ftp.sendcmd('REST 5')
ftp.nlst()
assert fetch(ftp, MANIFEST).startswith(b'{')",
    );
}

#[test]
fn a_restarted_transfer_that_the_client_breaks_off_leaves_the_session_as_it_was() {
    let server = start(|_| {});
    // Large enough not to fit into the sockets' buffers.
    fs::File::create(server.snapshot().join("sparse")).unwrap().set_len(256 << 20).unwrap();
    support::complete(&server.backups(), ID);
    server.python(
        "ftp = login()
data = ftp.transfercmd('RETR ' + TAR, 4096)
data.recv(1000)
data.close()
refused('426', ftp.voidresp)
assert fetch(ftp, MANIFEST).startswith(b'{')",
    );
}

#[test]
fn a_transfer_that_fails_on_the_disk_is_not_called_a_success() {
    let server = start(|_| {});
    fs::write(server.snapshot().join("pgdata/base/large"), "shorter").unwrap();
    server.python("refused('451', fetch, login(), TAR)");
}

#[test]
fn no_backup_leaves_in_clear_by_epsv() {
    let server = start(impatient);
    // --ftp-ssl-control alone protects the control connection and asks for PROT C.
    let url = server.url(&format!("{ID}.json"));
    for mode in [&[][..], &["--disable-epsv"]] {
        let arguments = [&["--ftp-ssl-control", "--insecure", "--max-time", "6"], mode, &[&url]].concat();
        let output = server.plain_curl(&arguments);
        assert!(!output.status.success() && output.stdout.is_empty(), "{mode:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("> PROT C"), "{}", stderr(&output));
    }
    server.python(
        "for command in ['LIST', 'MLSD', 'NLST']:
    ftp = login()
    refused('534', ftp.prot_c)
    port = int(ftp.sendcmd('EPSV').split('|')[3])
    data = socket.create_connection((HOST, port), timeout=10)
    ftp.putcmd(command)
    assert ended(ftp, 10) < 6
    data.settimeout(1)
    try:
        assert data.recv(1000) == b''
    except (ConnectionError, TimeoutError):
        pass
unprotected = connect()
unprotected.login('backup', PASSWORD)
for command in ['EPSV', 'PASV']:
    refused('521', unprotected.sendcmd, command)",
    );
}

#[test]
fn a_data_connection_without_a_handshake_ends_its_session_only() {
    let server = start(impatient);
    server.python(
        "other = login()
for first in [b'', b'x', b'GET / HTTP/1.1\\r\\n\\r\\n', b'\\x16\\x03\\x01\\x02\\x00']:
    ftp = login()
    port = int(ftp.sendcmd('EPSV').split('|')[3])
    data = socket.create_connection((HOST, port), timeout=10)
    data.sendall(first)
    ftp.putcmd('RETR ' + TAR)
    assert ended(ftp, 10) < 5, first
assert fetch(other, MANIFEST).startswith(b'{')",
    );
}

#[test]
fn a_data_connection_that_never_comes_ends_its_session() {
    let server = start(impatient);
    server.python("ftp = login()\nftp.sendcmd('EPSV')\nassert 1 < ended(ftp, 10) < 5");
}

#[test]
fn a_client_that_takes_nothing_loses_its_transfer() {
    let server = start(|config| config.limits.stall = Duration::from_secs(1));
    fs::File::create(server.snapshot().join("sparse")).unwrap().set_len(256 << 20).unwrap();
    support::complete(&server.backups(), ID);
    server.python(
        "ftp = login()
start = time.monotonic()
data = ftp.transfercmd('RETR ' + TAR)
refused('4', ftp.voidresp)
assert 1 < time.monotonic() - start < 10
assert fetch(ftp, MANIFEST).startswith(b'{')",
    );
}

#[test]
fn sessions_are_limited_and_one_too_many_ends_the_one_without_work() {
    let server = start(|config| config.limits.sessions_per_address = 2);
    server.python(
        "first, second = login(), login()
third = login()
first.sock.settimeout(10)
said = first.getmultiline()
assert said.startswith('421') and 'resume' in said, said
for ftp in [second, third]:
    assert fetch(ftp, MANIFEST).startswith(b'{')
third.quit()
fourth = login()
for ftp in [second, fourth]:
    assert fetch(ftp, MANIFEST).startswith(b'{')",
    );
}

#[test]
fn as_many_as_the_limits_allow_download_at_once_and_one_more_ends_one() {
    let server = start(|_| {});
    server.python(
        "import threading
all = [login(source=source) for source in ['127.0.0.1', '127.0.0.2'] for _ in range(4)]
got = []
threads = [threading.Thread(target=lambda ftp=ftp: got.append(fetch(ftp, TAR))) for ftp in all]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(got) == 8 and len(set(got)) == 1 and len(got[0]) > 3_000_000
def lives(ftp):
    try:
        return ftp.voidcmd('NOOP').startswith('2')
    except (ftplib.Error, OSError, EOFError):
        return False
one_more = login(source='127.0.0.3')
assert fetch(one_more, TAR) == got[0]
time.sleep(1)
assert [lives(ftp) for ftp in all].count(True) == 7",
    );
}

#[test]
fn a_slow_reader_gets_everything_and_keeps_nobody_waiting() {
    let server = start(|config| config.limits.stall = Duration::from_secs(1));
    server.python(
        "whole = fetch(login(), TAR)
slow = login()
data, got = slow.transfercmd('RETR ' + TAR), b''
while piece := data.recv(65536):
    got += piece
    time.sleep(0.05)
    if len(got) == len(piece):
        assert fetch(login(), MANIFEST).startswith(b'{')
data.close()
assert slow.voidresp().startswith('226') and got == whole",
    );
}

#[test]
fn what_is_downloaded_and_what_broke_off_is_held() {
    let server = start(|_| {});
    fs::File::create(server.snapshot().join("sparse")).unwrap().set_len(256 << 20).unwrap();
    support::complete(&server.backups(), ID);
    let held = || {
        let id = ID.parse().unwrap();
        backups::download::keep_out(&server.backups().join(support::MONITOR), &id).unwrap().is_none()
    };
    server.python("fetch(login(), MANIFEST)");
    assert!(!held(), "a manifest is no download");
    server.python("ftp = login()\nassert ftp.retrbinary('RETR ' + TAR, len).startswith('226')");
    assert!(!held(), "a download that came to its end is over");
    server.python("ftp = login()\nassert ftp.transfercmd('RETR ' + TAR).recv(1000)");
    assert!(held(), "whoever lost the connection comes back for the rest");
}

#[test]
fn all_downloads_together_keep_to_the_limit_and_the_address_behind_nat_is_named() {
    let server = start(|config| {
        let passive_address = Some(std::net::Ipv4Addr::new(192, 0, 2, 7));
        support::set(
            config,
            FtpSettings { bytes_per_second: Some(4_000_000), passive_address, ..FtpSettings::default() },
        );
    });
    // 6 MB in all, of which a quarter of a second's is free.
    server.python(
        "import threading
start = time.monotonic()
threads = [threading.Thread(target=lambda: fetch(login(), TAR)) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
took = time.monotonic() - start
assert took > 1.2, took
assert '(192,0,2,7,' in login().sendcmd('PASV')",
    );
}

#[test]
fn whoever_does_not_log_in_is_sent_away() {
    let server = start(|config| config.limits.login = Duration::from_secs(1));
    server.python(
        "assert ended(connect(), 10) < 5
half = connect()
half.voidcmd('AUTH TLS')  # and never a handshake
assert ended(half, 10) < 5
known = login()
time.sleep(2)
assert fetch(known, MANIFEST).startswith(b'{')",
    );
}

#[test]
fn a_line_without_end_is_cut_off() {
    let server = start(|_| {});
    server.python(
        "plain = connect()
sent = 0
try:
    while sent < 1 << 30:
        plain.sock.sendall(b'x' * 65536)
        sent += 65536
    raise AssertionError('all was taken')
except ConnectionError:
    print(sent)
assert fetch(login(), MANIFEST).startswith(b'{')",
    );
}

#[test]
fn a_busy_passive_port_is_passed_over() {
    // Two neighbouring ports, of which something else holds one.
    let (busy, range) = (0..100)
        .find_map(|_| {
            let busy = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = busy.local_addr().unwrap().port();
            TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
            Some((busy, port..=port + 1))
        })
        .unwrap();
    let server = start(|config| config.passive_ports = range);
    server.python("ftp = login()\nfor _ in range(12):\n    assert fetch(ftp, MANIFEST).startswith(b'{')");
    drop(busy);
}

#[test]
fn transfers_go_on_beside_each_other() {
    let server = start(|_| {});
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(server.curl(&[&server.url(&format!("{ID}.tar"))]).stdout == server.tar()));
        }
    });
}
