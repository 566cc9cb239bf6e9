//! Downloads from a real FTP server, with a network in between that breaks.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

#[path = "../../ftpd/tests/support/mod.rs"]
mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use api::{Digests, Secret};
use recovery::Failure;
use recovery::download::{Source, Tar, failure_of};
use recovery::trust::Fingerprint;
use sha2::{Digest, Sha256};
use support::{ID, MANIFEST, PASSWORD, Running, start, start_on};

/// Length of a chunk: several of them in the server's backup, the last one short.
const CHUNK: u64 = 700_000;

/// The server's key, from its certificate.
fn fingerprint(server: &Running) -> Fingerprint {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let pem = std::fs::read(server.path("certificate.pem")).unwrap();
    Fingerprint::of(&CertificateDer::from_pem_slice(&pem).unwrap()).unwrap()
}

fn source(server: &Running) -> Source {
    Source {
        host: server.address.ip().to_string(),
        port: server.address.port(),
        fingerprint: fingerprint(server),
        password: Secret::new(PASSWORD),
        patience: Duration::from_secs(20),
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tar(content: &[u8]) -> Tar {
    let chunks = content.chunks(usize::try_from(CHUNK).unwrap()).map(hex).collect();
    let digests = Digests { tar: hex(content), chunk_bytes: CHUNK, chunks };
    Tar { name: format!("{ID}.tar"), bytes: content.len() as u64, digests: Some(digests) }
}

fn all(mut reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn small_files_are_fetched_and_missing_ones_named() {
    let server = start(|_| {});
    let source = source(&server);
    source.check().unwrap();
    assert_eq!(source.fetch(&format!("{ID}.json")).unwrap(), MANIFEST.as_bytes());
    let failure = source.fetch("20200101T000000Z.json").unwrap_err();
    assert!(
        matches!(&failure, Failure::Missing { name, .. } if name == "20200101T000000Z.json"),
        "{failure}"
    );
}

/// Somebody at the same address has guessed: the right password is not called wrong, and gets in after a while.
#[test]
fn a_right_password_that_is_not_looked_at_waits_and_gets_in() {
    let server = start(|_| {});
    let good = source(&server);
    let wrong = Source { password: Secret::new("wrong"), ..good.clone() };
    for _ in 0..5 {
        assert!(matches!(wrong.check(), Err(Failure::Password { .. })));
    }
    let impatient = Source { patience: Duration::ZERO, ..good.clone() };
    let failure = impatient.check().unwrap_err();
    assert!(matches!(&failure, Failure::TooManyTries { .. }), "{failure}");
    assert!(failure.to_string().contains("try again in"), "{failure}");
    assert_eq!(failure.exit_status(), 9);
    good.check().unwrap();
}

#[test]
fn a_wrong_password_a_wrong_key_and_nobody_are_told_apart() {
    let server = start(|_| {});
    let good = source(&server);
    let wrong = Source { password: Secret::new("wrong"), ..good.clone() };
    assert!(matches!(wrong.check(), Err(Failure::Password { .. })));
    let other = start(|_| {});
    let wrong = Source { fingerprint: fingerprint(&other), ..good.clone() };
    match wrong.fetch(&format!("{ID}.json")) {
        Err(Failure::OtherKey { shown, .. }) => assert_eq!(shown, fingerprint(&server)),
        other => panic!("{other:?}"),
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Source { port, patience: Duration::ZERO, ..good };
    let failure = nobody.check().unwrap_err();
    assert!(failure.to_string().contains(&format!("127.0.0.1:{port} does not answer")), "{failure}");
}

#[test]
fn a_server_that_refuses_tls_gets_no_password() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 clear only\r\n").unwrap();
        let mut heard = Vec::new();
        let mut piece = [0; 1024];
        // Whatever comes is refused, until the client goes.
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            heard.extend_from_slice(&piece[..count]);
            if stream.write_all(b"502 not here\r\n").is_err() {
                break;
            }
        }
        String::from_utf8_lossy(&heard).into_owned()
    });
    let server = start(|_| {});
    let source = Source { port, patience: Duration::ZERO, ..source(&server) };
    assert!(matches!(source.check(), Err(Failure::Unreachable { .. })));
    let heard = heard.join().unwrap();
    assert!(heard.starts_with("AUTH TLS") && !heard.contains("USER") && !heard.contains(PASSWORD), "{heard}");
}

#[test]
fn content_comes_whole_from_any_offset() {
    let server = start(|_| {});
    let (source, content) = (source(&server), server.tar());
    let whole = tar(&content);
    let unhashed = Tar { digests: None, ..whole.clone() };
    for offset in [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 3, content.len() as u64] {
        for tar in [&whole, &unhashed] {
            let got = all(source.stream(tar.clone(), offset)).unwrap();
            assert!(got == content[usize::try_from(offset).unwrap()..], "from {offset}");
        }
    }
}

#[test]
fn a_chunk_that_is_not_the_manifests_ends_it_before_anything_of_it_is_given() {
    let server = start(|_| {});
    let content = server.tar();
    let mut wrong = tar(&content);
    wrong.digests.as_mut().unwrap().chunks[2] = hex(b"something else");
    let mut stream = source(&server).stream(wrong, 0);
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).unwrap_err();
    assert!(got == content[..usize::try_from(2 * CHUNK).unwrap()]);
    match failure_of(error) {
        Failure::Damaged { name, problem } => {
            assert_eq!(name, format!("{ID}.tar"));
            assert_eq!(problem, "bytes 1400000 to 2100000 do not have the manifest's hash");
        }
        other => panic!("{other}"),
    }
}

/// Forwards the ports of a server at another loopback address, and breaks data connections.
struct BreakingNetwork {
    breaks: Arc<AtomicUsize>,
}

impl BreakingNetwork {
    /// Each of the next `breaks` data connections breaks after `bytes` bytes.
    fn start(from: &str, to: &str, control: u16, data: u16, breaks: usize, bytes: usize) -> Self {
        let left = Arc::new(AtomicUsize::new(breaks));
        for (port, is_data) in [(control, false), (data, true)] {
            let listener = TcpListener::bind((from, port)).unwrap();
            let (to, left) = (to.to_owned(), Arc::clone(&left));
            thread::spawn(move || {
                for client in listener.incoming() {
                    let (client, server) = (client.unwrap(), TcpStream::connect((&*to, port)).unwrap());
                    let breaking = is_data
                        && left
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                            .is_ok();
                    let limit = if breaking { bytes } else { usize::MAX };
                    let (back, forth) =
                        ((server.try_clone().unwrap(), client.try_clone().unwrap()), (client, server));
                    thread::spawn(move || forward(forth.0, forth.1, usize::MAX));
                    thread::spawn(move || forward(back.0, back.1, limit));
                }
            });
        }
        Self { breaks: left }
    }
}

/// Sends on what comes, and breaks both connections after so many bytes.
fn forward(mut from: TcpStream, mut to: TcpStream, mut limit: usize) {
    let mut piece = [0; 16384];
    while limit > 0 {
        let wanted = piece.len().min(limit);
        match from.read(&mut piece[..wanted]) {
            Ok(count @ 1..) if to.write_all(&piece[..count]).is_ok() => limit -= count,
            _ => break,
        }
    }
    for stream in [from, to] {
        stream.shutdown(Shutdown::Both).ok();
    }
}

#[test]
fn a_network_that_breaks_again_and_again_loses_no_byte() {
    const PROXY: &str = "127.0.0.1";
    const SERVER: &str = "127.0.0.2";
    // A port that is free at both addresses.
    let port = || {
        let (a, b) = loop {
            let a = TcpListener::bind((PROXY, 0)).unwrap();
            if let Ok(b) = TcpListener::bind((SERVER, a.local_addr().unwrap().port())) {
                break (a, b);
            }
        };
        drop(b);
        a.local_addr().unwrap().port()
    };
    let (control, data) = (port(), port());
    let server = start_on(&format!("{SERVER}:{control}"), |config| config.passive_ports = data..=data);
    // 150 000 bytes: less than a chunk, so that chunks are put together over breaks.
    let network = BreakingNetwork::start(PROXY, SERVER, control, data, 7, 150_000);
    let source = Source { host: PROXY.into(), ..source(&server) };
    let content = server.tar();
    assert!(all(source.stream(tar(&content), 0)).unwrap() == content);
    assert_eq!(network.breaks.load(Ordering::SeqCst), 0, "all of them were met");
}
