//! What the kernel tells about sockets: its list, and the event of a socket's end.

use super::{Failure, Try, call, readable, wrong};
use crate::netlink;
use crate::sock_diag::{DestroyEvents, Family, Protocol, Query, SockDiag, States};
use crate::socket;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

fn failed(error: &netlink::Error) -> Failure {
    match (error, error.errno()) {
        (netlink::Error::Call { .. }, Some(errno)) => Failure::Call { call: "netlink socket", errno: Errno::from_raw_os_error(errno) },
        (netlink::Error::Refused { .. }, Some(errno)) => Failure::Call { call: "sock_diag", errno: Errno::from_raw_os_error(errno) },
        (_, None) => Failure::Wrong(error.to_string()),
    }
}

fn listener() -> Try<OwnedFd> {
    let listener = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(call("socket"))?;
    rustix::net::bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(call("bind(127.0.0.1:0)"))?;
    rustix::net::listen(&listener, 1).map_err(call("listen"))?;
    Ok(listener)
}

/// The kernel lists our own listener, with its inode.
///
/// # Errors
/// What failed.
pub fn listing() -> Try {
    let listener = listener()?;
    let port = socket::address(&listener).map_err(call("getsockname"))?.port();
    let inode = socket::inode(&listener).map_err(call("fstat"))?;
    let query = Query::new(Family::V4, Protocol::Tcp, States::LISTEN).port(port);
    let look = || SockDiag::open()?.sockets(&query);
    let (found, _) = look().map_err(|error| failed(&error))?;
    if found.iter().any(|socket| socket.inode == inode) { Ok(()) } else { wrong("sock_diag does not show our own listener") }
}

/// `/proc/net/tcp` lists our own listener, with its inode.
///
/// # Errors
/// What failed.
pub fn listed() -> Try {
    let listener = listener()?;
    let port = socket::address(&listener).map_err(call("getsockname"))?.port();
    let inode = socket::inode(&listener).map_err(call("fstat"))?;
    let query = Query::new(Family::V4, Protocol::Tcp, States::LISTEN).port(port);
    let mut shown = false;
    crate::sock_diag::listed(&query, |socket| shown |= socket.inode == inode).map_err(|error| Failure::Wrong(error.to_string()))?;
    if shown { Ok(()) } else { wrong("/proc/net/tcp does not show our own listener") }
}

/// The kernel tells when a port is released.
///
/// # Errors
/// What failed.
pub fn release_event() -> Try {
    let mut events = DestroyEvents::subscribe(true, false).map_err(|error| failed(&error))?;
    let listener = listener()?;
    let port = socket::address(&listener).map_err(call("getsockname"))?.port();
    drop(listener);
    loop {
        // Others' sockets end too; each wait has its own end, and so many do not end one after the other for ever.
        readable(&events, "the event of a released port")?;
        let mut ours = false;
        let complete = events.drain(|socket| ours |= socket.local.port() == port).map_err(|error| failed(&error))?;
        if ours || !complete {
            return Ok(());
        }
    }
}
