//! TCP listening sockets, ours and other processes' of which we have a duplicate: what they are, how they are bound, what they
//! were set to. Source: socket(7), ip(7), ipv6(7), tcp(7).

use crate::memory::errno;
use rustix::io::Errno;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longest socket address that the kernel accepts, in bytes (`struct sockaddr_storage`).
pub const ADDRESS_MAX: usize = 128;

pub(crate) fn option<T: Copy>(socket: impl AsFd, level: i32, name: i32, mut value: T) -> Result<T, Errno> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, whose type is a plain integer or C struct of
    // integers at every call in this crate.
    let result = unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if result < 0 { Err(errno()) } else { Ok(value) }
}

pub(crate) fn set_option<T: Copy>(socket: impl AsFd, level: i32, name: i32, value: &T) -> Result<(), Errno> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`, its size.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn flag(socket: impl AsFd, level: i32, name: i32) -> Result<bool, Errno> {
    option(socket, level, name, 0_i32).map(|value| value != 0)
}

/// Whether it is a TCP or MPTCP stream socket over IPv4 or IPv6, the only kind that is held.
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn is_tcp(socket: impl AsFd) -> Result<bool, Errno> {
    let domain = option(&socket, libc::SOL_SOCKET, libc::SO_DOMAIN, 0_i32)?;
    let protocol = option(&socket, libc::SOL_SOCKET, libc::SO_PROTOCOL, 0_i32)?;
    Ok(matches!(domain, libc::AF_INET | libc::AF_INET6) && matches!(protocol, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP))
}

/// Whether `listen` was called on it (`SO_ACCEPTCONN`).
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn is_listening(socket: impl AsFd) -> Result<bool, Errno> {
    flag(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN)
}

/// Whether `SO_REUSEPORT` is set.
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn reuses_port(socket: impl AsFd) -> Result<bool, Errno> {
    flag(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)
}

/// Sets `SO_REUSEADDR`, and `SO_REUSEPORT` as given. The latter must be set before the first bind of a port to allow a second.
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn set_reuse(socket: impl AsFd, port: bool) -> Result<(), Errno> {
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, &i32::from(port))
}

/// Whether `IPV6_V6ONLY` is set; false for IPv4.
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn is_v6only(socket: impl AsFd) -> Result<bool, Errno> {
    if option(&socket, libc::SOL_SOCKET, libc::SO_DOMAIN, 0_i32)? != libc::AF_INET6 {
        return Ok(false);
    }
    flag(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)
}

/// Index of the network device that it is bound to, 0 for none (`SO_BINDTOIFINDEX`).
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn device(socket: impl AsFd) -> Result<i32, Errno> {
    option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, 0_i32)
}
/// asm-generic/socket.h
const SO_BINDTOIFINDEX: i32 = 62;

/// Whether a socket belongs to the network namespace of this process. True where the kernel cannot say (Linux before 5.14).
pub fn same_network(socket: impl AsFd) -> bool {
    let cookie = |socket: BorrowedFd<'_>| option(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, 0_u64);
    let own = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None);
    match (cookie(socket.as_fd()), own.and_then(|own| cookie(own.as_fd()))) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => true,
    }
}
/// asm-generic/socket.h
const SO_NETNS_COOKIE: i32 = 71;

/// Connections that wait to be accepted on a listener (`tcpi_unacked` of `TCP_INFO` means that on a listener, net/ipv4/tcp.c).
///
/// # Errors
/// `EOPNOTSUPP` on MPTCP, `ENOTSOCK`.
pub fn accept_queue(listener: impl AsFd) -> Result<u32, Errno> {
    // struct tcp_info: 8 bytes of small fields, then rto, ato, snd_mss, rcv_mss, unacked.
    let info = option(listener, libc::IPPROTO_TCP, libc::TCP_INFO, [0_u32; 26])?;
    Ok(info[6])
}

/// The socket's inode: the key to it in sock_diag and in `/proc/PID/fd`.
///
/// # Errors
/// `EBADF`.
pub fn inode(socket: impl AsFd) -> Result<u32, Errno> {
    rustix::fs::fstat(socket).map(|status| status.st_ino as u32)
}

/// The address that it is bound to; port 0 if to none.
///
/// # Errors
/// `EAFNOSUPPORT` if it is not an internet socket.
pub fn address(socket: impl AsFd) -> Result<SocketAddr, Errno> {
    rustix::net::getsockname(socket)?.try_into().map_err(|_| Errno::AFNOSUPPORT)
}

/// Reads a `struct sockaddr_in` or `sockaddr_in6` as a process passed it to `bind`. `None`: another family or too short;
/// the kernel's own answer to it is then the right one.
pub fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET if bytes.len() >= 16 => {
            let ip: [u8; 4] = bytes[4..8].try_into().ok()?;
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(ip), port)))
        }
        // The kernel accepts it without the scope id (SIN6_LEN_RFC2133 is 24).
        libc::AF_INET6 if bytes.len() >= 24 => {
            let flow = u32::from_be_bytes(bytes[4..8].try_into().ok()?);
            let ip: [u8; 16] = bytes[8..24].try_into().ok()?;
            let scope = bytes.get(24..28).and_then(|scope| scope.try_into().ok()).map_or(0, u32::from_ne_bytes);
            Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope)))
        }
        _ => None,
    }
}

/// `bind(2)` with the bytes that a process passed: what they mean, and which error they deserve, is the kernel's to say.
///
/// # Errors
/// Those of `bind(2)`.
pub fn bind_raw(socket: impl AsFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `address.len()` bytes of `address`.
    let result = unsafe { libc::bind(socket.as_fd().as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// What makes two listening sockets members of one SO_REUSEPORT group (besides the owner's uid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// Address and port.
    pub address: SocketAddr,
    /// `IPV6_V6ONLY`.
    pub v6only: bool,
    /// Device index, 0 for none.
    pub device: i32,
}

impl Key {
    /// The key that a not yet bound socket will have once bound to an address.
    ///
    /// # Errors
    /// `ENOTSOCK`, `EBADF`.
    pub fn of(socket: impl AsFd, address: SocketAddr) -> Result<Self, Errno> {
        Ok(Self { device: device(&socket)?, ..Self::new(address, is_v6only(&socket)?) })
    }

    /// The key of a socket without a device. Binding to one IPv6 address makes a socket v6only whatever its option said
    /// (net/ipv6/af_inet6.c), so the key says so from the start.
    pub fn new(address: SocketAddr, v6only: bool) -> Self {
        let one_v6_address = matches!(address.ip(), std::net::IpAddr::V6(ip) if !ip.is_unspecified() && ip.to_ipv4_mapped().is_none());
        Self { address, v6only: v6only || one_v6_address, device: 0 }
    }
}

impl Key {
    /// Whether a connection could reach both, so that two sockets with these keys compete (the bind rule's "overlap").
    pub fn overlaps(&self, other: &Self) -> bool {
        use std::net::IpAddr::{V4, V6};
        if self.address.port() != other.address.port() || (self.device != other.device && self.device != 0 && other.device != 0) {
            return false;
        }
        match (self.address.ip(), other.address.ip()) {
            (V4(one), V4(two)) => one == two || one.is_unspecified() || two.is_unspecified(),
            (V6(one), V6(two)) => one == two || one.is_unspecified() || two.is_unspecified(),
            (V4(v4), V6(v6)) => Self::overlaps_mapped(v4, v6, other.v6only),
            (V6(v6), V4(v4)) => Self::overlaps_mapped(v4, v6, self.v6only),
        }
    }

    fn overlaps_mapped(v4: Ipv4Addr, v6: Ipv6Addr, v6only: bool) -> bool {
        match v6.to_ipv4_mapped() {
            Some(mapped) => mapped == v4 || mapped.is_unspecified() || v4.is_unspecified(),
            None => v6.is_unspecified() && !v6only,
        }
    }
}

/// A new TCP socket, close-on-exec and blocking, bound as the key says with `SO_REUSEADDR`, and `SO_REUSEPORT` if `shared`.
/// It does not listen yet.
///
/// # Errors
/// Those of `bind(2)`: `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`.
pub fn bound(key: &Key, shared: bool) -> Result<OwnedFd, Errno> {
    let socket = unbound(key, shared)?;
    rustix::net::bind(&socket, &key.address)?;
    Ok(socket)
}

fn unbound(key: &Key, shared: bool) -> Result<OwnedFd, Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if key.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_reuse(&socket, shared)?;
    if key.address.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &i32::from(key.v6only))?;
    }
    if key.device != 0 {
        set_option(&socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &key.device)?;
    }
    Ok(socket)
}

/// [`bound`], with a socket that belongs to a user: sockets of different users are never in one group (net/core/sock_reuseport.c,
/// `inet_bind_conflict`), and it is the owner at `bind` and `listen` that counts.
///
/// # Errors
/// As [`bound`], and `EPERM` for another user than our own without `CAP_CHOWN`.
pub fn bound_as(key: &Key, shared: bool, uid: u32) -> Result<OwnedFd, Errno> {
    let socket = unbound(key, shared)?;
    set_owner(&socket, uid)?;
    rustix::net::bind(&socket, &key.address)?;
    Ok(socket)
}

/// The user that a socket belongs to: at first the one who made it.
///
/// # Errors
/// `EBADF`.
pub fn owner(socket: impl AsFd) -> Result<u32, Errno> {
    rustix::fs::fstat(socket).map(|status| status.st_uid)
}

/// Gives a socket to a user, whatever it does at the time (`fchown`; the kernel's `sk_uid` follows).
///
/// # Errors
/// `EPERM` without `CAP_CHOWN`.
pub fn set_owner(socket: impl AsFd, uid: u32) -> Result<(), Errno> {
    if owner(&socket)? == uid {
        return Ok(());
    }
    rustix::fs::fchown(socket, Some(rustix::fs::Uid::from_raw(uid)), None)
}

/// Makes a fresh listener with a backlog of 0 drop all connection requests by filling its queue with one connection of our own,
/// which nobody ever accepts. For where [`crate::reuseport::mute`] is not permitted. `before` is told the source port of that
/// connection before it is made, so that it can be routed to the listener.
///
/// # Errors
/// Those of `connect(2)`; `ETIMEDOUT` if it was not established within a tenth of a second.
pub fn fill_queue(listener: impl AsFd, before: impl FnOnce(u16)) -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let mut to = address(&listener)?;
    if to.ip().is_unspecified() {
        to.set_ip(if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(to.ip(), 0))?;
    before(address(&socket)?.port());
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let soon = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut sources = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::OUT)];
    match rustix::event::poll(&mut sources, Some(&soon))? {
        0 => Err(Errno::TIMEDOUT),
        _ => rustix::net::sockopt::socket_error(&socket)?,
    }
}

#[cfg(test)]
pub(crate) fn listener_for_test(address: SocketAddr) -> OwnedFd {
    bound(&Key::new(address, false), true).expect("bind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_as_the_kernel_reads_them() {
        let v4 = [2, 0, 0x13, 0x88, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse_address(&v4), Some("127.0.0.1:5000".parse().expect("address")));
        assert_eq!(parse_address(&v4[..15]), None);
        let mut v6 = [0_u8; 28];
        v6[0] = 10;
        v6[2..4].copy_from_slice(&[0x13, 0x88]);
        v6[23] = 1;
        assert_eq!(parse_address(&v6), Some("[::1]:5000".parse().expect("address")));
        assert_eq!(parse_address(&v6[..24]), Some("[::1]:5000".parse().expect("address")));
        assert_eq!(parse_address(&[1, 0, b'/', b'x']), None);
        assert_eq!(parse_address(&[]), None);
    }

    #[test]
    fn a_filled_queue_takes_nobody_and_refuses_nobody() {
        let listener = listener_for_test((Ipv4Addr::LOCALHOST, 0).into());
        rustix::net::listen(&listener, 0).expect("listen");
        fill_queue(&listener, |port| assert_ne!(port, 0)).expect("fill");
        assert_eq!(accept_queue(&listener), Ok(1));
        let to = address(&listener).expect("address");
        let tried = std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_millis(100));
        assert_eq!(tried.err().map(|error| error.kind()), Some(std::io::ErrorKind::TimedOut));
        assert_eq!(accept_queue(&listener), Ok(1));
    }

    #[test]
    fn overlap_is_what_the_bind_rule_says() {
        let key = |address: &str, v6only| Key { address: address.parse().expect("address"), v6only, device: 0 };
        let rows = [
            ("0.0.0.0:80", false, "127.0.0.1:80", false, true),
            ("127.0.0.1:80", false, "127.0.0.2:80", false, false),
            ("0.0.0.0:80", false, "[::]:80", false, true),
            ("0.0.0.0:80", false, "[::]:80", true, false),
            ("127.0.0.1:80", false, "[::1]:80", false, false),
            ("127.0.0.1:80", false, "[::ffff:127.0.0.1]:80", false, true),
            ("[::]:80", false, "[::1]:80", false, true),
            ("0.0.0.0:80", false, "0.0.0.0:81", false, false),
        ];
        for (one, one_only, two, two_only, expected) in rows {
            assert_eq!(key(one, one_only).overlaps(&key(two, two_only)), expected, "{one} {two}");
            assert_eq!(key(two, two_only).overlaps(&key(one, one_only)), expected, "{two} {one}");
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        let tcp = listener_for_test((Ipv4Addr::LOCALHOST, 0).into());
        assert_eq!(is_tcp(&tcp), Ok(true));
        assert_eq!(is_listening(&tcp), Ok(false));
        assert_eq!(reuses_port(&tcp), Ok(true));
        let (unix, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        assert_eq!(is_tcp(&unix), Ok(false));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        assert_eq!(is_tcp(&udp), Ok(false));
        assert_eq!(is_tcp(std::fs::File::open("/dev/null").expect("open")), Err(Errno::NOTSOCK));
    }
}
