//! A network namespace of one's own, and sockets in every state the bind rule knows.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests: what fails here fails the test")]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// SO_REUSEADDR and SO_REUSEPORT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) ra: bool,
    pub(crate) rp: bool,
}

pub(crate) const NONE: Flags = Flags { ra: false, rp: false };
pub(crate) const RA: Flags = Flags { ra: true, rp: false };
pub(crate) const RP: Flags = Flags { ra: false, rp: true };
pub(crate) const BOTH: Flags = Flags { ra: true, rp: true };
pub(crate) const ALL: [Flags; 4] = [NONE, RA, RP, BOTH];

impl Flags {
    pub(crate) fn name(self) -> &'static str {
        match (self.ra, self.rp) {
            (false, false) => "none",
            (true, false) => "RA",
            (false, true) => "RP",
            (true, true) => "RA+RP",
        }
    }
}

/// Runs `test` in a thread with a network namespace of its own, loopback up. False, said aloud, without the right to.
pub(crate) fn in_namespace(test: impl FnOnce() + Send) -> bool {
    // One at a time: a fork for another test, or a look of it at our fds, holds our sockets for a moment longer than we do.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            if let Err(errno) = unshare_network() {
                println!("NOT RUN: no network namespace of our own ({errno}); run as root");
                return false;
            }
            loopback_up();
            test();
            true
        });
        match running.join() {
            Ok(ran) => ran,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[expect(deprecated, reason = "the unsafe variant is about fd tables; a network namespace takes nothing away from safe code")]
fn unshare_network() -> Result<(), Errno> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
}

/// RTM_NEWLINK for interface 1 with IFF_UP (rtnetlink(7)).
fn loopback_up() {
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    let mut message = Vec::new();
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&16_u16.to_ne_bytes());
    message.extend_from_slice(&5_u16.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[0, 0, 0, 0]);
    message.extend_from_slice(&1_i32.to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    rustix::net::sendto(&fd, &message, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0)).unwrap();
    let mut reply = [0; 256];
    let (read, _) = rustix::net::recv(&fd, &mut reply, RecvFlags::empty()).unwrap();
    assert_eq!(reply[16..20], [0; 4], "loopback: {:?}", &reply[..read]);
}

pub(crate) fn any() -> IpAddr {
    [0, 0, 0, 0].into()
}

pub(crate) fn local() -> IpAddr {
    [127, 0, 0, 1].into()
}

/// A TCP or UDP socket with options set.
pub(crate) fn socket(address: IpAddr, kind: SocketType, flags: Flags, v6only: bool) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, v6only).unwrap();
    }
    set(&fd, flags);
    fd
}

pub(crate) fn set(fd: &OwnedFd, flags: Flags) {
    sockopt::set_socket_reuseaddr(fd, flags.ra).unwrap();
    sockopt::set_socket_reuseport(fd, flags.rp).unwrap();
}

pub(crate) fn bound(address: SocketAddr, flags: Flags) -> OwnedFd {
    let fd = socket(address.ip(), SocketType::STREAM, flags, false);
    rustix::net::bind(&fd, &address).unwrap();
    fd
}

pub(crate) fn listener(address: SocketAddr, flags: Flags, backlog: i32) -> OwnedFd {
    let fd = bound(address, flags);
    rustix::net::listen(&fd, backlog).unwrap();
    fd
}

pub(crate) fn connect(port: u16) -> OwnedFd {
    let fd = socket(local(), SocketType::STREAM, NONE, false);
    rustix::net::connect(&fd, &SocketAddr::new(local(), port)).unwrap();
    fd
}

/// A listener on 0.0.0.0 and one accepted connection: (listener, server's end, client's end).
pub(crate) fn connection(port: u16, flags: Flags) -> (OwnedFd, OwnedFd, OwnedFd) {
    let listener = listener(SocketAddr::new(any(), port), flags, 8);
    let client = connect(port);
    let server = rustix::net::acceptfrom_with(&listener, SocketFlags::CLOEXEC).unwrap().0;
    (listener, server, client)
}

/// Waits until the peer's end of file has arrived.
pub(crate) fn read_eof(fd: &OwnedFd) {
    while !matches!(rustix::net::recv(fd, &mut [0_u8; 64], RecvFlags::empty()), Ok((0, _)) | Err(_)) {}
}

/// Writes until the peer's window and our buffer are full.
pub(crate) fn fill(fd: &OwnedFd) {
    let block = vec![7; 65536];
    while rustix::net::send(fd, &block, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {}
}

/// What a server gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    Works,
    Bind(Errno),
    Listen(Errno),
}

/// A real bind() and listen() by `uid`, in a thread of its own.
pub(crate) fn really(address: SocketAddr, kind: SocketType, flags: Flags, v6only: bool, uid: u32) -> Truth {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                if uid != rustix::process::geteuid().as_raw() {
                    let uid = rustix::process::Uid::from_raw(uid);
                    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                }
                let fd = socket(address.ip(), kind, flags, v6only);
                if let Err(errno) = rustix::net::bind(&fd, &address) {
                    return Truth::Bind(errno);
                }
                if kind == SocketType::STREAM
                    && let Err(errno) = rustix::net::listen(&fd, 8)
                {
                    return Truth::Listen(errno);
                }
                Truth::Works
            })
            .join()
            .unwrap()
    })
}

/// Waits for a condition, at most ten seconds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
