//! The four trials, the same for every peer, and what each peer weighs.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::{Counts, Load, Plan, Report};
use stayput_testkit::{process, wait};

use super::Bench;
use super::peer::{PATIENCE, Peer, Rig};

/// Requests a second.
const RATE: f64 = 150.0;
/// A request that takes longer counts as lost.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One line of the first two tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) peer: String,
    /// How often it was done.
    pub(super) events: u32,
    /// How it was ordered.
    pub(super) order: String,
    pub(super) counts: Counts,
    /// The longest good answer, in milliseconds.
    pub(super) longest_wait_ms: u64,
    /// The longest time without a good answer, in milliseconds.
    pub(super) longest_gap_ms: u64,
    /// Median time from the event until a new process answered, in milliseconds.
    pub(super) to_serve_ms: u64,
    /// Processes that still lived 5 s after the peer was ended as its manual says.
    pub(super) left: Vec<String>,
    /// Why it could not be measured to the end.
    #[serde(default)]
    pub(super) trouble: Option<String>,
}

/// SIGKILL of the supervisor, and the same command again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SupervisorRow {
    pub(super) peer: String,
    pub(super) counts: Counts,
    pub(super) longest_gap_ms: u64,
    /// Who answers 6 s after the second start: `old` process, a `new` one, or `nobody`.
    pub(super) answers: String,
    /// What the second start came to: `runs`, or the exit status.
    pub(super) second_start: String,
    /// Starts of the server in those 6 s: more than one is a loop.
    pub(super) starts: usize,
    /// Whether the order to restart brings a new process afterwards.
    pub(super) manages: Result<(), String>,
    pub(super) left: Vec<String>,
    #[serde(default)]
    pub(super) trouble: Option<String>,
}

/// A stranger has the port when the peer is started, and lets go 5 s later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StrangerRow {
    pub(super) peer: String,
    /// Starts of the server while the port was taken.
    pub(super) starts: usize,
    /// From the release until the server answered, in milliseconds; None: not within 10 s.
    pub(super) to_serve_ms: Option<u64>,
    /// What the peer itself ended with, if it gave up.
    pub(super) ended: Option<String>,
    #[serde(default)]
    pub(super) trouble: Option<String>,
}

/// Memory of the peer alone, without its services.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MemoryRow {
    pub(super) peer: String,
    pub(super) services: u32,
    /// Proportional set size of all its processes, in KiB.
    pub(super) pss_kib: u64,
    /// How many they are.
    pub(super) processes: usize,
}

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Restart,
    Kill,
}

/// Planned restarts, or SIGKILLs of whoever answers, under load.
pub(super) fn under_load(bench: &Bench, peer: Peer, event: Event, events: u32, peace: Duration) -> Result<Row, String> {
    let env = bench.env();
    let port = env.port();
    let rig = peer.start(&env, &bench.tools, port)?;
    let first = answering(port)?;
    settle(&rig);
    let load = start_load(port)?;
    load.wait_ok(50, PATIENCE)?;
    let (mut times, mut trouble, mut current) = (Vec::new(), None, first);
    for _ in 0..events {
        if event == Event::Kill {
            std::thread::sleep(peace);
            current = answering(port).unwrap_or(current);
        }
        match turn(&env, &rig, &load, port, event, current) {
            Ok((took, new)) => {
                times.push(took);
                current = new;
            }
            Err(why) => {
                trouble = Some(why);
                break;
            }
        }
    }
    let report = load.stop().map_err(|error| error.to_string())?;
    times.sort_unstable();
    Ok(Row {
        peer: peer.name().to_owned(),
        events: times.len() as u32,
        order: if event == Event::Restart { peer.order().to_owned() } else { "kill -KILL of the process that answers".to_owned() },
        counts: report.counts,
        longest_wait_ms: report.latency_us.max / 1000,
        longest_gap_ms: report.longest_gap_ms,
        to_serve_ms: times.get(times.len() / 2).map_or(0, |median| median.as_millis() as u64),
        left: rig.stop(),
        trouble,
    })
}

/// Some count a start as one only after a while (supervisord's startsecs, pm2's min_uptime): not under load yet.
fn settle(rig: &Rig<'_>) {
    let _ = rig.ended();
    std::thread::sleep(Duration::from_millis(1500));
}

fn start_load(port: u16) -> Result<Load, String> {
    let plan = Plan::port(port).rate(RATE).timeout(TIMEOUT).duration(Duration::from_mins(15));
    plan.start().map_err(|error| error.to_string())
}

/// One event; returns when a process that was not there before has answered, and the load has gone on for a while.
fn turn(env: &TestEnv, rig: &Rig<'_>, load: &Load, port: u16, event: Event, current: u32) -> Result<(Duration, u32), String> {
    let before: BTreeSet<u32> = env.left().into_iter().map(|each| each.pid).collect();
    let start = Instant::now();
    match event {
        Event::Restart => rig.restart(current)?,
        Event::Kill => {
            process::signal(current, Signal::KILL);
        }
    }
    // Where several share the port, the others answer on; a new one has to take its turn.
    let new = wait::until("the new process", PATIENCE, || match answering_once(port) {
        Some(pid) if !before.contains(&pid) => Ok(pid),
        seen => Err(format!("{seen:?} answered")),
    })?;
    let took = start.elapsed();
    load.wait_ok(60, PATIENCE)?;
    Ok((took, new))
}

/// SIGKILL of the supervisor under load, 2 s, and the same command again.
pub(super) fn supervisor_killed(bench: &Bench, peer: Peer) -> Result<SupervisorRow, String> {
    let env = bench.env();
    let port = env.port();
    let rig = peer.start(&env, &bench.tools, port)?;
    answering(port)?;
    settle(&rig);
    let before: BTreeSet<u32> = env.left().into_iter().map(|each| each.pid).collect();
    let load = start_load(port)?;
    load.wait_ok(50, PATIENCE)?;
    let supervisor = rig.supervisor()?;
    if !process::signal(supervisor, Signal::KILL) {
        return Err(format!("the supervisor (pid {supervisor}) is gone"));
    }
    std::thread::sleep(Duration::from_secs(2));
    let starts = rig.starts();
    let again = rig.launch();
    std::thread::sleep(Duration::from_secs(6));
    let starts = rig.starts() - starts;
    let second_start = match (again, rig.ended()) {
        (Err(why), _) => why.lines().next().unwrap_or_default().to_owned(),
        (Ok(()), Some(status)) => status,
        (Ok(()), None) => "runs".to_owned(),
    };
    let answers = match answering_once(port) {
        None => "nobody",
        Some(pid) if before.contains(&pid) => "old",
        Some(_) => "new",
    };
    let report = load.stop().map_err(|error| error.to_string())?;
    Ok(SupervisorRow {
        peer: peer.name().to_owned(),
        counts: report.counts,
        longest_gap_ms: report.longest_gap_ms,
        answers: answers.to_owned(),
        second_start,
        starts,
        manages: manages(&env, &rig, port),
        left: rig.stop(),
        trouble: None,
    })
}

/// Whether an order to restart is carried out.
fn manages(env: &TestEnv, rig: &Rig<'_>, port: u16) -> Result<(), String> {
    let current = answering_once(port).unwrap_or_default();
    let before: BTreeSet<u32> = env.left().into_iter().map(|each| each.pid).collect();
    rig.restart(current)?;
    let new = || answering_once(port).is_some_and(|pid| !before.contains(&pid));
    wait::until_true("a new process that answers", Duration::from_secs(10), new)
}

/// The port is taken at the start.
pub(super) fn stranger(bench: &Bench, peer: Peer) -> Result<StrangerRow, String> {
    let env = bench.env();
    let port = env.port();
    let stranger = TcpListener::bind(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    let started = peer.start(&env, &bench.tools, port);
    std::thread::sleep(Duration::from_secs(5));
    let row = |starts, to_serve_ms, ended, trouble| StrangerRow { peer: peer.name().to_owned(), starts, to_serve_ms, ended, trouble };
    let rig = match started {
        Ok(rig) => rig,
        Err(why) => return Ok(row(0, None, Some(why.lines().next().unwrap_or_default().to_owned()), None)),
    };
    let starts = rig.starts();
    let released = Instant::now();
    drop(stranger);
    let answered = wait::until_true("an answer", Duration::from_secs(10), || answering_once(port).is_some());
    let to_serve_ms = answered.is_ok().then(|| released.elapsed().as_millis() as u64);
    Ok(row(starts, to_serve_ms, rig.ended(), None))
}

/// The mean memory of a peer with `services` trivial services. None: it cannot have several, or its memory cannot be told from theirs.
pub(super) fn memory(bench: &Bench, peer: Peer, services: u32) -> Result<Option<MemoryRow>, String> {
    let env = bench.env();
    let ports: Vec<u16> = (0..services).map(|_| env.port()).collect();
    let Some(rig) = peer.start_many(&env, &bench.tools, &ports)? else { return Ok(None) };
    for port in &ports {
        answering(*port)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let of_services = |command: &str| command.split(' ').next().is_some_and(|program| program.ends_with("misbehave"));
    let own: Vec<_> = env.left().into_iter().filter(|each| !of_services(&each.command)).collect();
    let pss_kib = own.iter().filter_map(|each| process::pss_kib(each.pid)).sum();
    drop(rig);
    Ok(Some(MemoryRow { peer: peer.name().to_owned(), services, pss_kib, processes: own.len() }))
}

fn answering(port: u16) -> Result<u32, String> {
    wait::until("an answer", PATIENCE, || answering_once(port).ok_or_else(|| "none".to_owned()))
}

fn answering_once(port: u16) -> Option<u32> {
    let once = Plan::port(port).clients(1).duration(Duration::from_millis(1)).timeout(Duration::from_secs(2));
    let report: Report = once.run().ok()?;
    Some(report.answerers.first()?.pid)
}
