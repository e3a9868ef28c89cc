//! Steering in small: groups of listeners on an ephemeral loopback port, and a few connections to them.

use super::{Failure, Try, call, wrong};
use crate::reuseport::{self, Selection};
use crate::sock_diag::{Family, Protocol, Query, SockDiag, States};
use crate::socket::{self, Key};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Length of the queue that is asked for while nobody accepts.
pub const HELD_QUEUE: u32 = 4096;
/// For a connection over loopback.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections per step: the chance that the kernel's hash looks like steering is 2^-8.
const EACH: u32 = 8;

fn listener(address: SocketAddr) -> Try<OwnedFd> {
    let socket = socket::bound(&Key::new(address, false), true).map_err(call("bind with SO_REUSEPORT"))?;
    rustix::net::listen(&socket, 64).map_err(call("listen"))?;
    Ok(socket)
}

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn address(socket: &OwnedFd) -> Try<SocketAddr> {
    socket::address(socket).map_err(call("getsockname"))
}

fn queue(listener: &OwnedFd) -> Try<u32> {
    socket::accept_queue(listener).map_err(call("getsockopt(TCP_INFO)"))
}

fn connect(count: u32, to: SocketAddr) -> Try<Vec<TcpStream>> {
    let connect = |_| TcpStream::connect_timeout(&to, PATIENCE);
    (0..count).map(connect).collect::<Result<_, _>>().map_err(|error| Failure::Wrong(format!("connect over loopback: {error}")))
}

/// An anchor that is never selected but carries the program, and two members.
struct Group {
    anchor: OwnedFd,
    address: SocketAddr,
}

impl Group {
    fn found() -> Try<Self> {
        let anchor = socket::bound(&Key::new(anywhere(), false), true).map_err(call("bind with SO_REUSEPORT"))?;
        let group = Self { address: address(&anchor)?, anchor };
        group.select(1)?;
        rustix::net::listen(&group.anchor, 1).map_err(call("listen"))?;
        Ok(group)
    }

    fn select(&self, index: u32) -> Try {
        let selection = Selection { route: None, share: None, targets: vec![index] };
        reuseport::select(&self.anchor, &selection).map_err(call("setsockopt(SO_ATTACH_REUSEPORT_CBPF)"))
    }
}

/// Two members of a group get exactly the connections that the program says, before and after it is replaced.
///
/// # Errors
/// What failed, or how the connections were spread.
pub fn steering() -> Try {
    let group = Group::found()?;
    let (old, new) = (listener(group.address)?, listener(group.address)?);
    let first = connect(EACH, group.address)?;
    let before = (queue(&old)?, queue(&new)?);
    group.select(2)?;
    let second = connect(EACH, group.address)?;
    let after = (queue(&old)?, queue(&new)?);
    drop((first, second));
    if (before, after) == ((EACH, 0), (EACH, EACH)) {
        return Ok(());
    }
    wrong(format!(
        "{EACH} connections for the first of two went {}/{}, then {EACH} for the second: {}/{}",
        before.0, before.1, after.0, after.1
    ))
}

/// A listener with a filter gets no connection but the one from a chosen source port.
///
/// # Errors
/// What failed, or how many came through.
pub fn muting() -> Try {
    let listener = listener(anywhere())?;
    let to = address(&listener)?;
    let probe = source(SocketFlags::CLOEXEC)?;
    reuseport::mute(&listener, Some(address(&probe)?.port())).map_err(call("setsockopt(SO_ATTACH_FILTER)"))?;
    let refused = source(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match rustix::net::connect(&refused, &to) {
        Err(Errno::INPROGRESS) => {}
        other => return wrong(format!("a connection to a muted listener: {other:?}")),
    }
    // Over loopback the earlier request is dealt with before the later one.
    rustix::net::connect(&probe, &to).map_err(call("connect over loopback"))?;
    match queue(&listener)? {
        1 => Ok(()),
        many => wrong(format!("of two connections, one of them muted, {many} came through")),
    }
}

fn source(flags: SocketFlags) -> Try<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).map_err(call("socket"))?;
    rustix::net::bind(&socket, &anywhere()).map_err(call("bind(127.0.0.1:0)"))?;
    Ok(socket)
}

/// Whether connections that wait on a listener go to another member of its group when it is closed (`net.ipv4.tcp_migrate_req`).
///
/// # Errors
/// What failed.
pub fn migrating() -> Try<bool> {
    let one = listener(anywhere())?;
    let two = listener(address(&one)?)?;
    let client = connect(1, address(&one)?)?;
    let (closed, stays) = if queue(&one)? == 1 { (one, two) } else { (two, one) };
    drop(closed);
    let moved = queue(&stays)? == 1;
    drop(client);
    Ok(moved)
}

/// How an MPTCP listener, as Go opens by default, gets along with steering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mptcp {
    /// This kernel has none: programs that ask for it fall back to TCP.
    Absent(Errno),
    /// It was steered, or not.
    Present(Try),
}

/// Tries whether MPTCP members of a group are steered by a plain anchor's program.
pub fn mptcp() -> Mptcp {
    let protocol = NonZeroU32::new(262).map(rustix::net::Protocol::from_raw);
    let socket =
        || rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol);
    match socket() {
        Err(errno) => Mptcp::Absent(errno),
        Ok(_) => Mptcp::Present(steer_mptcp(socket)),
    }
}

fn steer_mptcp(socket: impl Fn() -> Result<OwnedFd, Errno>) -> Try {
    let group = Group::found()?;
    let member = || {
        let member = socket().map_err(call("socket(IPPROTO_MPTCP)"))?;
        socket::set_reuse(&member, true).map_err(call("setsockopt(SO_REUSEPORT) on MPTCP"))?;
        rustix::net::bind(&member, &group.address).map_err(call("bind of MPTCP"))?;
        rustix::net::listen(&member, 64).map_err(call("listen of MPTCP"))?;
        Ok(member)
    };
    let (old, new) = (member()?, member()?);
    group.select(2)?;
    let clients = connect(EACH, group.address)?;
    let accepted = |listener: &OwnedFd| std::iter::from_fn(|| rustix::net::accept(listener).ok()).count();
    let spread = (accepted(&old), accepted(&new));
    drop(clients);
    if spread == (0, EACH as usize) {
        Ok(())
    } else {
        wrong(format!("{EACH} connections for the second of two went {}/{}", spread.0, spread.1))
    }
}

/// How long the queue really is when [`HELD_QUEUE`] is asked for: the kernel cuts it to `net.core.somaxconn`.
///
/// # Errors
/// What failed.
pub fn held_queue() -> Try<u32> {
    let listener = socket::bound(&Key::new(anywhere(), false), false).map_err(call("bind(127.0.0.1:0)"))?;
    rustix::net::listen(&listener, HELD_QUEUE as i32).map_err(call("listen"))?;
    let inode = socket::inode(&listener).map_err(call("fstat"))?;
    let query = Query::new(Family::V4, Protocol::Tcp, States::LISTEN).port(address(&listener)?.port());
    let look = || SockDiag::open()?.sockets(&query);
    let (found, _) = look().map_err(|error| Failure::Wrong(error.to_string()))?;
    match found.iter().find(|socket| socket.inode == inode) {
        Some(socket) => Ok(socket.wqueue),
        None => wrong("sock_diag does not show our own listener"),
    }
}
