//! Restarts of several services, and reloads, of a real instance: order, failures, ports that move, services that go, policy that changes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use stayput_testkit::env::{TestEnv, stayput, succeeds};
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const HEAD: &str = "name = 'shop'\ndashboard = false\n";

fn json(env: &TestEnv, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(env, arguments)).unwrap()
}

/// The generation that has the connections.
fn generation(env: &TestEnv, name: &str) -> u64 {
    let status = env.status().unwrap();
    let services = status["services"].as_array().unwrap();
    let service = services.iter().find(|service| service["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"));
    stayput_testkit::env::ready_generation(service).unwrap_or_else(|| panic!("{service}"))["id"].as_u64().unwrap()
}

/// An answer to a request for this path, or why there is none.
fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Bytes of all files below a directory.
fn size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => size(&entry.path()),
        Ok(facts) => facts.len(),
        // Removed while we look.
        Err(_) => 0,
    });
    each.sum()
}

both_users! {
fn several_are_restarted_in_order_and_not_beyond_the_first_failure(env) {
    let table = |name: &str, command: &[String], after: &str| {
        format!("[service.{name}]\ncommand = {command:?}\nsoak = '100ms'\nafter = [{after}]\n")
    };
    let plain = || env.misbehave("trivial", env.port());
    let (api, mode) = env.versioned("trivial", env.port());
    let config = [table("db", &plain(), ""), table("api", &api, "'db'"), table("web", &plain(), "'api'"), table("other", &plain(), "")];
    env.file("stayput.toml", &format!("{HEAD}{}", config.concat()));
    succeeds(env, &["up", "-d"]);

    // Four at a time, and yet nobody before what it starts after.
    let start = env.status().unwrap()["cursor"].as_str().unwrap().to_owned();
    let all = json(env, &["restart", "--all", "--parallel", "4", "--json"]);
    assert_eq!(all["services"].as_array().unwrap().len(), 4, "{all}");
    let events = succeeds(env, &["events", "--json", "--since", &start]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |service: &str, kind: &str| {
        let found = events.iter().position(|event| event["service"] == service && event["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} of {service} in {events:?}"))
    };
    assert!(at("other", "spawned") < at("db", "settled"), "side by side");
    assert!(at("db", "settled") < at("api", "spawned") && at("api", "settled") < at("web", "spawned"), "one after the other");

    // One fails: what comes after it is not touched, and is named.
    std::fs::write(&mode, "crash-before-ready --status 7").unwrap();
    let before = ["db", "other", "api", "web"].map(|name| generation(env, name));
    let (code, _, err) = stayput(env, &["restart", "--all"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("api: the new generation did not become ready") && err.contains("exited with status 7"), "{err}");
    assert!(err.contains("not touched because of that: web"), "{err}");
    let after = ["db", "other", "api", "web"].map(|name| generation(env, name));
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");
    assert_eq!(after[2..], before[2..]);
    let (code, _, err) = stayput(env, &["restart", "--all", "--parallel", "0"]);
    assert_eq!(code, Some(2), "{err}");
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn a_port_moves_without_a_gap(env) {
    let (old, new) = (env.port(), env.port());
    let config = |port: u16| {
        let command = env.misbehave("trivial", port);
        format!("{HEAD}[service.web]\nport = '127.0.0.1:{port}'\ncommand = {command:?}\nsoak = '100ms'\ndrain = '5s'\n")
    };
    env.file("stayput.toml", &config(old));
    succeeds(env, &["up", "-d"]);
    // Who is refused at the old port, or cut off when its server goes, finds the new one open at that very moment.
    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let client = {
        let (stop, moved) = (Arc::clone(&stop), Arc::clone(&moved));
        move || {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let good = |answer: &std::io::Result<String>| answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
                let first = get(old, "/");
                if good(&first) {
                    continue;
                }
                moved.fetch_add(1, Ordering::Relaxed);
                let second = get(new, "/");
                if !good(&second) {
                    failures.push(format!("{first:?}, and then {second:?}"));
                }
            }
            failures
        }
    };
    let clients: Vec<_> = (0..3).map(|_| std::thread::spawn(client.clone())).collect();
    env.file("stayput.toml", &config(new));
    let plan = json(env, &["plan", "--json"]);
    let fields = plan["changes"][0]["fields"].as_array().unwrap();
    let field = |name: &str| fields.iter().find(|field| field["field"] == name).unwrap_or_else(|| panic!("no {name} in {plan}")).clone();
    assert_eq!((field("command")["restart"].clone(), field("port")["restart"].clone()), (true.into(), false.into()), "{plan}");
    assert_eq!(field("port")["from"], format!("127.0.0.1:{old}"), "{plan}");
    assert_eq!(field("port")["to"], format!("127.0.0.1:{new}"), "{plan}");
    assert!(field("port")["why"].as_str().unwrap().contains("the new one is held before the old one is released"), "{plan}");
    succeeds(env, &["reload"]);
    wait::until_true("the end of the old port", PATIENCE, || moved.load(Ordering::Relaxed) > 30).unwrap();
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(failures.is_empty(), "{failures:?}");
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn a_service_that_is_taken_out_finishes_what_it_has(env) {
    let (web, api) = (env.port(), env.port());
    let table = |name: &str, port: u16| format!("[service.{name}]\ncommand = {:?}\nsoak = '100ms'\ndrain = '20s'\n", env.misbehave("trivial", port));
    env.file("stayput.toml", &format!("{HEAD}{}{}", table("web", web), table("api", api)));
    succeeds(env, &["up", "-d"]);
    let before = generation(env, "api");
    let (asked, is_asked) = std::sync::mpsc::channel();
    let slow = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", web)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /slow?ms=1500 HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        asked.send(()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    is_asked.recv().unwrap();
    env.file("stayput.toml", &format!("{HEAD}{}", table("api", api)));
    let out = succeeds(env, &["reload"]);
    assert!(out.contains("web"), "{out}");
    let answer = slow.join().unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    wait::until("the end of web", PATIENCE, || {
        let status = env.status()?;
        let names: Vec<&str> = status["services"].as_array().unwrap().iter().filter_map(|service| service["name"].as_str()).collect();
        if names == ["api"] && TcpStream::connect(("127.0.0.1", web)).is_err() { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    assert_eq!(generation(env, "api"), before, "nobody else was touched");
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn a_limit_of_logs_holds_at_once_for_who_writes_already(env) {
    let config = |more: &str| {
        // Some megabytes a second.
        let shell = "while :; do head -c 100000 /dev/zero | tr '\\\\0' x; echo; sleep 0.02; done";
        format!("{HEAD}[logs]\ndirectory = 'logs'\nsegment = '64K'\nmax-size = '64M'\ncompress = false\n[service.chatty]\nshell = \"{shell}\"\n{more}")
    };
    env.file("stayput.toml", &config(""));
    succeeds(env, &["up", "-d"]);
    let logs = env.path("scratch").join("logs");
    wait::until_true("megabytes of logs", PATIENCE, || size(&logs) > 3 << 20).unwrap();
    let before = generation(env, "chatty");
    env.file("stayput.toml", &config("logs = { max-size = '1M' }\n"));
    let plan = json(env, &["plan", "--json"]);
    let field = &plan["changes"][0]["fields"][0];
    assert_eq!((&field["field"], &field["restart"]), (&"logs".into(), &false.into()), "{plan}");
    succeeds(env, &["reload"]);
    wait::until("what is beyond the limit is gone", PATIENCE, || match size(&logs) {
        small if small < 3 << 19 => Ok(()),
        large => Err(format!("{large} bytes")),
    })
    .unwrap();
    assert_eq!(generation(env, "chatty"), before, "no process was touched");
    // Another directory is said to wait, and the output goes on where it is.
    env.file("stayput.toml", &config("logs = { max-size = '1M' }\n").replace("'logs'", "'elsewhere'"));
    let plan = succeeds(env, &["plan"]);
    assert!(plan.contains("logs.directory") && plan.contains("keeps its logs where they are while it runs"), "{plan}");
    succeeds(env, &["reload"]);
    assert!(!env.path("scratch").join("elsewhere").exists());
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}
}
