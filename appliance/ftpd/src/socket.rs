//! Socket options that rustix and tokio have no function for. nix's macros wrap the system calls.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{GetStruct, SetStruct};
use nix::sys::socket::{GetSockOpt, SetSockOpt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

#[derive(Clone, Copy)]
struct DeferAccept;
nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    libc::c_int,
    SetStruct<'_, libc::c_int>
);

/// The beginning of Linux's `struct tcp_info` (include/uapi/linux/tcp.h), which only ever grows at its end.
#[repr(C)]
struct TcpInfo {
    _states: [u8; 8],
    _counters: [u32; 24],
    _pacing_rates_and_bytes_acked: [u64; 3],
    bytes_received: u64,
}

#[derive(Clone, Copy)]
struct Info;
nix::getsockopt_impl!(Info, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo, GetStruct<TcpInfo>);

/// Makes a listening socket hand over connections only once the client has sent something. For `wait` the others
/// stay in the kernel unseen.
pub(crate) fn defer_accept(socket: &impl AsFd, wait: Duration) -> io::Result<()> {
    let seconds = libc::c_int::try_from(wait.as_secs()).unwrap_or(libc::c_int::MAX);
    Ok(DeferAccept.set(socket, &seconds)?)
}

/// How many bytes a connection has received, read by us or not.
pub(crate) fn bytes_received(socket: &impl AsFd) -> io::Result<u64> {
    Ok(Info.get(socket)?.bytes_received)
}

/// A listening socket for one address family: IPv6 ones take no IPv4 clients, as libunftp cannot serve PASV to them.
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
