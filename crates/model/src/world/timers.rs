//! What time alone does to a service.

use crate::event::Effect;
use crate::event::GenerationId;
use crate::generation::{Drain, Generation, Phase};
use crate::mono::Mono;
use crate::notice::{StopReason, What};
use crate::service::{Plan, Service, Target, Turn};

/// What is due for a generation.
enum Due {
    Ready,
    Cover,
    Settled,
    Stop(StopReason),
    Kill,
    Release,
}

impl Service {
    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let served = self.is_served();
        let plan = match self.plan {
            Plan::BackOff { until } => Some(until),
            Plan::Rest | Plan::Hold { .. } | Plan::After { .. } | Plan::GaveUp | Plan::Park | Plan::Succeed { .. } => None,
        };
        let generations = self.generations.values().flat_map(|generation| due(generation, served)).flatten().map(|(at, _)| at);
        generations.chain(plan).chain(self.hold_over()).min()
    }

    /// Does what is due now.
    pub(crate) fn run_timers(&mut self, turn: &mut Turn<'_>) {
        let served = self.is_served();
        let mut now_due: Vec<(GenerationId, Due)> = Vec::new();
        for generation in self.generations.values() {
            for (at, what) in due(generation, served).into_iter().flatten() {
                if at <= turn.now {
                    now_due.push((generation.id, what));
                }
            }
        }
        for (id, what) in now_due {
            match what {
                Due::Ready => self.ready_timeout(id, turn),
                Due::Cover => self.cover_over(id, turn),
                Due::Settled => self.settled(id, turn),
                Due::Stop(why) => self.stop_generation(id, why, turn),
                Due::Kill => self.kill(id, turn),
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
        Phase::Stopping { kill_at, .. } => [kill_at.map(|at| (at, Due::Kill)), None],
        // While nobody serves, the hold of the whole service decides.
        Phase::Gone { until } => [served.then_some((*until, Due::Release)), None],
        Phase::Spawning | Phase::Switching(_) | Phase::Orphaned | Phase::Releasing => [None, None],
    }
}
