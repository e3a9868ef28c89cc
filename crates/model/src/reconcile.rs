//! What a daemon that starts anew makes of what it finds: differences between the kept state and the keeper's facts become the events
//! that nobody heard, and what was asked for and not answered is asked for again.

use crate::event::{Effect, Event, ExecFailure, ExitStatus, GenerationId, ListenerFacts, ListenerId, Scope};
use crate::generation::{Generation, Phase, Way};
use crate::mono::Mono;
use crate::notice::StopReason;
use crate::service::{Plan, Service};
use crate::world::{Ending, Index, World};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// What the keeper knows, in the model's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// All generations that were not forgotten.
    pub generations: Vec<GenerationFacts>,
    /// All held listeners.
    pub listeners: Vec<ListenerFacts>,
    /// Holds that wait for their port.
    pub waiting: Vec<(String, SocketAddr)>,
}

/// What the keeper knows of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationFacts {
    /// Its service.
    pub service: String,
    /// Its id.
    pub id: GenerationId,
    /// Its main process.
    pub pid: i32,
    /// Whether its command runs, and the error number of `seccomp` if its binds are not caught.
    pub executed: Option<Option<i32>>,
    /// Why its command did not run.
    pub exec_failed: Option<ExecFailure>,
    /// How its main process ended.
    pub exit: Option<ExitStatus>,
    /// No process of it is left.
    pub tree_empty: bool,
}

impl World {
    /// Carries on from these facts.
    pub fn reconcile(&mut self, facts: &Facts, now: Mono) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.adopt_unknown(facts, now);
        self.index = Index::default();
        for event in self.unheard(facts) {
            effects.extend(self.step(event, now));
        }
        // What was asked for anew just now need not be asked for twice.
        let fresh: BTreeSet<GenerationId> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Spawn { generation, .. } | Effect::Release { generation } | Effect::Steer { generation, .. } => Some(*generation),
                _ => None,
            })
            .collect();
        for service in self.services.values() {
            service.ask_again(facts, &fresh, now, &mut effects);
        }
        if let Ending::Told { status } = self.ending
            && !effects.iter().any(|effect| matches!(effect, Effect::Exit { .. }))
        {
            effects.push(Effect::Exit { status });
        }
        effects
    }

    /// A generation that runs and that the kept state does not know is stopped like one of ours: it is.
    fn adopt_unknown(&mut self, facts: &Facts, now: Mono) {
        for fact in &facts.generations {
            self.next_generation = self.next_generation.max(fact.id.0);
            let Some(service) = self.services.get_mut(&fact.service) else { continue };
            let kill_at = Some(now.plus(service.config.grace.min(Duration::from_secs(1))));
            service.generations.entry(fact.id).or_insert_with(|| {
                let mut generation = Generation::new(fact.id, now);
                generation.phase = Phase::Stopping { why: StopReason::Leftover, asked: false, steps: u32::MAX, kill_at };
                generation
            });
        }
    }

    /// The events that must have happened in between, in an order in which they can have.
    fn unheard(&self, facts: &Facts) -> Vec<Event> {
        let mut events = Vec::new();
        let listeners: BTreeSet<ListenerId> = facts.listeners.iter().map(|listener| listener.id).collect();
        for fact in &facts.generations {
            let generation = fact.id;
            events.push(Event::Spawned { generation, pid: fact.pid });
            if let Some(untrapped) = fact.executed {
                events.push(Event::Executed { generation, untrapped });
            }
        }
        for service in self.services.values() {
            let gone = service.listeners.keys().filter(|listener| !listeners.contains(listener));
            events.extend(gone.map(|listener| Event::ListenerGone { listener: *listener }));
        }
        events.extend(facts.listeners.iter().cloned().map(Event::Listener));
        for service in self.services.values() {
            events.extend(service.unheard_switch(&facts.listeners));
            events.extend(service.unheard_holds(facts));
        }
        for fact in &facts.generations {
            let generation = fact.id;
            if let Some(failure) = fact.exec_failed.clone() {
                events.push(Event::ExecFailed { generation, failure });
            }
            if let Some(status) = fact.exit {
                events.push(Event::MainExited { generation, status });
            }
            if fact.tree_empty {
                events.push(Event::TreeEmpty { generation });
            }
        }
        let known: BTreeSet<GenerationId> = facts.generations.iter().map(|fact| fact.id).collect();
        for generation in self.services.values().flat_map(|service| service.generations.values()) {
            if known.contains(&generation.id) {
                continue;
            }
            let id = generation.id;
            events.push(match generation.phase {
                // The request never arrived.
                Phase::Spawning => {
                    Event::SpawnFailed { generation: id, what: "the request was lost with the daemon that made it".to_owned() }
                }
                Phase::Gone { .. } | Phase::Releasing => Event::Released { generation: id, queued: None },
                Phase::Starting { .. }
                | Phase::Switching(_)
                | Phase::Serving { .. }
                | Phase::Orphaned
                | Phase::Draining { .. }
                | Phase::Stopping { .. } => Event::TreeEmpty { generation: id },
            });
        }
        events
    }
}

impl Service {
    /// A steer that was done and not heard of.
    fn unheard_switch(&self, listeners: &[ListenerFacts]) -> Option<Event> {
        let switching = self.find(|generation| matches!(generation.phase, Phase::Switching(_)))?;
        let mut theirs = listeners.iter().filter(|listener| listener.owner == Some(switching)).peekable();
        (theirs.peek().is_some() && theirs.all(|listener| listener.selected)).then_some(Event::Steered { generation: switching })
    }

    /// Holds that succeeded and were not heard of.
    fn unheard_holds(&self, facts: &Facts) -> Vec<Event> {
        let Plan::Hold { waiting } = &self.plan else { return Vec::new() };
        let name = &self.config.name;
        let held = |address: &SocketAddr| facts.listeners.iter().any(|l| l.service == *name && l.address == *address && l.owner.is_none());
        waiting.keys().filter(|address| held(address)).map(|address| Event::Held { service: name.clone(), address: *address }).collect()
    }

    /// What a daemon that died had under way: asked for again, for all of it may be asked twice.
    fn ask_again(&self, facts: &Facts, fresh: &BTreeSet<GenerationId>, now: Mono, effects: &mut Vec<Effect>) {
        let name = &self.config.name;
        for generation in self.generations.values() {
            let id = generation.id;
            let asked = fresh.contains(&id);
            match &generation.phase {
                Phase::Starting { .. } => effects.push(Effect::Probe { generation: id }),
                Phase::Switching(Way::Canary { share, .. }) if !asked => {
                    effects.push(Effect::Steer { service: name.clone(), generation: id, share: Some(*share) });
                }
                Phase::Switching(_) if !asked => effects.push(Effect::Steer { service: name.clone(), generation: id, share: None }),
                Phase::Releasing if !asked => effects.push(Effect::Release { generation: id }),
                Phase::Draining { deadline, not_before, .. } => {
                    effects.push(Effect::Watch { generation: id, within: (*deadline).max(*not_before).since(now) });
                }
                Phase::Stopping { kill_at: None, .. } => {
                    effects.push(Effect::Signal { generation: id, signal: 9, scope: Scope::Tree });
                }
                // The stop signal is not sent twice: many servers take the second one as "at once". If the first was lost, the kill follows.
                Phase::Stopping { kill_at: Some(_), .. }
                | Phase::Spawning
                | Phase::Switching(_)
                | Phase::Serving { .. }
                | Phase::Orphaned
                | Phase::Gone { .. }
                | Phase::Releasing => {}
            }
        }
        effects.extend(self.schedule_again());
        effects.extend(self.look_again());
        match &self.plan {
            Plan::Park { elsewhere } => effects.push(Effect::Park { service: name.clone(), elsewhere: *elsewhere }),
            Plan::Hold { waiting } => {
                let asked = |address: &SocketAddr| facts.waiting.iter().any(|(service, at)| service == name && at == address);
                for address in waiting.keys().filter(|address| !asked(address)) {
                    effects.push(Effect::Hold { service: name.clone(), address: *address });
                }
            }
            Plan::Rest | Plan::BackOff { .. } | Plan::After { .. } | Plan::GaveUp | Plan::Succeed { .. } => {}
        }
    }
}
