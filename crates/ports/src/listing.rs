//! All listeners of this network namespace with their owners.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;
use stayput_kernel::procfs::Proc;
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, States};
use stayput_model::text::printable_bytes;

use crate::facts::{Manager, PortSocket, Process, Unreadable};
use crate::keepers;
use crate::owners;
use crate::process::Describer;
use crate::report::Error;
use crate::scan;

/// A listening unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnixListener {
    /// Path, or `@name` for an abstract one; sanitised.
    pub name: String,
    /// Inode in sockfs.
    pub inode: u32,
    /// Owner.
    pub uid: Option<u32>,
    /// Connections that wait, and the limit.
    pub queue: Option<(u32, u32)>,
    /// Who has it.
    pub pids: Vec<i32>,
}

/// What is listening.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listing {
    /// TCP listeners and UDP sockets that are not connected, sorted by port.
    pub sockets: Vec<PortSocket>,
    /// Unix listeners, if asked for.
    pub unix: Vec<UnixListener>,
    /// The processes that have any of them, by pid.
    pub processes: Vec<Process>,
    /// What could not be looked at.
    pub unreadable: Vec<Unreadable>,
}

/// Which rows to keep; every filter that is set must match.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these ports.
    pub ports: Option<HashSet<u16>>,
    /// Part of a command line or name, or a pid.
    pub process: Option<String>,
    /// User name or uid.
    pub user: Option<String>,
    /// Part of a unit's, container's or stayput service's name.
    pub unit: Option<String>,
}

impl Filter {
    fn wants(&self, port: Option<u16>, uid: Option<u32>, user: Option<&str>, owners: &[&Process]) -> bool {
        let by_port = self.ports.as_ref().is_none_or(|ports| port.is_some_and(|port| ports.contains(&port)));
        let by_user = self.user.as_ref().is_none_or(|wanted| {
            user == Some(wanted)
                || uid.is_some_and(|uid| uid.to_string() == *wanted)
                || owners.iter().any(|process| process.user.as_ref() == Some(wanted))
        });
        let by_process = self.process.as_ref().is_none_or(|wanted| {
            owners
                .iter()
                .any(|process| process.command.contains(wanted) || process.name.contains(wanted) || process.pid.to_string() == *wanted)
        });
        let by_unit = self.unit.as_ref().is_none_or(|wanted| {
            owners.iter().filter_map(|process| process.manager.as_ref()).any(|manager| manager_name(manager).contains(wanted))
        });
        by_port && by_user && by_process && by_unit
    }
}

/// What people call a manager: `nginx.service`, `docker 1f2e…`, `stayput web`.
pub fn manager_name(manager: &Manager) -> String {
    match manager {
        Manager::Stayput(service) => format!("stayput {}", service.service).trim_end().to_owned(),
        Manager::Systemd { unit, .. } => unit.clone(),
        Manager::SystemdSocket { units } => units.join(" "),
        Manager::Container { runtime, id } => format!("{runtime} {id}"),
        Manager::PublishedPort { target } => format!("published {}", target.as_deref().unwrap_or_default()),
    }
}

/// Lists listeners, with unix ones if `unix`.
///
/// # Errors
/// Neither sockets nor processes can be listed.
pub fn list(unix: bool, filter: &Filter) -> Result<Listing, Error> {
    let proc = Proc::open()?;
    let mut diag = SockDiag::open()?;
    let mut sockets = Vec::new();
    diag.each(&Query::tcp(States::LISTEN).with_tcp_info(), |raw| sockets.push(PortSocket::new(raw)))?;
    for family in Family::ALL {
        let udp = Query::new(family, Protocol::Udp, States::UNCONNECTED);
        // Absent where the kernel has no udp_diag.
        let _ = diag.each(&udp, |raw| sockets.push(PortSocket::new(raw)));
    }
    let unix = if unix { diag.unix_sockets(States::LISTEN)? } else { Vec::new() };
    let pids = proc.pids()?;
    let scan = scan::whole(&proc, &pids);
    let describer = Describer::new(&proc);
    owners::fill(&mut sockets, &scan, &describer, &proc);
    let unix: Vec<UnixListener> = unix
        .into_iter()
        .map(|socket| {
            let name = socket.name.unwrap_or_default();
            let bytes = name.as_bytes();
            let name = bytes.strip_prefix(b"\0").map_or_else(|| printable_bytes(bytes), |name| format!("@{}", printable_bytes(name)));
            let mut pids: Vec<i32> = scan.of(socket.inode).iter().map(|hit| hit.pid).collect();
            pids.dedup();
            UnixListener { name, inode: socket.inode, uid: socket.uid, queue: socket.queue, pids }
        })
        .collect();
    let mut ports: HashMap<i32, Vec<u16>> = HashMap::new();
    for socket in &sockets {
        for pid in socket.pids.value().into_iter().flatten() {
            ports.entry(*pid).or_default().push(socket.local.port());
        }
    }
    for pid in unix.iter().flat_map(|socket| &socket.pids) {
        ports.entry(*pid).or_default();
    }
    let mut processes: Vec<Process> = ports.iter().filter_map(|(pid, ports)| describer.describe(*pid, ports)).collect();
    processes.sort_by_key(|process| process.pid);
    if processes.iter().any(|process| process.name == "stayput") {
        let mut all: Vec<_> = processes.iter_mut().map(|process| (inodes(&sockets, process.pid), process)).collect();
        keepers::adopt(&mut all);
    }
    let mut listing = Listing { sockets, unix, processes, unreadable: Vec::new() };
    if !scan.denied.is_empty() {
        let root = rustix::process::geteuid().is_root();
        let reason = if root { "not even this root may look into them" } else { "`sudo` would name the owners of the rest" };
        let what = format!("the open files of {} process(es)", scan.denied.len());
        listing.unreadable.push(Unreadable { what, reason: reason.to_owned() });
    }
    keep(&mut listing, filter);
    Ok(listing)
}

/// The sockets of one process.
fn inodes(sockets: &[PortSocket], pid: i32) -> Vec<usize> {
    let has = |socket: &&PortSocket| socket.pids.value().is_some_and(|pids| pids.contains(&pid));
    sockets.iter().filter(has).map(|socket| socket.inode as usize).collect()
}

fn keep(listing: &mut Listing, filter: &Filter) {
    let by_pid: HashMap<i32, &Process> = listing.processes.iter().map(|process| (process.pid, process)).collect();
    let owners = |pids: &[i32]| pids.iter().filter_map(|pid| by_pid.get(pid).copied()).collect::<Vec<_>>();
    listing.sockets.retain(|socket| {
        let pids = socket.pids.value().map(Vec::as_slice).unwrap_or_default();
        filter.wants(Some(socket.local.port()), socket.uid, socket.user.as_deref(), &owners(pids))
    });
    listing.unix.retain(|socket| filter.wants(None, socket.uid, None, &owners(&socket.pids)));
    listing.sockets.sort_by_key(|socket| (socket.local.port(), socket.transport, socket.raw.family, socket.local, socket.inode));
    listing.unix.sort_by(|a, b| a.name.cmp(&b.name));
    let used: HashSet<i32> = listing
        .sockets
        .iter()
        .flat_map(|socket| socket.pids.value().into_iter().flatten().copied())
        .chain(listing.unix.iter().flat_map(|socket| socket.pids.iter().copied()))
        .collect();
    listing.processes.retain(|process| used.contains(&process.pid));
}
