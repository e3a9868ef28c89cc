//! `stayput up` by a service manager that believes that the instance has ended: its main process was killed, and the keeper took its place. Instead of refusing
//! a second instance, it is told which process stands for the first one. If it was the manager's watchdog that killed it, the daemon is wedged, whose word the
//! watchdog missed: it is ended, and the keeper starts another.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stayput_model::config::InstanceConfig;
use stayput_wire::runtime::{self, RuntimeError};
use stayput_wire::{Client, ClientError};

use crate::commands::{daemon, instances};
use crate::output;

/// Tells it, if it was this very unit that the running instance belongs to, and of the same file. `None`: it is to be refused.
pub(super) fn tell_manager(error: &RuntimeError, config: &InstanceConfig) -> Option<ExitCode> {
    let RuntimeError::Running(name, _) = error else { return None };
    let manager = std::env::var_os("NOTIFY_SOCKET")?;
    let unit = cgroup("self")?;
    let socket = runtime::base().join(name).join(runtime::CONTROL_SOCKET);
    let guard = guard(&socket, &unit)?;
    let theirs = super::status(&socket)?.source.map(|source| source.path);
    let ours = super::source(config).map(|path| path.display().to_string());
    if cgroup(&guard.to_string())? != unit || theirs != ours {
        return None;
    }
    let address = match manager.as_bytes().split_first()? {
        (b'@', name) => SocketAddr::from_abstract_name(name).ok()?,
        (b'/', _) => SocketAddr::from_pathname(&manager).ok()?,
        _ => return None,
    };
    // One message, so that no moment is between them: it is ready, and it is not this process.
    UnixDatagram::unbound().ok()?.send_to_addr(format!("MAINPID={guard}\nREADY=1").as_bytes(), &address).ok()?;
    output::say(&format!("{name} goes on: the process that stood for it was killed, and pid {guard} took its place\n"));
    Some(ExitCode::SUCCESS)
}

/// The process that stands for the instance.
fn guard(socket: &Path, unit: &str) -> Option<i32> {
    let client = match Client::connect(socket, instances::ANSWER_WITHIN) {
        Err(ClientError::NoAnswer(_)) => {
            end_daemon(unit);
            Client::connect(socket, instances::ANSWER_WITHIN)
        }
        client => client,
    };
    client.ok().map(|client| client.guard)
}

/// Ends the daemon of the instance in this unit.
fn end_daemon(unit: &str) {
    let is_daemon = |pid: &str| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command == [b"stayput\0", daemon::NAME.as_bytes(), b"\0"].concat() && cgroup(pid).as_deref() == Some(unit)
    };
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((text, pid)) = name.to_str().and_then(|text| Some((text, Pid::from_raw(text.parse().ok()?)?))) else { continue };
        // The descriptor is of one process: looked at after it is had, it is no other.
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && is_daemon(text)
        {
            output::say(&format!("the daemon, pid {text}, does not answer: it is ended, and another is started\n"));
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

/// Its control groups (proc_pid_cgroup(5)); those of a unit that has nobody else in it.
fn cgroup(pid: &str) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    // In the root of all there is everybody.
    groups.lines().any(|line| !line.ends_with(":/")).then_some(groups)
}
