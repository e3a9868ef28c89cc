//! Who has which socket: one pass over all processes, in parallel, likely owners first.
//!
//! Order matters for the first answer, completeness for the last: the pass never stops at the first owner, because a socket
//! can be shared with a child that will keep the port. Each process is looked at twice: first the low fd numbers of all of
//! them, where servers have their listeners, then the rest.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Barrier, Mutex};

use stayput_kernel::procfs::{Pid, Proc};

use crate::facts::Via;

/// The first look at a process covers fds below this.
const LOW: i32 = 12;
/// More threads than this fight for the same kernel locks.
const MOST_THREADS: usize = 8;

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

/// What a pass found.
#[derive(Debug, Default)]
pub struct Scan {
    /// All open sockets, sorted by inode.
    pub hits: Vec<Hit>,
    /// Processes that could be looked into.
    pub readable: usize,
    /// Processes that could not, for lack of rights.
    pub denied: Vec<Pid>,
}

impl Scan {
    /// The hits for one inode.
    pub fn of(&self, inode: u32) -> &[Hit] {
        let start = self.hits.partition_point(|hit| hit.inode < inode);
        let length = self.hits[start..].partition_point(|hit| hit.inode == inode);
        &self.hits[start..start + length]
    }
}

/// Per process: what the first look left to do.
enum Rest {
    /// Nothing.
    Done,
    /// The fds from [`LOW`] on; so many were found below it.
    From(usize),
    /// Gone or not readable.
    Skipped,
}

/// Looks into every process of `pids`, in that order.
///
/// Sockets in `urgent` are also sent through `found` as soon as they are seen.
pub fn scan<S: BuildHasher + Sync>(proc: &Proc, pids: &[Pid], urgent: &HashSet<u32, S>, found: Option<&Sender<Hit>>) -> Scan {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(pids.len().max(1));
    let rests: Vec<Mutex<Rest>> = pids.iter().map(|_| Mutex::new(Rest::Skipped)).collect();
    let (first, second) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Nobody takes a second look while a first one is still under way.
    let halfway = Barrier::new(threads);
    let work = |found: Option<Sender<Hit>>| {
        let mut out = Scan::default();
        let mut worker = Worker { proc, urgent, found, out: &mut out };
        while let Some((pid, rest)) = next(&first, pids, &rests) {
            let left = worker.first_look(*pid);
            if let Ok(mut rest) = rest.lock() {
                *rest = left;
            }
        }
        halfway.wait();
        while let Some((pid, rest)) = next(&second, pids, &rests) {
            if let Ok(Rest::From(below)) = rest.lock().as_deref() {
                worker.second_look(*pid, *below);
            }
        }
        out
    };
    let mut whole = Scan::default();
    std::thread::scope(|scope| {
        let spawned: Vec<_> = (1..threads)
            .map(|_| {
                let found = found.cloned();
                scope.spawn(|| work(found))
            })
            .collect();
        whole = work(found.cloned());
        for part in spawned.into_iter().filter_map(|thread| thread.join().ok()) {
            whole.hits.extend(part.hits);
            whole.readable += part.readable;
            whole.denied.extend(part.denied);
        }
    });
    whole.hits.sort_unstable();
    whole.denied.sort_unstable();
    whole
}

fn next<'a>(counter: &AtomicUsize, pids: &'a [Pid], rests: &'a [Mutex<Rest>]) -> Option<(&'a Pid, &'a Mutex<Rest>)> {
    let index = counter.fetch_add(1, Ordering::Relaxed);
    Some((pids.get(index)?, rests.get(index)?))
}

struct Worker<'a, S> {
    proc: &'a Proc,
    urgent: &'a HashSet<u32, S>,
    found: Option<Sender<Hit>>,
    out: &'a mut Scan,
}

impl<S: BuildHasher> Worker<'_, S> {
    fn hit(&mut self, hit: Hit) {
        if let Some(found) = &self.found
            && self.urgent.contains(&hit.inode)
        {
            // The receiver may have heard enough.
            let _ = found.send(hit);
        }
        self.out.hits.push(hit);
    }

    fn first_look(&mut self, pid: Pid) -> Rest {
        let scan = match self.proc.scan_fds(pid) {
            Ok(scan) => scan,
            Err(error) => return self.failed(pid, error.is_denied()),
        };
        let Some(open) = scan.count() else {
            // Nothing open: a kernel thread, a zombie, or a process whose main thread is gone while others live. Kernels
            // before 6.2 do not count, and get their one and only look here.
            let mut any = false;
            let result = scan.sockets(|socket| {
                any = true;
                self.hit(Hit { inode: socket.inode, pid, fd: socket.fd, via: Via::Fd });
            });
            if result.is_err() {
                return self.failed(pid, false);
            }
            self.out.readable += 1;
            if !any {
                self.threads(pid);
            }
            return Rest::Done;
        };
        match scan.sockets_in(0..LOW, |socket| self.hit(Hit { inode: socket.inode, pid, fd: socket.fd, via: Via::Fd })) {
            Ok(below) => {
                self.out.readable += 1;
                if below >= open { Rest::Done } else { Rest::From(below) }
            }
            Err(errno) => self.failed(pid, matches!(errno, rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)),
        }
    }

    fn failed(&mut self, pid: Pid, denied: bool) -> Rest {
        if denied {
            self.out.denied.push(pid);
        }
        Rest::Skipped
    }

    fn second_look(&mut self, pid: Pid, below: usize) {
        if let Ok(scan) = self.proc.scan_fds(pid) {
            // Whoever vanishes in between holds nothing any more.
            let _ = scan.sockets_from(LOW, below, |socket| {
                self.hit(Hit { inode: socket.inode, pid, fd: socket.fd, via: Via::Fd });
            });
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
            let _ = scan.sockets(|socket| {
                any = true;
                self.hit(Hit { inode: socket.inode, pid, fd: socket.fd, via: Via::Thread });
            });
            if any {
                return;
            }
        }
    }
}

/// The places where no tool looks, for sockets that the pass did not find: fd tables of single threads, registered files of
/// io_uring, fds in flight between unix sockets. Slow, so only when needed.
pub fn deep_scan<S: BuildHasher>(proc: &Proc, pids: &[Pid], missing: &HashSet<u32, S>) -> Vec<Hit> {
    let mut hits = Vec::new();
    for &pid in pids {
        if proc.thread_count(pid).unwrap_or(0) > 1 {
            for tid in proc.tasks(pid).unwrap_or_default().into_iter().filter(|tid| *tid != pid) {
                let Ok(scan) = proc.scan_task_fds(pid, tid) else { continue };
                let _ = scan.sockets(|socket| {
                    if missing.contains(&socket.inode) {
                        hits.push(Hit { inode: socket.inode, pid, fd: socket.fd, via: Via::Thread });
                    }
                });
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
