//! Whose the other end of a loopback connection is.
//!
//! TCP has no `SO_PEERCRED`. But both ends of a loopback connection are sockets of this machine, so the kernel can be asked for the
//! *other* one: sock_diag(7), the exact socket with the addresses the other way round, and its user. One question, one answer; no list
//! of all sockets is made.
//!
//! Only a socket that some process still has open counts (it has an inode): an orphaned one is reported as belonging to user 0
//! (`sock_i_uid` in net/core/sock.c), whoever made it. A socket of another network namespace is not found, which is a no.

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// SOCK_DIAG_BY_FAMILY, linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;
/// struct inet_diag_req_v2, linux/inet_diag.h.
const REQUEST: usize = 56;
/// Of struct inet_diag_msg: the part that is read here.
const REPLY: usize = 72;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ESTABLISHED: u8 = 1;
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// User id of the process that has the socket from `client` to `server` open; `None` if there is no such established socket here.
///
/// # Errors
/// What the kernel says; without an answer nobody is anybody.
pub(crate) fn of(client: SocketAddr, server: SocketAddr) -> Result<Option<u32>, Errno> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    // The kernel answers in the call; a bound for the case that it does not.
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(200)))?;
    rustix::net::sendto(&socket, &question(client, server), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0_u8; 1024];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    Ok(read(&answer[..length]))
}

fn question(client: SocketAddr, server: SocketAddr) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0_u8; HEADER + REQUEST];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    // sdiag_family, sdiag_protocol, idiag_ext, pad, idiag_states, then struct inet_diag_sockid: ports and addresses in network order.
    let (client_ip, server_ip) = (client.ip().to_canonical(), server.ip().to_canonical());
    put(HEADER, &[if client_ip.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_TCP, 0, 0]);
    put(HEADER + 4, &u32::MAX.to_ne_bytes());
    put(HEADER + 8, &client.port().to_be_bytes());
    put(HEADER + 10, &server.port().to_be_bytes());
    for (at, address) in [(HEADER + 12, client_ip), (HEADER + 28, server_ip)] {
        match address {
            IpAddr::V4(address) => put(at, &address.octets()),
            IpAddr::V6(address) => put(at, &address.octets()),
        }
    }
    // Interface 0: any. The cookie says that none is known.
    put(HEADER + 48, &ANY_COOKIE);
    bytes
}

/// The user in an answer, if it is one about an open, established socket.
fn read(answer: &[u8]) -> Option<u32> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind != Some(SOCK_DIAG_BY_FAMILY) || answer.len() < HEADER + REPLY || answer[HEADER + 1] != ESTABLISHED {
        return None;
    }
    // struct inet_diag_msg: 4 bytes, 48 of sockid, expires, rqueue, wqueue, uid, inode.
    let (uid, inode) = (word(HEADER + 64)?, word(HEADER + 68)?);
    (inode != 0).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn ones_own_connection_is_ones_own() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (client, server) = pair(address);
            let owner = of(client.local_addr().unwrap(), server.local_addr().unwrap()).unwrap();
            assert_eq!(owner, Some(rustix::process::geteuid().as_raw()), "{address}");
        }
    }

    #[test]
    fn an_ipv4_connection_of_an_ipv6_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mapped = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::connect(&mapped, &SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), port)).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(of(peer, server.local_addr().unwrap()).unwrap(), Some(rustix::process::geteuid().as_raw()));
    }

    #[test]
    fn a_closed_end_belongs_to_nobody() {
        let (client, server) = pair("127.0.0.1:0");
        let (from, to) = (client.local_addr().unwrap(), server.local_addr().unwrap());
        drop(client);
        // The orphan is there until the server closes too, and the kernel would call it root's.
        assert_eq!(of(from, to).ok().flatten(), None);
    }

    #[test]
    fn no_such_connection() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(of("127.0.0.1:1".parse().unwrap(), here).ok().flatten(), None);
    }

    #[test]
    fn answers_that_are_none() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0; 200]), None);
        let mut answer = [0_u8; HEADER + REPLY];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[HEADER + 1] = ESTABLISHED;
        assert_eq!(read(&answer), None, "no inode: nobody has it open");
        answer[HEADER + 68] = 1;
        assert_eq!(read(&answer), Some(0));
        answer[HEADER + 1] = 4;
        assert_eq!(read(&answer), None, "not established");
    }
}
