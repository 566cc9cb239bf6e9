//! Passive ports: where clients connect for data.
//!
//! All ports of the range are tried, in turn over all sessions. A port with a transfer under way can be listened on
//! again, so ten ports do not limit the number of transfers; they only cannot *wait* for two clients at once.
//!
//! libunftp accepts one connection and no other. So it is given a socket inside the machine, with one connection in
//! its queue that is ours; what listens outside is [`crate::data`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use libunftp::options::Binder;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::data;
use crate::session::{Limits, Session};
use crate::socket;

/// Binds passive ports for one session.
#[derive(Debug)]
pub(crate) struct PassivePorts {
    /// Counts over all sessions.
    turn: Arc<AtomicUsize>,
    range: RangeInclusive<u16>,
    session: Arc<Session>,
    times: (Duration, Duration),
    offered: Option<JoinHandle<()>>,
}

impl PassivePorts {
    /// For a session; `turn` is shared by all of them.
    pub(crate) fn new(
        turn: Arc<AtomicUsize>,
        range: RangeInclusive<u16>,
        session: Arc<Session>,
        limits: &Limits,
    ) -> Self {
        Self { turn, range, session, times: (limits.stall, limits.data_connection), offered: None }
    }

    /// Listens on a free port.
    fn listen(&self) -> io::Result<TcpListener> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for port in in_turn(&self.range, first) {
            result = socket::listen(SocketAddr::new(bindable(self.session.client.reached), port));
            if result.is_ok() {
                break;
            }
        }
        let listener = result?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }
}

#[async_trait]
impl Binder for PassivePorts {
    async fn bind(&mut self, _: IpAddr, _: RangeInclusive<u16>) -> io::Result<TcpSocket> {
        // A port that was offered before and not used is not offered any more.
        if let Some(before) = self.offered.take() {
            before.abort();
        }
        let listener = self.listen().inspect_err(|error| {
            tracing::warn!("no passive port in {:?}: {error}", self.range);
        })?;
        let port = listener.local_addr()?.port();
        let inside = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        inside.set_nonblocking(true)?;
        let inner = TcpStream::connect(inside.local_addr()?).await?;
        let (found, data) = oneshot::channel();
        let (delivered, delivery) = oneshot::channel();
        self.session.data_connection_offered(port, data, delivery);
        let serve = data::serve(listener, (found, delivered), inner, Arc::clone(&self.session), self.times);
        self.offered = Some(tokio::spawn(serve));
        // It listens already, which libunftp asks for again to no effect.
        Ok(TcpSocket::from_std_stream(OwnedFd::from(inside).into()))
    }
}

/// All ports of a range, beginning with another one each turn. A range of port 0 lets the kernel choose.
fn in_turn(range: &RangeInclusive<u16>, turn: usize) -> impl Iterator<Item = u16> {
    let count = range.clone().count();
    range.clone().cycle().skip(turn.checked_rem(count).unwrap_or(0)).take(count)
}

/// Link-local addresses cannot be bound without their interface, which is not known here: listen on all instead.
fn bindable(local: IpAddr) -> IpAddr {
    match local {
        IpAddr::V6(address) if address.is_unicast_link_local() => Ipv6Addr::UNSPECIFIED.into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_tried_beginning_with_the_next() {
        let ports = |turn| in_turn(&(30_000..=30_002), turn).collect::<Vec<_>>();
        assert_eq!(ports(0), [30_000, 30_001, 30_002]);
        assert_eq!(ports(1), [30_001, 30_002, 30_000]);
        assert_eq!(ports(5), [30_002, 30_000, 30_001]);
        assert_eq!(in_turn(&(0..=0), 7).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn only_link_local_addresses_are_widened() {
        for (local, expected) in
            [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("fe80::1", "::")]
        {
            assert_eq!(bindable(local.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }
}
