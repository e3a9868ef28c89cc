//! This process, real children, and noise.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn us() -> Pid {
    rustix::process::getpid().as_raw_nonzero().get()
}

#[test]
fn it_knows_this_process() {
    let proc = Proc::open().unwrap();
    let stat = proc.stat(us()).unwrap();
    assert_eq!(stat.pid, us());
    assert_eq!(stat.ppid, rustix::process::getppid().unwrap().as_raw_nonzero().get());
    assert!(!stat.is_kernel_thread());
    let status = proc.status(us()).unwrap();
    assert_eq!(status.tgid, us());
    assert_eq!(status.uids[1], rustix::process::geteuid().as_raw());
    assert!(proc.pids().unwrap().contains(&us()));
    assert!(proc.tasks(us()).unwrap().contains(&us()));
    assert_eq!(proc.cwd(us()).unwrap(), std::env::current_dir().unwrap());
    let arguments: Vec<_> = std::env::args_os().collect();
    assert_eq!(proc.cmdline(us()).unwrap(), arguments);
    assert!(proc.net_namespace(us()).unwrap() > 0);
    let age = SystemTime::now().duration_since(proc.started(&stat).unwrap()).unwrap_or_default();
    assert!(age < Duration::from_hours(1), "{age:?}");
}

#[test]
fn sockets_are_found_at_small_and_at_large_numbers() {
    let proc = Proc::open().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let high = rustix::io::fcntl_dupfd_cloexec(&listener, 700).unwrap();
    let inode = rustix::fs::fstat(&listener).unwrap().st_ino as u32;
    let found = proc.socket_inodes(us()).unwrap();
    for fd in [listener.as_raw_fd(), high.as_raw_fd()] {
        assert!(found.contains(&SocketFd { fd, inode }), "fd {fd} is not in {found:?}");
    }
    let mut seen = Vec::new();
    let scan = proc.scan_fds(us()).unwrap();
    let open = scan.sockets_in([listener.as_raw_fd(), 100_000], |socket| seen.push(socket)).unwrap();
    assert_eq!((open, seen), (1, vec![SocketFd { fd: listener.as_raw_fd(), inode }]));
}

#[test]
fn a_hostile_name_changes_nothing() {
    let proc = Proc::open().unwrap();
    let name = "a) R 1\n\u{1b}[2J";
    // The shell waits on its standard input, so that it lives until we close it.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "printf %s \"$1\" > /proc/$$/comm; echo; read x", "sh", name])
        .env("HOSTILE", "x\ny")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let pid = child.id().cast_signed();
    let stat = proc.stat(pid).unwrap();
    assert_eq!((stat.comm.to_str(), stat.ppid), (Some(name), us()));
    assert_eq!(proc.comm(pid).unwrap().to_str(), Some(name));
    assert_eq!(proc.status(pid).unwrap().tgid, pid);
    assert_eq!(proc.cmdline(pid).unwrap().last().unwrap(), name);
    assert!(proc.environ(pid).unwrap().contains(&OsString::from("HOSTILE=x\ny")));
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    assert!(proc.stat(pid).unwrap_err().is_gone());
    assert!(proc.socket_inodes(pid).unwrap_err().is_gone());
}

#[test]
fn fdinfo_texts_are_read() {
    let ring = b"SqMask:\t0x7\nUserFiles:\t2\n    0: socket:[4242]\n    1: /tmp/x:socket:[1]\nUserBufs:\t0\n    0: socket:[7]\n";
    assert_eq!(uring_sockets(ring), [4242]);
    assert_eq!(unix_scm_fds(b"pos:\t0\nscm_fds: 3\n"), Some(3));
    assert_eq!(unix_scm_fds(b"pos:\t0\n"), None);
    assert_eq!(split_nul(b""), Vec::<OsString>::new());
    assert_eq!(split_nul(b"a\0\0b"), ["a", "", "b"]);
}

proptest! {
    #[test]
    fn any_name_is_read_back_from_stat(name in proptest::collection::vec(any::<u8>(), 0..16), ppid in 0..i32::MAX) {
        let mut line = b"7 (".to_vec();
        line.extend_from_slice(&name);
        line.extend_from_slice(format!(") S {ppid} 7 7 0 -1 64 0 0 0 0 7 5 {}99 0 250", "0 ".repeat(6)).as_bytes());
        let stat = parse_stat(&line).unwrap();
        prop_assert_eq!(stat.comm.as_bytes(), &name[..]);
        prop_assert_eq!((stat.ppid, stat.start_ticks), (ppid, 99));
        prop_assert_eq!((stat.cpu_ticks, stat.resident_pages), (12, 250));
    }
}
