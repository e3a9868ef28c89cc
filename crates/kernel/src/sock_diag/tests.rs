//! Real sockets of this process, found by the kernel's own list, and the parsers on noise.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

use super::*;

fn inode(fd: impl AsFd) -> u32 {
    rustix::fs::fstat(fd).unwrap().st_ino as u32
}

fn find(query: &Query) -> Vec<Socket> {
    SockDiag::open().unwrap().sockets(query).unwrap().0
}

#[test]
fn a_listener_shows_its_queue_and_inode() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _client = TcpStream::connect(address).unwrap();
    let found = find(&Query::new(Family::V4, Protocol::Tcp, States::LISTEN).port(address.port()));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].local, address);
    assert_eq!(found[0].inode, inode(&listener));
    assert_eq!(found[0].uid, rustix::process::getuid().as_raw());
    assert_eq!((found[0].state, found[0].rqueue), (State::Listen, 1));
    assert!(found[0].wqueue >= 128, "limit of the accept queue, not {}", found[0].wqueue);
    assert!(found[0].cgroup_id.is_some());
}

#[test]
fn bound_without_listen_is_visible_in_both_families() {
    for (family, diag) in [(AddressFamily::INET, Family::V4), (AddressFamily::INET6, Family::V6)] {
        let fd = socket(family, SocketType::STREAM, None).unwrap();
        let any: SocketAddr = if diag == Family::V4 { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
        bind(&fd, &any).unwrap();
        let port = SocketAddr::try_from(getsockname(&fd).unwrap()).unwrap().port();
        let found = find(&Query::new(diag, Protocol::Tcp, States::ALL).port(port));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].is_bound_only());
        assert_eq!(found[0].inode, inode(&fd));
    }
}

#[test]
fn one_question_shows_the_tcp_sockets_of_both_families() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let own = client.local_addr().unwrap().port();
    let bound = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&bound, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let reserved = SocketAddr::try_from(getsockname(&bound).unwrap()).unwrap().port();
    for (port, family, state) in
        [(port, Family::V6, State::Listen), (own, Family::V4, State::Established), (reserved, Family::V4, State::Close)]
    {
        let found = find(&Query::tcp(States::ALL).port(port));
        assert!(found.iter().all(|socket| socket.local.port() == port), "{found:?}");
        assert!(found.iter().any(|socket| (socket.family, socket.state) == (family, state)), "{found:?}");
        // The same as by two questions, the ages and timers aside.
        let mut each: Vec<u64> = Family::ALL
            .iter()
            .flat_map(|family| find(&Query::new(*family, Protocol::Tcp, States::ALL).port(port)))
            .map(|s| s.cookie)
            .collect();
        let mut both: Vec<u64> = found.iter().map(|socket| socket.cookie).collect();
        each.sort_unstable();
        both.sort_unstable();
        assert_eq!(each, both);
    }
    let wide = find(&Query::tcp(States::LISTEN).ports(port..=port).with_tcp_info());
    assert!(wide[0].tcp_info.is_some());
}

#[test]
fn udp_and_ranges_are_filtered_by_the_kernel() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    let query = Query::new(Family::V4, Protocol::Udp, States::ALL);
    let found = find(&query.clone().ports(port..=port.saturating_add(1)));
    assert!(found.iter().any(|socket| socket.inode == inode(&udp)), "{found:?}");
    assert!(found.iter().all(|socket| (port..=port.saturating_add(1)).contains(&socket.local.port())));
    assert!(find(&query.port(port)).iter().any(|socket| socket.inode == inode(&udp)));
}

#[test]
fn a_connection_has_ages_and_queues() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut &server, b"hello").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    let query = Query::new(Family::V4, Protocol::Tcp, States::ESTABLISHED).port(client.local_addr().unwrap().port());
    let found = find(&query.with_tcp_info());
    assert_eq!((found[0].rqueue, found[0].remote), (4, address));
    assert_eq!(found[0].tcp_info.unwrap().bytes_received, Some(5));
}

#[test]
fn mptcp_is_told_from_tcp() {
    let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(262).unwrap());
    let fd = match socket(AddressFamily::INET, SocketType::STREAM, Some(protocol)) {
        Ok(fd) => fd,
        Err(errno) => return println!("NOT RUN: this kernel has no MPTCP ({errno})"),
    };
    bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    rustix::net::listen(&fd, 5).unwrap();
    let port = SocketAddr::try_from(getsockname(&fd).unwrap()).unwrap().port();
    let tcp = find(&Query::new(Family::V4, Protocol::Tcp, States::LISTEN).port(port).with_tcp_info());
    assert!(tcp.iter().any(|socket| socket.mptcp == Some(true) && socket.inode == inode(&fd)), "{tcp:?}");
    let outer = find(&Query::new(Family::V4, Protocol::Mptcp, States::LISTEN).port(port));
    assert!(outer.iter().any(|socket| socket.inode == inode(&fd)), "{outer:?}");
}

#[test]
fn an_event_tells_when_a_listener_is_gone() {
    let mut events = DestroyEvents::subscribe(true, false).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, inode) = (listener.local_addr().unwrap().port(), inode(&listener));
    drop(listener);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut seen = false;
        events.drain(|socket| seen |= socket.local.port() == port).unwrap();
        if seen {
            break;
        }
        let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&timeout)).unwrap();
        assert!(Instant::now() < deadline, "no event for inode {inode}");
    }
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[test]
fn destroying_a_time_wait_frees_its_address() {
    if !rustix::process::geteuid().is_root() {
        return println!("NOT RUN: SOCK_DESTROY needs root");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    drop(listener.accept().unwrap());
    drop(listener);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    let query = Query::new(Family::V4, Protocol::Tcp, States::CLOSING).port(address.port());
    let found = find(&query);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].is_ownerless() && found[0].timer.is_some(), "{found:?}");
    if let Err(error) = SockDiag::open().unwrap().destroy(&found[0]) {
        assert_eq!(error.errno(), Some(libc::EOPNOTSUPP), "{error}");
        return println!("NOT RUN: this kernel has no CONFIG_INET_DIAG_DESTROY");
    }
    assert_eq!(find(&query), []);
}

#[test]
fn unix_listeners_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s\n1");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let found = SockDiag::open().unwrap().unix_sockets(States::LISTEN).unwrap();
    let ours = found.iter().find(|socket| socket.inode == inode(&listener)).unwrap();
    assert_eq!(ours.name.as_deref(), Some(path.as_os_str()));
    assert!(ours.listening && listener.as_raw_fd() >= 0);
}
