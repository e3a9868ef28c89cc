//! Who waits for whom: starts in the order of `after`, stops in the reverse of it, in parallel where nothing is said.
//!
//! The order is of starts and stops alone. A service whose dependency crashes or is restarted goes on: the port is held, and connections wait.

use super::index::is_quiet;
use crate::config::{After, Kind, When};
use crate::event::{Effect, ExitStatus, StopWay};
use crate::generation::{Generation, Main, Trap};
use crate::mono::Mono;
use crate::notice::What;
use crate::service::{Plan, Service, Target};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};

impl Service {
    /// It has come so far. A task is ready when it is complete: before that nobody can use what it makes.
    pub fn has_reached(&self, when: When) -> bool {
        let task = matches!(self.config.kind, Kind::Task { .. });
        match when {
            When::Started => {
                let runs = |generation: &Generation| generation.trap != Trap::Unknown && matches!(generation.main, Main::Alive { .. });
                self.generations.values().any(runs) || (task && self.last_run.is_some())
            }
            When::Ready if !task => self.serving().is_some(),
            When::Ready | When::Completed if task => self.last_run.is_some_and(|run| run.status == ExitStatus::Exited(0)),
            When::Ready | When::Completed => {
                let well = self.last_exit.is_some_and(|(_, status)| status == ExitStatus::Exited(0));
                self.target == Target::Down && self.generations.is_empty() && well
            }
        }
    }
}

impl World {
    /// What its start waits for. Services that the instance does not have are not waited for.
    fn unreached(&self, after: &[After]) -> Vec<After> {
        let open = |after: &&After| self.services.get(&after.service).is_some_and(|other| !other.has_reached(after.when));
        after.iter().filter(open).cloned().collect()
    }

    /// A service that waits for others is looked at again: it starts when all have come so far.
    pub(super) fn recheck(&mut self, name: &str, now: Mono, effects: &mut Vec<Effect>) {
        let Some(Service { plan: Plan::After { waiting }, .. }) = self.services.get(name) else { return };
        let before = waiting.clone();
        let Some(service) = self.services.get(name) else { return };
        let still = self.unreached(&service.config.after);
        if still.is_empty() {
            self.with(name, now, effects, Service::proceed);
        } else if still != before || !service.waits_said {
            self.with(name, now, effects, |service, turn| {
                if !std::mem::replace(&mut service.waits_said, true) {
                    let services = still.iter().map(|after| (after.service.clone(), after.when)).collect();
                    service.say(What::WaitsFor { services }, turn);
                }
                service.plan = Plan::After { waiting: still };
            });
        }
    }

    /// Stops these services: each when those that start after it are gone, of all that are on their way down.
    pub(super) fn leave(&mut self, names: &[String], way: StopWay, now: Mono, effects: &mut Vec<Effect>) {
        if way == StopWay::Kill {
            for name in names {
                self.leaving.remove(name);
                self.with(name, now, effects, |service, turn| service.stop(way, turn));
            }
            return;
        }
        self.leaving.extend(names.iter().filter(|name| self.services.contains_key(*name)).cloned());
        let mut look: Vec<String> = names.to_vec();
        while let Some(name) = look.pop() {
            look.extend(self.let_go(&name, now, effects));
        }
        let stopping = |world: &Self| {
            world
                .services
                .iter()
                .any(|(name, service)| service.target == Target::Down && !is_quiet(service) && !world.leaving.contains(name))
        };
        if !self.leaving.is_empty() && !stopping(self) {
            // A circle, which no configuration of ours has: nobody may wait for ever.
            for name in std::mem::take(&mut self.leaving) {
                self.with(&name, now, effects, |service, turn| service.stop(way, turn));
            }
        }
    }

    /// Stops those that are to stop and that this one, which has changed, no longer holds up; itself among them.
    pub(super) fn free(&mut self, name: &str, now: Mono, effects: &mut Vec<Effect>) {
        let mut look = self.wait_for_end(name);
        look.push(name.to_owned());
        while let Some(name) = look.pop() {
            look.extend(self.let_go(&name, now, effects));
        }
    }

    /// Those that are to stop when this one is gone.
    fn wait_for_end(&self, name: &str) -> Vec<String> {
        let after = self.services.get(name).map(|service| service.config.after.as_slice()).unwrap_or_default();
        after.iter().map(|after| after.service.clone()).filter(|other| self.leaving.contains(other)).collect()
    }

    /// Stops it if it is to stop and nobody is in the way. Returns who may be free to go now.
    fn let_go(&mut self, name: &str, now: Mono, effects: &mut Vec<Effect>) -> Vec<String> {
        if !self.leaving.contains(name) {
            return Vec::new();
        }
        let in_the_way = |other: &String| {
            other != name
                && self.services.get(other).is_some_and(|service| {
                    let going = self.leaving.contains(other) || service.target == Target::Down;
                    going && !service.generations.is_empty()
                })
        };
        // One without a process serves nobody.
        let idle = self.services.get(name).is_none_or(|service| service.generations.is_empty());
        if !idle && self.index.dependents(name).any(in_the_way) {
            return Vec::new();
        }
        self.leaving.remove(name);
        self.with(name, now, effects, |service, turn| service.stop(StopWay::Gentle, turn));
        if self.services.get(name).is_none_or(is_quiet) { self.wait_for_end(name) } else { Vec::new() }
    }

    /// These services in layers: whoever starts after another of them is in a later layer. Names that the instance does not have are left
    /// out; those that wait for each other in a circle come last, together.
    pub fn start_order(&self, names: &[String]) -> Vec<Vec<String>> {
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for name in names {
            let Some((name, service)) = self.services.get_key_value(name) else { continue };
            let after = service.config.after.iter().map(|after| after.service.as_str());
            left.insert(name, after.filter(|other| *other != name && wanted.contains(other)).collect());
        }
        let mut layers = Vec::new();
        while !left.is_empty() {
            let free: Vec<&str> =
                left.iter().filter(|(_, after)| after.iter().all(|other| !left.contains_key(other))).map(|(name, _)| *name).collect();
            let layer = if free.is_empty() { left.keys().copied().collect() } else { free };
            for name in &layer {
                left.remove(name);
            }
            layers.push(layer.into_iter().map(str::to_owned).collect());
        }
        layers
    }
}
