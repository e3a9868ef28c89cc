//! Owners in the places where no tool looks, and processes that misbehave while they are looked at.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails; what cannot run says so")]

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use stayput_ports::facts::Via;
use stayput_ports::{Options, Report, inspect};

fn look(port: u16) -> Report {
    let options = Options { elsewhere: false, ..Options::default() };
    inspect(&[port], &options, |_| {}).unwrap().remove(0)
}

fn us() -> i32 {
    std::process::id().cast_signed()
}

/// A Python program that prints its port, then stays until it is killed; `None`, said aloud, without Python.
fn python(program: &str) -> Option<(Child, u16)> {
    let spawned = Command::new("python3").args(["-c", program]).stdout(Stdio::piped()).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        println!("NOT RUN: no python3");
        return None;
    };
    let mut text = String::new();
    let mut byte = [0];
    while child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(byte[0].into());
    }
    let Ok(port) = text.trim().parse() else {
        child.wait().unwrap();
        println!("NOT RUN: {text}");
        return None;
    };
    Some((child, port))
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn among_thousands_of_fds_at_any_number() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let _crowd: Vec<OwnedFd> = (0..600).map(|_| rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 20).unwrap()).collect();
    let high = rustix::io::fcntl_dupfd_cloexec(&listener, 900).unwrap();
    drop(listener);
    let report = look(port);
    assert_eq!(report.holders.len(), 1);
    assert_eq!(report.holders[0].process.pid, us());
    drop(high);
    assert!(look(port).holders.is_empty());
}

#[test]
fn all_sharers_wherever_their_fds_are() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut children: Vec<Child> = (0..5)
        .map(|_| {
            let copy = OwnedFd::from(listener.try_clone().unwrap());
            Command::new("sleep").arg("300").stdin(Stdio::from(copy)).spawn().unwrap()
        })
        .collect();
    let report = look(port);
    let mut pids: Vec<i32> = report.holders.iter().map(|holder| holder.process.pid).collect();
    pids.sort_unstable();
    let mut expected: Vec<i32> = children.iter().map(|child| child.id().cast_signed()).chain([us()]).collect();
    expected.sort_unstable();
    assert_eq!(pids, expected);
    // We opened it; they have inherited it, and come after us.
    assert_eq!(report.holders[0].process.pid, us());
    assert!(report.holders[1..].iter().all(|holder| holder.process.stray.is_some()));
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn in_flight_between_two_sockets() {
    use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair};
    use std::os::fd::AsFd;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (a, _b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    let fds = [listener.as_fd()];
    assert!(buffer.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&a, &[std::io::IoSlice::new(b"x")], &mut buffer, SendFlags::empty()).unwrap();
    drop(listener);
    let report = look(port);
    assert!(report.holders.iter().any(|holder| holder.via == Via::InFlight && holder.process.pid == us()), "{:?}", report.holders);
    assert!(report.summary.contains("in flight"), "{}", report.summary);
}

#[test]
fn in_a_thread_whose_main_thread_is_gone() {
    let program = "
import ctypes, socket, threading, time
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
print(s.getsockname()[1], flush=True)
threading.Thread(target=lambda: time.sleep(300)).start()
ctypes.CDLL(None).syscall(60, 0)
";
    let Some((child, port)) = python(program) else { return };
    let pid = child.id().cast_signed();
    let stat = format!("/proc/{pid}/stat");
    // exit(2) of the main thread alone: the process becomes a zombie with a living thread.
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    let report = look(port);
    assert_eq!(report.holders.iter().map(|holder| (holder.process.pid, holder.via)).collect::<Vec<_>>(), [(pid, Via::Thread)]);
    end(child);
}

#[test]
fn registered_with_an_io_uring() {
    let program = "
import ctypes, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))
if ring < 0: sys.exit(print('io_uring_setup:', os.strerror(ctypes.get_errno())))
fds = (ctypes.c_int * 1)(s.fileno())
if libc.syscall(427, ring, 2, fds, 1) < 0: sys.exit(print('io_uring_register:', os.strerror(ctypes.get_errno())))
port = s.getsockname()[1]
s.close()
print(port, flush=True)
time.sleep(300)
";
    let Some((child, port)) = python(program) else { return };
    let report = look(port);
    let pid = child.id().cast_signed();
    assert_eq!(report.holders.iter().map(|holder| (holder.process.pid, holder.via)).collect::<Vec<_>>(), [(pid, Via::IoUring)]);
    end(child);
}

#[test]
fn processes_that_vanish_while_they_are_looked_at() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        for _ in 0..30 {
            let report = look(port);
            assert!(report.holders.iter().any(|holder| holder.process.pid == us()), "{report:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn an_outgoing_connection_is_no_server() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let port = client.local_addr().unwrap().port();
    let report = look(port);
    assert_eq!(report.outcome(), stayput_ports::Outcome::Taken);
    assert!(report.summary.contains("by a client"), "{}", report.summary);
    let plan = stayput_ports::free::plan(&report, stayput_ports::bind::Transport::Tcp, false);
    assert!(plan.stop.is_empty(), "{plan:?}");
}
