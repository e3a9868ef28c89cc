//! What time alone does to a service.

use crate::config::Readiness;
use crate::event::{Effect, GenerationId};
use crate::generation::{Drain, Generation, Main, Phase, Trap, Way};
use crate::mono::Mono;
use crate::notice::{StopReason, What};
use crate::service::{Plan, Service, Target, Turn};
use std::time::Duration;

/// What lives for so long and listens nowhere, although nothing else is known of it, is taken for a worker: it never will. Long enough for
/// most servers to bind; what binds later is steered to all the same.
const WORKER: Duration = Duration::from_secs(10);
/// For a service of which no generation has ever listened: its next one is as good as the one before if it lives for so long. Most of
/// what is wrong with a new version (a missing module, a bad option) shows earlier.
const NEXT_WORKER: Duration = Duration::from_secs(2);

/// What is due for a generation.
enum Due {
    Alive,
    Ready,
    Cover,
    Settled,
    Promote,
    Stop(StopReason),
    StopStep,
    Release,
}

impl Service {
    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let served = self.is_served();
        let plan = match self.plan {
            Plan::BackOff { until } => Some(until),
            Plan::Rest | Plan::Hold { .. } | Plan::After { .. } | Plan::GaveUp | Plan::Park { .. } | Plan::Succeed { .. } => None,
        };
        let generations = self.generations.values().flat_map(|generation| due(generation, served)).flatten().map(|(at, _)| at);
        let alive = self.generations.values().filter_map(|generation| self.alive_at(generation));
        generations.chain(alive).chain(plan).chain(self.hold_over()).min()
    }

    /// When it is taken for one that never listens.
    fn alive_at(&self, generation: &Generation) -> Option<Mono> {
        let starting = matches!(generation.phase, Phase::Starting { covers_by: None, .. });
        let lives = starting && generation.trap == Trap::Active && matches!(generation.main, Main::Alive { .. });
        let unknown = self.workers && !self.listened && self.config.ports.is_empty() && self.config.readiness == Readiness::Accept;
        if !lives || !unknown || self.is_task() {
            return None;
        }
        let wait = if self.was_ready { NEXT_WORKER } else { WORKER };
        Some(generation.since.plus(wait.min(self.config.ready_timeout)))
    }

    fn alive(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get(&id) else { return };
        let after = turn.now.since(generation.spawned);
        self.say(What::Alive { generation: id, after }, turn);
        self.switch_to(id, turn);
    }

    /// Does what is due now.
    pub(crate) fn run_timers(&mut self, turn: &mut Turn<'_>) {
        let served = self.is_served();
        let mut now_due: Vec<(GenerationId, Due)> = Vec::new();
        for generation in self.generations.values() {
            if self.alive_at(generation).is_some_and(|at| at <= turn.now) {
                now_due.push((generation.id, Due::Alive));
                continue;
            }
            for (at, what) in due(generation, served).into_iter().flatten() {
                if at <= turn.now {
                    now_due.push((generation.id, what));
                }
            }
        }
        for (id, what) in now_due {
            match what {
                Due::Alive => self.alive(id, turn),
                Due::Ready => self.ready_timeout(id, turn),
                Due::Cover => self.cover_over(id, turn),
                Due::Settled => self.settled(id, turn),
                Due::Promote => self.promote(id, turn),
                Due::Stop(why) => self.stop_generation(id, why, turn),
                Due::StopStep => self.next_stop_step(id, turn),
                Due::Release => self.stop_generation(id, StopReason::Leftover, turn),
            }
        }
        if matches!(self.plan, Plan::BackOff { until } if until <= turn.now) {
            self.spawn(turn);
        }
        if self.hold_over().is_some_and(|at| at <= turn.now) {
            self.release_held(turn);
        }
    }

    fn cover_over(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        if matches!(self.generations.get(&id).map(|generation| &generation.phase), Some(Phase::Starting { .. })) {
            self.switch_to(id, turn);
        }
    }

    /// When the held ports are given up: nobody has accepted for so long. Not while a generation that may yet become ready has
    /// them, and not while another port is waited for.
    fn hold_over(&self) -> Option<Mono> {
        let since = self.unserved.filter(|_| self.holds())?;
        let tried = self
            .generations
            .values()
            .any(|generation| generation.is_incoming() && self.listeners.values().any(|listener| listener.owner == Some(generation.id)));
        let waits = tried || matches!(self.plan, Plan::Hold { .. }) || self.target == Target::Down;
        (!waits).then(|| since.plus(self.config.hold))
    }

    fn release_held(&mut self, turn: &mut Turn<'_>) {
        // The keeper will say so for each; until then they must not count as held.
        self.listeners.clear();
        turn.effect(Effect::ReleaseService { service: self.config.name.clone() });
        let told = self.open_ledger_mut().is_some_and(|ledger| std::mem::replace(&mut ledger.released, true));
        if !told {
            self.say(What::HoldOver { after: self.config.hold }, turn);
        }
    }
}

fn due(generation: &Generation, served: bool) -> [Option<(Mono, Due)>; 2] {
    match &generation.phase {
        Phase::Starting { deadline, covers_by, .. } => {
            // Once ready it is no longer judged by the clock of readiness.
            let deadline = deadline.filter(|_| covers_by.is_none());
            [deadline.map(|at| (at, Due::Ready)), covers_by.map(|at| (at, Due::Cover))]
        }
        Phase::Serving { soak, .. } => [soak.map(|soak| (soak.until, Due::Settled)), None],
        Phase::Draining { kind, deadline, not_before, report } => {
            let done = report.is_some_and(|report| {
                report.queued == 0
                    && match kind {
                        Drain::Handover { .. } => report.open == report.idle,
                        Drain::Parked => report.busy == 0,
                    }
            });
            let due = if done {
                (*not_before, Due::Stop(StopReason::Drained))
            } else {
                ((*deadline).max(*not_before), Due::Stop(StopReason::DrainDeadline))
            };
            [Some(due), None]
        }
        Phase::Stopping { kill_at, .. } => [kill_at.map(|at| (at, Due::StopStep)), None],
        // While nobody serves, the hold of the whole service decides.
        Phase::Gone { until } => [served.then_some((*until, Due::Release)), None],
        Phase::Switching(Way::Canary { time: Some(time), began: Some(began), .. }) => [Some((began.plus(*time), Due::Promote)), None],
        Phase::Spawning | Phase::Switching(_) | Phase::Orphaned | Phase::Releasing => [None, None],
    }
}
