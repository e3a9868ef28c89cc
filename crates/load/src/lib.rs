//! A load client that accounts for every request exactly once. It owns the plan, its thread and the handle; what is counted stands in
//! `report`, one request on the wire in `exchange`, the two ways to offer load in `engine`.
//!
//! It refuses to talk to anything but loopback, and to run without an end.

mod engine;
mod exchange;
mod histogram;
mod report;

pub use histogram::Summary;
pub use report::{Answerer, Counts, Exchange, Failure, Outcome, Report};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How requests are offered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// Open loop: this many requests a second, whether or not earlier ones were answered. Latency counts from the moment the request was due,
    /// so a stalled server cannot hide behind a client that waits for it.
    Rate(f64),
    /// Closed loop: this many clients, each with one request in flight.
    Clients(usize),
}

/// What counts as a good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Status 200 and JSON with the server's `pid` and this request's `n`: nobody else's answer, nothing from a cache.
    Echo,
    /// Any complete HTTP answer below status 500, from a server that knows nothing of us.
    AnyHttp,
}

/// What to offer, to whom, for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server. Loopback only.
    pub target: SocketAddr,
    /// Open or closed loop.
    pub arrival: Arrival,
    /// `false`: a fresh connection per request. `true`: connections are used again.
    pub keep_alive: bool,
    /// The latest end, for a load that nobody stops.
    pub duration: Duration,
    /// From connect() to the last byte; afterwards the request is counted as timed out.
    pub timeout: Duration,
    /// Request path; a parameter `n` that the server must echo is appended.
    pub path: String,
    /// A pause of each closed-loop client between two requests.
    pub think: Duration,
    /// What counts as a good answer.
    pub expect: Expect,
    /// Keep every request in [`Report::exchanges`].
    pub trace: bool,
}

impl Plan {
    /// A closed loop of four clients with fresh connections for at most 60 s; change what differs.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            arrival: Arrival::Clients(4),
            keep_alive: false,
            duration: Duration::from_mins(1),
            timeout: Duration::from_secs(10),
            path: "/".to_owned(),
            think: Duration::ZERO,
            expect: Expect::Echo,
            trace: false,
        }
    }

    /// The same for a port of 127.0.0.1.
    pub fn port(port: u16) -> Self {
        Self::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// With `rate` requests a second, open loop.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.arrival = Arrival::Rate(rate);
        self
    }

    /// With `clients` closed-loop clients.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.arrival = Arrival::Clients(clients);
        self
    }

    /// With connections that are used again.
    #[must_use]
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }

    /// With another latest end.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// With another deadline per request.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With another request path.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// With a pause of each closed-loop client between two requests.
    #[must_use]
    pub fn think(mut self, think: Duration) -> Self {
        self.think = think;
        self
    }

    /// With another idea of a good answer.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// Keeping every request.
    #[must_use]
    pub fn trace(mut self) -> Self {
        self.trace = true;
        self
    }

    /// Runs the whole plan on this thread.
    ///
    /// # Errors
    /// A target outside loopback; a runtime that cannot be built.
    pub fn run(&self) -> std::io::Result<Report> {
        engine::run(self, &Arc::new(Shared::default()))
    }

    /// Starts the plan on a thread of its own.
    ///
    /// # Errors
    /// A target outside loopback; a thread that cannot be started.
    pub fn start(&self) -> std::io::Result<Load> {
        engine::check_target(self)?;
        let shared = Arc::new(Shared::default());
        let plan = self.clone();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || engine::run(&plan, &of_thread))?;
        Ok(Load { shared, thread: Some(thread), started: Instant::now() })
    }
}

/// What the running load tells the outside, and hears from it.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    ok: AtomicU64,
    failed: AtomicU64,
}

/// A load that runs; it ends with its plan, with [`Load::stop`], or when dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<std::io::Result<Report>>>,
    started: Instant,
}

impl Load {
    /// Good answers so far.
    pub fn ok(&self) -> u64 {
        self.shared.ok.load(Ordering::Relaxed)
    }

    /// Failures so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Time since the start, on the clock of [`Report`]'s milliseconds.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until `more` further requests were answered well.
    ///
    /// # Errors
    /// The deadline passed first: how far it came.
    pub fn wait_ok(&self, more: u64, deadline: Duration) -> Result<(), String> {
        let goal = self.ok() + more;
        let start = Instant::now();
        while self.ok() < goal {
            if start.elapsed() > deadline {
                return Err(format!(
                    "load: {} of {more} further good answers within {deadline:?}, {} failures",
                    more - (goal - self.ok()),
                    self.failed()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Offers nothing new, waits for what is in flight (each bounded by its timeout), and reports.
    ///
    /// # Errors
    /// The load's thread failed or panicked.
    pub fn stop(mut self) -> std::io::Result<Report> {
        self.join()
    }

    fn join(&mut self) -> std::io::Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(report)) => report,
            Some(Err(_)) => Err(std::io::Error::other("the load's thread panicked")),
            None => Err(std::io::Error::other("the load was stopped already")),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.join();
        }
    }
}
