//! What is true now, in the words of the wire: the world's knowledge, and what the kernel says when asked.

use crate::connections::Survey;
use crate::events::wall_ms;
use crate::evidence::{self, Sight};
use crate::history::Observation;
use crate::reactor::{Reactor, now};
use crate::say;
use crate::tally::Tally;
use crate::usage::{Moment, Usage};
use stayput_model::Mono;
use stayput_model::config::{After, Kind, When};
use stayput_model::event::{GenerationId, ListenerFacts, Origin};
use stayput_model::generation::{Generation, Phase, Trap, Way};
use stayput_model::ledger::Ledger;
use stayput_model::notice::StopReason;
use stayput_model::service::{Plan, Service, Target};
use stayput_wire::{
    AfterStatus, ConfigOrigin, ConfigSource, Connections, Evidence, GenerationPhase, GenerationStatus, HealthStatus, Holding,
    InstanceStatus, LastExit, ListenerOrigin, ListenerStatus, Measured, Mode, NextStep, Outcome, ProcessStatus, ServiceKind, ServicePhase,
    ServiceStatus, TrapStatus, WaitingPort, WatchStatus,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

impl Reactor {
    /// The whole instance.
    pub(crate) fn status(&mut self) -> InstanceStatus {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let mut look = self.look();
        // What is stayput's own comes last: the others are what a person looks for.
        let mut names: Vec<(bool, String)> = self.world.services.iter().map(|(name, service)| (service.config.own, name.clone())).collect();
        names.sort();
        let services = names.iter().filter_map(|(_, name)| self.service_status(name, &mut look)).collect();
        self.chronicle.note(now(), wall_ms(), &look.seen);
        InstanceStatus {
            name: self.identity.instance.clone(),
            guard: ProcessStatus { pid: self.identity.guard },
            keeper: ProcessStatus { pid: self.identity.keeper },
            daemon: ProcessStatus { pid },
            services,
            keeper_deaths: self.identity.keeper_deaths,
            daemon_deaths: self.identity.daemon_deaths,
            mode: match self.world.mode {
                stayput_model::config::Mode::Run => Mode::Run,
                stayput_model::config::Mode::Up => Mode::Up,
            },
            daemon_ms: milliseconds(now().since(self.started)),
            source: self.world.source.as_ref().map(|source| ConfigSource {
                path: String::from_utf8_lossy(&source.path).into_owned(),
                profile: source.profile.clone(),
                only: source.only.clone(),
            }),
            cursor: Some(self.events.cursor()),
        }
    }

    /// One look at the kernel for all services.
    fn look(&mut self) -> Look {
        let addresses: BTreeSet<SocketAddr> =
            self.world.services.values().flat_map(|service| service.listeners.values().map(|listener| listener.address)).collect();
        let survey = self.observer.as_mut().and_then(|observer| observer.survey(&addresses).ok());
        let generations = self.world.services.values().flat_map(|service| service.generations.values());
        let mains = generations.filter(|generation| generation.main.status().is_none()).filter_map(|generation| generation.main.pid());
        let moment = self.gauge.as_ref().map(|gauge| gauge.moment(mains)).unwrap_or_default();
        Look { survey, moment, seen: BTreeMap::new() }
    }

    fn sight(&self, service: &Service, look: &mut Look) -> Sight {
        let addresses: BTreeSet<SocketAddr> = service.listeners.values().map(|listener| listener.address).collect();
        let survey = look.survey.as_ref();
        let queued = survey.map(|survey| service.listeners.values().filter_map(|listener| survey.queue(listener.inode)).sum());
        let current = service.serving().or_else(|| service.incoming()).and_then(|id| service.generations.get(&id));
        let pid = current.filter(|current| current.main.status().is_none()).and_then(|current| current.main.pid());
        Sight {
            seen: survey.map(|survey| survey.at(&addresses, queued)),
            queued,
            process: pid.and_then(|pid| self.gauge.as_ref()?.process(pid, &mut look.moment)),
            looked: true,
            source: survey.map_or("", |survey| survey.source),
        }
    }

    fn service_status(&mut self, name: &str, look: &mut Look) -> Option<ServiceStatus> {
        let service = self.world.services.get(name)?;
        let sight = self.sight(service, look);
        let connections = self.connections(name, &sight);
        let usage = self.usage(name, look);
        let waiting = self.waiting_ports(name);
        let service = self.world.services.get(name)?;
        let tally = self.tallies.of(name);
        let listener = |facts: &ListenerFacts| listener_status(facts, look.survey.as_ref());
        let (phase, mut detail) = phase(service);
        let state = evidence::state(service, tally, &sight);
        if let Some(complaint) = evidence::complaint(state, service, tally, &sight) {
            detail = format!("{complaint}; {detail}");
        }
        let holders: Vec<&str> = waiting.iter().filter_map(|waiting| waiting.holder.as_deref()).collect();
        if !holders.is_empty() {
            detail = format!("{detail}, held by {}", holders.join(", "));
        }
        let queued = sight.queued.map(u64::from);
        let restarts = service.starts.saturating_sub(1);
        let all = count(sum(connections.values().copied()));
        let seen = Observation { connections: all, queued, memory: usage.0.memory, cpu: usage.0.cpu, restarts };
        look.seen.insert(name.to_owned(), seen);
        let watch = self.watch_status(service);
        if let Some(watch) = &watch {
            let problem = watch.problem.as_ref().map_or_else(String::new, |problem| format!("; {problem}"));
            detail = format!("{detail}; watching {}{problem}", crate::files::directories(watch.directories));
        }
        let serving = service.serving();
        let of = |id: GenerationId| connections.get(&id).copied().unwrap_or_default();
        Some(ServiceStatus {
            target: match service.target {
                Target::Up => stayput_wire::Target::Up,
                Target::Down => stayput_wire::Target::Down,
            },
            phase,
            detail,
            restarts,
            generations: service
                .generations
                .values()
                .rev()
                .map(|generation| generation_status(service, generation, of(generation.id), &listener, self.notes.get(&generation.id)))
                .collect(),
            held: service.listeners.values().filter(|facts| facts.owner.is_none()).map(listener).collect(),
            ledger: service.ledgers.back().map(ledger),
            state,
            facts: evidence::facts(service, tally, &sight),
            kind: match service.config.kind {
                Kind::Service => ServiceKind::Service,
                Kind::Task { .. } => ServiceKind::Task,
            },
            replicas: service.config.replicas,
            uptime_ms: serving.and_then(|id| service.generations.get(&id)).and_then(|generation| match &generation.phase {
                Phase::Serving { from, .. } => Some(milliseconds(now().since(*from))),
                _ => None,
            }),
            crashes: tally.map_or(0, |tally| tally.crashes),
            last_exit: last_exit(service, tally),
            connections: Connections {
                new: serving.map_or(Measured::Count(0), of),
                old: sum(connections.iter().filter(|(id, _)| Some(**id) != serving).map(|(_, count)| *count)),
                queued: queued.into(),
            },
            memory: usage.0.memory.into(),
            cpu_permille: usage.1.into(),
            usage: Some(Evidence { source: usage.0.source().to_owned(), age_ms: 0 }),
            processes: usage.0.processes.map(u64::from).into(),
            waiting,
            after: service.config.after.iter().map(|after| self.after_status(service, after)).collect(),
            health: health(service),
            watch,
            next_run_ms: service.next_run_ms,
            next: next_step(service),
            command: say::command(&service.config.argv),
            own: service.config.own,
            origin: service.config.origin.map(|origin| ConfigOrigin { path: None, line: origin.line, column: origin.column }),
            ..ServiceStatus::named(name)
        })
    }

    /// What it does now, as a sentence.
    pub(crate) fn detail_of(&mut self, name: &str) -> String {
        let waiting = self.waiting_ports(name);
        let Some(service) = self.world.services.get(name) else { return String::new() };
        let (tally, sight) = (self.tallies.of(name), Sight::default());
        let (_, detail) = phase(service);
        let holders: Vec<&str> = waiting.iter().filter_map(|waiting| waiting.holder.as_deref()).collect();
        let held = if holders.is_empty() { String::new() } else { format!(", held by {}", holders.join(", ")) };
        match evidence::complaint(evidence::state(service, tally, &sight), service, tally, &sight) {
            Some(complaint) => format!("{complaint}; {detail}{held}"),
            None => format!("{detail}{held}"),
        }
    }

    fn watch_status(&self, service: &Service) -> Option<WatchStatus> {
        if service.config.watch.is_empty() || service.target == Target::Down {
            return None;
        }
        let standing = self.watcher.as_ref().and_then(|watcher| watcher.standing(&service.config.name));
        Some(standing.unwrap_or_else(|| WatchStatus { directories: 0, problem: Some("its files cannot be watched".to_owned()) }))
    }

    fn waiting_ports(&mut self, name: &str) -> Vec<WaitingPort> {
        let Some(Plan::Hold { waiting }) = self.world.services.get(name).map(|service| service.plan.clone()) else { return Vec::new() };
        let observer = &mut self.observer;
        let holder = |address: &SocketAddr| WaitingPort {
            address: address.to_string(),
            holder: observer.as_mut().and_then(|observer| observer.holder(*address)),
        };
        waiting.keys().map(holder).collect()
    }

    /// Open connections by generation. While there is only one, all are its own, and nobody has to look for their owners.
    fn connections(&mut self, name: &str, sight: &Sight) -> BTreeMap<GenerationId, Measured> {
        let Some(service) = self.world.services.get(name) else { return BTreeMap::new() };
        let alive = |generation: &Generation| !matches!(generation.phase, Phase::Gone { .. } | Phase::Releasing);
        let ids: Vec<GenerationId> = service.generations.values().filter(|generation| alive(generation)).map(|it| it.id).collect();
        if let [only] = ids.as_slice() {
            return BTreeMap::from([(*only, sight.seen.map(|seen| u64::from(seen.accepted)).into())]);
        }
        ids.into_iter().map(|id| (id, self.generation_connections(id))).collect()
    }

    fn generation_connections(&mut self, generation: GenerationId) -> Measured {
        let Some(question) = self.question(generation) else { return Measured::NotMeasured };
        let seen = self.observer.as_mut().and_then(|observer| observer.look(&question, false).ok());
        seen.map(|report| u64::from(report.open)).into()
    }

    /// What its processes use, and the processor time since the look before in thousandths of one processor.
    fn usage(&mut self, name: &str, look: &mut Look) -> (Usage, Option<u64>) {
        let (Some(service), Some(gauge)) = (self.world.services.get(name), self.gauge.as_mut()) else { return (Usage::default(), None) };
        let mains = service.generations.values().filter(|generation| generation.main.status().is_none());
        let mains: Vec<i32> = mains.filter_map(|generation| generation.main.pid()).collect();
        let mut usage = Usage::nothing();
        for main in mains {
            usage = usage.and(gauge.look(main, &mut look.moment));
        }
        let permille = usage.cpu.and_then(|cpu| self.paces.entry(name.to_owned()).or_default().measure(cpu, now()));
        (usage, permille)
    }

    fn after_status(&self, service: &Service, after: &After) -> AfterStatus {
        let waits = matches!(&service.plan, Plan::After { waiting } if waiting.contains(after));
        AfterStatus {
            service: after.service.clone(),
            when: match after.when {
                When::Started => "started",
                When::Ready => "ready",
                When::Completed => "completed",
            }
            .to_owned(),
            met: !waits && self.world.services.contains_key(&after.service),
        }
    }
}

/// What is looked at once for a whole status.
#[derive(Debug)]
struct Look {
    survey: Option<Survey>,
    moment: Moment,
    /// For the history.
    seen: BTreeMap<String, Observation>,
}

/// Processor time between two looks.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    before: Option<(Duration, Mono)>,
    permille: Option<u64>,
}

/// Shorter than this says nothing: the clock that processes are billed by ticks every 10 ms.
const SHORTEST: Duration = Duration::from_secs(1);

impl Pace {
    /// Thousandths of one processor used between the look before and this one; the same as before if that was just now.
    pub(crate) fn measure(&mut self, cpu: Duration, now: Mono) -> Option<u64> {
        match self.before {
            Some((_, at)) if now.since(at) < SHORTEST => {}
            Some((before, at)) => {
                // Less than before: a generation has gone with what it had used.
                let used = cpu.checked_sub(before);
                let span = now.since(at).as_micros().max(1);
                self.permille = used.map(|used| u64::try_from(used.as_micros() * 1000 / span).unwrap_or(u64::MAX));
                self.before = Some((cpu, now));
            }
            None => self.before = Some((cpu, now)),
        }
        self.permille
    }
}

fn generation_status(
    service: &Service,
    generation: &Generation,
    connections: Measured,
    listener: &impl Fn(&ListenerFacts) -> ListenerStatus,
    notes: Option<&Vec<String>>,
) -> GenerationStatus {
    GenerationStatus {
        id: generation.id.0,
        pid: generation.main.pid().unwrap_or(0),
        phase: generation_phase(&generation.phase),
        since_ms: milliseconds(now().since(generation.since)),
        listeners: service.listeners.values().filter(|facts| facts.owner == Some(generation.id)).map(listener).collect(),
        trap: match generation.trap {
            Trap::Active => TrapStatus::Active,
            Trap::Unknown => TrapStatus::Unavailable("its command does not run yet".to_owned()),
            Trap::Unavailable(errno) => TrapStatus::Unavailable(say::untrapped(errno)),
        },
        holding: holding(service, generation),
        connections,
        last_exit: generation.main.status().map(say::ended),
        notes: notes.cloned().unwrap_or_default(),
    }
}

fn count(measured: Measured) -> Option<u64> {
    match measured {
        Measured::Count(count) => Some(count),
        Measured::NotMeasured => None,
    }
}

fn sum(counts: impl Iterator<Item = Measured>) -> Measured {
    counts.map(count).sum::<Option<u64>>().into()
}

fn last_exit(service: &Service, tally: Option<&Tally>) -> Option<LastExit> {
    let told = tally.and_then(|tally| tally.last_exit);
    let (generation, status) = match (told, service.last_exit) {
        (Some(told), _) => (told.generation, told.status),
        (None, known) => known?,
    };
    Some(LastExit {
        generation: generation.0,
        ended: say::ended(status),
        status: status.code(),
        why: told.map(|told| if told.stopped { "it was asked to stop" } else { "by itself" }.to_owned()),
        at_ms: told.map(|told| told.at_ms),
    })
}

fn health(service: &Service) -> Option<HealthStatus> {
    service.config.health.as_ref()?;
    let serving = service.serving().and_then(|id| service.generations.get(&id));
    Some(match serving.and_then(|serving| serving.health.as_ref()) {
        Some(health) => HealthStatus {
            passing: Some(health.failures == 0),
            failures: health.failures,
            detail: health.what.clone(),
            evidence: Some(Evidence { source: "health check".to_owned(), age_ms: milliseconds(now().since(health.at)) }),
        },
        None => HealthStatus { passing: None, failures: 0, detail: "no check is over yet".to_owned(), evidence: None },
    })
}

fn next_step(service: &Service) -> Option<NextStep> {
    if let Plan::BackOff { until } = service.plan {
        return Some(NextStep { what: "the next start".to_owned(), in_ms: milliseconds(until.since(now())) });
    }
    if let Some(at_ms) = service.next_run_ms {
        return Some(NextStep { what: "the next run".to_owned(), in_ms: at_ms.saturating_sub(crate::events::wall_ms()) });
    }
    let serving = service.serving().and_then(|id| service.generations.get(&id))?;
    match &serving.phase {
        Phase::Serving { soak: Some(soak), .. } => {
            Some(NextStep { what: "the end of the probation".to_owned(), in_ms: milliseconds(soak.until.since(now())) })
        }
        _ => None,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// By which means: what it was passed is seen by its listeners.
fn holding(service: &Service, generation: &Generation) -> Holding {
    let has = |origin: Origin| {
        let of = |facts: &ListenerFacts| facts.last_owner == Some(generation.id) && facts.origin == origin;
        service.listeners.values().any(of)
    };
    match generation.trap {
        Trap::Unknown => Holding::Unknown,
        Trap::Unavailable(_) => Holding::Plain,
        Trap::Active if has(Origin::Passed) => Holding::Environment,
        Trap::Active if has(Origin::Given) => Holding::Swap,
        Trap::Active => Holding::Adopt,
    }
}

fn listener_status(facts: &ListenerFacts, survey: Option<&Survey>) -> ListenerStatus {
    let queue = survey.and_then(|survey| survey.queue(facts.inode));
    ListenerStatus {
        address: facts.address.ip().to_string(),
        port: facts.address.port(),
        inode: facts.inode,
        held: true,
        origin: match facts.origin {
            Origin::Adopted => ListenerOrigin::Adopted,
            Origin::Swapped => ListenerOrigin::Swapped,
            Origin::Held => ListenerOrigin::Held,
            Origin::Passed => ListenerOrigin::Passed,
            Origin::Given => ListenerOrigin::Given,
        },
        selected: facts.selected,
        queue: queue.map(u64::from).into(),
        evidence: Evidence { source: survey.map_or("sock_diag", |survey| survey.source).to_owned(), age_ms: 0 },
    }
}

fn generation_phase(phase: &Phase) -> GenerationPhase {
    match phase {
        Phase::Spawning => GenerationPhase::Spawning,
        Phase::Starting { .. } => GenerationPhase::Starting,
        Phase::Switching(_) | Phase::Serving { .. } => GenerationPhase::Ready,
        Phase::Draining { .. } | Phase::Orphaned => GenerationPhase::Draining,
        Phase::Stopping { .. } => GenerationPhase::Stopping,
        Phase::Gone { .. } | Phase::Releasing => GenerationPhase::Exited,
    }
}

/// What the service does, and the fact behind it.
fn phase(service: &Service) -> (ServicePhase, String) {
    if service.target == Target::Down {
        return down(service);
    }
    match &service.plan {
        Plan::Hold { waiting } => {
            let addresses: Vec<String> = waiting.keys().map(ToString::to_string).collect();
            return (ServicePhase::WaitingForPort, format!("waiting for {}", addresses.join(", ")));
        }
        Plan::BackOff { until } => {
            let left = until.since(now()).as_millis();
            let ended = service.last_exit.map_or_else(String::new, |(id, status)| format!("generation {id} {}; ", say::ended(status)));
            let text = format!("{ended}the next start is in {left} ms, after {} failures in a row", service.backoff.failures());
            return (ServicePhase::BackingOff, text);
        }
        Plan::Park { .. } | Plan::Succeed { .. } => {
            return (ServicePhase::Handover, "the old generation finishes; new connections wait".to_owned());
        }
        Plan::After { waiting } => {
            let services: Vec<&str> = waiting.iter().map(|after| after.service.as_str()).collect();
            return (ServicePhase::Starting, format!("its start waits for {}", services.join(", ")));
        }
        Plan::GaveUp => {
            return (ServicePhase::Ended, "it was started too often in too short a time; a restart by hand tries again".to_owned());
        }
        Plan::Rest => {}
    }
    if let Some(old) = service.going_back() {
        return (ServicePhase::Restarting, format!("the connections go back to generation {old}"));
    }
    if service.is_task() {
        return task(service);
    }
    let serving = service.serving().and_then(|id| service.generations.get(&id));
    match (service.incoming().and_then(|id| service.generations.get(&id)), serving) {
        (Some(incoming), Some(serving)) => {
            let text =
                format!("generation {} has the connections; generation {}: {}", serving.id, incoming.id, progress(service, incoming));
            (ServicePhase::Restarting, text)
        }
        (Some(incoming), None) => (ServicePhase::Starting, format!("generation {}: {}", incoming.id, progress(service, incoming))),
        (None, Some(serving)) => match &serving.phase {
            Phase::Serving { soak: Some(soak), .. } => {
                let left = soak.until.since(now()).as_millis();
                (ServicePhase::Soaking, format!("generation {} has the connections, on probation for {left} ms more", serving.id))
            }
            _ if service.listeners_of(serving.id).next().is_none() => {
                (ServicePhase::Ready, format!("generation {} runs; it listens nowhere", serving.id))
            }
            _ => (ServicePhase::Ready, format!("generation {} has the connections", serving.id)),
        },
        (None, None) => (ServicePhase::Starting, "no generation runs; the next one is about to be started".to_owned()),
    }
}

/// A task that is to be up: the run that goes on, or the last one and the next.
fn task(service: &Service) -> (ServicePhase, String) {
    let next = service.next_run_ms.map_or_else(String::new, |at_ms| format!("; the next run is at {}", say::local_time(at_ms)));
    if let Some(run) = service.running().and_then(|id| service.generations.get(&id)) {
        let pid = run.main.pid().map_or_else(String::new, |pid| format!(" (pid {pid})"));
        return (ServicePhase::Ready, format!("run {}{pid} goes on{next}", run.id));
    }
    match (&service.last_run, service.is_scheduled()) {
        (Some(run), _) => {
            (ServicePhase::Ended, format!("run {} {} after {}{next}", run.generation, say::ended(run.status), say::span(run.took)))
        }
        (None, true) => {
            let last = service.last_exit.map_or_else(|| "no run yet".to_owned(), |(id, status)| format!("run {id} {}", say::ended(status)));
            (ServicePhase::Stopped, format!("{last}{next}"))
        }
        (None, false) => (ServicePhase::Starting, "its run is about to be started".to_owned()),
    }
}

fn down(service: &Service) -> (ServicePhase, String) {
    let ended =
        service.last_exit.map_or_else(|| "it never ran".to_owned(), |(_, status)| format!("its main process {}", say::ended(status)));
    let stopping = service.generations.values().filter(|generation| matches!(generation.phase, Phase::Stopping { .. })).count();
    if stopping > 0 {
        let stopping = say::count(u32::try_from(stopping).unwrap_or(u32::MAX), "generation");
        return (ServicePhase::Stopping, format!("the stop signal was sent; {stopping} not gone yet"));
    }
    let left_over = |generation: &Generation| matches!(generation.phase, Phase::Stopping { why: StopReason::Leftover, .. });
    if service.generations.values().any(left_over) { (ServicePhase::Ended, ended) } else { (ServicePhase::Stopped, ended) }
}

/// How far a generation has come.
fn progress(service: &Service, generation: &Generation) -> String {
    match &generation.phase {
        Phase::Spawning => "being forked".to_owned(),
        Phase::Switching(Way::Forward) => "ready, the switch is under way".to_owned(),
        Phase::Switching(Way::Canary { share, time, began }) => {
            let share = say::percent(*share);
            match (began, time) {
                (None, _) => format!("ready, it is about to get {share} of the new connections"),
                (Some(began), Some(time)) => {
                    format!("has {share} of the new connections, and all in {}", say::span(began.plus(*time).since(now())))
                }
                (Some(_), None) => format!("has {share} of the new connections until somebody decides"),
            }
        }
        Phase::Starting { last, .. } => {
            let pid = generation.main.pid().unwrap_or(0);
            let addresses: Vec<String> = service
                .listeners
                .values()
                .filter(|facts| facts.owner == Some(generation.id))
                .map(|facts| facts.address.to_string())
                .collect();
            let listens = if addresses.is_empty() {
                "does not listen yet".to_owned()
            } else {
                format!("listens on {}, not ready", addresses.join(", "))
            };
            let last = last.as_ref().map_or_else(String::new, |last| format!(": {last}"));
            format!("pid {pid} {listens}{last}")
        }
        Phase::Switching(Way::Back { .. })
        | Phase::Serving { .. }
        | Phase::Orphaned
        | Phase::Draining { .. }
        | Phase::Stopping { .. }
        | Phase::Gone { .. }
        | Phase::Releasing => "not starting".to_owned(),
    }
}

/// The account of a restart.
pub(crate) fn ledger(ledger: &Ledger) -> stayput_wire::Ledger {
    use stayput_model::ledger::Outcome as Model;
    let (outcome, reason) = match &ledger.outcome {
        Model::Running => (Outcome::Running, None),
        Model::Switched | Model::Settled => (Outcome::Switched, None),
        Model::RolledBack(failure) => (Outcome::RolledBack, Some(say::reason(failure))),
        Model::NotReady(failure) => (Outcome::NotReady, Some(say::reason(failure))),
        Model::Abandoned => (Outcome::NotReady, Some("it was stopped before it was decided".to_owned())),
    };
    let count = |count: Option<u32>| Measured::from(count.map(u64::from));
    stayput_wire::Ledger {
        from: ledger.from.map(|generation| generation.0),
        to: ledger.to.map(|generation| generation.0),
        outcome,
        reason,
        queued: count(ledger.at_switch.map(|old| old.queued)),
        drained: count(ledger.drained()),
        cut: count(ledger.cut),
        idle_closed: count(ledger.idle_closed),
        lost: count(ledger.lost),
        notes: say::notes(ledger),
        gap_ms: ledger.gap.map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)).into(),
        listener_gap: ledger.released,
        accepted: Measured::NotMeasured,
        refused: Measured::NotMeasured,
        canary: ledger.canary.map(|canary| stayput_wire::CanaryAccount {
            permille: canary.share,
            for_ms: canary.time.map(milliseconds),
            lasted_ms: canary.began.map(|began| milliseconds(canary.ended.unwrap_or_else(now).since(began))),
        }),
    }
}
