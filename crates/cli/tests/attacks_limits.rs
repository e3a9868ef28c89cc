//! Out of descriptors: what cannot work is refused, and what worked goes on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Output;
use std::time::Duration;

use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_mins(1);

/// `stayput` with at most so many open files, soft and hard.
fn limited(env: &TestEnv, most: u32, arguments: &[&str]) -> Output {
    let stayput = env.command([""; 0]);
    let line = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
    let program = stayput.get_program().to_str().unwrap();
    env.as_user("/bin/sh".as_ref(), ["-c", &line, program].iter().chain(arguments)).output().unwrap()
}

both_users! {
fn too_few_descriptors_are_refused_at_the_start(env) {
    env.host_file("[service.web]\ncommand = 'sleep 1000'\n");
    let output = limited(env, 24, &["up"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("at most 24 open files are allowed here"), "{said}");
    assert_eq!(env.left(), []);
}

fn out_of_descriptors_a_new_one_fails_by_name_and_the_old_ones_serve(env) {
    // As many services as fit, and a restart of each at once, which does not.
    let ports: Vec<u16> = (0..16).map(|_| env.port()).collect();
    let services = ports.iter().enumerate().map(|(number, port)| {
        format!("[service.s{number}]\ncommand = {:?}\nsoak = '0s'\nrestart = 'always'\n", env.misbehave("trivial", *port))
    });
    env.host_file(&services.collect::<String>());
    let output = limited(env, 64, &["up", "-d"]);
    let host = env.attached("host");
    assert_eq!(output.status.code(), Some(1), "not all of them fit, or this tries nothing: {}", String::from_utf8_lossy(&output.stdout));
    let status = host.status();
    let number = |service: &serde_json::Value| service["name"].as_str().unwrap()[1..].parse::<usize>().unwrap();
    let ready = status["services"].as_array().unwrap().iter().filter(|service| service["phase"] == "ready").map(number);
    let serving: Vec<(usize, u16)> = ready.map(|at| (at, ports[at])).collect();
    assert!(!serving.is_empty(), "{status}");
    let events = host.succeeds(&["events"]);
    assert!(events.contains("Too many open files"), "the reason is told: {events}");
    let load = Plan::port(serving[0].1).rate(50.0).duration(PATIENCE).start().unwrap();
    for (at, _) in serving.iter().take(3) {
        // There may be room for one more, or not: either way it says so, and what serves goes on.
        let restart = host.stayput(&["restart", &format!("s{at}")]);
        assert!(restart.code == Some(0) || restart.err.contains("was not touched"), "{restart:?}");
    }
    load.stop().unwrap().assert_nothing_lost();
    for (_, port) in &serving {
        wait::until_true("an answer", PATIENCE, || Plan::port(*port).clients(1).duration(Duration::from_millis(1)).run().unwrap().counts.ok > 0).unwrap();
    }
    assert_eq!((&host.status()["daemon_deaths"], &host.status()["keeper_deaths"]), (&0.into(), &0.into()));
    host.down();
}
}
