//! The keeper and the guard with real processes and sockets. Each scenario is an instance of its own: this program becomes the
//! guard, and executes itself again as the brain, which plays the scenario and ends the instance with 0 or 1.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test program that reports")]

use stayput_keeper::client::KeeperClient;
use stayput_keeper::guard::{self, Start};
use stayput_keeper::protocol::{
    Dump, Event, ExecStage, ExitStatus, FromKeeper, GenerationId, ListenerFacts, Origin, OutputKind, Reply, Request, Scope, SpawnSpec,
    ToKeeper, Trap,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

/// A server that answers every connection with its generation's number, without reading first.
const SERVER: &str = "
import os, socket, sys
server = socket.socket(getattr(socket, sys.argv[2]))
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[3])))
server.listen(5)
print('listening', flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(os.environ['STAYPUT_GENERATION'].encode())
    peer.close()
";

struct Brain {
    keeper: KeeperClient,
    seq: u64,
    events: Vec<Event>,
    outputs: Vec<(GenerationId, std::fs::File)>,
    dump: Dump,
}

impl Brain {
    fn new(channel: OwnedFd) -> Self {
        let mut brain = Self { keeper: KeeperClient::new(channel), seq: 0, events: Vec::new(), outputs: Vec::new(), dump: empty_dump() };
        brain.dump = brain.look();
        brain
    }

    fn look(&mut self) -> Dump {
        match self.ask(Request::Dump).0 {
            Reply::Dump(dump) => *dump,
            other => panic!("dump: {other:?}"),
        }
    }

    fn receive(&mut self, deadline: Instant) -> (FromKeeper, Vec<OwnedFd>) {
        loop {
            if let Some(message) = self.keeper.receive().expect("the keeper's channel") {
                return message;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing from the keeper in time; events so far: {:#?}", self.events);
            let timeout = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut sources = [rustix::event::PollFd::new(&self.keeper, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut sources, Some(&timeout)).expect("poll");
        }
    }

    fn ask(&mut self, request: Request) -> (Reply, Vec<OwnedFd>) {
        self.seq += 1;
        self.keeper.send(&ToKeeper { seq: self.seq, request }, &[]).expect("send");
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.receive(deadline) {
                (FromKeeper::Reply { seq, reply }, descriptors) if seq == self.seq => return (reply, descriptors),
                (FromKeeper::Reply { .. }, _) => {} // an answer given twice, by a keeper and its successor
                (FromKeeper::Event(event), _) => self.events.push(event),
            }
        }
    }

    fn done(&mut self, request: Request) {
        let what = format!("{request:?}");
        let (reply, _) = self.ask(request);
        assert!(matches!(reply, Reply::Done | Reply::Released { .. }), "{what}: {reply:?}");
    }

    /// Waits for an event; it and those before it are taken.
    fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some((at, found)) = self.events.iter().enumerate().find_map(|(at, event)| Some((at, wanted(event)?))) {
                self.events.drain(..=at);
                return found;
            }
            assert!(Instant::now() < deadline, "no {what}; events: {:#?}", self.events);
            if let (FromKeeper::Event(event), _) = self.receive(deadline) {
                self.events.push(event);
            }
        }
    }

    fn spawn(&mut self, id: u64, argv: &[&str]) -> i32 {
        let env = std::env::vars_os().map(|(name, value)| [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()).collect();
        let spec = SpawnSpec {
            service: "web".into(),
            generation: GenerationId(id),
            argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            env,
            cwd: b"/".to_vec(),
            output: OutputKind::Pipes,
            notify: false,
        };
        match self.ask(Request::Spawn(Box::new(spec))) {
            (Reply::Spawned { pid, .. }, mut descriptors) => {
                self.outputs.push((GenerationId(id), std::fs::File::from(descriptors.remove(0))));
                pid
            }
            (other, _) => panic!("spawn: {other:?}"),
        }
    }

    fn serve(&mut self, id: u64, address: SocketAddr) -> i32 {
        let family = if address.is_ipv4() { "AF_INET" } else { "AF_INET6" };
        self.spawn(id, &["python3", "-c", SERVER, &address.ip().to_string(), family, &address.port().to_string()])
    }

    fn listening(&mut self, id: u64) -> ListenerFacts {
        self.wait("listener", |event| match event {
            Event::Listener(facts) if facts.owner == Some(GenerationId(id)) => Some(facts.clone()),
            _ => None,
        })
    }

    fn main_exited(&mut self, id: u64) -> ExitStatus {
        self.wait("exit", |event| match event {
            Event::MainExited { generation, status } if generation.0 == id => Some(*status),
            _ => None,
        })
    }

    fn tree_empty(&mut self, id: u64) {
        self.wait("empty tree", |event| matches!(event, Event::TreeEmpty { generation } if generation.0 == id).then_some(()));
    }

    fn line(&mut self, id: u64) -> String {
        let (_, output) = self.outputs.iter_mut().find(|(generation, _)| generation.0 == id).expect("output");
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            let mut sources = [rustix::event::PollFd::new(&*output, rustix::event::PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut sources, Some(&timeout)), Ok(1), "no output line");
            match output.read(&mut byte) {
                Ok(1) if byte[0] != b'\n' => line.push(byte[0]),
                _ => return String::from_utf8(line).expect("utf-8"),
            }
        }
    }
}

fn empty_dump() -> Dump {
    Dump {
        instance: String::new(),
        guard_pid: 0,
        keeper_pid: 0,
        keeper_deaths: 0,
        daemon_deaths: 0,
        blob: Vec::new(),
        generations: Vec::new(),
        listeners: Vec::new(),
        waiting: Vec::new(),
    }
}

/// Who answers a fresh connection.
fn answer(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("never refused");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

fn answers(address: SocketAddr, count: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..count).map(|_| answer(address)).collect();
    all.sort();
    all.dedup();
    all
}

fn free_address(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).expect("bind").local_addr().expect("address")
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
}

/// A restart: the new one beside the old, unselected; a probe reaches it alone; then it takes all.
fn handover(brain: &mut Brain, host: &str) {
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
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2) });
    assert_eq!(answers(address, 50), ["2"]);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: Scope::Main });
    assert_eq!(brain.main_exited(1), ExitStatus::Signalled(15));
    brain.tree_empty(1);
    brain.done(Request::Release { generation: GenerationId(1) });
    brain.done(Request::Forget { generation: GenerationId(1) });
    assert_eq!(answers(address, 50), ["2"]);
    assert_eq!(brain.look().listeners.len(), 1);
}

fn probe_from(source: SocketAddr, to: SocketAddr) -> String {
    let family = if to.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 };
    let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).expect("socket");
    rustix::net::bind(&socket, &source).expect("bind");
    rustix::net::connect(&socket, &to).expect("connect");
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text).expect("an answer");
    text
}

fn executed(id: u64) -> impl FnMut(&Event) -> Option<Trap> {
    move |event| match event {
        Event::Executed { generation, trap } if generation.0 == id => Some(*trap),
        _ => None,
    }
}

/// A killed server's socket goes to the next one, with the connections that waited on it.
fn crash(brain: &mut Brain, host: &str) {
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

fn held_before_start(brain: &mut Brain, host: &str) {
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
fn taken(brain: &mut Brain, host: &str) {
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

/// Killing the keeper, twice, costs nothing: not the port, not the exit status, not the next restart.
fn keeper_killed(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let pid = brain.serve(1, address);
    brain.listening(1);
    for _ in 0..2 {
        let keeper = brain.look().keeper_pid;
        kill(keeper);
        assert_eq!(answers(address, 20), ["1"]);
        assert_ne!(brain.look().keeper_pid, keeper);
    }
    brain.serve(2, address);
    assert!(!brain.listening(2).selected);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2) });
    assert_eq!(answers(address, 50), ["2"]);
    kill(pid);
    assert_eq!(brain.main_exited(1), ExitStatus::Signalled(9), "the guard reaped it");
    brain.tree_empty(1);
    assert_eq!(brain.look().generations.iter().filter(|generation| generation.exit.is_none()).count(), 1, "and it answers still");
}

/// Killing the guard: the keeper takes its place.
fn guard_killed(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    let before = brain.look();
    kill(before.guard_pid);
    assert_eq!(answers(address, 20), ["1"]);
    let deadline = Instant::now() + DEADLINE;
    while brain.look().guard_pid == before.guard_pid {
        assert!(Instant::now() < deadline, "nobody took the guard's place");
    }
    assert_eq!(brain.look().guard_pid, before.keeper_pid);
    brain.serve(2, address);
    brain.listening(2);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2) });
    assert_eq!(answers(address, 20), ["2"]);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: Scope::Main });
    brain.main_exited(1);
    brain.tree_empty(1);
}

/// Parked connections wait for the one that comes after.
fn parked(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    brain.done(Request::Park { service: "web".into() });
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

/// A child has 0, 1 and 2, whatever we had open.
fn no_leaks(brain: &mut Brain, _host: &str) {
    brain.spawn(1, &["python3", "-c", "import os; print(sorted(os.listdir('/proc/self/fd')), os.readlink('/proc/self/fd/0'))"]);
    // The listing's own descriptor is the fourth.
    assert_eq!(brain.line(1), "['0', '1', '2', '3'] /dev/null");
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(0));
    brain.tree_empty(1);
}

/// A daemon that forked twice, left its session and threw away its environment is found and ended.
fn whole_tree(brain: &mut Brain, _host: &str) {
    let script = "
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, ['python3', '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(1000)'], {})
    os._exit(0)
os.wait()
";
    brain.spawn(1, &["python3", "-c", script]);
    let daemon: i32 = brain.line(1).parse().expect("a pid");
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(0));
    assert!(!brain.look().generations[0].tree_empty);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 9, scope: Scope::Tree });
    brain.tree_empty(1);
    // The kernel tells as the last one begins to exit: a moment later it is a zombie or gone.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < deadline, "{stat}");
    }
}

fn exec_stages(brain: &mut Brain, _host: &str) {
    let failed = |id: u64| {
        move |event: &Event| match event {
            Event::ExecFailed { generation, stage, errno } if generation.0 == id => Some((*stage, *errno)),
            _ => None,
        }
    };
    brain.spawn(1, &["/no/such/command"]);
    assert_eq!(brain.wait("failure", failed(1)), (ExecStage::Exec, rustix::io::Errno::NOENT.raw_os_error()));
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(127));
    brain.spawn(2, &["/etc/passwd"]);
    assert_eq!(brain.wait("failure", failed(2)), (ExecStage::Exec, rustix::io::Errno::ACCESS.raw_os_error()));
}

/// A server that probes: bind, listen, close, and again. The second bind gets the same socket back.
fn closes_and_binds_again(brain: &mut Brain, host: &str) {
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

/// A server that first listens on other addresses, to see whether its port is free there: only the one that it kept is held.
fn probes_elsewhere(brain: &mut Brain, host: &str) {
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
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2) });
    let after = answers(address, 20);
    assert!(after.iter().all(|answer| *answer == after[0] && answer != "here"), "{after:?} of {second:?}");
}

/// Lets the kernel refuse a process to reach into others.
fn refuse(pid: i32) -> std::process::Child {
    let strace = Command::new("strace")
        .args(["-qq", "-e", "trace=pidfd_getfd,process_vm_readv", "-e", "inject=pidfd_getfd,process_vm_readv:error=EPERM"])
        .args(["-p", &pid.to_string()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("strace is needed (Debian package strace)");
    let tracer = format!("TracerPid:\t{}", strace.id());
    let deadline = Instant::now() + DEADLINE;
    while !std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status").contains(&tracer) {
        assert!(Instant::now() < deadline, "strace did not attach");
    }
    strace
}

/// As under Yama after a keeper's death: the keeper may not reach into the service, the guard, its ancestor, may.
fn guard_does_errands(brain: &mut Brain, host: &str) {
    use std::io::BufRead;
    let mut strace = refuse(brain.dump.keeper_pid);
    let address = free_address(host);
    brain.serve(1, address);
    assert_eq!(brain.listening(1).origin, Origin::Adopted);
    assert_eq!(answer(address), "1");
    strace.kill().expect("kill");
    let said = std::io::BufReader::new(strace.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(said.filter(|line| line.contains("EPERM") && line.contains("INJECTED")).count() >= 3, "the keeper itself was refused");
    strace.wait().expect("wait");
}

/// Two workers with a socket each (SO_REUSEPORT): both take their share, and when one is killed the other takes all, until a
/// third binds, who is given the dead one's socket and what waits on it.
fn workers(brain: &mut Brain, host: &str) {
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

fn fifo() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("stayput-scenario-fifo-{}", std::process::id()));
    if !path.exists() {
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("fifo");
    }
    path
}

/// It closes its listener and goes on: the held duplicate must not swallow connections for ever unseen.
fn closes_and_goes_on(brain: &mut Brain, host: &str) {
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
fn stranger_in_the_group(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    let key = stayput_kernel::socket::Key::new(address, false);
    let stranger = stayput_kernel::socket::bound(&key, true).expect("the same user may");
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
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2) });
    assert_eq!(answers(address, 50), ["2"]);
    drop(stranger);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2) });
    assert_eq!(answers(address, 50), ["2"], "he left, and the last moved into his place");
}

/// MPTCP listeners, as Go opens them: they cannot carry a program, the anchor does.
fn mptcp(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = SERVER
        .replace("socket.socket(getattr(socket, sys.argv[2]))", "socket.socket(getattr(socket, sys.argv[2]), socket.SOCK_STREAM, 262)");
    for id in 1..=2 {
        brain.spawn(id, &["python3", "-c", &script, host, "AF_INET", &address.port().to_string()]);
        brain.listening(id);
        assert_eq!(answers(address, 50), ["1"]);
    }
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2) });
    assert_eq!(answers(address, 50), ["2"]);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: Scope::Main });
    brain.tree_empty(1);
    brain.done(Request::Release { generation: GenerationId(1) });
    assert_eq!(answers(address, 50), ["2"]);
}

/// Neither the keeper nor the guard may reach into the service: it binds by itself, and the port that was held for it does not
/// stand in its way.
fn may_not_look(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.done(Request::Hold { service: "web".into(), address });
    brain.wait("hold", |event| matches!(event, Event::Held { .. }).then_some(()));
    let mut traced = Vec::new();
    for pid in [brain.dump.keeper_pid, brain.dump.guard_pid] {
        traced.push(refuse(pid));
    }
    brain.serve(1, address);
    let refused = Trap::Unavailable { errno: rustix::io::Errno::PERM.raw_os_error() };
    brain.wait("untrapped", |event| matches!(event, Event::Executed { trap, .. } if *trap == refused).then_some(()));
    assert_eq!(brain.line(1), "listening");
    assert_eq!(answer(address), "1");
    for mut strace in traced {
        strace.kill().expect("kill");
        strace.wait().expect("wait");
    }
}

/// Daemons that die at once, for ever: the ports stay, and a stop is still obeyed. (The one who plays this is the first of them.)
fn no_daemon_can_be_started(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    std::fs::write(brain_of_headless(), brain.dump.guard_pid.to_string()).expect("write");
    stayput_kernel::process::exit_now(1);
}

/// Present from the moment from which every daemon of that scenario is to die.
fn brain_of_headless() -> std::path::PathBuf {
    let directory = std::path::PathBuf::from(std::env::var_os("SCENARIO_DIRECTORY").expect("set by the driver"));
    directory.join("headless")
}

type Scenario = (&'static str, fn(&mut Brain, &str), &'static str);

const SCENARIOS: [Scenario; 21] = [
    ("probes-elsewhere", probes_elsewhere, "127.0.0.1"),
    ("handover", handover, "127.0.0.1"),
    ("handover6", handover, "::1"),
    ("crash", crash, "127.0.0.1"),
    ("crash6", crash, "::1"),
    ("held", held_before_start, "127.0.0.1"),
    ("taken", taken, "127.0.0.1"),
    ("keeper-killed", keeper_killed, "127.0.0.1"),
    ("guard-killed", guard_killed, "127.0.0.1"),
    ("guard-does-errands", guard_does_errands, "127.0.0.1"),
    ("parked", parked, "127.0.0.1"),
    ("no-leaks", no_leaks, ""),
    ("whole-tree", whole_tree, ""),
    ("exec-stages", exec_stages, ""),
    ("may-not-look", may_not_look, "127.0.0.1"),
    ("no-daemon", no_daemon_can_be_started, "127.0.0.1"),
    ("workers", workers, "127.0.0.1"),
    ("closes-and-goes-on", closes_and_goes_on, "127.0.0.1"),
    ("stranger-in-the-group", stranger_in_the_group, "127.0.0.1"),
    ("mptcp", mptcp, "127.0.0.1"),
    ("closes-and-binds-again", closes_and_binds_again, "127.0.0.1"),
];

fn be_brain(name: &str) -> ExitCode {
    if let Ok(guard) = std::fs::read_to_string(brain_of_headless()) {
        let guard = rustix::process::Pid::from_raw(guard.parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(guard, rustix::process::Signal::TERM).expect("stop");
        return ExitCode::FAILURE;
    }
    let channel = stayput_kernel::spawn::inherited(3).expect("channel");
    let (_, scenario, host) = SCENARIOS.iter().find(|(known, _, _)| *known == name).expect("a scenario");
    let mut brain = Brain::new(channel);
    let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&mut brain, host))).is_ok();
    brain.seq += 1;
    let exit = ToKeeper { seq: brain.seq, request: Request::Exit { status: u8::from(!passed) } };
    brain.keeper.send(&exit, &[]).expect("send");
    ExitCode::SUCCESS
}

fn be_guard(name: &str) -> ExitCode {
    let directory = std::path::PathBuf::from(std::env::var_os("SCENARIO_DIRECTORY").expect("set by the driver"));
    std::fs::create_dir(&directory).expect("directory");
    let control: OwnedFd = std::os::unix::net::UnixListener::bind(directory.join("control.sock")).expect("bind").into();
    let lock = control.as_fd().try_clone_to_owned().expect("dup");
    let daemon_argv = ["scenarios", "--brain", name].map(|argument| argument.as_bytes().to_vec()).to_vec();
    let start = Start { instance: name.into(), directory, blob: Vec::new(), control, lock, daemon_argv };
    ExitCode::from(guard::run(start).expect("guard"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--brain") => return be_brain(&arguments[2]),
        Some("--guard") => return be_guard(&arguments[2]),
        _ => {}
    }
    let filter = arguments.get(1).filter(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let chosen: Vec<&Scenario> = SCENARIOS.iter().filter(|(name, _, _)| name.contains(filter.as_str())).collect();
    let (mut passed, mut failed) = (0, 0);
    let root = rustix::process::getuid().is_root();
    if !root {
        println!("NOT RUN as root: this is an ordinary user");
    }
    let ordinary = Ordinary::new();
    for user in [root.then_some("root"), Some("an ordinary user")].into_iter().flatten() {
        for (name, _, _) in &chosen {
            let started = Instant::now();
            let directory = ordinary.directory.join(format!("{name}-{}", user.replace(' ', "-")));
            let mut command = Command::new(&ordinary.program);
            command.args(["--guard", name]).env("SCENARIO_DIRECTORY", &directory);
            if root && user != "root" {
                use std::os::unix::process::CommandExt;
                command.uid(Ordinary::ID).gid(Ordinary::ID).env("PATH", "/usr/bin:/bin").env("TMPDIR", &ordinary.directory);
            }
            let status = command.status().expect("run");
            // A killed guard cannot return a status: its keeper's successor ends the instance.
            let good = match *name {
                "guard-killed" => finished_without_guard(&directory),
                "no-daemon" => status.code() == Some(128 + 15),
                _ => status.success(),
            };
            println!("scenario {name} as {user} ... {} ({:.2?})", if good { "ok" } else { "FAILED" }, started.elapsed());
            if good { passed += 1 } else { failed += 1 }
        }
    }
    let _ = std::fs::remove_dir_all(&ordinary.directory);
    let _ = std::io::stdout().flush();
    println!("\ntest result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A place, and this program in it, that another user can reach too.
struct Ordinary {
    directory: std::path::PathBuf,
    program: std::path::PathBuf,
}

impl Ordinary {
    /// Any user id without rights; 65534 is "nobody" on Debian.
    const ID: u32 = 65534;

    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("stayput-scenarios-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("directory");
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).expect("mode");
        let program = directory.join("scenarios");
        std::fs::copy(std::env::current_exe().expect("own path"), &program).expect("copy");
        Self { directory, program }
    }
}

/// The instance's directory goes away when the last guard ends it.
fn finished_without_guard(directory: &std::path::Path) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while directory.exists() {
        if Instant::now() > deadline {
            eprintln!("the instance did not end");
            return false;
        }
        std::thread::yield_now();
    }
    true
}
