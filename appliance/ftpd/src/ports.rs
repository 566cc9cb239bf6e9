//! Passive ports: where clients connect for data.
//!
//! All ports of the range are tried, in turn over all sessions. A port with a transfer under way can be listened on
//! again, so ten ports do not limit the number of transfers; they only cannot *wait* for two clients at once.
//!
//! While TLS is required, the kernel hands over only connections on which the client has sent something
//! (`TCP_DEFER_ACCEPT`). A TLS client speaks first. A clear-text FTP client that downloads never does, so no backup
//! leaves in clear although libunftp checks the protection level for PASV only, not for EPSV. (A client that
//! logged in and sends a byte to get around this has decided to; the rule protects those who misconfigured theirs.)

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use libunftp::options::Binder;
use rustix::net::sockopt;
use tokio::net::TcpSocket;

use crate::session::Session;
use crate::socket;

/// How long the kernel keeps a silent data connection to itself. Must exceed libunftp's wait for one, 15 s: after
/// this time the kernel would hand it over all the same.
const SILENT: Duration = Duration::from_secs(60);

/// Binds passive ports for one session.
#[derive(Debug)]
pub struct PassivePorts {
    /// Counts over all sessions.
    turn: Arc<AtomicUsize>,
    session: Arc<Session>,
    allow_clear: bool,
}

impl PassivePorts {
    /// For a session; `turn` is shared by all of them.
    pub fn new(turn: Arc<AtomicUsize>, session: Arc<Session>, allow_clear: bool) -> Self {
        Self { turn, session, allow_clear }
    }

    fn prepare(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        // Ports of transfers that just ended (TIME_WAIT) or still run must be usable.
        socket.set_reuseaddr(true)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if !self.allow_clear {
            socket::defer_accept(&socket, SILENT)?;
        }
        socket.bind(address)?;
        Ok(socket)
    }
}

#[async_trait]
impl Binder for PassivePorts {
    async fn bind(&mut self, local: IpAddr, range: RangeInclusive<u16>) -> io::Result<TcpSocket> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for port in in_turn(&range, first) {
            result = self.prepare(SocketAddr::new(bindable(local), port));
            if result.is_ok() {
                self.session.data_connection_offered();
                break;
            }
        }
        result.inspect_err(|error| tracing::warn!("no passive port in {range:?}: {error}"))
    }
}

/// All ports of a range, beginning with another one each turn. A range of port 0 lets the kernel choose.
fn in_turn(range: &RangeInclusive<u16>, turn: usize) -> impl Iterator<Item = u16> {
    let count = range.clone().count();
    range.clone().cycle().skip(turn.checked_rem(count).unwrap_or(0)).take(count)
}

/// Link-local addresses cannot be bound without their interface, which libunftp drops: listen on all instead.
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
