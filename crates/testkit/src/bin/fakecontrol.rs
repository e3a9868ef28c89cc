//! `fakecontrol SOCKET SCENE`: a control server without an instance, for the browser tests. It is played with on standard input, one JSON
//! document a line, and answers each with a line; it ends with its input.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for tests, which read what it prints")]

use std::io::BufRead as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use stayput_testkit::fake_control::{FakeControl, Scene};
use stayput_wire::{Level, Stream};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Play {
    /// Plays a restart while the input goes on.
    Restart { service: String },
    /// Plays a restart that fails.
    Fail { service: String },
    /// Events, so many.
    Records { count: u32 },
    /// Lines of one service, so many a second.
    Lines { service: String, count: u32, per_second: u32, text: Option<String> },
    /// The daemon goes away.
    Away {},
    /// Another one is there.
    Back {},
    /// What was asked of it that was no question.
    Requests {},
    /// Renames what is there: a change of every service.
    Touch {},
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, scene] = arguments.as_slice() else {
        eprintln!("usage: fakecontrol SOCKET empty|ten|thousand|hostile");
        return ExitCode::from(2);
    };
    let Some(scene) = Scene::named(scene) else {
        eprintln!("error: no scene {scene:?}");
        return ExitCode::from(2);
    };
    let fake = match FakeControl::start(Path::new(socket), scene) {
        Ok(fake) => fake,
        Err(error) => {
            eprintln!("error: {socket}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", json!({ "ok": "listening" }));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(play) => println!("{}", json!({ "ok": act(&fake, play) })),
            Err(error) => println!("{}", json!({ "error": error.to_string() })),
        }
    }
    ExitCode::SUCCESS
}

fn act(fake: &FakeControl, play: Play) -> serde_json::Value {
    match play {
        Play::Restart { service } => {
            let fake = fake.clone();
            std::thread::spawn(move || fake.restart(&service));
        }
        Play::Fail { service } => return json!(fake.fail(&service).is_some()),
        Play::Records { count } => {
            for number in 0..count {
                fake.record(Some("web"), "noted", Level::Info, Some(8), &format!("note {number}"), json!({ "number": number }));
            }
        }
        Play::Lines { service, count, per_second, text } => {
            let fake = fake.clone();
            let pause = Duration::from_secs(1) / per_second.max(1);
            std::thread::spawn(move || {
                let begun = std::time::Instant::now();
                for number in 0..count {
                    let text = text.clone().unwrap_or_else(|| "INFO a line like many others".to_owned());
                    fake.line(&service, 8, Stream::Stdout, &format!("{text} #{number}"));
                    // A rate, not a wait for something: the lines are to come evenly.
                    std::thread::sleep((pause * (number + 1)).saturating_sub(begun.elapsed()));
                }
            });
        }
        Play::Away {} => fake.away(),
        Play::Back {} => fake.back(),
        Play::Requests {} => return json!(fake.requests()),
        Play::Touch {} => fake.change(|status| status.services.iter_mut().for_each(|service| service.detail.push('.'))),
    }
    serde_json::Value::Null
}
