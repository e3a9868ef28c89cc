//! What services print is a stranger's text: it reaches a terminal, a status and a file without doing anything there, and costs bounded memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use stayput_testkit::env::TestEnv;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_mins(1);
/// What the daemon may grow by over any output.
const GROWTH_KIB: u64 = 64 * 1024;

/// Escape sequences that clear the screen, set a title, ring, answer, reverse the reading order, forge lines of ours; C1 as bytes and as UTF-8;
/// NUL; bytes that are no UTF-8; lone surrogates; a carriage return.
const HOSTILE: &str = r#"
import os, sys, time
lines = [
    b'\x1b[2J\x1b]0;owned\x07\x1b[6n', b'\x9b31m\xc2\x9b31m', b'\xe2\x80\xaereversed\xe2\x80\xa8next', b'a\x00b\x7f\x08\x08',
    b'\xff\xfe\xc3\x28\xed\xa0\x80 no utf-8', b'over\r[12:00:00] [WEB] forged', b'\x1bP$q"p\x1b\\', b'\xf0\x9f\x98', b'',
]
def hostile():
    for line in lines:
        os.write(1, line + b'\n')
        os.write(2, line + b'\n')
"#;

/// A control character that a terminal acts upon, or that reorders or hides text.
fn is_harmful(character: char) -> bool {
    (character.is_control() && character != '\n' && character != '\t')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}')
}

fn is_harmless(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what} is no UTF-8: {error}"));
    if let Some(at) = text.find(is_harmful) {
        let around: String = text[at..].chars().take(60).collect();
        panic!("{what}: {around:?}");
    }
}

/// A Python server that prints it all, listens, serves for ever; `dies`: instead it ends with status 1.
fn script(env: &TestEnv, name: &str, then: &str) -> String {
    let path = env.file(name, &format!("{HOSTILE}\nhostile()\n{then}\n"));
    format!("python3 {}", path.display())
}

fn serve(port: u16) -> String {
    format!("import http.server\nhttp.server.HTTPServer(('127.0.0.1', {port}), http.server.BaseHTTPRequestHandler).serve_forever()")
}

both_users! {
fn hostile_lines_do_nothing_to_a_terminal(env) {
    let (web, dies) = (script(env, "web.py", &serve(env.port())), script(env, "dies.py", "sys.exit(1)"));
    let config = format!("[service.web]\ncommand = '{web}'\nready = 'accept'\n[service.dies]\ncommand = '{dies}'\n");
    env.host_file(&config);
    // In front, as a person sees it.
    let shown = env.path("scratch/shown");
    let file = std::fs::File::create(&shown).unwrap();
    let mut up = env.command(["up"]).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
    wait::until("the lines of both", PATIENCE, || {
        let text = String::from_utf8_lossy(&std::fs::read(&shown).unwrap()).into_owned();
        if text.matches("forged").count() >= 6 { Ok(()) } else { Err(text) }
    })
    .unwrap();
    wait::until("a crash that is told with its last lines", PATIENCE, || {
        let status = env.status()?;
        let told = status["services"].as_array().into_iter().flatten().any(|service| service["restarts"].as_u64() >= Some(2));
        if told { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    is_harmless("up", &std::fs::read(&shown).unwrap());
    // Each line of a service is one line of ours, that begins as ours do.
    let text = String::from_utf8(std::fs::read(&shown).unwrap()).unwrap();
    assert!(text.lines().all(|line| !line.starts_with("[12:00:00]")), "{text}");
    for arguments in [
        &["status"][..], &["status", "--json"], &["logs"], &["logs", "--json"], &["events"], &["events", "--json"], &["restart", "dies"], &["metrics"],
    ] {
        let output = env.cli(arguments, PATIENCE);
        is_harmless(&format!("{arguments:?}"), &output.stdout);
        is_harmless(&format!("{arguments:?}, standard error"), &output.stderr);
    }
    // And nothing is lost: the bytes are in the files as they were written.
    let raw = env.cli(["logs", "web", "--stdout", "--raw"], PATIENCE).stdout;
    assert!(raw.windows(7).any(|window| window == b"\xff\xfe\xc3\x28\xed\xa0\x80"), "{raw:?}");
    assert_eq!(env.cli(["down"], PATIENCE).status.code(), Some(0));
    up.wait().unwrap();
    env.assert_nothing_left(PATIENCE);
}

fn a_line_of_a_hundred_megabytes_costs_bounded_memory_and_its_neighbour_nothing(env) {
    let (port, other, done) = (env.port(), env.port(), env.path("scratch/done"));
    let long = env.file("long.py", &format!("import os, threading\n\
        def write():\n    block = b'x' * 65536\n    for _ in range(1600):\n        left = block\n        while left: left = left[os.write(1, left):]\n    os.write(1, b'\\nafter it\\n')\n    \
        open('{}', 'w').close()\n\
        threading.Thread(target=write).start()\n{}", done.display(), serve(port)));
    let neighbour = format!("[service.other]\ncommand = {:?}\n", env.misbehave("trivial", other));
    let host = env.host(&neighbour);
    let baseline = process::rss_kib(host.part("daemon")).unwrap();
    host.down();
    let host = env.host(&format!("{neighbour}[service.long]\ncommand = 'python3 {}'\nready = {{ accept = true, timeout = '60s' }}\n", long.display()));
    let daemon = host.part("daemon");
    wait::until("the end of the line", PATIENCE, || {
        let rss = process::rss_kib(daemon).unwrap();
        assert!(rss < baseline + GROWTH_KIB, "{baseline} KiB became {rss} KiB");
        std::net::TcpStream::connect(("127.0.0.1", other)).unwrap();
        if done.exists() { Ok(()) } else { Err("it is still written".to_owned()) }
    })
    .unwrap();
    wait::until("the line after it", PATIENCE, || {
        let last = host.succeeds(&["logs", "long", "-n", "1"]);
        if last.contains("after it") { Ok(()) } else { Err(last.chars().take(100).collect()) }
    })
    .unwrap();
    // Shown in parts of bounded size; every byte is there.
    let raw = env.cli(["logs", "long", "--stdout", "--raw"], PATIENCE).stdout;
    let other = raw.iter().filter(|byte| **byte != b'x').count();
    assert_eq!((raw.len() - other, other < 100), (1600 * 65536, true), "{other} other bytes");
    let longest = host.succeeds(&["logs", "long", "-n", "5"]).lines().map(str::len).max().unwrap();
    assert!(longest < 1 << 20, "a line of {longest} bytes is shown");
    assert!(process::rss_kib(daemon).unwrap() < baseline + GROWTH_KIB);
    assert_eq!(host.status()["daemon_deaths"], 0);
    host.down();
}
}
