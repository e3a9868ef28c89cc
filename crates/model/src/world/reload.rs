//! Another configuration while services run: what is new starts, what is gone finishes and stops, what changed changes, and nothing else is
//! touched. What a change needs is told by [`crate::plan`], so that a plan shown and a reload done are one.

use crate::config::{InstanceConfig, Kind, LogsConfig, ServiceConfig};
use crate::event::{Effect, GenerationId};
use crate::generation::{Drain, Phase};
use crate::ledger::Outcome;
use crate::mono::Mono;
use crate::notice::{StopReason, What};
use crate::plan::{self, Needs};
use crate::service::{Plan, Service, Target, Turn};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

impl World {
    /// The configuration as it is now; [`crate::plan::diff`] with another one is what [`crate::Event::Configure`] would do.
    pub fn config(&self) -> InstanceConfig {
        InstanceConfig {
            name: self.name.clone(),
            mode: self.mode,
            report: self.report,
            env: self.env.clone(),
            source: self.source.clone(),
            dashboard: self.dashboard.clone(),
            logs: self.logs.clone(),
            services: self.services.values().filter(|service| !service.removed).map(|service| service.config.clone()).collect(),
        }
    }

    pub(super) fn configure(&mut self, config: InstanceConfig, now: Mono, effects: &mut Vec<Effect>) {
        let base = std::mem::replace(&mut self.env, config.env);
        self.source = config.source;
        self.dashboard = config.dashboard;
        // What is open stays where it is: a log in two places is in none.
        self.logs = match (self.logs.take(), config.logs) {
            (Some(old), Some(new)) => Some(LogsConfig { directory: old.directory, ..new }),
            (old, _) => old,
        };
        self.index.changed.insert(String::new());
        let names: BTreeSet<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
        let gone: Vec<String> = self.services.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        let mut fresh = Vec::new();
        let env = self.env.clone();
        for service in config.services {
            let name = service.name.clone();
            if self.services.contains_key(&name) {
                self.with(&name, now, effects, |this, turn| this.reconfigure(service, &base, &env, turn));
            } else {
                let seed = now.0 ^ self.next_generation;
                self.services.insert(name.clone(), Service::new(service, self.mode, seed));
                fresh.push(name);
            }
        }
        // After all are there: who starts may wait for any of them. Ports that move from one service to another are held as soon as they
        // are free.
        for name in fresh {
            self.with(&name, now, effects, |service, turn| {
                service.say(What::Added, turn);
                if !service.config.disabled {
                    service.start(turn);
                }
            });
        }
        for name in gone {
            self.leaving.remove(&name);
            self.with(&name, now, effects, Service::remove);
        }
    }

    /// What was removed and is gone is no longer a service.
    pub(super) fn drop_removed(&mut self, name: &str) {
        if self.services.get(name).is_some_and(|service| service.removed && super::index::is_quiet(service)) {
            self.services.remove(name);
            self.leaving.remove(name);
        }
    }
}

impl Service {
    /// Its configuration is this from now on; `old_base` and `base` are the environments of the instance.
    pub(super) fn reconfigure(&mut self, new: ServiceConfig, old_base: &[Vec<u8>], base: &[Vec<u8>], turn: &mut Turn<'_>) {
        let fields = plan::service(&self.config, old_base, &new, base);
        let back = std::mem::take(&mut self.removed);
        let mut old = std::mem::replace(&mut self.config, new);
        if let Some(needs) = fields.iter().map(|field| field.needs).max() {
            let process = needs == Needs::Restart;
            // A task takes what is new at its next run.
            let restart = process && !self.is_task() && self.target == Target::Up;
            let keys = fields.iter().map(|field| field.field.clone()).collect();
            self.say(What::Reconfigured { keys, restart }, turn);
            if process {
                old.base.get_or_insert_with(|| old_base.to_vec());
                self.previous = Some(Box::new(old.clone()));
            }
            self.apply_live(&old, turn);
            self.apply_target(&old, restart, process, turn);
        }
        if back && self.target == Target::Down && !self.config.disabled {
            self.start(turn);
        }
    }

    /// What takes effect without a process.
    fn apply_live(&mut self, old: &ServiceConfig, turn: &mut Turn<'_>) {
        if old.health != self.config.health {
            self.stop_health(turn);
        }
        let watched =
            |config: &ServiceConfig| (config.watch.clone(), config.watch_ignore.clone(), config.watch_debounce, config.cwd.clone());
        if watched(old) != watched(&self.config) {
            self.stop_watch(turn);
        }
        if old.kind != self.config.kind && self.asked.schedule {
            self.asked.schedule = false;
            self.next_run_ms = None;
            if !matches!(self.config.kind, Kind::Task { schedule: Some(_) }) {
                turn.effect(Effect::Unschedule { service: self.config.name.clone() });
            }
        }
        if old.after != self.config.after
            && let Plan::After { waiting } = &mut self.plan
        {
            waiting.clone_from(&self.config.after);
            self.waits_said = false;
        }
    }

    /// Starts, stops, restarts, and ports.
    fn apply_target(&mut self, old: &ServiceConfig, restart: bool, process: bool, turn: &mut Turn<'_>) {
        if self.target == Target::Down {
            // Stopped by hand it stays down. One that ended by itself may live with its new command, and one that was disabled is now wanted.
            let wanted = (process && self.starts > 0) || (old.disabled && !self.config.disabled);
            if wanted && !self.by_hand && !self.config.disabled {
                self.start(turn);
            }
            return;
        }
        if self.config.disabled && !old.disabled {
            return self.go_down(StopReason::Stop, turn);
        }
        let added: BTreeSet<SocketAddr> = self.config.ports.iter().filter(|port| !old.ports.contains(port)).copied().collect();
        for port in &added {
            self.dropped.remove(port);
        }
        for port in old.ports.iter().filter(|port| !self.config.ports.contains(port)).copied().collect::<Vec<_>>() {
            self.dropped.insert(port);
            if let Plan::Hold { waiting } = &mut self.plan {
                waiting.remove(&port);
            }
            // Only what nobody listens on is closed now: who has the old port keeps it until its successor has the new one.
            turn.effect(Effect::Unhold { service: self.config.name.clone(), address: port });
        }
        let missing: BTreeMap<SocketAddr, bool> = self.not_held().into_iter().filter(|(port, _)| added.contains(port)).collect();
        if restart && self.running_plan() {
            self.listened = false;
            if missing.is_empty() {
                self.restart(turn);
            } else {
                // The new port is held before anything else happens, and the next generation finds it.
                self.account(self.serving(), true, turn);
                self.hold(missing, turn);
            }
            return;
        }
        for address in missing.into_keys() {
            turn.effect(Effect::Hold { service: self.config.name.clone(), address });
        }
        self.hold_is_complete(turn);
    }

    /// A restart would do something now; else its start is waiting anyway, and takes the new configuration.
    fn running_plan(&self) -> bool {
        !matches!(self.plan, Plan::Hold { .. } | Plan::After { .. })
    }

    /// Command and environment of before the last change of them.
    pub(crate) fn rollback(&mut self, base: &[Vec<u8>], turn: &mut Turn<'_>) {
        let Some(previous) = self.previous.take() else { return };
        self.say(What::Reverted, turn);
        let mut config = self.config.clone();
        let ServiceConfig { argv, env, base: then, cwd, ports, output, replicas, user, umask, rlimits, limits, .. } = *previous;
        config = ServiceConfig { argv, env, base: then, cwd, ports, output, replicas, user, umask, rlimits, limits, ..config };
        self.reconfigure(config, base, base, turn);
    }

    /// It is no longer in the configuration: what it has it may finish.
    fn remove(&mut self, turn: &mut Turn<'_>) {
        if std::mem::replace(&mut self.removed, true) {
            return;
        }
        self.say(What::Removed, turn);
        if self.target == Target::Down {
            return;
        }
        self.target = Target::Down;
        self.plan = Plan::Rest;
        self.again = false;
        self.tried.clear();
        if let Some(ledger) = self.open_ledger_mut() {
            ledger.outcome = Outcome::Abandoned;
        }
        let ids: Vec<GenerationId> = self.generations.keys().copied().collect();
        for id in ids {
            self.finish_or_stop(id, turn);
        }
        self.after_removal(turn);
    }

    fn finish_or_stop(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let listens = self.listeners.values().any(|listener| listener.owner == Some(id));
        let within = self.config.drain;
        let Some(generation) = self.generations.get_mut(&id) else { return };
        match generation.phase {
            Phase::Serving { from, .. } if listens && !within.is_zero() => {
                let deadline = turn.now.plus(within);
                let phase = Phase::Draining { kind: Drain::Handover { from }, deadline, not_before: turn.now, report: None };
                generation.enter(phase, turn.now);
                turn.effect(Effect::Watch { generation: id, within });
            }
            Phase::Draining { .. } => {}
            _ => self.stop_generation(id, StopReason::Removed, turn),
        }
    }

    /// Its ports are let go of when no generation of it is left.
    pub(crate) fn after_removal(&self, turn: &mut Turn<'_>) {
        if self.removed && self.target == Target::Down && self.generations.is_empty() {
            turn.effect(Effect::ReleaseService { service: self.config.name.clone() });
        }
    }
}
