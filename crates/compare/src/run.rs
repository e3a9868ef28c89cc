//! The order of the scenarios: *before* waits for the kernel in the background, the others run meanwhile, stayput's own restart runs alone.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stayput_kernel::process;
use stayput_kernel::procfs::Proc;

use crate::cancel::readable;
use crate::environment::environment;
use crate::flask::flask;
use crate::lab::lab;
use crate::place::Place;
use crate::result::{Comparison, Lab, SCHEMA, Scenario};
use crate::scenario::causes::{Cause, Way, cause};
use crate::scenario::{Shared, can_bind, command, restart, stale, under};
use crate::story::Reuse;
use crate::{Cancel, Error, Options, Progress, judge};

/// Ports of our own lie here: below the range from which the kernel takes source ports.
const FIRST: u16 = 11_000;
const RANGE: u16 = 8_000;

/// Runs the comparison.
///
/// With a command of the user's own it makes this process a subreaper, so that what that leaves behind is ended as well.
///
/// # Errors
/// Interrupted, the port is taken, no place or no processes to be had. What goes wrong within a scenario stands in its `trouble`.
pub fn run(options: &Options, cancel: &Cancel, progress: &(dyn Fn(Progress) + Sync)) -> Result<Comparison, Error> {
    let start = Instant::now();
    if let Some(port) = options.port {
        refuse_if_taken(port)?;
    }
    let place = Place::new()?;
    // The story's own processes are tied to us by a pipe, and `stayput why` shall see their orphans as anybody's are; a stranger's command may leave
    // behind what nothing ties.
    if !options.command.is_empty() {
        let _ = process::become_subreaper();
    }
    let shared = Shared { place: &place, cancel, quick: options.quick };
    let mut ports = Ports::new(if options.command.is_empty() { options.port } else { None });
    let mut comparison = Comparison {
        schema: SCHEMA,
        environment: environment(options),
        scenarios: Vec::new(),
        lab: Lab { columns: [""; 4], rows: Vec::new(), trouble: None },
        flask: crate::result::Flask { version: None, reuseaddr: None, reuseport: None, turnover_ms: None, absent: None },
        corrections: Vec::new(),
        metrics: Vec::new(),
        verdict: String::new(),
    };
    let told = |doing: &str| {
        let of_ms = if options.quick { 13_000 } else { 80_000 };
        progress(Progress { doing: doing.to_owned(), at_ms: start.elapsed().as_millis() as u64, of_ms });
    };
    let done = all(options, &shared, &mut ports, &told, &mut comparison);
    end_descendants();
    done?;
    comparison.environment.took_ms = start.elapsed().as_millis() as u64;
    judge::judge(&mut comparison);
    Ok(comparison)
}

type Handle<'scope> = ScopedJoinHandle<'scope, Result<Scenario, Error>>;

fn all(
    options: &Options,
    shared: &Shared<'_>,
    ports: &mut Ports,
    told: &(dyn Fn(&str) + Sync),
    comparison: &mut Comparison,
) -> Result<(), Error> {
    // The port that was asked for is the one of the story.
    let story = ports.next()?;
    let rest: Vec<u16> = (0..24).map(|_| ports.next()).collect::<Result<_, _>>()?;
    let mut rest = rest.into_iter();
    let mut port = || rest.next().unwrap_or_default();
    // Before any other thread starts a process: what is forked holds every socket of ours for the moment until it executes.
    comparison.lab = lab(&[port(), port(), port(), port()]);
    std::thread::scope(|scope| {
        if options.quick {
            told("before, after, and the true causes, all beside each other");
        } else {
            told("before: TERM, and a loop that starts the server again until the kernel lets it");
        }
        let step = |doing: &str| {
            if !options.quick {
                told(doing);
            }
        };
        let (plain, flask_port) = (port(), port());
        let before = scope.spawn(move || {
            let title = "before: the check passes, the start fails (options set after bind)";
            kept("before", title, story, restart::before(shared, "before", title, story, Reuse::Late))
        });
        let never = scope.spawn(move || {
            let title = "before, with a server that never sets SO_REUSEADDR";
            kept("before-never", title, plain, restart::before(shared, "before-never", title, plain, Reuse::None))
        });
        let flask = scope.spawn(move || flask(shared, flask_port));
        let mut middle: Vec<Handle<'_>> = Vec::new();
        let (after, stale) = (port(), port());
        step("after: SO_REUSEADDR and SO_REUSEPORT before bind; and a stale copy beside the new one");
        start(scope, &mut middle, options.quick, shared, "after", after, move || restart::after(shared, after));
        start(scope, &mut middle, options.quick, shared, "stale-copy", stale, move || stale::stale(shared, stale));
        step("the true causes: an inherited listener, a reloader's child, a slow exit");
        for each in Cause::ALL {
            let (before, after, stayput) = (port(), port(), port());
            let id = |way: &str| format!("{}-{way}", each.id());
            start(scope, &mut middle, true, shared, &id("before"), before, move || cause(shared, each, Way::Before, before));
            start(scope, &mut middle, true, shared, &id("after"), after, move || cause(shared, each, Way::After, after));
            start(scope, &mut middle, options.quick, shared, &id("stayput"), stayput, move || under::cause(shared, each, stayput));
        }
        let mut command = Vec::new();
        if !options.command.is_empty() {
            told("your command: stopped and started");
            let bare = kept("command-before", "your command", 0, command::bare(shared, &options.command, options.port, port()))?;
            let found = bare.port;
            command.push(bare);
            if found != 0 {
                told("your command: with stayput");
                let title = "your command: `stayput restart`";
                command.push(kept("command-stayput", title, found, command::with_stayput(shared, &options.command, found))?);
            }
        }
        let mut middle = middle.into_iter().map(joined).collect::<Result<Vec<_>, _>>()?;
        told("stayput: the same server as before, restarted");
        let alone = port();
        let stayput = kept("stayput", "stayput", alone, under::planned(shared, alone))?;
        if !options.quick {
            told("before: the loop still waits for the kernel to let go of the port");
        }
        comparison.flask = flask.join().map_err(|_| panicked())??;
        comparison.scenarios = vec![joined(before)?];
        let causes = middle.split_off(2.min(middle.len()));
        comparison.scenarios.push(middle.remove(0));
        comparison.scenarios.push(stayput);
        comparison.scenarios.push(joined(never)?);
        comparison.scenarios.extend(middle);
        comparison.scenarios.extend(causes);
        comparison.scenarios.extend(command);
        Ok(())
    })
}

/// Starts a scenario; if not `beside`, the ones before it end first.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    running: &mut Vec<Handle<'scope>>,
    beside: bool,
    shared: &'scope Shared<'scope>,
    id: &str,
    port: u16,
    scenario: impl FnOnce() -> Result<Scenario, Error> + Send + 'scope,
) {
    if !beside {
        // Joined in the end; here only waited for. A thread's end is no event that can be waited for beside the word to end; a look costs nothing
        // beside scenarios of seconds.
        while running.iter().any(|handle| !handle.is_finished()) && shared.cancel.pause(Duration::from_millis(20)).is_ok() {}
    }
    let id = id.to_owned();
    running.push(scope.spawn(move || kept(&id, &id, port, scenario())));
}

fn joined(handle: Handle<'_>) -> Result<Scenario, Error> {
    handle.join().map_err(|_| panicked())?
}

fn panicked() -> Error {
    Error::Server("a scenario's thread panicked".to_owned())
}

/// A scenario that failed is shown as one that failed; an interruption ends everything.
fn kept(id: &str, title: &str, port: u16, result: Result<Scenario, Error>) -> Result<Scenario, Error> {
    match result {
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => {
            let mut empty = Scenario::new(id, title, port);
            empty.trouble = Some(error.to_string());
            Ok(empty)
        }
        Ok(scenario) => Ok(scenario),
    }
}

fn refuse_if_taken(port: u16) -> Result<(), Error> {
    if can_bind(port, false, false) {
        return Ok(());
    }
    let server = stayput_ports::bind::Server::usual(IpAddr::V4(Ipv4Addr::LOCALHOST), rustix::process::geteuid().as_raw()).plain();
    let options = stayput_ports::Options { servers: vec![server], probe: false, elsewhere: false };
    let reports = stayput_ports::inspect(&[port], &options, |_| {}).map_err(|error| Error::NoPort(error.to_string()))?;
    let summary = reports.first().map_or_else(String::new, |report| report.summary.clone());
    Err(Error::PortTaken(port, summary))
}

/// Hands out free ports: nothing at all stands on them, not even TIME_WAIT.
struct Ports {
    wanted: Option<u16>,
    next: u16,
    left: u16,
}

impl Ports {
    fn new(wanted: Option<u16>) -> Self {
        // Comparisons that run at once start elsewhere.
        let start = (std::process::id() as u16).wrapping_mul(127) % RANGE;
        Self { wanted, next: start, left: RANGE }
    }

    fn next(&mut self) -> Result<u16, Error> {
        if let Some(wanted) = self.wanted.take() {
            return Ok(wanted);
        }
        while self.left > 0 {
            self.left -= 1;
            let port = FIRST + self.next;
            self.next = (self.next + 1) % RANGE;
            if can_bind(port, false, false) {
                return Ok(port);
            }
        }
        Err(Error::NoPort(format!("none from {FIRST} to {} can be bound on 127.0.0.1", FIRST + RANGE - 1)))
    }
}

/// Ends what the compared programs left behind: every descendant of ours, until there is none.
fn end_descendants() {
    let Ok(proc) = Proc::open() else { return };
    let own = std::process::id() as i32;
    for _ in 0..100 {
        let all: Vec<_> = proc.pids().unwrap_or_default().into_iter().filter_map(|pid| proc.stat(pid).ok()).collect();
        let mut ours = vec![own];
        let mut found = 0;
        while found < ours.len() {
            let parent = ours[found];
            ours.extend(all.iter().filter(|stat| stat.ppid == parent).map(|stat| stat.pid));
            found += 1;
        }
        let alive: Vec<i32> = all
            .iter()
            .filter(|stat| stat.pid != own && ours.contains(&stat.pid) && !matches!(stat.state, 'Z' | 'X'))
            .map(|stat| stat.pid)
            .collect();
        for stat in all.iter().filter(|stat| stat.ppid == own && stat.state == 'Z') {
            process::reap(stat.pid);
        }
        if alive.is_empty() {
            return;
        }
        let killed: Vec<_> = alive.into_iter().filter_map(|pid| process::pidfd(pid).ok()).collect();
        for pidfd in &killed {
            let _ = process::signal(pidfd, Signal::KILL.as_raw());
        }
        for pidfd in &killed {
            readable(&[pidfd.as_fd()], Duration::from_secs(1));
        }
    }
}
