//! The brain of a scenario: asks the keeper, waits for its events, and looks at the port as a client does.

use stayput_keeper::client::KeeperClient;
use stayput_keeper::protocol::{
    Credentials, Dump, Event, ExitStatus, FromKeeper, GenerationId, Limits, ListenerFacts, OutputKind, Reply, Request, SpawnSpec, ToKeeper,
    Trap,
};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A server that answers every connection with its generation's number, without reading first.
pub(crate) const SERVER: &str = "
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

pub(crate) struct Brain {
    pub(crate) keeper: KeeperClient,
    pub(crate) seq: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) outputs: Vec<(GenerationId, std::fs::File)>,
    pub(crate) dump: Dump,
}

impl Brain {
    pub(crate) fn new(channel: OwnedFd) -> Self {
        let mut brain = Self { keeper: KeeperClient::new(channel), seq: 0, events: Vec::new(), outputs: Vec::new(), dump: empty_dump() };
        brain.dump = brain.look();
        brain
    }

    pub(crate) fn look(&mut self) -> Dump {
        match self.ask(Request::Dump).0 {
            Reply::Dump(dump) => *dump,
            other => panic!("dump: {other:?}"),
        }
    }

    pub(crate) fn receive(&mut self, deadline: Instant) -> (FromKeeper, Vec<OwnedFd>) {
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

    pub(crate) fn ask(&mut self, request: Request) -> (Reply, Vec<OwnedFd>) {
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

    pub(crate) fn done(&mut self, request: Request) {
        let what = format!("{request:?}");
        let (reply, _) = self.ask(request);
        assert!(matches!(reply, Reply::Done | Reply::Released { .. }), "{what}: {reply:?}");
    }

    /// Waits for an event; it and those before it are taken.
    pub(crate) fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
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

    pub(crate) fn spawn(&mut self, id: u64, argv: &[&str]) -> i32 {
        self.start(spec(id, argv))
    }

    pub(crate) fn start(&mut self, spec: SpawnSpec) -> i32 {
        let id = spec.generation;
        match self.ask(Request::Spawn(Box::new(spec))) {
            (Reply::Spawned { pid, .. }, mut descriptors) => {
                self.outputs.push((id, std::fs::File::from(descriptors.remove(0))));
                pid
            }
            (other, _) => panic!("spawn: {other:?}"),
        }
    }

    pub(crate) fn serve(&mut self, id: u64, address: SocketAddr) -> i32 {
        let family = if address.is_ipv4() { "AF_INET" } else { "AF_INET6" };
        self.spawn(id, &["python3", "-c", SERVER, &address.ip().to_string(), family, &address.port().to_string()])
    }

    pub(crate) fn listening(&mut self, id: u64) -> ListenerFacts {
        self.wait("listener", |event| match event {
            Event::Listener(facts) if facts.owner == Some(GenerationId(id)) => Some(facts.clone()),
            _ => None,
        })
    }

    pub(crate) fn main_exited(&mut self, id: u64) -> ExitStatus {
        self.wait("exit", |event| match event {
            Event::MainExited { generation, status } if generation.0 == id => Some(*status),
            _ => None,
        })
    }

    pub(crate) fn tree_empty(&mut self, id: u64) {
        self.wait("empty tree", |event| matches!(event, Event::TreeEmpty { generation } if generation.0 == id).then_some(()));
    }

    pub(crate) fn line(&mut self, id: u64) -> String {
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

pub(crate) fn empty_dump() -> Dump {
    Dump {
        instance: String::new(),
        guard_pid: 0,
        keeper_pid: 0,
        keeper_deaths: 0,
        daemon_deaths: 0,
        blobs: Vec::new(),
        generations: Vec::new(),
        listeners: Vec::new(),
        waiting: Vec::new(),
        left: Vec::new(),
    }
}

/// Who answers a fresh connection.
pub(crate) fn answer(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("never refused");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

pub(crate) fn answers(address: SocketAddr, count: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..count).map(|_| answer(address)).collect();
    all.sort();
    all.dedup();
    all
}

pub(crate) fn free_address(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).expect("bind").local_addr().expect("address")
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
}

pub(crate) fn probe_from(source: SocketAddr, to: SocketAddr) -> String {
    let family = if to.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 };
    let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).expect("socket");
    rustix::net::bind(&socket, &source).expect("bind");
    rustix::net::connect(&socket, &to).expect("connect");
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text).expect("an answer");
    text
}

pub(crate) fn executed(id: u64) -> impl FnMut(&Event) -> Option<Trap> {
    move |event| match event {
        Event::Executed { generation, trap } if generation.0 == id => Some(*trap),
        _ => None,
    }
}

/// Lets the kernel refuse a process these calls.
pub(crate) fn refuse(pid: i32, calls: &str) -> std::process::Child {
    let strace = Command::new("strace")
        .args(["-qq", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:error=EPERM")])
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

pub(crate) fn fifo() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("stayput-scenario-fifo-{}", std::process::id()));
    if !path.exists() {
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("fifo");
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o666)).expect("mode");
    }
    path
}

/// Present from the moment from which every daemon of that scenario is to die.
pub(crate) fn brain_of_headless() -> std::path::PathBuf {
    let directory = std::path::PathBuf::from(std::env::var_os("SCENARIO_DIRECTORY").expect("set by the driver"));
    directory.join("headless")
}

/// Any user id without rights; 65534 is "nobody" on Debian.
pub(crate) const NOBODY: u32 = 65534;

/// Who services run as in this turn of the scenarios, if not as the keeper.
pub(crate) fn service_user() -> Option<Credentials> {
    std::env::var_os("SCENARIO_SERVICE_USER")?;
    Some(Credentials { uid: NOBODY, gid: NOBODY, groups: Vec::new() })
}

/// A generation of the service "web" with the environment of this program.
pub(crate) fn spec(id: u64, argv: &[&str]) -> SpawnSpec {
    SpawnSpec {
        service: "web".into(),
        generation: GenerationId(id),
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: std::env::vars_os().map(|(name, value)| [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()).collect(),
        cwd: b"/".to_vec(),
        output: OutputKind::Pipes,
        notify: false,
        credentials: service_user(),
        umask: None,
        rlimits: Vec::new(),
        limits: Limits::default(),
        declared: Vec::new(),
        pass_sockets: false,
        copies: false,
    }
}
