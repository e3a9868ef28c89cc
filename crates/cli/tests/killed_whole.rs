//! Guard, keeper and daemon killed in one instant: the services run on alone, and the next start of the instance takes their ports over without refusing
//! anybody, and ends them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::{Running, TestEnv, User};
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// Stopped before, so that none of them sees another die.
fn kill_whole(parts: [u32; 3]) {
    for part in parts {
        assert!(process::signal(part, Signal::STOP));
        wait::until_true("its stop", PATIENCE, || process::state(part) == Some('T')).unwrap();
    }
    for part in parts {
        assert!(process::signal(part, Signal::KILL));
    }
    for part in parts {
        wait::until_true("its end", PATIENCE, || !process::is_alive(part)).unwrap();
    }
}

/// The cgroup that was made for the generation of this process, where that could be done.
fn own_cgroup(pid: u32) -> Option<PathBuf> {
    let path = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = path.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    path.rsplit('/').next()?.starts_with("stayput-").then(|| PathBuf::from(mount).join(path))
}

fn kill_instance(running: &Running<'_>) {
    kill_whole(["guard", "keeper", "daemon"].map(|part| running.part(part)));
}

fn the_port_is_taken_over(env: &TestEnv, options: &[&str], port: u16) {
    let options = [options, &["--soak", "300ms"]].concat();
    let command = env.misbehave("trivial", port);
    let mut first = env.run("web", &options, &command);
    first.wait_answer(port);
    let left = first.ready_pid();
    let load = Plan::port(port).rate(200.0).start().unwrap();
    load.wait_ok(40, PATIENCE).unwrap();
    kill_instance(&first);
    load.wait_ok(40, PATIENCE).unwrap();
    assert!(process::is_alive(left), "the service runs on");

    let mut second = env.run("web", &options, &command);
    second.wait_ready();
    assert_ne!(second.ready_pid(), left);
    wait::until_true("the end of what was left", PATIENCE, || !process::is_alive(left)).unwrap();
    load.wait_ok(100, PATIENCE).unwrap();
    load.stop().unwrap().assert_nothing_lost();
    wait::until_true("what is said of it", PATIENCE, || second.log().contains("of the killed life is ended")).unwrap();
    let log = second.log();
    assert!(log.contains(&format!("killed whole runs on (pid {left}")), "{log}");
    assert!(!log.contains("a process that is not of this service"), "{log}");
    second.restart_well();
    second.stop();
}

both_users! {
    fn the_next_start_takes_a_declared_port_over(env) {
        let port = env.port();
        the_port_is_taken_over(env, &["--port", &format!("127.0.0.1:{port}")], port);
    }

    fn the_next_start_takes_a_port_over_that_nobody_declared(env) {
        let port = env.port();
        the_port_is_taken_over(env, &[], port);
    }

    fn what_was_left_finishes_the_connection_that_it_has(env) {
        let port = env.port();
        let command = env.misbehave("trivial", port);
        let mut first = env.run("web", &[], &command);
        first.wait_answer(port);
        let left = first.ready_pid();
        // A request that is only begun: it is in use.
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n").unwrap();
        kill_instance(&first);
        let mut second = env.run("web", &["--drain", "60s"], &command);
        second.wait_ready();
        second.wait_answer(port);
        assert!(process::is_alive(left), "it has a connection in use");
        client.write_all(b"\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1."), "{answer:?}");
        wait::until_true("the end of what was left", PATIENCE, || !process::is_alive(left)).unwrap();
        second.stop();
    }

    fn what_was_left_is_named_and_can_be_ended_by_hand(env) {
        let port = env.port();
        let mut first = env.run("web", &[], &env.misbehave("trivial", port));
        first.wait_answer(port);
        let left = first.ready_pid();
        kill_instance(&first);
        let port = port.to_string();
        let why = env.cli(["why", &port], PATIENCE);
        let why = String::from_utf8_lossy(&why.stdout);
        assert!(why.contains("service web of stayput's instance \"web\", which is gone"), "{why}");
        assert!(why.contains(&format!("stayput free {port}")) && !why.contains("stayput stop"), "{why}");
        let free = env.cli(["free", "--yes", &port], PATIENCE);
        assert!(free.status.success(), "{}", String::from_utf8_lossy(&free.stderr));
        wait::until_true("its end", PATIENCE, || !process::is_alive(left)).unwrap();
    }

    fn a_worker_that_was_left_does_not_run_beside_its_successor(env) {
        let config = "[service.worker]\nshell = 'exec sleep 1000'\n";
        let host = env.host(config);
        let left = host.pid("worker");
        kill_whole(["guard", "keeper", "daemon"].map(|part| host.part(part)));
        assert!(process::is_alive(left), "it runs on");
        let cgroup = own_cgroup(left);
        assert!(cgroup.is_some() || env.user() == User::Ordinary, "root makes a cgroup for each generation");
        let host = env.host(config);
        wait::until_true("the end of what was left", PATIENCE, || !process::is_alive(left)).unwrap();
        if let Some(cgroup) = cgroup {
            wait::until_true("the end of its cgroup", PATIENCE, || !cgroup.exists()).unwrap();
        }
        assert!(process::is_alive(host.pid("worker")));
        host.down();
    }
}
