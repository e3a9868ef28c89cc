//! P3: a bad version never takes traffic; one that fails on probation gives it back.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use serde_json::Value;
use stayput_testkit::both_users;
use stayput_testkit::env::{Restart, TestEnv};
use stayput_testkit::load::{Plan, Report};
use stayput_testkit::server::Server;

const PATIENCE: Duration = Duration::from_secs(30);

/// A good version serves, the next one is `bad`: what the restart said, and what the clients saw.
fn next_is(env: &TestEnv, bad: &str, options: &[&str]) -> (Restart, Report) {
    let port = env.port();
    let (command, file) = env.versioned("trivial", port);
    let mut running = env.run("web", options, &command);
    running.wait_answer(port);
    let good = running.ready_pid();
    let load = Plan::port(port).rate(150.0).timeout(PATIENCE).start().unwrap();
    load.wait_ok(20, PATIENCE).unwrap();
    std::fs::write(file, bad).unwrap();
    let restart = running.restart(&[]);
    load.wait_ok(50, PATIENCE).unwrap();
    let report = load.stop().unwrap();
    assert_eq!(restart.code, Some(1), "{restart:#?}\n{}", running.log());
    assert_eq!(running.ready_pid(), good, "the good version goes on: {restart:#?}\n{}", running.log());
    assert_eq!(report.counts.refused, 0, "{report:#?}");
    running.stop();
    (restart, report)
}

fn not_ready(env: &TestEnv, bad: &str) -> Restart {
    let (restart, report) = next_is(env, bad, &["--soak", "300ms", "--ready-timeout", "1s"]);
    assert_eq!(restart.text("outcome"), "not-ready", "{restart:#?}");
    report.assert_nothing_lost();
    assert_eq!(report.answerers.len(), 1, "only the good version answered: {report:#?}");
    restart
}

both_users! {
    fn dead_on_arrival(env) {
        let restart = not_ready(env, "crash-before-ready --status 3");
        let said = format!("{} {}", restart.last_output, restart.stderr);
        assert!(said.contains("ImportError: this version is broken"), "its last words are shown: {restart:#?}");
        assert!(said.contains('3'), "and its status: {restart:#?}");
    }

    fn dead_without_a_word(env) {
        not_ready(env, "exit --status 0");
    }

    fn never_listens(env) {
        let restart = not_ready(env, "never-listen");
        assert!(restart.last_output.contains("any moment now"), "its last words are shown: {restart:#?}");
    }

    fn listens_and_never_accepts(env) {
        not_ready(env, "never-accept");
    }

    fn ready_too_late(env) {
        not_ready(env, "late --ms 4000");
    }

    fn a_process_that_ignores_its_stop_signal_and_never_listens_is_killed(env) {
        let port = env.port();
        let (command, file) = env.versioned("trivial", port);
        let mut running = env.run("web", &["--ready-timeout", "1s", "--grace", "1s"], &command);
        running.wait_answer(port);
        running.wait_ready();
        std::fs::write(file, "ignore-term --host 127.0.0.2").unwrap();
        // It listens elsewhere: whatever the verdict, stop must end all of it.
        let _ = running.restart(&[]);
        running.stop();
    }

    fn fails_on_probation(env) {
        let (restart, report) = next_is(env, "crash-after --ms 1500", &["--soak", "8s"]);
        assert_eq!(restart.text("outcome"), "rolled-back", "{restart:#?}");
        assert!(report.answerers.len() == 2, "the bad version answered for a while: {report:#?}");
        // What the bad one had accepted, and what came to its queue until its end was noticed: a fifth of a second at most, on a busy machine. The ledger
        // counts the same or says that it did not.
        assert!(report.counts.failed() <= 30, "{report:#?}");
        match &restart.ledger["lost"] {
            Value::Number(lost) => assert!(lost.as_u64().is_some_and(|lost| lost >= report.counts.failed()), "{restart:#?} {report:#?}"),
            other => assert_eq!(other, "not measured"),
        }
    }

    fn gunicorn_with_an_import_error(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms", "--ready-timeout", "8s"], &env.server(Server::Gunicorn, port));
        running.wait_answer(port);
        let good = running.ready_pid();
        let load = Plan::port(port).rate(100.0).timeout(PATIENCE).start().unwrap();
        load.wait_ok(20, PATIENCE).unwrap();
        std::fs::write(env.fault(), "").unwrap();
        let restart = running.restart(&[]);
        load.wait_ok(20, PATIENCE).unwrap();
        load.stop().unwrap().assert_nothing_lost();
        assert_eq!((restart.code, restart.text("outcome")), (Some(1), "not-ready"), "{restart:#?}");
        // gunicorn's last word is a traceback of its own, longer than the lines that are quoted; the cause stands above it in the log.
        assert!(restart.last_output.contains("Worker failed to boot"), "{restart:#?}");
        assert!(running.log().contains("this version is broken"), "{}", running.log());
        assert_eq!(running.ready_pid(), good);
        // The next version is good again.
        std::fs::remove_file(env.fault()).unwrap();
        running.restart_well();
        running.stop();
    }

    fn readiness_by_http_waits_for_the_right_answer(env) {
        let port = env.port();
        let (command, file) = env.versioned("trivial", port);
        let mut running = env.run("web", &["--soak", "300ms", "--ready-timeout", "1s", "--ready", "http:/"], &command);
        running.wait_answer(port);
        let good = running.ready_pid();
        std::fs::write(&file, "never-accept").unwrap();
        let restart = running.restart(&[]);
        assert_eq!(restart.text("outcome"), "not-ready", "{restart:#?}");
        assert_eq!(running.ready_pid(), good);
        std::fs::write(&file, "trivial").unwrap();
        running.restart_well();
        running.stop();
    }
}
