//! `stayput up` in the foreground of a terminal: coloured names, keys, and a terminal that is given back as it was.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use stayput_testkit::env::TestEnv;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal of its own, made by script(1): what is written to it stands in a file, what is typed comes from here.
struct Terminal {
    child: Child,
    drawn: PathBuf,
}

impl Terminal {
    /// Runs a command line of a shell in it.
    fn start(env: &TestEnv, line: &str) -> Self {
        let drawn = env.file("drawn", "");
        let stayput = env.command(["status"]).get_program().to_str().unwrap().to_owned();
        let line = format!("trap : INT; stty rows 24 cols 80; {}", line.replace("STAYPUT", &stayput));
        let child = env
            .as_user(Path::new("/usr/bin/script"), ["-qfec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::options().append(true).open(&drawn).unwrap())
            .spawn()
            .unwrap();
        Self { child, drawn }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.drawn).unwrap()).into_owned()
    }

    /// Waits until it stands there so many times.
    fn shows(&self, what: &str, times: usize) {
        wait::until(what, PATIENCE, || {
            let seen = self.seen();
            if seen.matches(what).count() >= times { Ok(()) } else { Err(seen) }
        })
        .unwrap_or_else(|why| panic!("{why}"));
    }

    fn types(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn ends(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let ended = wait::until("the end", PATIENCE, || child.try_wait().unwrap().ok_or_else(|| "runs".to_owned()));
        ended.unwrap_or_else(|why| panic!("{why}: {}", self.seen())).code()
    }
}

fn config(env: &TestEnv, grace: &str) {
    let server = |port: u16| format!("command = 'python3 -u -m http.server --bind 127.0.0.1 {port}'\nsoak = '100ms'\n{grace}");
    let text = format!("name = 'shop'\ndashboard = false\n[service.api]\n{}\n[service.web]\n{}", server(env.port()), server(env.port()));
    env.file("stayput.toml", &text);
}

both_users! {
fn keys_restart_and_quit_and_the_terminal_is_given_back(env) {
    config(env, "");
    let mut terminal = Terminal::start(env, "STAYPUT up; echo ended $?; stty -a | tr ' ' '\\n' | grep icanon");
    terminal.shows("keys: r restart", 1);
    terminal.shows("has the connections", 2);
    // One stable colour per service: output and messages alike, and api's is not web's.
    let seen = terminal.seen();
    let colour = |name: &str| {
        let at = seen.find(&format!("m{name}\u{1b}[0m]")).unwrap_or_else(|| panic!("{name} has no colour: {seen}"));
        seen[..at].rsplit('[').next().unwrap().to_owned()
    };
    assert_ne!(colour("api"), colour("web"));
    assert!(!seen.contains("[api]"), "{seen}");

    terminal.types("r");
    terminal.shows("restart which? 1 api, 2 web, a all; Enter: none > ", 1);
    terminal.types("web\n");
    terminal.shows("has the connections", 3);
    let generations = |name: &str| {
        let status = env.status().unwrap();
        let service = status["services"].as_array().unwrap().iter().find(|service| service["name"] == name).unwrap().clone();
        service["restarts"].as_u64().unwrap()
    };
    assert_eq!((generations("api"), generations("web")), (0, 1));
    terminal.types("r");
    terminal.shows("restart which?", 2);
    terminal.types("wbe\n");
    terminal.shows("there is no service wbe", 1);
    terminal.types("s");
    terminal.shows("NEW/OLD", 1);
    terminal.types("q");
    terminal.shows("ended 0", 1);
    assert_eq!(terminal.ends(), Some(0));
    let seen = terminal.seen();
    assert!(seen.trim_end().ends_with("\nicanon"), "{seen}");
    env.assert_nothing_left(PATIENCE);
}

fn a_second_ctrl_c_hurries(env) {
    // It does not heed the stop signal, and has all day.
    let port = env.port();
    let command: Vec<String> = env.misbehave("ignore-term", port);
    env.file("stayput.toml", &format!("name = 'shop'\ndashboard = false\n[service.web]\ncommand = {command:?}\nstop = {{ grace = '1h' }}\n"));
    let mut terminal = Terminal::start(env, "STAYPUT up; echo ended $?");
    terminal.shows("has the connections", 1);
    terminal.types("\u{3}");
    terminal.shows("SIGTERM sent to generation", 1);
    terminal.types("\u{3}");
    terminal.shows("SIGKILL", 1);
    terminal.ends();
    env.assert_nothing_left(PATIENCE);
}

fn keys_that_were_killed_leave_the_terminal_usable(env) {
    config(env, "");
    let mut terminal = Terminal::start(env, "STAYPUT up; stty -a | tr ' ' '\\n' | grep icanon");
    terminal.shows("keys: r restart", 1);
    let keys = env.left().into_iter().find(|process| process.command.contains("__keys")).expect("what reads the keys").pid;
    process::signal(keys, rustix::process::Signal::KILL);
    terminal.types("\u{3}");
    terminal.ends();
    let seen = terminal.seen();
    assert!(seen.trim_end().ends_with("\nicanon"), "{seen}");
    env.assert_nothing_left(PATIENCE);
}
}
