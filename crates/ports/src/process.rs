//! Describing a process: what it is called, since when it runs, who manages it. Everything a stranger wrote is sanitised here.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::time::UNIX_EPOCH;

use stayput_kernel::procfs::{Error, Pid, Proc, Stat};
use stayput_model::text::{command_line, printable_bytes};

use crate::cgroup;
use crate::facts::{Fact, Manager, Parent, Process, StayputService};

/// Command lines beyond this are cut: a million arguments help nobody.
const LONGEST_COMMAND: usize = 4096;
/// How far up the parents are named.
const MOST_PARENTS: usize = 8;
/// Programs that never serve anybody: with a listener in their hands they have inherited it.
const BYSTANDERS: [&str; 12] = ["sleep", "sh", "bash", "dash", "zsh", "tail", "cat", "tee", "less", "ssh-agent", "gpg-agent", "xclip"];

/// Describes processes; keeps what is asked often.
#[derive(Debug)]
pub struct Describer<'a> {
    proc: &'a Proc,
    users: HashMap<u32, String>,
}

impl<'a> Describer<'a> {
    /// A describer that reads `proc` and /etc/passwd.
    pub fn new(proc: &'a Proc) -> Self {
        Self { proc, users: read_users() }
    }

    /// The name of a uid, by /etc/passwd.
    pub fn user(&self, uid: u32) -> Option<String> {
        self.users.get(&uid).cloned()
    }

    /// Everything about one process; `None` if it is gone.
    pub fn describe(&self, pid: Pid, ports: &[u16]) -> Option<Process> {
        let stat = self.proc.stat(pid).ok()?;
        let uid = self.proc.status(pid).ok().map(|status| status.uids[1]);
        let name = printable_bytes(stat.comm.as_bytes());
        let arguments = self.proc.cmdline(pid).unwrap_or_default();
        let command = shorten(command_line(arguments.iter().map(|argument| argument.as_bytes())));
        let environment = self.proc.environ(pid);
        let service = stayput_service(environment.as_deref().unwrap_or_default());
        let (service, abandoned) = if self.is_supervised(&stat) { (service, None) } else { (None, service) };
        let manager = self.manager(pid, &stat, &arguments, service, ports);
        Some(Process {
            pid,
            command: if command.is_empty() { format!("[{name}]") } else { command },
            user: uid.and_then(|uid| self.user(uid)),
            uid,
            state: Some(stat.state),
            started: self.proc.started(&stat).ok().and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())),
            start_ticks: Some(stat.start_ticks),
            cwd: fact(self.proc.cwd(pid).map(|path| printable_bytes(path.as_os_str().as_bytes())), "/proc/PID/cwd"),
            parents: self.parents(&stat),
            net_namespace: fact(self.proc.net_namespace(pid), "/proc/PID/ns/net"),
            stray: self.stray(&stat, &name),
            abandoned,
            manager,
            name,
        })
    }

    fn parents(&self, stat: &Stat) -> Vec<Parent> {
        let mut parents = Vec::new();
        let mut next = stat.ppid;
        while next > 0 && parents.len() < MOST_PARENTS {
            let Ok(parent) = self.proc.stat(next) else { break };
            parents.push(Parent { pid: next, name: printable_bytes(parent.comm.as_bytes()) });
            next = parent.ppid;
        }
        parents
    }

    /// Whether stayput is above it: services stay descendants of the guard or the keeper as long as one of them lives. What cannot be looked at may be
    /// one of them.
    fn is_supervised(&self, stat: &Stat) -> bool {
        let mut next = stat.ppid;
        while next > 0 {
            let Ok(parent) = self.proc.stat(next) else { return true };
            if parent.comm.as_bytes() == b"stayput" {
                return true;
            }
            next = parent.ppid;
        }
        false
    }

    /// Evidence that this process inherited a socket instead of opening it.
    ///
    /// Its program serves nobody; or the process that was started as its job (the leader of its group) is gone while the
    /// session lives on, and it was handed to another parent. A daemon that forks twice looks like the latter, but its
    /// session's leader is gone as well, so nothing is said of it.
    fn stray(&self, stat: &Stat, name: &str) -> Option<String> {
        let gone = |pid: Pid| self.proc.stat(pid).is_err();
        let adopted = stat.ppid <= 1 || self.proc.stat(stat.ppid).is_ok_and(|parent| parent.session != stat.session);
        let outlived = stat.pgrp != stat.pid && adopted && gone(stat.pgrp);
        let leader = stat.pgrp;
        if BYSTANDERS.contains(&name) {
            return Some(if outlived {
                format!("`{name}` serves nobody: it inherited the socket from pid {leader}, which is gone")
            } else {
                format!("`{name}` serves nobody: it inherited the socket from the process that started it")
            });
        }
        (outlived && (stat.session == 0 || !gone(stat.session)))
            .then(|| format!("it outlived the process that started it (pid {leader}, which is gone)"))
    }

    fn manager(
        &self,
        pid: Pid,
        stat: &Stat,
        arguments: &[std::ffi::OsString],
        service: Option<StayputService>,
        ports: &[u16],
    ) -> Option<Manager> {
        if let Some(service) = service {
            return Some(Manager::Stayput(service));
        }
        if matches!(stat.comm.as_bytes(), b"docker-proxy" | b"rootlessport" | b"rootlesskit") {
            return Some(Manager::PublishedPort { target: published_target(arguments) });
        }
        if pid == 1 && stat.comm.as_bytes() == b"systemd" {
            let units = ports.iter().flat_map(|port| cgroup::socket_units(*port)).collect();
            return Some(Manager::SystemdSocket { units });
        }
        let lines = self.proc.cgroup_lines(pid).ok()?;
        // The v2 line first; on machines with v1 the `name=systemd` line or a controller's names the same.
        let mut paths: Vec<(bool, &str)> =
            lines.lines().filter_map(|line| line.splitn(3, ':').nth(2).map(|path| (!line.starts_with("0::"), path))).collect();
        paths.sort_by_key(|(v1, _)| *v1);
        // stayput's own cgroup, container or unit, is no reason to send somebody elsewhere if we sit in it as well.
        let own = self.proc.cgroup_lines(stayput_kernel_pid()).unwrap_or_default();
        paths.iter().find_map(|(_, path)| {
            let found = cgroup::manager(path)?;
            let ours = own.lines().any(|line| line.splitn(3, ':').nth(2) == Some(*path));
            (!ours).then(|| sanitise(found))
        })
    }
}

fn sanitise(manager: Manager) -> Manager {
    match manager {
        Manager::Systemd { unit, user } => Manager::Systemd { unit: printable_bytes(unit.as_bytes()), user },
        Manager::Container { runtime, id } => Manager::Container { runtime, id: printable_bytes(id.as_bytes()) },
        other => other,
    }
}

fn stayput_kernel_pid() -> Pid {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The cookie that stayput puts into the environment of what it starts.
fn stayput_service(environment: &[std::ffi::OsString]) -> Option<StayputService> {
    let value =
        |name: &[u8]| environment.iter().find_map(|entry| entry.as_bytes().strip_prefix(name)?.strip_prefix(b"=")).map(printable_bytes);
    Some(StayputService {
        service: value(b"STAYPUT_SERVICE").filter(|name| !name.is_empty())?,
        instance: value(b"STAYPUT_INSTANCE").unwrap_or_default(),
        generation: value(b"STAYPUT_GENERATION").unwrap_or_default(),
    })
}

/// `-container-ip A -container-port P` of docker-proxy.
fn published_target(arguments: &[std::ffi::OsString]) -> Option<String> {
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        Some(printable_bytes(arguments.get(at + 1)?.as_bytes()))
    };
    Some(format!("{}:{}", after("-container-ip")?, after("-container-port")?))
}

/// A result of /proc as a fact.
pub(crate) fn fact<T>(result: Result<T, Error>, source: &'static str) -> Fact<T> {
    match result {
        Ok(value) => Fact::Known { value, source },
        Err(error) if error.is_gone() => Fact::Absent { source },
        Err(error) if error.is_denied() => Fact::Unreadable { reason: "belongs to another user; root would read it".to_owned(), source },
        Err(error) => Fact::Unreadable { reason: error.to_string(), source },
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > LONGEST_COMMAND {
        let cut = (0..=LONGEST_COMMAND).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

fn read_users() -> HashMap<u32, String> {
    let bytes = std::fs::read("/etc/passwd").unwrap_or_default();
    let mut users = HashMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        if let (Some(name), Some(_), Some(uid)) = (fields.next(), fields.next(), fields.next())
            && let Some(uid) = std::str::from_utf8(uid).ok().and_then(|uid| uid.parse().ok())
        {
            // The first line of a uid is its name.
            users.entry(uid).or_insert_with(|| printable_bytes(name));
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn the_cookie_of_stayput_is_read() {
        let environment = ["PATH=/bin", "STAYPUT_SERVICE=we\u{1b}b", "STAYPUT_GENERATION=3"].map(OsString::from);
        let service = stayput_service(&environment).unwrap();
        assert_eq!((service.service.as_str(), service.generation.as_str(), service.instance.as_str()), (r"we\x1bb", "3", ""));
        assert_eq!(stayput_service(&["STAYPUT_SERVICE=".into()]), None);
        assert_eq!(stayput_service(&["XSTAYPUT_SERVICE=a".into()]), None);
    }

    #[test]
    fn docker_proxy_says_where_it_leads() {
        let arguments = ["docker-proxy", "-proto", "tcp", "-container-ip", "172.17.0.2", "-container-port", "80"].map(OsString::from);
        assert_eq!(published_target(&arguments).as_deref(), Some("172.17.0.2:80"));
        assert_eq!(published_target(&["docker-proxy".into(), "-container-ip".into()]), None);
    }

    #[test]
    fn this_process_is_described() {
        let proc = Proc::open().unwrap();
        let us = Describer::new(&proc).describe(stayput_kernel_pid(), &[]).unwrap();
        assert_eq!(us.pid, stayput_kernel_pid());
        assert!(us.command.contains("stayput_ports"), "{}", us.command);
        assert!(!us.parents.is_empty() && us.started.is_some() && us.net_namespace.value().is_some());
        assert_eq!(Describer::new(&proc).describe(i32::MAX, &[]), None);
    }
}
