//! The processes of the story: a small web server with the socket options, the children and the manners that the story (or its true causes)
//! needs. Each runs as a process of its own (`stayput __story ...`), with real sockets, and ends when whoever started it is gone.
//!
//! It refuses to be a good server: what it does wrong is its purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::Signal;
use stayput_kernel::process;

/// The hidden subcommand's name.
pub const NAME: &str = "__story";

/// Socket options of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// None at all.
    None,
    /// SO_REUSEADDR and SO_REUSEPORT after bind and listen, as the story's patch sets them.
    Late,
    /// SO_REUSEADDR before bind: what nearly every server does.
    Addr,
    /// SO_REUSEADDR and SO_REUSEPORT before bind: the story's cure, done right.
    Both,
}

impl Reuse {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Late => "late",
            Self::Addr => "addr",
            Self::Both => "both",
        }
    }

    /// What is set when bind() is called: SO_REUSEADDR, SO_REUSEPORT.
    pub fn at_bind(self) -> (bool, bool) {
        match self {
            Self::None | Self::Late => (false, false),
            Self::Addr => (true, false),
            Self::Both => (true, true),
        }
    }
}

/// A child that the server leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// It inherits the listening socket and does nothing with it.
    Stray,
    /// It inherits the listening socket and serves on it, as a reloader's child does.
    Worker,
}

impl Child {
    /// As it is written on the command line; also its role.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stray => "stray",
            Self::Worker => "worker",
        }
    }

    /// What it is called in the list of processes.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Stray => "helper-of-dashboard",
            Self::Worker => "reloader-child",
        }
    }
}

/// What the server is called in the list of processes.
pub(crate) const PROGRAM: &str = "web-dashboard";

/// What the server is to do.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Socket options.
    pub reuse: Reuse,
    /// Time before bind: what a program imports.
    pub boot: Duration,
    /// After SIGTERM it goes on for so long. Zero: it dies of the signal.
    pub slow_exit: Duration,
    /// Child.
    pub child: Option<Child>,
    /// It ends when its standard input does.
    pub tied: bool,
}

/// Why a process of the story ended otherwise than by a signal.
#[derive(Debug)]
pub enum Error {
    /// EADDRINUSE.
    PortTaken(u16),
    /// Another failure: of which call.
    Call(&'static str, Errno),
    /// A child could not be started.
    Child(std::io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PortTaken(port) => write!(f, "FATAL ERROR: Port {port} is already in use ([Errno 98] Address already in use)"),
            Self::Call(call, errno) => write!(f, "FATAL ERROR: {call}: {errno}"),
            Self::Child(error) => write!(f, "FATAL ERROR: cannot start a child: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs the server until a signal, or until who started it is gone.
///
/// # Errors
/// It could not listen.
pub fn serve(server: &Server) -> Result<(), Error> {
    let signals = if server.slow_exit.is_zero() {
        None
    } else {
        Some(process::signals(&[Signal::TERM.as_raw()]).map_err(|errno| Error::Call("signalfd", errno))?)
    };
    std::thread::sleep(server.boot);
    let listener = listening(server.port, server.reuse)?;
    let mut child = server.child.map(|child| start_child(&listener, child, server.tied)).transpose()?;
    if server.child != Some(Child::Worker) {
        accept_in_background(listener)?;
    }
    if let (Some(child), Some(Child::Worker)) = (&mut child, server.child) {
        // A reloader does nothing but wait for its child.
        let _ = child.wait();
        return Ok(());
    }
    wait_for_the_end(server.tied, signals.as_ref());
    std::thread::sleep(server.slow_exit);
    Ok(())
}

/// Holds what it inherited until who started it is gone.
pub fn stray(tied: bool) {
    wait_for_the_end(tied, None);
}

/// Serves on the inherited listener with this number until who started it is gone.
///
/// # Errors
/// There is no such descriptor.
pub fn worker(descriptor: i32, tied: bool) -> Result<(), Error> {
    let listener = stayput_kernel::spawn::inherited(descriptor).map_err(|errno| Error::Call("inherited listener", errno))?;
    accept_in_background(listener)?;
    wait_for_the_end(tied, None);
    Ok(())
}

/// Becomes `command`, which gets SIGTERM when the thread of `parent` that started us ends.
pub fn tied(parent: i32, command: &[std::ffi::OsString]) -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    let Some((program, arguments)) = command.split_first() else {
        return std::io::Error::other("no command");
    };
    // It survives execve(2) of an ordinary program (prctl(2)).
    if let Err(errno) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return errno.into();
    }
    // One that ended before the call sends nothing any more.
    if rustix::process::getppid().is_none_or(|now| now.as_raw_nonzero().get() != parent) {
        return std::io::Error::other("who started this is gone");
    }
    Command::new(program).args(arguments).exec()
}

fn listening(port: u16, reuse: Reuse) -> Result<OwnedFd, Error> {
    let call = |name| move |errno| Error::Call(name, errno);
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(call("socket"))?;
    let (address, shared) = reuse.at_bind();
    sockopt::set_socket_reuseaddr(&socket, address).map_err(call("setsockopt"))?;
    sockopt::set_socket_reuseport(&socket, shared).map_err(call("setsockopt"))?;
    let taken = |name| move |errno| if errno == Errno::ADDRINUSE { Error::PortTaken(port) } else { Error::Call(name, errno) };
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).map_err(taken("bind"))?;
    listen(&socket, 128).map_err(taken("listen"))?;
    if reuse == Reuse::Late {
        sockopt::set_socket_reuseaddr(&socket, true).map_err(call("setsockopt"))?;
        sockopt::set_socket_reuseport(&socket, true).map_err(call("setsockopt"))?;
    }
    Ok(socket)
}

/// With the listener as Werkzeug leaves it: inheritable.
fn start_child(listener: &OwnedFd, child: Child, tied: bool) -> Result<std::process::Child, Error> {
    fcntl_setfd(listener, FdFlags::empty()).map_err(|errno| Error::Call("fcntl", errno))?;
    let number = listener.as_raw_fd().to_string();
    // Beside our own name stand the names of the children; whoever runs us by hand has only ours.
    let own = std::env::args_os().next().map(std::path::PathBuf::from).unwrap_or_default();
    let beside = own.with_file_name(child.program());
    let mut command = Command::new(if beside.exists() { beside } else { "/proc/self/exe".into() });
    command.args([NAME, child.name()]);
    if child == Child::Worker {
        command.args(["--fd", &number]);
    }
    if tied {
        command.arg("--tied");
    }
    command.stdin(Stdio::inherit()).spawn().map_err(Error::Child)
}

fn wait_for_the_end(tied: bool, signals: Option<&OwnedFd>) {
    let stdin = std::io::stdin();
    let mut fds = Vec::new();
    if let Some(signals) = signals {
        fds.push(PollFd::new(signals, PollFlags::IN));
    }
    let stdin_fd = stdin.as_fd();
    if tied {
        fds.push(PollFd::from_borrowed_fd(stdin_fd, PollFlags::IN));
    }
    // Nobody ever writes to the pipe: an event is a signal, or the end.
    while poll(&mut fds, None) == Err(Errno::INTR) {}
}

fn accept_in_background(listener: OwnedFd) -> Result<(), Error> {
    let listener = TcpListener::from(listener);
    let accept = move || {
        for stream in listener.incoming().flatten() {
            // A client that cannot get a thread is dropped; that is a failure that the client sees and counts.
            let _ = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || answer(stream));
        }
    };
    std::thread::Builder::new().spawn(accept).map(drop).map_err(Error::Child)
}

/// One request per connection, and the server closes first, as HTTP/1.0 has it. `/live` goes on until the client leaves, as a WebSocket does.
fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.by_ref().take(4096).read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let mut line = String::new();
    while reader.by_ref().take(4096).read_line(&mut line).unwrap_or(0) > 2 {
        line.clear();
    }
    let mut stream = reader.into_inner();
    let path = first.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/live") {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        while stream.write_all(b"data: beat\n\n").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
        return;
    }
    let n = path.split_once("n=").map_or("", |(_, n)| n);
    let n: String = n.chars().filter(char::is_ascii_digit).collect();
    let body = format!("{{\"pid\": {}, \"n\": \"{n}\"}}", std::process::id());
    let head = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes());
}
