//! What can be known about a port, each fact with its source. Types only; [`crate::collect`] fills them.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Serialize, Serializer};
use stayput_kernel::sock_diag::{Family, Protocol, Socket, State, Timer};

use crate::bind::{Bound, Occupancy, Transport};

/// A fact, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fact", rename_all = "lowercase")]
pub enum Fact<T> {
    /// Seen.
    Known {
        /// What was seen.
        value: T,
        /// Where.
        source: &'static str,
    },
    /// Looked for, and it is not there.
    Absent {
        /// Where it was looked for.
        source: &'static str,
    },
    /// It could not be looked at.
    Unreadable {
        /// Why, in words.
        reason: String,
        /// Where it was looked for.
        source: &'static str,
    },
}

impl<T> Fact<T> {
    /// The value, if it is known.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Known { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The reason, if it could not be read.
    pub fn unreadable(&self) -> Option<&str> {
        match self {
            Self::Unreadable { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// The two options of the bind rule, as they stand on a socket now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReuseFlags {
    /// SO_REUSEADDR.
    pub reuseaddr: bool,
    /// SO_REUSEPORT.
    pub reuseport: bool,
}

/// What a socket is to its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It accepts connections.
    Listener,
    /// Bound, not listening (TCP), or waiting for datagrams (UDP).
    Bound,
    /// A connection that came in through a listener.
    Accepted,
    /// A connection that goes out and has this port as its source: a client, not a server.
    Outgoing,
    /// A connection whose direction cannot be told.
    Connection,
    /// The kernel alone keeps it, no process has it any more.
    Kernel,
}

impl Role {
    /// Whether who has such a socket *holds* the port, so that freeing it means to stop them.
    pub fn holds(self) -> bool {
        matches!(self, Self::Listener | Self::Bound)
    }
}

/// The accept queue of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AcceptQueue {
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// The limit, from listen()'s backlog and net.core.somaxconn.
    pub limit: u32,
}

impl AcceptQueue {
    /// The kernel admits limit + 1, then drops.
    pub fn is_full(self) -> bool {
        self.waiting > self.limit
    }
}

/// A socket on the port, or `count` of them that are alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortSocket {
    /// `tcp` or `udp`.
    pub transport: Transport,
    /// State in the words of ss and netstat: `LISTEN`, `BOUND`, `ESTABLISHED`, `TIME_WAIT`; `UNCONNECTED` for UDP.
    #[serde(serialize_with = "as_text")]
    pub state: SocketState,
    /// Address and port.
    pub local: SocketAddr,
    /// The peer.
    pub remote: Option<SocketAddr>,
    /// What it is to the port.
    pub role: Role,
    /// Inode; 0 if no process has it.
    pub inode: u32,
    /// Owner's uid; unknown for TIME_WAIT.
    pub uid: Option<u32>,
    /// Owner's name, if /etc/passwd has one.
    pub user: Option<String>,
    /// IPV6_V6ONLY.
    pub v6only: Option<bool>,
    /// Interface index, if bound to one.
    pub interface: Option<NonZeroU32>,
    /// Part of an MPTCP socket.
    pub mptcp: bool,
    /// Accept queue of a listener.
    pub accept_queue: Option<AcceptQueue>,
    /// Milliseconds after which the kernel drops it by itself, at the earliest.
    #[serde(rename = "not_before_ms", serialize_with = "as_millis")]
    pub not_before: Option<Duration>,
    /// SO_REUSEADDR and SO_REUSEPORT.
    pub flags: Fact<ReuseFlags>,
    /// Path of the cgroup in which it was created.
    pub cgroup: Fact<String>,
    /// The processes that have it open.
    pub pids: Fact<Vec<i32>>,
    /// How many sockets of this kind this entry stands for (large numbers of connections are counted, not listed).
    pub count: usize,
    /// Names this socket to the kernel.
    #[serde(skip)]
    pub raw: Socket,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn as_text<S: Serializer>(state: &SocketState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

#[expect(clippy::ref_option, reason = "the signature that serde wants")]
fn as_millis<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_millis() as u64).serialize(serializer)
}

/// A state together with what it means for its transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketState {
    /// The kernel's number.
    pub state: State,
    /// UDP has other names.
    pub transport: Transport,
}

impl SocketState {
    /// In the words of ss and netstat.
    pub fn name(self) -> &'static str {
        match (self.transport, self.state) {
            (Transport::Udp, State::Close) => "UNCONNECTED",
            (_, State::Close) => "BOUND",
            (_, State::Listen) => "LISTEN",
            (_, State::Established) => "ESTABLISHED",
            (_, State::SynSent) => "SYN_SENT",
            (_, State::SynRecv | State::NewSynRecv) => "SYN_RECV",
            (_, State::FinWait1) => "FIN_WAIT1",
            (_, State::FinWait2) => "FIN_WAIT2",
            (_, State::TimeWait) => "TIME_WAIT",
            (_, State::CloseWait) => "CLOSE_WAIT",
            (_, State::LastAck) => "LAST_ACK",
            (_, State::Closing) => "CLOSING",
            (_, State::Other(_)) => "UNKNOWN",
        }
    }
}

impl PortSocket {
    /// What the kernel said, before anybody else was asked.
    pub fn new(raw: Socket) -> Self {
        let transport = if raw.protocol == Protocol::Udp { Transport::Udp } else { Transport::Tcp };
        let mini = matches!(raw.timer, Some((Timer::TimeWait, _)));
        let listens = raw.state == State::Listen;
        Self {
            transport,
            state: SocketState { state: raw.state, transport },
            local: raw.local,
            remote: (raw.remote.port() != 0).then_some(raw.remote),
            role: match raw.state {
                State::Listen => Role::Listener,
                State::Close => Role::Bound,
                _ if raw.inode == 0 && raw.state != State::Established => Role::Kernel,
                _ => Role::Connection,
            },
            inode: raw.inode,
            uid: (!mini).then_some(raw.uid),
            user: None,
            v6only: raw.v6only,
            interface: raw.interface,
            mptcp: raw.mptcp == Some(true),
            accept_queue: listens.then_some(AcceptQueue { waiting: raw.rqueue, limit: raw.wqueue }),
            not_before: raw.timer.filter(|_| mini).map(|(_, left)| left),
            flags: Fact::Absent { source: "sock_diag" },
            cgroup: Fact::Absent { source: "sock_diag" },
            pids: Fact::Absent { source: "/proc" },
            count: 1,
            raw,
        }
    }

    /// As the bind rule wants it; `None` for half-open connections, which hold no port.
    pub fn bound(&self) -> Option<Bound> {
        if self.raw.state == State::NewSynRecv {
            return None;
        }
        let flags = self.flags.value();
        Some(Bound {
            transport: self.transport,
            address: self.local.ip(),
            v6only: if self.raw.family == Family::V6 { self.v6only } else { None },
            device: self.interface,
            occupancy: match self.raw.state {
                State::Listen => Occupancy::Listen,
                _ if matches!(self.raw.timer, Some((Timer::TimeWait, _))) => Occupancy::TimeWait,
                State::TimeWait => Occupancy::TimeWait,
                _ => Occupancy::Other,
            },
            reuseaddr: flags.map(|flags| flags.reuseaddr),
            reuseport: flags.map(|flags| flags.reuseport),
            uid: self.uid,
        })
    }
}

/// A service of stayput that a process belongs to, by its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StayputService {
    /// STAYPUT_SERVICE.
    pub service: String,
    /// STAYPUT_INSTANCE, empty if not set.
    pub instance: String,
    /// STAYPUT_GENERATION, empty if not set.
    pub generation: String,
}

/// Who manages a process from outside, so that stopping it by a signal is the wrong way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Manager {
    /// A service of stayput.
    Stayput(StayputService),
    /// A systemd service.
    Systemd {
        /// Unit, such as `nginx.service`.
        unit: String,
        /// Of the user's own manager.
        user: bool,
    },
    /// systemd itself holds the socket for a `.socket` unit.
    SystemdSocket {
        /// Units whose files name the port.
        units: Vec<String>,
    },
    /// A process in a container.
    Container {
        /// `docker`, `podman`, `containerd`, `cri-o` or `lxc`.
        runtime: &'static str,
        /// Id or name.
        id: String,
    },
    /// docker-proxy, or rootlessport: the port is published by a container.
    PublishedPort {
        /// Where it forwards to, if its command line says so.
        target: Option<String>,
    },
}

/// A process, as one would point it out to a colleague.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Short name.
    pub name: String,
    /// Command line, fit for a terminal. The short name in brackets if it has none.
    pub command: String,
    /// Effective uid.
    pub uid: Option<u32>,
    /// Its name.
    pub user: Option<String>,
    /// `R`, `S`, `D`, `T` (stopped), `t`, `Z`.
    pub state: Option<char>,
    /// Seconds since 1970 at which it started.
    pub started: Option<u64>,
    /// The same for the kernel: clock ticks since boot.
    #[serde(skip)]
    pub start_ticks: Option<u64>,
    /// Working directory.
    pub cwd: Fact<String>,
    /// Parents, nearest first: (pid, name).
    pub parents: Vec<Parent>,
    /// Inode of its network namespace.
    pub net_namespace: Fact<u64>,
    /// Who manages it.
    pub manager: Option<Manager>,
    /// Set if it seems to have inherited the socket from a process that is gone, or serves nobody: the evidence.
    pub stray: Option<String>,
    /// The service of stayput that it was started as, if no process of stayput is above it any more: its instance was killed as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoned: Option<StayputService>,
}

impl Process {
    /// Stopped by SIGSTOP or a terminal: alive, answering nobody.
    pub fn is_stopped(&self) -> bool {
        self.state == Some('T')
    }
}

/// A parent process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parent {
    /// Process id.
    pub pid: i32,
    /// Short name.
    pub name: String,
}

/// How a process has a socket open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// An fd.
    Fd,
    /// An fd of a thread other than the main one.
    Thread,
    /// A registered file of an io_uring; no fd is open.
    IoUring,
    /// An fd in flight between unix sockets: this process can receive it. A candidate, no certainty.
    InFlight,
}

/// A process that has a socket of the port open.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Holder {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// How it has it.
    pub via: Via,
    /// The most important role among its sockets.
    pub role: Role,
    /// Indices into the report's sockets.
    pub sockets: Vec<usize>,
}

/// What stood in the way of a complete look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// What could not be looked at.
    pub what: String,
    /// Why, and what would help.
    pub reason: String,
}

/// A listener on the same port in another network namespace: it stands in nobody's way here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElsewhereListener {
    /// Inode of the namespace.
    pub net_namespace: u64,
    /// Where it listens, there.
    pub local: SocketAddr,
    /// A process that has it.
    pub pid: Option<i32>,
    /// Its command line.
    pub command: Option<String>,
}
