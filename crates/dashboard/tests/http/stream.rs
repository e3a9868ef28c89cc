//! The live stream: who comes back misses nothing, or is told so.

use crate::common::{SentEvent, serve};
use serde_json::json;
use stayput_testkit::fake_control::{FakeControl, Scene};
use stayput_wire::Level;

fn happen(fake: &FakeControl, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| fake.record(Some("web"), "noted", Level::Info, None, &format!("note {number}"), json!({})).to_string())
        .collect()
}

const OURS: (&str, &str) = ("X-Stayput", "1");

fn since(cursor: &str) -> String {
    format!("/api/v1/stream?since={cursor}")
}

#[test]
fn it_begins_with_a_greeting_and_the_whole_picture() {
    let served = serve(Scene::Ten, |_| ());
    let mut stream = served.follow("/api/v1/stream", &[OURS]);
    let hello = stream.next().unwrap();
    assert_eq!((hello.name.as_str(), &hello.data["instance"], &hello.data["role"]), ("hello", &json!("shop"), &json!("view")));
    let status = stream.until("status").data;
    assert_eq!(status["full"], true);
    assert_eq!(status["services"].as_array().unwrap().len(), 11);
    // A change comes as a difference, without waiting for the next second.
    served.fake.service("web", |service| service.restarts += 1);
    happen(&served.fake, 1);
    let record = stream.until("record");
    assert!(record.id.is_some());
    let changed = loop {
        let status = stream.until("status").data;
        if status["services"].as_array().is_some_and(|services| !services.is_empty()) {
            break status;
        }
    };
    assert_eq!(changed["full"], false);
    assert_eq!(changed["services"][0]["name"], "web");
}

#[test]
fn a_break_loses_nothing_however_long_the_ring_is() {
    let served = serve(Scene::Ten, |_| ());
    for missed in [1, 100, 511, 512, 513, 2000] {
        let mut stream = served.follow("/api/v1/stream", &[OURS]);
        stream.until("hello");
        let last = happen(&served.fake, 1).remove(0);
        assert_eq!(stream.ids(1)[0], last);
        drop(stream);
        let expected = happen(&served.fake, missed);
        let mut stream = served.follow(&since(&last), &[OURS]);
        assert_eq!(stream.ids(missed), expected, "after {missed}");
        let next = happen(&served.fake, 3);
        assert_eq!(stream.ids(3), next, "nothing twice, and it goes on");
        let mut stream = served.follow("/api/v1/stream", &[OURS, ("Last-Event-ID", &next[0])]);
        assert_eq!(stream.ids(2), next[1..]);
    }
}

#[test]
fn a_client_that_reads_slowly_gets_everything_and_keeps_nobody_waiting() {
    let served = serve(Scene::Ten, |_| ());
    let mut slow = served.follow("/api/v1/stream", &[OURS]);
    slow.until("hello");
    let mut quick = served.follow("/api/v1/stream", &[OURS]);
    quick.until("hello");
    // The very first pictures may come late; both have subscribed by their first record.
    let first = happen(&served.fake, 1);
    assert_eq!((slow.ids(1), quick.ids(1)), (first.clone(), first));
    let expected = happen(&served.fake, 3500);
    assert_eq!(quick.ids(3500), expected, "while the other one does not read");
    assert_eq!(slow.ids(3500), expected, "when it reads at last");
}

#[test]
fn a_daemon_that_goes_away_is_told_and_its_successor_resets() {
    let served = serve(Scene::Ten, |_| ());
    let mut stream = served.follow("/api/v1/stream", &[OURS]);
    stream.until("hello");
    let last = happen(&served.fake, 1).remove(0);
    stream.ids(1);
    served.fake.away();
    let down: SentEvent = stream.until("upstream");
    assert_eq!(down.data["state"], "down");
    assert!(!down.data["why"].as_str().unwrap().is_empty());
    served.fake.back();
    let after = happen(&served.fake, 2);
    assert_eq!(stream.until("upstream").data["state"], "up");
    assert_eq!(stream.ids(2), after);
    // Who comes back with a number of the daemon that is gone is told that it is.
    let mut late = served.follow(&since(&last), &[OURS]);
    late.until("reset");
    assert_eq!(late.ids(2), after);
}

#[test]
fn many_that_come_back_at_once_each_get_what_they_missed() {
    let served = serve(Scene::Ten, |_| ());
    let cursors = happen(&served.fake, 1600);
    // From before what the dashboard itself keeps, from within it, and from a moment ago.
    let mut streams: Vec<_> = (0..150)
        .map(|number| {
            let from = [100, 1500, 1590][number % 3];
            (from, served.follow(&since(&cursors[from]), &[OURS]))
        })
        .collect();
    let next = happen(&served.fake, 5);
    for (from, stream) in &mut streams {
        let expected: Vec<&String> = cursors[*from + 1..].iter().chain(&next).collect();
        assert_eq!(stream.ids(expected.len()).iter().collect::<Vec<_>>(), expected, "from {from}");
    }
}

#[test]
fn wrong_cursors_are_refused() {
    let served = serve(Scene::Ten, |_| ());
    for wrong in ["x", "1-", "5eed-1%0d%0a", "-1--1"] {
        assert_eq!(served.look(&since(wrong)).status, 400, "{wrong}");
    }
    assert_eq!(served.get("/api/v1/stream", &[OURS, ("Last-Event-ID", "yesterday")]).status, 400);
    assert_eq!(served.look("/api/v1/stream?from=1").status, 400, "an unknown parameter");
}

#[test]
fn an_operation_is_told_from_its_beginning_to_its_end() {
    let served = serve(Scene::Ten, |_| ());
    let mut stream = served.follow("/api/v1/stream", &[OURS]);
    stream.until("hello");
    let (name, value) = served.bearer();
    let headers = [OURS, ("Content-Type", "application/json"), (name, value.as_str()), ("Idempotency-Key", "k-1")];
    let begun = served.post("/api/v1/services/web/restart", &headers, "{}");
    assert_eq!(begun.status, 202);
    let id = begun.json()["id"].clone();
    assert_eq!(served.post("/api/v1/services/web/restart", &headers, "{}").json()["id"], id, "the same key is the same operation");
    let odd = [OURS, ("Content-Type", "application/json"), (name, value.as_str()), ("Idempotency-Key", "no spaces")];
    assert_eq!(served.post("/api/v1/services/web/restart", &odd, "{}").status, 400);
    assert_eq!(stream.until("operation").data["state"], "running");
    let done = stream.until("operation").data;
    assert_eq!((&done["id"], &done["state"]), (&id, &json!("done")));
    assert_eq!(served.fake.requests().len(), 1);
    let kept = served.look(&format!("/api/v1/operations/{}", id.as_str().unwrap())).json();
    assert_eq!(kept["state"], "done");
    assert_eq!(served.act("/api/v1/services/nobody/restart", "{}").status, 202);
    assert_eq!(stream.until("operation").data["state"], "running");
    let refused = stream.until("operation").data;
    assert_eq!(refused["state"], "refused");
    assert!(refused["message"].as_str().unwrap().contains("nobody"));
}

#[test]
fn log_lines_come_in_pieces_and_go_on() {
    let served = serve(Scene::Ten, |_| ());
    let mut stream = served.follow("/api/v1/logs/stream?services=web&lines=3", &[OURS]);
    let lines = stream.until("lines").data;
    assert_eq!(lines.as_array().unwrap().len(), 3);
    served.fake.line("web", 8, stayput_wire::Stream::Stderr, "\u{1b}[31mERROR\u{1b}[0m <b>no</b>");
    let line = &stream.until("lines").data[0];
    assert_eq!(line["x"], json!([["ERROR", "f1"], [" <b>no</b>", ""]]));
    assert_eq!((&line["l"], &line["o"], &line["s"]), (&json!("error"), &json!("err"), &json!("web")));
    let answer = served.look("/api/v1/logs?services=mail&stream=stderr&lines=5").json();
    assert!(answer["lines"].as_array().unwrap().iter().all(|line| line["s"] == "mail" && line["o"] == "err"));
}

#[test]
fn a_base_path_moves_everything() {
    let served = serve_below();
    assert_eq!(served.get("/ops/", &[]).status, 200);
    assert!(served.get("/ops/s/web", &[]).body.contains("<base href=\"/ops/\">"));
    assert_eq!(served.get("/ops/app.js", &[]).status, 200);
    assert_eq!(served.look("/ops/api/v1/me").status, 200);
    for path in ["/", "/app.js", "/api/v1/me", "/opsapp.js"] {
        assert_eq!(served.look(path).status, 404, "{path}");
    }
}

fn serve_below() -> crate::common::Served {
    // `serve` waits for /readyz at the root, which is not there below a base path.
    crate::common::serve_at(Scene::Ten, "/ops")
}
