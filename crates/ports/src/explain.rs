//! Words for people: a sentence, notes and next steps from a report. Reads nothing but what it is given.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stayput_kernel::local_time::LocalTime;
use stayput_kernel::procfs::Proc;

use crate::bind::Transport;
use crate::facts::{Holder, Manager, PortSocket, Process, Role};
use crate::keepers;
use crate::report::{Report, Step};
use crate::verdict::{Basis, Outcome, Verdict};

/// Ports with a meaning of their own on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// net.ipv4.ip_local_port_range: the kernel picks source ports here.
    pub ephemeral: RangeInclusive<u16>,
    /// net.ipv4.ip_local_reserved_ports: except these.
    pub reserved: Vec<RangeInclusive<u16>>,
    /// net.ipv4.ip_unprivileged_port_start.
    pub unprivileged_start: u16,
}

impl Ranges {
    /// Reads them from /proc/sys; the kernel's defaults where that fails.
    pub fn read(proc: &Proc) -> Self {
        let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let pair = proc.sysctl("net/ipv4/ip_local_port_range").unwrap_or_default();
        let ephemeral = match pair[..] {
            [low, high] => small(low)..=small(high),
            _ => 32768..=60999,
        };
        let reserved = proc.read_path("sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
        let start = proc.sysctl("net/ipv4/ip_unprivileged_port_start").ok().and_then(|numbers| numbers.first().copied());
        Self { ephemeral, reserved: parse_ranges(&String::from_utf8_lossy(&reserved)), unprivileged_start: start.map_or(1024, small) }
    }

    /// Whether the kernel may give this port to an outgoing connection.
    pub fn is_up_for_grabs(&self, port: u16) -> bool {
        self.ephemeral.contains(&port) && !self.reserved.iter().any(|range| range.contains(&port))
    }
}

/// `8080,9000-9010`.
fn parse_ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
        })
        .collect()
}

/// `Port 5000 is taken: python app.py (pid 24376, user www) listens on 0.0.0.0 since 07:55:28`.
pub fn taken_by(port: u16, socket: &PortSocket, process: &Process) -> String {
    let verb = match socket.role {
        Role::Listener => "listens on",
        Role::Bound if socket.transport == Transport::Udp => "receives on",
        Role::Bound => "is bound (not listening) to",
        _ => "is connected from",
    };
    let since = process.started.and_then(since).map_or(String::new(), |time| format!(", running since {time}"));
    let stray = if process.stray.is_some() { " (inherited)" } else { "" };
    let stopped = if process.is_stopped() { " is stopped and" } else { "" };
    format!("Port {port} is taken: {}{stopped} {verb} {}{stray}{since}", who(process), host(socket.local.ip()))
}

/// `python app.py (pid 24376, user www)`.
pub fn who(process: &Process) -> String {
    let user = process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()));
    let user = user.map_or(String::new(), |user| format!(", user {user}"));
    format!("{} (pid {}{user})", shorten(&process.command, 60), process.pid)
}

/// At most `most` characters, with an ellipsis.
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// An address for people: IPv6 in brackets.
pub fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// `07:55:28` today, `2026-11-23 07:55:28` earlier.
pub fn since(seconds: u64) -> Option<String> {
    let then = LocalTime::at(UNIX_EPOCH + Duration::from_secs(seconds))?;
    let now = LocalTime::at(SystemTime::now())?;
    let clock = format!("{:02}:{:02}:{:02}", then.hour, then.minute, then.second);
    if (then.year, then.month, then.day) == (now.year, now.month, now.day) {
        return Some(clock);
    }
    Some(format!("{}-{:02}-{:02} {clock}", then.year, then.month, then.day))
}

/// The one sentence.
pub fn summary(report: &Report) -> String {
    let port = report.port;
    let Some(verdict) = report.verdicts.first() else { return format!("Port {port} was not judged") };
    let socket = verdict.socket.and_then(|index| report.sockets.get(index).map(|socket| (index, socket)));
    match (verdict.outcome, verdict.errno) {
        (Outcome::Free, _) => free(report, verdict),
        (Outcome::Unknown, _) => {
            let reason = socket.and_then(|(_, socket)| socket.flags.unreadable()).unwrap_or("a fact is missing");
            format!("Port {port} may be taken for {}: {reason}", verdict.server)
        }
        (Outcome::Taken, Some("EADDRINUSE")) => match socket {
            Some((index, socket)) => taken(report, index, socket),
            None => format!("Port {port} is taken, by a socket that the kernel's list does not show"),
        },
        (Outcome::Taken, Some("EACCES")) if verdict.basis == Basis::Probe => {
            format!("Port {port} is not allowed to {}: a sandbox (Landlock, SELinux, AppArmor) denies it (EACCES)", verdict.server)
        }
        (Outcome::Taken, Some("EACCES")) => {
            format!("Port {port} is not allowed to {}: binding it needs root or CAP_NET_BIND_SERVICE (EACCES)", verdict.server)
        }
        (Outcome::Taken, Some("EADDRNOTAVAIL")) => {
            format!("Port {port} cannot be bound: {} is no address of this machine (EADDRNOTAVAIL)", host(verdict.asks.address))
        }
        (Outcome::Taken, errno) => format!("Port {port} cannot be bound by {}: {}", verdict.server, errno.unwrap_or("an error")),
    }
}

fn free(report: &Report, verdict: &Verdict) -> String {
    let port = report.port;
    let scope = &verdict.server;
    let mut sentence = format!("Port {port} is free for {scope}");
    if report.verdicts.get(1).is_some_and(|plain| plain.outcome == Outcome::Taken && plain.errno == Some("EADDRINUSE")) {
        sentence.push_str(", but not for one without it");
    }
    sentence
}

fn taken(report: &Report, index: usize, socket: &PortSocket) -> String {
    let port = report.port;
    // Whoever asks wants to know who serves: the listener with which stayput keeps the port in its hands serves nobody.
    let serves =
        |other: &PortSocket| other.role == Role::Listener && other.local == socket.local && !keepers::is_anchor(other, &report.holders);
    let served = report.sockets.iter().enumerate().find(|(_, other)| keepers::is_anchor(socket, &report.holders) && serves(other));
    let (index, socket) = served.unwrap_or((index, socket));
    // Holders are sorted: the first that has this socket is the one to name.
    if let Some(holder) = report.holders.iter().find(|holder| holder.sockets.contains(&index)) {
        return match socket.role {
            Role::Outgoing => format!(
                "Port {port} is taken by a client: {} uses it for its connection to {}",
                who(&holder.process),
                socket.remote.map_or_else(|| "nobody".to_owned(), |remote| remote.to_string())
            ),
            Role::Accepted | Role::Connection => format!(
                "Port {port} is taken: {} still has a connection on it ({}), and one of the two servers lacks SO_REUSEADDR",
                who(&holder.process),
                socket.state.name()
            ),
            _ if holder.via == crate::facts::Via::InFlight => {
                format!("Port {port} is taken by a listener in flight between processes: {} may receive it", who(&holder.process))
            }
            _ => taken_by(port, socket, &holder.process),
        };
    }
    let owner = socket.user.clone().or_else(|| socket.uid.map(|uid| uid.to_string()));
    let owner = owner.map_or_else(|| "an unknown user".to_owned(), |user| format!("user {user}"));
    let doing = match socket.role {
        Role::Listener => "listens on",
        Role::Bound => "is bound to",
        _ => "has a connection on",
    };
    if socket.pids.unreadable().is_some() {
        return format!("Port {port} is taken: a process of {owner} {doing} {}; only root can see which one", host(socket.local.ip()));
    }
    if socket.inode != 0 {
        return format!("Port {port} is taken by the kernel itself: a {} socket without a process", socket.state.name());
    }
    let wait =
        socket.not_before.map_or_else(|| ", for a time nobody can tell".to_owned(), |left| format!(" for at least {}", seconds(left)));
    format!("Port {port} is taken by the kernel alone: {} of a connection to {}{wait}", socket.state.name(), peer(socket))
}

fn peer(socket: &PortSocket) -> String {
    socket.remote.map_or_else(|| "nobody".to_owned(), |remote| remote.to_string())
}

/// `12 s`, `0.3 s`.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) { format!("{:.1} s", time.as_secs_f64()) } else { format!("{} s", time.as_secs()) }
}

/// What one should know besides the sentence.
pub fn notes(report: &Report, ranges: &Ranges) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(report.verdicts.iter().filter_map(|verdict| verdict.note.clone()));
    listeners(report, &mut notes);
    for holder in report.holders.iter().filter(|holder| holder.role.holds()) {
        if let Some(stray) = &holder.process.stray {
            let service = match &holder.process.manager {
                Some(Manager::Stayput(service)) => format!(" (started within stayput service {})", service.service),
                Some(Manager::Systemd { unit, .. }) => format!(" (of unit {unit})"),
                _ => String::new(),
            };
            notes.push(format!("pid {}: {stray}{service}", holder.process.pid));
        }
        if let Some(service) = &holder.process.abandoned {
            notes.push(format!(
                "pid {} was started as service {} of stayput's instance {:?}, which is gone: nobody restarts it. The next start of that name takes its port \
                 over and ends it",
                holder.process.pid, service.service, service.instance
            ));
        }
        if holder.process.is_stopped() {
            notes.push(format!("pid {} is stopped (SIGSTOP): connections that it gets hang", holder.process.pid));
        }
    }
    let main = report.verdicts.first();
    let free_for_reuse = main.is_some_and(|verdict| verdict.outcome == Outcome::Free && verdict.asks.reuseaddr);
    if free_for_reuse && report.sockets.iter().any(|socket| socket.role == Role::Bound && socket.transport == Transport::Tcp) {
        notes.push("a socket is bound and does not listen yet: if it listens first, your listen() gets EADDRINUSE".to_owned());
    }
    if free_for_reuse {
        let kept: usize = report.sockets.iter().filter(|socket| socket.role == Role::Kernel).map(|socket| socket.count).sum();
        if kept > 0 {
            notes.push(format!("{kept} closed connection(s) linger in the kernel; both servers set SO_REUSEADDR, so they stop nobody"));
        }
    }
    if main.is_some_and(|verdict| verdict.asks.transport == Transport::Tcp)
        && report.sockets.iter().any(|socket| socket.transport == Transport::Udp)
    {
        notes.push("the UDP sockets on this number do not matter to TCP".to_owned());
    }
    if ranges.is_up_for_grabs(report.port) {
        notes.push(format!(
            "port {} lies in the ephemeral range {}-{}: any outgoing connection may be given it",
            report.port,
            ranges.ephemeral.start(),
            ranges.ephemeral.end()
        ));
    }
    if report.port < ranges.unprivileged_start {
        notes.push(format!("below {}: only root and CAP_NET_BIND_SERVICE may bind it", ranges.unprivileged_start));
    }
    for listener in &report.elsewhere {
        let command = listener.command.as_deref().map_or(String::new(), |command| format!(", where {} runs", shorten(command, 40)));
        notes.push(format!("another network namespace has a listener on {}{command}; it stops nobody here", listener.local));
    }
    notes
}

fn listeners(report: &Report, notes: &mut Vec<String>) {
    let listeners: Vec<&PortSocket> = report.sockets.iter().filter(|socket| socket.role == Role::Listener).collect();
    for socket in &listeners {
        if let Some(queue) = socket.accept_queue.filter(|queue| queue.is_full()) {
            notes.push(format!(
                "the accept queue of {} is full ({} wait, limit {}): it listens, and accepts nobody",
                socket.local, queue.waiting, queue.limit
            ));
        }
    }
    let shared = |socket: &&&PortSocket| socket.flags.value().is_some_and(|flags| flags.reuseport);
    let group: Vec<&&PortSocket> = listeners.iter().filter(shared).collect();
    if group.len() > 1 {
        let steered = report.holders.iter().any(|holder| matches!(holder.process.manager, Some(Manager::Stayput(_))));
        let anchors = group.iter().filter(|socket| keepers::is_anchor(socket, &report.holders)).count();
        notes.push(sharing(group.len() - anchors, anchors, steered));
        for socket in group {
            let Some(holder) =
                report.holders.iter().find(|holder| socket.pids.value().is_some_and(|pids| pids.contains(&holder.process.pid)))
            else {
                continue;
            };
            if socket.accept_queue.is_some_and(|queue| queue.waiting > 0) {
                notes.push(format!(
                    "of these, pid {} has {} connection(s) waiting: stale or busy",
                    holder.process.pid,
                    socket.accept_queue.map_or(0, |queue| queue.waiting)
                ));
            }
        }
    }
    if listeners.iter().any(|socket| socket.mptcp) {
        notes.push("the listener is MPTCP (Go's default); it takes TCP's ports".to_owned());
    }
}

/// What `takers` listeners in one SO_REUSEPORT group mean, beside `anchors` of stayput that take nothing.
fn sharing(takers: usize, anchors: usize, steered: bool) -> String {
    match (takers, anchors) {
        (0, _) => "stayput alone listens, and takes no connection: it keeps the port for its service".to_owned(),
        (1, 1..) => "the other listener is stayput's own: it takes no connection and keeps the port while the service restarts".to_owned(),
        _ if steered => format!("{takers} listeners are in the port's SO_REUSEPORT group; stayput steers connections among them"),
        _ => format!("{takers} listeners share the port by SO_REUSEPORT: the kernel spreads connections over all of them"),
    }
}

/// Commands to copy, for the user `uid`.
pub fn next_steps(report: &Report, uid: u32) -> Vec<Step> {
    let root = uid == 0;
    let port = report.port;
    let mut steps = Vec::new();
    let mut add = |command: String, why: &str| {
        let step = Step { command, why: why.to_owned() };
        if !steps.contains(&step) {
            steps.push(step);
        }
    };
    let Some(verdict) = report.verdicts.first() else { return steps };
    if verdict.outcome == Outcome::Free {
        return steps;
    }
    if verdict.errno == Some("EACCES") {
        add(format!("sudo sysctl net.ipv4.ip_unprivileged_port_start={port}"), "let everybody bind from this port on");
        return steps;
    }
    if verdict.errno.is_some_and(|errno| errno != "EADDRINUSE") {
        return steps;
    }
    let blocking: Vec<&PortSocket> = verdict.blockers.iter().filter_map(|index| report.sockets.get(*index)).collect();
    let owners: Vec<&Holder> =
        report.holders.iter().filter(|holder| holder.sockets.iter().any(|index| verdict.blockers.contains(index))).collect();
    for holder in owners.iter().take(4) {
        if let Some((command, why)) = managed(&holder.process, port) {
            add(command, why);
        } else if holder.role == Role::Outgoing {
            add(format!("sudo sysctl net.ipv4.ip_local_reserved_ports={port}"), "keep clients off this port in future");
            add(format!("stayput wait {port} --free"), "return as soon as the client is done");
        } else {
            let sudo = if root || holder.process.uid == Some(uid) { "" } else { "sudo " };
            add(format!("{sudo}stayput free {port}"), "stop the holder gently, after asking");
            add(format!("stayput wait {port} --free"), "return as soon as the port is free");
        }
    }
    if blocking.iter().any(|socket| socket.pids.unreadable().is_some()) {
        add(format!("sudo stayput why {port}"), "see whose it is");
    }
    if blocking.iter().any(|socket| socket.role == Role::Kernel) {
        add(format!("stayput wait {port} --free"), "return as soon as the kernel lets go");
        let sudo = if root { "" } else { "sudo " };
        add(format!("{sudo}stayput free {port} --kernel"), "drop these connections now");
    }
    steps
}

/// The right command for a process that somebody manages.
pub fn managed(process: &Process, port: u16) -> Option<(String, &'static str)> {
    Some(match process.manager.as_ref()? {
        Manager::Stayput(service) if service.service.is_empty() => {
            ("stayput status".to_owned(), "stayput holds the port for one of its services")
        }
        Manager::Stayput(service) => {
            (format!("stayput stop {}", service.service), "it is a service of stayput (`stayput restart` keeps the port)")
        }
        Manager::Systemd { unit, user } => {
            let flag = if *user { "--user " } else { "" };
            (format!("systemctl {flag}stop {}", quoted(unit)), "systemd manages it; a signal would have it started again")
        }
        Manager::SystemdSocket { units } => match units.first() {
            Some(unit) => (format!("systemctl stop {}", quoted(unit)), "systemd itself listens, for this unit"),
            None => (format!("systemctl list-sockets | grep -w {port}"), "systemd itself listens: find the unit, then stop it"),
        },
        Manager::Container { runtime, id } => match *runtime {
            "docker" => (format!("docker stop {id}"), "it runs in this container"),
            "podman" => (format!("podman stop {id}"), "it runs in this container"),
            "lxc" => (format!("lxc-stop -n {}", quoted(id)), "it runs in this container"),
            _ => (format!("crictl stop {id}"), "it runs in this container"),
        },
        Manager::PublishedPort { .. } => {
            (format!("docker ps --filter publish={port}"), "a container publishes it: find it here, then `docker stop` it")
        }
    })
}

/// Unit names may hold `\x2d`.
fn quoted(name: &str) -> String {
    if name.contains('\\') { format!("'{name}'") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_read() {
        let ranges = Ranges { ephemeral: 32768..=60999, reserved: parse_ranges("8080,40000-40010\n"), unprivileged_start: 1024 };
        assert_eq!(ranges.reserved, [8080..=8080, 40000..=40010]);
        assert!(ranges.is_up_for_grabs(39999) && !ranges.is_up_for_grabs(40005) && !ranges.is_up_for_grabs(5000));
        assert_eq!(parse_ranges("\n"), []);
    }

    #[test]
    fn an_anchor_is_no_second_server() {
        assert!(sharing(1, 1, true).contains("takes no connection"));
        assert!(sharing(0, 2, true).contains("keeps the port"));
        assert!(sharing(2, 1, true).starts_with("2 listeners are in"));
        assert!(sharing(2, 0, false).contains("spreads connections"));
    }

    #[test]
    fn long_commands_are_cut() {
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("äöü", 3), "äöü");
    }

    #[test]
    fn times_of_other_days_have_a_date() {
        assert!(since(1_000_000_000).unwrap().starts_with("2001-09-0"));
    }
}
