//! What the control API does to a real instance that `up` runs, through the commands that speak it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use stayput_testkit::both_users;
use stayput_testkit::env::TestEnv;

const PATIENCE: Duration = Duration::from_secs(30);

/// Its exit code and what it said.
fn stayput(env: &TestEnv, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = env.cli(arguments, PATIENCE);
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn succeeds(env: &TestEnv, arguments: &[&str]) -> String {
    let (code, out, err) = stayput(env, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}

fn json(env: &TestEnv, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(env, arguments)).unwrap()
}

/// A table of a service that runs this `misbehave`, as TOML.
fn service(env: &TestEnv, name: &str, mode: &str, port: u16) -> String {
    format!("[service.{name}]\ncommand = {:?}\nsoak = '100ms'\n", env.misbehave(mode, port))
}

both_users! {
fn the_history_has_what_was_seen_and_says_what_was_not(env) {
    let port = env.port();
    let config = format!("name = 'shop'\n{}\n[service.off]\ncommand = 'true'\ndisabled = true\n", service(env, "web", "trivial", port));
    env.file("stayput.toml", &config);
    succeeds(env, &["up", "-d"]);
    // The first question is the first sample; a second one at once adds none.
    let history = json(env, &["history", "web", "--json"]);
    assert_eq!((&history["range"], &history["step_ms"]), (&"hour".into(), &10_000.into()));
    let samples = history["series"][0]["samples"].as_array().unwrap();
    assert_eq!((history["series"].as_array().unwrap().len(), samples.len()), (1, 1), "{history}");
    let sample = &samples[0];
    assert!(sample["memory"].as_u64().is_some_and(|bytes| bytes > 50_000), "{sample}");
    assert_eq!((&sample["connections"], &sample["queued"], &sample["restarts"]), (&0.into(), &0.into(), &0.into()), "{sample}");
    assert_eq!(sample["cpu_permille"], Value::Null, "one look is no rate: {sample}");
    assert_eq!(json(env, &["history", "--json"])["series"][1]["samples"].as_array().unwrap().len(), 1);
    // Both ranges are fed by the same look.
    let day = json(env, &["history", "web", "--day", "--json"]);
    assert_eq!(day["series"][0]["samples"][0]["memory"], sample["memory"], "{day}");
    assert!(succeeds(env, &["history", "web"]).contains("web: 1 samples in the last hour"), "in words");
    // What time it was.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(now - u128::from(sample["at_ms"].as_u64().unwrap()) < PATIENCE.as_millis(), "{sample}");
    let (code, _, err) = stayput(env, &["history", "wbe"]);
    assert_eq!((code, err.contains("did you mean web?")), (Some(2), true), "{err}");
    succeeds(env, &["down"]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    env.assert_nothing_left(PATIENCE);
}
}

fn status_of(env: &TestEnv, name: &str) -> Value {
    let status = env.status().unwrap();
    let services = status["services"].as_array().unwrap();
    services.iter().find(|service| service["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
}

fn connects(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

both_users! {
fn a_port_is_held_by_hand_and_let_go(env) {
    let (port, spare, late, taken) = (env.port(), env.port(), env.port(), env.port());
    let config = format!("{}{}disabled = true\n", service(env, "web", "trivial", port), service(env, "late", "trivial", late));
    env.file("stayput.toml", &format!("name = 'shop'\n{config}"));
    succeeds(env, &["up", "-d"]);

    // Held: who connects is not refused; a second time changes nothing.
    assert!(!connects(spare));
    let spare_address = format!("127.0.0.1:{spare}");
    let out = succeeds(env, &["hold", &spare_address, "web"]);
    assert!(out.contains(&format!("{spare_address} is held for web: connections to it are not refused")), "{out}");
    let waits = TcpStream::connect(("127.0.0.1", spare)).unwrap();
    assert!(succeeds(env, &["hold", &spare_address, "web"]).contains("already: nobody accepts on it"), "again");
    let held = status_of(env, "web")["held"].clone();
    assert_eq!((&held[0]["port"], &held[0]["queue"]), (&spare.into(), &1.into()), "{held}");
    // Let go: what waited is told, and anybody can have it.
    let out = succeeds(env, &["release", &spare.to_string()]);
    assert!(out.contains("no longer held for web; 1 connection that waited was reset"), "{out}");
    assert!(!connects(spare));
    drop((waits, std::net::TcpListener::bind(("127.0.0.1", spare)).unwrap()));

    // Somebody has it: told at once, and not waited for.
    let stranger = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let (code, _, err) = stayput(env, &["hold", &format!("127.0.0.1:{taken}"), "web"]);
    assert_eq!((code, err.contains("it is taken by"), err.contains("it is not waited for")), (Some(1), true, true), "{err}");
    drop(stranger);
    let (code, _, err) = stayput(env, &["release", &taken.to_string()]);
    assert_eq!((code, err.contains("nothing in this instance holds")), (Some(2), true), "{err}");
    assert!(!connects(taken));

    // The service that binds it gets what waits there.
    succeeds(env, &["hold", &format!("127.0.0.1:{late}"), "late"]);
    let mut early = TcpStream::connect(("127.0.0.1", late)).unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    early.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    succeeds(env, &["start", "late"]);
    let mut answer = [0; 64];
    let length = early.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));

    // What serves is not released, and what makes no sense is refused.
    let (code, _, err) = stayput(env, &["release", &port.to_string(), "web"]);
    assert_eq!((code, err.contains("of web accepts on"), err.contains("stayput stop web")), (Some(1), true, true), "{err}");
    assert!(connects(port));
    for wrong in [&["hold", "0", "web"][..], &["hold", "127.0.0.1", "web"], &["hold", "8000"], &["hold", "8000", "wbe"], &["release", "x"]] {
        let (code, _, err) = stayput(env, wrong);
        assert_eq!(code, Some(2), "{wrong:?}: {err}");
    }
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}
}
