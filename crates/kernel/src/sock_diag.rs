//! The kernel's own list of sockets, over netlink: sock_diag(7) for TCP, UDP and MPTCP.
//!
//! Owns: asking for sockets by state and source port, the events of sockets that cease to exist, and SOCK_DESTROY.
//! Refuses: saying who has a socket open (the kernel does not tell; see [`crate::procfs`]) and judging what a bind would do.
//!
//! Everything but [`SockDiag::destroy`] works without privilege. All of it sees the network namespace in which the
//! netlink socket was opened.
//!
//! # Examples
//! ```
//! use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, States};
//! let mut diag = SockDiag::open()?;
//! let query = Query::new(Family::V4, Protocol::Tcp, States::LISTEN | States::BOUND_ONLY).port(5000);
//! let (sockets, _complete) = diag.sockets(&query)?;
//! for socket in sockets {
//!     println!("{:?} {} inode {}", socket.state, socket.local, socket.inode);
//! }
//! # Ok::<(), stayput_kernel::netlink::Error>(())
//! ```

mod listed;
mod parse;
mod unix;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::{BitOr, RangeInclusive};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::netlink::{Dump, Error, Netlink, push_attribute};

pub(crate) use listed::each as listed;
pub(crate) use parse::encode_exact;
pub use parse::parse_inet;
pub use unix::{UnixSocket, parse_unix};

/// `SOCK_DIAG_BY_FAMILY`: the type of requests and of replies.
const BY_FAMILY: u16 = 20;
/// `TCPDIAG_GETSOCK` (linux/inet_diag.h): the request from before `SOCK_DIAG_BY_FAMILY`, and the only one that dumps the TCP
/// sockets of both families in one walk (`inet_diag_dump_compat` in net/ipv4/inet_diag.c). Replies have this type, too.
const TCP_OF_ANY_FAMILY: u16 = 18;
/// `SOCK_DESTROY` (linux/sock_diag.h).
const DESTROY: u16 = 21;
/// `INET_DIAG_REQ_BYTECODE`.
const REQ_BYTECODE: u16 = 1;
/// `INET_DIAG_REQ_PROTOCOL`: a protocol number that does not fit the request's u8.
const REQ_PROTOCOL: u16 = 3;

/// Address family of a socket. An IPv6 socket with an IPv4-mapped address is [`Family::V6`], as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl Family {
    /// Both, in the order in which people expect them.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `IPPROTO_TCP`; also shows the TCP socket inside every MPTCP socket, with the inode of the latter.
    Tcp,
    /// `IPPROTO_UDP`.
    Udp,
    /// `IPPROTO_MPTCP` (262): the outer sockets alone. Kernels without `mptcp_diag` answer ENOENT.
    Mptcp,
}

impl Protocol {
    const fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Mptcp => 262,
        }
    }
}

/// State of a socket (include/net/tcp_states.h). UDP knows only `Established` (connected) and `Close` (not connected).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Connected.
    Established,
    /// connect() is under way.
    SynSent,
    /// A request to connect that is being answered.
    SynRecv,
    /// We closed first; our FIN is not acknowledged.
    FinWait1,
    /// We closed first; waiting for the peer's FIN. An orphan of it lives in the kernel alone (inode 0).
    FinWait2,
    /// Closed by us first; the kernel keeps the address for 60 s.
    TimeWait,
    /// TCP: bound and not listening. UDP: not connected.
    Close,
    /// The peer closed; we have not.
    CloseWait,
    /// Both closed; our FIN is not acknowledged.
    LastAck,
    /// Accepts connections.
    Listen,
    /// Both closed at once.
    Closing,
    /// `TCP_NEW_SYN_RECV`: a half-open connection in a listener's queue.
    NewSynRecv,
    /// A number that this version does not know.
    Other(u8),
}

/// A set of states, as the kernel's bit mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// Nothing but listeners.
    pub const LISTEN: Self = Self(1 << 10);
    /// TCP sockets that are bound and not listening: pseudo-state `TCP_BOUND_INACTIVE`, Linux 6.8 and later.
    /// They come back as [`State::Close`]; older kernels ignore the bit.
    pub const BOUND_ONLY: Self = Self(1 << 13);
    /// UDP sockets that are not connected.
    pub const UNCONNECTED: Self = Self(1 << 7);
    /// Connected.
    pub const ESTABLISHED: Self = Self(1 << 1);
    /// The peer closed; the process has not.
    pub const CLOSE_WAIT: Self = Self(1 << 8);
    /// The handshake is under way (`TCP_SYN_RECV`; the kernel adds `TCP_NEW_SYN_RECV` by itself).
    pub const HALF_OPEN: Self = Self(1 << 3);
    /// Orphans and the closed: sockets that may have no process any more.
    pub const CLOSING: Self = Self(1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11);
    /// Everything but listeners and bound-only sockets.
    pub const CONNECTIONS: Self = Self(0x1fff & !(1 << 10) & !(1 << 7) & !1);
    /// Every state, [`States::BOUND_ONLY`] included.
    pub const ALL: Self = Self(0x3fff);

    /// The mask that goes into `idiag_states`.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for States {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The timer of a socket that will change its state by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Retransmission.
    Retransmit,
    /// Keep-alive.
    KeepAlive,
    /// TIME_WAIT, or an orphan of FIN_WAIT2: after it the socket is gone. A lower bound (up to some 2 s more, measured).
    TimeWait,
    /// Zero-window probe.
    Probe,
    /// A number that this version does not know.
    Other(u8),
}

/// What `INET_DIAG_INFO` says of a TCP connection (`struct tcp_info`, linux/tcp.h); ages count back from the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Milliseconds since we sent data. Starts with the connection, so it is never absent.
    pub last_data_sent_ms: u32,
    /// Milliseconds since data arrived.
    pub last_data_recv_ms: u32,
    /// Milliseconds since an ACK arrived.
    pub last_ack_recv_ms: u32,
    /// Packets sent and not acknowledged; on a listener the accept queue.
    pub unacked: u32,
    /// Packets retransmitted, ever.
    pub total_retrans: u32,
    /// Smoothed round trip in microseconds.
    pub rtt_us: u32,
    /// Bytes sent and acknowledged; `None` before Linux 4.1.
    pub bytes_acked: Option<u64>,
    /// Bytes received; `None` before Linux 4.1.
    pub bytes_received: Option<u64>,
    /// Bytes in the send queue that were never sent; `None` before Linux 4.6.
    pub notsent_bytes: Option<u32>,
}

/// One socket. Fields that are `Option` are `None` where the kernel did not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Address family.
    pub family: Family,
    /// Protocol asked for, or in an event the one it names.
    pub protocol: Protocol,
    /// State.
    pub state: State,
    /// Address it is bound to.
    pub local: SocketAddr,
    /// Address of the peer; unspecified with port 0 if there is none.
    pub remote: SocketAddr,
    /// Inode in sockfs, as in `/proc/PID/fd`: `socket:[N]`. 0: no process has it (TIME_WAIT, orphans, half-open and
    /// not yet accepted connections).
    pub inode: u32,
    /// Owner (fsuid of who created it, or later fchown); 0 and meaningless for [`State::TimeWait`].
    pub uid: u32,
    /// LISTEN: connections in the accept queue. Else bytes received and not read.
    pub rqueue: u32,
    /// LISTEN: limit of the accept queue. Else bytes not yet acknowledged.
    pub wqueue: u32,
    /// The running timer and what remains of it.
    pub timer: Option<(Timer, Duration)>,
    /// Index of the interface of SO_BINDTODEVICE, or the scope of a link-local address.
    pub interface: Option<NonZeroU32>,
    /// Socket cookie (SO_COOKIE): tells a socket from its successor on the same address.
    pub cookie: u64,
    /// Id of the cgroup v2 directory (its inode) in which it was created; kept when the process moves.
    pub cgroup_id: Option<u64>,
    /// SO_MARK; the kernel says it to CAP_NET_ADMIN alone.
    pub mark: Option<u32>,
    /// IPV6_V6ONLY (`INET_DIAG_SKV6ONLY`); IPv6 sockets only.
    pub v6only: Option<bool>,
    /// Bits 1 (reading) and 2 (writing) of shutdown(2).
    pub shutdown: Option<u8>,
    /// Whether it is the TCP socket inside an MPTCP socket (`INET_DIAG_ULP_INFO`, which comes with `INET_DIAG_INFO` alone).
    pub mptcp: Option<bool>,
    /// `INET_DIAG_INFO`, if asked for.
    pub tcp_info: Option<TcpInfo>,
}

impl Socket {
    /// TCP: holds its port without listening (bind() and nothing after it).
    pub fn is_bound_only(&self) -> bool {
        self.protocol != Protocol::Udp && self.state == State::Close
    }

    /// No process has it: the kernel keeps it alone.
    pub fn is_ownerless(&self) -> bool {
        self.inode == 0
    }
}

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Query {
    /// `None`: both.
    family: Option<Family>,
    protocol: Protocol,
    states: States,
    ports: Option<RangeInclusive<u16>>,
    tcp_info: bool,
}

impl Query {
    /// Sockets of one family and protocol in any of `states`.
    pub fn new(family: Family, protocol: Protocol, states: States) -> Self {
        Self { family: Some(family), protocol, states, ports: None, tcp_info: false }
    }

    /// TCP sockets of both families in any of `states`: the kernel walks its tables once instead of twice. On a machine
    /// without IPv6 the answer has IPv4's alone.
    pub fn tcp(states: States) -> Self {
        Self { family: None, protocol: Protocol::Tcp, states, ports: None, tcp_info: false }
    }

    /// The protocol that is asked for.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Only those whose local port is `port`; the kernel filters.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.ports(port..=port)
    }

    /// Only those whose local port is in `ports`; the kernel filters.
    #[must_use]
    pub fn ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Also `struct tcp_info`: larger replies.
    #[must_use]
    pub fn with_tcp_info(mut self) -> Self {
        self.tcp_info = true;
        self
    }

    /// Whether a socket of the family that is asked for matches; the kernel does that itself with [`SockDiag::each`].
    fn wants(&self, socket: &Socket) -> bool {
        let number = u32::from(parse::state_number(socket.state)).min(31);
        self.states.bits() >> number & 1 == 1 && self.ports.as_ref().is_none_or(|ports| ports.contains(&socket.local.port()))
    }

    /// Type of the request, and its payload: `struct inet_diag_req_v2`, or `struct inet_diag_req` for both families; then the
    /// attributes.
    fn encode(&self) -> (u16, Vec<u8>) {
        // INET_DIAG_SHUTDOWN (8) and, for tcp_info, INET_DIAG_INFO (2): bit n-1. The rest comes unasked.
        let extensions = 1 << 7 | u8::from(self.tcp_info) << 1;
        let mut out = Vec::with_capacity(96);
        let small = u8::try_from(self.protocol.number());
        let (kind, source_port) = if let Some(family) = self.family {
            out.extend_from_slice(&[family_number(family), small.unwrap_or(u8::MAX), extensions, 0]);
            out.extend_from_slice(&self.states.bits().to_ne_bytes());
            out.resize(REQUEST, 0);
            (BY_FAMILY, 8)
        } else {
            out.extend_from_slice(&[0, 0, 0, extensions]);
            out.resize(4 + SOCKET_ID, 0);
            out.extend_from_slice(&self.states.bits().to_ne_bytes());
            // idiag_dbs, which nobody reads.
            out.extend_from_slice(&[0; 4]);
            (TCP_OF_ANY_FAMILY, 4)
        };
        if let Some(ports) = &self.ports {
            if ports.start() == ports.end() {
                // idiag_sport: the listening and the bound tables are walked by it before the bytecode runs.
                out[source_port..source_port + 2].copy_from_slice(&ports.start().to_be_bytes());
            }
            push_attribute(&mut out, REQ_BYTECODE, &port_filter(ports));
        }
        if small.is_err() {
            push_attribute(&mut out, REQ_PROTOCOL, &self.protocol.number().to_ne_bytes());
        }
        (kind, out)
    }
}

/// Length of `struct inet_diag_sockid`.
const SOCKET_ID: usize = 48;
/// Length of `struct inet_diag_req_v2`.
pub(crate) const REQUEST: usize = 56;

const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// `struct inet_diag_bc_op` program: accept local ports in `ports`. Jumps are relative; past the end by 4 = reject.
fn port_filter(ports: &RangeInclusive<u16>) -> Vec<u8> {
    const NOP: u8 = 0;
    const SOURCE_GE: u8 = 2;
    const SOURCE_LE: u8 = 3;
    const SOURCE_EQ: u8 = 11;
    let mut out = Vec::with_capacity(16);
    let mut op = |code: u8, yes: u8, no: u16| {
        out.extend_from_slice(&[code, yes]);
        out.extend_from_slice(&no.to_ne_bytes());
    };
    if ports.start() == ports.end() {
        op(SOURCE_EQ, 8, 12);
        op(NOP, 0, *ports.start());
    } else {
        op(SOURCE_GE, 8, 20);
        op(NOP, 0, *ports.start());
        op(SOURCE_LE, 8, 12);
        op(NOP, 0, *ports.end());
    }
    out
}

/// A netlink socket to ask with.
#[derive(Debug)]
pub struct SockDiag {
    netlink: Option<Netlink>,
    /// What the kernel refuses is read from `/proc/net/tcp`.
    or_listed: bool,
}

impl SockDiag {
    /// Opens it in the caller's network namespace.
    ///
    /// # Errors
    /// No netlink here (gVisor, a seccomp sandbox), or out of fds.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { netlink: Some(Netlink::open(0)?), or_listed: false })
    }

    /// Opens it or, where it is refused, reads `/proc/net/tcp` and `/proc/net/tcp6` instead: TCP alone, without [`Socket::tcp_info`] and the rest of
    /// what is optional in a [`Socket`], and never [`States::BOUND_ONLY`].
    pub fn open_or_listed() -> Self {
        Self { netlink: Netlink::open(0).ok(), or_listed: true }
    }

    /// Where the answers come from: `sock_diag`, or the list.
    pub fn source(&self) -> &'static str {
        if self.netlink.is_some() { "sock_diag" } else { "/proc/net/tcp" }
    }

    fn netlink(&mut self) -> Result<&mut Netlink, Error> {
        self.netlink.as_mut().ok_or(Error::Call { call: "socket", source: std::io::ErrorKind::Unsupported.into() })
    }

    /// Hands every socket that matches to `on`, as the kernel sends them.
    ///
    /// # Errors
    /// The call failed, or the kernel lacks this family or protocol (ENOENT, EINVAL).
    pub fn each(&mut self, query: &Query, mut on: impl FnMut(Socket)) -> Result<Dump, Error> {
        let Some(netlink) = &mut self.netlink else { return listed::each(query, on) };
        let (kind, payload) = query.encode();
        let asked = netlink.dump("list sockets", kind, &payload, |message| {
            if let Some(mut socket) = parse_inet(message.payload) {
                socket.protocol = query.protocol;
                on(socket);
            }
        });
        match asked {
            // A kernel without inet_diag says so at the beginning: nothing was handed over yet.
            Err(error) if self.or_listed && matches!(error.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPERM | libc::EACCES)) => {
                self.netlink = None;
                listed::each(query, on)
            }
            other => other,
        }
    }

    /// All sockets that match.
    ///
    /// # Errors
    /// As [`SockDiag::each`].
    pub fn sockets(&mut self, query: &Query) -> Result<(Vec<Socket>, Dump), Error> {
        let mut sockets = Vec::new();
        let state = self.each(query, |socket| sockets.push(socket))?;
        Ok((sockets, state))
    }

    /// All unix sockets in any of `states` ([`States::LISTEN`] for servers; [`State::Close`] is a bound datagram socket).
    ///
    /// # Errors
    /// The call failed, or the kernel lacks `unix_diag`.
    pub fn unix_sockets(&mut self, states: States) -> Result<Vec<UnixSocket>, Error> {
        let mut sockets = Vec::new();
        self.netlink()?.dump("list unix sockets", BY_FAMILY, &unix::encode(states), |message| {
            sockets.extend(parse_unix(message.payload));
        })?;
        Ok(sockets)
    }

    /// Ends one socket in the kernel (SOCK_DESTROY): frees the address of TIME_WAIT, FIN_WAIT and other connections at once.
    ///
    /// Matches by address **and** cookie, so a successor is never hit. On a listener it breaks accept() without freeing the
    /// port, on a bound-only socket it does nothing (both measured on 6.18): callers must not ask for those.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN; ENOENT if the socket is gone; EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY.
    pub fn destroy(&mut self, socket: &Socket) -> Result<(), Error> {
        self.netlink()?.request("destroy the socket", DESTROY, &encode_exact(socket))
    }
}

/// A subscription to the end of sockets (multicast groups `SKNLGRP_INET*_DESTROY`); needs no privilege.
///
/// An event is sent after the kernel gave the port back, and for a socket that several processes share only when the last
/// copy is closed. The end of TIME_WAIT and of orphans sends none.
#[derive(Debug)]
pub struct DestroyEvents {
    netlink: Netlink,
}

impl AsFd for DestroyEvents {
    /// Readable when an event waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

impl DestroyEvents {
    /// Subscribes to the end of TCP (`tcp`) and UDP (`udp`) sockets of both families.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn subscribe(tcp: bool, udp: bool) -> Result<Self, Error> {
        // Groups: 1 TCP/IPv4, 2 UDP/IPv4, 3 TCP/IPv6, 4 UDP/IPv6.
        let groups = (u32::from(tcp) * 0b0101) | (u32::from(udp) * 0b1010);
        Ok(Self { netlink: Netlink::open(groups)? })
    }

    /// Hands all events that wait to `on` without blocking; returns false if events were lost (ENOBUFS), so that the caller
    /// looks at the tables again.
    ///
    /// # Errors
    /// recv(2) failed otherwise.
    pub fn drain(&mut self, mut on: impl FnMut(Socket)) -> Result<bool, Error> {
        let mut complete = true;
        loop {
            match self.netlink.poll_events(|message| {
                if message.kind == BY_FAMILY {
                    parse_inet(message.payload).into_iter().for_each(&mut on);
                }
            }) {
                Ok(true) => {}
                Ok(false) => return Ok(complete),
                Err(error) if error.errno() == Some(libc::ENOBUFS) => complete = false,
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
