//! The control socket under attack: noise, nearly right requests, clients that leave, flood and never read, more of them than there is room
//! for, and another user. The daemon goes on serving, in bounded memory, and is not the one that ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stayput_testkit::env::{Host, TestEnv, User};
use stayput_testkit::{both_users, process, wait};
use stayput_wire::codec::{self, REQUEST_LINE_MAX};
use stayput_wire::{Answer, Cursor, LogsQuery, Reply, Request, SignalScope, VERSION};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a daemon may grow by under any of this: buffers of all its connections, and what the allocator keeps.
const GROWTH_KIB: u64 = 32 * 1024;
/// A user who is neither root nor nobody, and has no name.
const STRANGER: u32 = 65533;

fn two_services(env: &TestEnv) -> (Host<'_>, [u16; 2]) {
    let ports = [env.port(), env.port()];
    let config = ["web", "api"].iter().zip(ports).fold(String::new(), |text, (name, port)| {
        text + &format!("[service.{name}]\ncommand = {:?}\nsoak = '0s'\nrestart = 'always'\n", env.misbehave("trivial", port))
    });
    (env.host(&config), ports)
}

fn line(request: &Request) -> Vec<u8> {
    codec::encode(request, REQUEST_LINE_MAX).unwrap()
}

fn hello() -> Vec<u8> {
    line(&Request::Hello { version: VERSION, by: None })
}

/// A connection. unix(7): a connect() to a full queue waits for ever, which would be the test's end as well: it does not wait, and tries again.
fn connect(host: &Host<'_>) -> UnixStream {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let address = SocketAddrUnix::new(host.socket()).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    wait::until("room in the queue of the control socket", PATIENCE, || {
        rustix::net::connect(&socket, &address).map_err(|error| error.to_string())
    })
    .unwrap();
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the daemon is before and after an attack.
struct Watched<'host, 'env> {
    host: &'host Host<'env>,
    daemon: u32,
    rss: u64,
    fds: usize,
}

impl<'host, 'env> Watched<'host, 'env> {
    fn begin(host: &'host Host<'env>) -> Self {
        let daemon = host.part("daemon");
        Self { host, daemon, rss: process::rss_kib(daemon).unwrap(), fds: process::open_fds(daemon).unwrap() }
    }

    /// Still the same daemon, which answers, is not much bigger, and holds nothing of those who are gone.
    fn is_unharmed(&self) {
        let status = self.host.status();
        assert_eq!(
            (status["daemon"]["pid"].as_u64(), status["daemon_deaths"].as_u64()),
            (Some(u64::from(self.daemon)), Some(0)),
            "{status}"
        );
        let rss = process::rss_kib(self.daemon).unwrap();
        assert!(rss < self.rss + GROWTH_KIB, "{} KiB became {rss} KiB", self.rss);
        wait::until("the descriptors of those who are gone", PATIENCE, || match process::open_fds(self.daemon).unwrap() {
            now if now <= self.fds + 1 => Ok(()),
            now => Err(format!("{} were open, {now} are", self.fds)),
        })
        .unwrap();
    }
}

/// Requests that are as real as a client's, with names and numbers from anywhere. None that ends the instance or a service.
fn requests() -> impl Strategy<Value = Request> {
    let name =
        prop_oneof!["\\PC{0,40}", "(\\.\\./){1,8}etc/passwd", "[*?\\[\\]a-z]{0,24}", Just("w\0eb".to_owned()), Just("x".repeat(9000))];
    let names = prop::collection::vec(name.clone(), 0..5);
    let maybe = prop::option::of(name.clone());
    prop_oneof![
        any::<u32>().prop_map(|version| Request::Hello { version, by: None }),
        Just(Request::Status {}),
        Just(Request::Metrics {}),
        Just(Request::Plan {}),
        (names.clone(), any::<bool>()).prop_map(|(services, wait)| Request::Start { services, wait }),
        (maybe.clone(), any::<bool>()).prop_map(|(service, wait)| Request::Rollback { service, wait }),
        (names.clone(), any::<i32>()).prop_map(|(services, signal)| Request::Signal {
            services,
            // One that exists is not what is tried here, and would do what it says.
            signal: if (1..=64).contains(&signal) { -signal } else { signal },
            scope: SignalScope::Tree
        }),
        maybe.clone().prop_map(|service| Request::Config { service }),
        (maybe.clone(), name).prop_map(|(service, address)| Request::Release { service, address }),
        (prop::option::of((1..u64::MAX, any::<u64>())), names.clone()).prop_map(|(since, services)| Request::Events {
            since: since.map(|(boot, seq)| Cursor { boot, seq }),
            follow: false,
            services,
        }),
        (names, maybe, prop::option::of(any::<u32>()), any::<[Option<u64>; 3]>()).prop_map(|(services, grep, lines, numbers)| {
            let [since_ms, until_ms, generation] = numbers;
            Request::Logs(LogsQuery { services, grep, lines, since_ms, until_ms, generation, ..LogsQuery::default() })
        }),
    ]
}

/// A line with its newline that is a request, nearly one, JSON of another shape, or nothing at all.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let real = requests().prop_map(|request| codec::encode(&request, usize::MAX).unwrap());
    let nearly = (requests(), any::<prop::sample::Index>(), any::<u8>(), 0..4_u8).prop_map(|(request, place, byte, change)| {
        let mut line = codec::encode(&request, usize::MAX).unwrap();
        let at = place.index(line.len());
        match change {
            0 => line[at] = byte,
            1 => line.insert(at, byte),
            2 => drop(line.remove(at)),
            _ => line.truncate(at),
        }
        line.push(b'\n');
        line
    });
    let nested = (1..9000_usize, prop::sample::select(vec!["[", "{\"status\":", "{\"logs\":{\"services\":["])).prop_map(|(depth, open)| {
        let mut line = open.repeat((depth / open.len()).max(1)).into_bytes();
        line.push(b'\n');
        line
    });
    let verbs = prop::sample::select(vec!["status", "logs", "restart", "release", "constructor", "os.system", "hello", ""]);
    let values =
        prop::sample::select(vec!["null", "1e999", "-0", "\"\\ud800\"", "[]", "{\"services\":1e3}", "{\"a\":{\"a\":{}}}", "\"\\u0000\""]);
    let other = (verbs, values).prop_map(|(verb, value)| format!("{{\"{verb}\":{value}}}\n").into_bytes());
    let noise = prop::collection::vec(any::<u8>(), 0..600);
    let long = (REQUEST_LINE_MAX - 2..REQUEST_LINE_MAX * 3).prop_map(|length| vec![b'x'; length]);
    prop_oneof![4 => real, 6 => nearly, 1 => nested, 2 => other, 3 => noise, 1 => long]
}

/// Sends it all, then says that this is all, and reads what comes until the daemon hangs up. Every line of it has to be an answer.
fn exchange(host: &Host<'_>, sent: &[Vec<u8>]) -> Result<Vec<Answer>, TestCaseError> {
    let mut stream = connect(host);
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut answers = Vec::new();
        let ended = reader.read_to_end(&mut answers);
        (answers, ended)
    });
    for line in sent {
        // Who is refused is hung up on, also in the middle of what it sends.
        if stream.write_all(line).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let (bytes, ended) = reading.join().unwrap();
    if let Err(error) = ended {
        prop_assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the daemon does not hang up");
        return Ok(Vec::new());
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| codec::decode(line).map_err(|error| TestCaseError::fail(format!("{error}: {line:?}")))).collect()
}

both_users! {
fn noise_and_nearly_right_requests_never_end_the_daemon(env) {
    let (host, ports) = two_services(env);
    // What the first requests of each kind allocate for good is not growth.
    exchange(&host, &[hello(), line(&Request::Status {}), line(&Request::Logs(LogsQuery::default()))]).unwrap();
    let watched = Watched::begin(&host);
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let cases = (prop::bool::weighted(0.9), prop::collection::vec(lines(), 1..6));
    runner
        .run(&cases, |(greets, mut sent)| {
            if greets {
                sent.insert(0, hello());
            }
            let answers = exchange(&host, &sent)?;
            if !greets {
                let only_refusals = answers.iter().all(|answer| matches!(answer, Answer::Reply(Reply::Failed(_) | Reply::Hello { .. })));
                prop_assert!(only_refusals, "without a hello nothing is answered: {:?}", answers);
            }
            // And the next one is served.
            let next = exchange(&host, &[hello(), line(&Request::Status {})])?;
            prop_assert!(matches!(next.as_slice(), [Answer::Reply(Reply::Hello { .. }), Answer::Reply(Reply::Status(_))]), "{:?}", next);
            Ok(())
        })
        .unwrap();
    watched.is_unharmed();
    for port in ports {
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
    host.down();
}

fn a_client_that_leaves_in_the_middle_of_an_answer_leaves_nothing_behind(env) {
    let (host, _) = two_services(env);
    let restart = Request::Restart { services: vec!["web".to_owned()], wait: true, parallel: None, canary: None };
    let asked = [
        Request::Status {},
        Request::Metrics {},
        Request::Events { since: None, follow: true, services: vec![] },
        Request::Logs(LogsQuery { follow: true, ..LogsQuery::default() }),
        restart,
    ];
    let watched = Watched::begin(&host);
    for request in &asked {
        for taken in [0, 1, 7, 90, 300] {
            let mut stream = connect(&host);
            stream.write_all(&[hello(), line(request)].concat()).unwrap();
            // A read may be cut short by the end of what there is: a follower gets no more for now.
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let _ = stream.read_exact(&mut vec![0; taken]);
        }
    }
    watched.is_unharmed();
    // What was asked for is done all the same, once begun.
    host.wait_for("web", "the restart that nobody waits for", |service| service["phase"] == "ready" && service["restarts"].as_u64() >= Some(1));
    host.down();
}

fn floods_and_clients_that_never_read_delay_nobody(env) {
    let (host, _) = two_services(env);
    let watched = Watched::begin(&host);
    let asked = [Request::Status {}, Request::Events { since: None, follow: true, services: vec![] }, Request::Logs(LogsQuery { follow: true, ..LogsQuery::default() })];
    let mut silent = Vec::new();
    for n in 0..30 {
        let mut stream = connect(&host);
        stream.set_nonblocking(true).unwrap();
        let mut sent = hello();
        for _ in 0..2000 {
            sent.extend(line(&asked[n % asked.len()]));
        }
        // As much as the kernel takes; nothing is ever read.
        let _ = stream.write(&sent);
        silent.push(stream);
    }
    for _ in 0..20 {
        let begin = Instant::now();
        let reply = host.ask(&Request::Status {});
        assert!(matches!(reply, Reply::Status(_)), "{reply:?}");
        // Ten times what is promised for a quiet machine.
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    host.succeeds(&["restart", "web"]);
    drop(silent);
    watched.is_unharmed();
    host.down();
}

fn who_reads_nothing_has_no_place_that_another_wants(env) {
    let (host, _) = two_services(env);
    let watched = Watched::begin(&host);
    let deaf = |request: &Request| {
        let mut stream = connect(&host);
        stream.set_nonblocking(true).unwrap();
        // As much as the kernel takes; nothing is ever read, so that the answers soon fill their socket, and all places are in use.
        let _ = stream.write(&[hello(), line(request).repeat(1000)].concat());
        stream
    };
    let all: Vec<UnixStream> = (0..80).map(|_| deaf(&Request::Status {})).collect();
    for _ in 0..5 {
        let begin = Instant::now();
        let reply = host.ask(&Request::Status {});
        assert!(matches!(reply, Reply::Status(_)), "{reply:?}");
        // Left to themselves they would be hung up on after ten seconds.
        assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    }
    drop(all);
    watched.is_unharmed();
    host.down();
}

fn who_does_not_read_a_stream_leaves_it_to_others(env) {
    // More than a socket takes.
    let host = env.host("[service.chatty]\nshell = 'seq 1 300000; exec sleep 1000'\nready = 'log:^300000$'\n");
    let follow = Request::Logs(LogsQuery { follow: true, ..LogsQuery::default() });
    let deaf: Vec<UnixStream> = (0..48)
        .map(|_| {
            let mut stream = connect(&host);
            stream.write_all(&[hello(), line(&follow)].concat()).unwrap();
            // The first line of it: it has its place among the streams.
            let mut byte = [0];
            let mut lines = 0;
            while lines < 2 {
                stream.read_exact(&mut byte).unwrap();
                lines += usize::from(byte[0] == b'\n');
            }
            stream
        })
        .collect();
    let output = env.cli(["logs", "-n", "1", "--raw"], PATIENCE);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "300000\n", "{}", String::from_utf8_lossy(&output.stderr));
    drop(deaf);
    host.down();
}

fn five_hundred_connections_leave_room_for_one_more(env) {
    let (host, ports) = two_services(env);
    let watched = Watched::begin(&host);
    let idle: Vec<UnixStream> = (0..500).map(|_| connect(&host)).collect();
    for _ in 0..5 {
        let status = host.status();
        assert_eq!(status["services"].as_array().unwrap().len(), 2, "{status}");
    }
    std::net::TcpStream::connect(("127.0.0.1", ports[0])).unwrap();
    drop(idle);
    watched.is_unharmed();
    host.down();
}
}

/// Bytes that the daemon sends to a Python of this user that says hello; `None`: it could not connect at all.
fn as_stranger(uid: u32, socket: &std::path::Path) -> Option<String> {
    let program = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(20)\ntry: s.connect(sys.argv[1])\nexcept PermissionError: print('EACCES'); sys.exit()\ntry:\n s.sendall(sys.argv[2].encode()); print('got', s.recv(4096))\nexcept (BrokenPipeError, ConnectionResetError): print('got', b'')";
    let hello = String::from_utf8(hello()).unwrap();
    let mut command = std::process::Command::new("python3");
    command.args(["-c", program]).arg(socket).arg(hello);
    std::os::unix::process::CommandExt::uid(&mut command, uid);
    std::os::unix::process::CommandExt::gid(&mut command, uid);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    said.trim().strip_prefix("got ").map(str::to_owned)
}

#[test]
fn another_user_is_refused() {
    if !User::Root.is_possible() {
        println!("NOT RUN: another user can be played by root only");
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), user);
        let (host, _) = two_services(&env);
        let socket = host.socket();
        assert_eq!(as_stranger(STRANGER, &socket), None, "the directories are closed");
        // Somebody opened them all up: the daemon asks the kernel who it is.
        for (path, mode) in
            [(env.path("run"), 0o755), (env.path("run").join("stayput"), 0o755), (host.runtime(), 0o755), (socket.clone(), 0o666)]
        {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(as_stranger(STRANGER, &socket).as_deref(), Some("b''"), "it is hung up on without a word");
        assert!(as_stranger(0, &socket).unwrap().contains("hello"), "root may speak");
        for (path, mode) in [(host.runtime(), 0o700), (env.path("run").join("stayput"), 0o700), (env.path("run"), 0o700)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        host.down();
    }
}
