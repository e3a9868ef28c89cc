//! Whole process trees: who belongs to a generation, however it forked.
//!
//! Where a cgroup could be made for it, the kernel knows. Elsewhere a process is recognised by the cookie in its environment or by descent from one that has it. One that did away with both
//! (a daemon with an empty environment) became a child of ours, since we are subreapers; it is told by its session or, if it is
//! under a filter, by a listener of the generation that it has open or by being the only candidate. That the tree is *empty* needs no search: the kernel hangs up the filter's descriptor when the last process
//! under it is gone.

use crate::keeper::Keeper;
use crate::protocol::{GenerationId, Scope};
use crate::state::Generation;
use rustix::io::Errno;
use stayput_kernel::cgroup::Cgroup;
use stayput_kernel::process;
use std::collections::{BTreeMap, BTreeSet};

/// A process as the search found it. With its start time the pid names it for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

/// All processes of the machine at one moment, as far as it takes to say whose they are. Reading them takes tens of microseconds for each.
struct Census {
    rows: BTreeMap<i32, Row>,
}

struct Row {
    ppid: i32,
    session: i32,
    start_ticks: u64,
    /// The marks in its environment, with the variable's name.
    cookies: Vec<Vec<u8>>,
}

const COOKIE: &[u8] = b"STAYPUT_COOKIE=";

/// Passes of stop-then-look before everything found is killed: bounds what a process that only forks can make us do.
const KILL_PASSES: usize = 64;

impl Keeper {
    /// The living processes of a generation. Zombies do not count.
    pub(crate) fn members(&self, generation: GenerationId) -> BTreeSet<Seen> {
        let Some(facts) = self.state.generation(generation) else { return BTreeSet::new() };
        if let Some(cgroup) = &facts.cgroup {
            let seen = |pid: i32| self.proc.stat(pid).ok().map(|stat| Seen { pid, start_ticks: stat.start_ticks });
            let inside: BTreeSet<Seen> = cgroup.pids().into_iter().filter_map(seen).collect();
            if !inside.is_empty() {
                return inside;
            }
            // Not gone through its door yet, or taken elsewhere by somebody: the other marks tell.
        }
        let Census { rows } = self.census();
        let cookie = self.state.cookie(generation).into_bytes();
        let marked = |(pid, row): (&i32, &Row)| (row.cookies.contains(&cookie) || *pid == facts.pid).then_some(*pid);
        let mut members: BTreeSet<i32> = rows.iter().filter_map(marked).collect();
        if facts.exit.is_some() {
            members.remove(&facts.pid);
        }
        let ours = [self.life.guard_pid(), self.life.keeper_pid()];
        let known: BTreeSet<i32> =
            self.state.generations.iter().map(|other| other.pid).chain(ours).chain([self.state.daemon.pid]).collect();
        // One that is being killed leaves nothing to anybody: what is found by nothing else may be counted to both.
        let alone = self.state.generations.iter().all(|other| other.id == generation || other.tree_empty || other.killed);
        let sockets: BTreeSet<u32> =
            self.state.listeners.iter().filter(|listener| listener.owner == Some(generation)).map(|listener| listener.inode).collect();
        let own_filters = self.filters(self.life.keeper_pid());
        for (pid, row) in &rows {
            let unmarked_orphan = ours.contains(&row.ppid) && !known.contains(pid) && row.cookies.is_empty();
            // As PID 1 of a container we get everybody's orphans: only those under one filter more than ourselves are of a service.
            let under_filter = || self.filters(*pid).zip(own_filters).is_some_and(|(theirs, own)| theirs > own);
            let has_a_listener = || {
                let open = self.proc.socket_inodes(*pid).unwrap_or_default();
                open.iter().any(|socket| sockets.contains(&socket.inode))
            };
            if unmarked_orphan && (row.session == facts.pid || (under_filter() && (alone || has_a_listener()))) {
                members.insert(*pid);
            }
        }
        loop {
            let descendants: Vec<i32> = rows
                .iter()
                .filter(|(pid, row)| members.contains(&row.ppid) && !members.contains(pid) && !known.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if descendants.is_empty() {
                break;
            }
            members.extend(descendants);
        }
        members.iter().filter_map(|pid| rows.get(pid).map(|row| Seen { pid: *pid, start_ticks: row.start_ticks })).collect()
    }

    /// Whose each process is, by its cgroup, its mark, or the mark of the next ancestor who has one: all generations in one look. What did
    /// away with all of these is not found here.
    pub(crate) fn owners(&self) -> BTreeMap<i32, GenerationId> {
        let Census { rows } = self.census();
        let alive = || self.state.generations.iter().filter(|generation| !generation.tree_empty);
        let mains: BTreeMap<i32, GenerationId> =
            alive().filter(|generation| generation.exit.is_none()).map(|generation| (generation.pid, generation.id)).collect();
        let cookies: BTreeMap<Vec<u8>, GenerationId> =
            alive().map(|generation| (self.state.cookie(generation.id).into_bytes(), generation.id)).collect();
        let marked = |pid: i32| {
            let known = || rows.get(&pid)?.cookies.iter().find_map(|cookie| cookies.get(cookie));
            mains.get(&pid).or_else(known).copied()
        };
        let ancestors = |pid: i32| std::iter::successors(Some(pid), |pid| rows.get(pid).map(|row| row.ppid));
        // A pid that was given again while we read could make a circle of parents.
        let by_mark = rows.keys().filter_map(|pid| Some((*pid, ancestors(*pid).take(rows.len()).find_map(marked)?)));
        let inside = |generation: &Generation| generation.cgroup.as_ref().map(Cgroup::pids).unwrap_or_default();
        let by_cgroup = alive().flat_map(|generation| inside(generation).into_iter().map(|pid| (pid, generation.id)));
        by_mark.chain(by_cgroup).collect()
    }

    fn census(&self) -> Census {
        let mut rows = BTreeMap::new();
        for pid in self.proc.pids().unwrap_or_default() {
            let Ok(stat) = self.proc.stat(pid) else { continue };
            if stat.is_kernel_thread() || (stat.state == 'Z' && stat.threads <= 1) {
                continue;
            }
            let environ = self.proc.read_path(&format!("{pid}/environ")).unwrap_or_default();
            let cookies = environ.split(|byte| *byte == 0).filter(|entry| entry.starts_with(COOKIE)).map(<[u8]>::to_vec).collect();
            rows.insert(pid, Row { ppid: stat.ppid, session: stat.session, start_ticks: stat.start_ticks, cookies });
        }
        Census { rows }
    }

    /// How many seccomp filters a process is under (`Seccomp_filters` of `/proc/PID/status`, Linux 5.9).
    fn filters(&self, pid: i32) -> Option<u32> {
        let status = self.proc.read_path(&format!("{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")?.trim().parse().ok())
    }

    /// Whether no process of the generation has a socket with this inode.
    pub(crate) fn nobody_has(&self, generation: GenerationId, inode: u32) -> bool {
        self.members(generation)
            .iter()
            .all(|seen| self.proc.socket_inodes(seen.pid).is_ok_and(|sockets| sockets.iter().all(|socket| socket.inode != inode)))
    }

    /// Sends a signal to a generation.
    ///
    /// # Errors
    /// `ESRCH`: nobody is left to get it.
    pub(crate) fn signal(&mut self, generation: GenerationId, signal: i32, scope: Scope) -> Result<(), Errno> {
        self.prepare_for_end(generation);
        match scope {
            Scope::Main => {
                let pidfd = self.state.generation(generation).and_then(|generation| generation.pidfd).ok_or(Errno::SRCH)?;
                process::signal(pidfd, signal)
            }
            Scope::Tree if signal == libc_sigkill() => {
                self.kill_tree(generation);
                Ok(())
            }
            Scope::Tree => self.each_member(generation, signal).map(|_| ()),
        }
    }

    fn each_member(&self, generation: GenerationId, signal: i32) -> Result<BTreeSet<Seen>, Errno> {
        let members = self.members(generation);
        if members.is_empty() {
            return Err(Errno::SRCH);
        }
        for seen in &members {
            self.signal_seen(*seen, signal);
        }
        Ok(members)
    }

    /// The descriptor first, then the check that it is still the process that was found: no stranger is ever signalled.
    pub(crate) fn signal_seen(&self, seen: Seen, signal: i32) {
        if let Ok(addressee) = process::addressee(seen.pid)
            && self.proc.stat(seen.pid).is_ok_and(|stat| stat.start_ticks == seen.start_ticks)
        {
            let _ = process::signal(&addressee, signal);
        }
    }

    /// Stops what is found until nothing new appears (a stopped process forks no more), then kills all of it.
    pub(crate) fn kill_tree(&mut self, generation: GenerationId) {
        if let Some(cgroup) = self.state.generation(generation).and_then(|generation| generation.cgroup.as_ref()) {
            // Atomic, where the kernel has it; what it does not reach is found below.
            let _ = cgroup.kill();
        }
        if let Some(generation) = self.state.generation_mut(generation) {
            generation.killed = true;
        }
        let mut stopped = BTreeSet::new();
        for _ in 0..KILL_PASSES {
            let members = self.members(generation);
            let new: Vec<Seen> = members.difference(&stopped).copied().collect();
            if new.is_empty() {
                break;
            }
            for seen in new {
                self.signal_seen(seen, rustix::process::Signal::STOP.as_raw());
                stopped.insert(seen);
            }
        }
        for seen in stopped {
            self.signal_seen(seen, libc_sigkill());
        }
    }
}

fn libc_sigkill() -> i32 {
    rustix::process::Signal::KILL.as_raw()
}
