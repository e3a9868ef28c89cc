//! Services of another user than the keeper, which is root.

use crate::brain::{Brain, NOBODY, SERVER, answer, answers, free_address, kill, spec};
use rustix::io::Errno;
use stayput_keeper::protocol::{
    Credentials, Event, ExecStage, ExitStatus, GenerationId, Limits, Origin, OutputKind, Request, Rlimit, SpawnSpec,
};
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, States};
use std::net::SocketAddr;

fn nobody(id: u64, argv: &[&str]) -> SpawnSpec {
    SpawnSpec { credentials: Some(Credentials { uid: NOBODY, gid: NOBODY, groups: vec![4242] }), ..spec(id, argv) }
}

fn server(id: u64, address: SocketAddr) -> SpawnSpec {
    nobody(id, &["python3", "-c", SERVER, &address.ip().to_string(), "AF_INET", &address.port().to_string()])
}

fn owners(port: u16) -> Vec<u32> {
    let query = Query::new(Family::V4, Protocol::Tcp, States::LISTEN).port(port);
    let (found, _) = SockDiag::open().expect("sock_diag").sockets(&query).expect("sockets");
    let mut owners: Vec<u32> = found.into_iter().map(|socket| socket.uid).collect();
    owners.dedup();
    owners
}

/// It is who it was told to be, has no way back and no rights, and what was asked for besides.
pub(crate) fn own_user(brain: &mut Brain, host: &str) {
    let script = "
import os, resource
print(os.getresuid(), os.getresgid(), os.getgroups(), oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE), flush=True)
try: os.setuid(0); print('root again')
except PermissionError: print('no way back')
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(status['CapEff'].strip(), status['CapPrm'].strip(), flush=True)
";
    let wanted = SpawnSpec {
        umask: Some(0o027),
        rlimits: vec![Rlimit { resource: 4, soft: 0, hard: 4096 }],
        ..nobody(1, &["python3", "-c", script])
    };
    brain.start(wanted);
    assert_eq!(brain.line(1), "(65534, 65534, 65534) (65534, 65534, 65534) [4242] 0o27 (0, 4096)");
    assert_eq!(brain.line(1), "no way back");
    assert_eq!(brain.line(1), "0000000000000000 0000000000000000");
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(0));
    // A limit that the kernel does not keep is told; one that it keeps stands in the file.
    brain.start(SpawnSpec { limits: Limits { tasks: Some(64), ..Limits::default() }, ..nobody(9, &["cat", "/proc/self/cgroup"]) });
    let told = brain.events.iter().any(|event| matches!(event, Event::Unlimited { limits, .. } if limits[0].0 == "pids.max"));
    let mut kept = None;
    loop {
        let line = brain.line(9);
        if let Some(own) = line.strip_prefix("0::") {
            kept = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
                .iter()
                .find_map(|mount| std::fs::read_to_string(format!("{mount}{own}/pids.max")).ok());
        }
        if line.is_empty() {
            break;
        }
    }
    assert!(told != (kept.as_deref().map(str::trim) == Some("64")), "told: {told}, in force: {kept:?}");
    // The same port for one user after the other: the group follows.
    let address = free_address(host);
    brain.start(SpawnSpec { credentials: None, ..server(2, address) });
    brain.listening(2);
    assert_eq!(owners(address.port()), [0]);
    brain.start(server(3, address));
    assert!(!brain.listening(3).selected);
    assert_eq!(owners(address.port()), [NOBODY]);
    assert_eq!(answers(address, 50), ["2"]);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(3), share: None });
    assert_eq!(answers(address, 50), ["3"]);
}

/// A step that fails is told by its name, and nothing runs.
pub(crate) fn stages(brain: &mut Brain, _host: &str) {
    let failed = |id: u64| {
        move |event: &Event| match event {
            Event::ExecFailed { generation, stage, errno } if generation.0 == id => Some((*stage, *errno)),
            _ => None,
        }
    };
    let nowhere = Some(Credentials { uid: u32::MAX - 1, gid: u32::MAX, groups: Vec::new() });
    brain.start(SpawnSpec { credentials: nowhere, ..spec(1, &["true"]) });
    assert_eq!(brain.wait("failure", failed(1)).0, ExecStage::Credentials);
    // More descriptors than fs.nr_open: nobody may have that, root included.
    let rlimits = vec![Rlimit { resource: 7, soft: 1024, hard: u64::MAX }];
    brain.start(SpawnSpec { rlimits, ..spec(2, &["true"]) });
    assert_eq!(brain.wait("failure", failed(2)), (ExecStage::Limits { resource: 7 }, Errno::PERM.raw_os_error()));
    let private = std::path::PathBuf::from(std::env::var_os("SCENARIO_DIRECTORY").expect("set by the driver")).join("private");
    std::fs::create_dir(&private).expect("directory");
    rustix::fs::chmod(&private, rustix::fs::Mode::RWXU).expect("mode");
    let cwd = private.into_os_string().into_encoded_bytes();
    brain.start(SpawnSpec { cwd, ..nobody(3, &["true"]) });
    assert_eq!(brain.wait("failure", failed(3)), (ExecStage::WorkingDirectory, Errno::ACCESS.raw_os_error()));
}

/// Its terminal is its own, and it can say that it is ready; the runtime directory stays closed to it.
pub(crate) fn talks(brain: &mut Brain, _host: &str) {
    let script = "
import os, socket
print(os.stat(os.ttyname(1)).st_uid, os.access(os.ttyname(1), os.W_OK), flush=True)
name = os.environ['NOTIFY_SOCKET']
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', name.replace('@', '\\0', 1))
try: print(os.listdir(os.environ['SCENARIO_DIRECTORY']))
except PermissionError: print('closed', flush=True)
";
    let directory = std::path::PathBuf::from(std::env::var_os("SCENARIO_DIRECTORY").expect("set by the driver"));
    rustix::fs::chmod(&directory, rustix::fs::Mode::RWXU).expect("mode");
    let wanted = SpawnSpec { output: OutputKind::Pty { rows: 24, columns: 80 }, notify: true, ..nobody(1, &["python3", "-c", script]) };
    brain.start(wanted);
    assert_eq!(brain.line(1), format!("{NOBODY} True"));
    assert_eq!(brain.line(1), "closed");
    let mut sockets = brain.ask(Request::Fetch { generation: GenerationId(1) }).1;
    let notify = sockets.remove(1);
    let mut datagram = [0; 64];
    let (_, length) = rustix::net::recv(&notify, &mut datagram, rustix::net::RecvFlags::empty()).expect("a datagram");
    assert_eq!(&datagram[..length], b"READY=1");
    assert_eq!(rustix::net::sockopt::socket_passcred(&notify), Ok(true), "and the reader learns who sent it");
}

/// Root binds for it what was declared, and nothing else below 1024 than it could bind itself.
pub(crate) fn privileged_ports(brain: &mut Brain, host: &str) {
    let ip: std::net::IpAddr = host.parse().expect("address");
    let mut free = (1..1024).rev().filter(|port| std::net::TcpListener::bind((ip, *port)).is_ok());
    let mut next = || SocketAddr::new(ip, free.next().expect("a free port below 1024"));
    let (declared, other) = (next(), next());
    // The kernel takes AF_UNSPEC with a zero address for AF_INET.
    let script = format!(
        "
import ctypes, errno, os, socket, struct
def attempt(*how):
    try: how[0](*how[1:]); print('bound', flush=True)
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
attempt(socket.socket().bind, ('{host}', {port}))
attempt(socket.socket(socket.AF_INET6).bind, ('::', {port}))
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket()
if libc.bind(s.fileno(), struct.pack('=H', 0) + struct.pack('>H', {port}) + bytes(12), 16) < 0: print(errno.errorcode[ctypes.get_errno()], flush=True)
else: print('bound', flush=True)
",
        port = other.port()
    );
    brain.start(SpawnSpec { declared: vec![declared], ..nobody(1, &["python3", "-c", &script]) });
    for what in ["IPv4", "IPv6", "AF_UNSPEC"] {
        assert_eq!(brain.line(1), "EACCES", "{what}");
    }
    let refused = Event::BindRefused { generation: GenerationId(1), address: other, errno: Errno::ACCESS.raw_os_error() };
    brain.wait("refusal", |event| (*event == refused).then_some(()));
    // Held before the first start, then a restart beside it, then a crash.
    brain.done(Request::Hold { service: "web".into(), address: declared });
    let declares = |id| SpawnSpec { declared: vec![declared], limits: Limits::default(), ..server(id, declared) };
    brain.start(declares(2));
    assert_eq!(brain.listening(2).origin, Origin::Swapped);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(declared, 20), ["2"]);
    let pid = brain.start(declares(3));
    assert_eq!(brain.listening(3).origin, Origin::Adopted);
    assert_eq!(answers(declared, 20), ["2"]);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(3), share: None });
    assert_eq!(answers(declared, 20), ["3"]);
    kill(pid);
    brain.main_exited(3);
    brain.start(declares(4));
    assert_eq!(brain.listening(4).origin, Origin::Swapped);
    assert_eq!(answer(declared), "4");
}
