//! Waiting for a port, by the kernel's own events where it has them.
//!
//! The end of a socket is an event (netlink destroy groups), and so is the end of a process (pidfd). Two things are not: the
//! expiry of TIME_WAIT and other orphans, for which the kernel tells a lower bound in advance, and the *beginning* of
//! listening, for which nothing exists short of tracing; these are looked for with a pause that grows.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use stayput_kernel::bind_probe::{self, Attempt, Outcome as ProbeOutcome};
use stayput_kernel::netlink;
use stayput_kernel::sock_diag::{DestroyEvents, Family, Protocol, Query, SockDiag, Socket, State, States, Timer};

use crate::bind::{Server, Transport, clash};
use crate::collect::inspect;
use crate::facts::PortSocket;
use crate::report::{Options, Report};
use crate::verdict::errno_name;

/// A look in between, should an event have been lost (ENOBUFS) or not be sent.
const SAFETY: Duration = Duration::from_secs(2);

/// What to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// This server could bind.
    Free(Server),
    /// Nobody listens.
    Closed,
    /// Somebody listens.
    Listening,
    /// A connection is accepted by a process, not only by the kernel.
    Accepting,
    /// `GET path` is answered with a status below 400.
    Http(String),
}

/// Why waiting makes no sense.
#[derive(Debug)]
pub enum Error {
    /// The kernel's list or its events cannot be had.
    Netlink(netlink::Error),
    /// bind() fails for a reason that does not go away with any socket.
    Hopeless {
        /// The server.
        server: Server,
        /// Why.
        errno: Errno,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Netlink(_) => write!(f, "the kernel's socket events cannot be had"),
            Self::Hopeless { server, errno } => {
                write!(f, "{} gets {}, which no waiting cures", crate::verdict::describe(server), errno_name(*errno))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Netlink(error) => Some(error),
            Self::Hopeless { .. } => None,
        }
    }
}

impl From<netlink::Error> for Error {
    fn from(error: netlink::Error) -> Self {
        Self::Netlink(error)
    }
}

/// Waits until `until` holds for `port`; false if `deadline` passed before. `about` is told what stands in the way, once it
/// is known (waiting does not wait for that).
///
/// # Errors
/// See [`Error`].
pub fn wait(port: u16, until: &Until, deadline: Option<Instant>, about: impl FnMut(&Report)) -> Result<bool, Error> {
    match until {
        Until::Free(server) => {
            let mut diag = SockDiag::open()?;
            by_events(port, deadline, about, || is_free(server, port, &mut diag))
        }
        Until::Closed => {
            let mut diag = SockDiag::open()?;
            by_events(port, deadline, about, || Ok(Look { done: listeners(&mut diag, port)?.is_empty(), again: SAFETY }))
        }
        Until::Listening | Until::Accepting | Until::Http(_) => by_looking(port, until, deadline),
    }
}

/// Waits until none of `inodes` is on `port` any more.
///
/// # Errors
/// See [`Error`].
pub fn wait_released<S: BuildHasher>(port: u16, inodes: &HashSet<u32, S>, deadline: Option<Instant>) -> Result<bool, Error> {
    let mut diag = SockDiag::open()?;
    by_events(
        port,
        deadline,
        |_| {},
        || {
            let mut left = false;
            for family in Family::ALL {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    // A family or protocol that this kernel lacks has nothing left.
                    let query = Query::new(family, protocol, States::ALL).port(port);
                    let _ = diag.each(&query, |socket| left |= inodes.contains(&socket.inode));
                }
            }
            Ok(Look { done: !left, again: SAFETY })
        },
    )
}

/// What one look said, and when to look again without an event.
struct Look {
    done: bool,
    again: Duration,
}

fn by_events(
    port: u16,
    deadline: Option<Instant>,
    mut about: impl FnMut(&Report),
    mut look: impl FnMut() -> Result<Look, Error>,
) -> Result<bool, Error> {
    // Subscribed before the first look: what ends in between is not missed.
    let mut events = DestroyEvents::subscribe(true, true)?;
    let mut state = look()?;
    if state.done {
        return Ok(true);
    }
    let background = Background::start(port);
    let mut pidfds: Vec<OwnedFd> = Vec::new();
    loop {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Ok(false);
        }
        let left = deadline.map_or(state.again, |deadline| state.again.min(deadline - now));
        let woken = {
            let mut fds = vec![PollFd::new(&events, PollFlags::IN)];
            fds.extend(background.iter().map(|background| PollFd::new(&*background.done, PollFlags::IN)));
            let processes = fds.len();
            fds.extend(pidfds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            // EINTR is as good as a timeout: one look more.
            let _ = poll(&mut fds, Some(&timespec(left)));
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            (ready.first() == Some(&true), processes, ready)
        };
        let (event, processes, ready) = woken;
        if let Some(report) = background.as_ref().filter(|_| processes == 2 && ready.get(1) == Some(&true)).and_then(Background::take) {
            about(&report);
            pidfds = report.holders.iter().filter_map(|holder| open(holder.process.pid)).collect();
            continue;
        }
        // A process that has ended stays readable: it is asked about once.
        let mut index = processes;
        pidfds.retain(|_| {
            index += 1;
            ready.get(index - 1) != Some(&true)
        });
        let mut ours = !event || ready.iter().skip(processes).any(|ready| *ready);
        if event {
            ours |= !events.drain(|socket| ours |= socket.local.port() == port)?;
        }
        if ours {
            state = look()?;
            if state.done {
                return Ok(true);
            }
        }
    }
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

/// Finding out whom we wait for takes a while on a large machine; the event must not wait for it.
struct Background {
    done: Arc<OwnedFd>,
    report: std::sync::mpsc::Receiver<Report>,
}

impl Background {
    fn start(port: u16) -> Option<Self> {
        let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).ok()?);
        let (send, report) = std::sync::mpsc::channel();
        let signal = Arc::clone(&done);
        std::thread::spawn(move || {
            // No probe: it would be in the way of those who wait for the same port.
            let options = Options { probe: false, elsewhere: false, ..Options::default() };
            let found = inspect(&[port], &options, |_| {}).ok().and_then(|reports| reports.into_iter().next());
            if let Some(report) = found
                && send.send(report).is_ok()
            {
                // Wakes the poll; an eventfd that is not full cannot refuse.
                let _ = rustix::io::write(&*signal, &1_u64.to_ne_bytes());
            }
        });
        Some(Self { done, report })
    }

    fn take(&self) -> Option<Report> {
        // Resets the eventfd.
        let _ = rustix::io::read(&*self.done, &mut [0_u8; 8]);
        self.report.try_recv().ok()
    }
}

/// One bind that is undone at once; when it fails, the timers tell when to look again.
fn is_free(server: &Server, port: u16, diag: &mut SockDiag) -> Result<Look, Error> {
    let protocol = if server.transport == Transport::Udp { Protocol::Udp } else { Protocol::Tcp };
    if protocol == Protocol::Udp && (server.reuseaddr || server.reuseport) && !on_port(diag, port, protocol).is_empty() {
        // Binding here could share the port with its holder and take datagrams.
        return Ok(Look { done: false, again: SAFETY });
    }
    let us = rustix::process::geteuid().as_raw();
    let attempt = Attempt {
        protocol,
        address: SocketAddr::new(server.address, port),
        reuseaddr: server.reuseaddr,
        reuseport: server.reuseport,
        v6only: server.v6only,
        uid: (server.uid != us).then_some(server.uid),
        listen: false,
    };
    match bind_probe::attempt(&attempt).map(|answer| answer.outcome) {
        Ok(ProbeOutcome::Works) => Ok(Look { done: true, again: SAFETY }),
        Ok(ProbeOutcome::Bind(Errno::ADDRINUSE) | ProbeOutcome::Listen(_)) => {
            Ok(Look { done: false, again: next_look(server, &on_port(diag, port, protocol)) })
        }
        Ok(ProbeOutcome::Bind(errno)) | Err(errno) => Err(Error::Hopeless { server: server.clone(), errno }),
    }
}

/// When to look again although no event came.
fn next_look(server: &Server, sockets: &[Socket]) -> Duration {
    let mut again = SAFETY;
    let blocking = sockets
        .iter()
        .map(|raw| PortSocket::new(raw.clone()))
        .filter(|socket| socket.bound().is_some_and(|bound| clash(server, &bound) != crate::bind::Clash::No));
    let (timed, others): (Vec<_>, Vec<_>) = blocking.partition(|socket| matches!(socket.raw.timer, Some((Timer::TimeWait, _))));
    if others.is_empty() {
        // The kernel's figure is a lower bound: up to two seconds late were measured, so a short pause follows.
        let last = timed.iter().filter_map(|socket| socket.not_before).max();
        again = last.map_or(Duration::from_millis(50), |left| left.clamp(Duration::from_millis(50), Duration::from_mins(2)));
    } else if others.iter().all(|socket| socket.inode == 0 && socket.raw.state != State::Established) {
        // Orphans that still talk to their peer end without an event.
        again = Duration::from_millis(250);
    }
    again
}

fn on_port(diag: &mut SockDiag, port: u16, protocol: Protocol) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for family in Family::ALL {
        // A kernel without IPv6 has none of them.
        let _ = diag.each(&Query::new(family, protocol, States::ALL).port(port), |socket| sockets.push(socket));
    }
    sockets
}

fn listeners(diag: &mut SockDiag, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let asked = diag.each(&Query::new(family, Protocol::Tcp, States::LISTEN).port(port), |socket| found.push(socket.local));
        if let (Err(error), Family::V4) = (asked, family) {
            return Err(error.into());
        }
    }
    Ok(found)
}

/// No kernel event says that somebody listens now: so a look after 1 ms, 2 ms, 4 ms … 100 ms at most.
fn by_looking(port: u16, until: &Until, deadline: Option<Instant>) -> Result<bool, Error> {
    let mut diag = SockDiag::open()?;
    let mut pause = Duration::from_millis(1);
    loop {
        let addresses = listeners(&mut diag, port)?;
        let left = deadline.map_or(Duration::from_secs(5), |deadline| deadline.saturating_duration_since(Instant::now()));
        let patience = left.clamp(Duration::from_millis(10), Duration::from_secs(5));
        for address in addresses {
            let address = reachable(address);
            let done = match until {
                Until::Accepting => accepts(address, &mut diag, patience),
                Until::Http(path) => answers(address, path, patience),
                _ => true,
            };
            if done {
                return Ok(true);
            }
        }
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Where to connect to reach a listener: the wildcard by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let mut address = address;
    address.set_ip(ip);
    address
}

/// Whether a process takes our connection out of the queue: then the server's end of it has an inode. A server that accepts
/// and closes at once has sent data or an end of file; a listener that goes away with its queue resets.
fn accepts(address: SocketAddr, diag: &mut SockDiag, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let Ok(stream) = TcpStream::connect_timeout(&address, patience) else { return false };
    let Ok(ours) = stream.local_addr() else { return false };
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let mut pause = Duration::from_micros(500);
    loop {
        let mut accepted = false;
        for family in Family::ALL {
            let query = Query::new(family, Protocol::Tcp, States::CONNECTIONS).port(address.port());
            let _ = diag.each(&query, |socket| accepted |= socket.remote.port() == ours.port() && socket.inode != 0);
        }
        match stream.peek(&mut [0; 1]) {
            Ok(_) => return true,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return false,
            Err(_) if accepted => return true,
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether `GET path` is answered with a status below 400.
fn answers(address: SocketAddr, path: &str, patience: Duration) -> bool {
    status(address, path, patience).is_some_and(|status| (100..400).contains(&status))
}

fn status(address: SocketAddr, path: &str, patience: Duration) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.set_write_timeout(Some(patience)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: stayput\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut head = Vec::new();
    let mut buffer = [0; 256];
    while !head.contains(&b'\n') && head.len() < 1024 {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        head.extend_from_slice(buffer.get(..read)?);
    }
    parse_status(&head)
}

/// `HTTP/1.1 200 OK` → 200.
fn parse_status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn status_lines_are_read() {
        assert_eq!(parse_status(b"HTTP/1.1 204 No Content\r\nX"), Some(204));
        for bad in [&b""[..], b"SSH-2.0-x\n", b"HTTP/1.1\n", b"\xff\n"] {
            assert_eq!(parse_status(bad), None);
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn free_is_told_when_the_last_listener_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server::usual(IpAddr::V4(Ipv4Addr::LOCALHOST), rustix::process::geteuid().as_raw());
        let until = Until::Free(server);
        assert!(!wait(port, &until, Some(Instant::now()), |_| {}).unwrap());
        let (send, told) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || wait(port, &until, Some(soon()), |report| send.send(report.summary.clone()).unwrap()));
        let sentence = told.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(sentence.starts_with(&format!("Port {port} is taken")), "{sentence}");
        drop(listener);
        assert!(waiting.join().unwrap().unwrap());
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn listening_is_not_yet_accepting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(wait(port, &Until::Listening, Some(Instant::now()), |_| {}).unwrap());
        let short = Some(Instant::now() + Duration::from_millis(30));
        assert!(!wait(port, &Until::Accepting, short, |_| {}).unwrap());
        // Ends with the test's process. Connections of the first, failed wait are in the queue as well.
        std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
        assert!(wait(port, &Until::Accepting, Some(soon()), |_| {}).unwrap());
    }

    #[test]
    fn what_waiting_cannot_cure_is_said() {
        let server = Server::usual("192.0.2.1".parse().unwrap(), rustix::process::geteuid().as_raw());
        let error = wait(5000, &Until::Free(server), Some(soon()), |_| {}).unwrap_err();
        assert!(error.to_string().contains("EADDRNOTAVAIL"), "{error}");
    }
}
