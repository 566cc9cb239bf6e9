//! The backup server's and our own address.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

use anyhow::{Context, Result};
use api::Host;

/// The addresses behind a host now; empty for a name that cannot be resolved.
pub fn resolve(host: &Host) -> Vec<IpAddr> {
    match host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => {
            let mut found: Vec<_> = (name.as_str(), 0)
                .to_socket_addrs()
                .map(|list| list.map(|socket| socket.ip().to_canonical()).collect())
                .unwrap_or_default();
            found.sort();
            found.dedup();
            found
        }
    }
}

/// Our address on the way to the server: what the kernel would send from. Nothing is sent.
///
/// # Errors
/// There is no way to it.
pub fn own_towards(server: IpAddr) -> Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).context("cannot open a socket")?;
    socket
        .connect((server, api::CONTROL_PORT))
        .and_then(|()| socket.local_addr())
        .map(|own| own.ip())
        .with_context(|| {
            format!("there is no route to the backup server {server}; name our address with --address")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_address_is_the_one_on_the_way() {
        assert_eq!(own_towards("127.0.0.1".parse().unwrap()).unwrap().to_string(), "127.0.0.1");
    }
}
