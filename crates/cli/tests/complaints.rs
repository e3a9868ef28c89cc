//! What people complain about in other supervisors cannot happen here: one test for each complaint that no other test answers. The whole list, with the
//! test of each, is docs/COMPLAINTS.md.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stayput_testkit::env::{Host, TestEnv};
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_mins(1);

/// A service with a soak of nothing, and further lines.
fn service(name: &str, command: &[String], more: &str) -> String {
    format!("[service.{name}]\ncommand = {command:?}\nsoak = '0s'\n{more}\n")
}

/// Somebody else's server on the port, of the same user.
fn stranger(env: &TestEnv, port: u16) -> Child {
    let words = env.misbehave("trivial", port);
    let child = env.as_user(words[0].as_ref(), &words[1..]).stdout(Stdio::null()).spawn().unwrap();
    wait::until_true("the stranger", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap();
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn accepts(port: u16) -> bool {
    let once = Plan::port(port).clients(1).duration(Duration::from_millis(1)).timeout(Duration::from_secs(5));
    once.run().is_ok_and(|report| report.counts.ok > 0)
}

fn answers(port: u16) {
    wait::until_true("an answer", PATIENCE, || accepts(port)).unwrap();
}

/// Another one than `before`, alive.
fn replaced(host: &Host<'_>, part: &str, before: u32) {
    wait::until_true(part, PATIENCE, || {
        let now = host.part(part);
        now != before && process::is_alive(now)
    })
    .unwrap();
}

both_users! {
fn a_child_that_outlives_its_parent_never_keeps_the_next_one_from_its_port(env) {
    let port = env.port();
    let host = env.host(&service("web", &env.misbehave("grandchild-holds", port), ""));
    for _ in 0..3 {
        let before = host.generation("web");
        process::signal(host.pid("web"), Signal::KILL);
        host.wait_for("web", "the next generation", |service| {
            service["phase"] == "ready" && service["generations"].as_array().is_some_and(|all| all.iter().any(|one| one["id"].as_u64() > Some(before)))
        });
        answers(port);
    }
    host.succeeds(&["restart", "web"]);
    answers(port);
    host.down();
}

fn an_address_in_use_is_waited_for_and_fills_no_log(env) {
    let (port, other) = (env.port(), env.port());
    let stranger = stranger(env, port);
    let config = service("web", &env.misbehave("trivial", port), &format!("port = '127.0.0.1:{port}'")) + &service("other", &env.misbehave("trivial", other), "");
    let (host, said) = env.host_somehow(&config, &[]);
    let said = format!("{}{}", said.out, said.err);
    assert!(said.contains(&format!("pid {}", stranger.id())), "whoever starts it is told who has the port: {said}");
    // The other one runs: a taken port is no reason to end anything.
    answers(other);
    let before = host.succeeds(&["events", "--json"]).lines().count();
    let waited = Instant::now();
    while waited.elapsed() < Duration::from_secs(3) {
        let service = host.service("web");
        assert_eq!((&service["phase"], &service["restarts"]), (&"waiting-for-port".into(), &0.into()), "{service}");
    }
    let after = host.succeeds(&["events", "--json"]).lines().count();
    assert!(after <= before + 1, "{before} events became {after} while it waited");
    end(stranger);
    answers(port);
    host.down();
}

fn a_supervisor_that_is_killed_leaves_no_orphan_and_starts_nothing_twice(env) {
    let port = env.port();
    let starts = env.file("starts", "");
    let line = format!("echo start >> {}; exec {}", starts.display(), env.misbehave("trivial", port).join(" "));
    let host = env.host(&format!("[service.web]\nshell = {line:?}\n"));
    let pid = host.pid("web");
    for part in ["daemon", "keeper", "daemon", "guard"] {
        let before = host.part(part);
        process::signal(before, Signal::KILL);
        replaced(&host, part, before);
        let service = host.wait_for("web", "readiness", |service| service["phase"] == "ready");
        assert_eq!((host.pid("web"), &service["restarts"]), (pid, &0.into()), "after the death of the {part}: {service}");
        answers(port);
    }
    assert_eq!(std::fs::read_to_string(&starts).unwrap(), "start\n", "it was started once");
    host.down();
}

fn down_and_stop_return_when_nothing_is_left_and_not_before(env) {
    let ports = [env.port(), env.port(), env.port()];
    let grace = "stop = { signal = 'TERM', grace = '300ms' }";
    let config = service("deaf", &env.misbehave("ignore-term", ports[0]), grace)
        + &service("stray", &env.misbehave("stray", ports[1]), grace)
        + &service("away", &env.misbehave("daemonise", ports[2]), grace);
    let host = env.host(&config);
    let of = |port: u16| env.left().into_iter().filter(|one| one.command.contains(&format!("--port {port} "))).collect::<Vec<_>>();
    assert!(!of(ports[0]).is_empty());
    let said = host.succeeds(&["stop", "deaf"]);
    assert!(said.contains("deaf: stopped"), "{said}");
    assert_eq!(of(ports[0]), [], "it was said to be stopped");
    host.succeeds(&["down"]);
    let left: Vec<_> = env.left().into_iter().filter(|one| one.command.contains("misbehave")).collect();
    assert_eq!(left, [], "it was said to be down");
    env.assert_nothing_left(PATIENCE);
}

fn a_reserved_port_is_never_up_for_grabs(env) {
    let port = env.port();
    let config = service("web", &env.misbehave("late --ms 1500", port), &format!("port = '127.0.0.1:{port}'"));
    let (host, _) = env.host_somehow(&config, &[]);
    let grab = || TcpListener::bind(("127.0.0.1", port)).map(|_| ());
    // From its first look on, through a crash and a start without a bind for a second and a half, nobody else gets it.
    process::signal(host.pid("web"), Signal::KILL);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        assert!(grab().is_err(), "a stranger could bind it");
    }
    host.wait_for("web", "readiness", |service| service["phase"] == "ready");
    assert!(grab().is_err());
    host.down();
    grab().unwrap();
}

fn the_owner_of_a_held_port_is_the_service_and_not_the_supervisor(env) {
    let port = env.port();
    let host = env.host(&service("web", &env.misbehave("trivial", port), ""));
    let (pid, number) = (host.pid("web"), port.to_string());
    // Status 1: it is taken.
    let why = host.stayput(&["why", &number]).out;
    let first = why.lines().next().unwrap_or_default();
    assert!(first.contains(&format!("pid {pid}")) && first.contains("misbehave"), "{why}");
    assert!(why.contains("stayput service web"), "{why}");
    let facts = host.stayput(&["why", &number, "--json"]).out;
    assert!(facts.contains("\"host\""), "the instance is named: {facts}");
    // And nobody is told to end it but stayput.
    let free = host.stayput(&["free", &number, "--yes"]);
    assert_ne!(free.code, Some(0), "{free:?}");
    assert!(process::is_alive(pid) && process::is_alive(host.part("guard")), "{free:?}");
    host.down();
}

fn what_a_dead_supervisor_leaves_never_blocks_a_start(env) {
    let port = env.port();
    let config = service("web", &env.misbehave("trivial", port), "");
    let host = env.host(&config);
    // A second one is refused, and the first one is not harmed.
    let pid = host.pid("web");
    let second = host.stayput(&["up", "-d"]);
    assert_eq!(second.code, Some(2), "{}{}", second.out, second.err);
    assert!(second.err.contains("running already") && second.err.contains(&host.part("guard").to_string()), "{}", second.err);
    assert_eq!(host.pid("web"), pid);
    answers(port);
    // A machine that lost its power leaves the directory, the lock file with a pid, and the socket.
    for left in env.left() {
        process::signal(left.pid, Signal::KILL);
    }
    env.kill_left();
    assert!(host.socket().exists() && host.runtime().join("lock").exists());
    let host = env.host(&config);
    answers(port);
    host.down();
}

fn a_changed_port_moves_at_a_reload_without_a_gap(env) {
    let (old, new) = (env.port(), env.port());
    let (command, mode) = env.versioned("trivial", old);
    let config = |port: u16, command: &[String]| service("web", command, &format!("port = '127.0.0.1:{port}'\ndrain = '1s'"));
    let host = env.host(&config(old, &command));
    let load = Plan::port(old).rate(100.0).duration(Duration::from_mins(1)).start().unwrap();
    let begin = Instant::now();
    let moved: Vec<String> = command.iter().map(|word| if *word == old.to_string() { new.to_string() } else { word.clone() }).collect();
    assert!(mode.exists());
    env.host_file(&config(new, &moved));
    let answered_after = std::thread::scope(|scope| {
        let reload = scope.spawn(|| host.succeeds(&["reload"]));
        answers(new);
        let after = begin.elapsed();
        reload.join().unwrap();
        after
    });
    // Clients of the old port move on when the new one answers: before that, the old one failed nobody.
    let report = load.stop().unwrap();
    let early: Vec<_> = report.failures.iter().filter(|failure| u128::from(failure.at_ms) < answered_after.as_millis()).collect();
    assert!(early.is_empty(), "the new port answered after {answered_after:?}: {report:?}");
    assert!(report.counts.ok > 0);
    host.down();
}

fn a_crash_loop_never_closes_the_socket_and_is_never_given_up(env) {
    let port = env.port();
    let (command, mode) = env.versioned("crash-before-ready", port);
    let (host, said) = env.host_somehow(&service("web", &command, &format!("port = '127.0.0.1:{port}'")), &[]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let service = host.wait_for("web", "five crashes", |service| {
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        service["restarts"].as_u64() >= Some(5)
    });
    assert_ne!(service["state"], "running", "{service}");
    std::fs::write(&mode, "trivial").unwrap();
    let repaired = Instant::now();
    answers(port);
    assert!(repaired.elapsed() < Duration::from_secs(45), "{:?}", repaired.elapsed());
    drop(waiting);
    host.down();
}

fn dependencies_are_started_in_order_and_each_waits_until_the_one_before_is_ready(env) {
    let (db, api, web) = (env.port(), env.port(), env.port());
    let stamps = env.file("stamps", "");
    let note = |name: &str, command: &[String]| format!("[service.{name}]\nshell = \"echo {name} >> {}; exec {}\"\nsoak = '0s'\n", stamps.display(), command.join(" "));
    // The last one first in the file, and by name.
    let config = note("a-web", &env.misbehave("trivial", web)) + "after = ['b-api', 'migrate']\n"
        + &note("b-api", &env.misbehave("trivial", api)) + "after = ['z-db']\n"
        + &note("z-db", &env.misbehave("late --ms 700", db))
        + &format!("[service.migrate]\nkind = 'task'\nshell = 'sleep 0.3; echo migrated >> {}'\nafter = ['z-db']\n", stamps.display());
    let host = env.host(&config);
    let order = std::fs::read_to_string(&stamps).unwrap();
    let order: Vec<&str> = order.lines().collect();
    assert_eq!((order[0], order[3]), ("z-db", "a-web"), "{order:?}");
    answers(web);
    host.down();
}

fn what_is_only_starting_is_never_called_running(env) {
    let port = env.port();
    let host = env.host(&service("web", &env.misbehave("trivial", port), ""));
    host.down();
    env.host_file(&service("web", &env.misbehave("late --ms 1500", port), ""));
    let mut up = env.command(["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut looks = 0;
    wait::until("readiness", PATIENCE, || {
        let status = env.status()?;
        let Some(service) = status["services"].get(0) else { return Err(status.to_string()) };
        if service["phase"] == "ready" {
            return Ok(());
        }
        looks += 1;
        assert_ne!(service["state"], "running", "{service}");
        Err(service.to_string())
    })
    .unwrap();
    assert!(looks > 0, "it was never seen while it was starting");
    assert!(accepts(port));
    assert_eq!(env.cli(["down"], PATIENCE).status.code(), Some(0));
    up.wait().unwrap();
}

fn many_crashes_leave_the_daemon_as_small_as_it_was(env) {
    let port = env.port();
    let host = env.host(&service("web", &env.misbehave("trivial", port), ""));
    let crash = |count: u32| {
        for _ in 0..count {
            let before = host.pid("web");
            process::signal(before, Signal::KILL);
            host.wait_for("web", "the next one", |service| service["phase"] == "ready" && service["generations"][0]["pid"] != before);
        }
    };
    crash(10);
    let parts = ["guard", "keeper", "daemon"].map(|part| host.part(part));
    let cost = || parts.map(|pid| (process::rss_kib(pid).unwrap(), process::open_fds(pid).unwrap()));
    let before = cost();
    crash(60);
    let after = cost();
    assert_eq!(["guard", "keeper", "daemon"].map(|part| host.part(part)), parts, "none of them ended");
    for ((rss, fds), (rss_after, fds_after)) in before.into_iter().zip(after) {
        assert!(rss_after < rss + 4096, "{before:?} became {after:?}");
        assert!(fds_after <= fds + 6, "{before:?} became {after:?}");
    }
    host.down();
}

fn editing_a_policy_restarts_nothing_and_what_a_reload_does_is_said_before(env) {
    let (web, api) = (env.port(), env.port());
    let config = |web_policy: &str, api_policy: &str| service("web", &env.misbehave("trivial", web), web_policy) + &service("api", &env.misbehave("trivial", api), api_policy);
    let host = env.host(&config("", ""));
    let before = (host.pid("web"), host.pid("api"));
    env.host_file(&config("restart = 'never'\ndrain = '7s'\nhold = '9s'\nlogs = { max-size = '1M' }", ""));
    let plan = host.succeeds(&["plan"]);
    assert!(plan.contains("web: goes on") && !plan.contains("api"), "{plan}");
    host.succeeds(&["reload"]);
    assert_eq!((host.pid("web"), host.pid("api")), before, "no process was touched");
    assert_eq!(host.succeeds(&["plan"]), "nothing changes\n");
    env.host_file(&config("restart = 'never'\ndrain = '7s'\nhold = '9s'\nlogs = { max-size = '1M' }", "env = { A = '1' }"));
    let plan = host.succeeds(&["plan"]);
    assert!(plan.contains("api") && plan.contains("restart") && plan.contains("env.A") && !plan.contains("web"), "{plan}");
    assert_eq!((host.pid("web"), host.pid("api")), before, "a plan does nothing");
    host.succeeds(&["reload"]);
    assert_eq!(host.pid("web"), before.0);
    assert_ne!(host.pid("api"), before.1);
    host.down();
}
}
