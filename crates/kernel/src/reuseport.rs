//! Steering: which member of an SO_REUSEPORT group gets a new connection, and who gets none.
//!
//! A group's classic BPF program returns the index of a member in the order in which they called `listen`
//! (net/core/sock_reuseport.c). An index out of range makes the kernel choose by hash. Attaching needs no privilege.

use crate::memory::errno;
use crate::seccomp::instruction;
use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_RSH, BPF_W};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// `SKF_NET_OFF`: offsets from here count from the IP header.
const NET: u32 = 0xfff0_0000;
/// `SKF_AD_OFF + SKF_AD_RANDOM`: loading from here gives a random number.
const RANDOM: u32 = 0xffff_f000 + 56;

/// What a group does with a new connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Connections from this source port go to this index, before all else.
    pub route: Option<(u16, u32)>,
    /// So many of a thousand of the others, chosen at random, are spread evenly over these indices.
    pub share: Option<(u16, Vec<u32>)>,
    /// All others are spread evenly over these indices; none: the kernel's hash decides.
    pub targets: Vec<u32>,
}

/// The program for a selection.
fn program(selection: &Selection) -> Vec<libc::sock_filter> {
    let mut code = Vec::new();
    if let Some((port, index)) = selection.route {
        // The TCP header follows an IP header of 20 bytes (IPv4 without options) or 40 (IPv6 without extensions): what a
        // connection over loopback has, and a probe is one.
        code.extend([
            instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, NET),
            instruction(BPF_ALU | BPF_RSH | BPF_K, 0, 0, 4),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 6),
            instruction(BPF_LD | BPF_H | BPF_ABS, 0, 0, NET + 40),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 2, 3, u32::from(port)),
            instruction(BPF_LD | BPF_H | BPF_ABS, 0, 0, NET + 20),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, u32::from(port)),
            instruction(BPF_RET | BPF_K, 0, 0, index),
        ]);
    }
    if let Some((permille, indices)) = &selection.share {
        let theirs = spread(indices);
        code.extend([
            instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, RANDOM),
            instruction(BPF_ALU | BPF_MOD | BPF_K, 0, 0, 1000),
            // A conditional jump reaches 255 instructions, a plain one all.
            instruction(BPF_JMP | BPF_JGE | BPF_K, 0, 1, u32::from(*permille)),
            instruction(BPF_JMP | BPF_JA, 0, 0, theirs.len() as u32),
        ]);
        code.extend(theirs);
    }
    code.extend(spread(&selection.targets));
    code
}

/// One of these indices, at random.
fn spread(indices: &[u32]) -> Vec<libc::sock_filter> {
    let mut code = Vec::new();
    match indices {
        [] => code.push(instruction(BPF_RET | BPF_K, 0, 0, u32::MAX)),
        [only] => code.push(instruction(BPF_RET | BPF_K, 0, 0, *only)),
        several => {
            code.push(instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, RANDOM));
            code.push(instruction(BPF_ALU | BPF_MOD | BPF_K, 0, 0, several.len() as u32));
            for (nth, index) in several.iter().enumerate() {
                code.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, nth as u32));
                code.push(instruction(BPF_RET | BPF_K, 0, 0, *index));
            }
            code.push(instruction(BPF_RET | BPF_K, 0, 0, u32::MAX));
        }
    }
    code
}

fn attach(socket: impl AsFd, option: libc::c_int, mut code: Vec<libc::sock_filter>) -> Result<(), Errno> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let number = socket.as_fd().as_raw_fd();
    // SAFETY: `program` points to live instructions that the kernel copies.
    let result = unsafe { libc::setsockopt(number, libc::SOL_SOCKET, option, (&raw const program).cast(), size) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Attaches the selection to the group of a socket, or, before it listens, to the socket for the group that it will found.
///
/// # Errors
/// `EINVAL`: not in a group. `EOPNOTSUPP`: an MPTCP socket (use a plain member).
pub fn select(member: impl AsFd, selection: &Selection) -> Result<(), Errno> {
    attach(member, libc::SO_ATTACH_REUSEPORT_CBPF, program(selection))
}

/// Makes a listener drop connection requests (SYN without ACK): the client's kernel sends them again after a second, and by
/// then they reach the selected one. Connections that it has, and handshakes under way, go on. `except`: requests from this
/// source port pass (a probe).
///
/// It is the second lock behind the program: whatever the kernel's index rules do in the instant in which a member leaves,
/// a listener that must not get connections loses none.
///
/// # Errors
/// `EOPNOTSUPP`: an MPTCP socket.
pub fn mute(listener: impl AsFd, except: Option<u16>) -> Result<(), Errno> {
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_ACK: u32 = 0x12;
    let mut code = Vec::new();
    if let Some(port) = except {
        code.push(instruction(BPF_LD | BPF_H | BPF_ABS, 0, 0, 0));
        code.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, u32::from(port)));
    }
    code.extend([
        instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, FLAGS),
        instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, SYN_ACK),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYN),
        instruction(BPF_RET | BPF_K, 0, 0, 0),
        instruction(BPF_RET | BPF_K, 0, 0, u32::MAX),
    ]);
    attach(listener, libc::SO_ATTACH_FILTER, code)
}

/// Ends [`mute`].
///
/// # Errors
/// Those of `setsockopt(2)`; that there was no filter is none.
pub fn unmute(listener: impl AsFd) -> Result<(), Errno> {
    let unused: libc::c_int = 0;
    let number = listener.as_fd().as_raw_fd();
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads an int.
    let result = unsafe { libc::setsockopt(number, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, (&raw const unused).cast(), size) };
    match if result < 0 { Err(errno()) } else { Ok(()) } {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{accept_queue, listener_for_test};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

    /// Connects `count` times, through `source` if given, and keeps the connections open.
    fn connect(count: usize, to: SocketAddr) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(to).expect("connect")).collect()
    }

    fn connect_from(source_port_of: &std::os::fd::OwnedFd, to: SocketAddr) {
        rustix::net::connect(source_port_of, &to).expect("connect from a chosen port");
    }

    fn group_follows_selection(any: SocketAddr) {
        let anchor = listener_for_test(any);
        select(&anchor, &Selection { route: None, share: None, targets: vec![1] }).expect("attach before listen");
        mute(&anchor, None).expect("mute the anchor");
        rustix::net::listen(&anchor, 1).expect("listen");
        let address: SocketAddr = rustix::net::getsockname(&anchor).expect("name").try_into().expect("inet");
        let (old, new) = (listener_for_test(address), listener_for_test(address));
        rustix::net::listen(&old, 64).expect("listen");
        rustix::net::listen(&new, 64).expect("listen");
        let queues = || (accept_queue(&anchor).expect("queue"), accept_queue(&old).expect("queue"), accept_queue(&new).expect("queue"));

        let first = connect(20, address);
        assert_eq!(queues(), (0, 20, 0));

        let source = rustix::net::socket(
            if address.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 },
            rustix::net::SocketType::STREAM,
            None,
        )
        .expect("socket");
        rustix::net::bind(&source, &SocketAddr::new(address.ip(), 0)).expect("bind");
        let source_name: SocketAddr = rustix::net::getsockname(&source).expect("name").try_into().expect("inet");
        select(&anchor, &Selection { route: Some((source_name.port(), 2)), targets: vec![1], ..Selection::default() }).expect("route");
        mute(&new, Some(source_name.port())).expect("mute all but the probe");
        connect_from(&source, address);
        let second = connect(5, address);
        assert_eq!(queues(), (0, 25, 1), "only the probe reaches the new one");

        unmute(&new).expect("unmute");
        select(&anchor, &Selection { route: None, share: None, targets: vec![2] }).expect("flip");
        let third = connect(10, address);
        assert_eq!(queues(), (0, 25, 11));

        select(&anchor, &Selection { route: None, share: None, targets: vec![1, 2] }).expect("spread");
        let fourth = connect(60, address);
        let (_, at_old, at_new) = queues();
        assert_eq!(at_old + at_new, 96);
        assert!(at_old > 25 && at_new > 11, "both get some: {at_old}, {at_new}");
        drop((first, second, third, fourth));
    }

    #[test]
    fn a_share_is_within_its_binomial_bounds() {
        let anchor = listener_for_test((Ipv4Addr::LOCALHOST, 0).into());
        let share = |permille| Selection { route: None, share: Some((permille, vec![2, 3])), targets: vec![1] };
        select(&anchor, &share(200)).expect("attach before listen");
        rustix::net::listen(&anchor, 1).expect("listen");
        let address: SocketAddr = rustix::net::getsockname(&anchor).expect("name").try_into().expect("inet");
        let members: Vec<_> = (0..3).map(|_| listener_for_test(address)).collect();
        for member in &members {
            rustix::net::listen(member, 4096).expect("listen");
        }
        let queue = |nth: usize| accept_queue(&members[nth]).expect("queue");
        let open = connect(2000, address);
        // 2,000 times 0.2 is 400; six standard deviations (17.9) are exceeded once in 500 million runs.
        let (rest, one, other) = (queue(0), queue(1), queue(2));
        assert_eq!(rest + one + other, 2000, "nobody else gets one");
        assert!((293..=507).contains(&(one + other)), "{one} + {other} of 2000");
        assert!(one > 100 && other > 100, "evenly: {one}, {other}");
        drop(open);
    }

    #[test]
    fn group_follows_selection_over_ipv4() {
        group_follows_selection((Ipv4Addr::LOCALHOST, 0).into());
    }

    #[test]
    fn group_follows_selection_over_ipv6() {
        group_follows_selection((Ipv6Addr::LOCALHOST, 0).into());
    }
}
