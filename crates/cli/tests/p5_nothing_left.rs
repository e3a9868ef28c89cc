//! P5: stop ends the whole process tree, however it forked, and nobody else's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::TestEnv;
use stayput_testkit::server::Server;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it, stops it; `Running::stop` fails when a process with this test's mark is left.
fn stop_leaves_nothing(env: &TestEnv, command: &[String], port: u16) {
    let running = env.run("web", &["--grace", "1s"], command);
    running.wait_answer(port);
    let before = env.left().len();
    assert!(before >= 2, "a guard and a service at least: {before}");
    running.stop();
}

/// The service itself listens no more.
fn refused(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
}

both_users! {
    fn of_a_trivial_server(env) {
        let port = env.port();
        stop_leaves_nothing(env, &env.misbehave("trivial", port), port);
        assert!(refused(port), "the port is given back");
    }

    fn of_a_server_that_ignores_its_signals(env) {
        let port = env.port();
        stop_leaves_nothing(env, &env.misbehave("ignore-term", port), port);
    }

    fn of_a_server_that_became_a_daemon(env) {
        let port = env.port();
        stop_leaves_nothing(env, &env.misbehave("daemonise", port), port);
    }

    fn of_a_daemon_that_scrubbed_its_environment(env) {
        let port = env.port();
        stop_leaves_nothing(env, &env.misbehave("scrub", port), port);
    }

    fn of_a_server_that_leaves_a_stray_process(env) {
        let port = env.port();
        stop_leaves_nothing(env, &env.misbehave("stray", port), port);
    }

    fn of_a_grandchild_that_holds_the_socket(env) {
        let port = env.port();
        stop_leaves_nothing(env, &env.misbehave("grandchild-holds", port), port);
        assert!(refused(port), "the port is given back");
    }

    fn of_a_server_behind_a_shell(env) {
        let port = env.port();
        let inner = env.server(Server::Node, port).join(" ");
        stop_leaves_nothing(env, &["sh", "-c", &format!("{inner}; true")].map(str::to_owned), port);
    }

    fn of_gunicorn(env) {
        let port = env.port();
        stop_leaves_nothing(env, &env.server(Server::Gunicorn, port), port);
    }

    fn of_an_old_generation_after_a_restart(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms", "--grace", "1s"], &env.misbehave("ignore-term", port));
        running.wait_answer(port);
        let old = running.ready_pid();
        running.restart_well();
        wait::until_true("the end of the old generation", PATIENCE, || !process::is_alive(old)).unwrap();
        running.stop();
    }

    fn a_stray_of_an_old_generation_ends_with_it(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms", "--grace", "1s"], &env.misbehave("stray", port));
        running.wait_answer(port);
        running.wait_ready();
        running.restart_well();
        let workers = || env.left().iter().filter(|each| each.command.contains("worker sleep")).count();
        wait::until_true("one stray only, the new generation's", PATIENCE, || workers() == 1).unwrap();
        running.stop();
    }

    fn nobody_elses_process_is_touched(env) {
        let port = env.port();
        let mut stranger = env.as_user("/bin/sleep".as_ref(), ["60"]).stdout(Stdio::null()).spawn().unwrap();
        let mut running = env.run("web", &["--grace", "1s"], &env.misbehave("trivial", port));
        running.wait_answer(port);
        running.signal(Signal::TERM);
        running.wait_exit(PATIENCE);
        assert!(process::is_alive(stranger.id()));
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    fn the_exit_status_is_the_services(env) {
        let port = env.port();
        let mut running = env.run("three", &["--restart", "never"], &env.misbehave("crash-after --ms 300 --status 3", port));
        assert_eq!(running.wait_exit(PATIENCE).code(), Some(3));
        let mut running = env.run("zero", &["--restart", "on-failure"], &env.misbehave("exit --status 0", port));
        assert_eq!(running.wait_exit(PATIENCE).code(), Some(0));
        let mut running = env.run("killed", &["--restart", "never"], &env.misbehave("trivial", port));
        running.wait_answer(port);
        process::signal(running.ready_pid(), Signal::KILL);
        let status = running.wait_exit(PATIENCE);
        assert_eq!((status.code(), status.signal()), (Some(128 + 9), None));
        // The trivial server dies of its stop signal.
        let running = env.run("stopped", &[], &env.misbehave("trivial", port));
        running.wait_answer(port);
        assert_eq!(running.stop().code(), Some(128 + 15));
    }

    fn the_stop_command_does_the_same(env) {
        let port = env.port();
        let mut running = env.run("web", &["--grace", "1s"], &env.misbehave("stray", port));
        running.wait_answer(port);
        let output = env.cli(["stop", "web"], PATIENCE);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        running.wait_exit(PATIENCE);
        env.assert_nothing_left(Duration::from_secs(5));
    }

    fn a_service_inherits_no_descriptor_of_ours(env) {
        let port = env.port();
        let words = env.misbehave("open-fds", port);
        let targets = |line: &str| -> Vec<String> {
            let list: serde_json::Value = serde_json::from_str(line.trim()).unwrap_or_default();
            let all = list.as_array().into_iter().flatten();
            all.filter(|each| each["fd"].as_i64().is_some_and(|fd| fd > 2)).map(ToString::to_string).collect()
        };
        let mut bare = env.as_user(words[0].as_ref(), &words[1..]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(bare.stdout.take().unwrap()), &mut line).unwrap();
        bare.kill().unwrap();
        bare.wait().unwrap();
        let without = targets(&line);

        let mut running = env.run("web", &["--soak", "300ms"], &words);
        running.wait_answer(port);
        running.wait_ready();
        running.restart_well();
        let log = running.log();
        let lines: Vec<&str> = log.lines().filter_map(|line| Some(&line[line.find("[{\"fd\"")?..])).collect();
        assert_eq!(lines.len(), 2, "two generations told their descriptors: {log}");
        for line in lines {
            let more: Vec<String> = targets(line).into_iter().filter(|each| !without.contains(each)).collect();
            assert!(more.is_empty(), "leaked into the service: {more:?}");
        }
        running.stop();
    }
}
