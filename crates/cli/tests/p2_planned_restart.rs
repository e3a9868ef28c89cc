//! P2: a planned restart loses no request, with servers that know nothing of graceful shutdown.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::{Plan, Report};
use stayput_testkit::server::Server;
use stayput_testkit::{assets, both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const QUICK: &[&str] = &["--soak", "300ms"];

/// Two restarts under a fresh connection per request; not one may be lost, and each generation must have answered.
fn restart_twice(env: &TestEnv, name: &str, command: &[String], port: u16) -> Report {
    let mut running = env.run(name, QUICK, command);
    running.wait_answer(port);
    running.wait_ready();
    let load = Plan::port(port).rate(150.0).timeout(PATIENCE).start().unwrap();
    load.wait_ok(30, PATIENCE).unwrap();
    let mut ledgers = Vec::new();
    for _ in 0..2 {
        ledgers.push(running.restart_well());
        load.wait_ok(30, PATIENCE).unwrap();
    }
    let report = load.stop().unwrap();
    report.assert_nothing_lost();
    for restart in &ledgers {
        let ledger = &restart.ledger;
        assert_eq!(ledger["listener_gap"], false, "{ledger}");
        assert_ne!(ledger["from"], ledger["to"], "{ledger}");
        assert!(matches!(ledger["cut"], Value::String(_)) || ledger["cut"] == 0, "fresh connections are all drained: {ledger}");
    }
    running.stop();
    report
}

fn three_generations(report: &Report) {
    let mut generations: Vec<&str> = report.answerers.iter().map(|who| who.generation.as_str()).collect();
    generations.dedup();
    assert_eq!(generations.len(), 3, "three generations, one after the other: {report:#?}");
    for pair in report.answerers.windows(2).filter(|pair| pair[0].generation != pair[1].generation) {
        // A request that the old one had accepted may be answered after the new one's first.
        assert!(pair[0].last_ms <= pair[1].first_ms + 1_000, "the old generation goes on taking traffic: {report:#?}");
    }
}

both_users! {
    fn of_a_trivial_server(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "trivial", &env.misbehave("trivial", port), port));
    }

    fn of_http_server(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "http", &env.server(Server::HttpServer, port), port));
    }

    fn of_flask_socketio(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "flask", &env.server(Server::FlaskSocketIo, port), port));
    }

    fn of_gunicorn_with_two_workers(env) {
        let port = env.port();
        let report = restart_twice(env, "gunicorn", &env.server(Server::Gunicorn, port), port);
        assert!(report.answerers.len() >= 4, "{report:#?}");
    }

    fn of_uvicorn(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "uvicorn", &env.server(Server::Uvicorn, port), port));
    }

    fn of_node(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "node", &env.server(Server::Node, port), port));
    }

    fn of_go(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "go", &env.server(Server::Go, port), port));
    }

    fn of_nginx(env) {
        let port = env.port();
        let report = restart_twice(env, "nginx", &env.server(Server::Nginx, port), port);
        assert_eq!(report.answerers.len(), 3, "{report:#?}");
    }

    fn of_a_server_behind_two_shells(env) {
        let port = env.port();
        let inner = env.server(Server::Node, port).join(" ");
        let command = ["sh", "-c", &format!("sh -c '{inner}; true'; true")].map(str::to_owned);
        three_generations(&restart_twice(env, "wrapped", &command, port));
    }

    fn of_an_mptcp_server(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "mptcp", &env.misbehave("mptcp", port), port));
    }

    fn of_a_server_with_two_listeners_on_one_port(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "two", &env.misbehave("two-listeners", port), port));
    }

    fn of_a_server_that_binds_without_end(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "flood", &env.misbehave("flood-bind --ms 3000", port), port));
    }

    fn of_a_server_that_floods_its_output(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "chatter", &env.misbehave("chatter --ms 700", port), port));
    }

    fn of_a_server_that_closed_its_output(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "mute", &env.misbehave("mute", port), port));
    }

    fn of_a_server_that_listens_late(env) {
        let port = env.port();
        three_generations(&restart_twice(env, "late", &env.misbehave("late --ms 800", port), port));
    }

    fn under_many_clients_at_once(env) {
        let port = env.port();
        let mut running = env.run("web", QUICK, &env.misbehave("trivial", port));
        running.wait_answer(port);
        running.wait_ready();
        let load = Plan::port(port).clients(16).timeout(PATIENCE).start().unwrap();
        for _ in 0..3 {
            load.wait_ok(200, PATIENCE).unwrap();
            running.restart_well();
        }
        load.stop().unwrap().assert_nothing_lost();
        running.stop();
    }

    fn lets_slow_requests_finish(env) {
        let port = env.port();
        let mut running = env.run("web", QUICK, &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        let old = running.ready_pid();
        let slow = Plan::port(port).clients(5).path("/slow?ms=3000").duration(Duration::from_millis(1)).timeout(PATIENCE).start().unwrap();
        wait::until("the slow requests in the old generation", PATIENCE, || {
            let service = running.service()?;
            match service["generations"][0]["connections"].as_u64() {
                Some(count) if count >= 5 => Ok(()),
                _ => Err(service.to_string()),
            }
        })
        .unwrap();
        running.restart_well();
        let report = slow.stop().unwrap();
        report.assert_nothing_lost();
        assert!(report.answerers.iter().all(|who| who.pid == old), "the old generation finished them: {report:#?}");
        let service = running.wait_for("the end of the old generation", |service| {
            service["generations"].as_array().is_some_and(|all| all.len() == 1)
        });
        assert!(service["ledger"]["drained"].as_u64().is_some_and(|drained| drained >= 5), "{service}");
        assert_eq!(service["ledger"]["cut"], 0, "{service}");
        running.stop();
    }

    fn cuts_and_counts_what_outlives_the_drain_deadline(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "100ms", "--drain", "500ms", "--grace", "1s"], &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        running.wait_ready();
        let slow = Plan::port(port).clients(2).path("/slow?ms=20000").duration(Duration::from_millis(1)).timeout(PATIENCE).start().unwrap();
        wait::until_true("two slow requests", PATIENCE, || {
            running.service().is_ok_and(|service| service["generations"][0]["connections"].as_u64() == Some(2))
        })
        .unwrap();
        running.restart_well();
        let service = running.wait_for("the end of the old generation", |service| {
            service["generations"].as_array().is_some_and(|all| all.len() == 1)
        });
        assert_eq!(service["ledger"]["cut"], 2, "{service}");
        assert_eq!(slow.stop().unwrap().counts.failed(), 2);
        running.stop();
    }

    fn costs_idle_keep_alive_connections_at_most_their_race(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms", "--drain", "1s"], &env.server(Server::Node, port));
        running.wait_answer(port);
        running.wait_ready();
        let load = Plan::port(port).clients(8).keep_alive().think(Duration::from_millis(20)).timeout(PATIENCE).start().unwrap();
        load.wait_ok(50, PATIENCE).unwrap();
        for _ in 0..2 {
            running.restart_well();
            load.wait_ok(100, PATIENCE).unwrap();
        }
        let report = load.stop().unwrap();
        let counts = report.counts;
        // Eight connections and two restarts: each may be hit at most once per restart, while it is idle or in flight.
        assert!(counts.failed() <= 16, "{report:#?}");
        assert_eq!(counts.failed(), counts.keep_alive_race + counts.reset_after_first_byte, "{report:#?}");
        running.stop();
    }

    fn by_sighup(env) {
        let port = env.port();
        let mut running = env.run("web", QUICK, &env.misbehave("trivial", port));
        running.wait_answer(port);
        let old = running.ready_pid();
        let load = Plan::port(port).rate(100.0).timeout(PATIENCE).start().unwrap();
        load.wait_ok(10, PATIENCE).unwrap();
        running.signal(Signal::HUP);
        wait::until_true("the next generation", PATIENCE, || running.ready_pid() != old).unwrap();
        load.wait_ok(50, PATIENCE).unwrap();
        load.stop().unwrap().assert_nothing_lost();
        running.stop();
    }

    fn without_overlap_refuses_nobody(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms", "--no-overlap"], &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        running.wait_ready();
        let load = Plan::port(port).rate(100.0).timeout(PATIENCE).start().unwrap();
        load.wait_ok(20, PATIENCE).unwrap();
        for _ in 0..2 {
            running.restart_well();
            load.wait_ok(50, PATIENCE).unwrap();
        }
        let report = load.stop().unwrap();
        assert_eq!((report.counts.refused, report.counts.timed_out), (0, 0), "{report:#?}");
        // What the old one had accepted when its signal came may be lost, and only that.
        assert!(report.counts.failed() <= 4, "{report:#?}");
        running.stop();
    }

    fn socket_io_clients_come_back_by_themselves(env) {
        let port = env.port();
        let mut running = env.run("flask", &["--soak", "300ms", "--drain", "500ms"], &env.server(Server::FlaskSocketIo, port));
        running.wait_answer(port);
        let old = running.ready_pid();
        let dir = assets::dir();
        let client = dir.join("servers/socketio_client.py");
        let url = format!("http://127.0.0.1:{port}");
        let events = env.file("events", "");
        let mut process = env
            .as_user(&dir.join("venv/bin/python"), [client.as_os_str(), url.as_ref(), "60".as_ref()])
            .stdout(Stdio::from(std::fs::File::create(&events).unwrap()))
            .spawn()
            .unwrap();
        let ticks_of = |pid: u32| {
            let text = std::fs::read_to_string(&events).unwrap_or_default();
            let ticks = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            ticks.filter(|event| event["event"] == "tick" && event["pid"] == pid).count()
        };
        let before = wait::until_true("ticks of the old generation", PATIENCE, || ticks_of(old) >= 2);
        running.restart_well();
        let new = running.ready_pid();
        let after = wait::until_true("ticks of the new generation", PATIENCE, || ticks_of(new) >= 2);
        let _ = process.kill();
        let _ = process.wait();
        before.unwrap();
        after.unwrap();
        running.stop();
    }

    fn a_second_restart_while_the_first_drains(env) {
        let port = env.port();
        let mut running = env.run("web", QUICK, &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        running.wait_ready();
        let slow = Plan::port(port).clients(2).path("/slow?ms=6000").duration(Duration::from_millis(1)).timeout(PATIENCE).start().unwrap();
        wait::until_true("two slow requests", PATIENCE, || {
            running.service().is_ok_and(|service| service["generations"][0]["connections"].as_u64() == Some(2))
        })
        .unwrap();
        let load = Plan::port(port).rate(50.0).timeout(PATIENCE).start().unwrap();
        running.restart_well();
        running.restart_well();
        load.wait_ok(20, PATIENCE).unwrap();
        load.stop().unwrap().assert_nothing_lost();
        slow.stop().unwrap().assert_nothing_lost();
        running.stop();
    }
}
