//! The metrics of a real instance, read by a parser of the Prometheus text format 0.0.4; what is documented of them; and the example client.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::Duration;

use stayput_testkit::both_users;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::wait;

#[path = "../../wire/examples/watch.rs"]
#[expect(dead_code, unreachable_pub, reason = "a program of its own, of which one function is run here")]
mod watch;

const PATIENCE: Duration = Duration::from_secs(30);

fn succeeds(env: &TestEnv, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = env.cli(arguments, PATIENCE);
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(0), "{arguments:?}: {out}{err}");
    out
}

/// A metric with all its samples: by their suffix and labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

type Families = BTreeMap<String, Family>;

fn is_name(text: &str, colon: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':');
    text.chars().next().is_some_and(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// `{a="b",c="d"}`, with `\\`, `\"` and `\n` in values.
fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, false) {
            return Err(format!("{name:?} is no label"));
        }
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (at, c) in after.char_indices() {
            match (escaped, c) {
                (true, 'n') => value.push('\n'),
                (true, '\\' | '"') => value.push(c),
                (true, c) => return Err(format!("\\{c} is no escape")),
                (false, '\\') => {}
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, c) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        let end = end.ok_or("a value without an end")?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("{name} twice"));
        }
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Ok(labels)
}

/// The format as <https://prometheus.io/docs/instrumenting/exposition_formats/> has it, with the conventions for names: what a family is called
/// and what it is come first and once, its samples stand together, no sample twice, counters end with `_total`.
fn parse(text: &str) -> Result<Families, String> {
    let mut families = Families::new();
    let mut current = String::new();
    let mut helped = BTreeSet::new();
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    for line in text.lines() {
        let wrong = |why: &str| format!("{why}: {line:?}");
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap_or_default();
            if !is_name(name, true) || !helped.insert(name.to_owned()) {
                return Err(wrong("help twice, or of no name"));
            }
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let known = ["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind);
            if !known || !helped.contains(name) || (kind == "counter") != name.ends_with("_total") {
                return Err(wrong("a type that does not fit"));
            }
            let family = Family { kind: kind.to_owned(), ..Family::default() };
            if families.insert(name.to_owned(), family).is_some() {
                return Err(wrong("type twice"));
            }
            name.clone_into(&mut current);
        } else if line.starts_with('#') || line.is_empty() {
            return Err(wrong("not of this format"));
        } else {
            let (series, value) = line.rsplit_once(' ').ok_or_else(|| wrong("no value"))?;
            let (name, of) = match series.split_once('{') {
                Some((name, rest)) => (name, labels(rest.strip_suffix('}').ok_or_else(|| wrong("no }"))?).map_err(|why| wrong(&why))?),
                None => (series, BTreeMap::new()),
            };
            let suffix = name.strip_prefix(current.as_str()).ok_or_else(|| wrong("not beside its family"))?;
            let family = families.get_mut(&current).ok_or_else(|| wrong("no family"))?;
            let fits = if family.kind == "histogram" { ["_bucket", "_sum", "_count"].contains(&suffix) } else { suffix.is_empty() };
            let value: f64 = value.parse().map_err(|_| wrong("no number"))?;
            if !fits || !is_name(name, true) || family.samples.insert((suffix.to_owned(), of), value).is_some() {
                return Err(wrong("a sample that does not fit, or twice"));
            }
        }
    }
    families.iter().filter(|(_, family)| family.kind == "histogram").try_for_each(|(name, family)| histogram(name, family))?;
    Ok(families)
}

/// Buckets grow up to `+Inf`, which is the count.
fn histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut by_series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for ((suffix, of), value) in &family.samples {
        let mut of = of.clone();
        if suffix == "_bucket" {
            let bound = of.remove("le").ok_or("a bucket without a bound")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| format!("{name}: le={bound}"))? };
            by_series.entry(of).or_default().push((bound, *value));
        }
    }
    for (of, mut buckets) in by_series {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let grows = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        let count = family.samples.get(&("_count".to_owned(), of.clone()));
        let last = buckets.last().filter(|last| last.0.is_infinite()).map(|last| last.1);
        if !grows || count.copied() != last || !family.samples.contains_key(&("_sum".to_owned(), of.clone())) {
            return Err(format!("{name}{of:?}: {buckets:?}, count {count:?}"));
        }
    }
    Ok(())
}

#[test]
fn the_parser_refuses_what_prometheus_would() {
    let head = "# HELP a_total x\n# TYPE a_total counter\n";
    assert!(parse(&format!("{head}a_total{{s=\"x\\\\\\\"y\"}} 1\n")).is_ok());
    for wrong in [
        "a_total 1",
        "a_total{s=\"x\"} 1\na_total{s=\"x\"} 2\n",
        "a_total one\n",
        "b_total 1\n",
        "a_total{s=x} 1\n",
        "a_total{1s=\"x\"} 1\n",
        "\n",
    ] {
        assert!(parse(&format!("{head}{wrong}")).is_err(), "{wrong:?}");
    }
    let head = "# HELP h x\n# TYPE h histogram\n";
    assert!(parse(&format!("{head}h_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n")).is_ok());
    assert!(parse(&format!("{head}h_bucket{{le=\"1\"}} 3\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n")).is_err());
    assert!(parse(&format!("{head}h_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 3\n")).is_err());
    assert!(parse("# HELP a x\n# TYPE a counter\n").is_err(), "a counter is a total");
}

fn metrics(env: &TestEnv) -> Families {
    let text = succeeds(env, &["metrics"]);
    parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn of(families: &Families, name: &str, service: &str) -> f64 {
    let labels = BTreeMap::from([("service".to_owned(), service.to_owned())]);
    *families[name].samples.get(&(String::new(), labels)).unwrap_or_else(|| panic!("no {name} of {service} in {families:?}"))
}

both_users! {
fn the_metrics_are_what_happened_and_are_all_documented(env) {
    let port = env.port();
    let (command, mode) = env.versioned("trivial", port);
    let speaker = "shell = \"echo 12345678\"\nkind = \"task\"";
    env.file("stayput.toml", &format!(
        "name = 'shop'\ndashboard = false\n[logs]\ndirectory = 'logs'\n[service.web]\ncommand = {command:?}\nsoak = '100ms'\n[service.speaker]\n{speaker}\n"
    ));
    succeeds(env, &["up", "-d"]);
    succeeds(env, &["restart", "web"]);
    std::fs::write(&mode, "crash-before-ready --status 1").unwrap();
    let failed = env.cli(["restart", "web"], PATIENCE);
    assert_eq!(failed.status.code(), Some(1));
    let seen = wait::until("the log's bytes", PATIENCE, || {
        let seen = metrics(env);
        if of(&seen, "stayput_logged_bytes_total", "speaker") >= 9.0 { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();
    for (name, wanted) in [
        ("stayput_running", 1.0),
        ("stayput_restarts_total", 2.0),
        ("stayput_restarts_switched_total", 1.0),
        ("stayput_restarts_not_ready_total", 1.0),
        ("stayput_failed_starts_total", 1.0),
        ("stayput_crashes_total", 0.0),
        ("stayput_held_ports", 1.0),
        ("stayput_queued_connections", 0.0),
        ("stayput_lost_connections_total", 0.0),
        ("stayput_dropped_log_bytes_total", 0.0),
    ] {
        assert!((of(&seen, name, "web") - wanted).abs() < 0.5, "{name}: {}; {}", of(&seen, name, "web"), env.status().unwrap());
    }
    assert!((of(&seen, "stayput_logged_bytes_total", "speaker") - 9.0).abs() < 0.5, "each byte once");
    assert!(of(&seen, "stayput_memory_bytes", "web") > 50_000.0);
    let handovers: f64 = seen["stayput_handover_seconds"].samples.iter().filter(|((suffix, _), _)| suffix == "_count").map(|(_, count)| count).sum();
    assert!((handovers - 1.0).abs() < 0.5, "{handovers}");

    // Each is in the documentation, and what is there is here.
    let book = include_str!("../../../docs/CONTROL.md");
    let documented: BTreeSet<&str> = book.split('`').skip(1).step_by(2).filter(|word| is_name(word, false) && word.starts_with("stayput_")).collect();
    let here: BTreeSet<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(documented, here);
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}
}

/// As whoever runs the tests: a client speaks with nobody else's daemon.
#[test]
fn the_example_client_sees_the_status_and_each_event_after_it() {
    let user = if User::Root.is_possible() { User::Root } else { User::Ordinary };
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), user);
    let port = env.port();
    env.file(
        "stayput.toml",
        &format!("name = 'shop'\ndashboard = false\n[service.web]\ncommand = {:?}\nsoak = '100ms'\n", env.misbehave("trivial", port)),
    );
    succeeds(&env, &["up", "-d"]);
    let socket = env.path("run").join("stayput/shop/control.sock");
    let seen = std::thread::spawn(move || {
        let mut out = Vec::new();
        watch::watch(&socket, &mut out, 3).map(|()| String::from_utf8(out).unwrap()).map_err(|error| error.to_string())
    });
    // As often as it takes: the client may connect after the first.
    wait::until("three events", PATIENCE, || {
        succeeds(&env, &["restart", "web"]);
        if seen.is_finished() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .unwrap();
    let seen = seen.join().unwrap().unwrap();
    assert!(seen.starts_with("instance shop (guard ") && seen.contains("web: generation "), "{seen}");
    assert!(seen.lines().count() >= 5 && seen.contains(" web spawned: "), "{seen}");
    succeeds(&env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}
