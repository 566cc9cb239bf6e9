//! `scan tcp|udp ADDRESS`: tries all ports of another machine and prints those that say anything: `PORT open`, or `PORT closed`
//! where a refusal came back. What is silent is not printed. Runs on a test machine beside the one that is scanned.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// So many at once: each takes a descriptor, and a place in the other's table of connections while it waits.
const AT_ONCE: usize = 2000;
/// How long an answer is waited for: on a cable between two emulated machines.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a port said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Open,
    Closed,
    Silent,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, address] = arguments.as_slice() else { bail!("usage: scan tcp|udp ADDRESS") };
    let address: IpAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    let is_tcp = match protocol.as_str() {
        "tcp" => true,
        "udp" => false,
        other => bail!("{other:?} is neither tcp nor udp"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    for (port, answer) in runtime.block_on(scan(address, is_tcp))? {
        println!("{port} {}", if answer == Answer::Open { "open" } else { "closed" });
    }
    Ok(())
}

async fn scan(address: IpAddr, is_tcp: bool) -> Result<Vec<(u16, Answer)>> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for port in 1..=u16::MAX {
        let place = Arc::clone(&places).acquire_owned().await.context("no place")?;
        let to = SocketAddr::new(address, port);
        tasks.spawn(async move {
            let answer = if is_tcp { connect(to).await } else { send(to).await };
            drop(place);
            answer.map(|answer| (port, answer)).with_context(|| to.to_string())
        });
    }
    let mut found = Vec::new();
    for result in tasks.join_all().await {
        found.extend(Some(result?).filter(|(_, answer)| *answer != Answer::Silent));
    }
    found.sort_unstable_by_key(|(port, _)| *port);
    Ok(found)
}

async fn connect(to: SocketAddr) -> Result<Answer> {
    match timeout(PATIENCE, TcpStream::connect(to)).await {
        Err(_) => Ok(Answer::Silent),
        Ok(Ok(_)) => Ok(Answer::Open),
        Ok(Err(error)) => refused(&error),
    }
}

async fn send(to: SocketAddr) -> Result<Answer> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = UdpSocket::bind(any).await.context("no socket")?;
    socket.connect(to).await.context("no way")?;
    socket.send(b"?").await.context("cannot send")?;
    match timeout(PATIENCE, socket.recv(&mut [0; 64])).await {
        Err(_) => Ok(Answer::Silent),
        Ok(Ok(_)) => Ok(Answer::Open),
        Ok(Err(error)) => refused(&error),
    }
}

/// Whether an error is the other side's answer, and none of this machine's.
fn refused(error: &std::io::Error) -> Result<Answer> {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Ok(Answer::Closed),
        std::io::ErrorKind::TimedOut => Ok(Answer::Silent),
        _ => bail!("{error}"),
    }
}
