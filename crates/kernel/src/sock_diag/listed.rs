//! TCP sockets as `/proc/net/tcp` and `/proc/net/tcp6` list them, for where netlink is refused (a filter above us) or the kernel lacks `inet_diag`.
//! Less than sock_diag says: no `tcp_info`, no options, no cookie; and each look is a walk over all sockets, in text. Total on arbitrary bytes.
//!
//! Source: proc_net_tcp.txt of the kernel's documentation; net/ipv4/tcp_ipv4.c, `get_tcp4_sock`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::parse::state;
use super::{Family, Protocol, Query, Socket};
use crate::netlink::{Dump, Error};

/// Hands every socket of the query that is listed to `on`.
///
/// # Errors
/// The list cannot be read. Nothing but TCP is listed.
pub(crate) fn each(query: &Query, mut on: impl FnMut(Socket)) -> Result<Dump, Error> {
    if query.protocol != Protocol::Tcp {
        return Err(Error::Call { call: "socket", source: std::io::ErrorKind::Unsupported.into() });
    }
    for family in query.family.map_or(Family::ALL.to_vec(), |family| vec![family]) {
        let (path, call) = match family {
            Family::V4 => ("/proc/net/tcp", "read /proc/net/tcp"),
            Family::V6 => ("/proc/net/tcp6", "read /proc/net/tcp6"),
        };
        let list = match std::fs::read(path) {
            Ok(list) => list,
            // A kernel without IPv6.
            Err(error) if family == Family::V6 && error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::Call { call, source }),
        };
        String::from_utf8_lossy(&list).lines().filter_map(|line| parse(family, line)).filter(|found| query.wants(found)).for_each(&mut on);
    }
    // A file that is read piece by piece is no snapshot.
    Ok(Dump::Interrupted)
}

/// One line: `sl local remote st tx:rx tr:when retransmits uid timeout inode …`.
fn parse(family: Family, line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(family, words.next()?)?, address(family, words.next()?)?);
    let state = state(u8::from_str_radix(words.next()?, 16).ok()?);
    let (sent, received) = words.next()?.split_once(':')?;
    let mut words = words.skip(2);
    let uid = words.next()?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    Some(Socket {
        family,
        protocol: Protocol::Tcp,
        state,
        local,
        remote,
        inode,
        uid,
        rqueue: u32::from_str_radix(received, 16).ok()?,
        wqueue: u32::from_str_radix(sent, 16).ok()?,
        timer: None,
        interface: None,
        cookie: 0,
        cgroup_id: None,
        mark: None,
        v6only: None,
        shutdown: None,
        mptcp: None,
        tcp_info: None,
    })
}

/// `0100007F:1F90`: words of the address as the processor reads them from memory, and the port as a number.
fn address(family: Family, text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    Some(match family {
        Family::V4 => (Ipv4Addr::from(word(0)?), port).into(),
        Family::V6 => {
            let mut octets = [0; 16];
            for (at, octets) in octets.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *octets = word(at * 8)?;
            }
            (Ipv6Addr::from(octets), port).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sock_diag::{SockDiag, State, States};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn inode(socket: impl AsFd) -> u32 {
        crate::socket::inode(socket).expect("inode")
    }

    /// All that both say of the sockets of one port.
    #[test]
    fn what_is_listed_is_what_sock_diag_says() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).expect("bind");
            let address = listener.local_addr().expect("address");
            let _accepted = (TcpStream::connect(address).expect("connect"), listener.accept().expect("accept"));
            let _waits = TcpStream::connect(address).expect("connect");
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            let query = Query::new(family, Protocol::Tcp, States::LISTEN | States::ESTABLISHED).port(address.port());
            let told =
                |socket: &Socket| (socket.local, socket.remote, format!("{:?}", socket.state), socket.inode, socket.uid, socket.rqueue);
            let mut listed = Vec::new();
            each(&query, |socket| listed.push(told(&socket))).expect("readable");
            let mut asked: Vec<_> = SockDiag::open().expect("netlink").sockets(&query).expect("sockets").0.iter().map(told).collect();
            listed.sort();
            asked.sort();
            assert_eq!(listed, asked);
            assert_eq!(listed.len(), 3);
            assert!(listed.iter().any(|(.., inode, _, waiting)| (*inode, *waiting) == (self::inode(&listener), 1)), "{listed:?}");
            assert_eq!(listed.iter().filter(|(.., inode, _, _)| *inode == 0).count(), 1, "the one that nobody has accepted: {listed:?}");
        }
    }

    #[test]
    fn states_and_ports_that_were_not_asked_for_are_left_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let count = |query: Query| {
            let mut count = 0;
            each(&query, |socket| count += u32::from(socket.inode == inode(&listener) && socket.state == State::Listen)).expect("readable");
            count
        };
        assert_eq!(count(Query::tcp(States::LISTEN)), 1);
        assert_eq!(count(Query::tcp(States::LISTEN).port(port)), 1);
        assert_eq!(count(Query::tcp(States::LISTEN).port(port ^ 1)), 0);
        assert_eq!(count(Query::tcp(States::ESTABLISHED).port(port)), 0);
        assert!(each(&Query::new(Family::V4, Protocol::Udp, States::ALL), |_| ()).is_err());
    }

    #[test]
    fn other_lines_are_none() {
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        for line in [
            "",
            heading,
            "0: 0100007F:1F90",
            "0: é100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 1",
            "0: 01:1F90 00000000:0000 0A 0:0 0:0 0 0 0 1",
        ] {
            assert_eq!(parse(Family::V4, line), None, "{line}");
        }
    }
}
