//! Where something that stayput stands on is refused by a filter above it: the place of the listener is taken, as in a nested stayput (`EBUSY`);
//! `pidfd_getfd`, as by Docker's default profile; calls and flags that an older kernel does not know. Each time the next best means is used, and the
//! status says which.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::time::Duration;

use stayput_testkit::below::{self, EINVAL, ENOSYS, EPERM, without};
use stayput_testkit::env::TestEnv;
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

fn each_user(source: &str, test: impl Fn(&TestEnv)) {
    below::each_user(Path::new(env!("CARGO_BIN_EXE_stayput")), source, test);
}

fn keeps_its_port(env: &TestEnv, server: Server, holding: &str) {
    let port = env.port();
    below::keeps_its_port(env, &env.server(server, port), port, holding);
}

#[test]
fn gunicorn_takes_systemds_variables() {
    each_user(BELOW, |env| keeps_its_port(env, Server::Gunicorn, "environment"));
}

#[test]
fn flask_takes_werkzeugs_variable() {
    each_user(BELOW, |env| keeps_its_port(env, Server::FlaskSocketIo, "environment"));
}

/// Python's own server takes nothing: it fails once at a port that we have, and then runs by itself, and status says so.
#[test]
fn a_server_that_takes_nothing_runs_by_itself() {
    each_user(BELOW, |env| {
        let port = env.port();
        let mut running = env.run("web", &["--port", &format!("127.0.0.1:{port}")], &env.server(Server::HttpServer, port));
        running.wait_answer(port);
        let ready = running.wait_ready();
        assert!(ready.to_string().contains(r#""holding":"plain""#), "{ready:#}");
        running.stop();
    });
}

/// Docker's default profile on a recent kernel: everything but `pidfd_getfd` and `kcmp`.
#[test]
fn dockers_default_profile_leaves_the_swap() {
    let filter = without(&[("pidfd_getfd", None, EPERM), ("kcmp", None, EPERM)]);
    each_user(&filter, |env| {
        keeps_its_port(env, Server::HttpServer, "swap");
        keeps_its_port(env, Server::Node, "swap");
    });
}

/// The same and all of ptrace's kin: the address is then read from `/proc/PID/mem`.
#[test]
fn no_ptrace_call_at_all_leaves_the_swap() {
    let calls = ["pidfd_getfd", "kcmp", "ptrace", "process_vm_readv", "process_vm_writev"];
    each_user(&without(&calls.map(|call| (call, None, EPERM))), |env| keeps_its_port(env, Server::Go, "swap"));
}

/// What Linux 5.9 lacks: `WAIT_KILLABLE_RECV` (bit 5 of the flags); and a kernel without `pidfd_getfd` and `close_range`.
#[test]
fn an_older_kernel_leaves_the_swap() {
    let filter = without(&[
        ("pidfd_getfd", None, ENOSYS),
        ("close_range", None, ENOSYS),
        ("kcmp", None, ENOSYS),
        ("seccomp", Some((1, 1 << 5)), EINVAL),
    ]);
    each_user(&filter, |env| keeps_its_port(env, Server::Gunicorn, "swap"));
}

/// Without `WAIT_KILLABLE_RECV` alone all is as ever.
#[test]
fn without_killable_waits_sockets_are_adopted() {
    each_user(&without(&[("seccomp", Some((1, 1 << 5)), EINVAL)]), |env| keeps_its_port(env, Server::HttpServer, "adopt"));
}

/// Before Linux 5.0 a filter has no listener (bit 3 of the flags).
#[test]
fn without_notifications_sockets_are_passed() {
    each_user(&without(&[("seccomp", Some((1, 1 << 3)), EINVAL)]), |env| keeps_its_port(env, Server::Gunicorn, "environment"));
}

/// Soft and hard limit of open files, as the kernel keeps them.
fn open_files(pid: u32) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

/// The keeper takes as many descriptors as it may have; a service gets what it would have had.
#[test]
fn a_raised_limit_of_open_files_is_given_back() {
    each_user("#!/bin/sh\nulimit -Sn 300\nulimit -Hn 4000\nexec REAL \"$@\"\n", |env| {
        let mut running = env.run("web", &[], &env.misbehave("trivial", env.port()));
        let pid = running.ready_pid();
        let of = |soft: &str, hard: &str| (soft.to_owned(), hard.to_owned());
        assert_eq!(open_files(pid), of("300", "4000"));
        assert_eq!(open_files(running.part("keeper")), of("4000", "4000"));
        running.stop();
    });
}

/// The keeper's own descriptors are open in its child until the command is executed: more of them than the command may have are no hindrance.
#[test]
fn many_services_are_held_although_each_may_open_few_files() {
    each_user("#!/bin/sh\nulimit -Sn 64\nulimit -Hn 4000\nexec REAL \"$@\"\n", |env| {
        let names: Vec<String> = (0..40).map(|number| format!("s{number:02}")).collect();
        let services: Vec<String> = names.iter().map(|name| format!("[service.{name}]\ncommand = ['sleep', '1000']\n")).collect();
        let up = env.up(&format!("dashboard = false\n{}", services.concat()));
        for name in &names {
            let service = up.wait_for(name, "a command that runs", |service| {
                service["generations"][0]["trap"].as_str().is_some_and(|trap| !trap.contains("does not run yet"))
            });
            let generation = &service["generations"][0];
            let pid = u32::try_from(generation["pid"].as_u64().unwrap()).unwrap();
            assert_eq!((generation["trap"].as_str(), open_files(pid).0.as_str()), (Some("active"), "64"), "{service}");
        }
        up.down();
    });
}

#[test]
fn too_few_descriptors_are_named_before_anything_starts() {
    each_user("#!/bin/sh\nulimit -n 40\nexec REAL \"$@\"\n", |env| {
        let output = env.cli(["run", "--", "true"], PATIENCE);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.starts_with("error: at most 40 files may be open here (RLIMIT_NOFILE)") && said.contains("hint: ulimit -n 1024"),
            "{said}"
        );
    });
}
