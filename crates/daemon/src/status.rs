//! What is true now, in the words of the wire: the world's knowledge, and what the kernel says when asked.

use crate::reactor::{Reactor, now};
use crate::say;
use stayput_model::event::{GenerationId, ListenerFacts, Origin};
use stayput_model::generation::{Generation, Phase, Trap, Way};
use stayput_model::ledger::Ledger;
use stayput_model::notice::StopReason;
use stayput_model::service::{Plan, Service, Target};
use stayput_wire::{
    Evidence, GenerationPhase, GenerationStatus, Holding, InstanceStatus, ListenerOrigin, ListenerStatus, Measured, Outcome, ProcessStatus,
    ServicePhase, ServiceStatus, TrapStatus,
};
use std::collections::BTreeMap;

impl Reactor {
    /// The whole instance.
    pub(crate) fn status(&mut self) -> InstanceStatus {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let names: Vec<String> = self.world.services.keys().cloned().collect();
        InstanceStatus {
            name: self.identity.instance.clone(),
            guard: ProcessStatus { pid: self.identity.guard },
            keeper: ProcessStatus { pid: self.identity.keeper },
            daemon: ProcessStatus { pid },
            services: names.iter().filter_map(|name| self.service_status(name)).collect(),
            keeper_deaths: self.identity.keeper_deaths,
            daemon_deaths: self.identity.daemon_deaths,
            ..InstanceStatus::default()
        }
    }

    fn service_status(&mut self, name: &str) -> Option<ServiceStatus> {
        let inodes: BTreeMap<_, _> =
            self.world.services.get(name)?.listeners.values().map(|listener| (listener.inode, listener.address)).collect();
        let queues = self.observer.as_mut().and_then(|observer| observer.queues(&inodes).ok()).unwrap_or_default();
        let ids: Vec<GenerationId> = self.world.services.get(name)?.generations.keys().copied().collect();
        let connections: BTreeMap<GenerationId, Measured> = ids.into_iter().map(|id| (id, self.connections(id))).collect();
        let service = self.world.services.get(name)?;
        let listener = |facts: &ListenerFacts| listener_status(facts, queues.get(&facts.inode).copied());
        let (phase, mut detail) = phase(service);
        if let Plan::Hold { waiting } = &service.plan {
            let observer = &mut self.observer;
            let holders = waiting.keys().filter_map(|address| observer.as_mut()?.holder(*address));
            let holders: Vec<String> = holders.collect();
            if !holders.is_empty() {
                detail = format!("{detail}, held by {}", holders.join(", "));
            }
        }
        Some(ServiceStatus {
            name: name.to_owned(),
            target: match service.target {
                Target::Up => stayput_wire::Target::Up,
                Target::Down => stayput_wire::Target::Down,
            },
            phase,
            detail,
            restarts: service.starts.saturating_sub(1),
            generations: service
                .generations
                .values()
                .rev()
                .map(|generation| GenerationStatus {
                    id: generation.id.0,
                    pid: generation.main.pid().unwrap_or(0),
                    phase: generation_phase(&generation.phase),
                    since_ms: u64::try_from(now().since(generation.since).as_millis()).unwrap_or(u64::MAX),
                    listeners: service.listeners.values().filter(|facts| facts.owner == Some(generation.id)).map(listener).collect(),
                    trap: match generation.trap {
                        Trap::Active => TrapStatus::Active,
                        Trap::Unknown => TrapStatus::Unavailable("its command does not run yet".to_owned()),
                        Trap::Unavailable(errno) => TrapStatus::Unavailable(say::untrapped(errno)),
                    },
                    holding: holding(service, generation),
                    connections: connections.get(&generation.id).copied().unwrap_or_default(),
                    last_exit: generation.main.status().map(say::ended),
                })
                .collect(),
            held: service.listeners.values().filter(|facts| facts.owner.is_none()).map(listener).collect(),
            ledger: service.ledgers.back().map(ledger),
            ..ServiceStatus::named(name)
        })
    }

    fn connections(&mut self, generation: GenerationId) -> Measured {
        let Some(question) = self.question(generation) else { return Measured::NotMeasured };
        let seen = self.observer.as_mut().and_then(|observer| observer.look(&question, false).ok());
        seen.map(|report| u64::from(report.open)).into()
    }
}

/// By which means: what it was passed is seen by its listeners.
fn holding(service: &Service, generation: &Generation) -> Holding {
    let passed = |facts: &ListenerFacts| facts.last_owner == Some(generation.id) && facts.origin == Origin::Passed;
    match generation.trap {
        Trap::Unknown => Holding::Unknown,
        Trap::Unavailable(_) => Holding::Plain,
        Trap::Active if service.listeners.values().any(passed) => Holding::Environment,
        Trap::Active => Holding::Adopt,
    }
}

fn listener_status(facts: &ListenerFacts, queue: Option<u32>) -> ListenerStatus {
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
        },
        selected: facts.selected,
        queue: queue.map(u64::from).into(),
        evidence: Evidence { source: "sock_diag".to_owned(), age_ms: 0 },
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
        Plan::Park | Plan::Succeed { .. } => {
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
            _ => (ServicePhase::Ready, format!("generation {} has the connections", serving.id)),
        },
        (None, None) => (ServicePhase::Starting, "no generation runs; the next one is about to be started".to_owned()),
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
        gap_ms: ledger.gap.map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)).into(),
        listener_gap: ledger.released,
        accepted: Measured::NotMeasured,
        refused: Measured::NotMeasured,
    }
}
