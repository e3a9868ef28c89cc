//! The state of an instance and its one way to change: [`World::step`].
//!
//! `start` tells how a generation comes to serve, `serve` what happens to it then, `stop` how it ends, `again` how the next one is asked for, `timers` what
//! time alone does. The rules that hold at any moment are in `settle`: who is forgotten, who is released, when nobody accepts for too long.
//! `order` tells who waits for whom, `task` what is different with a service that has an end, `own` when the dashboard gives way.
//! `index` finds the service that an event is about.

mod again;
mod canary;
mod health;
mod index;
mod order;
mod own;
mod reload;
mod serve;
mod settle;
mod start;
mod stop;
mod task;
mod timers;

#[cfg(test)]
mod canaries;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reloads;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod sim;

use crate::config::{Dashboard, InstanceConfig, LogsConfig, Mode, ReportStyle, ServiceConfig, Source};
use crate::event::{Effect, Event, ExitStatus, GenerationId, StopWay};
use crate::ledger::LedgerId;
use crate::mono::Mono;
use crate::service::{Service, Turn};
pub(crate) use index::Index;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most rounds of timers within one step.
const ROUNDS: usize = 64;

/// All that is true of an instance beyond what the kernel and the keeper know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Name of the instance.
    pub name: String,
    /// When it ends.
    pub mode: Mode,
    /// How it speaks.
    pub report: ReportStyle,
    /// Environment of all services.
    pub env: Vec<Vec<u8>>,
    /// The file that its configuration was read from.
    pub source: Option<Source>,
    /// Its dashboard.
    pub dashboard: Option<Dashboard>,
    /// Where output is kept.
    pub logs: Option<LogsConfig>,
    /// Its services by name. Each is written down on its own ([`crate::blob`]).
    #[serde(skip)]
    pub services: BTreeMap<String, Service>,
    pub(crate) next_generation: u64,
    pub(crate) next_ledger: u64,
    pub(crate) ending: Ending,
    /// Services that are to stop, and wait for those that start after them.
    pub(crate) leaving: BTreeSet<String>,
    #[serde(skip)]
    pub(crate) index: Index,
}

/// Whether the instance is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// No.
    No,
    /// When nothing runs any more.
    Soon {
        /// The signal that asked for it.
        signal: Option<i32>,
    },
    /// The keeper was told.
    Told {
        /// Exit status.
        status: u8,
    },
}

impl World {
    /// A world in which nothing runs. `seed` spreads retries.
    pub fn new(config: InstanceConfig, seed: u64) -> Self {
        let mode = config.mode;
        let service = |config: ServiceConfig| (config.name.clone(), Service::new(config, mode, seed));
        Self {
            name: config.name,
            mode: config.mode,
            report: config.report,
            env: config.env,
            source: config.source,
            dashboard: config.dashboard,
            logs: config.logs,
            services: config.services.into_iter().map(service).collect(),
            next_generation: 0,
            next_ledger: 0,
            ending: Ending::No,
            leaving: BTreeSet::new(),
            index: Index::default(),
        }
    }

    /// The one timer: when [`Event::Tick`] is due. Never in the past right after a step.
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.index.is_built() {
            return self.index.next_deadline();
        }
        self.services.values().filter_map(Service::next_deadline).min()
    }

    /// The service of a generation.
    pub fn service_of(&self, generation: GenerationId) -> Option<&Service> {
        if self.index.is_built() {
            return self.services.get(self.index.of_generation(generation)?);
        }
        self.services.values().find(|service| service.generations.contains_key(&generation))
    }

    /// The services that may have changed since the last call, those that are there no more among them; the empty name stands for what is
    /// the instance's own. Everything after a world was read.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        self.index.build(&self.services);
        std::mem::take(&mut self.index.changed)
    }

    /// The number that the next restart will have.
    pub fn next_ledger_id(&self) -> LedgerId {
        LedgerId(self.next_ledger + 1)
    }

    /// The instance is about to end.
    pub fn is_ending(&self) -> bool {
        self.ending != Ending::No
    }

    /// Takes one event at this time, and says what is to be done, in this order.
    pub fn step(&mut self, event: Event, now: Mono) -> Vec<Effect> {
        self.index.build(&self.services);
        let before = (self.next_generation, self.next_ledger, self.ending, self.leaving.len());
        let mut effects = Vec::new();
        let wanted = self.wanted(&event);
        self.apply(event, now, &mut effects);
        if let Some(wanted) = wanted {
            self.give_way(&wanted, now, &mut effects);
        }
        self.settle(now, &mut effects);
        self.end(&mut effects);
        if before != (self.next_generation, self.next_ledger, self.ending, self.leaving.len()) {
            self.index.changed.insert(String::new());
        }
        effects
    }

    /// Does what is due, and what follows from what was touched, until nothing follows.
    fn settle(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let due: Vec<String> = self.index.due(now).cloned().collect();
        self.index.touched.extend(due);
        let mut looks: BTreeMap<String, usize> = BTreeMap::new();
        while let Some(name) = self.index.touched.pop_first() {
            // Against a mistake of ours, which must cost a wrong wait and not the whole brain.
            let count = looks.entry(name.clone()).or_default();
            *count += 1;
            if *count > ROUNDS {
                continue;
            }
            self.recheck(&name, now, effects);
            self.with(&name, now, effects, Service::run);
            self.drop_removed(&name);
            self.index.touched.remove(&name);
            self.index.changed.insert(name.clone());
            if self.index.update(&name, self.services.get(&name)) {
                let dependents: Vec<String> = self.index.dependents(&name).cloned().collect();
                for other in dependents {
                    self.recheck(&other, now, effects);
                }
            }
            if !self.leaving.is_empty() {
                self.free(&name, now, effects);
            }
        }
    }

    fn apply(&mut self, event: Event, now: Mono, effects: &mut Vec<Effect>) {
        match event {
            Event::Start { service } => {
                if self.ending == Ending::No {
                    self.leaving.remove(&service);
                    self.with(&service, now, effects, Service::start);
                }
            }
            Event::Restart { service } => {
                if self.ending == Ending::No {
                    self.with(&service, now, effects, Service::restart);
                }
            }
            Event::Stop { service, way } => self.stop(&[service], way, now, effects),
            Event::StopSome { services, way } => self.stop(&services, way, now, effects),
            Event::Tick => {}
            Event::Canary { service, share, time } => {
                if self.ending == Ending::No {
                    self.with(&service, now, effects, |service, turn| service.start_canary(share, time, turn));
                }
            }
            Event::Decide { service, switch } => self.with(&service, now, effects, |service, turn| service.decide_canary(switch, turn)),
            Event::Configure(config) => {
                if self.ending == Ending::No {
                    self.configure(*config, now, effects);
                }
            }
            Event::Rollback { service } => {
                if self.ending == Ending::No {
                    let base = self.env.clone();
                    self.with(&service, now, effects, |service, turn| service.rollback(&base, turn));
                }
            }
            Event::Health { generation, passed, what } => {
                self.of(generation, now, effects, |s, turn| s.health(generation, passed, what, turn));
            }
            Event::FilesChanged { service, path, count } => {
                if self.ending == Ending::No {
                    self.with(&service, now, effects, |service, turn| service.files_changed(path, count, turn));
                }
            }
            Event::Scheduled { service, at_ms } => self.with(&service, now, effects, |service, _| service.next_run_ms = at_ms),
            Event::Due { service, at_ms } => {
                if self.ending == Ending::No {
                    self.with(&service, now, effects, |service, turn| service.due(at_ms, turn));
                }
            }
            Event::Shutdown { way, signal } => self.shut_down(way, signal, now, effects),
            Event::Spawned { generation, pid } => self.of(generation, now, effects, |s, turn| s.spawned(generation, pid, turn)),
            Event::SpawnFailed { generation, what } => self.of(generation, now, effects, |s, turn| s.spawn_failed(generation, what, turn)),
            Event::Executed { generation, untrapped } => {
                self.of(generation, now, effects, |s, turn| s.executed(generation, untrapped, turn));
            }
            Event::ExecFailed { generation, failure } => {
                self.of(generation, now, effects, |s, turn| s.exec_failed(generation, failure, turn));
            }
            Event::Listener(facts) => {
                let service = facts.service.clone();
                self.with(&service, now, effects, |s, turn| s.listener(&facts, turn));
            }
            Event::ListenerGone { listener } => {
                if let Some(service) = self.index.of_listener(listener).cloned() {
                    self.with(&service, now, effects, |s, turn| s.listener_gone(listener, turn));
                }
            }
            Event::BindRefused { generation, address, errno } => {
                self.of(generation, now, effects, |s, turn| s.bind_refused(generation, address, errno, turn));
            }
            Event::Held { service, address } => self.with(&service, now, effects, |s, turn| s.held(address, turn)),
            Event::HoldWaits { service, address, errno } => {
                self.with(&service, now, effects, |s, turn| s.hold_waits(address, errno, turn));
            }
            Event::MainExited { generation, status } => {
                self.of(generation, now, effects, |s, turn| s.main_exited(generation, status, turn));
            }
            Event::TreeEmpty { generation } => self.of(generation, now, effects, |s, turn| s.tree_empty(generation, turn)),
            Event::Ready { generation, evidence } => self.of(generation, now, effects, |s, turn| s.ready(generation, evidence, turn)),
            Event::NotYetReady { generation, what } => self.of(generation, now, effects, |s, _| s.not_yet_ready(generation, what)),
            Event::Steered { generation } => self.of(generation, now, effects, |s, turn| s.steered(generation, turn)),
            Event::SteerFailed { generation, what } => self.of(generation, now, effects, |s, turn| s.steer_failed(generation, what, turn)),
            Event::Parked { service } => self.with(&service, now, effects, Service::parked),
            Event::ParkFailed { service, what } => self.with(&service, now, effects, |s, turn| s.park_failed(what, turn)),
            Event::Snapshot { to, old } => self.of(to, now, effects, |s, turn| s.snapshot(to, old, turn)),
            Event::Drain { generation, report } => self.of(generation, now, effects, |s, _| s.drain_report(generation, report)),
            Event::Released { generation, queued } => self.of(generation, now, effects, |s, turn| s.released(generation, queued, turn)),
        }
    }

    fn with(&mut self, name: &str, now: Mono, effects: &mut Vec<Effect>, act: impl FnOnce(&mut Service, &mut Turn<'_>)) {
        let Some(service) = self.services.get_mut(name) else { return };
        self.index.touched.insert(name.to_owned());
        let (next_generation, next_ledger) = (&mut self.next_generation, &mut self.next_ledger);
        let mut turn = Turn { now, mode: self.mode, next_generation, next_ledger, effects };
        act(service, &mut turn);
    }

    /// An event of a generation that nobody knows (any more) is stale: nothing happens.
    fn of(&mut self, id: GenerationId, now: Mono, effects: &mut Vec<Effect>, act: impl FnOnce(&mut Service, &mut Turn<'_>)) {
        if let Some(name) = self.index.of_generation(id).cloned() {
            self.with(&name, now, effects, act);
        }
    }

    fn stop(&mut self, names: &[String], way: StopWay, now: Mono, effects: &mut Vec<Effect>) {
        if self.mode == Mode::Run && names.iter().any(|name| self.services.contains_key(name)) {
            self.shut_down(way, None, now, effects);
        } else {
            self.leave(names, way, now, effects);
        }
    }

    fn shut_down(&mut self, way: StopWay, signal: Option<i32>, now: Mono, effects: &mut Vec<Effect>) {
        // Asked again while it stops: the person has lost patience.
        let way = if matches!(self.ending, Ending::Soon { .. }) && signal.is_some() { StopWay::Kill } else { way };
        if self.ending == Ending::No {
            self.ending = Ending::Soon { signal };
        }
        let names: Vec<String> = self.services.keys().cloned().collect();
        self.leave(&names, way, now, effects);
    }

    /// Ends the instance when it is to end and nothing is left of it.
    fn end(&mut self, effects: &mut Vec<Effect>) {
        if !self.index.all_quiet() || !self.leaving.is_empty() {
            return;
        }
        let signal = match self.ending {
            Ending::Soon { signal } => signal,
            // `run` ends with its service; a service that was never started has nothing to end with.
            Ending::No if self.mode == Mode::Run && self.index.all_started() => None,
            Ending::No | Ending::Told { .. } => return,
        };
        let exits = self.services.values().filter_map(|service| service.last_exit);
        let status = match (self.mode, exits.max_by_key(|(generation, _)| *generation)) {
            (Mode::Up, _) => 0,
            (Mode::Run, Some((_, status))) => status.code(),
            (Mode::Run, None) => signal.map_or(0, |signal| ExitStatus::Signalled(signal).code()),
        };
        self.ending = Ending::Told { status };
        effects.push(Effect::Exit { status });
    }
}
