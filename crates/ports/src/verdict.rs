//! From facts to a judgement: would this server get its port, and if not, what decides? Pure, no I/O.
//!
//! The rule over all sockets ([`crate::bind`]) gives the reason; a probe, where it was harmless, gives the kernel's own word.
//! When the two differ the probe is believed and the difference is said.

use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Serialize, Serializer};
use stayput_kernel::bind_probe::{Answer, Outcome as ProbeOutcome};

use crate::bind::{Clash, Server, clash};
use crate::facts::{PortSocket, Role};

/// What is true of the machine and of whoever asks, besides the sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// net.ipv4.ip_unprivileged_port_start; 1024 where it cannot be read.
    pub unprivileged_start: u16,
    /// Whether the server in question may bind below that: root, or CAP_NET_BIND_SERVICE.
    pub may_bind_low: bool,
    /// The errno of bind() to the server's address with port 0, if that failed.
    pub address_error: Option<Errno>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// bind() and listen() work.
    Free,
    /// They do not.
    Taken,
    /// It depends on something that could not be read, and no probe could be made.
    Unknown,
}

/// What the probe said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Probe {
    /// bind() and, if asked for, listen() worked; closed at once.
    Works {
        /// Whether listen() was part of it.
        listened: bool,
    },
    /// It failed.
    Fails {
        /// `bind` or `listen`.
        call: &'static str,
        /// Which error.
        #[serde(serialize_with = "as_name")]
        errno: Errno,
    },
    /// It was not made.
    NotMade {
        /// Why.
        reason: &'static str,
    },
}

impl Probe {
    /// From what the kernel said.
    pub fn from_answer(answer: Answer) -> Self {
        match answer.outcome {
            ProbeOutcome::Works => Self::Works { listened: answer.listened },
            ProbeOutcome::Bind(errno) => Self::Fails { call: "bind", errno },
            ProbeOutcome::Listen(errno) => Self::Fails { call: "listen", errno },
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn as_name<S: Serializer>(errno: &Errno, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(errno_name(*errno))
}

/// What the answer rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The rule alone.
    Rule,
    /// The probe alone: the rule lacked a fact, or said otherwise.
    Probe,
    /// Both say the same.
    RuleAndProbe,
}

/// The judgement for one server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The server in words: `a server with SO_REUSEADDR on 0.0.0.0`.
    pub server: String,
    /// What it asks for.
    pub asks: Server,
    /// The answer.
    pub outcome: Outcome,
    /// The errno that it would get.
    pub errno: Option<&'static str>,
    /// Index of the socket that decides.
    pub socket: Option<usize>,
    /// All sockets that stand in the way, or may do so.
    pub blockers: Vec<usize>,
    /// Milliseconds until the kernel can have dropped all of them by itself; only if no process has any of them.
    pub not_before_ms: Option<u64>,
    /// What the answer rests on.
    pub basis: Basis,
    /// The probe.
    pub probe: Probe,
    /// Said when rule and probe differ, or when the answer can change under one's hands.
    pub note: Option<String>,
}

impl Verdict {
    /// Time until the kernel can have dropped every blocker by itself.
    pub fn not_before(&self) -> Option<Duration> {
        self.not_before_ms.map(Duration::from_millis)
    }
}

/// Judges by the rule alone; [`confirm`] adds what a probe says.
pub fn judge(server: &Server, port: u16, sockets: &[PortSocket], around: &Surroundings) -> Verdict {
    let mut sure = Vec::new();
    let mut perhaps = Vec::new();
    for (index, socket) in sockets.iter().enumerate() {
        match socket.bound().map_or(Clash::No, |bound| clash(server, &bound)) {
            Clash::Yes => sure.push(index),
            Clash::Depends => perhaps.push(index),
            Clash::No => {}
        }
    }
    let outcome = match (sure.is_empty(), perhaps.is_empty()) {
        (false, _) => Outcome::Taken,
        (true, false) => Outcome::Unknown,
        (true, true) => Outcome::Free,
    };
    let blockers: Vec<usize> = if sure.is_empty() { perhaps } else { sure };
    let mut verdict = Verdict {
        server: describe(server),
        asks: server.clone(),
        outcome,
        errno: (outcome == Outcome::Taken).then_some("EADDRINUSE"),
        socket: blockers.iter().copied().min_by_key(|index| weight(&sockets[*index])),
        not_before_ms: not_before(sockets, &blockers),
        blockers,
        basis: Basis::Rule,
        probe: Probe::NotMade { reason: "not asked for" },
        note: None,
    };
    if let Some(errno) = masking_error(server, port, around) {
        verdict.outcome = Outcome::Taken;
        verdict.errno = Some(errno_name(errno));
    }
    verdict
}

/// Errors that come before the port is even looked up, in the kernel's order (`__inet_bind`, `__inet6_bind`).
fn masking_error(server: &Server, port: u16, around: &Surroundings) -> Option<Errno> {
    let low = (port < around.unprivileged_start && !around.may_bind_low).then_some(Errno::ACCESS);
    match server.address {
        IpAddr::V4(_) => around.address_error.or(low),
        IpAddr::V6(_) => low.or(around.address_error),
    }
}

/// Listeners explain more than connections, those more than what the kernel keeps; the longest wait last.
fn weight(socket: &PortSocket) -> (u8, std::cmp::Reverse<Option<Duration>>) {
    let rank = match socket.role {
        Role::Listener => 0,
        Role::Bound => 1,
        Role::Outgoing => 2,
        Role::Accepted => 3,
        Role::Connection => 4,
        Role::Kernel => 5,
    };
    (rank, std::cmp::Reverse(socket.not_before))
}

/// The longest timer, if every blocker has one.
fn not_before(sockets: &[PortSocket], blockers: &[usize]) -> Option<u64> {
    let timers: Option<Vec<Duration>> = blockers.iter().map(|index| sockets[*index].not_before).collect();
    timers?.into_iter().max().map(|left| left.as_millis() as u64)
}

/// Puts the kernel's own word beside the rule's.
#[must_use]
pub fn confirm(mut verdict: Verdict, probe: Probe) -> Verdict {
    verdict.probe = probe;
    let said = match probe {
        Probe::NotMade { .. } => return verdict,
        Probe::Works { .. } => Outcome::Free,
        Probe::Fails { .. } => Outcome::Taken,
    };
    if verdict.outcome == said {
        verdict.basis = Basis::RuleAndProbe;
    } else {
        // Another errno is the machine's own refusal, which no socket explains.
        let by_socket = !matches!(probe, Probe::Fails { errno, .. } if errno != Errno::ADDRINUSE);
        if verdict.outcome != Outcome::Unknown && by_socket {
            verdict.note = Some(match said {
                Outcome::Free => "by the rule it is taken, but a probe could bind: the socket that decides has just gone".to_owned(),
                _ => "by the rule it is free, but a probe failed: a socket that sock_diag does not show has the port".to_owned(),
            });
        }
        verdict.basis = Basis::Probe;
    }
    verdict.outcome = said;
    verdict.errno = match probe {
        Probe::Fails { errno, .. } => Some(errno_name(errno)),
        _ => None,
    };
    if said == Outcome::Free {
        verdict.blockers.clear();
        verdict.socket = None;
        verdict.not_before_ms = None;
    }
    verdict
}

/// A server in words.
pub fn describe(server: &Server) -> String {
    let options = match (server.reuseaddr, server.reuseport) {
        (true, false) => "with SO_REUSEADDR",
        (false, false) => "without SO_REUSEADDR",
        (false, true) => "with SO_REUSEPORT",
        (true, true) => "with SO_REUSEADDR and SO_REUSEPORT",
    };
    let kind = match server.transport {
        crate::bind::Transport::Tcp => "a server",
        crate::bind::Transport::Udp => "a UDP server",
    };
    let address = match server.address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) if server.v6only => format!("[{v6}] (IPv6 only)"),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    format!("{kind} {options} on {address}")
}

/// The name of an errno that bind(), listen() or socket() gives.
pub fn errno_name(errno: Errno) -> &'static str {
    match errno {
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::ACCESS => "EACCES",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::INVAL => "EINVAL",
        Errno::PERM => "EPERM",
        Errno::AFNOSUPPORT => "EAFNOSUPPORT",
        Errno::NODEV => "ENODEV",
        Errno::MFILE => "EMFILE",
        Errno::NOBUFS => "ENOBUFS",
        Errno::NOMEM => "ENOMEM",
        Errno::PROTONOSUPPORT => "EPROTONOSUPPORT",
        _ => "another error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Fact, ReuseFlags};
    use stayput_kernel::sock_diag::{Family, Protocol, Socket, State, Timer};

    fn raw(state: State, inode: u32, timer: Option<(Timer, Duration)>) -> Socket {
        Socket {
            family: Family::V4,
            protocol: Protocol::Tcp,
            state,
            local: "127.0.0.1:5000".parse().unwrap(),
            remote: "127.0.0.1:40000".parse().unwrap(),
            inode,
            uid: 0,
            rqueue: 0,
            wqueue: 0,
            timer,
            interface: None,
            cookie: 1,
            cgroup_id: None,
            mark: None,
            v6only: None,
            shutdown: None,
            mptcp: None,
            tcp_info: None,
        }
    }

    fn around() -> Surroundings {
        Surroundings { unprivileged_start: 1024, may_bind_low: false, address_error: None }
    }

    fn usual() -> Server {
        Server::usual("0.0.0.0".parse().unwrap(), 0)
    }

    fn time_wait(seconds: u64) -> PortSocket {
        PortSocket::new(raw(State::TimeWait, 0, Some((Timer::TimeWait, Duration::from_secs(seconds)))))
    }

    #[test]
    fn time_waits_with_unknown_options_wait_for_a_probe() {
        let sockets = [time_wait(10), time_wait(50)];
        let verdict = judge(&usual(), 5000, &sockets, &around());
        assert_eq!((verdict.outcome, verdict.socket, verdict.not_before_ms), (Outcome::Unknown, Some(1), Some(50_000)));
        let plain = judge(&usual().plain(), 5000, &sockets, &around());
        assert_eq!((plain.outcome, plain.errno), (Outcome::Taken, Some("EADDRINUSE")));
        let taken = confirm(verdict.clone(), Probe::Fails { call: "bind", errno: Errno::ADDRINUSE });
        assert_eq!((taken.outcome, taken.basis, taken.not_before_ms), (Outcome::Taken, Basis::Probe, Some(50_000)));
        assert_eq!(taken.note, None);
        let free = confirm(verdict, Probe::Works { listened: true });
        assert_eq!((free.outcome, free.socket, free.not_before_ms), (Outcome::Free, None, None));
    }

    #[test]
    fn a_listener_decides_before_its_connections() {
        let mut listener = PortSocket::new(raw(State::Listen, 7, None));
        listener.flags = Fact::Known { value: ReuseFlags { reuseaddr: true, reuseport: false }, source: "test" };
        let sockets = [time_wait(3), PortSocket::new(raw(State::Established, 8, None)), listener];
        let verdict = judge(&usual(), 5000, &sockets, &around());
        assert_eq!((verdict.outcome, verdict.socket, verdict.blockers), (Outcome::Taken, Some(2), vec![2]));
        let plain = judge(&usual().plain(), 5000, &sockets, &around());
        assert_eq!((plain.socket, plain.blockers, plain.not_before_ms), (Some(2), vec![0, 1, 2], None));
    }

    #[test]
    fn errors_that_mask_the_port_come_in_the_kernels_order() {
        let away = Surroundings { address_error: Some(Errno::ADDRNOTAVAIL), ..around() };
        assert_eq!(judge(&usual(), 80, &[], &around()).errno, Some("EACCES"));
        assert_eq!(judge(&usual(), 80, &[], &away).errno, Some("EADDRNOTAVAIL"));
        let six = Server { address: "2001:db8::1".parse().unwrap(), ..usual() };
        assert_eq!(judge(&six, 80, &[], &away).errno, Some("EACCES"));
        assert_eq!(judge(&usual(), 80, &[], &Surroundings { may_bind_low: true, ..around() }).outcome, Outcome::Free);
    }

    #[test]
    fn rule_and_probe_that_differ_say_so() {
        let verdict = confirm(judge(&usual(), 5000, &[], &around()), Probe::Fails { call: "bind", errno: Errno::ADDRINUSE });
        assert_eq!((verdict.outcome, verdict.basis), (Outcome::Taken, Basis::Probe));
        assert!(verdict.note.unwrap().contains("does not show"));
    }

    #[test]
    fn half_open_connections_hold_nothing() {
        let sockets = [PortSocket::new(raw(State::NewSynRecv, 0, None))];
        assert_eq!(judge(&usual().plain(), 5000, &sockets, &around()).outcome, Outcome::Free);
    }
}
