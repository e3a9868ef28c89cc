//! `stayput status` as a person reads it: a table that fits, everything of each service if asked for, and live on a terminal.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use stayput_testkit::env::TestEnv;
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn says(env: &TestEnv, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = env.cli(arguments, PATIENCE);
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

both_users! {
fn several_services_are_a_table_that_fits_and_is_live_on_a_terminal(env) {
    let (api, web) = (env.port(), env.port());
    let server = |port: u16| format!("command = 'python3 -m http.server --bind 127.0.0.1 {port}'\n");
    env.file("stayput.toml", &format!("name = 'shop'\ndashboard = false\n[service.api]\n{}[service.web]\n{}", server(api), server(web)));
    assert_eq!(says(env, &["up", "-d"]).0, Some(0));

    let (code, out, _) = says(env, &["status"]);
    assert_eq!(code, Some(0));
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let row = |name: &str| out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {out}")).to_owned();
    for part in ["running", "yyyy", &format!("127.0.0.1:{web}")] {
        assert!(row("web").contains(part), "{part}: {out}");
    }
    let (_, long, _) = says(env, &["status", "--long"]);
    assert!(long.contains("LISTENER") && long.contains("web: on probation") | long.contains("web: ready"), "{long}");

    let (code, out, err) = says(env, &["status", "--watch"]);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("standard output is none"), "{err}");

    // A terminal that takes text alone gets text alone.
    let program = env.command(["status"]).get_program().to_str().unwrap().to_owned();
    let dumb = |arguments: &str| {
        let mut command = env.as_user(std::path::Path::new("/usr/bin/script"), ["-qec", &format!("{program} {arguments}"), "/dev/null"]);
        let output = command.env("TERM", "dumb").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = dumb("status --watch");
    assert!(code == Some(2) && said.contains("TERM is dumb") && !said.contains('\u{1b}'), "{code:?} {said:?}");
    let (code, said) = dumb("status");
    assert!(code == Some(0) && said.contains("web ") && !said.contains('\u{1b}'), "{code:?} {said:?}");

    // script(1) makes the terminal; what is drawn on it goes to its standard output.
    let drawn = env.file("drawn", "");
    let stayput = env.command(["status"]).get_program().to_str().unwrap().to_owned();
    let mut watched = env
        .as_user(std::path::Path::new("/usr/bin/script"), ["-qfec", &format!("stty rows 24 cols 80; {stayput} status --watch; stty -a | grep -c -- -icanon"), "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::options().write(true).open(&drawn).unwrap())
        .spawn()
        .unwrap();
    let seen = || String::from_utf8_lossy(&std::fs::read(&drawn).unwrap()).into_owned();
    let shows = |what: &str| {
        wait::until(what, PATIENCE, || { let seen = seen(); if seen.contains(what) { Ok(()) } else { Err(seen) } }).unwrap_or_else(|why| panic!("{why}"));
    };
    shows("web ");
    assert!(!seen().contains("stopped"), "{}", seen());
    assert_eq!(says(env, &["stop", "web"]).0, Some(0));
    shows("stopped");
    watched.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let ended = wait::until("the end of --watch", PATIENCE, || watched.try_wait().unwrap().ok_or_else(seen)).unwrap();
    assert_eq!(ended.code(), Some(1), "grep counts no terminal that reads key by key: {}", seen());
    let rest = seen();
    assert!(rest.trim_end().ends_with("\u{1b}[?25h\u{1b}[?1049l0"), "the cursor and the screen are given back: {rest:?}");
    assert_eq!(says(env, &["down"]).0, Some(0));
    env.assert_nothing_left(PATIENCE);
}
}
