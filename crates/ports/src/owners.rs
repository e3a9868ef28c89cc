//! Completing what sock_diag says of a socket: who has it, its options, its cgroup, the direction of a connection.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use stayput_kernel::bind_probe::{self, Answer, Attempt, Outcome};
use stayput_kernel::procfs::Proc;
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, State, States};

use crate::bind::{Server, Transport};
use crate::cgroup;
use crate::explain::Ranges;
use crate::facts::{Fact, PortSocket, ReuseFlags, Role};
use crate::process::Describer;
use crate::scan::{self, Hit, Scan};

/// How many sockets of a port have their options read; the rest stay unknown, and a probe decides.
const MOST_READ: usize = 512;

/// Fills in owners, users, cgroups and options.
pub(crate) fn fill(sockets: &mut [PortSocket], scan: &Scan, describer: &Describer<'_>, proc: &Proc) {
    let mount = cgroup::mount_point(proc);
    let mut paths: HashMap<u64, Option<String>> = HashMap::new();
    for (count, socket) in sockets.iter_mut().enumerate() {
        socket.user = socket.uid.and_then(|uid| describer.user(uid));
        socket.pids = pids(socket, scan);
        if let (Some(id), Some(mount)) = (socket.raw.cgroup_id, &mount) {
            let path = paths.entry(id).or_insert_with(|| cgroup::path_of(mount, id)).clone();
            socket.cgroup = path.map_or(
                Fact::Unreadable {
                    reason: format!("no directory has the id {id}: removed, or outside of this cgroup namespace"),
                    source: "sock_diag",
                },
                |value| Fact::Known { value, source: "sock_diag" },
            );
        }
        socket.flags = if count < MOST_READ {
            flags(socket, scan, proc)
        } else {
            Fact::Unreadable { reason: "too many sockets on this port".to_owned(), source: "getsockopt" }
        };
    }
}

fn pids(socket: &PortSocket, scan: &Scan) -> Fact<Vec<i32>> {
    let source = "/proc/PID/fd";
    let mut value: Vec<i32> = scan.of(socket.inode).iter().map(|hit| hit.pid).collect();
    value.dedup();
    if !value.is_empty() && socket.inode != 0 {
        return Fact::Known { value, source };
    }
    if socket.inode != 0 && !scan.denied.is_empty() {
        let reason = format!("the open files of {} processes of other users cannot be read; root can", scan.denied.len());
        return Fact::Unreadable { reason, source };
    }
    Fact::Absent { source }
}

/// SO_REUSEADDR and SO_REUSEPORT through a duplicate of the owner's fd.
fn flags(socket: &PortSocket, scan: &Scan, proc: &Proc) -> Fact<ReuseFlags> {
    let source = "pidfd_getfd + getsockopt";
    if socket.inode == 0 {
        let reason = "no process has the socket; only a bind can tell".to_owned();
        return Fact::Unreadable { reason, source };
    }
    let mut last = None;
    for hit in scan.of(socket.inode).iter().filter(|hit| hit.fd >= 0) {
        // Looked at once more, so that a stranger that got the number meanwhile is not duplicated, not even for a moment.
        if !scan::names(proc, *hit) {
            continue;
        }
        match read_flags(*hit, socket.raw.cookie) {
            Ok(Some(value)) => return Fact::Known { value, source },
            // Another socket sits on that fd by now.
            Ok(None) => {}
            Err(errno) => last = Some(errno),
        }
    }
    let reason = match last {
        Some(Errno::PERM) => "the owner may not be looked into; root may".to_owned(),
        Some(errno) => format!("the owner's fd: {}", std::io::Error::from(errno)),
        None => "no process was found that has the socket".to_owned(),
    };
    Fact::Unreadable { reason, source }
}

fn read_flags(hit: Hit, cookie: u64) -> Result<Option<ReuseFlags>, Errno> {
    let pid = rustix::process::Pid::from_raw(hit.pid).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let fd = pidfd_getfd(&pidfd, hit.fd, PidfdGetfdFlags::empty())?;
    // The inode tells a socket from others that live now. MPTCP's outer socket has another cookie than its inner one.
    if rustix::fs::fstat(&fd)?.st_ino != u64::from(hit.inode) && sockopt::socket_cookie(&fd)? != cookie {
        return Ok(None);
    }
    Ok(Some(ReuseFlags { reuseaddr: sockopt::socket_reuseaddr(&fd)?, reuseport: sockopt::socket_reuseport(&fd)? }))
}

/// Tells connections that came in from those that go out. The kernel does not say it, so it is told by evidence: a listener
/// on our side, a listener on the peer's side (if that is this machine), or which of the ports is an ephemeral one.
pub(crate) fn tell_direction(sockets: &mut [PortSocket], proc: &Proc, diag: &mut SockDiag) {
    let listening: HashSet<u16> = sockets.iter().filter(|socket| socket.role == Role::Listener).map(|socket| socket.local.port()).collect();
    if !sockets.iter().any(|socket| matches!(socket.role, Role::Connection | Role::Kernel)) {
        return;
    }
    let ephemeral = Ranges::read(proc).ephemeral;
    let mut served: HashMap<SocketAddr, bool> = HashMap::new();
    for socket in sockets.iter_mut().filter(|socket| socket.role == Role::Connection) {
        let Some(remote) = socket.remote else { continue };
        let (near, far) = (ephemeral.contains(&socket.local.port()), ephemeral.contains(&remote.port()));
        socket.role = if socket.raw.state == State::SynSent {
            Role::Outgoing
        } else if listening.contains(&socket.local.port()) {
            Role::Accepted
        } else if *served.entry(remote).or_insert_with(|| is_local(remote.ip()) && has_listener(diag, remote)) || (near && !far) {
            Role::Outgoing
        } else if far && !near {
            Role::Accepted
        } else {
            Role::Connection
        };
    }
}

/// Loopback, or an address that bind() accepts.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || address_works(address, Transport::Udp)
}

fn has_listener(diag: &mut SockDiag, address: SocketAddr) -> bool {
    Family::ALL.into_iter().any(|family| {
        let query = Query::new(family, Protocol::Tcp, States::LISTEN).port(address.port());
        diag.sockets(&query).is_ok_and(|(found, _)| !found.is_empty())
    })
}

fn address_works(address: IpAddr, transport: Transport) -> bool {
    address_error(&Server { transport, ..Server::usual(address, 0) }).is_none()
}

/// The errno of binding the server's address with port 0: not here, family switched off, no scope.
pub(crate) fn address_error(server: &Server) -> Option<Errno> {
    if server.address.is_unspecified() && server.address.is_ipv4() {
        return None;
    }
    let attempt = Attempt {
        // UDP asks the same question about the address without touching TCP's ports.
        protocol: Protocol::Udp,
        address: SocketAddr::new(server.address, 0),
        reuseaddr: false,
        reuseport: false,
        v6only: server.v6only,
        uid: None,
        listen: false,
    };
    match bind_probe::attempt(&attempt) {
        Ok(Answer { outcome: Outcome::Bind(errno), .. }) | Err(errno) => Some(errno),
        Ok(_) => None,
    }
}
