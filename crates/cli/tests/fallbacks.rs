//! Where binds cannot be caught: a filter above stayput has the one place of a listener, as in a nested stayput (`EBUSY`).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::load::Plan;
use stayput_testkit::server::Server;

const PATIENCE: Duration = Duration::from_secs(30);

/// Takes the place of the listener with a filter that catches nothing, leaves its descriptor open as standard input, and becomes stayput.
const BELOW: &str = r"#!/usr/bin/env python3
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack('@HP', 1, ctypes.addressof(allow)))
seccomp = {'x86_64': 317, 'aarch64': 277}[platform.machine()]
assert libc.prctl(38, 1, 0, 0, 0) == 0
listener = libc.syscall(seccomp, 1, 8, program)
assert listener >= 0, os.strerror(ctypes.get_errno())
os.dup2(listener, 0)
os.execv(REAL, sys.argv)
";

/// A directory with that program in the place of stayput.
fn below() -> (tempfile::TempDir, PathBuf) {
    let real = Path::new(env!("CARGO_BIN_EXE_stayput"));
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("stayput");
    std::fs::write(&program, BELOW.replace("REAL", &format!("{:?}", real.display().to_string()))).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink(real.with_file_name("misbehave"), place.path().join("misbehave")).unwrap();
    (place, program)
}

fn each_user(test: impl Fn(&TestEnv)) {
    let (_place, program) = below();
    for user in [User::Root, User::Ordinary].into_iter().filter(|user| user.is_possible()) {
        test(&TestEnv::new(&program, user));
    }
}

/// Restarts and a crash of a server that takes passed sockets, under load.
fn keeps_its_port(env: &TestEnv, server: Server) {
    let port = env.port();
    let options = ["--port", &format!("127.0.0.1:{port}"), "--soak", "300ms"];
    let mut running = env.run("web", &options, &env.server(server, port));
    running.wait_answer(port);
    let ready = running.wait_ready();
    assert!(ready.to_string().contains(r#""holding":"environment""#), "{ready:#}");
    let load = Plan::port(port).rate(100.0).start().unwrap();
    load.wait_ok(30, PATIENCE).unwrap();
    for _ in 0..2 {
        running.restart_well();
        load.wait_ok(30, PATIENCE).unwrap();
    }
    load.stop().unwrap().assert_nothing_lost();
    let crashing = Plan::port(port).clients(2).timeout(PATIENCE).start().unwrap();
    crashing.wait_ok(20, PATIENCE).unwrap();
    running.kill_service();
    crashing.wait_ok(20, PATIENCE).unwrap();
    let report = crashing.stop().unwrap();
    assert_eq!(report.counts.refused, 0, "{report:#?}");
    running.stop();
}

#[test]
fn gunicorn_takes_systemds_variables() {
    each_user(|env| keeps_its_port(env, Server::Gunicorn));
}

#[test]
fn flask_takes_werkzeugs_variable() {
    each_user(|env| keeps_its_port(env, Server::FlaskSocketIo));
}

/// Python's own server takes nothing: it fails once at a port that we have, and then runs by itself, and status says so.
#[test]
fn a_server_that_takes_nothing_runs_by_itself() {
    each_user(|env| {
        let port = env.port();
        let mut running = env.run("web", &["--port", &format!("127.0.0.1:{port}")], &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        let ready = running.wait_ready();
        assert!(ready.to_string().contains(r#""holding":"plain""#), "{ready:#}");
        running.stop();
    });
}
