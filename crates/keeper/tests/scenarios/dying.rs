//! Deaths of our own processes, and the ends of others.

use crate::brain::{Brain, DEADLINE, answer, answers, brain_of_headless, executed, free_address, kill, refuse, service_user};
use stayput_keeper::protocol::{Event, ExecStage, ExitStatus, GenerationId, Origin, Request, Scope, Trap};
use std::process::Command;
use std::time::Instant;

/// Killing the keeper, twice, costs nothing: not the port, not the exit status, not the next restart.
pub(crate) fn keeper_killed(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let pid = brain.serve(1, address);
    brain.listening(1);
    for _ in 0..2 {
        let keeper = brain.look().keeper_pid;
        kill(keeper);
        assert_eq!(answers(address, 20), ["1"]);
        assert_ne!(brain.look().keeper_pid, keeper);
    }
    brain.serve(2, address);
    assert!(!brain.listening(2).selected);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(address, 50), ["2"]);
    kill(pid);
    assert_eq!(brain.main_exited(1), ExitStatus::Signalled(9), "the guard reaped it");
    brain.tree_empty(1);
    assert_eq!(brain.look().generations.iter().filter(|generation| generation.exit.is_none()).count(), 1, "and it answers still");
}

/// Killing the guard: the keeper takes its place.
pub(crate) fn guard_killed(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    let before = brain.look();
    kill(before.guard_pid);
    assert_eq!(answers(address, 20), ["1"]);
    let deadline = Instant::now() + DEADLINE;
    while brain.look().guard_pid == before.guard_pid {
        assert!(Instant::now() < deadline, "nobody took the guard's place");
    }
    assert_eq!(brain.look().guard_pid, before.keeper_pid);
    brain.serve(2, address);
    brain.listening(2);
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    assert_eq!(answers(address, 20), ["2"]);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: Scope::Main });
    brain.main_exited(1);
    brain.tree_empty(1);
}

/// A child has 0, 1 and 2, whatever we had open.
pub(crate) fn no_leaks(brain: &mut Brain, _host: &str) {
    brain.spawn(1, &["python3", "-c", "import os; print(sorted(os.listdir('/proc/self/fd')), os.readlink('/proc/self/fd/0'))"]);
    // The listing's own descriptor is the fourth.
    assert_eq!(brain.line(1), "['0', '1', '2', '3'] /dev/null");
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(0));
    brain.tree_empty(1);
}

/// A daemon that forked twice, left its session and threw away its environment is found and ended.
pub(crate) fn whole_tree(brain: &mut Brain, _host: &str) {
    let script = "
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, ['python3', '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(1000)'], {})
    os._exit(0)
os.wait()
";
    brain.spawn(1, &["python3", "-c", script]);
    let daemon: i32 = brain.line(1).parse().expect("a pid");
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(0));
    assert!(!brain.look().generations[0].tree_empty);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 9, scope: Scope::Tree });
    brain.tree_empty(1);
    // The kernel tells as the last one begins to exit: a moment later it is a zombie or gone.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < deadline, "{stat}");
    }
}

/// Two generations of a server that makes itself a daemon without an environment: each is found, and nothing of the other ends with it.
pub(crate) fn daemons_without_marks(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = "
import os, sys, time
if len(sys.argv) == 4:
    for _ in range(2):
        if os.fork(): os._exit(0)
        os.setsid()
    os.execve(sys.executable, [sys.executable, '-c', sys.argv[3], sys.argv[1], sys.argv[2]], {})
import socket
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen(5)
if os.fork() == 0:
    server.close()
    os.setsid()
    if os.fork(): os._exit(0)
    print('helper', flush=True)
    while True: time.sleep(1000)
while True:
    peer, _ = server.accept()
    peer.sendall(b'served')
    peer.close()
";
    let argv = ["python3", "-c", script, host, &address.port().to_string(), script];
    for id in [1, 2] {
        brain.spawn(id, &argv);
        assert_eq!(brain.line(id), "helper");
        assert_eq!(brain.main_exited(id), ExitStatus::Exited(0));
        assert!(brain.look().listeners.iter().any(|listener| listener.owner == Some(GenerationId(id))));
    }
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
    brain.done(Request::Signal { generation: GenerationId(1), signal: 9, scope: Scope::Tree });
    assert_eq!(answer(address), "served");
    brain.done(Request::Signal { generation: GenerationId(2), signal: 9, scope: Scope::Tree });
    // In whichever order they end.
    let deadline = Instant::now() + DEADLINE;
    while !brain.look().generations.iter().all(|generation| generation.tree_empty) {
        assert!(Instant::now() < deadline, "{:?}", brain.look().generations);
    }
}

/// A server whose processes fork and end faster than anybody can look: its listener is not taken for abandoned.
pub(crate) fn forks_and_ends(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = "
import os, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen(5)
for _ in range(200):
    if os.fork(): os._exit(0)
print('settled', flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(b'served')
    peer.close()
";
    brain.spawn(1, &["python3", "-c", script, host, &address.port().to_string()]);
    assert_eq!(brain.line(1), "settled");
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(0));
    assert_eq!(brain.look().listeners[0].owner, Some(GenerationId(1)));
    assert_eq!(answer(address), "served");
}

/// An orphan that came to us from elsewhere (as to every PID 1) is nobody's to end.
pub(crate) fn not_ours(brain: &mut Brain, _host: &str) {
    let script = "
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve('/bin/sleep', ['sleep', '100'], {})
    os._exit(0)
os.wait()
";
    let started = Command::new("python3").args(["-c", script]).status().expect("python3");
    assert!(started.success());
    let keeper = brain.dump.keeper_pid.to_string();
    let is_stray = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(&format!("(sleep) S {keeper} "))
    };
    let deadline = Instant::now() + DEADLINE;
    let stray = loop {
        let pids = std::fs::read_dir("/proc").expect("read").flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        if let Some(stray) = pids.find(is_stray) {
            break stray;
        }
        assert!(Instant::now() < deadline, "it is the keeper's child now");
    };
    brain.spawn(1, &["sleep", "1000"]);
    brain.wait("execution", executed(1));
    brain.done(Request::Signal { generation: GenerationId(1), signal: 9, scope: Scope::Tree });
    brain.tree_empty(1);
    assert!(is_stray(&stray), "it lives");
    kill(stray);
}

pub(crate) fn exec_stages(brain: &mut Brain, _host: &str) {
    let failed = |id: u64| {
        move |event: &Event| match event {
            Event::ExecFailed { generation, stage, errno } if generation.0 == id => Some((*stage, *errno)),
            _ => None,
        }
    };
    brain.spawn(1, &["/no/such/command"]);
    assert_eq!(brain.wait("failure", failed(1)), (ExecStage::Exec, rustix::io::Errno::NOENT.raw_os_error()));
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(127));
    brain.spawn(2, &["/etc/passwd"]);
    assert_eq!(brain.wait("failure", failed(2)), (ExecStage::Exec, rustix::io::Errno::ACCESS.raw_os_error()));
}

/// As under Yama after a keeper's death: the keeper may not reach into the service, the guard, its ancestor, may.
pub(crate) fn guard_does_errands(brain: &mut Brain, host: &str) {
    use std::io::BufRead;
    let mut strace = refuse(brain.dump.keeper_pid, "pidfd_getfd,process_vm_readv");
    let address = free_address(host);
    brain.serve(1, address);
    assert_eq!(brain.listening(1).origin, Origin::Adopted);
    assert_eq!(answer(address), "1");
    strace.kill().expect("kill");
    let said = std::io::BufReader::new(strace.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(said.filter(|line| line.contains("EPERM") && line.contains("INJECTED")).count() >= 3, "the keeper itself was refused");
    strace.wait().expect("wait");
}

/// Neither the keeper nor the guard may reach into the service: it binds by itself, and the port that was held for it does not
/// stand in its way.
pub(crate) fn may_not_look(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.done(Request::Hold { service: "web".into(), address });
    brain.wait("hold", |event| matches!(event, Event::Held { .. }).then_some(()));
    let mut traced = Vec::new();
    for pid in [brain.dump.keeper_pid, brain.dump.guard_pid] {
        traced.push(refuse(pid, "pidfd_getfd,process_vm_readv"));
    }
    let pid = brain.serve(1, address);
    if service_user().is_some_and(|user| user.uid != rustix::process::getuid().as_raw()) {
        brain.listening(1); // a process of the service's own user may
    } else {
        // A descriptor can still be put into it, without looking.
        assert_eq!(brain.listening(1).origin, Origin::Given);
        brain.serve(2, address);
        assert_eq!(brain.listening(2).origin, Origin::Given);
        assert_eq!(answers(address, 20), ["1"], "the new one gets nothing before it is ready");
        brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
        assert_eq!(answers(address, 20), ["2"]);
        kill(pid);
        brain.done(Request::Steer { service: "web".into(), generation: GenerationId(2), share: None });
        brain.tree_empty(1);
        brain.done(Request::Release { generation: GenerationId(1) });
        assert_eq!(answers(address, 20), ["2"]);
        end(traced);
        return;
    }
    assert_eq!(brain.line(1), "listening");
    assert_eq!(answer(address), "1");
    end(traced);
}

fn end(traced: Vec<std::process::Child>) {
    for mut strace in traced {
        strace.kill().expect("kill");
        strace.wait().expect("wait");
    }
}

/// Neither looked into nor told what it has: the service binds by itself, and what was held for it is not in its way.
pub(crate) fn may_not_see(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.done(Request::Hold { service: "web".into(), address });
    brain.wait("hold", |event| matches!(event, Event::Held { .. }).then_some(()));
    let calls = "pidfd_getfd,process_vm_readv,getxattr";
    let traced = [brain.dump.keeper_pid, brain.dump.guard_pid].map(|pid| refuse(pid, calls)).into();
    brain.serve(1, address);
    if service_user().is_some_and(|user| user.uid != rustix::process::getuid().as_raw()) {
        brain.listening(1); // a process of the service's own user may
    } else {
        let refused = Trap::Unavailable { errno: rustix::io::Errno::PERM.raw_os_error() };
        brain.wait("untrapped", |event| matches!(event, Event::Executed { trap, .. } if *trap == refused).then_some(()));
    }
    assert_eq!(brain.line(1), "listening");
    assert_eq!(answer(address), "1");
    end(traced);
}

/// Daemons that die at once, for ever: the ports stay, and a stop is still obeyed. (The one who plays this is the first of them.)
pub(crate) fn no_daemon_can_be_started(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.serve(1, address);
    brain.listening(1);
    std::fs::write(brain_of_headless(), brain.dump.guard_pid.to_string()).expect("write");
    stayput_kernel::process::exit_now(1);
}
