//! The misbehaving servers do what their modes say: a fault that does not happen proves nothing.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::load::{Plan, Report};
use stayput_testkit::port::Port;
use stayput_testkit::{process, wait};

const PATIENCE: Duration = Duration::from_secs(10);

/// A misbehaving server; every process with its tag is killed at the end.
struct Server {
    child: Child,
    port: Port,
    tag: String,
    /// A file and no pipe: what is left behind would keep a pipe open.
    stderr: tempfile::NamedTempFile,
}

impl Server {
    fn start(mode: &[&str]) -> Self {
        let port = Port::free();
        let tag = format!("misbehave-test-{}-{}", std::process::id(), port.number());
        let stderr = tempfile::NamedTempFile::new().expect("a temporary file");
        let child = Command::new(env!("CARGO_BIN_EXE_misbehave"))
            .args(mode)
            .args(["--port", &port.number().to_string(), "--tag", &tag])
            .env("MISBEHAVE_TEST", "visible")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.reopen().expect("its second descriptor"))
            .spawn()
            .expect("misbehave can be started");
        Self { child, port, tag, stderr }
    }

    fn ask(&self) -> Report {
        Plan::port(self.port.number())
            .clients(1)
            .duration(Duration::from_millis(1))
            .timeout(Duration::from_millis(300))
            .run()
            .expect("loopback")
    }

    fn wait_answer(&self) -> u32 {
        wait::until("an answer", PATIENCE, || {
            let report = self.ask();
            report.answerers.first().map(|who| who.pid).ok_or_else(|| format!("{report:?}"))
        })
        .expect("an answer")
    }

    fn end(&mut self) -> (Option<i32>, String) {
        wait::until_true("its end", PATIENCE, || matches!(self.child.try_wait(), Ok(Some(_)))).expect("its end");
        let text = std::fs::read_to_string(self.stderr.path()).expect("text");
        (self.child.wait().expect("its status").code(), text)
    }

    fn first_line(&mut self) -> String {
        let mut line = String::new();
        let mut reader = BufReader::new(self.child.stdout.take().expect("a pipe"));
        reader.read_line(&mut line).expect("a line");
        line
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for each in process::marked(&self.tag) {
            process::signal(each.pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn trivial_serves_and_dies_of_term() {
    let mut server = Server::start(&["trivial"]);
    assert_eq!(server.wait_answer(), server.child.id());
    process::signal(server.child.id(), Signal::TERM);
    assert_eq!(server.end().0, None, "ended by the signal");
}

#[test]
fn ignore_term_lives_on() {
    let mut server = Server::start(&["ignore-term"]);
    server.wait_answer();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        process::signal(server.child.id(), signal);
    }
    for _ in 0..20 {
        server.wait_answer();
    }
    assert!(server.child.try_wait().unwrap().is_none());
}

#[test]
fn daemonise_and_scrub_serve_from_an_orphan() {
    for mode in ["daemonise", "scrub"] {
        let mut server = Server::start(&[mode]);
        assert_eq!(server.end().0, Some(0), "{mode}");
        let worker = server.wait_answer();
        assert_ne!(worker, server.child.id(), "{mode}");
        let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
        let visible = environment.split(|byte| *byte == 0).any(|pair| pair == b"MISBEHAVE_TEST=visible");
        assert_eq!(visible, mode == "daemonise", "{mode}");
    }
}

#[test]
fn stray_and_grandchild_holds_leave_a_process() {
    for mode in ["stray", "grandchild-holds"] {
        let server = Server::start(&[mode]);
        server.wait_answer();
        process::signal(server.child.id(), Signal::KILL);
        wait::until_true("its end", PATIENCE, || !process::is_alive(server.child.id())).unwrap();
        let left = process::marked(&server.tag);
        assert!(left.iter().any(|each| each.command.contains("worker sleep")), "{mode}: {left:?}");
        // The listener lives exactly when somebody inherited it; else it ends with the last thread of the server.
        let listens = || TcpStream::connect(("127.0.0.1", server.port.number())).is_ok();
        match mode {
            "stray" => wait::until_true("the end of its listener", PATIENCE, || !listens()).unwrap(),
            _ => assert!(listens(), "{mode}"),
        }
    }
}

#[test]
fn late_refuses_and_then_serves() {
    let server = Server::start(&["late", "--ms", "400"]);
    assert_eq!(server.ask().counts.refused, 1);
    server.wait_answer();
}

#[test]
fn never_listen_and_never_accept_do_what_they_say() {
    let mut server = Server::start(&["never-listen"]);
    assert!(server.first_line().contains("starting"));
    assert_eq!(server.ask().counts.refused, 1);
    let server = Server::start(&["never-accept"]);
    wait::until_true("its listener", PATIENCE, || server.ask().counts.timed_out == 1).unwrap();
}

#[test]
fn crashes_have_the_status_that_was_asked_for() {
    let mut server = Server::start(&["crash-before-ready", "--status", "9"]);
    let (status, text) = server.end();
    assert_eq!(status, Some(9));
    assert!(text.contains("this version is broken"), "{text}");
    let mut server = Server::start(&["crash-after", "--ms", "300", "--status", "4"]);
    server.wait_answer();
    assert_eq!(server.end().0, Some(4));
    assert_eq!(Server::start(&["exit", "--status", "5"]).end().0, Some(5));
}

#[test]
fn close_listener_lives_on_without_it() {
    let mut server = Server::start(&["close-listener", "--ms", "300"]);
    server.wait_answer();
    wait::until_true("a refusal", PATIENCE, || server.ask().counts.refused == 1).unwrap();
    assert!(server.child.try_wait().unwrap().is_none());
}

#[test]
fn flood_bind_binds_much_and_serves() {
    let mut server = Server::start(&["flood-bind", "--ms", "300"]);
    server.wait_answer();
    let line = server.first_line();
    let binds: u64 = line.trim().strip_prefix("binds ").unwrap().parse().unwrap();
    assert!(binds > 100, "{binds}");
}

#[test]
fn open_fds_and_environment_are_told() {
    let mut server = Server::start(&["open-fds"]);
    let fds: serde_json::Value = serde_json::from_str(&server.first_line()).unwrap();
    let numbers: Vec<i64> = fds.as_array().unwrap().iter().filter_map(|each| each["fd"].as_i64()).collect();
    // Whoever started the tests may have leaked more into them.
    assert_eq!(numbers[..3], [0, 1, 2], "{fds}");
    let mut server = Server::start(&["environment"]);
    let all: serde_json::Value = serde_json::from_str(&server.first_line()).unwrap();
    assert_eq!(all["MISBEHAVE_TEST"], "visible");
}

#[test]
fn mptcp_and_two_listeners_serve() {
    for mode in ["mptcp", "two-listeners"] {
        let server = Server::start(&[mode]);
        assert_eq!(server.wait_answer(), server.child.id(), "{mode}");
    }
}

#[test]
fn a_taken_port_is_the_usual_error() {
    let mut server = Server::start(&["late", "--ms", "300"]);
    let _taken = TcpListener::bind(("127.0.0.1", server.port.number())).unwrap();
    let (status, text) = server.end();
    assert_eq!(status, Some(1));
    assert!(text.contains("Address already in use"), "{text}");
}

#[test]
fn from_file_reads_its_mode_at_each_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mode");
    std::fs::write(&file, "exit --status 6\n").unwrap();
    let path = file.display().to_string();
    assert_eq!(Server::start(&["from-file", "--file", &path]).end().0, Some(6));
    std::fs::write(&file, "trivial\n").unwrap();
    Server::start(&["from-file", "--file", &path]).wait_answer();
}
