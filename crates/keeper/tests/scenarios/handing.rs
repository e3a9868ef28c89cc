//! Listeners that go from one generation to the next.

use crate::brain::{Brain, DEADLINE, SERVER, answer, answers, executed, fifo, free_address, kill, probe_from, service_user};
use stayput_keeper::protocol::{Event, ExitStatus, GenerationId, Origin, Request, Scope, Trap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

/// A restart: the new one beside the old, unselected; a probe reaches it alone; then it takes all.
pub(crate) fn handover(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    assert_eq!(brain.wait("execution", executed(1)), Trap::Active);
    let first = brain.listening(1);
    assert_eq!((first.address, first.origin, first.selected), (address, Origin::Adopted, true));
    assert_eq!(answers(address, 20), ["1"]);
    brain.serve(2, address);
    assert!(!brain.listening(2).selected);
    assert_eq!(answers(address, 50), ["1"], "the new one gets nothing before it is ready");
    let probe = TcpListener::bind((host, 0)).expect("bind").local_addr().expect("address");
    brain.done(Request::Route { generation: GenerationId(2), source_port: Some(probe.port()) });
    assert_eq!(probe_from(probe, address), "2");
    assert_eq!(answers(address, 20), ["1"]);
    brain.done(Request::Route { generation: GenerationId(2), source_port: None });
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(address, 50), ["2"]);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: Scope::Main });
    assert_eq!(brain.main_exited(1), ExitStatus::Signalled(15));
    brain.tree_empty(1);
    brain.done(Request::Release { generation: GenerationId(1) });
    brain.done(Request::Forget { generation: GenerationId(1) });
    assert_eq!(answers(address, 50), ["2"]);
    assert_eq!(brain.look().listeners.len(), 1);
}

/// A killed server's socket goes to the next one, with the connections that waited on it.
pub(crate) fn crash(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let pid = brain.serve(1, address);
    let before = brain.listening(1);
    kill(pid);
    assert_eq!(brain.main_exited(1), ExitStatus::Signalled(9));
    brain.tree_empty(1);
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).expect("queued, not refused")).collect();
    brain.done(Request::Forget { generation: GenerationId(1) });
    brain.serve(2, address);
    let after = brain.listening(2);
    assert_eq!((after.inode, after.origin, after.selected), (before.inode, Origin::Swapped, true));
    for stream in &mut waiting {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("served after all");
        assert_eq!(text, "2");
    }
}

pub(crate) fn held_before_start(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.done(Request::Hold { service: "web".into(), address });
    let mut early = TcpStream::connect(address).expect("held");
    brain.serve(1, address);
    let facts = brain.listening(1);
    assert_eq!(facts.origin, Origin::Swapped);
    let mut text = String::new();
    early.read_to_string(&mut text).expect("an answer");
    assert_eq!(text, "1");
}

/// A stranger has the port: the real error for the child, and ours at the moment in which he leaves.
pub(crate) fn taken(brain: &mut Brain, host: &str) {
    let stranger = TcpListener::bind((host, 0)).expect("bind");
    let address = stranger.local_addr().expect("address");
    brain.serve(1, address);
    let errno = brain.wait("refused bind", |event| match event {
        Event::BindRefused { errno, address: refused, .. } if *refused == address => Some(*errno),
        _ => None,
    });
    assert_eq!(errno, rustix::io::Errno::ADDRINUSE.raw_os_error());
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(1));
    brain.done(Request::Hold { service: "web".into(), address });
    brain.wait("waiting hold", |event| matches!(event, Event::HoldWaits { .. }).then_some(()));
    drop(stranger);
    let released = Instant::now();
    brain.wait("hold", |event| matches!(event, Event::Held { .. }).then_some(()));
    println!("    held {:?} after the release", released.elapsed());
    brain.serve(2, address);
    assert_eq!(answer(address), "2");
}

/// Parked connections wait for the one that comes after.
pub(crate) fn parked(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    brain.done(Request::Park { service: "web".into(), elsewhere: false });
    let mut waiting = TcpStream::connect(address).expect("queued");
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: Scope::Main });
    brain.tree_empty(1);
    brain.done(Request::Release { generation: GenerationId(1) });
    brain.serve(2, address);
    assert_eq!(brain.listening(2).origin, Origin::Swapped);
    let mut text = String::new();
    waiting.read_to_string(&mut text).expect("an answer");
    assert_eq!(text, "2");
}

/// A server that probes: bind, listen, close, and again. The second bind gets the same socket back.
pub(crate) fn closes_and_binds_again(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = format!(
        "
import socket
def listener():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('{host}', {port})); s.listen(5); return s
listener().close()
s = listener()
while True:
    peer, _ = s.accept(); peer.sendall(b'again'); peer.close()
",
        port = address.port()
    );
    brain.spawn(1, &["python3", "-c", &script]);
    brain.listening(1);
    assert_eq!(answers(address, 5), ["again"]);
    assert_eq!(brain.look().listeners.len(), 1);
}

/// Two workers with a socket each (SO_REUSEPORT): both take their share, and when one is killed the other takes all, until a
/// third binds, who is given the dead one's socket and what waits on it.
pub(crate) fn workers(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = format!(
        "
import os, socket
def serve():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('{host}', {port})); s.listen(64)
    while True:
        peer, _ = s.accept(); peer.sendall(str(os.getpid()).encode()); peer.close()
for _ in range(2):
    if os.fork() == 0: serve()
input_ = os.open('{fifo}', os.O_RDONLY)
os.read(input_, 1)
if os.fork() == 0: serve()
os.wait()
while True: os.wait()
",
        port = address.port(),
        fifo = fifo().display(),
    );
    brain.spawn(1, &["python3", "-c", &script]);
    let (one, two) = (brain.listening(1), brain.listening(1));
    assert_ne!(one.inode, two.inode);
    let both = answers(address, 60);
    assert_eq!(both.len(), 2, "both take their share: {both:?}");
    kill(both[0].parse().expect("a pid"));
    brain.wait("abandoned listener", |event| match event {
        Event::Listener(facts) if facts.owner.is_none() && !facts.selected => Some(()),
        _ => None,
    });
    assert_eq!(answers(address, 60), [both[1].clone()]);
    std::fs::OpenOptions::new().write(true).open(fifo()).expect("open").write_all(b"x").expect("write");
    let third = brain.wait("third worker", |event| match event {
        Event::Listener(facts) if facts.origin == Origin::Swapped && facts.selected => Some(facts.clone()),
        _ => None,
    });
    assert!([one.inode, two.inode].contains(&third.inode));
    assert_eq!(answers(address, 60).len(), 2);
    let _ = std::fs::remove_file(fifo());
}

/// A main process that binds with `SO_REUSEPORT` and never listens, and a worker that binds and listens beside it (Granian): what waited for the
/// dead generation goes to the one that listens.
pub(crate) fn bound_and_left(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = format!(
        "
import os, socket
def bound():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('{host}', {port})); return s
main = bound()
s = bound(); s.listen(64)
while True:
    peer, _ = s.accept(); peer.sendall(os.environ['STAYPUT_GENERATION'].encode()); peer.close()
",
        port = address.port()
    );
    let pid = brain.spawn(1, &["python3", "-c", &script]);
    let before = brain.listening(1);
    assert_eq!(answers(address, 5), ["1"]);
    kill(pid);
    brain.tree_empty(1);
    let mut waiting = TcpStream::connect(address).expect("queued");
    brain.spawn(2, &["python3", "-c", &script]);
    let after = brain.listening(2);
    assert_eq!((after.inode, after.origin, after.selected), (before.inode, Origin::Swapped, true));
    let mut text = String::new();
    waiting.set_read_timeout(Some(DEADLINE)).expect("set");
    waiting.read_to_string(&mut text).expect("an answer");
    assert_eq!(text, "2");
    assert_eq!(answers(address, 20), ["2"]);
    assert_eq!(brain.look().listeners.len(), 1);
}

/// It closes its listener and goes on: the held duplicate must not swallow connections for ever unseen.
pub(crate) fn closes_and_goes_on(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = format!(
        "
import socket, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('{host}', {port})); s.listen(5); s.close()
time.sleep(1000)
",
        port = address.port()
    );
    brain.spawn(1, &["python3", "-c", &script]);
    brain.listening(1);
    let _waiting = TcpStream::connect(address).expect("queued");
    brain.wait("abandoned listener", |event| matches!(event, Event::Listener(facts) if facts.owner.is_none()).then_some(()));
}

/// A stranger of the same user joins the group between two generations: he is told of, and the switch still hits its mark.
pub(crate) fn stranger_in_the_group(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    let key = stayput_kernel::socket::Key::new(address, false);
    let user = service_user().map_or(rustix::process::getuid().as_raw(), |user| user.uid);
    if user != rustix::process::getuid().as_raw() {
        assert_eq!(stayput_kernel::socket::bound(&key, true).err(), Some(rustix::io::Errno::ADDRINUSE), "another user may not");
    }
    let stranger = stayput_kernel::socket::bound_as(&key, true, user).expect("the same user may");
    rustix::net::listen(&stranger, 16).expect("listen");
    let inode = stayput_kernel::socket::inode(&stranger).expect("inode");
    assert_eq!(answers(address, 20), ["1"], "the program still names the first");
    brain.serve(2, address);
    let told = brain.wait("stranger", |event| match event {
        Event::Stranger { inode, .. } => Some(*inode),
        _ => None,
    });
    assert_eq!(told, inode);
    brain.listening(2);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(address, 50), ["2"]);
    drop(stranger);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(address, 50), ["2"], "he left, and the last moved into his place");
}

/// A server that shuts its listener down when it is told to end (WEBrick): it leaves the group at once, and its successor goes on being the one that
/// is selected. When the last one does so, its port stays open for the next.
pub(crate) fn shuts_down(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = format!(
        "
import os, signal, socket, sys, time
server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(('{host}', {port})); server.listen(16)
def end(*_):
    server.shutdown(socket.SHUT_RDWR)
    print('shut', flush=True)
    while True: time.sleep(1000)
signal.signal(signal.SIGTERM, end)
while True:
    peer, _ = server.accept(); peer.sendall(os.environ['STAYPUT_GENERATION'].encode()); peer.close()
",
        port = address.port()
    );
    let argv = ["python3", "-c", &script];
    brain.spawn(1, &argv);
    brain.listening(1);
    for id in 2..=4 {
        brain.spawn(id, &argv);
        brain.listening(id);
        brain.done(Request::Steer { service: "web".into(), generation: GenerationId(id), share: None });
        brain.done(Request::Signal { generation: GenerationId(id - 1), signal: 15, scope: Scope::Main });
        assert_eq!(brain.line(id - 1), "shut");
        assert_eq!(answers(address, 50), [id.to_string()]);
    }
    brain.done(Request::Signal { generation: GenerationId(1), signal: 9, scope: Scope::Tree });
    brain.tree_empty(1);
    brain.done(Request::Release { generation: GenerationId(1) });
    assert_eq!(answers(address, 50), ["4"]);
    brain.done(Request::Signal { generation: GenerationId(4), signal: 15, scope: Scope::Main });
    assert_eq!(brain.line(4), "shut");
    brain.wait("what is held again", |event| {
        matches!(event, Event::Listener(facts) if facts.owner.is_none() && facts.selected).then_some(())
    });
    let mut waiting = TcpStream::connect(address).expect("open again");
    brain.spawn(5, &argv);
    assert_eq!(brain.listening(5).origin, Origin::Swapped);
    let mut text = String::new();
    waiting.set_read_timeout(Some(DEADLINE)).expect("set");
    waiting.read_to_string(&mut text).expect("an answer");
    assert_eq!(text, "5");
}

/// A stranger of the same user binds a more specific address of the port: he gets what is sent there, and is told of at the next change.
pub(crate) fn stranger_on_one_address(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    let local = SocketAddr::from(([127, 0, 0, 1], address.port()));
    let user = service_user().map_or(rustix::process::getuid().as_raw(), |user| user.uid);
    let stranger =
        stayput_kernel::socket::bound_as(&stayput_kernel::socket::Key::new(local, false), true, user).expect("the same user may");
    rustix::net::listen(&stranger, 16).expect("listen");
    let inode = stayput_kernel::socket::inode(&stranger).expect("inode");
    brain.serve(2, address);
    let told = brain.wait("stranger", |event| match event {
        Event::Stranger { inode, address, .. } => Some((*inode, *address)),
        _ => None,
    });
    assert_eq!(told, (inode, local));
    brain.listening(2);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    // He is in no group of ours: no index of it is his.
    assert_eq!(answers(SocketAddr::from(([127, 0, 0, 2], address.port())), 50), ["2"]);
    drop(stranger);
    assert_eq!(answers(local, 20), ["2"]);
}

/// MPTCP listeners, as Go opens them: they cannot carry a program, the anchor does.
pub(crate) fn mptcp(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = SERVER
        .replace("socket.socket(getattr(socket, sys.argv[2]))", "socket.socket(getattr(socket, sys.argv[2]), socket.SOCK_STREAM, 262)");
    for id in 1..=2 {
        brain.spawn(id, &["python3", "-c", &script, host, "AF_INET", &address.port().to_string()]);
        brain.listening(id);
        assert_eq!(answers(address, 50), ["1"]);
    }
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(address, 50), ["2"]);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: Scope::Main });
    brain.tree_empty(1);
    brain.done(Request::Release { generation: GenerationId(1) });
    assert_eq!(answers(address, 50), ["2"]);
}

/// A server that registers its socket with epoll before it binds it (as Netty does) gets the dead one's socket, and its events.
pub(crate) fn epoll_before_bind(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = "
import os, select, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
waiting = select.epoll()
waiting.register(server.fileno(), select.EPOLLIN)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen(5)
while True:
    waiting.poll()
    peer, _ = server.accept()
    peer.sendall(os.environ['STAYPUT_GENERATION'].encode())
    peer.close()
    waiting.modify(server.fileno(), select.EPOLLIN)
";
    let argv = ["python3", "-c", script, host, &address.port().to_string()];
    let pid = brain.spawn(1, &argv);
    brain.listening(1);
    assert_eq!(answers(address, 5), ["1"]);
    kill(pid);
    brain.tree_empty(1);
    let mut waiting = TcpStream::connect(address).expect("queued");
    brain.spawn(2, &argv);
    assert_eq!(brain.listening(2).origin, Origin::Swapped);
    let mut text = String::new();
    waiting.set_read_timeout(Some(DEADLINE)).expect("set");
    waiting.read_to_string(&mut text).expect("an answer");
    assert_eq!(text, "2");
    assert_eq!(answers(address, 5), ["2"]);
}

/// A server that first listens on other addresses, to see whether its port is free there: only the one that it kept is held.
pub(crate) fn probes_elsewhere(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = format!(
        "
import socket
def listener(host, family=socket.AF_INET):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((host, {port})); s.listen(5); return s
listener('0.0.0.0').close()
listener('::', socket.AF_INET6).close()
s = listener('{host}')
while True:
    peer, _ = s.accept(); peer.sendall(b'here'); peer.close()
",
        port = address.port()
    );
    brain.spawn(1, &["python3", "-c", &script]);
    brain.wait("the listener that stays", |event| matches!(event, Event::Listener(facts) if facts.address == address).then_some(()));
    assert_eq!(answers(address, 5), ["here"]);
    let held: Vec<SocketAddr> = brain.look().listeners.iter().map(|listener| listener.address).collect();
    assert_eq!(held, [address]);
    // Its group can be steered like any other.
    brain.serve(2, address);
    let second = brain.listening(2);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    let after = answers(address, 20);
    assert!(after.iter().all(|answer| *answer == after[0] && answer != "here"), "{after:?} of {second:?}");
}

/// A program that calls as 32-bit ones do, both ways: `socketcall`, and `bind` and `listen` with numbers of their own.
pub(crate) fn calls_of_32_bits(brain: &mut Brain, host: &str) {
    if !cfg!(target_arch = "x86_64") {
        println!("NOT RUN: only x86_64 lets a 64-bit program call as a 32-bit one does");
        return;
    }
    // The function in low memory: number and three arguments to eax, ebx, ecx, edx; int 0x80.
    let script = "
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
low = libc.mmap(None, 4096, 7, 0x2 | 0x20 | 0x40, -1, 0)
code = bytes.fromhex('5389f889f34989c889d14489c2cd805bc3')
ctypes.memmove(low, code, len(code))
call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(low)
address, words = low + 1024, low + 2048
name = struct.pack('=H', socket.AF_INET) + struct.pack('>H', int(sys.argv[2])) + socket.inet_aton(sys.argv[1]) + bytes(8)
ctypes.memmove(address, name, 16)
def socketcall(which, *arguments):
    ctypes.memmove(words, struct.pack('=3I', *arguments), 12)
    return call(102, which, words, 0)
server = socket.socket()
if sys.argv[3] == 'socketcall':
    results = socketcall(2, server.fileno(), address, 16), socketcall(4, server.fileno(), 5, 0)
else:
    results = call(361, server.fileno(), address, 16), call(363, server.fileno(), 5, 0)
print(results, flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(os.environ['STAYPUT_GENERATION'].encode())
    peer.close()
";
    let address = free_address(host);
    for (id, way) in [(1, "socketcall"), (2, "direct")] {
        brain.spawn(id, &["python3", "-c", script, host, &address.port().to_string(), way]);
        assert_eq!(brain.line(id), "(0, 0)", "{way}");
        let facts = brain.listening(id);
        assert_eq!((facts.address, facts.origin, facts.selected), (address, Origin::Adopted, id == 1), "{way}");
    }
    assert_eq!(answers(address, 20), ["1"]);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(address, 20), ["2"]);
}
