//! Kernels that lack one thing that stayput uses, and filters that refuse it: what remains is used, the status and `stayput doctor` say which, nothing
//! hangs, and no server fails to start for it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails; one that cannot run says so")]

use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::below::{self, EINVAL, ENOSYS, EPERM, Rule, keeps_its_port, without};
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;
use stayput_testkit::python::{self, Gate};
use stayput_testkit::server::Server;
use stayput_testkit::{assets, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const QUICK: [&str; 2] = ["--soak", "300ms"];

/// `SECCOMP_IOCTL_NOTIF_ADDFD` (Linux 5.9): the bits of its number that no other request here has all of.
const NO_ADDFD: Rule<'static> = ("ioctl", Some((1, 0x4018_2103)), EINVAL);
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19).
const NO_KILLABLE_WAIT: Rule<'static> = ("seccomp", Some((1, 1 << 5)), EINVAL);
/// Netlink as a whole (`AF_NETLINK` is 16), and with it sock_diag.
const NO_NETLINK: Rule<'static> = ("socket", Some((0, 16)), EPERM);

fn each_user(rules: &[Rule<'_>], test: impl Fn(&TestEnv)) {
    below::each_user(Path::new(env!("CARGO_BIN_EXE_stayput")), &without(rules), test);
}

/// What doctor says a finding takes.
fn taken(env: &TestEnv, id: &str) -> String {
    let output = env.cli(["doctor", "--json"], PATIENCE);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = document["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).unwrap();
    assert!(finding["level"] != "ok" && finding["meaning"] != "", "{finding:#}");
    finding["promises"].to_string()
}

/// Nothing can be put in the place of a server's own socket: its own takes over from what was held.
#[test]
fn without_addfd_a_servers_own_socket_takes_over() {
    each_user(&[NO_ADDFD], |env| {
        let port = env.port();
        keeps_its_port(env, &env.server(Server::HttpServer, port), port, "adopt");
        assert_eq!(taken(env, "replace"), r#"{"P1":"weaker"}"#);
    });
}

/// It means to share its port, as workers do: what is held is offered to it at its listen, not at its bind.
#[test]
fn without_addfd_workers_listen() {
    each_user(&[NO_ADDFD], |env| {
        let port = env.port();
        let share = "server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)";
        keeps_its_port(env, &python::server(env, "\"127.0.0.1\"", share, port), port, "adopt");
    });
}

#[test]
fn without_addfd_who_waited_is_counted() {
    each_user(&[NO_ADDFD], |env| {
        let port = env.port();
        let gate = Gate::new(env);
        let declared = format!("127.0.0.1:{port}");
        let mut running = env.run("web", &["--port", &declared], &python::server(env, "\"127.0.0.1\"", &gate.wait(), port));
        let mut early =
            wait::until("the hold", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())).unwrap();
        running.wait_for("the start", |service| service["generations"].as_array().is_some_and(|all| all.len() == 1));
        gate.open(PATIENCE);
        let ready = running.wait_ready();
        let notes = ready["generations"][0]["notes"].to_string();
        let wanted = format!("what was held on {declared} could not be put in the place of the server's own socket, which took over");
        assert!(notes.contains(&wanted), "{ready:#}");
        // Where the kernel moves what waits it is served, and nothing is counted.
        let moves = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1");
        assert!(notes.contains(if moves { "0 waiting connections reset" } else { "1 waiting connection reset" }), "{ready:#}");
        early.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(moves || early.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
        running.wait_answer(port);
        running.stop();
    });
}

/// Neither looked into nor given anything: it binds by itself, and nothing of ours is in its way (it does not even set `SO_REUSEADDR`).
#[test]
fn without_addfd_and_duplicates_it_binds_by_itself() {
    each_user(&[NO_ADDFD, ("pidfd_getfd", None, EPERM)], |env| {
        let port = env.port();
        let alone = "server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)";
        let declared = format!("127.0.0.1:{port}");
        let mut running = env.run("web", &["--port", &declared], &python::server(env, "\"127.0.0.1\"", alone, port));
        running.wait_answer(port);
        let ready = running.wait_ready();
        assert_eq!(ready["generations"][0]["holding"], "plain", "{ready:#}\n{}", running.log());
        assert_eq!(ready["generations"].as_array().map(Vec::len), Some(1), "it did not fail once for it: {ready:#}");
        running.stop();
        assert_eq!(taken(env, "duplicate"), r#"{"P1":"gone","P2":"gone","P3":"gone","P4":"gone"}"#);
    });
}

/// Binds other sockets of its port, and then its own, and is sent a signal each time between the bind and its answer: a child that has the same
/// socket sees when it is bound. As Go's, the handler has `SA_RESTART`: the kernel makes the call again.
const INTERRUPTED: &str = r"
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)
def interrupted(own, to):
    parent, until = os.getpid(), time.monotonic() + 20
    child = os.fork()
    if child == 0:
        while own.getsockname()[1] == 0 and time.monotonic() < until: pass
        os.kill(parent, signal.SIGUSR1)
        os._exit(0)
    own.bind(to)
    os.waitpid(child, 0)
for _ in range(5):
    for to in [(host, port), (host, 0)]:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            interrupted(other, to)
";

/// Starts the server and makes the keeper slow while it binds: each `ioctl` of the keeper, and so each answer, is 20 ms late.
fn starts_although_interrupted(env: &TestEnv, prepare: &str) {
    let Some(strace) = assets::find_program("strace") else {
        println!("NOT RUN: slowing the keeper needs strace (cargo xtask setup installs it)");
        return;
    };
    let port = env.port();
    let gate = Gate::new(env);
    let before = format!("if os.environ['STAYPUT_GENERATION'] == '1': {}\n{prepare}", gate.wait());
    let mut running = env.run("web", &QUICK, &python::server(env, "\"127.0.0.1\"", &before, port));
    running.wait_for("the start", |service| service["generations"].as_array().is_some_and(|all| all.len() == 1));
    let keeper = running.part("keeper");
    let slow = ["-qq", "-o", "/dev/null", "-e", "trace=ioctl", "-e", "inject=ioctl:delay_enter=20000", "-p", &keeper.to_string()];
    let mut tracer = Command::new(strace).args(slow).spawn().unwrap();
    let traced = format!("TracerPid:\t{}\n", tracer.id());
    wait::until_true("the tracer", PATIENCE, || {
        std::fs::read_to_string(format!("/proc/{keeper}/status")).is_ok_and(|status| status.contains(&traced))
    })
    .unwrap();
    gate.open(PATIENCE);
    let ready = running.wait_ready();
    tracer.kill().unwrap();
    tracer.wait().unwrap();
    assert_eq!(ready["generations"][0]["id"], 1, "the first one started: {ready:#}\n{}", running.log());
    running.wait_answer(port);
    running.restart_well();
    running.stop();
}

/// A bind that a signal interrupts when it is done already succeeds all the same.
#[test]
fn without_killable_waits_a_bind_that_is_made_again_succeeds() {
    each_user(&[NO_KILLABLE_WAIT], |env| {
        starts_although_interrupted(env, INTERRUPTED);
        assert_eq!(taken(env, "unbroken"), r#"{"P2":"weaker"}"#);
    });
}

/// The same where its socket cannot be looked into: there its descriptor changes, and the child looks at the parent's.
#[test]
fn without_killable_waits_and_duplicates_a_bind_that_is_made_again_succeeds() {
    each_user(&[NO_KILLABLE_WAIT, ("pidfd_getfd", None, EPERM)], |env| {
        let looks = INTERRUPTED.replace(
            "while own.getsockname()[1] == 0 and time.monotonic() < until: pass",
            "before, place = os.fstat(own.fileno()).st_ino, f'/proc/{parent}/fd/{own.fileno()}'\n        \
             while str(before) in os.readlink(place) and time.monotonic() < until: pass",
        );
        starts_although_interrupted(env, &looks.replace("[(host, port), (host, 0)]", "[(host, port)]"));
    });
}

/// Before Linux 5.3 no pidfd can be opened (and before 5.6 nothing be duplicated by one).
#[test]
fn without_pidfds_sockets_are_put_in_place_and_processes_are_stopped() {
    each_user(&[("pidfd_open", None, ENOSYS), ("pidfd_getfd", None, ENOSYS)], |env| {
        let port = env.port();
        keeps_its_port(env, &env.server(Server::HttpServer, port), port, "swap");
        assert_eq!(taken(env, "duplicate"), r#"{"P1":"weaker","P2":"weaker"}"#);
        // What it left in the background is found and ended; `stop` fails if anything is left.
        let server = env.server(Server::HttpServer, port).join(" ");
        let command = ["sh", "-c", &format!("sleep 1000 & exec {server}")].map(str::to_owned);
        let mut running = env.run("web", &QUICK, &command);
        running.wait_ready();
        running.stop();
    });
}

/// The keeper knows of its guard's end, and a keeper's successor of the daemon's life, without one.
#[test]
fn without_pidfds_the_parts_of_stayput_replace_each_other() {
    each_user(&[("pidfd_open", None, ENOSYS), ("pidfd_getfd", None, ENOSYS)], |env| {
        let port = env.port();
        let mut running = env.run("web", &QUICK, &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        let (service, daemon) = (running.ready_pid(), running.part("daemon"));
        let load = Plan::port(port).rate(100.0).start().unwrap();
        for part in ["keeper", "guard"] {
            let victim = running.part(part);
            assert!(process::signal(victim, Signal::KILL));
            wait::until_true("its end", PATIENCE, || !process::is_alive(victim)).unwrap();
            wait::until_true("its successor", PATIENCE, || running.part(part) != victim).unwrap();
            assert_eq!(running.part("daemon"), daemon, "it lives on when the {part} is replaced");
            load.wait_ok(30, PATIENCE).unwrap();
        }
        assert!(process::is_alive(service));
        running.restart_well();
        load.stop().unwrap().assert_nothing_lost();
        let down = env.cli(["down"], PATIENCE);
        assert_eq!(down.status.code(), Some(0), "{down:?}");
        wait::until_true("the end of all", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_err()).unwrap();
    });
}

/// Connections are then read from `/proc/net/tcp`: a server becomes ready, and is drained.
#[test]
fn without_sock_diag_connections_are_seen_all_the_same() {
    each_user(&[NO_NETLINK], |env| {
        let port = env.port();
        keeps_its_port(env, &env.server(Server::HttpServer, port), port, "adopt");
        let mut running = env.run("web", &QUICK, &env.server(Server::HttpServer, port));
        let ready = running.wait_ready();
        assert!(running.log().contains("a probe connection was accepted"), "{}", running.log());
        assert_eq!(ready["generations"][0]["listeners"][0]["evidence"]["source"], "/proc/net/tcp", "{ready:#}");
        running.stop();
        assert_eq!(taken(env, "listing"), r#"{"P2":"weaker","P4":"weaker"}"#);
    });
}
