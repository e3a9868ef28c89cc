//! P1: from the first bind until stop, a connect() to a held port is never refused; whoever is killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;
use stayput_testkit::server::Server;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);
/// So many clients with one request in flight each: a SIGKILL of the service may cost no more than that.
const CLIENTS: usize = 4;

/// SIGKILLs the service's main process three times under load.
fn kill_service(env: &TestEnv, name: &str, command: &[String], port: u16) {
    let mut running = env.run(name, &[], command);
    running.wait_answer(port);
    let load = Plan::port(port).clients(CLIENTS).timeout(PATIENCE).start().unwrap();
    for _ in 0..3 {
        load.wait_ok(20, PATIENCE).unwrap();
        running.kill_service();
        load.wait_ok(20, PATIENCE).unwrap();
    }
    let report = load.stop().unwrap();
    assert_eq!(report.counts.refused, 0, "{report:#?}");
    assert_eq!(report.counts.timed_out, 0, "{report:#?}");
    assert!(report.counts.failed() <= 3 * CLIENTS as u64, "more than was in flight: {report:#?}");
    assert!(report.answerers.len() >= 4, "four processes answered in turn: {report:#?}");
    running.stop();
}

/// SIGKILLs one of stayput's own processes under load; the service must not even notice.
fn kill_part(env: &TestEnv, part: &str) {
    let port = env.port();
    let mut running = env.run("web", &["--soak", "300ms"], &env.misbehave("trivial", port));
    running.wait_answer(port);
    let service = running.ready_pid();
    let load = Plan::port(port).rate(200.0).start().unwrap();
    load.wait_ok(40, PATIENCE).unwrap();
    let victim = running.part(part);
    assert!(process::signal(victim, Signal::KILL));
    wait::until_true("its end", PATIENCE, || !process::is_alive(victim)).unwrap();
    load.wait_ok(100, PATIENCE).unwrap();
    if part != "guard" {
        wait::until_true("its successor", PATIENCE, || running.part(part) != victim).unwrap();
    }
    assert!(process::is_alive(service), "the service outlives the {part}");
    let restart = running.restart(&[]);
    load.wait_ok(100, PATIENCE).unwrap();
    load.stop().unwrap().assert_nothing_lost();
    assert_eq!(restart.text("outcome"), "switched", "a restart works as before: {restart:#?}\n{}", running.log());
    if part != "guard" {
        running.stop();
    }
}

/// Stops one of stayput's own processes for a while under load: traffic flows, and afterwards everything works.
fn freeze_part(env: &TestEnv, part: &str) {
    let port = env.port();
    let mut running = env.run("web", &["--soak", "300ms"], &env.misbehave("trivial", port));
    running.wait_answer(port);
    running.wait_ready();
    let frozen = running.part(part);
    let load = Plan::port(port).rate(200.0).start().unwrap();
    process::signal(frozen, Signal::STOP);
    wait::until_true("its stop", PATIENCE, || process::state(frozen) == Some('T')).unwrap();
    load.wait_ok(300, PATIENCE).unwrap();
    process::signal(frozen, Signal::CONT);
    running.restart_well();
    load.stop().unwrap().assert_nothing_lost();
    running.stop();
}

both_users! {
    fn sigstop_of_the_keeper(env) {
        freeze_part(env, "keeper");
    }

    fn sigstop_of_the_daemon(env) {
        freeze_part(env, "daemon");
    }

    fn sigstop_of_the_guard(env) {
        freeze_part(env, "guard");
    }

    fn sigkill_of_a_trivial_server(env) {
        let port = env.port();
        kill_service(env, "trivial", &env.misbehave("trivial", port), port);
    }

    fn sigkill_of_http_server(env) {
        let port = env.port();
        kill_service(env, "http", &env.server(Server::HttpServer, port), port);
    }

    fn sigkill_of_flask_socketio(env) {
        let port = env.port();
        kill_service(env, "flask", &env.server(Server::FlaskSocketIo, port), port);
    }

    fn sigkill_of_node(env) {
        let port = env.port();
        kill_service(env, "node", &env.server(Server::Node, port), port);
    }

    fn sigkill_of_go(env) {
        let port = env.port();
        kill_service(env, "go", &env.server(Server::Go, port), port);
    }

    fn sigkill_of_the_keeper(env) {
        kill_part(env, "keeper");
    }

    fn sigkill_of_the_daemon(env) {
        kill_part(env, "daemon");
    }

    fn sigkill_of_the_guard(env) {
        kill_part(env, "guard");
    }

    fn a_slow_start_after_a_crash_makes_clients_wait(env) {
        let port = env.port();
        let (command, file) = env.versioned("trivial", port);
        let mut running = env.run("web", &[], &command);
        running.wait_answer(port);
        std::fs::write(file, "late --ms 1500").unwrap();
        let load = Plan::port(port).rate(50.0).timeout(PATIENCE).start().unwrap();
        load.wait_ok(10, PATIENCE).unwrap();
        running.kill_service();
        load.wait_ok(100, PATIENCE).unwrap();
        let report = load.stop().unwrap();
        assert_eq!((report.counts.refused, report.counts.timed_out), (0, 0), "{report:#?}");
        assert!(report.longest_gap_ms >= 1_000, "nobody accepted for a while: {report:#?}");
        // The trivial server accepts at once, so an open loop at this rate has hardly anything in flight.
        assert!(report.counts.failed() <= 2, "{report:#?}");
        running.stop();
    }

    fn a_port_declared_beforehand_is_held_before_the_first_start(env) {
        let port = env.port();
        let mut running = env.run("web", &["--port", &format!("127.0.0.1:{port}")], &env.misbehave("late --ms 1500", port));
        wait::until_true("the held port", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap();
        let early = running.service().map(|service| service["phase"] != "ready");
        let load = Plan::port(port).clients(2).timeout(PATIENCE).start().unwrap();
        running.wait_ready();
        load.wait_ok(20, PATIENCE).unwrap();
        load.stop().unwrap().assert_nothing_lost();
        assert_eq!(early, Ok(true), "clients waited before anybody was ready");
        running.stop();
    }

    fn a_port_that_nobody_serves_is_given_up_after_hold(env) {
        let port = env.port();
        let (command, file) = env.versioned("trivial", port);
        let mut running = env.run("web", &["--hold", "2s"], &command);
        running.wait_answer(port);
        std::fs::write(file, "crash-before-ready").unwrap();
        let victim = running.ready_pid();
        process::signal(victim, Signal::KILL);
        wait::until_true("its end", PATIENCE, || !process::is_alive(victim)).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "held: a client waits in the queue");
        wait::until_true("the refusal after hold", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_err()).unwrap();
        let service = running.wait_for("no held listener", |service| service["held"].as_array().is_some_and(Vec::is_empty));
        assert_ne!(service["phase"], "ready", "{service}");
        running.stop();
    }

    fn a_listener_closed_by_a_living_server_is_not_the_end_of_the_port(env) {
        let port = env.port();
        let (command, file) = env.versioned("close-listener --ms 1000", port);
        let running = env.run("web", &["--soak", "300ms"], &command);
        running.wait_answer(port);
        // Its queue is held; whoever comes now waits for the next generation.
        wait::until_true("a client that waits", PATIENCE, || {
            let probe = Plan::port(port).clients(1).duration(Duration::from_millis(1)).timeout(Duration::from_millis(500));
            let counts = probe.run().unwrap().counts;
            assert_eq!(counts.refused, 0, "{counts:?}");
            counts.timed_out == 1
        })
        .unwrap();
        std::fs::write(file, "trivial").unwrap();
        running.restart_well();
        running.wait_answer(port);
        running.stop();
    }
}
