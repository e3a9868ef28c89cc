//! A stop that takes its configured steps, one after the other, as long as something is left of the service.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use stayput_testkit::env::{TestEnv, Upped};
use stayput_testkit::{both_users, process};

/// Writes down each signal, and ends at the one that is named. Its child takes none to heart but SIGKILL.
const SERVER: &str = "\
import os, signal, subprocess, sys, time
names = ['INT', 'TERM', 'QUIT']
def note(number, frame):
    name = signal.Signals(number).name[3:]
    with open(sys.argv[1], 'a') as notes:
        notes.write(name + '\\n')
    if name == sys.argv[2]:
        os._exit(0)
for name in names:
    signal.signal(getattr(signal, 'SIG' + name), signal.SIG_IGN)
child = subprocess.Popen(['sleep', '300'])
for name in names:
    signal.signal(getattr(signal, 'SIG' + name), note)
with open(sys.argv[3], 'w') as file:
    file.write(str(child.pid))
print('up', flush=True)
while True:
    time.sleep(60)
";

fn config(ends_at: &str, wait: &str) -> String {
    format!(
        "\
name = 'steps'
dashboard = false
[service.worker]
command = 'python3 server.py notes {ends_at} child'
ready = 'log:^up$'
stop = [{{ signal = 'INT', wait = '{wait}' }}, {{ signal = 'TERM', wait = '{wait}' }}, {{ signal = 'QUIT', wait = '{wait}' }}]
"
    )
}

fn started<'env>(env: &'env TestEnv, config: &str) -> (Upped<'env>, u32) {
    env.file("server.py", SERVER);
    let upped = env.up(config);
    let child = std::fs::read_to_string(env.path("scratch").join("child")).unwrap();
    (upped, child.parse().unwrap())
}

fn notes(env: &TestEnv) -> String {
    std::fs::read_to_string(env.path("scratch").join("notes")).unwrap_or_default()
}

both_users! {
fn each_signal_is_tried_before_the_kill_of_the_whole_tree(env) {
    let (upped, child) = started(env, &config("nothing", "200ms"));
    upped.down();
    assert_eq!(notes(env), "INT\nTERM\nQUIT\n");
    assert!(!process::is_alive(child), "the child ignores every signal of the steps");
}

fn no_further_step_is_taken_when_nothing_is_left(env) {
    let (upped, child) = started(env, &config("TERM", "500ms"));
    process::signal(child, rustix::process::Signal::KILL);
    upped.succeeds(&["stop", "worker"]);
    assert_eq!(notes(env), "INT\nTERM\n");
    let signals: Vec<_> = upped.events_of("worker", "stop-signal").iter().map(|event| event["data"]["signal"].clone()).collect();
    assert_eq!(signals, [2, 15]);
    assert!(upped.events_of("worker", "killed").is_empty());
    upped.down();
}
}
