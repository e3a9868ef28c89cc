//! What the control API does to a real instance that `up` runs, through the commands that speak it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use stayput_testkit::both_users;
use stayput_testkit::env::{TestEnv, stayput, succeeds};

const PATIENCE: Duration = Duration::from_secs(30);

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
    let config = format!("name = 'shop'\ndashboard = false\n{}\n[service.off]\ncommand = 'true'\ndisabled = true\n", service(env, "web", "trivial", port));
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
    env.file("stayput.toml", &format!("name = 'shop'\ndashboard = false\n{config}"));
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

/// The generations that answered fresh connections, one request each, and how often nobody did.
#[derive(Default, Debug)]
struct Answers {
    by: std::collections::BTreeMap<String, u32>,
    failed: u32,
}

/// So many requests from three clients at once.
fn ask(port: u16, requests: u32) -> Answers {
    let one = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let document = answer.split("\r\n\r\n").nth(1).and_then(|body| serde_json::from_str::<Value>(body).ok());
        document.and_then(|document| Some(document["generation"].as_str()?.to_owned())).ok_or_else(|| std::io::Error::other(answer))
    };
    let client = move || (0..requests / 3).map(|_| one().map_err(drop)).collect::<Vec<_>>();
    let clients: Vec<_> = (0..3).map(|_| std::thread::spawn(client)).collect();
    let mut answers = Answers::default();
    for answer in clients.into_iter().flat_map(|client| client.join().unwrap()) {
        match answer {
            Ok(generation) => *answers.by.entry(generation).or_default() += 1,
            Err(()) => answers.failed += 1,
        }
    }
    answers
}

both_users! {
fn a_canary_gets_its_share_and_then_all_or_none(env) {
    let port = env.port();
    env.file("stayput.toml", &format!("name = 'shop'\ndashboard = false\n{}", service(env, "web", "trivial", port)));
    succeeds(env, &["up", "-d"]);
    let first = ask(port, 30);
    let old = first.by.keys().next().unwrap().clone();
    assert_eq!((first.by.len(), first.failed), (1, 0), "{first:?}");
    let new = (old.parse::<u64>().unwrap() + 1).to_string();

    // It has its share when the command returns, and keeps it.
    let out = succeeds(env, &["restart", "web", "--canary", "20%", "--stay"]);
    assert!(out.contains(&format!("generation {new} gets 20 % of the new connections until it is decided")), "{out}");
    let shared = ask(port, 1200);
    // 240 of 1,200, six standard deviations of 13.9 either way.
    let canary = shared.by.get(&new).copied().unwrap_or(0);
    assert!((157..=323).contains(&canary), "{shared:?}");
    assert_eq!((shared.by.values().sum::<u32>(), shared.by.len(), shared.failed), (1200, 2, 0), "{shared:?}");
    let detail = status_of(env, "web");
    assert!(detail["detail"].as_str().unwrap().contains("has 20 % of the new connections until somebody decides"), "{detail}");
    let (code, _, err) = stayput(env, &["restart", "web"]);
    assert_eq!((code, err.contains("another restart has not switched yet")), (Some(1), true), "{err}");

    // Called off: nobody notices, and what it had is counted.
    let during = std::thread::spawn(move || ask(port, 300));
    let out = succeeds(env, &["restart", "web", "--abort"]);
    assert!(out.contains(&format!("all new connections go to generation {old} again")), "{out}");
    let during = during.join().unwrap();
    assert_eq!((during.by.values().sum::<u32>(), during.failed), (300, 0), "{during:?}");
    let after = ask(port, 90);
    assert_eq!((after.by.get(&old), after.failed), (Some(&90), 0), "{after:?}");
    let ledger = status_of(env, "web")["ledger"].clone();
    assert_eq!((&ledger["outcome"], &ledger["reason"], &ledger["canary"]["permille"]), (&"rolled-back".into(), &"it was called off".into(), &200.into()), "{ledger}");
    assert!(ledger["canary"]["lasted_ms"].as_u64().is_some_and(|ms| ms > 0), "{ledger}");
    let (code, _, err) = stayput(env, &["restart", "web", "--abort"]);
    assert_eq!((code, err.contains("there is nothing to decide")), (Some(1), true), "{err}");

    // For a time, and then all; under load, and nobody is refused.
    let during = std::thread::spawn(move || ask(port, 900));
    let ledger = json(env, &["restart", "web", "--canary", "0.5%", "--for", "300ms", "--json"]);
    let during = during.join().unwrap();
    assert_eq!((during.by.values().sum::<u32>(), during.failed), (900, 0), "{during:?}");
    assert_eq!((&ledger["outcome"], &ledger["canary"]["permille"], &ledger["canary"]["for_ms"]), (&"switched".into(), &5.into(), &300.into()), "{ledger}");
    assert!(ledger["canary"]["lasted_ms"].as_u64().is_some_and(|ms| ms >= 300), "{ledger}");
    let to = ledger["to"].to_string();
    assert_eq!(ask(port, 30).by.get(&to), Some(&30), "all to generation {to}");

    // Decided the other way.
    succeeds(env, &["restart", "web", "--canary", "1%", "--stay"]);
    let out = succeeds(env, &["restart", "web", "--switch"]);
    let last = ask(port, 30);
    assert_eq!((last.by.get(&to), last.failed), (None, 0), "{out}: {last:?}");

    for wrong in [&["--canary", "0%"][..], &["--canary", "100%"], &["--stay"], &["--canary", "5%", "--for", "1s", "--stay"], &["--switch", "--abort"]] {
        let (code, _, err) = stayput(env, &[&["restart", "web"], wrong].concat());
        assert_eq!(code, Some(2), "{wrong:?}: {err}");
    }
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn a_canary_that_dies_gives_all_back(env) {
    let port = env.port();
    let (command, mode) = env.versioned("trivial", port);
    env.file("stayput.toml", &format!("name = 'shop'\ndashboard = false\n[service.web]\ncommand = {command:?}\nsoak = '100ms'\n"));
    succeeds(env, &["up", "-d"]);
    let old = ask(port, 3).by.keys().next().unwrap().clone();
    std::fs::write(&mode, "crash-after --ms 1000").unwrap();
    let (code, _, err) = stayput(env, &["restart", "web", "--canary", "1%", "--for", "20s"]);
    assert_eq!((code, err.contains("the old generation has all connections again")), (Some(1), true), "{err}");
    let after = ask(port, 90);
    assert_eq!((after.by.get(&old), after.failed), (Some(&90), 0), "{after:?}");
    assert_eq!(status_of(env, "web")["ledger"]["outcome"], "rolled-back");
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn a_rollback_brings_the_command_and_the_environment_of_before(env) {
    let port = env.port();
    let app = env.file("app.py", "\
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (sys.argv[2] + ' ' + os.environ.get('COLOUR', 'none')).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
");
    let config = |version: &str, env_line: &str| {
        let command = ["python3", app.to_str().unwrap(), &port.to_string(), version].map(str::to_owned);
        format!("name = 'shop'\ndashboard = false\n[service.web]\ncommand = {command:?}\nsoak = '100ms'\n{env_line}\n")
    };
    let says = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
    };
    env.file("stayput.toml", &config("one", ""));
    succeeds(env, &["up", "-d"]);
    let (code, _, err) = stayput(env, &["rollback", "web"]);
    assert_eq!((code, err.contains("nothing to go back to")), (Some(1), true), "{err}");
    env.file("stayput.toml", &config("two", "env = { COLOUR = 'red' }"));
    succeeds(env, &["reload"]);
    assert_eq!(says(), "two red");
    let out = succeeds(env, &["rollback"]);
    assert!(out.contains("switched"), "{out}");
    assert_eq!(says(), "one none");
    // The file still says the other: that is a change now, and it is told.
    assert!(succeeds(env, &["plan"]).contains("env.COLOUR"), "the plan");
    let rolled: Value = json(env, &["rollback", "web", "--json"]);
    assert_eq!(rolled["services"][0]["ledger"]["outcome"], "switched", "and back again: {rolled}");
    assert_eq!(says(), "two red");
    let (code, _, err) = stayput(env, &["rollback", "wbe"]);
    assert_eq!((code, err.contains("did you mean web?")), (Some(2), true), "{err}");
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}
}
