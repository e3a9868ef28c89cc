//! What a service is in one word, and the facts behind it. The word is chosen so that it is never better than the facts: a process that
//! is there and does not serve is not "running".

use crate::connections::Seen;
use crate::reactor::{Reactor, now};
use crate::say;
use crate::tally::Tally;
use stayput_model::config::Kind;
use stayput_model::event::ExitStatus;
use stayput_model::generation::{Generation, Phase};
use stayput_model::service::{Plan, Service, Target};
use stayput_wire::{Evidence, Fact, Facts, State, Truth};
use std::time::Duration;

/// A connection that has waited for so long was not just about to be accepted.
const DEAF_MS: u32 = 5_000;
/// What is still there so long after SIGKILL cannot be ended by the kernel now.
const WEDGED: Duration = Duration::from_secs(2);

/// What was looked at for one service, beside what the world knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// Its connections; `None`: they could not be looked at.
    pub(crate) seen: Option<Seen>,
    /// Connections that wait in its listeners; `None`: they could not be counted.
    pub(crate) queued: Option<u32>,
    /// State letter and name of the main process of the generation that serves or is to.
    pub(crate) process: Option<(char, String)>,
    /// Whether anybody looked.
    pub(crate) looked: bool,
    /// Where connections were looked for.
    pub(crate) source: &'static str,
}

impl Reactor {
    /// The word for a service by what is known without a look at the kernel; `None`: there is no such service.
    pub(crate) fn state_of(&self, name: &str) -> Option<State> {
        let service = self.world.services.get(name)?;
        Some(state(service, self.tallies.of(name), &Sight::default()))
    }
}

/// The word.
pub(crate) fn state(service: &Service, tally: Option<&Tally>, sight: &Sight) -> State {
    if service.target == Target::Down {
        return down(service, tally);
    }
    let looping = tally.and_then(|tally| tally.is_looping(now())).is_some();
    match &service.plan {
        Plan::Hold { waiting } if waiting.values().any(|taken| *taken) => return State::WaitingForPort,
        Plan::Hold { .. } => return State::Starting,
        Plan::After { .. } => return State::WaitingFor,
        Plan::GaveUp => return State::GivenUp,
        Plan::BackOff { .. } if looping => return State::Looping,
        Plan::BackOff { .. } => return State::BackingOff,
        Plan::Park { .. } | Plan::Succeed { .. } => return State::Handover,
        Plan::Rest => {}
    }
    if is_wedged(service) {
        return State::Wedged;
    }
    let serving = service.serving().and_then(|id| service.generations.get(&id));
    let comes = service.incoming().is_some() || service.going_back().is_some();
    if matches!(service.config.kind, Kind::Task { .. }) && (comes || serving.is_some()) {
        return State::Working;
    }
    match (comes, serving) {
        (true, Some(_)) => State::Restarting,
        (true, None) if service.going_back().is_some() => State::Restarting,
        (true, None) if looping => State::Looping,
        (true, None) => State::Starting,
        (false, Some(serving)) => serves(service, serving, looping, sight),
        (false, None) => at_rest(service),
    }
}

fn serves(service: &Service, serving: &Generation, looping: bool, sight: &Sight) -> State {
    let stopped = matches!(sight.process, Some(('T' | 't', _)));
    let failing = serving.health.as_ref().is_some_and(|health| health.failures > 0);
    if stopped || failing {
        State::Unhealthy
    } else if is_deaf(sight) {
        State::Deaf
    } else if listens(service, serving).is == Truth::No {
        State::NotListening
    } else if looping {
        State::Looping
    } else if matches!(&serving.phase, Phase::Serving { soak: Some(_), .. }) {
        State::Soaking
    } else {
        State::Running
    }
}

/// Meant to be up, and nothing runs or is about to.
fn at_rest(service: &Service) -> State {
    match &service.config.kind {
        Kind::Task { schedule } => match (schedule, service.last_run.as_ref().map(|run| run.status)) {
            (Some(_), _) => State::Scheduled,
            (None, Some(ExitStatus::Exited(0))) => State::Done,
            (None, Some(_)) => State::Failed,
            (None, None) => State::Starting,
        },
        Kind::Service => State::Starting,
    }
}

fn down(service: &Service, tally: Option<&Tally>) -> State {
    if is_wedged(service) {
        return State::Wedged;
    }
    if service.generations.values().any(|generation| !matches!(generation.phase, Phase::Gone { .. } | Phase::Releasing)) {
        return State::Stopping;
    }
    if matches!(service.config.kind, Kind::Task { .. })
        && let Some(run) = &service.last_run
    {
        return if run.status == ExitStatus::Exited(0) { State::Done } else { State::Failed };
    }
    if tally.is_some_and(|tally| tally.ended) {
        return if service.last_exit.is_some_and(|(_, status)| status == ExitStatus::Exited(0)) { State::Done } else { State::Failed };
    }
    if service.config.disabled && service.starts == 0 { State::Disabled } else { State::Stopped }
}

/// It was killed some time ago and is still there.
fn is_wedged(service: &Service) -> bool {
    service.generations.values().any(|generation| {
        matches!(generation.phase, Phase::Stopping { kill_at: None, .. })
            && now().since(generation.since) > WEDGED + service.config.longest_stop()
    })
}

fn is_deaf(sight: &Sight) -> bool {
    sight.seen.and_then(|seen| seen.longest_wait_ms).is_some_and(|waits| waits >= DEAF_MS)
}

/// Why a word that is worse than the phase was chosen, as a phrase.
pub(crate) fn complaint(state: State, service: &Service, tally: Option<&Tally>, sight: &Sight) -> Option<String> {
    let serving = service.serving().and_then(|id| service.generations.get(&id));
    match state {
        State::Unhealthy => match (&sight.process, serving.and_then(|serving| serving.health.as_ref())) {
            (Some(('T', name)), _) => Some(format!("its main process ({name}) is stopped by a signal: it does nothing until SIGCONT")),
            (Some(('t', name)), _) => Some(format!("its main process ({name}) is stopped by a debugger")),
            (_, Some(health)) => {
                let times = say::count(health.failures, "time");
                let since = health.failing_since.map_or_else(String::new, |since| format!(", since {} ago", say::span(now().since(since))));
                Some(format!("its health check fails, {times} in a row{since}: {}", health.what))
            }
            _ => None,
        },
        State::Deaf => Some(waiting(sight)),
        State::NotListening => serving.map(|serving| listens(service, serving).detail),
        State::Looping => {
            let ends = tally.and_then(|tally| tally.is_looping(now()))?;
            Some(format!("it has ended by itself {ends} times within two minutes"))
        }
        State::Wedged => Some("it was killed and is still there: the kernel cannot end it now".to_owned()),
        _ => None,
    }
}

/// "3 connections wait, one of them for 12 s or more".
fn waiting(sight: &Sight) -> String {
    let (queued, longest) = (sight.queued.unwrap_or(1), sight.seen.and_then(|seen| seen.longest_wait_ms).unwrap_or(0));
    let verb = if queued == 1 { "waits" } else { "wait" };
    format!("{} {verb}, and nobody has accepted for {} s or more", say::count(queued, "connection"), longest / 1000)
}

/// Every fact apart.
pub(crate) fn facts(service: &Service, tally: Option<&Tally>, sight: &Sight) -> Facts {
    let current = service.serving().or_else(|| service.incoming()).and_then(|id| service.generations.get(&id));
    Facts {
        process: process(current, sight),
        listening: current.map_or_else(|| unknown("no generation runs"), |current| listens(service, current)),
        accepting: accepting(service, current, tally, sight),
        probe: probe(current, tally),
        looping: looping(tally),
    }
}

fn evidence(source: &str, age: Duration) -> Evidence {
    Evidence { source: source.to_owned(), age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX) }
}

fn unknown(detail: &str) -> Fact {
    Fact { is: Truth::Unknown, detail: detail.to_owned(), evidence: None }
}

fn process(current: Option<&Generation>, sight: &Sight) -> Fact {
    let Some(generation) = current else {
        return Fact { is: Truth::No, detail: "no main process lives".to_owned(), evidence: Some(evidence("keeper", Duration::ZERO)) };
    };
    let pid = generation.main.pid().unwrap_or(0);
    match &sight.process {
        Some((letter @ ('T' | 't'), name)) => {
            let detail = format!("pid {pid} {name}, stopped (state {letter})");
            Fact { is: Truth::Yes, detail, evidence: Some(evidence("procfs", Duration::ZERO)) }
        }
        Some((letter @ ('Z' | 'X'), name)) => {
            let detail = format!("pid {pid} {name} has ended (state {letter})");
            Fact { is: Truth::No, detail, evidence: Some(evidence("procfs", Duration::ZERO)) }
        }
        Some((_, name)) => Fact { is: Truth::Yes, detail: format!("pid {pid} {name}"), evidence: Some(evidence("procfs", Duration::ZERO)) },
        None if generation.main.status().is_some() => {
            let detail = format!("pid {pid} has ended");
            Fact { is: Truth::No, detail, evidence: Some(evidence("keeper", Duration::ZERO)) }
        }
        None if pid == 0 => unknown("it is being forked"),
        None => Fact { is: Truth::Unknown, detail: format!("pid {pid} could not be looked at"), evidence: None },
    }
}

/// The keeper is told by the kernel of each listener that comes, and of each process that ends: what it told is true now.
fn listens(service: &Service, current: &Generation) -> Fact {
    let mut addresses: Vec<String> = service
        .listeners
        .values()
        .filter(|listener| listener.owner == Some(current.id))
        .map(|listener| listener.address.to_string())
        .collect();
    addresses.sort();
    addresses.dedup();
    let has = |port: u16| service.listeners.values().any(|listener| listener.owner == Some(current.id) && listener.address.port() == port);
    let missing: Vec<String> =
        service.config.ports.iter().filter(|address| !has(address.port())).map(|address| format!("port {}", address.port())).collect();
    if matches!(current.trap, stayput_model::generation::Trap::Unavailable(_)) {
        return unknown("its binds are not caught, so its listeners are not known");
    }
    if !missing.is_empty() {
        let detail = format!("it does not listen on {}, which it declares", missing.join(", "));
        return Fact { is: Truth::No, detail, evidence: Some(evidence("keeper", Duration::ZERO)) };
    }
    if addresses.is_empty() {
        return unknown("it declares no port, and has bound none");
    }
    Fact { is: Truth::Yes, detail: addresses.join(", "), evidence: Some(evidence("keeper", Duration::ZERO)) }
}

fn accepting(service: &Service, current: Option<&Generation>, tally: Option<&Tally>, sight: &Sight) -> Fact {
    let Some(current) = current else { return unknown("no generation runs") };
    if !service.listeners.values().any(|listener| listener.owner == Some(current.id)) {
        return unknown("it has no listener");
    }
    if is_deaf(sight) {
        return Fact { is: Truth::No, detail: waiting(sight), evidence: Some(evidence(sight.source, Duration::ZERO)) };
    }
    if !sight.looked || sight.seen.is_none() {
        return unknown("the kernel could not be asked for its connections");
    }
    let queued = sight.queued.unwrap_or(0);
    let queue = if queued == 0 { "no connection waits".to_owned() } else { format!("{} in the queue", say::count(queued, "connection")) };
    let was_ready = tally.and_then(|tally| tally.ready.as_ref()).is_some_and(|(id, ..)| *id == current.id);
    if sight.seen.is_some_and(|seen| seen.accepted > 0) {
        return Fact { is: Truth::Yes, detail: queue, evidence: Some(evidence(sight.source, Duration::ZERO)) };
    }
    // An empty queue alone says nothing when nobody connects: then it is as old as the probe.
    match tally.and_then(|tally| tally.ready.as_ref()).filter(|_| was_ready) {
        Some((_, at, _)) => {
            Fact { is: Truth::Yes, detail: format!("{queue}; it was ready"), evidence: Some(evidence("probe", now().since(*at))) }
        }
        None => unknown(&queue),
    }
}

fn probe(current: Option<&Generation>, tally: Option<&Tally>) -> Fact {
    let Some(current) = current else { return unknown("no generation runs") };
    if let Some(health) = &current.health {
        let is = if health.failures == 0 { Truth::Yes } else { Truth::No };
        return Fact { is, detail: health.what.clone(), evidence: Some(evidence("health check", now().since(health.at))) };
    }
    if let Phase::Starting { last, .. } = &current.phase {
        let detail = last.clone().unwrap_or_else(|| "not ready yet".to_owned());
        return Fact { is: Truth::No, detail, evidence: Some(evidence("readiness check", Duration::ZERO)) };
    }
    match tally.and_then(|tally| tally.ready.as_ref()).filter(|(id, ..)| *id == current.id) {
        Some((_, at, evident)) => {
            Fact { is: Truth::Yes, detail: evident.clone(), evidence: Some(evidence("readiness check", now().since(*at))) }
        }
        None => unknown("its readiness check was passed before this daemon started"),
    }
}

fn looping(tally: Option<&Tally>) -> Fact {
    let (is, detail) = match tally.and_then(|tally| tally.is_looping(now())) {
        Some(ends) => (Truth::Yes, format!("it has ended by itself {ends} times within two minutes")),
        None => (Truth::No, "it has not ended by itself again and again".to_owned()),
    };
    Fact { is, detail, evidence: Some(evidence("keeper", Duration::ZERO)) }
}
