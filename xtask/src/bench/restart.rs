//! Planned restarts and SIGKILLs of the server, under a constant open-loop load, for each server and contestant.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use stayput_testkit::load::{Counts, Load, Plan, Report};
use stayput_testkit::server::Server;
use stayput_testkit::{process, wait};

use super::Bench;
use super::contestant::{Contestant, Rig};

const PATIENCE: Duration = Duration::from_mins(1);
/// Requests a second: enough that a gap of 10 ms is seen, little enough that two processors are not busy with the load.
const RATE: f64 = 150.0;
/// A request that takes longer counts as lost.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// A restart in the contestant's own words.
    Restart,
    /// SIGKILL of the server's main process.
    Kill,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) server: String,
    pub(super) contestant: Contestant,
    pub(super) event: Event,
    pub(super) keep_alive: bool,
    /// How often it was done.
    pub(super) events: u32,
    /// None: this server cannot run under this contestant without a change of its code.
    pub(super) seen: Option<Seen>,
    /// Why it could not be measured to the end.
    #[serde(default)]
    pub(super) trouble: Option<String>,
}

/// What the clients saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) counts: Counts,
    pub(super) idle_closed: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
    pub(super) longest_gap_ms: u64,
    /// Median time from the order to the first answer of the new process.
    pub(super) turnover_ms: u64,
}

impl Row {
    pub(super) fn is_of(&self, other: &Self) -> bool {
        (&self.server, self.contestant, self.event, self.keep_alive) == (&other.server, other.contestant, other.event, other.keep_alive)
    }
}

/// Gives each row away as soon as it is measured.
pub(super) fn measure(bench: &Bench, mut done: impl FnMut(Row) -> Result<(), String>) -> Result<(), String> {
    let events = bench.options.count.unwrap_or_else(|| bench.options.repeat(20, 2));
    for server in bench.options.servers() {
        let wanted = |contestant: &Contestant| bench.options.contestants.is_empty() || bench.options.contestants.contains(contestant);
        for contestant in Contestant::ALL.into_iter().filter(wanted) {
            for (name, event, keep_alive) in
                [("restart", Event::Restart, false), ("kill", Event::Kill, false), ("keep-alive", Event::Restart, true)]
            {
                if !bench.options.events.is_empty() && !bench.options.events.iter().any(|wanted| wanted == name) {
                    continue;
                }
                let start = Instant::now();
                let row = one(bench, server, contestant, event, keep_alive, events)?;
                println!(
                    "{:5.1}s {} | {} | {event:?}{} | {:?} {}",
                    start.elapsed().as_secs_f32(),
                    server.name(),
                    contestant.name(),
                    if keep_alive { " keep-alive" } else { "" },
                    row.seen.as_ref().map(|seen| seen.counts),
                    row.trouble.as_deref().unwrap_or_default()
                );
                done(row)?;
            }
        }
    }
    Ok(())
}

fn one(bench: &Bench, server: Server, contestant: Contestant, event: Event, keep_alive: bool, events: u32) -> Result<Row, String> {
    let mut row = Row { server: server.name().to_owned(), contestant, event, keep_alive, events, seen: None, trouble: None };
    let env = bench.env();
    let port = env.port();
    // Idle keep-alive connections live until the drain deadline; the default of 30 s would only make the bench longer.
    let drain = if keep_alive { "1s" } else { "30s" };
    let Some(rig) = contestant.start(&env, server, port, drain)? else { return Ok(row) };
    let mut plan = Plan::port(port).rate(RATE).timeout(TIMEOUT).duration(Duration::from_mins(10));
    plan.keep_alive = keep_alive;
    answering(server, port).map_err(|why| format!("{} with {}: {why}", server.name(), contestant.name()))?;
    let load = plan.start().map_err(|error| error.to_string())?;
    let mut turnovers = Vec::new();
    let peace = Duration::from_secs(bench.options.peace.unwrap_or_else(|| bench.options.repeat(12, 0).into()));
    for _ in 0..events {
        if event == Event::Kill {
            std::thread::sleep(peace);
        }
        match turn(&rig, &load, server, port, event) {
            Ok(turnover) => turnovers.push(turnover),
            Err(why) => {
                row.trouble = Some(why);
                break;
            }
        }
    }
    let report = load.stop().map_err(|error| error.to_string())?;
    row.seen = Some(seen(&report, turnovers));
    Ok(row)
}

fn seen(report: &Report, mut turnovers: Vec<Duration>) -> Seen {
    turnovers.sort_unstable();
    Seen {
        counts: report.counts,
        idle_closed: report.idle_closed,
        p99_us: report.latency_us.p99,
        max_us: report.latency_us.max,
        longest_gap_ms: report.longest_gap_ms,
        turnover_ms: turnovers.get(turnovers.len() / 2).map_or(0, |median| median.as_millis() as u64),
    }
}

/// One restart or kill; returns when the new process has answered and the load has gone on for a while.
fn turn(rig: &Rig<'_>, load: &Load, server: Server, port: u16, event: Event) -> Result<Duration, String> {
    let old = answering(server, port)?;
    let start = Instant::now();
    match event {
        Event::Restart => rig.restart()?,
        Event::Kill => {
            process::signal(old, Signal::KILL);
        }
    }
    // For a restart the contestant may have returned long after the new process took over; that is its own affair.
    wait::until_true("the new process", PATIENCE, || answering_once(server, port).is_some_and(|pid| pid != old))?;
    let turnover = start.elapsed();
    load.wait_ok(30, PATIENCE)?;
    Ok(turnover)
}

/// The main process of whoever answers now.
fn answering(server: Server, port: u16) -> Result<u32, String> {
    wait::until("an answer", PATIENCE, || answering_once(server, port).ok_or_else(|| "none".to_owned()))
}

fn answering_once(server: Server, port: u16) -> Option<u32> {
    let once = Plan::port(port).clients(1).duration(Duration::from_millis(1)).timeout(Duration::from_secs(2));
    let pid = once.run().ok()?.answerers.first()?.pid;
    match server {
        // A worker answers; the process that is restarted or killed is its master.
        Server::Gunicorn | Server::Nginx => process::parent(pid).filter(|parent| *parent > 1),
        _ => Some(pid),
    }
}
