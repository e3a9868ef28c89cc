//! The two ways to offer load, on one thread: local tasks of a current-thread runtime share one tally, so nothing is counted twice or between two
//! locks.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::exchange::{Body, Connection, Failed};
use crate::report::{Outcome, Report, Tally};
use crate::{Arrival, Plan, Shared};

/// Idle connections that an open loop with keep-alive keeps for later.
const IDLE_POOL: usize = 64;
/// Requests in flight beyond which an open loop would only measure this machine: the next ones wait, and their latency counts from when they were
/// due.
const MOST_IN_FLIGHT: usize = 4_000;

/// # Errors
/// A target that is not loopback; a rate or number of clients that makes no sense.
pub(crate) fn check_target(plan: &Plan) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !plan.target.ip().is_loopback() {
        return refuse(format!("load is for loopback only, not {}", plan.target));
    }
    match plan.arrival {
        Arrival::Rate(rate) if !(rate > 0.0 && rate <= 50_000.0) => refuse(format!("a rate of {rate} requests a second")),
        Arrival::Clients(0 | 10_001..) => refuse("a closed loop has 1 to 10000 clients".to_owned()),
        Arrival::Rate(_) | Arrival::Clients(_) => Ok(()),
    }
}

/// Runs the plan to its end or until it is told to stop.
///
/// # Errors
/// Those of [`check_target`]; a runtime that cannot be built.
pub(crate) fn run(plan: &Plan, shared: &Arc<Shared>) -> io::Result<Report> {
    check_target(plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let state = Rc::new(State {
        plan: plan.clone(),
        shared: Arc::clone(shared),
        start: Instant::now(),
        tally: RefCell::new(Tally::new(plan.trace)),
        next: Cell::new(0),
        idle: RefCell::new(Vec::new()),
    });
    let all = Rc::clone(&state);
    let offered = LocalSet::new().block_on(&runtime, async move {
        match all.plan.arrival {
            Arrival::Rate(rate) => open_loop(&all, rate).await,
            Arrival::Clients(clients) => closed_loop(&all, clients).await,
        }
    });
    let ran = state.start.elapsed();
    let tally = state.tally.replace(Tally::new(false));
    Ok(tally.report(plan.keep_alive, ran, offered))
}

struct State {
    plan: Plan,
    shared: Arc<Shared>,
    start: Instant,
    tally: RefCell<Tally>,
    next: Cell<u64>,
    idle: RefCell<Vec<Connection>>,
}

/// Returns when the last request was offered.
async fn closed_loop(state: &Rc<State>, clients: usize) -> Duration {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let state = Rc::clone(state);
        tasks.spawn_local(async move {
            let mut connection = None;
            // At least one request each, or a load of one moment would be none on a busy machine.
            loop {
                let due = Instant::now();
                let offered = state.start.elapsed();
                connection = state.one(connection, due).await;
                if state.is_over() {
                    break offered;
                }
                if !state.plan.think.is_zero() {
                    tokio::time::sleep(state.plan.think).await;
                }
            }
        });
    }
    let mut last = Duration::ZERO;
    while let Some(offered) = tasks.join_next().await {
        last = last.max(offered.unwrap_or_default());
    }
    last
}

/// Returns when the last request was offered. The runtime's timer ticks in milliseconds, so a request may start up to one late; its latency counts
/// from when it was due.
async fn open_loop(state: &Rc<State>, rate: f64) -> Duration {
    let mut tasks = JoinSet::new();
    let room = Arc::new(Semaphore::new(MOST_IN_FLIGHT));
    let mut offered = Duration::ZERO;
    for index in 0_u32.. {
        let due = Duration::from_secs_f64(f64::from(index) / rate);
        loop {
            let left = due.saturating_sub(state.start.elapsed());
            if left.is_zero() || state.is_over() {
                break;
            }
            // In slices, so that a slow rate still hears the stop.
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
        if state.is_over() {
            break;
        }
        offered = due;
        let (owned, room) = (Rc::clone(state), Arc::clone(&room));
        tasks.spawn_local(async move {
            let _place = room.acquire_owned().await;
            let pooled = owned.idle.borrow_mut().pop();
            if let Some(connection) = owned.one(pooled, owned.start + due).await {
                let mut idle = owned.idle.borrow_mut();
                if idle.len() < IDLE_POOL {
                    idle.push(connection);
                }
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    offered
}

impl State {
    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) || self.start.elapsed() >= self.plan.duration
    }

    /// Offers one request and books it, exactly once. Gives the connection back when it may be used again.
    async fn one(&self, connection: Option<Connection>, due: Instant) -> Option<Connection> {
        let n = self.next.get();
        self.next.set(n + 1);
        let connection = connection.filter(|idle| {
            let closed = idle.is_closed();
            self.tally.borrow_mut().idle_closed += u64::from(closed);
            !closed
        });
        let result = self.exchange(connection, n).await;
        let (at, took) = (self.start.elapsed(), due.elapsed());
        let (outcome, detail) = match result {
            Ok((body, connection)) => {
                self.tally.borrow_mut().ok(at, took, &body.generation, body.pid);
                self.shared.ok.fetch_add(1, Ordering::Relaxed);
                return connection;
            }
            Err(Failed { outcome, detail }) => (outcome, detail),
        };
        self.tally.borrow_mut().failed(at, took, outcome, detail);
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        // A refusal comes back in microseconds: without a pause a closed loop would count one outage thousands of times and starve the server.
        if outcome == Outcome::Refused {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    }

    async fn exchange(&self, connection: Option<Connection>, n: u64) -> Result<(Body, Option<Connection>), Failed> {
        let (plan, begin) = (&self.plan, Instant::now());
        let mut connection = if let Some(connection) = connection {
            connection
        } else {
            let fresh = Connection::open(plan.target, plan.timeout).await?;
            self.tally.borrow_mut().opened += 1;
            fresh
        };
        let left = plan.timeout.saturating_sub(begin.elapsed());
        let (body, reusable) = connection.request(plan, n, left).await?;
        Ok((body, reusable.then_some(connection)))
    }
}
