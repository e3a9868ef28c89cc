//! The processes of a service, one by one, when somebody asks: `/proc` for each of them, sock_diag for which of its sockets are the
//! service's.
//!
//! Refuses: looking when nobody asks. A service may have thousands of processes, and one that forks while it is looked at has some more.

use crate::connections::Observer;
use crate::reactor::{Reactor, now};
use crate::status::Pace;
use crate::usage::Gauge;
use stayput_config::Disk;
use stayput_config::accounts::Accounts;
use stayput_model::text::{command_line, printable_bytes};
use stayput_wire::{Evidence, ListenerOpen, Measured, ProcessFacts, Processes};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::time::UNIX_EPOCH;

/// Processes that are told at most.
const MOST: usize = 500;
/// Characters of a command that are told.
const LONGEST_COMMAND: usize = 400;

/// Processor time of processes at the look before, by process id and start time.
#[derive(Debug, Default)]
pub(crate) struct Paces(HashMap<(i32, u64), Pace>);

/// What is looked up once for all processes of a service.
#[derive(Debug, Default)]
struct Known {
    /// Its listening sockets by inode.
    listeners: BTreeMap<u32, String>,
    /// Inodes of its open connections; `None`: they could not be looked at.
    connections: Option<BTreeSet<u32>>,
    /// The users of this machine, once somebody asked for one.
    accounts: Option<Accounts>,
}

impl Known {
    /// By /etc/passwd; a user that is not there has a number.
    fn user(&mut self, uid: u32) -> String {
        let accounts = self.accounts.get_or_insert_with(|| Accounts::read(&Disk).unwrap_or_default());
        accounts.name_of(uid).map_or_else(|| uid.to_string(), str::to_owned)
    }
}

impl Reactor {
    /// Every process of a service that is known by now.
    pub(crate) fn processes(&mut self, name: &str) -> Processes {
        let mut report = Processes {
            service: name.to_owned(),
            processes: Vec::new(),
            left_out: 0,
            evidence: Evidence { source: "procfs, sock_diag".to_owned(), age_ms: 0 },
        };
        let Some(service) = self.world.services.get(name) else { return report };
        let mains: BTreeMap<i32, u64> = service
            .generations
            .values()
            .filter(|generation| generation.main.status().is_none())
            .filter_map(|generation| Some((generation.main.pid()?, generation.id.0)))
            .collect();
        let mut known = Known {
            listeners: service.listeners.values().map(|listener| (listener.inode, listener.address.to_string())).collect(),
            ..Known::default()
        };
        let question = service.generations.keys().next().copied().and_then(|generation| self.question(generation));
        let (Some(observer), Some(gauge), Some(question)) = (self.observer.as_mut(), self.gauge.as_mut(), question) else { return report };
        let mut members: BTreeMap<i32, u64> = observer.members(&question).into_iter().collect();
        for (main, generation) in &mains {
            // A process that did away with its parent and its environment is still in its cgroup.
            for pid in gauge.in_cgroup_of(*main) {
                members.entry(pid).or_insert(*generation);
            }
        }
        known.connections = observer.open_connections(&question).ok();
        report.evidence.source = format!("procfs, {}", observer.source());
        report.processes = members
            .iter()
            .filter_map(|(pid, generation)| {
                let main = mains.get(pid) == Some(generation);
                facts(*pid, *generation, main, gauge, observer, &mut known, &mut self.paces_of_processes)
            })
            .collect();
        report.processes.sort_by_key(|process| (std::cmp::Reverse(process.generation), !process.main, process.pid));
        report.left_out = u32::try_from(report.processes.len().saturating_sub(MOST)).unwrap_or(u32::MAX);
        report.processes.truncate(MOST);
        // Those that are gone, and those of a service that nobody asks about any more, are not kept for ever.
        if self.paces_of_processes.0.len() > 8 * MOST {
            self.paces_of_processes.0.clear();
        }
        report
    }
}

/// What one process is. `None`: it is gone.
fn facts(
    pid: i32,
    generation: u64,
    main: bool,
    gauge: &Gauge,
    observer: &Observer,
    known: &mut Known,
    paces: &mut Paces,
) -> Option<ProcessFacts> {
    let proc = gauge.proc();
    let stat = proc.stat(pid).ok()?;
    let (memory, cpu) = gauge.one(&stat);
    let pace = paces.0.entry((pid, stat.start_ticks)).or_default().measure(cpu, now());
    let arguments = proc.cmdline(pid).unwrap_or_default();
    let command = command_line(arguments.iter().map(|argument| argument.as_bytes()));
    let user = proc.status(pid).ok().map(|status| known.user(status.uids[1]));
    let open = observer.sockets_of(pid).ok();
    let started = proc.started(&stat).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let listener = |inode: &u32| Some(ListenerOpen { address: known.listeners.get(inode)?.clone(), inode: *inode });
    Some(ProcessFacts {
        pid,
        parent: stat.ppid,
        generation,
        main,
        command: if command.is_empty() { format!("[{}]", printable_bytes(stat.comm.as_bytes())) } else { shorten(&command) },
        user,
        state: stat.state,
        started_ms: started.and_then(|time| u64::try_from(time.as_millis()).ok()),
        threads: stat.threads,
        memory: Measured::Count(memory),
        cpu_permille: pace.into(),
        listeners: open.as_ref().map(|open| open.iter().filter_map(listener).collect()),
        connections: match (&open, &known.connections) {
            (Some(open), Some(connections)) => Measured::Count(open.intersection(connections).count() as u64),
            _ => Measured::NotMeasured,
        },
    })
}

fn shorten(command: &str) -> String {
    if command.chars().count() <= LONGEST_COMMAND {
        return command.to_owned();
    }
    let mut short: String = command.chars().take(LONGEST_COMMAND).collect();
    short.push('…');
    short
}

impl Observer {
    /// Inodes of the sockets that a process has open.
    fn sockets_of(&self, pid: i32) -> Result<BTreeSet<u32>, String> {
        let mut inodes = BTreeSet::new();
        let scan = self.proc().scan_fds(pid).map_err(|error| error.to_string())?;
        scan.sockets(|socket| {
            inodes.insert(socket.inode);
        })
        .map_err(|error| error.to_string())?;
        Ok(inodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_described_ourselves() {
        let (gauge, observer) = (Gauge::open().unwrap(), Observer::open().unwrap());
        let us = rustix::process::getpid().as_raw_nonzero().get();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = u32::try_from(rustix::fs::fstat(&listener).unwrap().st_ino).unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut known = Known {
            listeners: BTreeMap::from([(inode, "127.0.0.1:1".to_owned())]),
            connections: Some(BTreeSet::new()),
            ..Known::default()
        };
        let mut paces = Paces::default();
        let seen = facts(us, 7, true, &gauge, &observer, &mut known, &mut paces).unwrap();
        assert_eq!((seen.pid, seen.generation, seen.main), (us, 7, true));
        assert_eq!(seen.listeners, Some(vec![ListenerOpen { address: "127.0.0.1:1".to_owned(), inode }]), "and not the other one");
        assert_eq!((seen.connections, seen.cpu_permille), (Measured::Count(0), Measured::NotMeasured), "one look is no pace");
        assert!(seen.command.contains("daemon") && matches!(seen.memory, Measured::Count(bytes) if bytes > 100_000), "{seen:?}");
        assert!(seen.user.is_some() && seen.started_ms.is_some() && seen.threads > 0, "{seen:?}");
        assert_eq!(facts(i32::MAX, 7, false, &gauge, &observer, &mut known, &mut paces), None, "nobody");
        drop(other);
        assert_eq!(shorten(&"é".repeat(LONGEST_COMMAND + 1)).chars().count(), LONGEST_COMMAND + 1, "cut, and told by a sign");
    }
}
