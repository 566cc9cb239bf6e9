//! Sockets as std and tokio do not make them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// A listening socket for one address family: IPv6 ones take no IPv4 clients, to whom PASV could name no address.
/// Ports of transfers that just ended (TIME_WAIT) or still run are usable.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket.into())
}

/// A connection within the machine: TCP, because libunftp takes nothing else. Both ends do not block.
pub(crate) fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (own, mut accepted) = (one.local_addr()?, listener.accept()?);
    while accepted.1 != own {
        accepted = listener.accept()?; // another process came between
    }
    let other = accepted.0;
    for end in [&one, &other] {
        end.set_nonblocking(true)?;
        end.set_nodelay(true)?;
    }
    Ok((one, other))
}
