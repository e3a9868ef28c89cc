//! What `restart`, `status` and `stop` say, against a daemon that answers from a script. The real one has tests of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use stayput_wire::codec::{self, ANSWER_LINE_MAX};
use stayput_wire::message::StoppedService;
use stayput_wire::runtime::RuntimeDir;
use stayput_wire::{Answer, Cursor, Event, Failure, FailureKind, Ledger, Measured, Outcome, Reply, Request, RestartedService, VERSION};

/// What happens to one connection: the request that must come, and the answers to it; then it is closed.
type Script = Vec<(Request, Vec<Answer>)>;

struct Daemon {
    directory: tempfile::TempDir,
    thread: JoinHandle<()>,
}

impl Daemon {
    /// An instance `web` whose connections are played from these scripts, one after the other; then its lock is released.
    fn start(scripts: Vec<Script>) -> Self {
        let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let runtime = RuntimeDir::create(&directory.path().join("stayput"), "web").unwrap();
        let listener = UnixListener::from(runtime.listen().unwrap());
        listener.set_nonblocking(false).unwrap();
        let thread = std::thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                play(stream, script);
            }
            runtime.remove().unwrap();
        });
        Self { directory, thread }
    }

    /// Runs a command against it, and waits until all scripts were played.
    fn stayput(self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stayput"));
        let Output { status, stdout, stderr } = command.args(arguments).env("XDG_RUNTIME_DIR", self.directory.path()).output().unwrap();
        let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        if let Err(why) = self.thread.join() {
            std::panic::resume_unwind(why);
        }
        (status.code(), out, err)
    }
}

fn play(mut stream: UnixStream, script: Script) {
    let hello = Reply::Hello { version: VERSION, stayput: "0.1.0".to_owned(), instance: "web".to_owned(), guard: i32::MAX };
    let hello = (Request::Hello { version: VERSION, by: None }, vec![Answer::Reply(hello)]);
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    for (expected, answers) in std::iter::once(hello).chain(script) {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(codec::decode::<Request>(line.trim_end().as_bytes()).unwrap(), expected);
        for answer in answers {
            stream.write_all(&codec::encode(&answer, ANSWER_LINE_MAX).unwrap()).unwrap();
        }
    }
}

fn restart(answers: Vec<Answer>) -> Script {
    vec![(Request::Restart { services: vec![], wait: true, parallel: None, canary: None }, answers)]
}

fn web() -> String {
    "web".to_owned()
}

fn restarted(ledger: Box<Ledger>, last_output: &[&str]) -> Reply {
    let last_output = last_output.iter().map(|&line| line.to_owned()).collect();
    Reply::Restarted {
        services: vec![RestartedService { name: web(), ledger: Some(ledger), last_output, problem: None }],
        untouched: vec![],
    }
}

fn ledger(outcome: Outcome, reason: Option<&str>) -> Box<Ledger> {
    Box::new(Ledger {
        from: Some(3),
        to: Some(4),
        outcome,
        reason: reason.map(str::to_owned),
        queued: Measured::Count(0),
        drained: Measured::Count(12),
        cut: Measured::Count(0),
        idle_closed: Measured::Count(1),
        notes: Vec::new(),
        lost: Measured::Count(0),
        gap_ms: Measured::Count(0),
        listener_gap: false,
        accepted: Measured::NotMeasured,
        refused: Measured::NotMeasured,
        canary: None,
    })
}

#[test]
fn a_good_restart_shows_its_progress_and_its_ledger() {
    let daemon = Daemon::start(vec![restart(vec![
        Answer::Event(Event::Starting { service: web(), from: Some(3), to: 4, pid: 4790 }),
        Answer::Event(Event::Listening { service: web(), generation: 4, address: "[::]:8000".to_owned() }),
        Answer::Event(Event::Ready { service: web(), generation: 4, after_ms: 310 }),
        Answer::Event(Event::Switched { service: web(), from: Some(3), to: 4, soak_ms: 10_000, draining: Measured::Count(12) }),
        Answer::Reply(restarted(ledger(Outcome::Switched, None), &[])),
    ])]);
    let (code, out, err) = daemon.stayput(&["restart"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "\
web: starting generation 4 (pid 4790) beside generation 3
web: generation 4 listens on [::]:8000
web: generation 4 is ready after 310 ms
web: switched: generation 4 takes all new connections
web: generation 3 keeps its open connections: 12
web: on probation for 10 s
restart of generation 3 by 4: switched
  old connections drained  12
  old connections cut      0
  idle ones closed         1
  waited in the old queue  0
  lost with a failed one   0
  nobody accepted for      0 ms
  without any listener     never
  not measured: refused, accepted by the new one
"
    );
}

#[test]
fn a_restart_that_failed_is_exit_1_with_its_last_lines() {
    let reply = restarted(ledger(Outcome::NotReady, Some("exited with status 1")), &["Traceback", "\u{1b}[31mImportError"]);
    let (code, _, err) = Daemon::start(vec![restart(vec![Answer::Reply(reply.clone())])]).stayput(&["restart", "web"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        err,
        "\
error: web: the new generation did not become ready, the old one was not touched: exited with status 1
  its last output:
    | Traceback
    | \\x1b[31mImportError
"
    );
    let (code, out, _) = Daemon::start(vec![restart(vec![Answer::Reply(reply)])]).stayput(&["restart", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, Some(1));
    assert_eq!(
        (&document["service"], &document["outcome"], &document["drained"], &document["refused"]),
        (&"web".into(), &"not-ready".into(), &12.into(), &"not measured".into())
    );
}

#[test]
fn a_refusal_is_told_in_the_words_of_the_daemon() {
    let failure = Failure { kind: FailureKind::Busy, message: "the instance is stopping".to_owned(), hint: Some("wait".to_owned()) };
    let (code, _, err) = Daemon::start(vec![restart(vec![Answer::Reply(Reply::Failed(failure))])]).stayput(&["restart"]);
    assert_eq!((code, err.as_str()), (Some(1), "error: the instance is stopping\nhint: wait\n"));
}

/// The status of the instance, its service in this phase.
fn status(phase: &str) -> Script {
    let status = serde_json::json!({
        "name": "web", "guard": {"pid": 1}, "keeper": {"pid": 2}, "daemon": {"pid": 4}, "keeper_deaths": 0, "daemon_deaths": 1,
        "services": [{
            "name": "web", "target": "up", "phase": phase, "detail": "generation 4 takes the connections", "restarts": 1,
            "generations": [], "held": [], "ledger": ledger(Outcome::Switched, None),
        }],
    });
    vec![(Request::Status {}, vec![Answer::Reply(Reply::Status(serde_json::from_value(status).unwrap()))])]
}

#[test]
fn a_restart_is_followed_when_the_daemon_dies() {
    let daemon = Daemon::start(vec![
        restart(vec![Answer::Event(Event::Starting { service: web(), from: Some(3), to: 4, pid: 4790 })]),
        status("ready"),
    ]);
    let (code, out, err) = daemon.stayput(&["restart"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("the daemon ended while we waited"), "{err}");
    assert!(out.contains("restart of generation 3 by 4: switched"), "{out}");
}

#[test]
fn the_next_daemon_is_asked_again_when_something_happens() {
    let news = Request::Events { since: Some(Cursor::NOW), follow: true, services: vec![] };
    let daemon = Daemon::start(vec![
        restart(vec![Answer::Event(Event::Starting { service: web(), from: Some(3), to: 4, pid: 4790 })]),
        status("soaking"),
        vec![(news, vec![Answer::Gap { missed: None }])],
        // Once for what may have happened before the stream began, and then for what the stream says.
        status("soaking"),
        status("ready"),
    ]);
    let (code, out, err) = daemon.stayput(&["restart"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("restart of generation 3 by 4: switched"), "{out}");
}

#[test]
fn stop_waits_for_the_end_and_says_how_it_ended() {
    let stopped = StoppedService { name: web(), ended: "was ended by signal TERM".to_owned(), status: 143 };
    let script = vec![(
        Request::Down { wait: true },
        vec![
            Answer::Event(Event::StopSignal { service: web(), generation: 4, signal: "TERM".to_owned(), grace_ms: 10_000 }),
            Answer::Reply(Reply::Stopped { services: vec![stopped] }),
        ],
    )];
    let (code, out, err) = Daemon::start(vec![script]).stayput(&["stop"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "\
web: sent TERM to generation 4; what is left after 10 s is killed
web: stopped; its main process was ended by signal TERM
"
    );
}
