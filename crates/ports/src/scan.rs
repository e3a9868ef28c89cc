//! Who has which socket: passes over all processes, in parallel, likely owners first.
//!
//! Order matters for the first answer, completeness for the last: no pass stops at the first owner, because a socket can be
//! shared with a child that will keep the port. Three passes, each only as far as it is needed:
//!
//! 1. [`first_look`]: the fd numbers just above the standard three, in every process; servers have their listeners there.
//! 2. [`sharers`]: one owner being known, every other fd of every process is compared with it (kcmp), which costs a tenth of
//!    reading its link in /proc.
//! 3. [`second_look`]: reads all the links that the first look left, where an owner is still missing or comparing fails.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use rustix::io::Errno;
use stayput_kernel::kcmp::{FdOf, same_file};
use stayput_kernel::procfs::{FdScan, Pid, Proc, SocketFd};

use crate::facts::Via;

/// The fds that the first look covers.
const LOW: std::ops::Range<i32> = 3..9;
/// Holes in an fd table that the first look forgives.
const SLACK: i32 = 1;
/// More threads than this fight for the same kernel locks.
const MOST_THREADS: usize = 8;
/// So many processes are looked into in about the time that a thread takes to start and end.
const WORTH_A_THREAD: usize = 128;
/// With more files than this, comparing is no cheaper than reading links.
const MOST_COMPARED: usize = 4;
/// Most fd tables are dense from the bottom; after so many holes in a row the rest is looked for elsewhere.
const MOST_HOLES: usize = 3;
/// Shells keep files of their own out of the way at 255 and below, and their children inherit some: worth a guess before
/// the directory is listed, which costs as much as fifty comparisons.
const SHELLS: std::ops::RangeInclusive<i32> = 248..=255;

/// One open socket of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The socket's inode.
    pub inode: u32,
    /// The process.
    pub pid: Pid,
    /// Fd number; -1 for a registered file of an io_uring.
    pub fd: i32,
    /// How it is open.
    pub via: Via,
}

/// What passes found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Open sockets, sorted by inode.
    pub hits: Vec<Hit>,
    /// Processes that could be looked into.
    pub readable: usize,
    /// Processes that could not, for lack of rights.
    pub denied: Vec<Pid>,
    /// Processes with fds that the first look left.
    rest: Vec<Rest>,
}

/// What a first look left of a process.
#[derive(Debug, Clone, Copy)]
struct Rest {
    pid: Pid,
    /// How many fds there are.
    open: usize,
    /// How many of them the look saw, from `LOW.start` to this number (exclusive).
    seen: usize,
    end: i32,
}

impl Scan {
    /// The hits for one inode.
    pub fn of(&self, inode: u32) -> &[Hit] {
        let start = self.hits.partition_point(|hit| hit.inode < inode);
        let length = self.hits[start..].partition_point(|hit| hit.inode == inode);
        &self.hits[start..start + length]
    }

    /// Adds hits, keeping the order and dropping doubles.
    pub fn add(&mut self, hits: impl IntoIterator<Item = Hit>) {
        self.hits.extend(hits);
        self.hits.sort_unstable();
        self.hits.dedup();
    }
}

/// Hands every item to `work` in as many threads as pay; gathers what they made.
fn in_parallel<I: Copy + Sync, T: Send>(items: &[I], work: impl Fn(&mut dyn FnMut() -> Option<I>) -> T + Sync) -> Vec<T> {
    let most = MOST_THREADS.min(items.len() / WORTH_A_THREAD + 1);
    // Asking for the processors reads files of the cgroup.
    let threads = if most > 1 { std::thread::available_parallelism().map_or(1, usize::from).min(most) } else { 1 };
    let counter = AtomicUsize::new(0);
    let run = || work(&mut || items.get(counter.fetch_add(1, Ordering::Relaxed)).copied());
    std::thread::scope(|scope| {
        let spawned: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut parts = vec![run()];
        parts.extend(spawned.into_iter().filter_map(|thread| thread.join().ok()));
        parts
    })
}

/// Looks at the low fds of every process of `pids`, in that order. Sockets in `urgent` are also sent through `found` as soon
/// as they are seen.
pub fn first_look<S: BuildHasher + Sync>(proc: &Proc, pids: &[Pid], urgent: &HashSet<u32, S>, found: Option<&Sender<Hit>>) -> Scan {
    let counted = proc.counts_fds();
    // Each thread gets a sender of its own.
    let senders = std::sync::Mutex::new(found.cloned());
    let parts = in_parallel(pids, |next| {
        let found = senders.lock().ok().and_then(|sender| sender.clone());
        let mut look = Look { proc, urgent, found, counted, out: Scan::default() };
        while let Some(pid) = next() {
            look.at(pid);
        }
        look.out
    });
    let mut whole = Scan::default();
    for part in parts {
        whole.hits.extend(part.hits);
        whole.readable += part.readable;
        whole.denied.extend(part.denied);
        whole.rest.extend(part.rest);
    }
    whole.denied.sort_unstable();
    whole.add([]);
    whole
}

struct Look<'a, S> {
    proc: &'a Proc,
    urgent: &'a HashSet<u32, S>,
    found: Option<Sender<Hit>>,
    /// The kernel counts open fds.
    counted: bool,
    out: Scan,
}

impl<S: BuildHasher> Look<'_, S> {
    fn hit(&mut self, pid: Pid, socket: SocketFd, via: Via) {
        let hit = Hit { inode: socket.inode, pid, fd: socket.fd, via };
        if let Some(found) = &self.found
            && self.urgent.contains(&hit.inode)
        {
            // The receiver may have heard enough.
            let _ = found.send(hit);
        }
        self.out.hits.push(hit);
    }

    fn at(&mut self, pid: Pid) {
        let scan = match self.proc.scan_fds(pid) {
            Ok(scan) => scan,
            Err(error) => return self.failed(pid, error.is_denied()),
        };
        let Some(open) = scan.count() else {
            // Nothing open: a kernel thread, a zombie, or a process whose main thread is gone while others live. Kernels
            // before 6.2 do not count, and get their one and only look here.
            let mut any = false;
            if !self.counted {
                let result = scan.sockets(|socket| {
                    any = true;
                    self.hit(pid, socket, Via::Fd);
                });
                if let Err(errno) = result {
                    return self.failed(pid, is_denied(errno));
                }
            }
            self.out.readable += 1;
            if !any {
                self.threads(pid);
            }
            return;
        };
        // Of few fds most are the standard three; numbers far above their count are for the later passes.
        let end = LOW.end.min(i32::try_from(open).map_or(LOW.end, |open| open.saturating_add(SLACK))).max(LOW.start);
        match scan.sockets_in(LOW.start..end, |socket| self.hit(pid, socket, Via::Fd)) {
            Ok(seen) => {
                self.out.readable += 1;
                if seen < open {
                    self.out.rest.push(Rest { pid, open, seen, end });
                }
            }
            Err(errno) => self.failed(pid, is_denied(errno)),
        }
    }

    fn failed(&mut self, pid: Pid, denied: bool) {
        if denied {
            self.out.denied.push(pid);
        }
    }

    /// A process without fds of its own: its other threads may have some.
    fn threads(&mut self, pid: Pid) {
        if self.proc.thread_count(pid).unwrap_or(0) < 2 {
            return;
        }
        // All threads that share a table show the same: the first one that shows anything speaks for all.
        for tid in self.proc.tasks(pid).unwrap_or_default() {
            let Ok(scan) = self.proc.scan_task_fds(pid, tid) else { continue };
            let mut any = false;
            // Who vanishes in between holds nothing any more.
            let _ = scan.sockets(|socket| {
                any = true;
                self.hit(pid, socket, Via::Thread);
            });
            if any {
                return;
            }
        }
    }
}

fn is_denied(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM)
}

/// Finds everybody who shares the sockets `inodes`, of which the first look found an owner each. False if that cannot be
/// told by comparing (no kcmp, too many sockets, an owner that closed its fd): then [`second_look`] is the way.
pub fn sharers<S: BuildHasher>(proc: &Proc, scan: &mut Scan, inodes: &HashSet<u32, S>) -> bool {
    // Opened by a thread of a process whose main thread is gone: kcmp looks at the main thread.
    let owner = |inode: &u32| scan.of(*inode).iter().find(|hit| hit.via == Via::Fd && hit.fd >= 0).copied();
    let known: Option<Vec<Hit>> = inodes.iter().map(owner).collect();
    let Some(known) = known.filter(|known| known.len() <= MOST_COMPARED) else { return false };
    let parts = in_parallel(&scan.rest, |next| {
        let mut hits = Vec::new();
        while let Some(rest) = next() {
            match compared(proc, rest, &known) {
                Ok(found) => hits.extend(found),
                Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(hits)
    });
    let Ok(parts) = parts.into_iter().collect::<Result<Vec<_>, _>>() else { return false };
    // An owner that closed its fd meanwhile made every comparison say nothing.
    let still = known.iter().all(|hit| same_file(of(*hit), of(*hit)) == Ok(true) && names(proc, *hit));
    if still {
        scan.add(parts.into_iter().flatten());
    }
    still
}

fn of(hit: Hit) -> FdOf {
    FdOf { pid: hit.pid, fd: hit.fd }
}

/// Whether the fd still is that socket.
pub(crate) fn names(proc: &Proc, hit: Hit) -> bool {
    let mut same = false;
    let looked = proc.scan_fds(hit.pid).map(|scan| scan.sockets_in([hit.fd], |socket| same = socket.inode == hit.inode));
    looked.is_ok() && same
}

/// Compares all fds of a process that the first look left.
fn compared(proc: &Proc, rest: Rest, known: &[Hit]) -> Result<Vec<Hit>, Errno> {
    let mut hits = Vec::new();
    let mut seen = rest.seen;
    // True if that fd is open.
    let mut compare = |fd: i32| -> Result<bool, Errno> {
        for owner in known {
            match same_file(of(*owner), FdOf { pid: rest.pid, fd }) {
                Ok(false) => {}
                Ok(true) => hits.push(Hit { inode: owner.inode, pid: rest.pid, fd, via: Via::Fd }),
                Err(Errno::BADF) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    };
    let mut next = 0;
    let mut holes = 0;
    while seen < rest.open && holes < MOST_HOLES {
        if !(LOW.start..rest.end).contains(&next) {
            let open = compare(next)?;
            seen += usize::from(open);
            holes = if open { 0 } else { holes + 1 };
        }
        next += 1;
    }
    for fd in SHELLS.rev().filter(|fd| *fd >= next) {
        if seen < rest.open {
            seen += usize::from(compare(fd)?);
        }
    }
    if seen < rest.open {
        let scan = proc.scan_fds(rest.pid).map_err(|error| error.errno)?;
        let mut failed = None;
        scan.numbers_from(next, |fd| {
            if !SHELLS.contains(&fd) {
                failed = failed.or(compare(fd).err());
            }
        })?;
        failed.map_or(Ok(()), Err)?;
    }
    Ok(hits)
}

/// Reads every link that the first look left, of all processes or of those in `only`.
pub fn second_look<S: BuildHasher>(proc: &Proc, scan: &mut Scan, only: Option<&HashSet<Pid, S>>) {
    let rest: Vec<Rest> = scan.rest.iter().filter(|rest| only.is_none_or(|only| only.contains(&rest.pid))).copied().collect();
    let parts = in_parallel(&rest, |next| {
        let mut hits = Vec::new();
        while let Some(rest) = next() {
            let mut hit = |socket: SocketFd| hits.push(Hit { inode: socket.inode, pid: rest.pid, fd: socket.fd, via: Via::Fd });
            // Whoever vanishes in between holds nothing any more.
            if let Ok(fds) = proc.scan_fds(rest.pid) {
                let low = fds.sockets_in(0..LOW.start, &mut hit).unwrap_or(0);
                let _ = fds.sockets_from(rest.end, rest.seen + low, &mut hit);
            }
        }
        hits
    });
    scan.add(parts.into_iter().flatten());
}

/// Everything at once: every socket of every process.
pub fn whole(proc: &Proc, pids: &[Pid]) -> Scan {
    let mut scan = first_look(proc, pids, &HashSet::<u32>::new(), None);
    second_look(proc, &mut scan, None::<&HashSet<Pid>>);
    scan
}

/// The places where no tool looks, for sockets that the passes did not find: fd tables of single threads, registered files
/// of io_uring, fds in flight between unix sockets; and once more every fd, in lists, because a process that opens and closes
/// files all the time can mislead the passes, which count. Slow, so only when needed.
pub fn deep_scan<S: BuildHasher>(proc: &Proc, pids: &[Pid], missing: &HashSet<u32, S>) -> Vec<Hit> {
    let mut hits = Vec::new();
    for &pid in pids {
        let mut look = |scan: FdScan, via| {
            // Who vanishes has nothing.
            let _ = scan.sockets(|socket| {
                if missing.contains(&socket.inode) {
                    hits.push(Hit { inode: socket.inode, pid, fd: socket.fd, via });
                }
            });
        };
        if let Ok(scan) = proc.scan_fds(pid) {
            look(scan, Via::Fd);
        }
        if proc.thread_count(pid).unwrap_or(0) > 1 {
            for tid in proc.tasks(pid).unwrap_or_default().into_iter().filter(|tid| *tid != pid) {
                if let Ok(scan) = proc.scan_task_fds(pid, tid) {
                    look(scan, Via::Thread);
                }
            }
        }
        for inode in proc.uring_sockets(pid).unwrap_or_default() {
            if missing.contains(&inode) {
                hits.push(Hit { inode, pid, fd: -1, via: Via::IoUring });
            }
        }
    }
    hits.sort_unstable();
    hits.dedup_by_key(|hit| (hit.inode, hit.pid));
    hits
}

/// Processes with a unix socket in whose queue fds are waiting: any of them may be the missing one.
pub fn in_flight_candidates<S: BuildHasher>(proc: &Proc, scan: &Scan, unix_inodes: &HashSet<u32, S>) -> Vec<Pid> {
    let mut pids: Vec<Pid> = scan
        .hits
        .iter()
        .filter(|hit| hit.fd >= 0 && unix_inodes.contains(&hit.inode))
        .filter(|hit| proc.fds_in_flight(hit.pid, hit.fd).ok().flatten().is_some_and(|count| count > 0))
        .map(|hit| hit.pid)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}
