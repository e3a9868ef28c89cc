//! Reasons to restart what runs: its health check fails, or files that it is made of changed.

use crate::event::{Effect, GenerationId};
use crate::generation::{HealthState, Phase, Way};
use crate::ledger::Failure;
use crate::notice::What;
use crate::service::{Service, Target, Turn};
use std::collections::BTreeSet;
use std::time::Duration;

/// A generation that passes its checks after it has served for so long is healthy: what was before no longer counts.
const HEALTHY_RUN: Duration = Duration::from_secs(10);

impl Service {
    /// A check of this generation is done.
    pub(crate) fn health(&mut self, id: GenerationId, passed: bool, what: String, turn: &mut Turn<'_>) {
        let Some(limit) = self.config.health.as_ref().map(|health| health.failures) else { return };
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let (from, soak, shares) = match generation.phase {
            Phase::Serving { from, soak } => (from, soak, false),
            Phase::Switching(Way::Canary { began: Some(from), .. }) => (from, None, true),
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Switching(_)
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => return,
        };
        let before = generation.health.as_ref().map_or(0, |health| health.failures);
        let failures = if passed { 0 } else { before.saturating_add(1) };
        let since = generation.health.as_ref().and_then(|health| health.failing_since).or(Some(turn.now)).filter(|_| !passed);
        generation.health = Some(HealthState { failures, what: what.clone(), at: turn.now, failing_since: since });
        if passed {
            if before >= limit {
                self.say(What::Healthy { generation: id, what }, turn);
            }
            if turn.now.since(from) >= HEALTHY_RUN && !shares {
                self.sick.reset();
            }
            return;
        }
        if failures < limit {
            return;
        }
        let failure = Failure::Unhealthy { failures, last: what.clone() };
        if shares {
            // That is what it has a share for: nobody but those few has seen it.
            return self.call_off(id, failure, turn);
        }
        if self.is_changing() {
            return;
        }
        if let Some(old) = self.find(|generation| generation.is_way_back(turn.now)).filter(|_| soak.is_some()) {
            return self.roll_back(id, old, failure, turn);
        }
        let restart = self.sick_until.is_none_or(|until| until <= turn.now);
        if restart || failures == limit {
            self.say(What::Unhealthy { generation: id, failures, what, restart }, turn);
        }
        if restart {
            self.sick_until = Some(turn.now.plus(self.sick.after_run(Duration::ZERO)));
            self.account(Some(id), false, turn);
            self.replace(id, turn);
        }
    }

    /// Files changed.
    pub(crate) fn files_changed(&mut self, path: String, count: u32, turn: &mut Turn<'_>) {
        if self.target == Target::Down || self.config.watch.is_empty() {
            return;
        }
        self.say(What::FilesChanged { path, count }, turn);
        self.restart(turn);
    }

    /// Checks and watches go on exactly as long as there is something to check and to watch.
    pub(crate) fn keep_looking(&mut self, turn: &mut Turn<'_>) {
        let mut checked: BTreeSet<GenerationId> = self.serving().into_iter().chain(self.sharing()).collect();
        if self.config.health.is_none() || self.is_task() {
            checked.clear();
        }
        for generation in self.asked.health.difference(&checked).copied().collect::<Vec<_>>() {
            self.stop_health_of(generation, turn);
        }
        for generation in checked {
            if self.asked.health.insert(generation) {
                turn.effect(Effect::CheckHealth { generation });
            }
        }
        let watch = self.target == Target::Up && !self.config.watch.is_empty();
        if watch && !self.asked.watch {
            self.asked.watch = true;
            turn.effect(Effect::WatchFiles { service: self.config.name.clone() });
        } else if !watch {
            self.stop_watch(turn);
        }
    }

    pub(crate) fn stop_health(&mut self, turn: &mut Turn<'_>) {
        for generation in self.asked.health.clone() {
            self.stop_health_of(generation, turn);
        }
    }

    fn stop_health_of(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        self.asked.health.remove(&id);
        turn.effect(Effect::StopHealth { generation: id });
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.health = None;
        }
    }

    pub(crate) fn stop_watch(&mut self, turn: &mut Turn<'_>) {
        if std::mem::take(&mut self.asked.watch) {
            turn.effect(Effect::UnwatchFiles { service: self.config.name.clone() });
        }
    }

    /// What to ask for again after the daemon died.
    pub(crate) fn look_again(&self) -> impl Iterator<Item = Effect> {
        let health = self.asked.health.iter().map(|generation| Effect::CheckHealth { generation: *generation });
        let watch = self.asked.watch.then(|| Effect::WatchFiles { service: self.config.name.clone() });
        health.chain(watch)
    }
}
