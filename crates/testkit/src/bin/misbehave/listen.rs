//! The sockets of the misbehaving servers.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sockopt};

use crate::Where;

/// As a plain Rust server does it: SO_REUSEADDR, bind, listen(-1).
pub(crate) fn tcp(place: &Where) -> io::Result<TcpListener> {
    TcpListener::bind((place.host, place.port))
}

/// With SO_REUSEPORT, as workers that each bind for themselves do it.
pub(crate) fn reuse_port(place: &Where) -> io::Result<TcpListener> {
    open(place, None, true)
}

/// IPPROTO_MPTCP: a program attached to such a socket fails, see socket(7) SO_ATTACH_REUSEPORT_CBPF and the kernel's mptcp_setsockopt().
pub(crate) fn mptcp(place: &Where) -> io::Result<TcpListener> {
    open(place, Some(ipproto::MPTCP), false)
}

fn open(place: &Where, protocol: Option<Protocol>, reuse_port: bool) -> io::Result<TcpListener> {
    let address = SocketAddr::new(place.host, place.port);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 128)?;
    Ok(TcpListener::from(socket))
}
