//! Collecting the facts about ports: asks the kernel for those ports only, looks for the owners of their sockets, and puts
//! the judgement beside it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;
use std::time::Duration;

use stayput_kernel::bind_probe::{self, Attempt};
use stayput_kernel::procfs::{Pid, Proc};
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, Socket, State, States};

use crate::bind::{Server, Transport};
use crate::cgroup;
use crate::elsewhere;
use crate::explain;
use crate::facts::{ElsewhereListener, Holder, PortSocket, Process, Role, Unreadable, Via};
use crate::keepers;
use crate::owners;
use crate::process::Describer;
use crate::report::{Decides, Error, Options, Report};
use crate::scan::{self, Hit, Scan};
use crate::verdict::{self, Outcome, Probe, Surroundings, Verdict};

/// Connections of one kind that are looked at one by one; beyond that they are counted.
const KEPT_CONNECTIONS: usize = 128;
/// How often a look is repeated because a socket changed hands meanwhile.
const ATTEMPTS: usize = 3;
/// So many processes are looked into faster than the likely ones are found out.
const FEW_PROCESSES: usize = 256;
/// Processes that are described in full.
const MOST_HOLDERS: usize = 256;

/// Looks at `ports` (in any order; duplicates are looked at once) and reports on each.
///
/// With a single port that is certainly taken, `first` gets the report's sentence as soon as an owner is known, which on a
/// large machine is long before all owners are.
///
/// # Errors
/// Neither sockets nor processes can be listed at all. What else is missing stands in the reports.
pub fn inspect(ports: &[u16], options: &Options, mut first: impl FnMut(&str)) -> Result<Vec<Report>, Error> {
    for _ in 0..ATTEMPTS {
        if let Some(reports) = inspect_once(ports, options, &mut first, false)? {
            return Ok(reports);
        }
    }
    // A port that changes hands all the time: the last look is as good as any.
    Ok(inspect_once(ports, options, &mut first, true)?.unwrap_or_default())
}

/// One look; `None` if a socket changed hands under it and `anyway` is not set.
fn inspect_once(ports: &[u16], options: &Options, first: &mut dyn FnMut(&str), anyway: bool) -> Result<Option<Vec<Report>>, Error> {
    let proc = Proc::open()?;
    let mut diag = SockDiag::open()?;
    let wanted: HashSet<u16> = ports.iter().copied().collect();
    let look = Look { proc: &proc, describer: Describer::new(&proc), us: Us::read(&proc), wanted, options };
    let mut sockets = look.servers_of(&mut diag)?;
    let mut urgent = holding(&sockets);
    let listening = !urgent.is_empty();
    if !listening {
        // Without a listener few questions are left; often none that needs a process.
        sockets.extend(look.connections(&mut diag)?);
        urgent = holding(&sockets);
    }
    let mut scan = Scan::default();
    let mut elsewhere = Vec::new();
    let mut early = None;
    if sockets.iter().any(|socket| socket.inode != 0) {
        let pids = look.order(&sockets)?;
        std::thread::scope(|scope| {
            let (send, found) = mpsc::channel();
            let urgent = &urgent;
            let (proc, pids) = (look.proc, &pids);
            let scanning = scope.spawn(move || scan::first_look(proc, pids, urgent, Some(&send)));
            if listening {
                early = look.first_sentence(&sockets, &found);
                if let Some(sentence) = &early {
                    first(sentence);
                }
                if let Ok(more) = look.connections(&mut diag) {
                    sockets.extend(more);
                }
            }
            scan = scanning.join().unwrap_or_default();
        });
        look.complete(&mut scan, &sockets);
        look.go_deep(&mut scan, &sockets, &pids);
        if !anyway && look.changed_hands(&mut diag, &sockets, &scan) {
            return Ok(None);
        }
    }
    // Listeners elsewhere are what people look for when they see nothing here; nobody needs them beside one that is here.
    if options.elsewhere && look.wanted.iter().any(|port| !sockets.iter().any(|socket| is_listener_on(socket, *port))) {
        elsewhere = elsewhere::listeners(&proc, &proc.pids()?, &look.wanted);
    }
    for listener in &mut elsewhere {
        listener.command = listener.pid.and_then(|pid| look.describer.describe(pid, &[])).map(|process| process.command);
    }
    let mut sorted: Vec<u16> = look.wanted.iter().copied().collect();
    sorted.sort_unstable();
    let mut by_port: HashMap<u16, Vec<PortSocket>> = HashMap::new();
    for socket in sockets {
        by_port.entry(socket.local.port()).or_default().push(socket);
    }
    let mut reports = Vec::new();
    for port in sorted {
        let sockets = by_port.remove(&port).unwrap_or_default();
        let there = elsewhere.iter().filter(|listener| listener.local.port() == port).cloned().collect();
        let mut report = look.report(port, sockets, &scan, there, &mut diag);
        if let Some(sentence) = early.take() {
            report.summary = sentence;
        }
        reports.push(report);
    }
    Ok(Some(reports))
}

/// Inodes of the sockets that hold a port.
fn holding(sockets: &[PortSocket]) -> HashSet<u32> {
    sockets.iter().filter(|socket| socket.role.holds() && socket.inode != 0).map(|socket| socket.inode).collect()
}

fn is_listener_on(socket: &PortSocket, port: u16) -> bool {
    socket.role == Role::Listener && socket.local.port() == port
}

/// Who asks.
struct Us {
    uid: u32,
    capabilities: u64,
}

impl Us {
    fn read(proc: &Proc) -> Self {
        let status = proc.status(rustix::process::getpid().as_raw_nonzero().get());
        Self { uid: rustix::process::geteuid().as_raw(), capabilities: status.map_or(0, |status| status.cap_eff) }
    }

    /// CAP_NET_BIND_SERVICE is bit 10. Another user is taken to have no capabilities, root all.
    fn may_bind_low(&self, uid: u32) -> bool {
        if uid == self.uid { self.capabilities & (1 << 10) != 0 } else { uid == 0 }
    }
}

struct Look<'a> {
    proc: &'a Proc,
    describer: Describer<'a>,
    us: Us,
    wanted: HashSet<u16>,
    options: &'a Options,
}

impl Look<'_> {
    /// Only sockets near the wanted ports; the kernel knows one range.
    fn within(&self, query: Query) -> Query {
        let lowest = self.wanted.iter().copied().min().unwrap_or(0);
        let highest = self.wanted.iter().copied().max().unwrap_or(0);
        query.ports(lowest..=highest)
    }

    /// TCP listeners and UDP sockets: their tables are small or sorted by port, so this is a cheap question.
    fn servers_of(&self, diag: &mut SockDiag) -> Result<Vec<PortSocket>, Error> {
        let mut found = Vec::new();
        let mut ask = |query: Query| {
            diag.each(&self.within(query), |raw| {
                if self.wanted.contains(&raw.local.port()) {
                    found.push(PortSocket::new(raw));
                }
            })
        };
        ask(Query::tcp(States::LISTEN).with_tcp_info())?;
        for family in Family::ALL {
            // A kernel without IPv6 or without udp_diag refuses that one question.
            let _ = ask(Query::new(family, Protocol::Udp, States::ALL));
        }
        // The kernel's order is that of its hash tables.
        found.sort_by_key(|socket| (socket.transport, socket.raw.family, socket.local));
        Ok(found)
    }

    /// TCP sockets in all other states, bound ones included, alike ones counted together. The kernel walks all its sockets, so
    /// it is asked once for both families.
    fn connections(&self, diag: &mut SockDiag) -> Result<Vec<PortSocket>, Error> {
        let mut kept = Kept::default();
        diag.each(&self.within(Query::tcp(States::CONNECTIONS | States::BOUND_ONLY)), |raw| {
            if self.wanted.contains(&raw.local.port()) {
                kept.add(raw);
            }
        })?;
        Ok(kept.finish())
    }

    /// All processes, likely owners first: those in the cgroup where a socket was made, then its user's, then the rest.
    fn order(&self, sockets: &[PortSocket]) -> Result<Vec<Pid>, Error> {
        let mut pids = self.proc.pids()?;
        if pids.len() <= FEW_PROCESSES {
            return Ok(pids);
        }
        // Most processes are root's: to put these first would say nothing.
        let uids: HashSet<u32> =
            sockets.iter().filter(|socket| socket.role.holds() && socket.raw.uid != 0).map(|socket| socket.raw.uid).collect();
        let mut likely = HashSet::new();
        let ids: HashSet<u64> = sockets.iter().filter(|socket| socket.role.holds()).filter_map(|socket| socket.raw.cgroup_id).collect();
        if let Some(mount) = cgroup::mount_point(self.proc) {
            for path in ids.into_iter().filter_map(|id| cgroup::path_of(&mount, id)) {
                likely.extend(cgroup::members(&mount, &path));
            }
        }
        if !(likely.is_empty() && uids.is_empty()) {
            pids.sort_by_cached_key(|pid| {
                let rank = if likely.contains(pid) {
                    0
                } else if !uids.is_empty() && self.proc.owner(*pid).is_ok_and(|uid| uids.contains(&uid)) {
                    1
                } else {
                    2
                };
                (rank, *pid)
            });
        }
        Ok(pids)
    }

    /// The report's sentence from the first owner of a listener that certainly stops the server that is asked for.
    fn first_sentence(&self, sockets: &[PortSocket], found: &mpsc::Receiver<Hit>) -> Option<String> {
        let [port] = self.wanted.iter().copied().collect::<Vec<_>>()[..] else { return None };
        let server = self.servers().into_iter().next()?;
        let verdict = verdict::judge(&server, port, sockets, &self.surroundings(&server));
        let socket = sockets.get(verdict.socket?)?;
        if verdict.outcome != Outcome::Taken || socket.role != Role::Listener || verdict.errno != Some("EADDRINUSE") {
            return None;
        }
        // Ends when the scan does.
        let hit = found.iter().find(|hit| hit.inode == socket.inode)?;
        let process = self.describer.describe(hit.pid, &[port])?;
        Some(explain::taken_by(port, socket, &process))
    }

    /// Goes on after the first look, in the cheapest way that leaves no owner out.
    fn complete(&self, scan: &mut Scan, sockets: &[PortSocket]) {
        let urgent: &HashSet<u32> = &holding(sockets);
        let ownerless = |scan: &Scan| sockets.iter().any(|socket| socket.inode != 0 && scan.of(socket.inode).is_empty());
        let found = !urgent.is_empty() && urgent.iter().all(|inode| !scan.of(*inode).is_empty());
        if !found || !scan::sharers(self.proc, scan, urgent) {
            return scan::second_look(self.proc, scan, None::<&HashSet<Pid>>);
        }
        if ownerless(scan) {
            // Connections belong to the listener's processes in all likelihood.
            let likely: HashSet<Pid> = urgent.iter().flat_map(|inode| scan.of(*inode)).map(|hit| hit.pid).collect();
            scan::second_look(self.proc, scan, Some(&likely));
        }
        // Un-accepted connections have an inode of 0: whoever is still missing was handed to somebody else.
        if ownerless(scan) {
            scan::second_look(self.proc, scan, None::<&HashSet<Pid>>);
        }
    }

    /// Whether a socket without an owner is gone by now: its owner ended after the kernel was asked and before /proc was.
    fn changed_hands(&self, diag: &mut SockDiag, sockets: &[PortSocket], scan: &Scan) -> bool {
        let missing = |socket: &&PortSocket| socket.role.holds() && socket.inode != 0 && scan.of(socket.inode).is_empty();
        let missing: HashSet<u64> = sockets.iter().filter(missing).map(|socket| socket.raw.cookie).collect();
        if missing.is_empty() {
            return false;
        }
        let (Ok(mut now), Ok(others)) = (self.servers_of(diag), self.connections(diag)) else { return false };
        now.extend(others);
        let still: HashSet<u64> = now.iter().map(|socket| socket.raw.cookie).collect();
        !missing.is_subset(&still)
    }

    /// Looks in the odd places for sockets that nobody seems to have.
    fn go_deep(&self, scan: &mut Scan, sockets: &[PortSocket], pids: &[Pid]) {
        let missing: HashSet<u32> = sockets
            .iter()
            .filter(|socket| socket.role.holds() && socket.inode != 0 && scan.of(socket.inode).is_empty())
            .map(|socket| socket.inode)
            .collect();
        if missing.is_empty() {
            return;
        }
        let mut hits = scan::deep_scan(self.proc, pids, &missing);
        let still: Vec<u32> = missing.into_iter().filter(|inode| hits.iter().all(|hit| hit.inode != *inode)).collect();
        if !still.is_empty() {
            let unix = SockDiag::open().and_then(|mut diag| diag.unix_sockets(States::ALL)).unwrap_or_default();
            let unix: HashSet<u32> = unix.into_iter().map(|socket| socket.inode).collect();
            for pid in scan::in_flight_candidates(self.proc, scan, &unix) {
                hits.extend(still.iter().map(|inode| Hit { inode: *inode, pid, fd: -1, via: Via::InFlight }));
            }
        }
        scan.add(hits);
    }

    fn servers(&self) -> Vec<Server> {
        if !self.options.servers.is_empty() {
            return self.options.servers.clone();
        }
        let any = Server::usual(IpAddr::V4(Ipv4Addr::UNSPECIFIED), self.us.uid);
        let six = Server::usual(IpAddr::V6(Ipv6Addr::UNSPECIFIED), self.us.uid);
        vec![any.clone(), any.plain(), six]
    }

    fn surroundings(&self, server: &Server) -> Surroundings {
        let start = self.proc.sysctl("net/ipv4/ip_unprivileged_port_start").ok().and_then(|numbers| numbers.first().copied());
        Surroundings {
            unprivileged_start: start.and_then(|start| start.try_into().ok()).unwrap_or(1024),
            may_bind_low: self.us.may_bind_low(server.uid),
            address_error: owners::address_error(server),
        }
    }

    fn report(
        &self,
        port: u16,
        mut sockets: Vec<PortSocket>,
        scan: &Scan,
        elsewhere: Vec<ElsewhereListener>,
        diag: &mut SockDiag,
    ) -> Report {
        owners::fill(&mut sockets, scan, &self.describer, self.proc);
        owners::tell_direction(&mut sockets, self.proc, diag);
        let verdicts: Vec<Verdict> = self.servers().iter().map(|server| self.judge(server, port, &sockets)).collect();
        let holders = self.holders(port, &sockets, scan);
        let decides = verdicts.first().and_then(|verdict| {
            let index = verdict.socket?;
            let socket = &sockets[index];
            Some(Decides {
                socket: index,
                state: socket.state.name(),
                local: socket.local,
                errno: verdict.errno,
                pids: socket.pids.value().cloned().unwrap_or_default(),
            })
        });
        let unreadable = self.unreadable(scan, &sockets);
        let mut report = Report {
            port,
            summary: String::new(),
            verdicts,
            decides,
            sockets,
            holders,
            elsewhere,
            notes: Vec::new(),
            next: Vec::new(),
            unreadable,
        };
        report.summary = explain::summary(&report);
        report.notes = explain::notes(&report, &explain::Ranges::read(self.proc));
        report.next = explain::next_steps(&report, self.us.uid);
        report
    }

    fn judge(&self, server: &Server, port: u16, sockets: &[PortSocket]) -> Verdict {
        let verdict = verdict::judge(server, port, sockets, &self.surroundings(server));
        let probe =
            if self.options.probe { self.probe(server, port, sockets, &verdict) } else { Probe::NotMade { reason: "not asked for" } };
        verdict::confirm(verdict, probe)
    }

    /// Asks the kernel itself, where that harms nobody.
    fn probe(&self, server: &Server, port: u16, sockets: &[PortSocket], verdict: &Verdict) -> Probe {
        let same = |socket: &&PortSocket| socket.transport == server.transport;
        if server.transport == Transport::Udp && sockets.iter().any(|socket| same(&socket)) {
            return Probe::NotMade { reason: "a UDP probe could share the port and take its datagrams" };
        }
        if server.uid != self.us.uid && self.us.uid != 0 {
            return Probe::NotMade { reason: "only root can probe for another user" };
        }
        if server.uid != self.us.uid && verdict.errno == Some("EACCES") {
            return Probe::NotMade { reason: "the kernel would judge the probe by our rights" };
        }
        // Listening beside a socket that is bound and about to listen would make its listen() fail; listening with
        // SO_REUSEPORT beside a listener would join its group and take connections. A mere bind() does neither.
        let listen = server.transport == Transport::Tcp && !sockets.iter().filter(same).any(|socket| socket.role.holds());
        let attempt = Attempt {
            protocol: if server.transport == Transport::Udp { Protocol::Udp } else { Protocol::Tcp },
            address: SocketAddr::new(server.address, port),
            reuseaddr: server.reuseaddr,
            reuseport: server.reuseport,
            v6only: server.v6only,
            uid: (server.uid != self.us.uid).then_some(server.uid),
            listen,
        };
        match bind_probe::attempt(&attempt) {
            Ok(answer) => Probe::from_answer(answer),
            Err(errno) => Probe::Fails { call: "socket", errno },
        }
    }

    fn holders(&self, port: u16, sockets: &[PortSocket], scan: &Scan) -> Vec<Holder> {
        let mut found: HashMap<Pid, (Via, Role, Vec<usize>)> = HashMap::new();
        for (index, socket) in sockets.iter().enumerate().filter(|(_, socket)| socket.inode != 0) {
            for hit in scan.of(socket.inode) {
                let entry = found.entry(hit.pid).or_insert((hit.via, socket.role, Vec::new()));
                entry.0 = entry.0.min(hit.via);
                entry.1 = entry.1.min(socket.role);
                if entry.2.last() != Some(&index) {
                    entry.2.push(index);
                }
            }
        }
        let mut pids: Vec<Pid> = found.keys().copied().collect();
        // Those who hold the port come before connections, however many these are.
        pids.sort_by_key(|pid| (found.get(pid).map(|entry| entry.1), *pid));
        pids.truncate(MOST_HOLDERS);
        let mut holders: Vec<Holder> = pids
            .into_iter()
            .filter_map(|pid| {
                let (via, role, sockets) = found.remove(&pid)?;
                let mut process = self.describer.describe(pid, &[port])?;
                if !role.holds() {
                    process.stray = None;
                }
                Some(Holder { process, via, role, sockets })
            })
            .collect();
        let mut all: Vec<_> = holders.iter_mut().map(|holder| (holder.sockets.clone(), &mut holder.process)).collect();
        keepers::adopt(&mut all);
        // Who listens comes first, strays last, the oldest of equals first: the master before its workers.
        holders.sort_by_key(|holder| {
            let Process { pid, start_ticks, stray, .. } = &holder.process;
            (holder.role, holder.via, stray.is_some(), keepers::is_keeper(&holder.process), *start_ticks, *pid)
        });
        holders
    }

    fn unreadable(&self, scan: &Scan, sockets: &[PortSocket]) -> Vec<Unreadable> {
        let mut out = Vec::new();
        let orphan = sockets.iter().any(|socket| socket.inode != 0 && socket.pids.value().is_none());
        let count = scan.denied.len();
        if count > 0 && sockets.iter().any(|socket| socket.inode != 0) {
            let reason = match (self.us.uid, orphan) {
                (0, _) => "not even this root may look into them (a sandbox, or CAP_SYS_PTRACE is missing)",
                (_, true) => "`sudo` would name the owner",
                (_, false) => "`sudo` would show whether one of them shares the socket",
            };
            let what = if count == 1 { "the open files of 1 process".to_owned() } else { format!("the open files of {count} processes") };
            out.push(Unreadable { what, reason: reason.to_owned() });
        }
        if self.options.elsewhere && self.us.uid != 0 {
            out.push(Unreadable {
                what: "other network namespaces".to_owned(),
                reason: "only root may look into them; they cannot stop a bind here".to_owned(),
            });
        }
        out
    }
}

/// Connections by kind: a few of each, the rest as a count.
#[derive(Default)]
struct Kept {
    groups: HashMap<(Family, State, bool), Vec<PortSocket>>,
}

impl Kept {
    fn add(&mut self, raw: Socket) {
        let group = self.groups.entry((raw.family, raw.state, raw.inode == 0)).or_default();
        if group.len() < KEPT_CONNECTIONS {
            group.push(PortSocket::new(raw));
        } else if let Some(last) = group.last_mut() {
            // The last one stands for all that follow, with the longest timer of them.
            last.count += 1;
            let timer = PortSocket::new(raw).not_before.unwrap_or(Duration::ZERO);
            last.not_before = last.not_before.map(|left| left.max(timer));
        }
    }

    fn finish(self) -> Vec<PortSocket> {
        let mut all: Vec<PortSocket> = self.groups.into_values().flatten().collect();
        all.sort_by_key(|socket| (socket.raw.family, socket.raw.state, socket.local, socket.remote));
        all
    }
}
