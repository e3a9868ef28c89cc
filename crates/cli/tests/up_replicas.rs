//! `replicas = N`: copies of a command that share its ports, as the workers of a server do.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::{TestEnv, Upped};
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(env: &TestEnv, port: u16, replicas: u32, mode: &str) -> String {
    let words: Vec<String> = env.misbehave(mode, port).iter().map(|word| format!("'{word}'")).collect();
    format!(
        "\
name = 'copies'
dashboard = false
[service.web]
command = [{}]
port = '127.0.0.1:{port}'
replicas = {replicas}
soak = '200ms'
drain = '2s'
",
        words.join(", ")
    )
}

/// The copies of the generation that serves, when so many listen.
fn copies(upped: &Upped<'_>, count: usize) -> Vec<u32> {
    let (_, main) = upped.serving("web");
    wait::until("its copies", PATIENCE, || {
        let service = upped.service("web");
        let listeners = stayput_testkit::env::ready_generation(&service).map_or(0, |it| it["listeners"].as_array().map_or(0, Vec::len));
        let copies = process::children(main);
        if copies.len() == count && listeners == count { Ok(copies) } else { Err(format!("{copies:?} {service}")) }
    })
    .unwrap()
}

fn replica(pid: u32) -> String {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let entries = environment.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned());
    entries.filter_map(|entry| entry.strip_prefix("STAYPUT_REPLICA=").map(str::to_owned)).collect()
}

both_users! {
fn copies_share_the_port_and_the_death_of_one_refuses_nobody(env) {
    let port = env.port();
    let upped = env.up(&config(env, port, 4, "trivial"));
    let before = copies(&upped, 4);
    let numbers: BTreeSet<String> = before.iter().map(|pid| replica(*pid)).collect();
    assert_eq!(numbers, ["0", "1", "2", "3"].map(str::to_owned).into());
    let (generation, _) = upped.serving("web");
    assert_eq!(upped.service("web")["replicas"], 4);

    let load = Plan::port(port).clients(8).duration(Duration::from_mins(1)).timeout(Duration::from_secs(10)).start().unwrap();
    load.wait_ok(100, PATIENCE).unwrap();
    let victim = before[1];
    let number = replica(victim);
    assert!(process::signal(victim, Signal::KILL));
    let after = wait::until("another copy", PATIENCE, || {
        let after = copies(&upped, 4);
        if after.contains(&victim) { Err(format!("{after:?}")) } else { Ok(after) }
    })
    .unwrap();
    let fresh: Vec<u32> = after.iter().filter(|pid| !before.contains(pid)).copied().collect();
    assert_eq!((fresh.len(), replica(fresh[0])), (1, number), "the same number again");
    assert_eq!(upped.serving("web").0, generation, "no other copy was touched");
    load.wait_ok(100, PATIENCE).unwrap();
    let report = load.stop().unwrap();
    assert_eq!((report.counts.refused, report.counts.timed_out), (0, 0), "{report:?}");
    // What the killed one was serving dies with it, and nothing else.
    assert!(report.counts.failed() <= 8, "{report:?}");
    // Each copy answers: the load was shared.
    assert!(report.answerers.len() >= 5, "{:?}", report.answerers);
    assert!(upped.succeeds(&["logs", "web"]).contains("was ended by signal 9"), "said in its output");

    // A planned restart of all of them loses nothing.
    let load = Plan::port(port).clients(8).duration(Duration::from_mins(1)).timeout(Duration::from_secs(10)).start().unwrap();
    load.wait_ok(100, PATIENCE).unwrap();
    upped.succeeds(&["restart", "web"]);
    let last = copies(&upped, 4);
    assert!(last.iter().all(|pid| !after.contains(pid)), "{last:?}");
    load.wait_ok(100, PATIENCE).unwrap();
    load.stop().unwrap().assert_nothing_lost();
    upped.down();
}

fn copies_that_all_fail_are_a_failed_generation(env) {
    let port = env.port();
    let upped = env.up(&config(env, port, 2, "trivial"));
    let (before, _) = upped.serving("web");
    copies(&upped, 2);
    env.file("stayput.toml", &config(env, port, 2, "crash-before-ready --status 7"));
    let output = env.cli(["reload"], PATIENCE);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let failed = upped.wait_event("web", "not-ready");
    assert!(failed["text"].as_str().unwrap().contains("exited with status 7"), "{failed}");
    assert_eq!(upped.serving("web").0, before, "the old copies go on");
    upped.down();
}
}
