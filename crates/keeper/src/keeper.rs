//! The keeper's loop: one thread, one epoll, no runtime. Each source is dealt with to its end, then the state is written down.

use crate::exits::QueueCheck;
use crate::journal::Journal;
use crate::life::Life;
use crate::protocol::{GenerationId, ListenerId};
use crate::serve::Outgoing;
use crate::spawn::sources;
use crate::state::State;
use crate::store::Store;
use rustix::event::epoll;
use rustix::io::Errno;
use stayput_kernel::procfs::Proc;
use stayput_kernel::sock_diag::DestroyEvents;
use stayput_kernel::table::{self, TableFd};
use stayput_kernel::{clock, process};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// The end of a process that bound a listener and is not the main process.
    Binder(ListenerId),
    /// A connection waits on a listener.
    Queue(ListenerId),
    /// The service manager takes messages again.
    Store,
}

impl Source {
    pub(crate) fn token(self) -> u64 {
        match self {
            Self::GuardPipe => 1,
            Self::GuardDeath => 2,
            Self::Children => 3,
            Self::Channel => 4,
            Self::PortReleases => 5,
            Self::Store => 6,
            Self::Report(generation) => 1 << 56 | generation.0,
            Self::Calls(generation) => 2 << 56 | generation.0,
            Self::Stray(generation) => 3 << 56 | generation.0,
            Self::Binder(listener) => 4 << 56 | listener.0,
            Self::Queue(listener) => 5 << 56 | listener.0,
        }
    }

    fn of(token: u64) -> Option<Self> {
        let number = token & ((1 << 56) - 1);
        let (generation, listener) = (GenerationId(number), ListenerId(number));
        match (token >> 56, token) {
            (1, _) => Some(Self::Report(generation)),
            (2, _) => Some(Self::Calls(generation)),
            (3, _) => Some(Self::Stray(generation)),
            (4, _) => Some(Self::Binder(listener)),
            (5, _) => Some(Self::Queue(listener)),
            (0, 1) => Some(Self::GuardPipe),
            (0, 2) => Some(Self::GuardDeath),
            (0, 3) => Some(Self::Children),
            (0, 4) => Some(Self::Channel),
            (0, 5) => Some(Self::PortReleases),
            (0, 6) => Some(Self::Store),
            _ => None,
        }
    }
}

/// A port that is waited for is tried again at least this often: the end of a TIME_WAIT or of an orphan sends no event.
const HOLD_RETRY_NS: u64 = 500_000_000;
/// The keeper. Dropping it closes only what this process alone uses: all else is in the table and named by the state.
pub(crate) struct Keeper {
    pub(crate) life: Life,
    pub(crate) state: State,
    /// Where it is written down.
    pub(crate) journal: Journal,
    pub(crate) proc: Proc,
    /// When a daemon is to be started, in monotonic nanoseconds.
    pub(crate) daemon_due: Option<u64>,
    pub(crate) epoll: OwnedFd,
    children: OwnedFd,
    /// Kept open so that its place in the epoll stays. Where no pidfd can be opened, a signal tells of its end.
    guard: Option<OwnedFd>,
    pub(crate) releases: Option<DestroyEvents>,
    /// Where the service manager keeps sockets for us, if it offers that.
    pub(crate) store: Option<Store>,
    pub(crate) outbox: VecDeque<Outgoing>,
    /// Room in the daemon's queue is waited for.
    pub(crate) awaits_room: bool,
    /// The first request in the queue was acted on; it leaves when its reply is sent.
    pub(crate) unanswered: bool,
    pub(crate) queue_checks: Vec<QueueCheck>,
    /// When which generations are looked at for listeners that we do not have.
    pub(crate) looks: BTreeMap<u64, BTreeSet<GenerationId>>,
    /// While no daemon can be started: when the instance, which was told to stop, ends by our own hand; and its status.
    pub(crate) headless_end: Option<(u64, u8)>,
    /// Inodes of strangers that the brain was told of.
    pub(crate) strangers: BTreeSet<u32>,
    pub(crate) ended: bool,
}

/// Runs until the instance is over or the guard is gone.
///
/// # Errors
/// A system call without which nothing can be kept (epoll, signalfd): the guard then starts another keeper.
pub(crate) fn run(life: Life, journal: Journal, state: State) -> Result<Outcome, Errno> {
    let mut keeper = Keeper::new(life, journal, state)?;
    keeper.take_over();
    let mut events = Vec::with_capacity(64);
    loop {
        if keeper.ended {
            keeper.commit();
            return Ok(Outcome::Ended);
        }
        if keeper.is_orphan() {
            keeper.commit();
            return Ok(Outcome::GuardDied);
        }
        keeper.act_on_timers();
        keeper.keep_store();
        keeper.commit();
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
    fn new(life: Life, journal: Journal, state: State) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let children = process::signals(&[rustix::process::Signal::CHILD.as_raw()])?;
        let guard = match process::pidfd(life.guard_pid()) {
            Err(Errno::NOSYS | Errno::PERM) => {
                process::signal_at_parents_end(rustix::process::Signal::CHILD.as_raw())?;
                None
            }
            other => Some(other?),
        };
        let proc = Proc::open().map_err(|error| error.errno)?;
        let keeper = Self {
            life,
            state,
            journal,
            proc,
            daemon_due: None,
            epoll,
            children,
            guard,
            releases: None,
            store: Store::from_environment(),
            outbox: VecDeque::new(),
            awaits_room: false,
            unanswered: false,
            queue_checks: Vec::new(),
            looks: BTreeMap::new(),
            headless_end: None,
            strangers: BTreeSet::new(),
            ended: false,
        };
        keeper.watch(Source::Children, &keeper.children);
        if let Some(guard) = &keeper.guard {
            keeper.watch(Source::GuardDeath, guard);
        }
        if let Ok(pipe) = TableFd::from_number(life.guard_descriptors().pipe_read) {
            keeper.watch(Source::GuardPipe, pipe);
        }
        Ok(keeper)
    }

    /// Takes up what a predecessor left, or starts from nothing: both are the same steps.
    fn take_over(&mut self) {
        let mut known = self.state.descriptors();
        known.extend(self.life.guard_descriptors().all());
        known.extend([self.epoll.as_raw_fd(), self.children.as_raw_fd()]);
        known.extend(self.guard.iter().map(AsRawFd::as_raw_fd));
        known.insert(std::os::fd::AsFd::as_fd(&self.proc).as_raw_fd());
        known.extend(self.store.as_ref().map(Store::number));
        if self.life.keeper_deaths() > 0 {
            // What a predecessor had opened and not written down. Unreadable /proc: it stays open, and nothing else is wrong.
            let _ = table::sweep(&known);
        }
        self.restate_groups();
        self.take_back();
        self.find_lost_children();
        let ids: Vec<GenerationId> = self.state.generations.iter().map(|generation| generation.id).collect();
        for id in ids {
            self.watch_generation(id);
        }
        let listeners: Vec<ListenerId> = self.state.listeners.iter().map(|listener| listener.id).collect();
        for id in listeners {
            self.watch_listener(id);
        }
        self.answer_left_call();
        let asked: Vec<GenerationId> =
            self.state.generations.iter().filter(|generation| generation.asked).map(|generation| generation.id).collect();
        for id in asked {
            self.answer_ask(id);
        }
        self.reap();
        self.find_lost_exits();
        self.watch_channel();
        if self.state.daemon.pid == 0 || self.state.daemon.channel.is_none() || process::addressee(self.state.daemon.pid).is_err() {
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

    /// The guard has ended and no descriptor could tell of it: our parent is another. (As every keeper's first parent is its guard, this is true
    /// from the start if it ended before we asked to be told.)
    fn is_orphan(&self) -> bool {
        let parent = || rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
        self.guard.is_none() && parent() != self.life.guard_pid()
    }

    pub(crate) fn watch(&self, source: Source, descriptor: impl std::os::fd::AsFd) {
        let data = epoll::EventData::new_u64(source.token());
        // EEXIST: watched already. Anything else cannot be helped here and shows as a source that stays silent.
        let _ = epoll::add(&self.epoll, descriptor, data, epoll::EventFlags::IN);
    }

    /// Watches for one event; to be called again for the next.
    pub(crate) fn watch_once(&self, source: Source, descriptor: impl std::os::fd::AsFd) {
        let data = epoll::EventData::new_u64(source.token());
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        if epoll::add(&self.epoll, &descriptor, data, flags) == Err(Errno::EXIST) {
            let _ = epoll::modify(&self.epoll, &descriptor, data, flags);
        }
    }

    pub(crate) fn watch_generation(&self, id: GenerationId) {
        if let Some(generation) = self.state.generation(id) {
            for (source, descriptor) in sources(generation) {
                self.watch(source, descriptor);
            }
        }
    }

    /// Watches for requests or, while messages wait, for room to send them.
    pub(crate) fn watch_channel(&mut self) {
        let Some(channel) = self.state.daemon.channel else { return };
        self.awaits_room = !self.outbox.is_empty();
        let data = epoll::EventData::new_u64(Source::Channel.token());
        let flags = if self.awaits_room { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        if epoll::add(&self.epoll, channel, data, flags) == Err(Errno::EXIST) {
            let _ = epoll::modify(&self.epoll, channel, data, flags);
        }
    }

    pub(crate) fn close_channel(&mut self) {
        self.outbox.clear();
        self.unanswered = false;
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
            Some(Source::Binder(id)) => self.on_binder_exit(id),
            Some(Source::Queue(id)) => self.on_queue(id),
            // What waits to be said is said after each event.
            Some(Source::Store | Source::GuardDeath) | None => {}
        }
    }

    /// Writes down what has changed.
    pub(crate) fn commit(&mut self) {
        if let Ok(changes) = self.state.changes()
            && !changes.is_empty()
        {
            // It can only fail for want of room, and what would lead there is refused before.
            let _ = self.journal.commit(&changes);
        }
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let now = clock::monotonic_ns();
        let hold = (!self.state.waiting.is_empty()).then_some(HOLD_RETRY_NS);
        let daemon = self.daemon_due.map(|due| due.saturating_sub(now));
        let queue = self.queue_checks.iter().map(|check| check.due.saturating_sub(now)).min();
        let headless = self.headless_end.map(|(at, _)| at.saturating_sub(now));
        let look = self.looks.keys().next().map(|at| at.saturating_sub(now));
        let nanoseconds = [hold, daemon, queue, headless, look].into_iter().flatten().min()?;
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
        self.check_queues();
        self.do_looks();
        self.stop_headless();
        self.flush();
    }
}
