//! Who has which connections: sock_diag for the sockets, `/proc/PID/fd` for the generation that owns them.
//!
//! A connection belongs to the generation in whose process tree its inode is open. What belongs to nobody that we can see counts as
//! the generation's that is asked about: a drain rather waits too long than cuts a connection that it did not see.

use stayput_kernel::procfs::Proc;
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, Socket, State, States, TcpInfo};
use stayput_model::event::DrainReport;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;

/// A connection that has been quiet for so long may be an idle keep-alive one.
const QUIET_MS: u32 = 5_000;

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// The generation whose connections are wanted.
    pub(crate) generation: u64,
    /// Where the service listens.
    pub(crate) addresses: BTreeSet<SocketAddr>,
    /// Inodes of the generation's own listeners.
    pub(crate) listeners: BTreeSet<u32>,
    /// Main processes of all generations of the service.
    pub(crate) roots: BTreeMap<i32, u64>,
    /// Processes of the generation that are not below the guard: what an earlier life left.
    pub(crate) outside: Vec<i32>,
    /// The guard: whoever lost its parent is its child.
    pub(crate) guard: i32,
    /// Name of the instance.
    pub(crate) instance: String,
}

/// The eyes: a netlink socket, `/proc`, and what was found out about inodes so far.
#[derive(Debug)]
pub(crate) struct Observer {
    diag: SockDiag,
    proc: Proc,
    owners: HashMap<u32, u64>,
}

impl Observer {
    /// Opens both sources. Where sock_diag is refused, connections are found all the same (`/proc/net/tcp`), but not how long they have been idle:
    /// they count as busy.
    pub(crate) fn open() -> Result<Self, String> {
        let diag = SockDiag::open_or_listed();
        let proc = Proc::open().map_err(|error| error.to_string())?;
        Ok(Self { diag, proc, owners: HashMap::new() })
    }

    /// Counts the generation's connections. With `half_open`, connections whose handshake is under way count as queued: nobody can say
    /// for which listener of the port.
    pub(crate) fn look(&mut self, question: &Question, half_open: bool) -> Result<DrainReport, String> {
        let (mut report, open) = self.sockets(question, half_open)?;
        self.attribute(question, &open);
        let unknown = |owners: &HashMap<u32, u64>, socket: &Socket| !owners.contains_key(&socket.inode);
        let again = if open.iter().any(|socket| unknown(&self.owners, socket)) {
            // A connection that was opened and closed while we looked has no owner any more. Only what is still there, and was
            // there during the whole look for its owner, has an owner that we cannot see.
            self.sockets(question, half_open)?.1.iter().map(|socket| socket.inode).collect()
        } else {
            BTreeSet::new()
        };
        for socket in &open {
            let counts = match self.owners.get(&socket.inode) {
                Some(owner) => *owner == question.generation,
                None => again.contains(&socket.inode),
            };
            if counts {
                count(socket, &mut report);
            }
        }
        Ok(report)
    }

    /// The open connections on the service's addresses, whosever; and what waits in the generation's queues.
    fn sockets(&mut self, question: &Question, half_open: bool) -> Result<(DrainReport, Vec<Socket>), String> {
        let mut report = DrainReport::default();
        let mut open: Vec<Socket> = Vec::new();
        let mut seen = BTreeSet::new();
        for address in &question.addresses {
            if !seen.insert((address.is_ipv4(), address.port())) {
                continue;
            }
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            let states = States::LISTEN | States::ESTABLISHED | States::CLOSE_WAIT | States::HALF_OPEN;
            let query = Query::new(family, Protocol::Tcp, states).port(address.port()).with_tcp_info();
            let each = |socket: Socket| match socket.state {
                State::Listen => {
                    if question.listeners.contains(&socket.inode) {
                        report.queued += socket.rqueue;
                    }
                }
                State::Established | State::CloseWait => {
                    // Without an inode it waits in an accept queue, and is counted there.
                    if socket.inode != 0 && question.is_ours(&socket) {
                        open.push(socket);
                    }
                }
                _ => {
                    if half_open && question.is_ours(&socket) {
                        report.queued += 1;
                    }
                }
            };
            self.diag.each(&query, each).map_err(|error| error.to_string())?;
        }
        Ok((report, open))
    }

    /// Looks for the owners of sockets that are new to us.
    fn attribute(&mut self, question: &Question, open: &[Socket]) {
        let inodes: BTreeSet<u32> = open.iter().map(|socket| socket.inode).collect();
        self.owners.retain(|inode, _| inodes.contains(inode));
        if inodes.iter().all(|inode| self.owners.contains_key(inode)) {
            return;
        }
        for (pid, generation) in self.members(question) {
            // A process that ended meanwhile, or that we may not read, has nothing to say.
            // Threads share their descriptors but for rare exceptions, and there may be hundreds: the main one speaks for all.
            let Ok(scan) = self.proc.scan_fds(pid) else { continue };
            let owners = &mut self.owners;
            let _ = scan.sockets(|socket| {
                if inodes.contains(&socket.inode) {
                    owners.insert(socket.inode, generation);
                }
            });
        }
    }

    /// Where its connections come from.
    pub(crate) fn source(&self) -> &'static str {
        self.diag.source()
    }

    /// Where it looks.
    pub(crate) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Inodes of the open connections on the service's addresses, whosever.
    pub(crate) fn open_connections(&mut self, question: &Question) -> Result<BTreeSet<u32>, String> {
        Ok(self.sockets(question, false)?.1.iter().map(|socket| socket.inode).collect())
    }

    /// Every process of the service's generations: descendants of their main processes, and what lost its parent and carries our
    /// variables in its environment.
    pub(crate) fn members(&self, question: &Question) -> Vec<(i32, u64)> {
        let parents = self.below(question.guard);
        let mut found: Vec<(i32, u64)> = question.outside.iter().map(|pid| (*pid, question.generation)).collect();
        for pid in parents.keys().copied() {
            let mut at = pid;
            loop {
                if let Some(generation) = question.roots.get(&at) {
                    found.push((pid, *generation));
                    break;
                }
                match parents.get(&at) {
                    Some(parent) if *parent != question.guard && *parent != at => at = *parent,
                    // A child of the guard that is no main process: it lost its parent, or is one of ours.
                    _ => {
                        found.extend(self.named(pid, question).map(|generation| (pid, generation)));
                        break;
                    }
                }
            }
        }
        found
    }

    /// All descendants of the guard with their parents. There may be thousands of other processes: only the tree is walked, where the
    /// kernel has `children` files (CONFIG_PROC_CHILDREN).
    fn below(&self, guard: i32) -> HashMap<i32, i32> {
        let mut parents = HashMap::new();
        let mut todo = vec![guard];
        while let Some(pid) = todo.pop() {
            // A child hangs on the thread that forked it.
            for task in self.proc.tasks(pid).unwrap_or_default() {
                let Ok(children) = self.proc.read_path(&format!("{pid}/task/{task}/children")) else {
                    if pid == guard {
                        return self.everybody();
                    }
                    continue;
                };
                let children = children.split(u8::is_ascii_whitespace).filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok());
                for child in children {
                    if parents.insert(child, pid).is_none() {
                        todo.push(child);
                    }
                }
            }
        }
        parents
    }

    /// All processes with their parents.
    fn everybody(&self) -> HashMap<i32, i32> {
        let pids = self.proc.pids().unwrap_or_default();
        pids.into_iter().filter_map(|pid| self.proc.stat(pid).ok().map(|stat| (pid, stat.ppid))).collect()
    }

    /// The generation that a process names in its environment.
    fn named(&self, pid: i32, question: &Question) -> Option<u64> {
        let environ = self.proc.environ(pid).ok()?;
        let value = |name: &str| {
            environ.iter().find_map(|entry| entry.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec))
        };
        if value("STAYPUT_INSTANCE")? != question.instance.as_bytes() {
            return None;
        }
        std::str::from_utf8(&value("STAYPUT_GENERATION")?).ok()?.parse().ok()
    }

    /// Whether the connection from `peer` to `listener` was accepted: its server side has an inode. `None`: there is no such connection.
    pub(crate) fn is_accepted(&mut self, listener: SocketAddr, peer: SocketAddr) -> Result<Option<bool>, String> {
        let family = if listener.is_ipv4() { Family::V4 } else { Family::V6 };
        let query = Query::new(family, Protocol::Tcp, States::ESTABLISHED | States::CLOSE_WAIT).port(listener.port());
        let mut accepted = None;
        let each = |socket: Socket| {
            if socket.remote == peer {
                accepted = Some(socket.inode != 0);
            }
        };
        self.diag.each(&query, each).map_err(|error| error.to_string())?;
        Ok(accepted)
    }

    /// Looks at all of these addresses at once: for a status of many services, one look is cheaper than one for each.
    pub(crate) fn survey(&mut self, addresses: &BTreeSet<SocketAddr>) -> Result<Survey, String> {
        let mut survey = Survey::default();
        let ports: BTreeSet<(bool, u16)> = addresses.iter().map(|address| (address.is_ipv4(), address.port())).collect();
        // The kernel goes through its whole table for each query, whatever the filter; but what it does not send need not be read.
        let few = ports.len() <= 4;
        let queries: Vec<(Family, Option<u16>)> = if few {
            ports.iter().map(|(v4, port)| (if *v4 { Family::V4 } else { Family::V6 }, Some(*port))).collect()
        } else {
            Family::ALL.into_iter().map(|family| (family, None)).collect()
        };
        for (family, port) in queries {
            let query = Query::new(family, Protocol::Tcp, States::LISTEN | States::ESTABLISHED | States::CLOSE_WAIT).with_tcp_info();
            let query = port.map_or(query.clone(), |port| query.port(port));
            let each = |socket: Socket| {
                let key = (family == Family::V4, socket.local.port());
                if !ports.contains(&key) {
                    return;
                }
                if socket.state == State::Listen {
                    survey.queues.insert(socket.inode, socket.rqueue);
                    return;
                }
                let waits = (socket.inode == 0).then(|| socket.tcp_info.map_or(0, |info| info.last_ack_recv_ms));
                survey.open.entry(key).or_default().push((socket.local.ip(), waits));
            };
            self.diag.each(&query, each).map_err(|error| error.to_string())?;
        }
        survey.source = self.diag.source();
        Ok(survey)
    }

    /// Who listens there, as a phrase: "pid 991 nginx (LISTEN 0.0.0.0:80, inode 4711)".
    pub(crate) fn holder(&mut self, address: SocketAddr) -> Option<String> {
        let mut listening: Option<(SocketAddr, u32)> = None;
        for family in Family::ALL {
            let query = Query::new(family, Protocol::Tcp, States::LISTEN).port(address.port());
            let each = |socket: Socket| {
                if listening.is_none() || socket.local.ip() == address.ip() {
                    listening = Some((socket.local, socket.inode));
                }
            };
            self.diag.each(&query, each).ok()?;
        }
        let (local, inode) = listening?;
        let evidence = format!("LISTEN {local}, inode {inode}");
        Some(match self.owner_of(inode) {
            Some(owner) => format!("{owner} ({evidence})"),
            None => format!("a process that we may not look at ({evidence})"),
        })
    }

    /// A process that has the socket, as "pid 991 nginx"; `None`: none that we may look at.
    pub(crate) fn owner_of(&self, inode: u32) -> Option<String> {
        let pid = self.proc.pids().ok()?.into_iter().find(|pid| {
            let mut has = false;
            if let Ok(scan) = self.proc.scan_fds(*pid) {
                let _ = scan.sockets(|socket| has |= socket.inode == inode);
            }
            has
        })?;
        let comm = self.proc.comm(pid).map(|comm| stayput_model::text::printable_bytes(comm.as_bytes())).unwrap_or_default();
        Some(format!("pid {pid} {comm}"))
    }
}

/// Where a connection is, and for how long it has waited at least, in milliseconds, if nobody has accepted it.
type Place = (IpAddr, Option<u32>);

/// What one look at many addresses saw.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Where it comes from.
    pub(crate) source: &'static str,
    /// Connections that wait in each listener, by its inode.
    queues: HashMap<u32, u32>,
    /// Connections by family (whether it is IPv4) and port.
    open: HashMap<(bool, u16), Vec<Place>>,
}

/// What was seen of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Accepted connections.
    pub(crate) accepted: u32,
    /// How long the one that waits longest has waited at least, in milliseconds; `None`: none waits.
    pub(crate) longest_wait_ms: Option<u32>,
}

impl Survey {
    /// Connections that wait in this listener; `None`: there is no such listener any more.
    pub(crate) fn queue(&self, inode: u32) -> Option<u32> {
        self.queues.get(&inode).copied()
    }

    /// What was seen at these addresses, in whose listeners so many connections wait. Nobody can say for which listener of a port a connection
    /// waits, and there is one that is nobody's: where the keeper may not mute its anchor, it fills the anchor's queue with a connection of its own,
    /// before any other. So of those that wait the youngest are the service's.
    pub(crate) fn at(&self, addresses: &BTreeSet<SocketAddr>, queued: Option<u32>) -> Seen {
        let mut waiting = Vec::new();
        let mut seen = Seen::default();
        let ports: BTreeSet<(bool, u16)> = addresses.iter().map(|address| (address.is_ipv4(), address.port())).collect();
        for key in ports {
            for (ip, waits) in self.open.get(&key).into_iter().flatten() {
                let here = |address: &SocketAddr| {
                    (address.is_ipv4(), address.port()) == key && (address.ip().is_unspecified() || same_ip(address.ip(), *ip))
                };
                if !addresses.iter().any(here) {
                    continue;
                }
                match waits {
                    None => seen.accepted += 1,
                    Some(waits) => waiting.push(*waits),
                }
            }
        }
        waiting.sort_unstable();
        let ours = queued.map_or(waiting.len(), |queued| waiting.len().min(queued as usize));
        seen.longest_wait_ms = waiting[..ours].last().copied();
        seen
    }
}

impl Question {
    /// It is a connection to one of the service's addresses.
    fn is_ours(&self, socket: &Socket) -> bool {
        self.addresses.iter().any(|address| {
            address.port() == socket.local.port() && (address.ip().is_unspecified() || same_ip(address.ip(), socket.local.ip()))
        })
    }
}

/// Equal, an IPv4 address in IPv6 clothes included.
fn same_ip(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

fn count(socket: &Socket, report: &mut DrainReport) {
    report.open += 1;
    if socket.rqueue > 0 || socket.wqueue > 0 {
        report.busy += 1;
        return;
    }
    let Some(info) = socket.tcp_info else {
        report.busy += 1;
        return;
    };
    if info.bytes_received != Some(0) && !server_spoke_last(&info) {
        report.busy += 1;
    } else if info.last_data_recv_ms.min(info.last_data_sent_ms) >= QUIET_MS {
        report.idle += 1;
    }
}

/// Whether the server has answered what the client said last. The kernel's times have the grain of a timer tick (1 to 10 ms): a
/// fast answer has the same time as its request, and so has the beginning of a connection whose first request is being
/// worked on. Then only an ACK that came later tells that something was sent; without one it counts as unanswered, for
/// a request that is cut is worse than a drain that lasts.
fn server_spoke_last(info: &TcpInfo) -> bool {
    info.last_data_sent_ms < info.last_data_recv_ms
        || (info.last_data_sent_ms == info.last_data_recv_ms && info.last_ack_recv_ms < info.last_data_recv_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpid;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn inode(socket: impl AsFd) -> u32 {
        u32::try_from(rustix::fs::fstat(socket).unwrap().st_ino).unwrap()
    }

    fn question(listener: &TcpListener) -> Question {
        let me = getpid().as_raw_nonzero().get();
        Question {
            generation: 7,
            addresses: BTreeSet::from([listener.local_addr().unwrap()]),
            listeners: BTreeSet::from([inode(listener)]),
            roots: BTreeMap::from([(me, 7)]),
            outside: Vec::new(),
            guard: rustix::process::getppid().unwrap().as_raw_nonzero().get(),
            instance: "test".to_owned(),
        }
    }

    #[test]
    fn queued_open_busy_and_foreign_connections_are_told_apart() {
        let mut observer = Observer::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = client.local_addr().unwrap();
        let mut question = question(&listener);
        assert_eq!(observer.look(&question, true), Ok(DrainReport { queued: 1, ..DrainReport::default() }));
        assert_eq!(observer.is_accepted(question.addresses.first().copied().unwrap(), peer), Ok(Some(false)));
        let (_server, _) = listener.accept().unwrap();
        assert_eq!(observer.is_accepted(question.addresses.first().copied().unwrap(), peer), Ok(Some(true)));
        assert_eq!(observer.look(&question, true), Ok(DrainReport { open: 1, ..DrainReport::default() }));
        client.write_all(b"GET").unwrap();
        assert_eq!(observer.look(&question, true), Ok(DrainReport { open: 1, busy: 1, ..DrainReport::default() }));
        // The same process tree is another generation's now: its connection is no longer ours.
        question.generation = 8;
        assert_eq!(observer.look(&question, true), Ok(DrainReport::default()));
        let addresses = BTreeSet::from([listener.local_addr().unwrap()]);
        let survey = observer.survey(&addresses).unwrap();
        assert_eq!((survey.queue(inode(&listener)), survey.queue(1)), (Some(0), None));
        assert_eq!(survey.at(&addresses, Some(0)), Seen { accepted: 1, longest_wait_ms: None });
        let _waits = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let survey = observer.survey(&addresses).unwrap();
        assert_eq!(survey.queue(inode(&listener)), Some(1));
        assert!(survey.at(&addresses, Some(1)).longest_wait_ms.is_some_and(|waits| waits < 5_000));
        assert_eq!(survey.at(&addresses, Some(0)).longest_wait_ms, None, "what waits in nobody's listener is the keeper's own");
        assert_eq!(survey.at(&BTreeSet::new(), None), Seen::default());
    }

    #[test]
    fn a_request_that_is_worked_on_is_not_idle_however_long_it_takes() {
        let info = |sent, recv, ack| TcpInfo {
            last_data_sent_ms: sent,
            last_data_recv_ms: recv,
            last_ack_recv_ms: ack,
            unacked: 0,
            total_retrans: 0,
            rtt_us: 0,
            bytes_acked: Some(1),
            bytes_received: Some(100),
            notsent_bytes: Some(0),
        };
        assert!(server_spoke_last(&info(6_000, 6_100, 5_960)), "answered");
        assert!(server_spoke_last(&info(6_000, 6_000, 5_960)), "answered at once, and the answer was acknowledged");
        assert!(!server_spoke_last(&info(6_000, 6_000, 6_000)), "the first request, as old as its connection");
        assert!(!server_spoke_last(&info(6_000, 5_500, 5_500)), "asked again");
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let mut observer = Observer::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let phrase = observer.holder(listener.local_addr().unwrap()).unwrap();
        assert!(phrase.starts_with(&format!("pid {} ", getpid().as_raw_nonzero())), "{phrase}");
        assert!(phrase.contains(&format!("inode {}", inode(&listener))), "{phrase}");
    }
}
