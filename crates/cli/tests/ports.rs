//! `why`, `ports`, `wait` and `free` from the outside: words, JSON, exit codes, and who is left alive.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::process;

fn stayput(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stayput")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn pid(&self) -> i64 {
        self.0.id().into()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn ended(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A listener that only another process has, as its standard input; and its port.
fn held_by(command: &mut Command) -> (Process, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let child = command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The command keeps its fds as long as it lives: we would be a holder as well, and be stopped with the other.
    command.stdin(Stdio::null());
    (Process(child), port)
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("300");
    command
}

#[test]
fn bad_input_is_named_and_changes_nothing() {
    for port in ["abc", "0", "65536", "80-70", "", "-1", "80,", "5000\u{1b}[2J"] {
        for command in ["why", "ports", "wait", "free"] {
            let output = stayput(&[command, "--", port]);
            assert_eq!(code(&output), 2, "{command} {port:?}: {}", err(&output));
            assert!(err(&output).starts_with("error: "), "{command} {port:?}: {}", err(&output));
            assert!(!err(&output).contains('\u{1b}') && output.stdout.is_empty());
        }
    }
    for arguments in [
        &["why", "5000", "--as", "nowhere"][..],
        &["why"],
        &["wait", "5000-5001"],
        &["free", "1,2"],
        &["wait", "5000", "--http", "no-slash"],
        &["wait", "5000", "--timeout", "soon"],
        &["wait", "5000", "--free", "--closed"],
        &["wait", "5000", "--closed", "--as", "0.0.0.0"],
    ] {
        assert_eq!(code(&stayput(arguments)), 2, "{arguments:?}");
    }
}

#[test]
fn a_free_port_is_free_and_a_taken_one_names_its_holder() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let taken = stayput(&["why", &port]);
    assert_eq!(code(&taken), 1);
    let text = out(&taken);
    let first = text.lines().next().unwrap();
    assert!(first.starts_with(&format!("Port {port} is taken: ")) && first.contains(&format!("(pid {}", std::process::id())), "{text}");
    assert!(text.contains(&format!("stayput free {port}")), "{text}");
    let report: Value = serde_json::from_slice(&stayput(&["why", &port, "--json"]).stdout).unwrap();
    assert_eq!(report["port"].as_u64(), port.parse().ok());
    assert_eq!(report["holders"][0]["pid"].as_u64(), Some(std::process::id().into()));
    assert_eq!(report["verdicts"][0]["outcome"], "taken");
    assert_eq!(report["decides"]["errno"], "EADDRINUSE");
    assert_eq!(report["sockets"][0]["state"], "LISTEN");
    // The same socket stops nobody on another address.
    assert_eq!(code(&stayput(&["why", &port, "--as", "127.0.0.2,reuseaddr"])), 0);
    drop(listener);
    let free = stayput(&["why", &port]);
    assert_eq!(code(&free), 0, "{}", out(&free));
    assert!(out(&free).starts_with(&format!("Port {port} is free")), "{}", out(&free));
}

#[test]
fn several_ports_make_an_array_and_the_worst_decides() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let range = format!("{}-{}", port - 2, port + 2);
    let output = stayput(&["why", &range, "--json"]);
    assert_eq!(code(&output), 1);
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reports.as_array().unwrap().len(), 5);
    assert_eq!(reports[2]["port"].as_u64(), Some(port.into()));
}

#[test]
fn hostile_names_never_reach_the_terminal() {
    let hostile = "sl\nPort 1 is free\u{1b}[2J\u{202e}\u{9b}31m\u{7f}";
    let (process, port) = held_by(sleeper().arg0(hostile));
    let port = port.to_string();
    for arguments in [&["why", &port][..], &["ports", &port], &["why", &port, "--json"], &["free", &port]] {
        let output = stayput(arguments);
        let text = out(&output) + &err(&output);
        let acts = |character: char| (character.is_control() && character != '\n') || character == '\u{202e}';
        assert!(!text.chars().any(acts), "{arguments:?}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("Port 1 is")), "{text}");
    }
    // A bystander that inherited the listener is called so.
    let text = out(&stayput(&["why", &port]));
    assert!(text.contains("inherited the socket") && text.contains(&format!("pid {}", process.pid())), "{text}");
}

#[test]
fn free_asks_then_stops_the_holder_and_nobody_else() {
    let (mut holder, port) = held_by(&mut sleeper());
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut bystander = Process(sleeper().stdin(Stdio::from(OwnedFd::from(client))).spawn().unwrap());
    let text = port.to_string();
    let refused = stayput(&["free", &text]);
    assert_eq!(code(&refused), 2, "{}", err(&refused));
    assert!(err(&refused).contains("--yes") && holder.is_alive());
    let done = stayput(&["free", &text, "--yes"]);
    assert_eq!(code(&done), 0, "{}{}", out(&done), err(&done));
    assert!(holder.ended(), "the holder was to be stopped");
    assert!(bystander.is_alive(), "a client is never stopped");
    TcpListener::bind(("127.0.0.1", port)).unwrap();
    let again = stayput(&["free", &text, "--yes"]);
    assert_eq!(code(&again), 0);
    assert!(out(&again).contains("already free") || out(&again).contains("is free"), "{}", out(&again));
}

#[test]
fn free_kills_only_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("never");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let mut stubborn = Command::new("sh");
    stubborn.args(["-c", "trap '' TERM; : > \"$1\"; read x < \"$0\""]).arg(&fifo).arg(dir.path().join("ready"));
    let (mut holder, port) = held_by(&mut stubborn);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !dir.path().join("ready").exists() {
        assert!(Instant::now() < deadline, "the shell did not start");
        std::thread::yield_now();
    }
    let port = port.to_string();
    let gentle = stayput(&["free", &port, "--yes", "--grace", "100ms"]);
    assert_eq!(code(&gentle), 1, "{}{}", out(&gentle), err(&gentle));
    assert!(err(&gentle).contains("--force") && holder.is_alive());
    let forced = stayput(&["free", &port, "--yes", "--grace", "100ms", "--force"]);
    assert_eq!(code(&forced), 0, "{}{}", out(&forced), err(&forced));
    assert!(holder.ended());
}

#[test]
fn a_service_of_stayput_is_left_to_stayput() {
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Ordinary);
    let port = env.port();
    let mut running = env.run("web", &[], &env.misbehave("trivial", port));
    let service = running.ready_pid();
    let port = port.to_string();
    let ask = |arguments: &[&str]| env.cli(arguments, Duration::from_secs(30));
    let why = out(&ask(&["why", &port]));
    assert!(why.contains("stayput stop web"), "{why}");
    assert!(out(&ask(&["ports", &port])).contains("★ stayput web"));
    assert_eq!(code(&ask(&["ports", "--unit", "web", &port])), 0);
    assert_eq!(code(&ask(&["ports", "--unit", "other", &port])), 1);
    let free = ask(&["free", &port, "--yes"]);
    assert_eq!(code(&free), 1);
    assert!(err(&free).contains("stayput stop web") && process::is_alive(service), "{}", err(&free));
    running.stop();
}

#[test]
fn an_ordinary_user_is_told_what_root_would_add() {
    if !rustix::process::geteuid().is_root() {
        return println!("NOT RUN: needs root to become an ordinary user");
    }
    let (mut holder, port) = held_by(&mut sleeper());
    let port = port.to_string();
    // The program may lie where that user has no way to.
    let dir = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("stayput");
    // Not by ourselves: a test beside this one may fork while we have it open for writing, and it could not be executed.
    assert!(Command::new("cp").args([env!("CARGO_BIN_EXE_stayput").as_ref(), program.as_os_str()]).status().unwrap().success());
    let as_nobody = |arguments: &[&str]| Command::new(&program).args(arguments).uid(65534).stdin(Stdio::null()).output().unwrap();
    let why = as_nobody(&["why", &port]);
    assert_eq!(code(&why), 1, "{}", err(&why));
    assert!(out(&why).contains("only root can see which one") && out(&why).contains(&format!("sudo stayput why {port}")), "{}", out(&why));
    let free = as_nobody(&["free", &port, "--yes"]);
    assert_eq!(code(&free), 3, "{}", err(&free));
    assert!(holder.is_alive());
    // Without a probe its options decide, and nobody may read them: that is exit 3, not a guess.
    let unsure = as_nobody(&["why", &port, "--no-probe", "--as", "127.0.0.1,reuseport,uid=0"]);
    assert_eq!(code(&unsure), 3, "{}", out(&unsure));
    let low = as_nobody(&["why", "81"]);
    assert_eq!(code(&low), 1);
    assert!(out(&low).contains("EACCES"), "{}", out(&low));
}

#[test]
fn wait_returns_on_the_event() {
    let (holder, port) = held_by(&mut sleeper());
    let text = port.to_string();
    let out_of_time = stayput(&["wait", &text, "--free", "--timeout", "20ms"]);
    assert_eq!(code(&out_of_time), 1);
    assert_eq!(code(&stayput(&["wait", &text, "--listening", "--timeout", "5s"])), 0);
    assert_eq!(code(&stayput(&["wait", &text, "--accepting", "--timeout", "50ms"])), 1);
    assert_eq!(code(&stayput(&["wait", &text, "--http", "/", "--timeout", "50ms"])), 1);
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_stayput"))
        .args(["wait", &text, "--free", "--timeout", "30s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(waiting.stderr.take().unwrap()), &mut told).unwrap();
    assert!(told.contains(&format!("pid {}", holder.pid())), "{told}");
    drop(holder);
    assert!(waiting.wait().unwrap().success());
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[test]
fn watch_shows_every_change() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let child =
        Command::new(env!("CARGO_BIN_EXE_stayput")).args(["why", &port.to_string(), "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut watching = Process(child);
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watching.0.stdout.take().unwrap()));
    let mut sentences = lines.map(Result::unwrap).filter(|line| line.starts_with("Port "));
    assert!(sentences.next().unwrap().contains("is taken"));
    drop(listener);
    assert!(sentences.next().unwrap().contains("is free"));
    let _again = TcpListener::bind(("127.0.0.1", port)).unwrap();
    assert!(sentences.next().unwrap().contains("is taken"));
}

#[test]
fn the_list_fits_and_filters() {
    let (holder, port) = held_by(&mut sleeper());
    let port = port.to_string();
    let output = stayput(&["ports", "--json", &port]);
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listing["sockets"].as_array().unwrap().len(), 1);
    assert_eq!(listing["processes"][0]["pid"].as_i64(), Some(holder.pid()));
    assert_eq!(code(&stayput(&["ports", &port, "--process", "sleep 300"])), 0);
    assert_eq!(code(&stayput(&["ports", &port, "--process", "nobody has this name"])), 1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let text = out(&stayput(&["ports", "--unix"]));
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    let narrow = Command::new(env!("CARGO_BIN_EXE_stayput")).arg("ports").env("COLUMNS", "80").output().unwrap();
    for line in out(&narrow).lines().filter(|line| !line.starts_with("not seen")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
