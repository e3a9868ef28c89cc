//! The same restart under stayput: `stayput run` of this very binary around the unmodified server, and `stayput restart`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use stayput_kernel::process::pidfd;
use stayput_kernel::procfs::Proc;
use stayput_load::Expect;

use super::causes::Cause;
use super::restart::{finish, server};
use super::{PATIENCE, Shared, Stage};
use crate::Error;
use crate::process::{Running, story_words};
use crate::result::{Attempt, Fate, Scenario};
use crate::story::{Reuse, Server};

/// How long the new generation is on probation here, in place of the default 10 s.
pub(crate) const SOAK: Duration = Duration::from_millis(500);
/// How long old connections may live on here, in place of the default 30 s.
pub(crate) fn drain(quick: bool) -> Duration {
    if quick { Duration::from_millis(1500) } else { Duration::from_secs(5) }
}

/// A clock tick of proc_pid_stat(5): USER_HZ is 100 on every architecture that we build for.
const TICK_MS: u64 = 10;

/// What is done to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// `stayput restart`.
    Restart,
    /// SIGKILL of the server's main process: nobody ordered it.
    Kill,
}

/// The story's server, unmodified: the same as in *before*, whose bind lacks SO_REUSEADDR.
pub(crate) fn planned(shared: &Shared<'_>, port: u16) -> Result<Scenario, Error> {
    story(shared, "stayput", "stayput: `stayput restart` of the same server as before", &server(port, Reuse::Late), Event::Restart)
}

/// A server with one of the true causes.
pub(crate) fn cause(shared: &Shared<'_>, cause: Cause, port: u16) -> Result<Scenario, Error> {
    let event = if cause == Cause::Reloader { Event::Kill } else { Event::Restart };
    let server = cause.server(port, Reuse::Addr, shared.quick);
    story(shared, &format!("{}-stayput", cause.id()), &format!("{}, stayput", cause.title()), &server, event)
}

fn story(shared: &Shared<'_>, id: &str, title: &str, server: &Server, event: Event) -> Result<Scenario, Error> {
    let mut words = vec![shared.place.server().display().to_string()];
    words.extend(story_words(server, false));
    under(Stage::new(shared, id, title, server.port), &words, event, Expect::Echo)
}

/// Runs `words` under stayput and does `event` to it.
pub(crate) fn under(mut stage: Stage<'_>, words: &[String], event: Event, expect: Expect) -> Result<Scenario, Error> {
    let shared = stage.shared;
    let id = stage.scenario.id.clone();
    let log = shared.place.path(&format!("{id}.log"));
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let stayput = shared.place.stayput().display().to_string();
    let mut line = vec![stayput.clone(), "run".to_owned(), "--name".to_owned(), id.clone()];
    line.extend(["--soak".to_owned(), millis(SOAK), "--drain".to_owned(), millis(drain(shared.quick)), "--".to_owned()]);
    line.extend_from_slice(words);
    let port = stage.port();
    let mut environment = shared.place.environment();
    environment.push(("PORT", port.to_string().into()));
    stage.say(format!("$ stayput run -- {}", words.iter().map(|word| short(word)).collect::<Vec<_>>().join(" ")));
    let mut run = Running::foreign(shared.place, &line, &environment, &log)?;
    until_ready(&mut stage, &mut run, &log, &id)?;
    let before = facts(&stage, &id)?;
    let old = before.server.ok_or_else(|| Error::Server("stayput status names no server".to_owned()))?;
    stage.note_process(old, "old");
    stage.scenario.memory_kib = before.memory_kib;
    stage.clients(Duration::from_secs(5), expect == Expect::Echo, expect)?;
    let old_fd = pidfd(old as i32).ok();
    stage.order();
    match event {
        Event::Restart => {
            stage.say(format!("$ stayput restart {id}"));
            restart(&mut stage, &id)?;
        }
        Event::Kill => {
            stage.say(format!("[!] kill -KILL {old}"));
            if let Some(old) = &old_fd {
                let _ = stayput_kernel::process::signal(old, rustix::process::Signal::KILL.as_raw());
            }
            stage.note_end(old, Some("signal 9".to_owned()));
            until_answered_by_another(&mut stage, &id, old)?;
        }
    }
    let after = facts(&stage, &id)?;
    let new = after.server.filter(|new| *new != old);
    if let Some(new) = new {
        note_new(&mut stage, new);
    }
    // The old connections live on until the drain deadline; what becomes of them belongs to the story.
    let rest = drain(shared.quick) + Duration::from_millis(400);
    until_gone(&mut stage, old, old_fd.as_ref(), rest)?;
    stage.pause(super::restart::AFTERMATH)?;
    let mut scenario = finish(stage, [run].into_iter())?;
    if let Some(new) = new {
        let order = Duration::from_millis(scenario.ordered_ms).as_secs_f64() * 1000.0;
        let answered = scenario.timeline.iter().filter(|dot| matches!(dot.fate, Fate::Served | Fate::Waited));
        let by_new = answered.filter(|dot| dot.pid != 0 && dot.pid != old && dot.due_ms + dot.took_ms > order);
        let first = by_new.map(|dot| dot.due_ms + dot.took_ms).min_by(f64::total_cmp);
        scenario.turnover_ms = first.map(|first| (first - order).round() as u64).or(scenario.turnover_ms);
        let at_ms = scenario.processes.iter().find(|process| process.pid == new).map_or(0, |process| process.from_ms);
        scenario.attempts.push(Attempt { at_ms, pid: new, served: true, error: None });
    }
    Ok(scenario)
}

/// The words of a private directory tell nobody anything.
fn short(word: &str) -> String {
    word.rsplit('/').next().unwrap_or(word).to_owned()
}

fn until_ready(stage: &mut Stage<'_>, run: &mut Running, log: &std::path::Path, id: &str) -> Result<(), Error> {
    let start = std::time::Instant::now();
    loop {
        let ready = super::answers(stage.port(), None) && status(stage, id).is_ok_and(|status| service(&status)["phase"] == "ready");
        if ready {
            return Ok(());
        }
        if run.ended().is_some() || start.elapsed() > PATIENCE {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            return Err(Error::Server(format!("`stayput run` did not get its service ready: {last}")));
        }
        stage.pause(Duration::from_millis(30))?;
    }
}

fn restart(stage: &mut Stage<'_>, id: &str) -> Result<(), Error> {
    let output = cli(stage, &["restart", id, "--json"])?;
    stage.scenario.done_ms = Some(stage.since_order_ms());
    let ledger: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if output.status.success() {
        stage.say("[✓] switched, and the old server drains");
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        stage.scenario.trouble = Some(format!("stayput restart: {}", text.lines().next().unwrap_or("it said nothing")));
    }
    stage.scenario.ledger = (!ledger.is_null()).then_some(ledger);
    Ok(())
}

fn until_answered_by_another(stage: &mut Stage<'_>, id: &str, old: u32) -> Result<(), Error> {
    let start = std::time::Instant::now();
    loop {
        let ready = status(stage, id).is_ok_and(|status| {
            let service = service(&status);
            service["phase"] == "ready" && current(service).is_some_and(|pid| pid != old)
        });
        if ready {
            stage.scenario.done_ms = Some(stage.since_order_ms());
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Error::Server("stayput did not start the server again in time".to_owned()));
        }
        stage.pause(Duration::from_millis(30))?;
    }
}

fn cli(stage: &Stage<'_>, words: &[&str]) -> Result<std::process::Output, Error> {
    let failed = |error| Error::Start(format!("stayput {}", words.join(" ")), error);
    let mut command = std::process::Command::new(stage.shared.place.stayput());
    command.args(words).envs(stage.shared.place.environment()).stdin(std::process::Stdio::null());
    command.output().map_err(failed)
}

fn status(stage: &Stage<'_>, id: &str) -> Result<Value, Error> {
    let output = cli(stage, &["status", "--json"])?;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let found = document["instances"].as_array().into_iter().flatten().find(|instance| instance["name"] == id);
    found.cloned().ok_or_else(|| Error::Server(format!("stayput status does not know {id}")))
}

fn service(instance: &Value) -> &Value {
    &instance["services"][0]
}

fn current(service: &Value) -> Option<u32> {
    let ready = service["generations"].as_array()?.iter().find(|generation| generation["phase"] == "ready")?;
    ready["pid"].as_u64()?.try_into().ok()
}

struct Facts {
    server: Option<u32>,
    memory_kib: Option<u64>,
}

fn facts(stage: &Stage<'_>, id: &str) -> Result<Facts, Error> {
    let instance = status(stage, id)?;
    let pss = |part: &str| {
        let pid = instance[part]["pid"].as_u64()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse::<u64>().ok()
    };
    let memory_kib = ["guard", "keeper", "daemon"].into_iter().map(pss).sum();
    Ok(Facts { server: current(service(&instance)), memory_kib })
}

/// With the time at which the kernel says that it started.
fn note_new(stage: &mut Stage<'_>, pid: u32) {
    stage.note_process(pid, "new");
    let now = clock_gettime(ClockId::Boottime);
    let since_boot_ms = now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000;
    let stat = Proc::open().and_then(|proc| proc.stat(pid as i32));
    if let Ok(stat) = stat {
        let age = since_boot_ms.saturating_sub(stat.start_ticks * TICK_MS);
        let from = stage.now_ms().saturating_sub(age);
        if let Some(process) = stage.scenario.processes.iter_mut().find(|process| process.pid == pid) {
            process.from_ms = from;
        }
    }
}

fn until_gone(stage: &mut Stage<'_>, pid: u32, pidfd: Option<&OwnedFd>, deadline: Duration) -> Result<(), Error> {
    let start = std::time::Instant::now();
    while start.elapsed() < deadline {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = pidfd.is_none_or(|pidfd| matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(1..)));
        if gone {
            stage.note_end(pid, None);
            return Ok(());
        }
        stage.pause(Duration::from_millis(15))?;
    }
    Ok(())
}
