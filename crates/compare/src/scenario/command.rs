//! A command of the user's own: stopped and started again, as a script would do it, and restarted under stayput.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stayput_kernel::procfs::Proc;
use stayput_load::Expect;
use stayput_ports::listing::{Filter, list};

use super::restart::{AFTERMATH, finish};
use super::under::{Event, under};
use super::{PATIENCE, Shared, Stage, answers};
use crate::Error;
use crate::process::{Running, describe};
use crate::result::{Attempt, Scenario};

/// What a script does: TERM, wait, start.
pub(crate) fn bare(shared: &Shared<'_>, command: &[OsString], wanted: Option<u16>, hint: u16) -> Result<Scenario, Error> {
    let log = shared.place.path("command.log");
    let environment = [("PORT", OsString::from(wanted.unwrap_or(hint).to_string()))];
    let start = || Running::foreign(shared.place, command, &environment, &log);
    let mut old = start()?;
    let port = until_it_listens(shared, &mut old, wanted, &log)?;
    let mut stage = Stage::new(shared, "command-before", "your command: stopped, then started", port);
    stage.note_process(old.pid(), "old");
    stage.clients(Duration::from_secs(5), false, Expect::AnyHttp)?;
    stage.order();
    old.signal(Signal::TERM);
    stage.say(format!("[!] kill -TERM {}", old.pid()));
    if !old.wait(Duration::from_secs(10), shared.cancel)? {
        stage.say("[!] it did not end within 10 s: kill -KILL");
        old.signal(Signal::KILL);
        old.wait(PATIENCE, shared.cancel)?;
    }
    stage.note_end(old.pid(), old.ended().map(describe));
    let mut new = None;
    while new.is_none() && stage.since_order_ms() < 20_000 {
        let at_ms = stage.now_ms();
        let mut attempt = start()?;
        let pid = attempt.pid();
        stage.note_process(pid, "attempt");
        let served = until_answered(&stage, &mut attempt)?;
        let error = if served { None } else { last_line(&log) };
        stage.scenario.attempts.push(Attempt { at_ms, pid, served, error });
        if served {
            stage.note_role(pid, "new");
            stage.scenario.turnover_ms = Some(stage.since_order_ms());
            stage.scenario.done_ms = stage.scenario.turnover_ms;
            new = Some(attempt);
        } else {
            stage.note_end(pid, attempt.ended().map(describe));
            stage.pause(Duration::from_secs(1))?;
        }
    }
    stage.pause(AFTERMATH)?;
    finish(stage, new.into_iter().chain([old]))
}

/// The same under stayput, on the port that it was seen to listen on.
pub(crate) fn with_stayput(shared: &Shared<'_>, command: &[OsString], port: u16) -> Result<Scenario, Error> {
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let stage = Stage::new(shared, "command-stayput", "your command: `stayput restart`", port);
    under(stage, &words, Event::Restart, Expect::AnyHttp)
}

/// The port that the command, or a child of it, listens on and answers HTTP at.
fn until_it_listens(shared: &Shared<'_>, running: &mut Running, wanted: Option<u16>, log: &std::path::Path) -> Result<u16, Error> {
    let start = Instant::now();
    loop {
        let found = listening_ports(running.pid());
        let candidate = found.iter().copied().find(|port| wanted.is_none_or(|wanted| wanted == *port) && answers(*port, None));
        if let Some(port) = candidate {
            return Ok(port);
        }
        let ended = running.ended();
        if ended.is_some() || start.elapsed() > PATIENCE {
            let what = match (ended, wanted, found.as_slice()) {
                (Some(status), ..) => format!("the command ended with {}", describe(status)),
                (None, Some(wanted), []) => format!("the command did not listen on 127.0.0.1:{wanted} within {PATIENCE:?}"),
                (None, None, []) => format!("the command listened on no TCP port within {PATIENCE:?}"),
                (None, _, ports) => format!("the command listens on {ports:?}, and nothing there answered HTTP at 127.0.0.1"),
            };
            return Err(Error::Server(last_line(log).map_or(what.clone(), |line| format!("{what}: {line}"))));
        }
        // Which ports a whole tree listens on is asked of /proc: that has no event, and costs more than other looks.
        shared.cancel.pause(Duration::from_millis(40))?;
    }
}

fn until_answered(stage: &Stage<'_>, running: &mut Running) -> Result<bool, Error> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if answers(stage.port(), None) {
            return Ok(true);
        }
        if running.ended().is_some() {
            return Ok(false);
        }
        stage.pause(crate::process::LOOK)?;
    }
    Ok(false)
}

/// TCP ports on which `root` or a descendant of it listens.
fn listening_ports(root: u32) -> Vec<u16> {
    let (Ok(proc), Ok(listing)) = (Proc::open(), list(false, &Filter::default())) else { return Vec::new() };
    let parents: HashMap<i32, i32> =
        proc.pids().unwrap_or_default().into_iter().filter_map(|pid| Some((pid, proc.stat(pid).ok()?.ppid))).collect();
    let is_ours = |mut pid: i32| {
        for _ in 0..64 {
            if pid == root as i32 {
                return true;
            }
            match parents.get(&pid) {
                Some(parent) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    let mut ports: Vec<u16> = listing
        .sockets
        .iter()
        .filter(|socket| socket.accept_queue.is_some())
        .filter(|socket| socket.pids.value().is_some_and(|pids| pids.iter().any(|pid| is_ours(*pid))))
        .map(|socket| socket.local.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn last_line(log: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().chars().take(200).collect())
}
