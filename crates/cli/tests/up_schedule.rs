//! Tasks that run at their times. A schedule has minutes, so one test waits for the next one and looks at everything that happens then.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::env::{TestEnv, Upped};
use stayput_testkit::{both_users, process, wait};

/// A minute, and what a busy machine takes besides.
const NEXT_MINUTE: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(30);

const CONFIG: &str = "\
name = 'times'
dashboard = false

[service.tick]
shell = 'date +%s >>ticks'
schedule = '* * * * *'

[service.slow]
command = 'sleep 300'
schedule = '* * * * *'

[service.never]
command = 'true'
schedule = '0 0 30 2 *'

[service.missing]
command = './removed'
schedule = '* * * * *'
";

fn wall_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn next_run(service: &Value) -> Option<u64> {
    service["next_run_ms"].as_u64()
}

/// The seconds at which `tick` ran.
fn ticks(env: &TestEnv) -> Vec<u64> {
    let text = std::fs::read_to_string(env.path("scratch").join("ticks")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn kill_daemon(upped: &Upped<'_>) {
    let daemon = upped.part("daemon");
    assert!(process::signal(daemon, Signal::KILL));
    wait::until_true("another daemon", PATIENCE, || upped.part("daemon") != daemon).unwrap();
}

both_users! {
fn a_task_runs_at_its_minute_once_whatever_happens_to_the_daemon(env) {
    let before = wall_ms();
    // There when all is checked, and gone when its time comes.
    let removed = env.file("removed", "#!/bin/sh\n");
    std::fs::set_permissions(&removed, std::fs::Permissions::from_mode(0o755)).unwrap();
    let upped = env.up(CONFIG);
    std::fs::remove_file(&removed).unwrap();
    let tick = upped.wait_for("tick", "its next run", |service| next_run(service).is_some());
    let due = next_run(&tick).unwrap();
    assert_eq!(due % 60_000, 0, "on the minute: {tick}");
    assert!((before..=before + 120_000).contains(&due), "the next minute: {tick}");
    assert_eq!(tick["state"], "scheduled");
    assert!(tick["detail"].as_str().unwrap().contains("the next run is at 2"), "{tick}");
    assert!(tick["next"]["in_ms"].as_u64().unwrap() <= 60_000, "{tick}");
    let never = upped.service("never");
    assert_eq!((&never["next_run_ms"], &never["state"]), (&Value::Null, &Value::from("scheduled")), "{never}");

    // One that is started by hand goes on, and is not doubled when its time comes.
    assert!(upped.succeeds(&["start", "slow"]).contains("slow: started"));
    let slow = upped.wait_for("slow", "its run", |service| service["state"] == "working");
    assert!(slow["detail"].as_str().unwrap().contains("goes on; the next run is at"), "{slow}");

    // A daemon that dies forgets no time.
    kill_daemon(&upped);
    let again = upped.wait_for("tick", "its next run", |service| next_run(service).is_some());
    assert!(next_run(&again) == Some(due) || wall_ms() >= due, "{again}");

    // The minute may have passed meanwhile: then it is the one after it that is waited for.
    let before = ticks(env).len();
    wait::until_true("the run", NEXT_MINUTE, || ticks(env).len() > before).unwrap();
    let skipped = upped.wait_event("slow", "run-skipped");
    assert!(skipped["text"].as_str().unwrap().contains("has been going on for"), "{skipped}");
    upped.wait_event("missing", "not-ready");
    let completed = upped.wait_event("tick", "completed");
    assert!(completed["text"].as_str().unwrap().contains("is complete"), "{completed}");
    let ran = ticks(env)[before] * 1000;
    assert_eq!(ran % 60_000 / 10_000, 0, "within ten seconds of its minute, on a busy machine: {ran}");

    // Nothing is run twice by one that dies right after, and the next time is the next minute.
    kill_daemon(&upped);
    let after = upped.wait_for("tick", "its next run", |service| next_run(service).is_some());
    let minute = ran / 60_000 * 60_000;
    assert!(next_run(&after) == Some(minute + 60_000) || wall_ms() >= minute + 60_000, "{after}");
    let times: Vec<u64> = ticks(env).iter().map(|second| second / 60).collect();
    let mut once = times.clone();
    once.dedup();
    assert_eq!(times, once, "one run in each minute");
    // Its command was not there: that ends no schedule.
    assert!(next_run(&upped.service("missing")).is_some());
    upped.down();
}
}
