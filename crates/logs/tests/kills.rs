//! A writer that is killed (SIGKILL) again and again under a flood loses no line and doubles none.
//!
//! Without a harness: the process that is killed is this program, started with an argument.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "it is its own harness")]

use stayput_logs::{Bell, Item, Limits, Policy, Pump, PumpEvent, Query, Reader, Store, Stream, Track};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const KILLS: u64 = 60;
/// Bytes between two kills, about.
const STEP: u64 = 150_000;
const DEADLINE: Duration = Duration::from_mins(2);
const TRACK: Track = Track { run: 7, generation: 3, stream: Stream::Stdout };

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "pump") {
        Some(at) => pump(Path::new(&arguments[at + 1])),
        None if arguments.iter().any(|argument| argument == "--list") => println!("kills: test"),
        None => no_line_is_lost_or_doubled(),
    }
}

/// The process that is killed: moves its standard input into segments until it ends.
fn pump(path: &Path) {
    let store = Arc::new(Store::create(path).unwrap());
    let (ended, over) = std::sync::mpsc::channel();
    let tell = move |event| {
        if matches!(event, PumpEvent::Ended(..)) {
            ended.send(()).unwrap();
        }
    };
    let mut pump = Pump::start(store, Bell::default(), tell).unwrap();
    let pipe = rustix::io::dup(std::io::stdin()).unwrap();
    let limits = Limits { max_size: 1 << 40, max_age: None };
    pump.attach("web", TRACK, pipe, Policy { limits, segment: 256 * 1024, block: false, compress: false }).unwrap();
    over.recv().unwrap();
}

fn no_line_is_lost_or_doubled() {
    let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
    let path = directory.path().join("logs");
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flood = std::thread::spawn(move || {
        let mut number = 0_u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            // Lines of many lengths, so that pages of the pipe are full and half full.
            let line = format!("{number} {}\n", "x".repeat(usize::try_from(number * 7919 % 211).unwrap()));
            writer.write_all(line.as_bytes()).unwrap();
            number += 1;
        }
        number
    });
    let begin = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("pump").arg(&path).stdin(Stdio::from(reader.try_clone().unwrap())).spawn().unwrap()
    };
    let started = Instant::now();
    let mut child = begin();
    for kill in 1..=KILLS {
        // Somewhere in the middle: not at a full turn, and each time elsewhere.
        let target = kill * STEP + kill * 7919 % 4096;
        while written(&path) < target {
            assert!(started.elapsed() < DEADLINE, "{} of {target} bytes are written after {kill} kills", written(&path));
            assert!(child.try_wait().unwrap().is_none(), "the pump ended by itself");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        child = begin();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let count = flood.join().unwrap();
    assert!(child.wait().unwrap().success());

    let mut reader = Reader::new(Arc::new(Store::open(&path).unwrap()), Query::default()).unwrap();
    let (mut expected, mut last) = (0, 0);
    while let Some(item) = reader.next_item().unwrap() {
        let Item::Line(line) = item else { panic!("{item:?}") };
        let text = line.text();
        let (number, rest) = text.split_once(' ').unwrap();
        assert_eq!(number.parse(), Ok(expected), "line {expected} is lost, doubled or torn: {text:?}");
        assert_eq!(rest.len() as u64, expected * 7919 % 211, "line {expected} is torn");
        assert!(line.at >= last, "time goes back at line {expected}");
        last = line.at;
        expected += 1;
    }
    assert_eq!(expected, count);
    println!("{KILLS} kills, {count} lines, each there once; {:.1} s", started.elapsed().as_secs_f64());
}

/// Bytes in raw segments.
fn written(path: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(path.join("web")) else { return 0 };
    let logs = files.map(Result::unwrap).filter(|file| file.path().extension().is_some_and(|ending| ending == "log"));
    logs.map(|file| file.metadata().unwrap().len()).sum()
}
