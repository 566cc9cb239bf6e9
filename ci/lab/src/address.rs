//! A loopback address of its own for each VM.
//!
//! Linux takes all of 127.0.0.0/8 as the host itself. With an address for each VM every port keeps its number:
//! FTP's passive ports, which the server names to the client, work unchanged, any number of VMs run at once, and
//! no free port has to be guessed. The price: Linux only, which the lab is anyway.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use anyhow::{Result, bail};
use uuid::Uuid;

/// First two bytes of the addresses; any but 127.0 will do.
const NETWORK: [u8; 2] = [127, 83];
const ATTEMPTS: usize = 16;

/// Finds an address where nobody listens on any of `ports`.
pub(crate) fn free(ports: &[u16]) -> Result<Ipv4Addr> {
    let mut refused = String::new();
    for _ in 0..ATTEMPTS {
        let [third, fourth, ..] = *Uuid::new_v4().as_bytes();
        // .0 and .255 are left out: some programs take them for networks and broadcasts.
        let address = Ipv4Addr::new(NETWORK[0], NETWORK[1], third, fourth.clamp(1, 254));
        match taken(address, ports) {
            None => return Ok(address),
            Some(reason) => refused = reason,
        }
    }
    bail!(
        "no loopback address with all needed ports free; the last tried: {refused}. \
         A program that listens on all addresses (0.0.0.0) takes a port everywhere: stop it"
    )
}

/// Why the ports cannot all be had, or none when they can.
pub(crate) fn taken(address: Ipv4Addr, ports: &[u16]) -> Option<String> {
    ports.iter().find_map(|port| {
        let socket = SocketAddrV4::new(address, *port);
        TcpListener::bind(socket).err().map(|error| format!("{socket}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_port_is_free_at_another_address() {
        let first = free(&[0]).unwrap();
        let listener = TcpListener::bind((first, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(taken(first, &[port]).unwrap().contains(&format!("{first}:{port}")));
        let second = free(&[port]).unwrap();
        assert_ne!(first, second);
        assert_eq!(second.octets()[..2], NETWORK);
    }
}
