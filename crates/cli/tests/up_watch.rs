//! Files whose change restarts a service, and everything that makes a watch lie: ignored files, editors, many files at once, directories that come
//! and go, watches that cannot be had.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails; one that cannot run says so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stayput_testkit::env::{TestEnv, Upped};
use stayput_testkit::load::{Expect, Plan};
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(port: u16, watch: &str) -> String {
    format!(
        "\
name = 'watched'
dashboard = false
[service.web]
command = 'python3 -m http.server --bind 127.0.0.1 {port}'
soak = '100ms'
drain = '500ms'
watch = {watch}
"
    )
}

/// A directory of the service's user, whose files it may change.
fn directory(env: &TestEnv, name: &str) -> PathBuf {
    let path = env.path("scratch").join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn write(directory: &Path, name: &str) {
    fs::write(directory.join(name), "changed").unwrap();
}

/// Waits for the next generation after this one, decided.
fn restarted(upped: &Upped<'_>, before: u64) -> u64 {
    wait::until("a restart", PATIENCE, || {
        let service = upped.service("web");
        let settled = service["state"] == "running" && service["generations"].as_array().is_some_and(|all| all.len() == 1);
        let now = upped.serving("web").0;
        if now > before && settled { Ok(now) } else { Err(service.to_string()) }
    })
    .unwrap()
}

fn changes(upped: &Upped<'_>) -> Vec<String> {
    upped.events_of("web", "files-changed").iter().map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

both_users! {
fn a_change_is_a_restart_that_loses_nothing_and_many_are_one(env) {
    let port = env.port();
    let src = directory(env, "src");
    let deep = directory(env, "src/deep");
    directory(env, "src/out");
    fs::write(src.join(".gitignore"), "*.log\n/out/\n").unwrap();
    let upped = env.up(&config(port, "{ files = ['src/**/*'], ignore = ['**/*.tmp'], debounce = '300ms' }"));
    let service = upped.service("web");
    assert_eq!(service["watch"]["directories"], 2, "{service}");
    assert!(service["detail"].as_str().unwrap().contains("; watching 2 directories"), "{service}");
    let (first, _) = upped.serving("web");
    let load = Plan::port(port).clients(2).duration(Duration::from_mins(1)).timeout(Duration::from_secs(5)).expect(Expect::AnyHttp).start().unwrap();

    // None of these counts; the one after them does, so they were seen before it.
    write(&src, "a.log");
    write(&src, "a.tmp");
    write(&src, ".a.py.swp");
    write(&src.join("out"), "built.js");
    write(&deep, "a.py");
    let second = restarted(&upped, first);
    assert_eq!(changes(&upped), ["src/deep/a.py changed: it is restarted"]);

    // As editors write, and as a checkout does: a hundred files, one restart.
    for number in 0..100 {
        write(&src, &format!("{number}.new"));
        fs::rename(src.join(format!("{number}.new")), src.join(format!("{number}.py"))).unwrap();
    }
    let third = restarted(&upped, second);
    assert_eq!(third, second + 1, "{:?}", changes(&upped));
    let told = changes(&upped);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("other files changed"), "{told:?}");
    load.stop().unwrap().assert_nothing_lost();

    // A directory that is new by now, with what was in it at once.
    let fresh = directory(env, "src/fresh/er");
    write(&fresh, "b.py");
    let fourth = restarted(&upped, third);
    wait::until_true("the new directories", PATIENCE, || upped.service("web")["watch"]["directories"] == 4).unwrap();
    write(&fresh, "c.py");
    let fifth = restarted(&upped, fourth);

    // No longer watched.
    upped.reload(&config(port, "[]"));
    assert!(upped.service("web")["watch"].is_null());
    write(&src, "d.py");
    upped.reload(&config(port, "['src/*.py']"));
    assert_eq!(upped.serving("web").0, fifth);
    assert_eq!(upped.service("web")["watch"]["directories"], 1);
    upped.down();
}

fn a_directory_that_goes_is_told_and_watched_again_when_it_is_back(env) {
    let port = env.port();
    let src = directory(env, "app/src");
    let upped = env.up(&config(port, "{ files = ['app/src/*.py'], debounce = '100ms' }"));
    let (first, _) = upped.serving("web");
    fs::rename(env.path("scratch").join("app"), env.path("scratch").join("away")).unwrap();
    let gone = upped.wait_event("web", "message");
    assert!(gone["text"].as_str().unwrap().ends_with("app/src is not there: its files are watched as soon as it is"), "{gone}");
    let standing = upped.service("web")["watch"].clone();
    assert_eq!(standing["directories"], 0, "{standing}");
    assert!(standing["problem"].as_str().unwrap().contains("app/src is not there"), "{standing}");
    // It comes back in steps, and is a change by itself once a file of it is there.
    directory(env, "app/src");
    wait::until_true("the watch", PATIENCE, || upped.service("web")["watch"]["directories"] == 1).unwrap();
    assert!(upped.service("web")["watch"]["problem"].is_null());
    write(&src, "a.py");
    let second = restarted(&upped, first);
    // A daemon that was started anew watches, too.
    let daemon = upped.part("daemon");
    stayput_testkit::process::signal(daemon, rustix::process::Signal::KILL);
    wait::until_true("the watch", PATIENCE, || {
        upped.part("daemon") != daemon && upped.service("web")["watch"]["directories"] == 1
    })
    .unwrap();
    write(&src, "b.py");
    restarted(&upped, second);
    upped.down();
}
fn a_watch_that_cannot_be_had_is_told_with_what_helps(env) {
    let port = env.port();
    for number in 0..6 {
        directory(env, &format!("src/{number}"));
    }
    env.file("stayput.toml", &config(port, "['src/**/*.py']"));
    // A user namespace has a limit of its own, which whoever made it may lower.
    let script = "echo 3 >/proc/sys/user/max_inotify_watches && exec \"$0\" up -d";
    let map = if env.user() == stayput_testkit::env::User::Root { "--map-root-user" } else { "--map-current-user" };
    let stayput = env.command::<&str>([]).get_program().to_owned();
    let mut command = env.as_user(Path::new("unshare"), ["--user", map, "--keep-caps", "sh", "-c", script]);
    let output = command.arg(stayput).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Operation not permitted") || said.contains("Permission denied") {
        println!("NOT RUN: no user namespace with limits of its own can be made here: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let upped = env.upped();
    let told = upped.wait_event("web", "message");
    let text = told["text"].as_str().unwrap();
    assert!(text.contains("directories cannot be watched") && text.contains("sysctl fs.inotify.max_user_watches="), "{text}");
    let standing = upped.service("web")["watch"].clone();
    assert!(standing["directories"].as_u64().unwrap() < 7 && standing["problem"].as_str().unwrap().contains("max_user_watches"), "{standing}");
    upped.down();
}
}
