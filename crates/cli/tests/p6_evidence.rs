//! P6: only true statements: what status says is what the kernel says, and what was not looked at is said to be so.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use serde_json::Value;
use stayput_testkit::env::ready_generation;
use stayput_testkit::{both_users, process};

const PATIENCE: Duration = Duration::from_secs(30);

/// The inode of the listener on 127.0.0.1:`port`, from /proc/net/tcp: proc_net_tcp.txt of the kernel's documentation.
fn listening_inodes(port: u16) -> Vec<u64> {
    let local = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == local && row[3] == "0A").filter_map(|row| row[9].parse().ok()).collect()
}

both_users! {
    fn a_ready_service_is_what_the_kernel_says(env) {
        let port = env.port();
        let mut running = env.run("web", &[], &env.misbehave("trivial", port));
        running.wait_answer(port);
        let service = running.wait_ready();
        let generation = ready_generation(&service).unwrap();
        let pid = u32::try_from(generation["pid"].as_u64().unwrap()).unwrap();
        assert!(process::is_alive(pid));
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(command.contains("trivial"), "{command}");
        let listener = &generation["listeners"][0];
        assert_eq!((listener["address"].as_str(), listener["port"].as_u64()), (Some("127.0.0.1"), Some(u64::from(port))), "{service}");
        assert!(listening_inodes(port).contains(&listener["inode"].as_u64().unwrap()), "{service}");
        assert_eq!((&listener["held"], &listener["selected"]), (&Value::Bool(true), &Value::Bool(true)), "{service}");
        assert!(listener["queue"] == 0 || listener["queue"] == "not measured", "{service}");
        assert_eq!(generation["trap"], "active", "{service}");
        assert_eq!(running.part("guard"), running.pid());
        for part in ["guard", "keeper", "daemon"] {
            assert!(process::is_alive(running.part(part)), "{part}");
        }
        running.stop();
    }

    fn who_never_accepts_is_not_called_ready(env) {
        let port = env.port();
        let mut running = env.run("web", &["--ready-timeout", "20s"], &env.misbehave("never-accept", port));
        let service = running.wait_for("its listener", |service| {
            service["generations"][0]["listeners"].as_array().is_some_and(|all| !all.is_empty())
        });
        assert_ne!(service["phase"], "ready", "{service}");
        assert_ne!(service["generations"][0]["phase"], "ready", "{service}");
        running.stop();
    }

    fn a_crash_loop_is_called_by_its_name(env) {
        let port = env.port();
        let mut running = env.run("web", &[], &env.misbehave("crash-before-ready --status 9", port));
        let service = running.wait_for("a pause after two crashes", |service| {
            service["phase"] == "backing-off" && service["restarts"].as_u64().is_some_and(|count| count >= 1)
        });
        let text = service.to_string();
        assert!(text.contains("exited with status 9"), "the status it ended with is named: {service}");
        running.stop();
    }

    fn a_ledger_has_counts_or_says_that_nobody_counted(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms"], &env.misbehave("trivial", port));
        running.wait_answer(port);
        running.wait_ready();
        let restart = running.restart_well();
        for field in ["queued", "drained", "cut", "lost", "gap_ms", "accepted", "refused"] {
            let value = &restart.ledger[field];
            assert!(value.is_u64() || value == "not measured", "{field} is {value} in {}", restart.ledger);
        }
        let service = running.service().unwrap();
        assert_eq!(service["ledger"]["to"], restart.ledger["to"], "{service}");
        assert_eq!(service["restarts"], 1, "{service}");
        running.stop();
    }

    fn when_nothing_runs_status_says_so(env) {
        let output = env.cli(["status", "--json"], PATIENCE);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["instances"].as_array().map(Vec::len), Some(0), "{document}");
    }

    fn two_runs_are_two_instances(env) {
        let (one, two) = (env.port(), env.port());
        let mut first = env.run("one", &[], &env.misbehave("trivial", one));
        let mut second = env.run("two", &[], &env.misbehave("trivial", two));
        first.wait_ready();
        second.wait_ready();
        let status = env.status().unwrap();
        let mut names: Vec<&str> = status["instances"].as_array().unwrap().iter().filter_map(|each| each["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["one", "two"]);
        let third = env.cli(["run", "--name", "one", "--", "true"], PATIENCE);
        assert_eq!(third.status.code(), Some(2), "the same name twice: {}", String::from_utf8_lossy(&third.stderr));
        first.stop();
        second.wait_answer(two);
        second.stop();
    }
}
