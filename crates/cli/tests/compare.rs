//! `stayput compare`: the story of the taken port, measured; and nothing left behind, whatever way it ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::{both_users, process, wait};

/// Much longer than the 15 s of `--quick`: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no count: {value}"))
}

fn scenario<'json>(comparison: &'json Value, id: &str) -> &'json Value {
    let found = comparison["scenarios"].as_array().unwrap().iter().find(|scenario| scenario["id"] == id);
    let found = found.unwrap_or_else(|| panic!("no scenario {id}"));
    assert!(found["trouble"].is_null(), "{id}: {}", found["trouble"]);
    found
}

/// Each request is in the timeline, and counted once.
fn assert_adds_up(scenario: &Value) {
    let requests = &scenario["requests"];
    let parts = ["served", "waited", "refused", "reset", "hung", "other"].map(|part| number(&requests[part]));
    assert_eq!(number(&requests["total"]), parts.iter().sum::<u64>(), "{requests}");
    let dots = scenario["timeline"].as_array().unwrap();
    assert_eq!(number(&requests["total"]), dots.len() as u64);
    for (fate, counted) in ["served", "waited", "refused", "reset", "hung", "other"].into_iter().zip(parts) {
        assert_eq!(dots.iter().filter(|dot| dot["fate"] == fate).count() as u64, counted, "{fate}");
    }
}

both_users! {
    /// One run, looked at from all sides: it takes its time.
    fn the_quick_run_tells_the_story_and_adds_up(env) {
        let out = env.path("scratch").join("out");
        let output = env.cli(["compare", "--quick", "--format", "json", "--out", &out.display().to_string()], PATIENCE);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        assert!(errors.contains("s of about") && !errors.contains('\u{1b}'), "a step is a line where nobody watches: {errors:?}");
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(all["schema"], 1);
        assert_eq!(all["environment"]["mode"], "quick");

        let before = scenario(&all, "before");
        let starts = before["attempts"].as_array().unwrap();
        assert!(!starts.is_empty() && starts.iter().all(|start| start["served"] == false), "{starts:?}");
        assert!(starts.iter().all(|start| start["error"].as_str().unwrap().contains("already in use")), "{starts:?}");
        assert!(number(&before["requests"]["refused"]) > 50, "{}", before["requests"]);
        let later: Vec<&Value> = before["checks"].as_array().unwrap().iter().skip(1).collect();
        assert!(later.iter().all(|check| check["said_free"] == true && check["was_free"] == false), "the check misleads: {later:?}");
        let left = number(&before["cut"]["left_ms"]);
        assert!((30_000..61_000).contains(&left), "the kernel's timers: {left} ms");

        let never = scenario(&all, "before-never");
        assert!(never["checks"].as_array().unwrap().iter().skip(1).all(|check| check["said_free"] == false && check["was_free"] == false));

        let after = scenario(&all, "after");
        assert_eq!(after["attempts"].as_array().unwrap().len(), 1);
        assert!(number(&after["requests"]["refused"]) > 0, "between stop and start nobody listens: {}", after["requests"]);
        let share = &scenario(&all, "stale-copy")["share"];
        assert!(number(&share["by_old"]) > 0 && number(&share["by_nobody_stopped"]) > 0, "{share}");

        for id in ["stray-before", "reloader-before"] {
            assert!(scenario(&all, id)["attempts"].as_array().unwrap().iter().all(|start| start["served"] == false), "{id}");
            assert!(scenario(&all, id)["why"].as_str().unwrap().contains("is taken"), "{id}");
        }
        assert!(number(&scenario(&all, "stray-after")["share"]["by_nobody"]) > 0, "SO_REUSEPORT hides the stray listener");
        assert!(number(&scenario(&all, "reloader-after")["share"]["by_old"]) > 0, "SO_REUSEPORT hides the old code");

        let stayput = scenario(&all, "stayput");
        let requests = &stayput["requests"];
        assert_eq!(number(&requests["total"]), number(&requests["served"]) + number(&requests["waited"]), "{requests}");
        assert_eq!(stayput["ledger"]["outcome"], "switched");
        let pids: std::collections::BTreeSet<u64> =
            stayput["timeline"].as_array().unwrap().iter().map(|dot| number(&dot["pid"])).collect();
        assert_eq!(pids.len(), 2, "old and new answered: {pids:?}");

        let scenarios = all["scenarios"].as_array().unwrap();
        assert_eq!(scenarios.len(), 14);
        for scenario in scenarios {
            assert_adds_up(scenario);
        }
        let ports: std::collections::BTreeSet<u64> = scenarios.iter().map(|scenario| number(&scenario["port"])).collect();
        assert_eq!(ports.len(), scenarios.len(), "each has a port of its own");
        let works = |row: usize| all["lab"]["rows"][row]["works"].clone();
        assert_eq!(works(0), serde_json::json!([false, false, false, false]), "TIME_WAIT of a server without options");
        assert_eq!(works(1), serde_json::json!([false, true, false, true]), "TIME_WAIT of a server with SO_REUSEADDR");

        // What was written is whole, and the same.
        let written: Value = serde_json::from_slice(&std::fs::read(out.join("compare.json")).unwrap()).unwrap();
        assert_eq!(written, all);
        let picture = std::fs::read_to_string(out.join("compare.svg")).unwrap();
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n") && picture.contains("prefers-color-scheme: dark"));
        assert!(std::fs::read_to_string(out.join("compare.md")).unwrap().contains("| nobody was served for |"));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);
        env.assert_nothing_left(Duration::from_secs(5));
    }

    fn an_interrupted_run_leaves_nothing(env) {
        let out = env.path("scratch").join("out");
        let mut child = start(env, &["compare", "--quick", "--out", &out.display().to_string()]);
        wait::until_true("servers of the story", PATIENCE, || {
            let left = env.left();
            left.iter().any(|each| each.command.contains("__story serve")) && left.iter().any(|each| each.command.contains("stayput run"))
        })
        .unwrap();
        process::signal(child.id(), Signal::INT);
        let status = ended(&mut child);
        assert_eq!(status.code(), Some(130));
        env.assert_nothing_left(Duration::from_secs(5));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "no file, not even half of one");
        assert_eq!(places(env), [""; 0]);
    }

    fn even_a_killed_run_leaves_no_process(env) {
        let mut child = start(env, &["compare", "--quick"]);
        wait::until_true("servers of the story", PATIENCE, || env.left().iter().filter(|each| each.command.contains("__story")).count() > 6)
            .unwrap();
        process::signal(child.id(), Signal::KILL);
        ended(&mut child);
        env.assert_nothing_left(Duration::from_secs(20));
    }

    fn a_taken_port_is_named_and_left_alone(env) {
        let port = env.port();
        let holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let output = env.cli(["compare", "--quick", "--port", &port.to_string()], PATIENCE);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(&format!("Port {port} is taken")), "{text}");
        assert!(output.stdout.is_empty());
        drop(holder);
    }
}

#[test]
fn a_command_of_ones_own_is_compared_too() {
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Ordinary);
    let port = env.port();
    let words = env.misbehave("trivial", port);
    let mut arguments = vec!["compare", "--quick", "--format", "json", "--"];
    arguments.extend(words.iter().map(String::as_str));
    let output = env.cli(arguments, PATIENCE);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    for id in ["command-before", "command-stayput"] {
        let own = scenario(&all, id);
        assert_eq!(own["port"], port, "the port was found by itself");
        assert_adds_up(own);
    }
    let with = scenario(&all, "command-stayput");
    assert_eq!(number(&with["requests"]["refused"]), 0, "{}", with["requests"]);
}

#[test]
fn a_command_that_does_not_serve_is_named_and_the_rest_is_measured() {
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Ordinary);
    let output = env.cli(["compare", "--quick", "--", "sh", "-c", "echo no such thing >&2; exit 3"], PATIENCE);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("exit status 3: no such thing") && text.contains("nobody was served for"), "{text}");
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Ordinary);
    for (arguments, part) in [
        (&["compare", "--quick", "--full"][..], "--full"),
        (&["compare", "--port", "0"], "0"),
        (&["compare", "--port", "http"], "http"),
        (&["compare", "--port", "5000-5002"], "one port"),
        (&["compare", "--format", "pdf"], "pdf"),
        (&["compare", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (&["compare", "--", "no-such-command-here"], "no-such-command-here"),
    ] {
        let output = env.cli(arguments, Duration::from_secs(20));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains(part), "{arguments:?}: {text}");
    }
}

fn start(env: &TestEnv, arguments: &[&str]) -> Child {
    env.command(arguments).env("TMPDIR", env.path("scratch")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    wait::until("its end", PATIENCE, || child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "runs".to_owned())).unwrap()
}

/// Private directories of a comparison under this environment's temporary directory.
fn places(env: &TestEnv) -> Vec<String> {
    let entries = std::fs::read_dir(env.path("scratch")).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("stayput-")).collect()
}
