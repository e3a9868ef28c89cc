//! Everything the keeper knows, in a form that its successor can read: numbers, names and descriptors of the shared table.

use crate::journal::{Change, Journal};
use crate::protocol::{Dump, ExecStage, ExitStatus, GenerationFacts, GenerationId, ListenerFacts, ListenerId, Origin, Trap, WaitingHold};
use crate::records::{Entry, Record, Table};
use crate::steering::{Member, Order};
use crate::store::Stored;
use serde::{Deserialize, Serialize};
use stayput_kernel::cgroup::Cgroup;
use stayput_kernel::options::SetOption;
use stayput_kernel::socket::Key;
use stayput_kernel::table::TableFd;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;

/// The whole of it. What there is one of per service is written down entry by entry, the rest in one record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) instance: String,
    pub(crate) directory: PathBuf,
    /// Random, in the environment of all that we start: tells our processes from those of any other instance.
    pub(crate) nonce: String,
    pub(crate) control: TableFd,
    pub(crate) lock: TableFd,
    pub(crate) daemon: Daemon,
    #[serde(skip)]
    pub(crate) generations: Table<Generation>,
    #[serde(skip)]
    pub(crate) listeners: Table<Listener>,
    #[serde(skip)]
    pub(crate) groups: Table<Group>,
    /// The brain's blobs that are not written down yet. The others are only there: nobody but the brain reads them.
    #[serde(skip)]
    pub(crate) new_blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) waiting: Vec<WaitingHold>,
    /// Signals of the guard that no daemon has got yet: number, hangup.
    pub(crate) signals: Vec<(i32, bool)>,
    pub(crate) next_listener: u64,
    pub(crate) next_group: u64,
    /// Cgroups of forgotten generations that could not be removed yet: a last process was on its way out.
    pub(crate) emptied: Vec<Cgroup>,
    /// `RLIMIT_NOFILE` as it was when the instance was started, soft and hard, if we raised it for ourselves.
    pub(crate) nofile: Option<(u64, u64)>,
    /// Listening sockets that the instance was started with.
    pub(crate) inherited: Vec<TableFd>,
    /// What the service manager keeps for us.
    pub(crate) stored: Vec<Stored>,
    /// What it kept and gave us back, with the service; it is not held yet.
    pub(crate) restored: Vec<(String, TableFd)>,
    /// The instance ends: what is stored stays where it is.
    pub(crate) ends: bool,
    /// Services that do not take passed sockets.
    pub(crate) declines: BTreeSet<String>,
    /// Nonces of lives of the instance that ended without ending their services. Empty as soon as nothing is left of them.
    pub(crate) left: Vec<String>,
    /// The record of the rest as it is written down.
    #[serde(skip)]
    written: Vec<u8>,
}

/// The brain's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Daemon {
    pub(crate) argv: Vec<Vec<u8>>,
    /// 0: none runs.
    pub(crate) pid: i32,
    /// Refers to it and to no other process, while one runs.
    pub(crate) pidfd: Option<TableFd>,
    /// Our end of its channel, while one runs.
    pub(crate) channel: Option<TableFd>,
    /// It has asked for a dump, so it lives and listens.
    pub(crate) greeted: bool,
    pub(crate) deaths: u32,
    /// Deaths in a row, each soon after its start.
    pub(crate) quick_deaths: u32,
    pub(crate) started_ns: u64,
}

/// One run of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) service: String,
    pub(crate) id: GenerationId,
    /// 0: about to be forked.
    pub(crate) pid: i32,
    pub(crate) pidfd: Option<TableFd>,
    /// Our end of the child's report socket, until it executed its command.
    pub(crate) report: Option<TableFd>,
    /// The descriptor on which its caught calls arrive.
    pub(crate) calls: Option<TableFd>,
    pub(crate) trap: Option<Trap>,
    pub(crate) executed: bool,
    pub(crate) exec_failed: Option<(ExecStage, i32)>,
    pub(crate) exit: Option<ExitStatus>,
    pub(crate) tree_empty: bool,
    /// All of its tree was sent SIGKILL.
    pub(crate) killed: bool,
    pub(crate) output: Option<TableFd>,
    pub(crate) error: Option<TableFd>,
    pub(crate) notify: Option<(TableFd, NotifyName)>,
    /// All its processes are in here, where one could be made.
    pub(crate) cgroup: Option<Cgroup>,
    /// Addresses that it may bind whatever its rights.
    pub(crate) declared: Vec<SocketAddr>,
    /// Its processes share its ports, whether they ask for it or not.
    pub(crate) copies: bool,
    /// Its child waits, or waited, for sockets.
    pub(crate) asked: bool,
    /// New connections were steered to it.
    pub(crate) served: bool,
    /// Limits that are not in force: interface file and error number.
    pub(crate) unlimited: Vec<(String, i32)>,
    /// Sockets of ours that were put in the place of its own and that it does not listen on yet, with their inodes.
    pub(crate) given: Vec<(u32, Key, TableFd)>,
    /// What it sets of its sockets before it binds them is caught, as far as it matters to listeners alone.
    pub(crate) sees_options: bool,
    /// That, by the inode of its socket, in the order of the calls.
    pub(crate) options: Vec<(u32, SetOption)>,
}

/// Where a generation's `sd_notify` messages are sent to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum NotifyName {
    /// A file in the runtime directory.
    Path(PathBuf),
    /// Without the leading NUL.
    Abstract(String),
}

/// A listening socket that we have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Listener {
    pub(crate) id: ListenerId,
    pub(crate) service: String,
    pub(crate) key: Key,
    pub(crate) socket: TableFd,
    pub(crate) inode: u32,
    pub(crate) owner: Option<GenerationId>,
    pub(crate) last_owner: Option<GenerationId>,
    pub(crate) origin: Origin,
    /// Its queue holds nothing but a connection of our own, which keeps everybody else out.
    pub(crate) shut: bool,
    /// The process that bound it, watched if it is not the main process: when it ends, somebody else may have the socket, or nobody.
    pub(crate) binder: Option<TableFd>,
}

/// Listeners among which the kernel chooses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Its number, never used twice.
    pub(crate) number: u64,
    pub(crate) service: String,
    pub(crate) key: Key,
    pub(crate) anchor: TableFd,
    /// Sockets that keep a place in the order.
    pub(crate) fillers: Vec<(Member, TableFd)>,
    pub(crate) order: Order,
}

impl Entry for Generation {
    fn number(&self) -> u64 {
        self.id.0
    }

    fn record(number: u64) -> Record {
        Record::Generation(number)
    }
}

impl Entry for Listener {
    fn number(&self) -> u64 {
        self.id.0
    }

    fn record(number: u64) -> Record {
        Record::Listener(number)
    }
}

impl Entry for Group {
    fn number(&self) -> u64 {
        self.number
    }

    fn record(number: u64) -> Record {
        Record::Group(number)
    }
}

impl Group {
    /// Whether a held listener is in it.
    pub(crate) fn is_used(&self) -> bool {
        self.order.members().iter().any(|member| matches!(member, Member::Listener(_)))
    }

    /// Closes what is ours alone. The state must not name the group any more.
    pub(crate) fn close(self) {
        self.anchor.close();
        for (_, filler) in self.fillers {
            filler.close();
        }
    }
}

impl State {
    /// What was written down last; `None`: nothing was.
    ///
    /// # Errors
    /// A record that does not decode.
    pub(crate) fn restore(journal: &Journal) -> Result<Option<Self>, postcard::Error> {
        let Some(written) = journal.get(&Record::Root) else { return Ok(None) };
        let mut state: Self = postcard::from_bytes(&written)?;
        state.written = written;
        for (record, bytes) in journal.all() {
            match record {
                Record::Generation(_) => state.generations.restore(postcard::from_bytes(&bytes)?),
                Record::Listener(_) => state.listeners.restore(postcard::from_bytes(&bytes)?),
                Record::Group(_) => state.groups.restore(postcard::from_bytes(&bytes)?),
                Record::Root | Record::Blob(_) => {}
            }
        }
        Ok(Some(state))
    }

    /// What differs from what is written down, in the form in which it is.
    ///
    /// # Errors
    /// Postcard's: our types are such that there is none.
    pub(crate) fn changes(&mut self) -> Result<Vec<Change>, postcard::Error> {
        let mut changes = self.generations.changes()?;
        changes.extend(self.listeners.changes()?);
        changes.extend(self.groups.changes()?);
        let blob = |(key, bytes): (String, Vec<u8>)| (Record::Blob(key), (!bytes.is_empty()).then_some(bytes));
        changes.extend(std::mem::take(&mut self.new_blobs).into_iter().map(blob));
        let rest = postcard::to_stdvec(self)?;
        if rest != self.written {
            changes.push((Record::Root, Some(rest.clone())));
            self.written = rest;
        }
        Ok(changes)
    }

    pub(crate) fn generation(&self, id: GenerationId) -> Option<&Generation> {
        self.generations.get(id.0)
    }

    pub(crate) fn generation_mut(&mut self, id: GenerationId) -> Option<&mut Generation> {
        self.generations.get_mut(id.0)
    }

    pub(crate) fn listener(&self, id: ListenerId) -> Option<&Listener> {
        self.listeners.get(id.0)
    }

    pub(crate) fn listener_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.listeners.get_mut(id.0)
    }

    pub(crate) fn listeners_of(&self, generation: GenerationId) -> Vec<ListenerId> {
        self.listeners.iter().filter(|listener| listener.owner == Some(generation)).map(|listener| listener.id).collect()
    }

    pub(crate) fn group_mut(&mut self, service: &str, key: &Key) -> Option<&mut Group> {
        let number = self.group(service, key)?.number;
        self.groups.get_mut(number)
    }

    pub(crate) fn group(&self, service: &str, key: &Key) -> Option<&Group> {
        self.groups.iter().find(|group| group.key == *key && group.service == service)
    }

    pub(crate) fn is_selected(&self, listener: &Listener) -> bool {
        self.group(&listener.service, &listener.key).is_some_and(|group| group.order.selected().contains(&listener.id))
    }

    pub(crate) fn facts(&self, listener: &Listener) -> ListenerFacts {
        ListenerFacts {
            id: listener.id,
            service: listener.service.clone(),
            owner: listener.owner,
            last_owner: listener.last_owner,
            address: listener.key.address,
            v6only: listener.key.v6only,
            inode: listener.inode,
            origin: listener.origin,
            selected: self.is_selected(listener),
        }
    }

    /// Removes the cgroups that are over; those that cannot be removed yet are kept for the next time.
    pub(crate) fn remove_emptied(&mut self) {
        self.emptied.retain(|cgroup| cgroup.remove() == Err(rustix::io::Errno::BUSY));
    }

    /// What the environment of a generation's processes carries, as a whole `NAME=value` string.
    pub(crate) fn cookie(&self, generation: GenerationId) -> String {
        format!("STAYPUT_COOKIE={}-{}", self.nonce, generation.0)
    }

    /// Every descriptor that the state names.
    pub(crate) fn descriptors(&self) -> BTreeSet<RawFd> {
        let generations = self.generations.iter().flat_map(|generation| {
            let notify = generation.notify.as_ref().map(|(socket, _)| *socket);
            let given = generation.given.iter().map(|(_, _, socket)| Some(*socket));
            let one = [generation.pidfd, generation.report, generation.calls, generation.output, generation.error, notify];
            one.into_iter().chain(given).collect::<Vec<_>>()
        });
        let listeners = self.listeners.iter().flat_map(|listener| [Some(listener.socket), listener.binder]);
        let groups = self.groups.iter().flat_map(|group| {
            let fillers = group.fillers.iter().map(|(_, filler)| *filler);
            fillers.chain([group.anchor]).map(Some).collect::<Vec<_>>()
        });
        [Some(self.control), Some(self.lock), self.daemon.channel, self.daemon.pidfd]
            .into_iter()
            .chain(self.inherited.iter().copied().map(Some))
            .chain(self.restored.iter().map(|(_, socket)| Some(*socket)))
            .chain(generations)
            .chain(listeners)
            .chain(groups)
            .flatten()
            .map(|descriptor| descriptor.as_raw_fd())
            .collect()
    }

    pub(crate) fn dump(&self, blobs: Vec<(String, Vec<u8>)>, (guard_pid, keeper_pid): (i32, i32), keeper_deaths: u32) -> Dump {
        let generation = |generation: &Generation| GenerationFacts {
            service: generation.service.clone(),
            id: generation.id,
            pid: generation.pid,
            trap: generation.trap.filter(|_| generation.executed),
            exec_failed: generation.exec_failed,
            exit: generation.exit,
            tree_empty: generation.tree_empty,
        };
        Dump {
            instance: self.instance.clone(),
            guard_pid,
            keeper_pid,
            keeper_deaths,
            daemon_deaths: self.daemon.deaths,
            blobs,
            generations: self.generations.iter().map(generation).collect(),
            listeners: self.listeners.iter().map(|listener| self.facts(listener)).collect(),
            waiting: self.waiting.clone(),
            left: Vec::new(),
        }
    }

    /// Nothing runs yet.
    pub(crate) fn new(instance: String, directory: PathBuf, nonce: String, (control, lock): (TableFd, TableFd)) -> Self {
        let daemon =
            Daemon { argv: Vec::new(), pid: 0, pidfd: None, channel: None, greeted: false, deaths: 0, quick_deaths: 0, started_ns: 0 };
        Self {
            instance,
            directory,
            nonce,
            control,
            lock,
            daemon,
            generations: Table::default(),
            listeners: Table::default(),
            groups: Table::default(),
            new_blobs: BTreeMap::new(),
            waiting: Vec::new(),
            signals: Vec::new(),
            next_listener: 1,
            next_group: 1,
            emptied: Vec::new(),
            nofile: None,
            inherited: Vec::new(),
            stored: Vec::new(),
            restored: Vec::new(),
            ends: false,
            declines: BTreeSet::new(),
            left: Vec::new(),
            written: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        let null = TableFd::keep(std::fs::File::open("/dev/null").expect("open").into());
        Self::new("test".into(), PathBuf::new(), "0".into(), (null, null))
    }
}
