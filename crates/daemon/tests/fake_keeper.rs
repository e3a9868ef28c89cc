//! The daemon against a keeper made of a script: what it asks for, in which order, and what it tells its clients.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use stayput_keeper::client::Channel;
use stayput_keeper::protocol::{
    DescriptorKind, Dump, Event, ExitStatus, FromKeeper, GenerationFacts, GenerationId, ListenerFacts, ListenerId, Origin, Reply, Request,
    Scope, ToKeeper, Trap,
};
use stayput_model::config::{InstanceConfig, Mode, ReportStyle, ServiceConfig};
use stayput_model::{Blob, config};
use stayput_wire::{Client, GenerationPhase, Measured, Outcome, Reply as Answer, Request as Question, ServicePhase};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const SOAK: Duration = Duration::from_secs(2);

struct FakeKeeper {
    channel: Channel<FromKeeper, ToKeeper>,
    daemon: JoinHandle<ExitCode>,
    directory: tempfile::TempDir,
    blobs: BTreeMap<String, Vec<u8>>,
}

fn config(change: impl FnOnce(&mut ServiceConfig)) -> Vec<(String, Vec<u8>)> {
    let mut service = ServiceConfig::new("web", vec![b"server".to_vec()]);
    service.soak = SOAK;
    change(&mut service);
    let config = InstanceConfig { services: vec![service], ..InstanceConfig::new("test", Mode::Run, ReportStyle::Plain) };
    Blob::Start(Box::new(config)).parts()
}

fn dump(blobs: Vec<(String, Vec<u8>)>, generations: Vec<GenerationFacts>, listeners: Vec<ListenerFacts>) -> Dump {
    Dump {
        instance: "test".to_owned(),
        guard_pid: std::process::id().try_into().unwrap(),
        keeper_pid: 1,
        keeper_deaths: 0,
        daemon_deaths: u32::from(!generations.is_empty()),
        blobs,
        generations,
        listeners,
        waiting: Vec::new(),
        left: Vec::new(),
    }
}

impl FakeKeeper {
    /// Starts a daemon and gives it these facts.
    fn start(facts: Dump) -> Self {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
                .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let control: OwnedFd = std::os::unix::net::UnixListener::bind(directory.path().join("control.sock")).unwrap().into();
        let daemon = std::thread::spawn(move || stayput_daemon::run(theirs, control));
        let mut keeper = Self { channel: Channel::new(ours), daemon, directory, blobs: facts.blobs.iter().cloned().collect() };
        let seq = keeper.expect(|request| matches!(request, Request::Dump)).0;
        keeper.reply(seq, Reply::Dump(Box::new(facts)), &[]);
        keeper
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn next(&mut self) -> ToKeeper {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some((message, _)) = self.channel.receive().unwrap() {
                return message;
            }
            let left = until.checked_duration_since(Instant::now()).expect("the daemon asked for nothing");
            let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap(), tv_nsec: i64::from(left.subsec_nanos()) };
            poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&left)).unwrap();
        }
    }

    /// The next request that is not about the blob; that it is this one.
    #[track_caller]
    fn expect(&mut self, is: impl Fn(&Request) -> bool) -> (u64, Request) {
        loop {
            let ToKeeper { seq, request } = self.next();
            if let Request::SetBlobs(blobs) = request {
                self.blobs.extend(blobs);
                self.reply(seq, Reply::Done, &[]);
                continue;
            }
            if !is(&request) && request == Request::Dump {
                // For a status that was not waited for.
                self.reply(seq, Reply::Done, &[]);
                continue;
            }
            assert!(is(&request), "asked for {request:?}");
            return (seq, request);
        }
    }

    /// As [`FakeKeeper::expect`], and answers that it is done.
    #[track_caller]
    fn grant(&mut self, is: impl Fn(&Request) -> bool) -> Request {
        let (seq, request) = self.expect(is);
        self.reply(seq, Reply::Done, &[]);
        request
    }

    fn reply(&self, seq: u64, reply: Reply, descriptors: &[BorrowedFd<'_>]) {
        self.channel.send(&FromKeeper::Reply { seq, reply }, descriptors).unwrap();
    }

    fn event(&self, event: Event) {
        self.channel.send(&FromKeeper::Event(event), &[]).unwrap();
    }

    /// Grants a spawn; returns the write end of its output.
    #[track_caller]
    fn spawn(&mut self, id: u64) -> std::io::PipeWriter {
        let (seq, request) = self.expect(|request| matches!(request, Request::Spawn(_)));
        let Request::Spawn(spec) = request else { unreachable!() };
        assert_eq!(spec.generation, GenerationId(id));
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        self.reply(seq, Reply::Spawned { pid: pid(id), descriptors: vec![DescriptorKind::Output] }, &[reader.as_fd()]);
        self.event(Event::Executed { generation: GenerationId(id), trap: Trap::Active });
        writer
    }

    #[track_caller]
    fn steer(&mut self, id: u64) {
        self.grant(|request| matches!(request, Request::Steer { generation, .. } if *generation == GenerationId(id)));
    }

    /// Its stop signal comes; it obeys, and is released and forgotten.
    #[track_caller]
    fn end(&mut self, id: u64) {
        let is = |generation: &GenerationId| *generation == GenerationId(id);
        self.grant(|r| matches!(r, Request::Signal { generation, signal: 15, scope: Scope::Main } if is(generation)));
        self.event(Event::MainExited { generation: GenerationId(id), status: ExitStatus::Signalled(15) });
        // What it may have left behind gets the signal too.
        self.grant(|r| matches!(r, Request::Signal { generation, signal: 15, scope: Scope::Tree } if is(generation)));
        self.event(Event::TreeEmpty { generation: GenerationId(id) });
        let (seq, _) = self.expect(|r| matches!(r, Request::Release { generation } if is(generation)));
        self.reply(seq, Reply::Released { queued: 0 }, &[]);
        self.grant(|r| matches!(r, Request::Forget { generation } if is(generation)));
    }

    fn hang_up(self) -> (Vec<(String, Vec<u8>)>, ExitCode) {
        drop(self.channel);
        (self.blobs.into_iter().collect(), self.daemon.join().unwrap())
    }
}

fn pid(id: u64) -> i32 {
    // No process has it: the daemon looks at nobody's descriptors.
    0x3fff_0000 + i32::try_from(id).unwrap()
}

fn listener(id: u64, address: SocketAddr, selected: bool) -> ListenerFacts {
    ListenerFacts {
        id: ListenerId(id),
        service: "web".to_owned(),
        owner: Some(GenerationId(id)),
        last_owner: None,
        address,
        v6only: false,
        inode: 900 + u32::try_from(id).unwrap(),
        origin: Origin::Adopted,
        selected,
    }
}

/// Starts a daemon and brings its first generation up on a socket of the test.
fn serving() -> (FakeKeeper, TcpListener, std::io::PipeWriter) {
    let mut keeper = FakeKeeper::start(dump(config(|_| ()), Vec::new(), Vec::new()));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = keeper.spawn(1);
    keeper.event(Event::Listener(listener(1, server.local_addr().unwrap(), true)));
    // It has the connections already: the probe needs no route. It is accepted by whoever accepts.
    let (probe, _) = server.accept().unwrap();
    keeper.grant(|request| matches!(request, Request::Route { source_port: None, .. }));
    keeper.steer(1);
    drop(probe);
    (keeper, server, output)
}

#[track_caller]
fn status(socket: &std::path::Path) -> stayput_wire::ServiceStatus {
    let mut client = Client::connect(socket, DEADLINE).unwrap();
    match client.request(&Question::Status {}, Some(DEADLINE), &mut |_| ()).unwrap() {
        Answer::Status(status) => status.services.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn restart_question() -> Question {
    Question::Restart { services: vec![], wait: true, parallel: None, canary: None }
}

#[track_caller]
fn restarted(answer: Answer) -> (stayput_wire::Ledger, Vec<String>) {
    let Answer::Restarted { mut services, .. } = answer else { panic!("{answer:?}") };
    let service = services.pop().unwrap();
    (*service.ledger.unwrap(), service.last_output)
}

/// Asks in a thread: the keeper's part is played by the test.
fn ask(socket: PathBuf, question: Question) -> JoinHandle<(Answer, Vec<stayput_wire::Event>)> {
    std::thread::spawn(move || {
        let mut client = Client::connect(&socket, DEADLINE).unwrap();
        let mut events = Vec::new();
        let answer = client.request(&question, Some(DEADLINE), &mut |event| events.push(event)).unwrap();
        (answer, events)
    })
}

#[test]
fn a_restart_is_probed_by_its_source_port_switched_and_the_old_one_stopped_after_the_soak() {
    let (mut keeper, server, _output) = serving();
    let address = server.local_addr().unwrap();
    assert_eq!(status(&keeper.socket()).phase, ServicePhase::Ready);

    let asked = Instant::now();
    let restart = ask(keeper.socket(), restart_question());
    let mut output = keeper.spawn(2);
    writeln!(output, "hello").unwrap();
    keeper.event(Event::Listener(listener(2, address, false)));
    let route = keeper.grant(|request| matches!(request, Request::Route { generation: GenerationId(2), source_port: Some(_) }));
    let (probe, peer) = server.accept().unwrap();
    drop(probe);
    assert_eq!(route, Request::Route { generation: GenerationId(2), source_port: Some(peer.port()) });
    keeper.grant(|request| matches!(request, Request::Route { generation: GenerationId(2), source_port: None }));
    keeper.steer(2);
    assert_eq!(status(&keeper.socket()).phase, ServicePhase::Soaking);
    keeper.end(1);
    assert!(asked.elapsed() >= SOAK, "the way back was given up before the soak was over");

    let (answer, events) = restart.join().unwrap();
    let (ledger, _) = restarted(answer);
    assert_eq!((ledger.outcome, ledger.from, ledger.to), (Outcome::Switched, Some(1), Some(2)));
    assert_eq!(ledger.gap_ms, Measured::Count(0));
    assert!(events.iter().any(|event| matches!(event, stayput_wire::Event::Ready { generation: 2, .. })), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, stayput_wire::Event::Switched { from: Some(1), to: 2, .. })), "{events:?}");
    let status = status(&keeper.socket());
    assert_eq!(status.generations.iter().map(|generation| generation.id).collect::<Vec<_>>(), [2]);
    assert_eq!(keeper.hang_up().1, ExitCode::SUCCESS);
}

#[test]
fn a_generation_that_dies_before_it_is_ready_is_reported_with_its_last_output() {
    let (mut keeper, _server, _output) = serving();
    let restart = ask(keeper.socket(), restart_question());
    let mut output = keeper.spawn(2);
    writeln!(output, "ImportError: \u{1b}[2Jno such thing").unwrap();
    drop(output);
    // The line has to be there before the death is told, as with the real keeper: it is read when the status is.
    let until = Instant::now() + DEADLINE;
    while status(&keeper.socket()).generations.first().is_none_or(|generation| generation.phase != GenerationPhase::Starting) {
        assert!(Instant::now() < until, "generation 2 never started");
    }
    keeper.event(Event::MainExited { generation: GenerationId(2), status: ExitStatus::Exited(1) });
    keeper.grant(|request| matches!(request, Request::Signal { generation: GenerationId(2), scope: Scope::Tree, .. }));
    let (answer, _) = restart.join().unwrap();
    let (ledger, last_output) = restarted(answer);
    assert_eq!(ledger.outcome, Outcome::NotReady);
    assert_eq!(ledger.reason.as_deref(), Some("its main process exited with status 1"));
    assert_eq!(last_output, ["ImportError: \\x1b[2Jno such thing"]);
    assert_eq!(status(&keeper.socket()).generations.last().unwrap().phase, GenerationPhase::Ready);
    keeper.hang_up();
}

#[test]
fn a_daemon_that_starts_anew_carries_on_and_touches_nothing() {
    let (keeper, server, _output) = serving();
    let address = server.local_addr().unwrap();
    // Whatever was asked for is on its way: the last state is read before the line is cut.
    let mut keeper = keeper;
    status(&keeper.socket());
    while let Some((message, _)) = keeper.channel.receive().unwrap() {
        if let Request::SetBlobs(blobs) = message.request {
            keeper.blobs.extend(blobs);
        }
    }
    let (blobs, code) = keeper.hang_up();
    assert_eq!(code, ExitCode::SUCCESS);

    let facts = GenerationFacts {
        service: "web".to_owned(),
        id: GenerationId(1),
        pid: pid(1),
        trap: Some(Trap::Active),
        exec_failed: None,
        exit: None,
        tree_empty: false,
    };
    let mut keeper = FakeKeeper::start(dump(blobs, vec![facts], vec![listener(1, address, true)]));
    let (seq, _) = keeper.expect(|request| matches!(request, Request::Fetch { generation: GenerationId(1) }));
    keeper.reply(seq, Reply::Output { descriptors: Vec::new() }, &[]);
    let status = status(&keeper.socket());
    assert_eq!(status.phase, ServicePhase::Ready);
    assert_eq!(status.generations[0].listeners[0].port, address.port());
    // Nothing more than that: no signal, no start.
    let stop = ask(keeper.socket(), Question::Stop { services: vec![], wait: true });
    keeper.grant(|request| matches!(request, Request::ReleaseService { .. }));
    keeper.end(1);
    let (answer, _) = stop.join().unwrap();
    let Answer::Stopped { services } = answer else { panic!("{answer:?}") };
    assert_eq!(services[0].status, 143);
    keeper.grant(|request| matches!(request, Request::Exit { status: 143 }));
    keeper.hang_up();
}

#[test]
fn nobody_is_served_before_hello_and_no_stranger_version_is() {
    use std::io::{BufRead as _, BufReader};
    let (keeper, _server, _output) = serving();
    for (line, kind) in [
        ("{\"status\":{}}\n", "bad-request"),
        ("{\"hello\":{\"version\":99}}\n", "version"),
        ("nonsense\n", "bad-request"),
        (&*format!("{}\n", "x".repeat(100_000)), "bad-request"),
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(keeper.socket()).unwrap();
        // The daemon may hang up while a long line is still being written.
        let _ = stream.write_all(line.as_bytes());
        let mut answer = String::new();
        let read = BufReader::new(stream).read_line(&mut answer);
        assert!(read.is_err() || answer.is_empty() || answer.contains(kind), "{line:.40}: {answer}");
        assert!(line.len() > 1000 || answer.contains(kind), "{line:.40}: {answer}");
    }
    keeper.hang_up();
}

#[test]
fn a_service_that_reports_by_log_or_waits_for_its_port() {
    let blobs = config(|service| {
        service.readiness = config::Readiness::Log { pattern: "^listening on \\d+$".to_owned() };
        service.ports = vec!["127.0.0.1:9".parse().unwrap()];
    });
    let mut keeper = FakeKeeper::start(dump(blobs, Vec::new(), Vec::new()));
    keeper.grant(|request| matches!(request, Request::Hold { .. }));
    let address = "127.0.0.1:9".parse().unwrap();
    keeper.event(Event::HoldWaits { service: "web".to_owned(), address, errno: 98 });
    let until = Instant::now() + DEADLINE;
    while status(&keeper.socket()).phase != ServicePhase::WaitingForPort {
        assert!(Instant::now() < until, "never waited");
    }
    let restart = ask(keeper.socket(), restart_question());
    assert!(matches!(restart.join().unwrap().0, Answer::Failed(_)));
    keeper.event(Event::Held { service: "web".to_owned(), address });
    let mut output = keeper.spawn(1);
    writeln!(output, "listening on x\nlistening on 9").unwrap();
    let until = Instant::now() + DEADLINE;
    while status(&keeper.socket()).phase != ServicePhase::Ready {
        assert!(Instant::now() < until, "never ready");
    }
    keeper.hang_up();
}

/// The next line of a stream, within the deadline.
#[track_caller]
fn next_line(client: &mut Client) -> stayput_wire::LogLine {
    match client.next(Some(DEADLINE)).unwrap() {
        stayput_wire::Answer::Log(line) => line,
        other => panic!("{other:?}"),
    }
}

#[test]
fn output_is_kept_on_disk_and_a_follower_reads_it_there() {
    let logs = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700)).tempdir().unwrap();
    let mut service = ServiceConfig::new("web", vec![b"server".to_vec()]);
    service.readiness = config::Readiness::Log { pattern: "^listening on \\d+$".to_owned() };
    let kept = config::LogsConfig {
        directory: logs.path().join("logs").into_os_string().into_encoded_bytes(),
        max_size: 1 << 20,
        max_age: None,
        segment: 1 << 18,
        compress: true,
    };
    let config = InstanceConfig { services: vec![service], logs: Some(kept), ..InstanceConfig::new("test", Mode::Up, ReportStyle::Plain) };
    let mut keeper = FakeKeeper::start(dump(Blob::Start(Box::new(config)).parts(), Vec::new(), Vec::new()));
    let mut output = keeper.spawn(1);
    output.write_all(b"listening on x\nlistening on 9\n").unwrap();
    let until = Instant::now() + DEADLINE;
    while status(&keeper.socket()).phase != ServicePhase::Ready {
        assert!(Instant::now() < until, "the line on disk did not make it ready");
    }
    let mut follower = Client::connect(&keeper.socket(), DEADLINE).unwrap();
    let query = stayput_wire::LogsQuery { follow: true, lines: Some(1), ..Default::default() };
    follower.stream(&Question::Logs(query)).unwrap();
    let line = next_line(&mut follower);
    assert_eq!((line.text.as_str(), line.generation, line.service.as_str()), ("listening on 9", 1, "web"));
    output.write_all(b"\xff\xfe no text\n").unwrap();
    let line = next_line(&mut follower);
    assert_eq!((line.text.as_str(), line.bytes.as_deref()), ("\u{fffd}\u{fffd} no text", Some("//4gbm8gdGV4dA==")));

    let mut asking = Client::connect(&keeper.socket(), DEADLINE).unwrap();
    let query = stayput_wire::LogsQuery { grep: Some("on x".to_owned()), ..Default::default() };
    asking.stream(&Question::Logs(query)).unwrap();
    assert_eq!(next_line(&mut asking).text, "listening on x");
    assert!(matches!(asking.next(Some(DEADLINE)).unwrap(), stayput_wire::Answer::Reply(Answer::End {})));
    let query = stayput_wire::LogsQuery { grep: Some("(".to_owned()), ..Default::default() };
    asking.stream(&Question::Logs(query)).unwrap();
    assert!(matches!(asking.next(Some(DEADLINE)).unwrap(), stayput_wire::Answer::Reply(Answer::Failed(_))));
    keeper.hang_up();
}
