//! Looks at the port while a scenario runs: which sockets are in LISTEN, every few milliseconds, from sock_diag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stayput_kernel::sock_diag::{Query, SockDiag, State, States, Timer};

use crate::result::Listener;

/// There is no event of a `listen`: a socket that listens for less than this may not be seen.
const EVERY: Duration = Duration::from_millis(8);

/// A watch that runs until it is asked for what it saw.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Listener>>>,
}

impl Watch {
    /// Times are counted from `start`.
    pub(crate) fn start(port: u16, start: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let of_thread = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(move || look(port, start, &of_thread));
        Self { stop, thread: thread.ok() }
    }

    /// Ends it.
    pub(crate) fn listeners(mut self) -> Vec<Listener> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look(port: u16, start: Instant, stop: &AtomicBool) -> Vec<Listener> {
    let mut seen: Vec<Listener> = Vec::new();
    let Ok(mut diag) = SockDiag::open() else { return seen };
    let query = Query::tcp(States::LISTEN).port(port);
    while !stop.load(Ordering::Relaxed) {
        let now = start.elapsed().as_millis() as u64;
        let _ = diag.each(&query, |socket| {
            // Without an inode no process has it; with a remote port it is somebody's connection.
            if socket.local.port() != port || socket.state != State::Listen {
                return;
            }
            match seen.iter_mut().find(|known| known.inode == socket.inode) {
                Some(known) => known.to_ms = now,
                None => seen.push(Listener { inode: socket.inode, from_ms: now, to_ms: now }),
            }
        });
        std::thread::sleep(EVERY);
    }
    seen
}

/// How long the kernel will keep the port's left-over connections at least: the longest TIME_WAIT timer. `None`: there is none.
pub(crate) fn time_wait_left(port: u16) -> Option<Duration> {
    let mut longest = None;
    let mut diag = SockDiag::open().ok()?;
    diag.each(&Query::tcp(States::CONNECTIONS).port(port), |socket| {
        if let (true, Some((Timer::TimeWait, left))) = (socket.local.port() == port, socket.timer) {
            longest = longest.max(Some(left));
        }
    })
    .ok()?;
    longest
}
