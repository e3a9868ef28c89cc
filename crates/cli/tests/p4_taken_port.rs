//! P4: no restart loop on a taken port: the holder is named, nothing is tried in vain, and the port is bound as soon as it is free.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody else's server on the port, of the same user.
fn stranger(env: &TestEnv, port: u16) -> Child {
    let words = env.misbehave("trivial", port);
    let child = env.as_user(words[0].as_ref(), &words[1..]).stdout(Stdio::null()).spawn().unwrap();
    let probe = Plan::port(port).clients(1).duration(Duration::from_millis(1));
    wait::until_true("the stranger", PATIENCE, || probe.run().unwrap().counts.ok == 1).unwrap();
    child
}

both_users! {
    fn a_declared_port_waits_for_its_holder_and_names_it(env) {
        let port = env.port();
        let mut stranger = stranger(env, port);
        let mut running = env.run("web", &["--port", &format!("127.0.0.1:{port}")], &env.misbehave("trivial", port));
        let service = running.wait_for("waiting for the port", |service| service["phase"] == "waiting-for-port");
        let detail = service["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(&format!("pid {}", stranger.id())), "the holder is named: {service}");
        assert!(detail.contains(&port.to_string()), "and the port: {service}");
        assert_eq!(service["restarts"], 0, "no retries were burnt: {service}");
        assert!(process::is_alive(stranger.id()), "nobody else's process is touched");

        let released = Instant::now();
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        running.wait_answer(port);
        let took = released.elapsed();
        assert!(took < Duration::from_millis(1500), "bound {took:?} after the release");
        let service = running.wait_ready();
        assert_eq!(service["restarts"], 0, "{service}");
        running.stop();
    }

    fn a_bind_that_fails_names_the_holder(env) {
        let port = env.port();
        let mut stranger = stranger(env, port);
        // Not declared: the server gets the real error, ends, and is told apart from a crash of its own making.
        let mut running = env.run("web", &[], &env.misbehave("trivial", port));
        let service = running.wait_for("the holder in status", |service| {
            service["detail"].as_str().is_some_and(|detail| detail.contains(&format!("pid {}", stranger.id())))
        });
        assert!(service["restarts"].as_u64().is_some_and(|count| count <= 2), "no loop: {service}");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        running.wait_answer(port);
        running.stop();
    }

    fn stop_works_while_it_waits(env) {
        let port = env.port();
        let mut stranger = stranger(env, port);
        let mut running = env.run("web", &["--port", &format!("127.0.0.1:{port}")], &env.misbehave("trivial", port));
        running.wait_for("waiting for the port", |service| service["phase"] == "waiting-for-port");
        running.signal(Signal::TERM);
        running.wait_exit(PATIENCE);
        assert!(process::is_alive(stranger.id()));
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
