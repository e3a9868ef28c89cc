//! `stayput doctor`: true here, and true when a system call is taken away (P7). Faults are injected with strace.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails; one that cannot run says so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stayput_testkit::assets;
use stayput_testkit::both_users;
use stayput_testkit::env::TestEnv;

const DEADLINE: Duration = Duration::from_secs(30);

/// Process id, exit status and document.
fn report(mut command: Command) -> (u32, i32, Value) {
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < DEADLINE, "doctor took {:?}", begun.elapsed());
    let text = String::from_utf8(output.stdout).unwrap();
    let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?} {:?}", output.stderr));
    (pid, output.status.code().unwrap(), document)
}

fn finding<'document>(document: &'document Value, id: &str) -> &'document Value {
    document["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("no finding {id}"))
}

fn standing(document: &Value, promise: &str) -> String {
    let promises = document["promises"].as_array().unwrap();
    promises.iter().find(|one| one["promise"] == promise).unwrap()["standing"].as_str().unwrap().to_owned()
}

/// The cgroup directories below ours that a doctor with this pid made.
fn cgroups_of(pid: u32) -> Vec<PathBuf> {
    let name = format!("stayput-doctor-{pid}");
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy() == name {
                    found.push(entry.path());
                }
                waiting.push(entry.path());
            }
        }
    }
    found
}

both_users! {
    fn it_is_consistent_and_leaves_nothing(env) {
        let (pid, code, document) = report(env.command(["doctor", "--json"]));
        assert_eq!(document["version"], 1);
        assert_eq!(code == 0, document["keeps_all"].as_bool().unwrap(), "{document}");
        let kept = document["promises"].as_array().unwrap().iter().all(|promise| promise["standing"] == "kept");
        assert_eq!(kept, document["keeps_all"].as_bool().unwrap());
        assert_eq!(document["promises"].as_array().unwrap().len(), 7);
        for finding in document["findings"].as_array().unwrap() {
            let takes = !finding["promises"].as_object().unwrap().is_empty();
            assert!(!takes || finding["level"] != "ok", "{finding}");
            assert!(!takes || !finding["meaning"].as_str().unwrap().is_empty(), "{finding}");
        }
        // The tests of this project need these anyhow: a doctor that denied them here would be wrong.
        for id in ["clone", "itself", "trap", "duplicate", "read", "replace", "steering", "listing", "release", "see", "signal", "subreaper"] {
            assert_eq!(finding(&document, id)["level"], "ok", "{}", finding(&document, id));
        }
        assert!(env.left().is_empty(), "{:?}", env.left());
        assert_eq!(cgroups_of(pid), Vec::<PathBuf>::new());
    }

    fn words_fit_the_terminal(env) {
        let output = env.command(["doctor"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("This host keeps all seven promises.\n") || text.starts_with("Here P"), "{text}");
        for line in text.lines().filter(|line| !line.contains("to improve: ")) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(!text.contains('\u{1b}'), "colours into a pipe: {text}");
    }

    fn each_call_that_is_taken_away_is_told_with_its_promise(env) {
        let Some(strace) = assets::find_program("strace") else {
            println!("NOT RUN: faults need strace (cargo xtask setup installs it)");
            return;
        };
        // What is taken away, the finding that must say so, and what it takes.
        let faults = [
            ("seccomp:error=EINVAL", "trap", &["P1", "P2", "P3", "P4"][..]),
            ("seccomp:error=EBUSY", "trap", &["P1", "P2", "P3", "P4"]),
            ("pidfd_getfd:error=EPERM", "duplicate", &["P1", "P2"]),
            ("clone:error=EPERM", "clone", &["P1", "P2", "P3", "P4", "P5"]),
            // Only this path: strace itself starts the program by another.
            ("execve:error=ENOENT -P /proc/self/exe", "itself", &["P1", "P2", "P3", "P4", "P5"]),
            ("setsockopt:error=ENOPROTOOPT", "steering", &["P1", "P2", "P3"]),
            ("setsockopt:error=ENOPROTOOPT", "muting", &["P2", "P3"]),
            ("sendto:error=EPERM", "listing", &["P2", "P4"]),
            ("pidfd_open:error=ENOSYS", "duplicate", &["P1", "P2"]),
            ("pidfd_send_signal:error=EPERM", "signal", &["P2", "P5"]),
            ("prctl:error=EINVAL", "subreaper", &["P5"]),
            ("close_range:error=ENOSYS", "close_range", &[]),
            // Container runtimes refuse these; there is another way.
            ("clone3:error=ENOSYS", "clone", &[]),
            ("process_vm_readv:error=EPERM", "read", &[]),
        ];
        for (fault, id, promises) in faults {
            let document = under(env, &strace, fault);
            let told = finding(&document, id);
            let taken: Vec<&String> = told["promises"].as_object().unwrap().keys().collect();
            assert_eq!(taken, promises, "{fault}: {told}");
            for promise in promises {
                assert_ne!(standing(&document, promise), "kept", "{fault}: {document}");
            }
            let goes_on = ["clone3", "process_vm_readv"].iter().any(|call| fault.starts_with(call));
            assert_eq!(told["level"] == "ok", goes_on, "{fault}: {told}");
        }
    }
}

/// The report under a fault.
fn under(env: &TestEnv, strace: &Path, fault: &str) -> Value {
    let stayput = env.command(["doctor"]).get_program().to_owned();
    let inject = format!("inject={fault}");
    let options = ["-f", "-qq", "-o", "/dev/null", "-e"].into_iter().chain(inject.split(' '));
    let mut all: Vec<&std::ffi::OsStr> = options.map(std::ffi::OsStr::new).collect();
    all.push(&stayput);
    all.extend(["doctor", "--json"].map(std::ffi::OsStr::new));
    report(env.as_user(strace, all)).2
}

#[test]
fn bad_input_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_stayput")).args(["doctor", "--jsno"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}
