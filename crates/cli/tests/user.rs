//! `--user`: root starts a service that is not root, and all promises hold as for any other.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails; one that cannot run says so")]

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::load::Plan;
use stayput_testkit::server::Server;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);
/// "nobody" on every Linux.
const NOBODY: u32 = 65534;

fn as_root(test: impl FnOnce(&TestEnv)) {
    if User::Root.is_possible() {
        test(&TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Root));
    } else {
        println!("NOT RUN: only root can start a service as another user");
    }
}

fn uids(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
}

/// A port that only root may bind and that nobody has.
fn privileged_port() -> u16 {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    (600..1024).rev().find(free).expect("a free port below 1024")
}

/// A Python http.server as nobody on a port below 1024: restarts, a killed keeper, a crash.
#[test]
fn a_server_of_nobody_keeps_a_port_that_only_root_may_bind() {
    as_root(|env| {
        let port = privileged_port();
        let options = ["--user", "65534:65534", "--port", &format!("127.0.0.1:{port}"), "--soak", "300ms"];
        let mut running = env.run("web", &options, &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        let first = running.ready_pid();
        assert_eq!(uids(first), format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"));
        let load = Plan::port(port).rate(100.0).start().unwrap();
        load.wait_ok(30, PATIENCE).unwrap();
        running.restart_well();
        load.wait_ok(30, PATIENCE).unwrap();
        let keeper = running.part("keeper");
        assert!(process::signal(keeper, Signal::KILL));
        wait::until_true("its successor", PATIENCE, || running.part("keeper") != keeper).unwrap();
        load.wait_ok(30, PATIENCE).unwrap();
        let restart = running.restart_well();
        load.wait_ok(30, PATIENCE).unwrap();
        load.stop().unwrap().assert_nothing_lost();
        assert_eq!(restart.text("outcome"), "switched");

        let crashing = Plan::port(port).clients(2).timeout(PATIENCE).start().unwrap();
        crashing.wait_ok(20, PATIENCE).unwrap();
        running.kill_service();
        crashing.wait_ok(20, PATIENCE).unwrap();
        let report = crashing.stop().unwrap();
        assert_eq!((report.counts.refused, report.counts.timed_out), (0, 0), "{report:#?}");
        assert!(report.counts.failed() <= 2, "more than was in flight: {report:#?}");
        running.stop();
    });
}

/// What it is given fits the user: its environment, and a notification socket that it can reach.
#[test]
fn its_environment_is_the_users_and_it_can_say_that_it_is_ready() {
    as_root(|env| {
        let script = "
import os, socket, time
name = os.environ['NOTIFY_SOCKET']
print([os.environ.get(name) for name in ('HOME', 'USER', 'LOGNAME', 'SHELL')], os.getgroups(), flush=True)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', name.replace('@', '\\0', 1))
while True: time.sleep(1000)
";
        let command = ["python3", "-c", script].map(str::to_owned);
        let mut running = env.run("talker", &["--user", "nobody", "--ready", "notify"], &command);
        running.wait_ready();
        let log = running.log();
        assert!(log.contains("['/nonexistent', 'nobody', 'nobody', '/usr/sbin/nologin'] [65534]"), "{log}");
        running.stop();
    });
}

/// A port that was not declared is not bound for it.
#[test]
fn an_undeclared_privileged_port_is_refused_as_the_kernel_would() {
    as_root(|env| {
        let port = privileged_port();
        let script = format!(
            "
import socket
try: socket.socket().bind(('127.0.0.1', {port})); print('bound', flush=True)
except PermissionError as error: print('refused:', error.errno, flush=True)
"
        );
        let command = ["python3".to_owned(), "-c".to_owned(), script];
        let mut running = env.run("greedy", &["--user", "nobody", "--restart", "never"], &command);
        running.wait_exit(PATIENCE);
        let log = running.log();
        assert!(log.contains("refused: 13"), "{log}");
    });
}

both_users! {
    fn nobody_is_guessed_and_nothing_is_started(env) {
        for (user, part) in [
            ("no-such-user-here", "there is no such user"),
            ("root:no-such-group-here", "there is no such group"),
            ("", "no such user"),
            ("4000000000", "no account in /etc/passwd"),
            ("4294967295", "no id"),
        ] {
            let output = env.cli(["run", "--user", user, "--", "touch", "started"], PATIENCE);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{user:?}: {said}");
            assert!(said.starts_with("error: ") && said.contains(part), "{user:?}: {said}");
        }
        if env.user() == User::Ordinary {
            let output = env.cli(["run", "--user", "root", "--", "touch", "started"], PATIENCE);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert!(said.contains("only root can start a command as root"), "{said}");
            let own = env.cli(["run", "--restart", "never", "--user", "65534:65534", "--", "true"], PATIENCE);
            if rustix::process::geteuid().is_root() {
                assert_eq!(own.status.code(), Some(0), "oneself is nobody else: {}", String::from_utf8_lossy(&own.stderr));
            }
        }
        assert!(!env.path("scratch").join("started").exists());
    }
}
