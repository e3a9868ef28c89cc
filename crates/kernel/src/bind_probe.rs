//! Asking the kernel itself: would this bind(), and this listen(), work right now?
//!
//! Owns a socket for the microseconds of the question. Refuses to take traffic: before it is bound, the socket gets a filter
//! that drops every packet, so a SYN that arrives meanwhile is lost and sent again one second later, instead of being
//! answered by nobody. Where the filter is not allowed (some hardened kernels want CAP_NET_ADMIN for it; MPTCP takes none)
//! the probe does not listen. A probe that succeeds holds the port until it is closed: another server's bind in the same
//! microseconds fails. Judging whether that is acceptable is the caller's part.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::sock_diag::Protocol;

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Protocol.
    pub protocol: Protocol,
    /// Address and port. With port 0 the question is only whether the address can be bound at all.
    pub address: SocketAddr,
    /// SO_REUSEADDR before bind().
    pub reuseaddr: bool,
    /// SO_REUSEPORT before bind().
    pub reuseport: bool,
    /// IPV6_V6ONLY, for IPv6.
    pub v6only: bool,
    /// Whose socket it shall be, if not ours (fchown(2) on the socket: needs root).
    pub uid: Option<u32>,
    /// Also listen(), for TCP.
    pub listen: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Where it ended.
    pub outcome: Outcome,
    /// Whether listen() was called: asked for, reached, and made harmless by the filter.
    pub listened: bool,
}

/// Where an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All calls succeeded.
    Works,
    /// bind() failed.
    Bind(Errno),
    /// bind() worked, listen() failed.
    Listen(Errno),
}

/// Tries it, and closes the socket at once.
///
/// # Errors
/// The socket could not be made or prepared (family switched off, no MPTCP, fds used up, EPERM for `uid`).
pub fn attempt(attempt: &Attempt) -> Result<Answer, Errno> {
    let family = if attempt.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match attempt.protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Mptcp => (SocketType::STREAM, NonZeroU32::new(262).map(rustix::net::Protocol::from_raw)),
    };
    let fd = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    if let Some(uid) = attempt.uid {
        fchown(&fd, Some(Uid::from_raw(uid)), None::<Gid>)?;
    }
    if attempt.address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, attempt.v6only)?;
    }
    sockopt::set_socket_reuseaddr(&fd, attempt.reuseaddr)?;
    sockopt::set_socket_reuseport(&fd, attempt.reuseport)?;
    let deaf = drop_all(&fd).is_ok();
    if let Err(errno) = bind(&fd, &attempt.address) {
        return Ok(Answer { outcome: Outcome::Bind(errno), listened: false });
    }
    if !attempt.listen || attempt.protocol == Protocol::Udp || !deaf {
        return Ok(Answer { outcome: Outcome::Works, listened: false });
    }
    let outcome = listen(&fd, 1).map_or_else(Outcome::Listen, |()| Outcome::Works);
    Ok(Answer { outcome, listened: true })
}

/// Attaches the classic BPF program `ret 0` (SO_ATTACH_FILTER, socket(7)): every packet is dropped.
#[expect(unsafe_code, reason = "rustix has no SO_ATTACH_FILTER")]
fn drop_all(fd: &OwnedFd) -> Result<(), Errno> {
    let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: `filter` is a valid sock_fprog of the length given, its program outlives the call, and the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn tcp(address: SocketAddr) -> Attempt {
        Attempt { protocol: Protocol::Tcp, address, reuseaddr: true, reuseport: false, v6only: false, uid: None, listen: true }
    }

    fn outcome(attempt: &Attempt) -> Result<Outcome, Errno> {
        super::attempt(attempt).map(|answer| answer.outcome)
    }

    #[test]
    fn it_tells_taken_from_free_and_leaves_nothing_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(outcome(&tcp(address)), Ok(Outcome::Bind(Errno::ADDRINUSE)));
        drop(listener);
        assert_eq!(outcome(&tcp(address)), Ok(Outcome::Works));
        let udp = Attempt { protocol: Protocol::Udp, ..tcp(address) };
        assert_eq!(outcome(&udp), Ok(Outcome::Works));
        let mptcp = Attempt { protocol: Protocol::Mptcp, ..tcp(address) };
        assert!(matches!(outcome(&mptcp), Ok(Outcome::Works) | Err(_)));
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn an_address_that_is_not_here_is_named() {
        assert_eq!(outcome(&tcp("192.0.2.1:0".parse().unwrap())), Ok(Outcome::Bind(Errno::ADDRNOTAVAIL)));
    }
}
