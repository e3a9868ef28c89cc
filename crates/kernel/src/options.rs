//! Options of a listening socket, as one takes the place of another: those that accepted sockets inherit, and those that say how it accepts.
//!
//! Owns: copying them from a socket that we have, and setting again what a process was seen to set. Refuses: options that decide who can connect
//! (addresses, devices, `IPV6_V6ONLY`), which belong to the bind.
//! Source: socket(7), ip(7), ipv6(7), tcp(7); asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h.

use crate::memory::errno;
use crate::socket::{option, set_option};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// An option whose value is one integer.
struct Number {
    level: i32,
    name: i32,
    word: &'static str,
    /// What is set where the process never set it, if that is not what the kernel says then.
    unset: Option<i32>,
}

const fn number(level: i32, name: i32, word: &'static str) -> Number {
    Number { level, name, word, unset: None }
}

const SO_MAX_PACING_RATE: i32 = 47;
const SO_ZEROCOPY: i32 = 60;
const SO_BUF_LOCK: i32 = 72;
const IP_MINTTL: i32 = 21;
const IPV6_MINHOPCOUNT: i32 = 73;
const IPV6_TRANSPARENT: i32 = 75;
const TCP_SAVE_SYN: i32 = 27;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

/// In this order: `IP_TOS` sets the priority as well (net/ipv4/ip_sockglue.c).
const NUMBERS: [Number; 36] = [
    number(libc::IPPROTO_IP, libc::IP_TOS, "IP_TOS"),
    number(libc::IPPROTO_IP, libc::IP_TTL, "IP_TTL"),
    number(libc::IPPROTO_IP, IP_MINTTL, "IP_MINTTL"),
    number(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER"),
    number(libc::IPPROTO_IP, libc::IP_FREEBIND, "IP_FREEBIND"),
    number(libc::IPPROTO_IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
    number(libc::IPPROTO_IPV6, IPV6_TRANSPARENT, "IPV6_TRANSPARENT"),
    number(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, "IPV6_TCLASS"),
    number(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"),
    number(libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, "IPV6_MINHOPCOUNT"),
    number(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"),
    number(libc::SOL_SOCKET, libc::SO_KEEPALIVE, "SO_KEEPALIVE"),
    number(libc::SOL_SOCKET, libc::SO_OOBINLINE, "SO_OOBINLINE"),
    number(libc::SOL_SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT"),
    number(libc::SOL_SOCKET, libc::SO_PRIORITY, "SO_PRIORITY"),
    number(libc::SOL_SOCKET, libc::SO_MARK, "SO_MARK"),
    number(libc::SOL_SOCKET, libc::SO_INCOMING_CPU, "SO_INCOMING_CPU"),
    number(libc::SOL_SOCKET, libc::SO_BUSY_POLL, "SO_BUSY_POLL"),
    number(libc::SOL_SOCKET, SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE"),
    number(libc::SOL_SOCKET, SO_ZEROCOPY, "SO_ZEROCOPY"),
    number(libc::IPPROTO_TCP, libc::TCP_NODELAY, "TCP_NODELAY"),
    number(libc::IPPROTO_TCP, libc::TCP_CORK, "TCP_CORK"),
    number(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, "TCP_KEEPIDLE"),
    number(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, "TCP_KEEPINTVL"),
    number(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, "TCP_KEEPCNT"),
    number(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"),
    number(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, "TCP_FASTOPEN"),
    number(libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, "TCP_FASTOPEN_NO_COOKIE"),
    number(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
    number(libc::IPPROTO_TCP, libc::TCP_SYNCNT, "TCP_SYNCNT"),
    number(libc::IPPROTO_TCP, libc::TCP_LINGER2, "TCP_LINGER2"),
    number(libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP"),
    number(libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT"),
    number(libc::IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, "TCP_THIN_LINEAR_TIMEOUTS"),
    number(libc::IPPROTO_TCP, TCP_SAVE_SYN, "TCP_SAVE_SYN"),
    // A socket without one says 536 (TCP_MSS_DEFAULT); to set that would be a limit, 0 is none (net/ipv4/tcp.c).
    Number { level: libc::IPPROTO_TCP, name: libc::TCP_MAXSEG, word: "TCP_MAXSEG", unset: Some(536) },
];

/// Gives one socket the settings of another, as far as they differ: options, `O_NONBLOCK`. Used when our socket takes the place of one that a process
/// has already set up. Returns the names of what could not be copied.
pub fn copy(from: impl AsFd, to: impl AsFd) -> Vec<&'static str> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let mut failed = Vec::new();
    for one in NUMBERS {
        // Else it is not an option of this family or kernel.
        if let (Ok(wanted), Ok(present)) = (option(from, one.level, one.name, 0_i32), option(to, one.level, one.name, 0_i32))
            && wanted != present
        {
            let value = if one.unset == Some(wanted) { 0 } else { wanted };
            if set_option(to, one.level, one.name, &value).is_err() {
                failed.push(one.word);
            }
        }
    }
    copy_buffers(from, to, &mut failed);
    copy_structures(from, to, &mut failed);
    if congestion(from) != congestion(to)
        && congestion(from).is_some_and(|name| !set_bytes(to, libc::IPPROTO_TCP, libc::TCP_CONGESTION, &name))
    {
        failed.push("TCP_CONGESTION");
    }
    if has_filter(from) {
        failed.push("SO_ATTACH_FILTER");
    }
    if let (Ok(wanted), Ok(present)) = (rustix::fs::fcntl_getfl(from), rustix::fs::fcntl_getfl(to)) {
        let nonblock = rustix::fs::OFlags::NONBLOCK;
        let flags = (present - nonblock) | (wanted & nonblock);
        if flags != present && rustix::fs::fcntl_setfl(to, flags).is_err() {
            failed.push("O_NONBLOCK");
        }
    }
    failed
}

/// The kernel doubles what is set here and returns the double; it cuts it to a limit, which `CAP_NET_ADMIN` may pass; and a size that was set is
/// not tuned any more (`SO_BUF_LOCK`, Linux 5.14).
fn copy_buffers(from: BorrowedFd<'_>, to: BorrowedFd<'_>, failed: &mut Vec<&'static str>) {
    let sizes = [(libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, "SO_RCVBUF"), (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, "SO_SNDBUF")];
    for (name, force, word) in sizes {
        let size = |socket| option(socket, libc::SOL_SOCKET, name, 0_i32);
        let Ok(wanted) = size(from) else { continue };
        if size(to) == Ok(wanted) {
            continue;
        }
        let _ = set_option(to, libc::SOL_SOCKET, name, &(wanted / 2));
        if size(to) != Ok(wanted) {
            let _ = set_option(to, libc::SOL_SOCKET, force, &(wanted / 2));
        }
        if size(to) != Ok(wanted) {
            failed.push(word);
        }
    }
    if let Ok(locks) = option(from, libc::SOL_SOCKET, SO_BUF_LOCK, 0_i32) {
        let _ = set_option(to, libc::SOL_SOCKET, SO_BUF_LOCK, &locks);
    }
}

fn copy_structures(from: BorrowedFd<'_>, to: BorrowedFd<'_>, failed: &mut Vec<&'static str>) {
    let no_linger = libc::linger { l_onoff: 0, l_linger: 0 };
    if let Ok(wanted) = option(from, libc::SOL_SOCKET, libc::SO_LINGER, no_linger)
        && set_option(to, libc::SOL_SOCKET, libc::SO_LINGER, &wanted).is_err()
    {
        failed.push("SO_LINGER");
    }
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 0 };
    for (name, word) in [(libc::SO_RCVTIMEO, "SO_RCVTIMEO"), (libc::SO_SNDTIMEO, "SO_SNDTIMEO")] {
        if let Ok(wanted) = option(from, libc::SOL_SOCKET, name, timeout)
            && set_option(to, libc::SOL_SOCKET, name, &wanted).is_err()
        {
            failed.push(word);
        }
    }
}

/// Name of the congestion control (`TCP_CA_NAME_MAX` is 16); MPTCP sockets have theirs inside.
fn congestion(socket: BorrowedFd<'_>) -> Option<[u8; 16]> {
    option(socket, libc::IPPROTO_TCP, libc::TCP_CONGESTION, [0_u8; 16]).ok()
}

/// Whether a packet filter is attached. A classic one could be read, but the place of a filter is the keeper's, for muting; one of eBPF cannot
/// (`EACCES`). Without one the kernel says the length 0.
fn has_filter(socket: BorrowedFd<'_>) -> bool {
    let mut length: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the kernel writes nothing but the length.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_GET_FILTER, std::ptr::null_mut(), &raw mut length) };
    if result < 0 { errno() == Errno::ACCESS } else { length > 0 }
}

fn set_bytes(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> bool {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) == 0 }
}

/// What a service sets of a listener before it binds it and never of a connection, so that to catch it costs next to nothing: level, name, and the
/// name as people write it.
pub const OF_LISTENERS: [(i32, i32, &str); 8] = [
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY"),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN, "TCP_FASTOPEN"),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG, "TCP_MAXSEG"),
    (libc::SOL_SOCKET, libc::SO_RCVBUF, "SO_RCVBUF"),
    (libc::SOL_SOCKET, libc::SO_SNDBUF, "SO_SNDBUF"),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE, "SO_BINDTODEVICE"),
    (libc::SOL_SOCKET, 62, "SO_BINDTOIFINDEX"),
];

/// Longest value of one of [`OF_LISTENERS`], in bytes: a device's name.
pub const VALUE_MAX: usize = 16;

/// An option that a process set, as it was caught.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SetOption {
    /// `SOL_SOCKET`, `IPPROTO_*`.
    pub level: i32,
    /// `SO_*`, `TCP_*`, `IPV6_*`.
    pub name: i32,
    /// At most [`VALUE_MAX`] bytes.
    pub value: Vec<u8>,
}

impl SetOption {
    /// `IPV6_V6ONLY`, and whether it was set.
    pub fn v6only(&self) -> Option<bool> {
        ((self.level, self.name) == (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)).then(|| self.value.iter().any(|byte| *byte != 0))
    }

    /// It binds the socket to a network device.
    pub fn names_device(&self) -> bool {
        self.level == libc::SOL_SOCKET && [libc::SO_BINDTODEVICE, 62].contains(&self.name) && self.value.iter().any(|byte| *byte != 0)
    }

    /// Sets it again, for another socket. What belongs to the bind is passed over.
    ///
    /// # Errors
    /// Its name: the kernel refused.
    pub fn repeat(&self, socket: impl AsFd) -> Result<(), &'static str> {
        let word = OF_LISTENERS.iter().find(|(level, name, _)| (*level, *name) == (self.level, self.name)).map_or("?", |(.., word)| *word);
        if self.v6only().is_some() || word.starts_with("SO_BINDTO") || set_bytes(socket.as_fd(), self.level, self.name, &self.value) {
            Ok(())
        } else {
            Err(word)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::listener_for_test;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::os::fd::OwnedFd;

    fn pair(any: SocketAddr) -> (OwnedFd, OwnedFd) {
        (listener_for_test(any), listener_for_test(any))
    }

    fn number_of(socket: &OwnedFd, one: &Number) -> Result<i32, Errno> {
        option(socket, one.level, one.name, 0_i32)
    }

    #[test]
    fn settings_travel_to_the_socket_that_takes_the_place() {
        let (from, to) = pair((Ipv4Addr::LOCALHOST, 0).into());
        set_option(&from, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 3 }).expect("set");
        set_option(&from, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 7, tv_usec: 0 }).expect("set");
        set_option(&from, libc::SOL_SOCKET, libc::SO_RCVBUF, &65_536_i32).expect("set");
        rustix::io::ioctl_fionbio(&from, true).expect("set");
        assert_eq!(copy(&from, &to), Vec::<&str>::new());
        let size = |socket| option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 0_i32);
        assert_eq!((size(&to), size(&from)), (Ok(131_072), Ok(131_072)));
        let linger = option(&to, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 0, l_linger: 0 }).expect("get");
        assert_eq!((linger.l_onoff, linger.l_linger), (1, 3));
        let patience = option(&to, libc::SOL_SOCKET, libc::SO_RCVTIMEO, libc::timeval { tv_sec: 0, tv_usec: 0 }).expect("get");
        assert_eq!(patience.tv_sec, 7);
        assert!(rustix::fs::fcntl_getfl(&to).expect("flags").contains(rustix::fs::OFlags::NONBLOCK));
    }

    /// Each that can be set here alone arrives, and goes again with the next who did not set it.
    #[test]
    fn each_number_travels_and_is_taken_back() {
        let mut moved = Vec::new();
        for any in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
            for one in &NUMBERS {
                let (from, to) = pair(any);
                let Ok(before) = number_of(&from, one) else { continue };
                let other = match (one.word, before) {
                    ("TCP_MAXSEG", _) => 1000,
                    ("IP_TOS" | "IPV6_TCLASS", _) => 16, // the lowest bits are the kernel's
                    (_, 0) => 1,
                    (_, 1) => 0,
                    _ => 2,
                };
                // Without rights, or not on this kernel: then it is of no use to anybody here.
                if set_option(&from, one.level, one.name, &other).is_err() || number_of(&from, one) == Ok(before) {
                    continue;
                }
                assert_eq!((copy(&from, &to), number_of(&to, one)), (Vec::new(), number_of(&from, one)), "{}", one.word);
                if one.word == "TCP_WINDOW_CLAMP" {
                    continue; // the kernel does not take it back from a listener, and `copy` says so
                }
                rustix::net::listen(&to, 1).expect("listen");
                assert_eq!((copy(listener_for_test(any), &to), number_of(&to, one)), (Vec::new(), Ok(before)), "{}", one.word);
                moved.push(one.word);
            }
        }
        let wanted =
            ["SO_KEEPALIVE", "TCP_NODELAY", "TCP_KEEPIDLE", "TCP_DEFER_ACCEPT", "TCP_FASTOPEN", "TCP_USER_TIMEOUT", "TCP_MAXSEG", "IP_TOS"];
        assert!(wanted.iter().chain(&["IPV6_TCLASS", "SO_PRIORITY"]).all(|word| moved.contains(word)), "{moved:?}");
    }

    #[test]
    fn a_priority_is_not_lost_to_the_type_of_service() {
        let (from, to) = pair((Ipv4Addr::LOCALHOST, 0).into());
        set_option(&from, libc::IPPROTO_IP, libc::IP_TOS, &0x10_i32).expect("set");
        set_option(&from, libc::SOL_SOCKET, libc::SO_PRIORITY, &2_i32).expect("set");
        assert_eq!(copy(&from, &to), Vec::<&str>::new());
        assert_eq!(option(&to, libc::SOL_SOCKET, libc::SO_PRIORITY, 0_i32), Ok(2));
    }

    #[test]
    fn a_size_that_nobody_set_is_tuned_again() {
        let (from, to) = pair((Ipv4Addr::LOCALHOST, 0).into());
        let Ok(free) = option(&from, libc::SOL_SOCKET, SO_BUF_LOCK, 0_i32) else {
            return println!("NOT RUN: this kernel has no SO_BUF_LOCK (Linux 5.14)");
        };
        set_option(&to, libc::SOL_SOCKET, libc::SO_SNDBUF, &65_536_i32).expect("set");
        assert_ne!(option(&to, libc::SOL_SOCKET, SO_BUF_LOCK, 0_i32), Ok(free));
        assert_eq!(copy(&from, &to), Vec::<&str>::new());
        assert_eq!(option(&to, libc::SOL_SOCKET, SO_BUF_LOCK, 0_i32), Ok(free));
    }

    #[test]
    fn another_congestion_control_travels() {
        let (from, to) = pair((Ipv4Addr::LOCALHOST, 0).into());
        let present = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").expect("read");
        let own = congestion(from.as_fd()).expect("get");
        let differs = |name: &&str| !own.starts_with(name.as_bytes());
        let Some(other) = present.split_ascii_whitespace().find(differs) else { return println!("NOT RUN: there is one only: {present}") };
        if !set_bytes(from.as_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, other.as_bytes()) {
            return println!("NOT RUN: {other} may not be chosen here");
        }
        assert_eq!(copy(&from, &to), Vec::<&str>::new());
        assert_eq!(congestion(to.as_fd()), congestion(from.as_fd()));
    }

    #[test]
    fn a_filter_is_named() {
        let (from, to) = pair((Ipv4Addr::LOCALHOST, 0).into());
        let mut all = [crate::seccomp::instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX)];
        let program = libc::sock_fprog { len: 1, filter: all.as_mut_ptr() };
        set_option(&from, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).expect("attach");
        assert_eq!(copy(&from, &to), ["SO_ATTACH_FILTER"]);
    }

    #[test]
    fn what_was_seen_is_set_again() {
        let (_, to) = pair((Ipv4Addr::LOCALHOST, 0).into());
        let seen = |level, name, value: i32| SetOption { level, name, value: value.to_ne_bytes().to_vec() };
        seen(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 7).repeat(&to).expect("set");
        assert_eq!(option(&to, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 0_i32), Ok(7));
        assert_eq!(seen(libc::IPPROTO_TCP, libc::TCP_MAXSEG, 5).repeat(&to), Err("TCP_MAXSEG"), "too small");
        let v6only = seen(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1);
        assert_eq!((v6only.v6only(), v6only.repeat(&to)), (Some(true), Ok(())), "it belongs to the bind");
        let device = |value: &[u8]| SetOption { level: libc::SOL_SOCKET, name: libc::SO_BINDTODEVICE, value: value.to_vec() };
        assert!(device(b"lo\0").names_device() && !device(b"\0").names_device() && !v6only.names_device());
    }
}
