//! The thread that moves what services write into their segments, and another one that compresses what is closed.
//!
//! One turn of a stream moves a bounded number of bytes; then it is the others' turn. Threads of their own, because a write may wait for the disk:
//! whoever decides about services must not.

use crate::bell::Bell;
use crate::directory::{DirectoryError, ServiceDir, Store};
use crate::name::{SegmentName, Track};
use crate::retain::{self, Limits};
use crate::writer::{Moved, RETRY, Turn, Writer, WriterOptions};
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes per turn of a stream.
const BUDGET: u64 = 1 << 20;
/// Size of the pipe of a service that fills it: fewer changes between it and us.
const WIDE_PIPE: usize = 512 * 1024;
/// Segments whose files are kept open.
const OPEN_MAX: usize = 256;
/// A segment is compressed when it has been closed for so long: a flood deletes it sooner, and compressing it would be for nothing.
const QUIET: Duration = Duration::from_secs(30);
/// How often age is looked at when nothing happens.
const AGE_LOOK: Duration = Duration::from_hours(1);
/// Nice value of the thread that compresses.
const LEISURELY: i32 = 19;
/// The descriptor that wakes the pump, among the streams' numbers.
const WAKE: u64 = 0;

/// What becomes of a service's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How much is kept.
    pub limits: Limits,
    /// Bytes of a segment.
    pub segment: u64,
    /// The service waits while its output cannot be written; else that is dropped and counted.
    pub block: bool,
    /// Closed segments are compressed.
    pub compress: bool,
}

impl Policy {
    fn options(&self) -> WriterOptions {
        // The limit of size is kept by deleting whole segments: there have to be a few.
        WriterOptions { segment: self.segment.min(self.limits.max_size / 4).max(64 * 1024), block: self.block }
    }
}

/// What the pump tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PumpEvent {
    /// A stream has ended, or cannot be read any further; all that it gave is in its segments.
    Ended(Arc<str>, Track),
    /// Output cannot be written.
    Trouble {
        /// Whose.
        service: Arc<str>,
        /// Of which stream.
        track: Track,
        /// This call failed.
        call: &'static str,
        /// With this error.
        error: Errno,
        /// The service waits; else bytes are dropped.
        block: bool,
    },
    /// Output can be written again.
    Recovered {
        /// Whose.
        service: Arc<str>,
        /// Of which stream.
        track: Track,
        /// So many bytes were dropped.
        dropped: u64,
    },
}

/// Counters of a service.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes written to segments.
    pub written: AtomicU64,
    /// Bytes dropped because they could not be written.
    pub dropped: AtomicU64,
}

enum Order {
    Attach { dir: Arc<ServiceDir>, track: Track, pipe: OwnedFd, policy: Policy, counters: Arc<Counters> },
    Policy { service: Arc<str>, policy: Policy },
}

/// The thread's handle. It ends when this is dropped; what is in the pipes then stays there.
#[derive(Debug)]
pub struct Pump {
    orders: Option<Sender<Order>>,
    wake: Arc<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
    store: Arc<Store>,
    counters: BTreeMap<String, Arc<Counters>>,
    dirs: BTreeMap<String, Arc<ServiceDir>>,
}

/// Now, in nanoseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

impl Pump {
    /// Starts it. `tell` is called in the pump's thread and must not wait.
    ///
    /// # Errors
    /// The call that failed: `epoll_create1`, `eventfd`, or starting the thread.
    pub fn start(store: Arc<Store>, bell: Bell, tell: impl FnMut(PumpEvent) + Send + 'static) -> Result<Self, std::io::Error> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags)?);
        epoll::add(&poll, &*wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let (orders, inbox) = channel();
        let engine = Engine {
            poll,
            wake: Arc::clone(&wake),
            inbox,
            bell,
            tell: Box::new(tell),
            streams: BTreeMap::new(),
            next: WAKE + 1,
            open: Arc::default(),
            blocked: BTreeMap::new(),
            packer: None,
            turn: 0,
        };
        let thread = std::thread::Builder::new().name("logs".to_owned()).stack_size(256 * 1024).spawn(move || engine.run())?;
        Ok(Self { orders: Some(orders), wake, thread: Some(thread), store, counters: BTreeMap::new(), dirs: BTreeMap::new() })
    }

    /// Moves what comes out of `pipe` (non-blocking) from now on.
    ///
    /// # Errors
    /// [`DirectoryError`]: the service's directory cannot be used. The pipe is closed then.
    pub fn attach(&mut self, service: &str, track: Track, pipe: OwnedFd, policy: Policy) -> Result<(), DirectoryError> {
        let dir = match self.dirs.get(service) {
            Some(dir) => Arc::clone(dir),
            None => Arc::new(self.store.service(service, true)?),
        };
        self.dirs.insert(service.to_owned(), Arc::clone(&dir));
        let counters = self.counters(service);
        self.order(Order::Attach { dir, track, pipe, policy, counters });
        Ok(())
    }

    /// Changes what becomes of a service's output.
    pub fn set_policy(&self, service: &str, policy: Policy) {
        self.order(Order::Policy { service: service.into(), policy });
    }

    /// The counters of a service; they count on from 0 with the pump.
    pub fn counters(&mut self, service: &str) -> Arc<Counters> {
        Arc::clone(self.counters.entry(service.to_owned()).or_default())
    }

    fn order(&self, order: Order) {
        // The thread ends only with us.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.orders = None;
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // If it panicked there is nothing to clean up.
            let _ = thread.join();
        }
    }
}

/// Segments that are written, which nobody else may touch.
type Open = Arc<Mutex<BTreeSet<(Arc<str>, SegmentName)>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Engine {
    poll: OwnedFd,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Order>,
    bell: Bell,
    tell: Box<dyn FnMut(PumpEvent) + Send>,
    streams: BTreeMap<u64, Stream>,
    next: u64,
    open: Open,
    /// Streams that are not watched until then.
    blocked: BTreeMap<u64, Instant>,
    packer: Option<Sender<Arc<ServiceDir>>>,
    turn: u64,
}

struct Stream {
    writer: Writer,
    pipe: OwnedFd,
    policy: Policy,
    counters: Arc<Counters>,
    current: Option<SegmentName>,
    /// The last turn in which it had something.
    turn: u64,
    wide: bool,
}

impl Engine {
    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        let mut aged = Instant::now();
        loop {
            events.clear();
            let timeout = self.timeout(aged);
            let timeout = timeout.map(|timeout| rustix::event::Timespec {
                tv_sec: timeout.as_secs().cast_signed(),
                tv_nsec: i64::from(timeout.subsec_nanos()),
            });
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            for number in events.iter().map(|event| event.data.u64()) {
                if number == WAKE {
                    if !self.take_orders() {
                        return;
                    }
                } else {
                    self.turn(number);
                }
            }
            self.retry();
            if aged.elapsed() >= AGE_LOOK {
                aged = Instant::now();
                self.keep_age();
            }
        }
    }

    /// How long nothing has to be done.
    fn timeout(&self, aged: Instant) -> Option<Duration> {
        let blocked = self.blocked.values().min().map(|until| until.saturating_duration_since(Instant::now()));
        let by_age = self.streams.values().any(|stream| stream.policy.limits.max_age.is_some());
        let age = by_age.then(|| AGE_LOOK.saturating_sub(aged.elapsed()));
        [blocked, age].into_iter().flatten().min()
    }

    /// False: there will be no more.
    fn take_orders(&mut self) -> bool {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Attach { dir, track, pipe, policy, counters }) => self.attach(&dir, track, pipe, policy, counters),
                Ok(Order::Policy { service, policy }) => {
                    for stream in self.streams.values_mut().filter(|stream| stream.writer.directory().service == service) {
                        stream.policy = policy;
                        stream.writer.set_options(policy.options());
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn attach(&mut self, dir: &Arc<ServiceDir>, track: Track, pipe: OwnedFd, policy: Policy, counters: Arc<Counters>) {
        let service = Arc::clone(&dir.service);
        let writer = Writer::open(Arc::clone(dir), track, policy.options());
        let number = self.next;
        let watched = writer.and_then(|writer| {
            epoll::add(&self.poll, &pipe, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
                .map(|()| writer)
                .map_err(|error| ("epoll_ctl", error))
        });
        match watched {
            Ok(writer) => {
                self.next += 1;
                let current = writer.current();
                lock(&self.open).extend(current.map(|name| (service, name)));
                let mut stream = Stream { writer, pipe, policy, counters, current, turn: self.turn, wide: false };
                // It has been quiet, maybe for long; and there may be a thousand.
                stream.writer.close_files();
                self.streams.insert(number, stream);
                self.pack_soon(dir, policy);
            }
            Err((call, error)) => {
                (self.tell)(PumpEvent::Trouble { service: Arc::clone(&service), track, call, error, block: false });
                (self.tell)(PumpEvent::Ended(service, track));
            }
        }
    }

    /// A stream has something.
    fn turn(&mut self, number: u64) {
        self.turn += 1;
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.turn = self.turn;
        let had_files = stream.writer.has_files();
        let moved = stream.writer.turn(&stream.pipe, BUDGET, now());
        stream.counters.written.fetch_add(moved.written, Ordering::Relaxed);
        stream.counters.dropped.fetch_add(moved.dropped, Ordering::Relaxed);
        if moved.written >= 64 * 1024 && !stream.wide {
            stream.wide = true;
            // Not allowed beyond a limit per user: then it stays as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(&stream.pipe, WIDE_PIPE);
        }
        let service = Arc::clone(&stream.writer.directory().service);
        let files = moved.files;
        if files || stream.current != stream.writer.current() {
            self.changed_files(number);
        }
        if !had_files {
            self.close_some();
        }
        if moved.written + moved.dropped > 0 || files {
            self.bell.ring(&service, files);
        }
        self.tell_of(number, &moved);
        match moved.turn {
            Turn::Ended => self.end(number),
            Turn::Blocked => self.block(number),
            Turn::Empty | Turn::More => {}
        }
    }

    fn tell_of(&mut self, number: u64, moved: &Moved) {
        let Some(stream) = self.streams.get(&number) else { return };
        let (service, track) = (Arc::clone(&stream.writer.directory().service), stream.writer.track());
        if let Some((call, error)) = moved.trouble {
            let block = stream.policy.block;
            (self.tell)(PumpEvent::Trouble { service: Arc::clone(&service), track, call, error, block });
        }
        if let Some(dropped) = moved.recovered {
            (self.tell)(PumpEvent::Recovered { service, track, dropped });
        }
    }

    /// A segment was begun or closed: keeps the limits.
    fn changed_files(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let dir = Arc::clone(stream.writer.directory());
        let mut open = lock(&self.open);
        if let Some(before) = std::mem::replace(&mut stream.current, stream.writer.current()) {
            open.remove(&(Arc::clone(&dir.service), before));
        }
        open.extend(stream.current.map(|name| (Arc::clone(&dir.service), name)));
        let ours: BTreeSet<SegmentName> = open.iter().filter(|(service, _)| *service == dir.service).map(|(_, name)| *name).collect();
        drop(open);
        let policy = stream.policy;
        // A directory that cannot be read shows when the next segment is begun.
        let _ = retain::apply(&dir, policy.limits, &ours, now());
        self.pack_soon(&dir, policy);
    }

    /// Closes the files of those that have been quiet longest.
    fn close_some(&mut self) {
        let mut with_files: Vec<(u64, u64)> =
            self.streams.iter().filter(|(_, stream)| stream.writer.has_files()).map(|(number, stream)| (stream.turn, *number)).collect();
        if with_files.len() <= OPEN_MAX {
            return;
        }
        with_files.sort_unstable();
        for (_, number) in &with_files[..with_files.len() - OPEN_MAX * 3 / 4] {
            if let Some(stream) = self.streams.get_mut(number) {
                stream.writer.close_files();
            }
        }
    }

    fn end(&mut self, number: u64) {
        let Some(stream) = self.streams.remove(&number) else { return };
        let _ = epoll::delete(&self.poll, &stream.pipe);
        self.blocked.remove(&number);
        let (service, track) = (Arc::clone(&stream.writer.directory().service), stream.writer.track());
        if let Some(current) = stream.current {
            lock(&self.open).remove(&(Arc::clone(&service), current));
        }
        self.bell.ring(&service, true);
        (self.tell)(PumpEvent::Ended(service, track));
    }

    /// Nothing can be written: looks again after a while, and not before.
    fn block(&mut self, number: u64) {
        if let Some(stream) = self.streams.get(&number) {
            // Not only its readiness: a hang-up is told of whatever is watched for.
            let _ = epoll::delete(&self.poll, &stream.pipe);
            self.blocked.insert(number, Instant::now() + RETRY);
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        let due: Vec<u64> = self.blocked.iter().filter(|(_, until)| **until <= now).map(|(number, _)| *number).collect();
        for number in due {
            self.blocked.remove(&number);
            if let Some(stream) = self.streams.get(&number) {
                let _ = epoll::add(&self.poll, &stream.pipe, epoll::EventData::new_u64(number), epoll::EventFlags::IN);
            }
        }
    }

    fn keep_age(&mut self) {
        let numbers: Vec<u64> = self.streams.keys().copied().collect();
        for number in numbers {
            self.changed_files(number);
        }
    }

    /// Lets closed segments of a service be compressed, in a while.
    fn pack_soon(&mut self, dir: &Arc<ServiceDir>, policy: Policy) {
        if !policy.compress {
            return;
        }
        if self.packer.is_none() {
            let (orders, inbox) = channel();
            let open = Arc::clone(&self.open);
            let thread = std::thread::Builder::new().name("logs-pack".to_owned()).stack_size(512 * 1024);
            // If there can be no thread, they stay as they are.
            if thread.spawn(move || pack(&inbox, &open)).is_ok() {
                self.packer = Some(orders);
            }
        }
        let _ = self.packer.as_ref().map(|packer| packer.send(Arc::clone(dir)));
    }
}

/// Compresses until the pump ends.
fn pack(inbox: &Receiver<Arc<ServiceDir>>, open: &Open) {
    // setpriority(2): of this thread alone, on Linux.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LEISURELY);
    let mut due: BTreeMap<Arc<str>, Arc<ServiceDir>> = BTreeMap::new();
    let mut at = Instant::now();
    loop {
        let left = at.saturating_duration_since(Instant::now());
        let order = if due.is_empty() { inbox.recv().map_err(|_| RecvTimeoutError::Disconnected) } else { inbox.recv_timeout(left) };
        match order {
            Ok(dir) => {
                if due.is_empty() {
                    at = Instant::now() + QUIET + Duration::from_secs(1);
                }
                due.insert(Arc::clone(&dir.service), dir);
            }
            Err(RecvTimeoutError::Timeout) => {
                due.retain(|_, dir| {
                    let is_open = |name| lock(open).contains(&(Arc::clone(&dir.service), name));
                    matches!(retain::compress(dir, is_open, QUIET, now()), Ok((_, true)))
                });
                at = Instant::now() + QUIET;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
