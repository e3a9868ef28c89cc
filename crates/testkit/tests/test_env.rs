//! The test environment itself, with a stand-in for `stayput` that only executes its command: it must see what is left behind, and kill it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::{process, wait};

const PATIENCE: Duration = Duration::from_secs(10);

/// A directory with a `stayput` that executes what stands after `--`, and with `misbehave`.
fn stand_in() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let program = dir.path().join("stayput");
    std::fs::write(&program, "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n").expect("a script");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_misbehave")).arg(dir.path()).status().expect("cp");
    assert!(copied.success());
    (dir, program)
}

#[test]
fn a_clean_stop_leaves_nothing_and_says_so() {
    let (_dir, program) = stand_in();
    let env = TestEnv::new(program, User::Ordinary);
    let port = env.port();
    let running = env.run("web", &[], &env.misbehave("trivial", port));
    running.wait_answer(port);
    assert_eq!(env.left().len(), 1);
    assert!(!running.stop().success(), "ended by its signal");
    assert_eq!(env.left(), []);
}

#[test]
fn what_stop_leaves_behind_is_a_failure_and_is_killed() {
    for mode in ["stray", "grandchild-holds"] {
        let (_dir, program) = stand_in();
        let env = TestEnv::new(program, User::Ordinary);
        let port = env.port();
        let running = env.run("web", &[], &env.misbehave(mode, port));
        running.wait_answer(port);
        let stopped = catch_unwind(AssertUnwindSafe(|| running.stop()));
        assert!(stopped.is_err(), "{mode}: the stray process was overlooked");
        let left = env.left();
        assert_eq!(left.len(), 1, "{mode}: {left:?}");
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(env)));
        assert!(dropped.is_err(), "{mode}: dropping the environment must fail too");
        wait::until_true("its end", PATIENCE, || !process::is_alive(left[0].pid)).unwrap();
    }
}

#[test]
fn a_scrubbed_daemon_is_found_by_its_command_line() {
    let (_dir, program) = stand_in();
    let env = TestEnv::new(program, User::Ordinary);
    let port = env.port();
    let mut running = env.run("web", &[], &env.misbehave("scrub", port));
    running.wait_answer(port);
    running.wait_exit(PATIENCE);
    let left = env.left();
    assert!(left.len() == 1 && left[0].command.contains("worker serve"), "{left:?}");
    env.kill_left();
    assert_eq!(env.left(), []);
}

#[test]
fn a_failing_test_leaves_nothing() {
    let (_dir, program) = stand_in();
    let mut pid = 0;
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let env = TestEnv::new(program, User::Ordinary);
        let port = env.port();
        let running = env.run("web", &[], &env.misbehave("ignore-term", port));
        running.wait_answer(port);
        pid = running.pid();
        panic!("as a failing test does");
    }));
    assert!(failed.is_err());
    assert!(pid > 0);
    wait::until_true("its end", PATIENCE, || !process::is_alive(pid)).unwrap();
}

#[test]
fn the_users_are_who_they_should_be() {
    let own = rustix::process::geteuid().as_raw();
    for user in [User::Root, User::Ordinary] {
        if !user.is_possible() {
            println!("NOT RUN: {user:?} needs root");
            continue;
        }
        let (_dir, program) = stand_in();
        let env = TestEnv::new(program, user);
        let port = env.port();
        let running = env.run("web", &[], &env.misbehave("trivial", port));
        running.wait_answer(port);
        let uid = std::fs::metadata(format!("/proc/{}", running.pid())).unwrap().uid();
        assert_eq!(uid, if user == User::Ordinary && own == 0 { 65534 } else { own });
        process::signal(running.pid(), Signal::TERM);
        running.stop();
    }
}

#[test]
fn the_environment_is_hermetic() {
    let (_dir, program) = stand_in();
    let env = TestEnv::new(program, User::Ordinary);
    let port = env.port();
    let running = env.run("web", &[], &env.misbehave("environment", port));
    running.wait_answer(port);
    let all: serde_json::Value = serde_json::from_str(running.log().lines().next().unwrap()).unwrap();
    assert_eq!(all["XDG_RUNTIME_DIR"], env.path("run").display().to_string());
    assert!(all["CARGO"].is_null(), "{all}");
    running.stop();
}
