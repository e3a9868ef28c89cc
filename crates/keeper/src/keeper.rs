//! The keeper's loop: one thread, one epoll, no runtime. Each source is dealt with to its end, then the state is written down.

use crate::client::{self, ChannelError, Take};
use crate::life::Life;
use crate::protocol::{Event, ExitStatus, FromKeeper, GenerationId, ListenerId, Origin, Reply, Request, ToKeeper, WaitingHold};
use crate::spawn::{borrowed, exit_status, sources};
use crate::state::State;
use rustix::event::epoll;
use rustix::io::Errno;
use stayput_kernel::process::Ended;
use stayput_kernel::procfs::Proc;
use stayput_kernel::sock_diag::DestroyEvents;
use stayput_kernel::socket::{self, Key};
use stayput_kernel::table::{self, TableFd};
use stayput_kernel::{clock, process};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The instance is over; its exit status is in the shared memory.
    Ended,
    /// The guard was killed: this process is to take its place.
    GuardDied,
}

/// What can wake the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    GuardPipe,
    GuardDeath,
    Children,
    Channel,
    PortReleases,
    Report(GenerationId),
    Calls(GenerationId),
    /// The end of a main process whose parent is not of ours any more.
    Stray(GenerationId),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::GuardPipe => 1,
            Self::GuardDeath => 2,
            Self::Children => 3,
            Self::Channel => 4,
            Self::PortReleases => 5,
            Self::Report(generation) => 1 << 56 | generation.0,
            Self::Calls(generation) => 2 << 56 | generation.0,
            Self::Stray(generation) => 3 << 56 | generation.0,
        }
    }

    fn of(token: u64) -> Option<Self> {
        let generation = GenerationId(token & ((1 << 56) - 1));
        match (token >> 56, token) {
            (1, _) => Some(Self::Report(generation)),
            (2, _) => Some(Self::Calls(generation)),
            (3, _) => Some(Self::Stray(generation)),
            (0, 1) => Some(Self::GuardPipe),
            (0, 2) => Some(Self::GuardDeath),
            (0, 3) => Some(Self::Children),
            (0, 4) => Some(Self::Channel),
            (0, 5) => Some(Self::PortReleases),
            _ => None,
        }
    }
}

/// A port that is waited for is tried again at least this often: the end of a TIME_WAIT or of an orphan sends no event.
const HOLD_RETRY_NS: u64 = 500_000_000;
/// Most events that are kept for a daemon that does not read. One that is so far behind is replaced: its successor starts from a dump.
const OUTBOX_MAX: usize = 10_000;

/// The keeper. Dropping it closes only what this process alone uses: all else is in the table and named by the state.
pub(crate) struct Keeper {
    pub(crate) life: Life,
    pub(crate) state: State,
    pub(crate) proc: Proc,
    /// The state differs from what is written down.
    pub(crate) dirty: bool,
    /// When a daemon is to be started, in monotonic nanoseconds.
    pub(crate) daemon_due: Option<u64>,
    epoll: OwnedFd,
    children: OwnedFd,
    /// Kept open so that its place in the epoll stays.
    guard: OwnedFd,
    releases: Option<DestroyEvents>,
    outbox: VecDeque<FromKeeper>,
    ended: bool,
}

/// Runs until the instance is over or the guard is gone.
///
/// # Errors
/// A system call without which nothing can be kept (epoll, signalfd): the guard then starts another keeper.
pub(crate) fn run(life: Life, state: State) -> Result<Outcome, Errno> {
    let mut keeper = Keeper::new(life, state)?;
    keeper.take_over();
    let mut events = Vec::with_capacity(64);
    loop {
        if keeper.ended {
            keeper.commit();
            return Ok(Outcome::Ended);
        }
        keeper.act_on_timers();
        if keeper.dirty {
            keeper.commit();
        }
        events.clear();
        let timeout = keeper.timeout();
        match epoll::wait(&keeper.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        for event in events.drain(..) {
            if Source::of(event.data.u64()) == Some(Source::GuardDeath) {
                keeper.commit();
                return Ok(Outcome::GuardDied);
            }
            keeper.on_source(event.data.u64(), event.flags);
        }
    }
}

impl Keeper {
    fn new(life: Life, state: State) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let children = process::signals(&[rustix::process::Signal::CHILD.as_raw()])?;
        let guard = process::pidfd(life.guard_pid())?;
        let proc = Proc::open().map_err(|error| error.errno)?;
        let keeper = Self {
            life,
            state,
            proc,
            dirty: true,
            daemon_due: None,
            epoll,
            children,
            guard,
            releases: None,
            outbox: VecDeque::new(),
            ended: false,
        };
        keeper.watch(Source::Children, &keeper.children);
        keeper.watch(Source::GuardDeath, &keeper.guard);
        if let Ok(pipe) = TableFd::from_number(life.guard_descriptors().pipe_read) {
            keeper.watch(Source::GuardPipe, pipe);
        }
        Ok(keeper)
    }

    /// Takes up what a predecessor left, or starts from nothing: both are the same steps.
    fn take_over(&mut self) {
        let guard = self.life.guard_descriptors();
        let mut known = self.state.descriptors();
        known.extend([guard.signals, guard.pipe_read, guard.pipe_write]);
        known.extend([self.epoll.as_raw_fd(), self.children.as_raw_fd(), self.guard.as_raw_fd()]);
        known.insert(std::os::fd::AsFd::as_fd(&self.proc).as_raw_fd());
        if self.life.keeper_deaths() > 0 {
            // What a predecessor had opened and not written down. Unreadable /proc: it stays open, and nothing else is wrong.
            let _ = table::sweep(&known);
        }
        self.restate_groups();
        self.find_lost_children();
        let ids: Vec<GenerationId> = self.state.generations.iter().map(|generation| generation.id).collect();
        for id in ids {
            self.watch_generation(id);
        }
        self.answer_left_call();
        self.reap();
        self.find_lost_exits();
        self.watch_channel();
        if self.state.daemon.pid == 0 || self.state.daemon.channel.is_none() || process::pidfd(self.state.daemon.pid).is_err() {
            if self.state.daemon.pid != 0 {
                self.on_daemon_exit();
            }
            self.daemon_due = Some(0);
        } else {
            self.tell_everything();
        }
        if !self.state.waiting.is_empty() {
            self.try_holds();
        }
    }

    /// A child that was forked and not yet written down is found by its cookie; one that is not there was never forked.
    fn find_lost_children(&mut self) {
        let lost: Vec<GenerationId> =
            self.state.generations.iter().filter(|generation| generation.pid == 0).map(|generation| generation.id).collect();
        for id in lost {
            let oldest = self.members(id).into_iter().map(|seen| seen.pid).min();
            let pidfd = oldest.and_then(|pid| process::pidfd(pid).ok());
            let Some(generation) = self.state.generation_mut(id) else { continue };
            if let (Some(pid), Some(pidfd)) = (oldest, pidfd) {
                generation.pid = pid;
                generation.pidfd = Some(TableFd::keep(pidfd));
            } else {
                generation.exit = Some(ExitStatus::Unknown);
                generation.tree_empty = true;
            }
        }
    }

    /// A main process that is gone and whose status died with our predecessor.
    fn find_lost_exits(&mut self) {
        let gone = |generation: &crate::state::Generation| {
            generation.exit.is_none() && generation.pid != 0 && self.proc.stat(generation.pid).is_err()
        };
        let gone: Vec<GenerationId> =
            self.state.generations.iter().filter(|generation| gone(generation)).map(|generation| generation.id).collect();
        for id in gone {
            self.on_main_exit(id, ExitStatus::Unknown);
        }
        // Children of a guard that died belong to somebody else now: only their descriptors tell us of their end.
        let ours = [self.life.guard_pid(), self.life.keeper_pid()];
        for generation in self.state.generations.iter().filter(|generation| generation.exit.is_none()) {
            let stray = self.proc.stat(generation.pid).is_ok_and(|stat| !ours.contains(&stat.ppid));
            if let (true, Some(pidfd)) = (stray, generation.pidfd) {
                self.watch(Source::Stray(generation.id), pidfd);
            }
        }
    }

    fn on_stray_exit(&mut self, id: GenerationId) {
        if let Some(pidfd) = self.state.generation(id).and_then(|generation| generation.pidfd) {
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        if self.state.generation(id).is_some_and(|generation| generation.exit.is_none()) {
            self.on_main_exit(id, ExitStatus::Unknown);
        }
    }

    /// All facts again, for a daemon that may have missed some. They repeat what it may know already.
    fn tell_everything(&mut self) {
        let listeners: Vec<ListenerId> = self.state.listeners.iter().map(|listener| listener.id).collect();
        for id in listeners {
            self.tell_listener(id);
        }
        for generation in self.state.generations.clone() {
            if let (true, Some(trap)) = (generation.executed, generation.trap) {
                self.tell(Event::Executed { generation: generation.id, trap });
            }
            if let Some((stage, errno)) = generation.exec_failed {
                self.tell(Event::ExecFailed { generation: generation.id, stage, errno });
            }
            if let Some(status) = generation.exit {
                self.tell(Event::MainExited { generation: generation.id, status });
            }
            if generation.tree_empty {
                self.tell(Event::TreeEmpty { generation: generation.id });
            }
        }
    }

    fn watch(&self, source: Source, descriptor: impl std::os::fd::AsFd) {
        let data = epoll::EventData::new_u64(source.token());
        // EEXIST: watched already. Anything else cannot be helped here and shows as a source that stays silent.
        let _ = epoll::add(&self.epoll, descriptor, data, epoll::EventFlags::IN);
    }

    pub(crate) fn watch_generation(&self, id: GenerationId) {
        if let Some(generation) = self.state.generation(id) {
            for (source, descriptor) in sources(generation) {
                self.watch(source, descriptor);
            }
        }
    }

    pub(crate) fn watch_channel(&self) {
        if let Some(channel) = self.state.daemon.channel {
            self.watch(Source::Channel, channel);
        }
    }

    pub(crate) fn close_channel(&mut self) {
        self.outbox.clear();
        if let Some(channel) = self.state.daemon.channel.take() {
            self.commit();
            channel.close();
        }
    }

    fn on_source(&mut self, token: u64, flags: epoll::EventFlags) {
        match Source::of(token) {
            Some(Source::GuardPipe) => self.on_guard_pipe(),
            Some(Source::Children) => {
                while matches!(process::next_signal(&self.children), Ok(Some(_))) {}
                self.reap();
            }
            Some(Source::Channel) => self.on_channel(flags),
            Some(Source::PortReleases) => self.on_port_release(),
            Some(Source::Report(id)) => self.on_report(id),
            Some(Source::Calls(id)) => {
                if flags.contains(epoll::EventFlags::IN) {
                    self.on_call(id);
                } else {
                    self.on_tree_empty(id);
                }
            }
            Some(Source::Stray(id)) => self.on_stray_exit(id),
            Some(Source::GuardDeath) | None => {}
        }
    }

    /// Writes the state down.
    pub(crate) fn commit(&mut self) {
        // It can only fail for a state of more than 16 MiB; blobs that would lead there are refused before.
        if self.life.commit(&self.state).is_ok() {
            self.dirty = false;
        }
    }

    // --- children ---

    fn on_guard_pipe(&mut self) {
        let mut bytes = [0_u8; 256];
        let Ok(pipe) = TableFd::from_number(self.life.guard_descriptors().pipe_read) else { return };
        while let Ok(length) = rustix::io::read(pipe, &mut bytes) {
            if length == 0 {
                break;
            }
            for byte in &bytes[..length] {
                let (signal, hangup) = (i32::from(byte & 0x7f), byte & 0x80 != 0);
                if signal != 0 {
                    self.state.signals.push((signal, hangup));
                    self.dirty = true;
                }
            }
        }
        self.reap();
        self.pass_signals();
    }

    /// Signals wait for a daemon that can take them.
    fn pass_signals(&mut self) {
        if self.state.daemon.channel.is_some() {
            for (signal, hangup) in std::mem::take(&mut self.state.signals) {
                self.tell(Event::Signalled { signal, hangup });
            }
            self.dirty = true;
        }
    }

    /// Our own children and those that the guard reaped.
    fn reap(&mut self) {
        while let Ok(Some((pid, ended))) = process::next_ended() {
            self.on_exit(pid, ended);
            self.commit();
            process::reap(pid);
        }
        while let Some((pid, ended)) = self.life.first_exit() {
            self.on_exit(pid, ended);
            self.commit();
            self.life.drop_exit();
        }
    }

    fn on_exit(&mut self, pid: i32, ended: Ended) {
        if pid == self.state.daemon.pid {
            self.on_daemon_exit();
            return;
        }
        let generation = self.state.generations.iter().find(|generation| generation.pid == pid && generation.exit.is_none());
        if let Some(id) = generation.map(|generation| generation.id) {
            self.on_main_exit(id, exit_status(ended));
        } else {
            self.look_at_untrapped_trees();
        }
    }

    fn on_main_exit(&mut self, id: GenerationId, status: ExitStatus) {
        self.on_report(id);
        let Some(generation) = self.state.generation_mut(id) else { return };
        generation.exit = Some(status);
        let hung_up = generation.calls.is_none();
        self.dirty = true;
        // Whoever else of it may still accept: the queue must be long from now on.
        for listener in self.state.listeners.iter().filter(|listener| listener.owner == Some(id)) {
            let _ = rustix::net::listen(listener.socket, crate::groups::HELD_BACKLOG);
        }
        self.tell(Event::MainExited { generation: id, status });
        if hung_up {
            self.look_at_tree(id);
        } else {
            self.disown_abandoned(id);
        }
    }

    /// The filter's descriptor hung up: no process is left under it.
    fn on_tree_empty(&mut self, id: GenerationId) {
        self.reap();
        let Some(generation) = self.state.generation_mut(id) else { return };
        if let Some(calls) = generation.calls.take() {
            self.commit();
            calls.close();
        }
        if self.state.generation(id).is_some_and(|generation| generation.exit.is_some()) {
            self.tree_is_empty(id);
        }
    }

    fn tree_is_empty(&mut self, id: GenerationId) {
        let Some(generation) = self.state.generation_mut(id).filter(|generation| !generation.tree_empty) else { return };
        generation.tree_empty = true;
        self.dirty = true;
        self.disown(&self.state.listeners_of(id));
        self.tell(Event::TreeEmpty { generation: id });
    }

    /// For a generation without a filter the end of its tree is found by looking, whenever one of our children ended.
    fn look_at_untrapped_trees(&mut self) {
        let untrapped =
            |generation: &&crate::state::Generation| generation.exit.is_some() && !generation.tree_empty && generation.calls.is_none();
        let ids: Vec<GenerationId> = self.state.generations.iter().filter(untrapped).map(|generation| generation.id).collect();
        for id in ids {
            self.look_at_tree(id);
        }
    }

    fn look_at_tree(&mut self, id: GenerationId) {
        let trapped = self.state.generation(id).is_some_and(|generation| generation.trap == Some(crate::protocol::Trap::Active));
        if trapped || self.members(id).is_empty() {
            self.tree_is_empty(id);
        }
    }

    /// Listeners of which no living process of the generation has a copy any more.
    fn disown_abandoned(&mut self, id: GenerationId) {
        let members = self.members(id);
        let mut present = BTreeSet::new();
        for seen in members {
            match self.proc.socket_inodes(seen.pid) {
                Ok(sockets) => present.extend(sockets.into_iter().map(|socket| socket.inode)),
                Err(error) if error.is_gone() => {}
                Err(_) => return, // cannot be seen: assume that it has them
            }
        }
        let abandoned: Vec<ListenerId> = self
            .state
            .listeners
            .iter()
            .filter(|listener| listener.owner == Some(id) && !present.contains(&listener.inode))
            .map(|listener| listener.id)
            .collect();
        self.disown(&abandoned);
    }

    fn disown(&mut self, listeners: &[ListenerId]) {
        for id in listeners {
            if let Some(listener) = self.state.listener_mut(*id) {
                listener.owner = None;
                let _ = rustix::net::listen(listener.socket, crate::groups::HELD_BACKLOG);
            }
            self.dirty = true;
            self.tell_listener(*id);
        }
    }

    // --- holds ---

    /// Holds a port, now or when it is released.
    fn hold(&mut self, service: String, address: SocketAddr) {
        let same = |hold: &WaitingHold| hold.service == service && hold.address == address;
        let held = self
            .state
            .listeners
            .iter()
            .any(|listener| listener.service == service && listener.key.address == address && listener.origin == Origin::Held);
        if held {
            self.tell(Event::Held { service, address });
        } else if !self.state.waiting.iter().any(same) {
            self.state.waiting.push(WaitingHold { service, address });
            self.dirty = true;
            self.subscribe();
            self.try_holds();
            let waits = self.state.waiting.last().cloned();
            if let Some(hold) = waits.filter(|_| !self.state.waiting.is_empty()) {
                self.tell(Event::HoldWaits { service: hold.service, address: hold.address, errno: Errno::ADDRINUSE.raw_os_error() });
            }
        }
    }

    /// Before the first try, so that no release falls between the try and the waiting.
    fn subscribe(&mut self) {
        if self.releases.is_none()
            && let Ok(releases) = DestroyEvents::subscribe(true, false)
        {
            self.watch(Source::PortReleases, &releases);
            self.releases = Some(releases);
        }
    }

    fn on_port_release(&mut self) {
        let ports: BTreeSet<u16> = self.state.waiting.iter().map(|hold| hold.address.port()).collect();
        let mut ours = false;
        if let Some(releases) = &mut self.releases {
            let complete = releases.drain(|socket| ours |= ports.contains(&socket.local.port()));
            ours |= !matches!(complete, Ok(true));
        }
        if ours {
            self.try_holds();
        }
    }

    fn try_holds(&mut self) {
        for hold in self.state.waiting.clone() {
            match self.try_hold(&hold.service, hold.address) {
                Ok(()) => {
                    self.state.waiting.retain(|waiting| *waiting != hold);
                    self.dirty = true;
                    self.tell(Event::Held { service: hold.service, address: hold.address });
                }
                Err(Errno::ADDRINUSE) => {}
                Err(error) => {
                    self.state.waiting.retain(|waiting| *waiting != hold);
                    self.dirty = true;
                    self.tell(Event::HoldWaits { service: hold.service, address: hold.address, errno: error.raw_os_error() });
                }
            }
        }
        if self.state.waiting.is_empty() {
            self.releases = None; // dropping it takes it out of the epoll
        } else {
            self.subscribe();
        }
    }

    fn try_hold(&mut self, service: &str, address: SocketAddr) -> Result<(), Errno> {
        let key = Key::new(address, false);
        // Without SO_REUSEPORT first: sharing with a stranger is not holding.
        drop(socket::bound(&key, false)?);
        let socket = socket::bound(&key, true)?;
        let backlog = crate::groups::HELD_BACKLOG;
        self.join(crate::groups::Newcomer { service, key, socket, owner: None, origin: Origin::Held, backlog }).map(|_| ())
    }

    // --- timers ---

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let now = clock::monotonic_ns();
        let hold = (!self.state.waiting.is_empty()).then_some(HOLD_RETRY_NS);
        let daemon = self.daemon_due.map(|due| due.saturating_sub(now));
        let outbox = (!self.outbox.is_empty()).then_some(20_000_000);
        let nanoseconds = [hold, daemon, outbox].into_iter().flatten().min()?;
        Some(rustix::event::Timespec { tv_sec: (nanoseconds / 1_000_000_000) as i64, tv_nsec: (nanoseconds % 1_000_000_000) as i64 })
    }

    fn act_on_timers(&mut self) {
        if self.daemon_due.is_some_and(|due| due <= clock::monotonic_ns()) {
            self.daemon_due = None;
            self.start_daemon();
        }
        if !self.state.waiting.is_empty() {
            self.try_holds();
        }
        self.flush();
    }

    // --- the brain ---

    /// Tells the brain, if there is one; if not, the next one's dump says it.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.state.daemon.channel.is_some() {
            self.send(FromKeeper::Event(event));
        }
    }

    fn send(&mut self, message: FromKeeper) {
        self.outbox.push_back(message);
        self.flush();
    }

    fn flush(&mut self) {
        let Some(channel) = self.state.daemon.channel else {
            self.outbox.clear();
            return;
        };
        while let Some(message) = self.outbox.front() {
            match client::send(channel, message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(ChannelError::Io(Errno::AGAIN)) if self.outbox.len() <= OUTBOX_MAX => return,
                Err(_) => {
                    self.replace_daemon();
                    return;
                }
            }
        }
    }

    /// A daemon that does not read or does not speak our language: its successor starts from a dump.
    fn replace_daemon(&mut self) {
        self.outbox.clear();
        if let Ok(pidfd) = process::pidfd(self.state.daemon.pid) {
            let _ = process::signal(&pidfd, rustix::process::Signal::KILL.as_raw());
        }
    }

    fn on_channel(&mut self, flags: epoll::EventFlags) {
        match self.take_request() {
            Ok(true) => {}
            Ok(false) if !flags.contains(epoll::EventFlags::HUP) => {}
            // Its exit may follow or, if a dead guard was its parent, not be told to us at all.
            Ok(false) | Err(ChannelError::Closed) => {
                self.replace_daemon();
                self.on_daemon_exit();
            }
            Err(_) => self.replace_daemon(),
        }
    }

    /// Acts on the next request; false if there is none.
    fn take_request(&mut self) -> Result<bool, ChannelError> {
        let Some(channel) = self.state.daemon.channel else { return Ok(false) };
        let Some((message, _)) = client::receive::<ToKeeper>(channel, Take::Look)? else { return Ok(false) };
        self.on_request(message);
        self.commit();
        // Acted on and written down: now it may leave the queue.
        let _ = client::drop_first(channel);
        Ok(true)
    }

    /// What a daemon asked for before it died is still done.
    pub(crate) fn take_last_requests(&mut self) {
        while matches!(self.take_request(), Ok(true)) {}
    }

    fn on_request(&mut self, message: ToKeeper) {
        let (reply, table) = self.perform(message.request);
        let reply = FromKeeper::Reply { seq: message.seq, reply };
        self.flush();
        let Some(channel) = self.state.daemon.channel else { return };
        if self.outbox.is_empty() && client::send(channel, &reply, &borrowed(&table)).is_ok() {
            return;
        }
        if table.is_empty() {
            self.send(reply);
        } else {
            self.replace_daemon(); // descriptors cannot wait in the outbox
        }
    }

    fn perform(&mut self, request: Request) -> (Reply, Vec<TableFd>) {
        let reply = match request {
            Request::Dump => {
                let dump = self.state.dump(self.life.guard_pid(), self.life.keeper_pid(), self.life.keeper_deaths());
                self.pass_signals();
                Reply::Dump(Box::new(dump))
            }
            Request::SetBlob(blob) => {
                self.state.blob = blob;
                self.dirty = true;
                Reply::Done
            }
            Request::Hold { service, address } => {
                self.hold(service, address);
                Reply::Done
            }
            Request::Spawn(spec) => match self.spawn(&spec) {
                Ok(()) => return self.output_reply(spec.generation, true),
                Err(error) => Reply::Failed { what: error.what, errno: error.errno.raw_os_error() },
            },
            Request::Steer { service, generation } => {
                self.steer(&service, generation);
                Reply::Done
            }
            Request::Park { service } => match self.park(&service) {
                Ok(()) => Reply::Done,
                Err(errno) => Reply::Failed { what: format!("park {service}"), errno: errno.raw_os_error() },
            },
            Request::Route { generation, source_port } => {
                self.route(generation, source_port);
                Reply::Done
            }
            Request::Signal { generation, signal, scope } => match self.signal(generation, signal, scope) {
                Ok(()) => Reply::Done,
                Err(errno) => {
                    Reply::Failed { what: format!("signal {signal} to generation {}", generation.0), errno: errno.raw_os_error() }
                }
            },
            Request::Release { generation } => {
                let listeners: Vec<ListenerId> = self
                    .state
                    .listeners
                    .iter()
                    .filter(|listener| {
                        listener.owner == Some(generation) || (listener.owner.is_none() && listener.last_owner == Some(generation))
                    })
                    .map(|listener| listener.id)
                    .collect();
                Reply::Released { queued: listeners.into_iter().map(|id| self.release(id)).sum() }
            }
            Request::ReleaseService { service } => Reply::Released { queued: self.release_service(&service) },
            Request::Fetch { generation } => return self.output_reply(generation, false),
            Request::Forget { generation } => {
                self.forget(generation);
                Reply::Done
            }
            Request::Exit { status } => {
                self.end(status);
                Reply::Done
            }
        };
        (reply, Vec::new())
    }

    fn end(&mut self, status: u8) {
        let services: BTreeSet<String> = self.state.listeners.iter().map(|listener| listener.service.clone()).collect();
        for service in services {
            self.release_service(&service);
        }
        let generations: Vec<GenerationId> = self.state.generations.iter().map(|generation| generation.id).collect();
        for id in generations {
            if !self.state.generation(id).is_some_and(|generation| generation.tree_empty) {
                self.kill_tree(id);
            }
            self.forget(id);
        }
        self.life.decide_exit(status);
        self.ended = true;
    }
}
