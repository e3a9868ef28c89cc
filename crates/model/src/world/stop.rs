//! How a generation ends: told to, drained, dead. And how a service does.

use crate::config::StopStep;
use crate::event::{Effect, ExitStatus, GenerationId, Scope, StopWay};
use crate::generation::{Generation, Main, Phase, Way};
use crate::ledger::Outcome;
use crate::notice::{StopReason, What};
use crate::service::{Plan, Service, Target, Turn};
use std::time::Duration;

/// `SIGKILL`.
const KILL: i32 = 9;

/// A main process that ends with status 0 so soon after its generation took the connections has made itself a daemon, if others live.
const INTO_BACKGROUND: Duration = Duration::from_secs(2);

impl Service {
    /// It is to be down.
    pub(crate) fn stop(&mut self, way: StopWay, turn: &mut Turn<'_>) {
        self.by_hand = true;
        if self.target == Target::Up {
            if self.generations.values().any(|generation| generation.main.status().is_none()) {
                // How it ends now is what counts.
                self.last_exit = None;
            }
            self.go_down(StopReason::Stop, turn);
        }
        if way == StopWay::Kill {
            let ids: Vec<GenerationId> = self.generations.keys().copied().collect();
            for id in ids {
                self.kill(id, turn);
            }
        }
    }

    /// It ended and is not started again.
    pub(crate) fn end(&mut self, turn: &mut Turn<'_>) {
        self.say(What::Ended { status: self.last_exit.map(|(_, status)| status) }, turn);
        self.go_down(StopReason::Leftover, turn);
    }

    pub(crate) fn go_down(&mut self, why: StopReason, turn: &mut Turn<'_>) {
        self.target = Target::Down;
        self.plan = Plan::Rest;
        self.again = false;
        self.tried.clear();
        self.unserved = None;
        if let Some(ledger) = self.open_ledger_mut() {
            ledger.outcome = Outcome::Abandoned;
        }
        // New connections are refused from here on, instead of waiting for nobody.
        turn.effect(Effect::ReleaseService { service: self.config.name.clone() });
        // The keeper will say so for each; until then they must not count as held.
        self.listeners.clear();
        let ids: Vec<GenerationId> = self.generations.keys().copied().collect();
        for id in ids {
            self.stop_generation(id, why, turn);
        }
        self.say_if_stopped(turn);
    }

    fn say_if_stopped(&self, turn: &mut Turn<'_>) {
        if self.target == Target::Down && self.generations.is_empty() {
            self.say(What::Stopped { status: self.last_exit.map(|(_, status)| status) }, turn);
        }
    }

    /// Stop signal now, kill after the grace. A generation that is being stopped already keeps its time.
    pub(crate) fn stop_generation(&mut self, id: GenerationId, why: StopReason, turn: &mut Turn<'_>) {
        let (signal, grace) = (self.config.stop_signal, self.config.grace);
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let scope = match generation.main {
            Main::Unborn | Main::Alive { .. } => Scope::Main,
            Main::Ended { .. } => Scope::Tree,
        };
        let mut left = None;
        match generation.phase.clone() {
            Phase::Spawning | Phase::Switching(_) | Phase::Serving { .. } | Phase::Orphaned => {}
            Phase::Starting { .. } => turn.effect(Effect::StopProbe { generation: id }),
            Phase::Draining { report, .. } => {
                turn.effect(Effect::StopWatch { generation: id });
                left = report;
                if let Some(ledger) = self.ledger_from_mut(id) {
                    ledger.stop_old(report);
                }
            }
            Phase::Stopping { asked, steps, kill_at, .. } => {
                // Asked for by a person: the reason is theirs from now on.
                if let Some(generation) = self.generations.get_mut(&id).filter(|_| why == StopReason::Stop) {
                    generation.phase = Phase::Stopping { why, asked, steps, kill_at };
                }
                return;
            }
            Phase::Gone { .. } => {
                generation.enter(Phase::Releasing, turn.now);
                turn.effect(Effect::Release { generation: id });
                return;
            }
            Phase::Releasing => return,
        }
        if let Some(generation) = self.generations.get_mut(&id) {
            let kill_at = Some(turn.now.plus(grace));
            generation.enter(Phase::Stopping { why, asked: scope == Scope::Main, steps: 0, kill_at }, turn.now);
        }
        turn.effect(Effect::Signal { generation: id, signal, scope });
        if scope == Scope::Main {
            self.say(What::StopSignal { generation: id, signal, grace, why, left }, turn);
        }
    }

    /// The wait after a signal of the stop is over: the next signal, and after the last one the kill.
    pub(crate) fn next_stop_step(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let Phase::Stopping { why, steps, kill_at: kill_at @ Some(_), .. } = &mut generation.phase else { return };
        let Some(StopStep { signal, wait }) = self.config.stop.get(*steps as usize).copied() else { return self.kill(id, turn) };
        *steps += 1;
        *kill_at = Some(turn.now.plus(wait));
        let why = *why;
        // What a main process has left behind is asked as a whole.
        let scope = if generation.main.status().is_none() { Scope::Main } else { Scope::Tree };
        turn.effect(Effect::Signal { generation: id, signal, scope });
        self.say(What::StopSignal { generation: id, signal, grace: wait, why, left: None }, turn);
    }

    /// Kill all that is left of it.
    pub(crate) fn kill(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        if let Some(Generation { phase: Phase::Stopping { kill_at, .. }, since, .. }) = self.generations.get_mut(&id)
            && kill_at.take().is_some()
        {
            let grace = turn.now.since(*since);
            turn.effect(Effect::Signal { generation: id, signal: KILL, scope: Scope::Tree });
            self.say(What::Killed { generation: id, grace }, turn);
        }
    }

    /// Its main process ended. Its other processes may go on.
    pub(crate) fn main_exited(&mut self, id: GenerationId, status: ExitStatus, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        if generation.main.status().is_some() {
            return;
        }
        generation.main = Main::Ended { pid: generation.main.pid(), status };
        let runs = matches!(generation.phase, Phase::Spawning | Phase::Starting { .. } | Phase::Serving { .. });
        if self.is_task() && runs {
            return self.run_over(id, status, turn);
        }
        let Some(generation) = self.generations.get_mut(&id) else { return };
        match generation.phase.clone() {
            // With status 0 it may have made itself a daemon: whether a process is left tells.
            Phase::Spawning | Phase::Starting { .. } | Phase::Switching(Way::Forward | Way::Canary { .. })
                if status == ExitStatus::Exited(0) => {}
            Phase::Spawning | Phase::Starting { .. } | Phase::Switching(Way::Forward | Way::Canary { .. }) => {
                self.remember_start(id, status);
                let failure = self.death(id, status);
                self.fail_start(id, &failure, turn);
            }
            Phase::Switching(Way::Back { failed, failure, .. }) => self.lost_way_back(id, failed, failure, status, turn),
            // A daemon's child may accept the probe before its parent is gone. If no process is left, the next event says so.
            Phase::Serving { from, .. } if status == ExitStatus::Exited(0) && turn.now.since(from) < INTO_BACKGROUND => {}
            Phase::Serving { .. } => self.crashed(id, status, turn),
            Phase::Orphaned | Phase::Draining { .. } | Phase::Gone { .. } | Phase::Releasing => {}
            Phase::Stopping { why, steps, kill_at, .. } => {
                if why == StopReason::Stop {
                    self.remember_exit(id, status);
                }
                if kill_at.is_some() {
                    // What it leaves behind gets the signal too, and need not wait for the kill.
                    let step = (steps as usize).checked_sub(1).and_then(|step| self.config.stop.get(step));
                    let signal = step.map_or(self.config.stop_signal, |step| step.signal);
                    turn.effect(Effect::Signal { generation: id, signal, scope: Scope::Tree });
                }
            }
        }
    }

    /// How a start failed is how the service ended, unless another generation serves.
    fn remember_start(&mut self, id: GenerationId, status: ExitStatus) {
        if self.serving().is_none() {
            self.last_exit = Some((id, status));
        }
    }

    /// The old generation ended while the connections were being steered back to it.
    fn lost_way_back(
        &mut self,
        id: GenerationId,
        failed: GenerationId,
        failure: crate::ledger::Failure,
        status: ExitStatus,
        turn: &mut Turn<'_>,
    ) {
        if let Some(ledger) = self.ledger_to_mut(failed) {
            ledger.outcome = Outcome::RolledBack(failure);
        }
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.enter(Phase::Orphaned, turn.now);
        }
        self.last_exit = Some((id, status));
        self.say(What::Crashed { generation: id, status, served: Duration::ZERO }, turn);
        if self.target == Target::Up && self.incoming().is_none() {
            self.recover(None, Duration::ZERO, turn);
        }
    }

    /// No process of it is left.
    pub(crate) fn tree_empty(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let status = generation.main.status().unwrap_or(ExitStatus::Unknown);
        generation.main = Main::Ended { pid: generation.main.pid(), status };
        let runs = matches!(generation.phase, Phase::Spawning | Phase::Starting { .. } | Phase::Serving { .. });
        if self.is_task() && runs {
            self.run_over(id, status, turn);
        }
        let Some(generation) = self.generations.get_mut(&id) else { return };
        match generation.phase.clone() {
            Phase::Spawning | Phase::Starting { .. } => {
                turn.effect(Effect::StopProbe { generation: id });
                self.dead_on_arrival(id, status, turn);
            }
            Phase::Switching(Way::Canary { began: Some(_), .. }) => {
                let failure = self.death(id, status);
                self.canary_failed(id, failure, turn);
                self.finish(id, turn);
            }
            Phase::Switching(Way::Forward | Way::Canary { .. }) => {
                self.keep_serving(turn);
                self.dead_on_arrival(id, status, turn);
            }
            Phase::Switching(Way::Back { failed, failure, .. }) => {
                self.lost_way_back(id, failed, failure, status, turn);
                self.finish(id, turn);
            }
            Phase::Serving { .. } => {
                self.crashed(id, status, turn);
                self.finish(id, turn);
            }
            Phase::Orphaned => self.finish(id, turn),
            // It died with what it had, which nobody could count at that moment.
            Phase::Draining { .. } => {
                turn.effect(Effect::StopWatch { generation: id });
                self.say(What::Gone { generation: id, status, stopped: false }, turn);
                self.finish(id, turn);
            }
            Phase::Stopping { why, asked, .. } => {
                if why == StopReason::Stop {
                    self.remember_exit(id, status);
                }
                self.say(What::Gone { generation: id, status, stopped: asked }, turn);
                self.finish(id, turn);
            }
            Phase::Gone { .. } | Phase::Releasing => {}
        }
    }

    fn dead_on_arrival(&mut self, id: GenerationId, status: ExitStatus, turn: &mut Turn<'_>) {
        self.remember_start(id, status);
        let failure = self.death(id, status);
        self.finish(id, turn);
        self.start_failed(id, &failure, turn);
    }

    /// Its sockets: kept while they hold a port, else released. Its successor, if it waited.
    fn finish(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let until = turn.now.plus(self.config.hold);
        let holds = self.target == Target::Up
            && !self.is_task()
            && self.listeners_of(id).any(|listener| listener.selected && !self.dropped.contains(&listener.address));
        let Some(generation) = self.generations.get_mut(&id) else { return };
        if holds {
            generation.enter(Phase::Gone { until }, turn.now);
        } else {
            generation.enter(Phase::Releasing, turn.now);
            turn.effect(Effect::Release { generation: id });
        }
        if self.plan == (Plan::Succeed { after: id }) {
            self.spawn(turn);
        }
    }

    /// The keeper closed its sockets.
    pub(crate) fn released(&mut self, id: GenerationId, queued: Option<u32>, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get(&id) else { return };
        match generation.phase {
            Phase::Releasing => {
                self.count_lost(id, queued, turn);
                self.forget(id, turn);
            }
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Switching(_)
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. } => {}
        }
    }

    /// What was lost of a generation that we stopped is known: what waited in its queues at the release. What one that died by itself had
    /// accepted nobody could count, and a part of a sum is not the sum.
    fn count_lost(&mut self, id: GenerationId, queued: Option<u32>, turn: &mut Turn<'_>) {
        if let Some(ledger) = self.ledger_from_mut(id).filter(|ledger| ledger.cut.is_some()) {
            ledger.lost = queued;
        }
        if let Some(count) = queued.filter(|count| *count > 0) {
            self.say(What::Lost { generation: id, count }, turn);
        }
    }

    /// Nothing of it matters any more.
    pub(crate) fn forget(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        turn.effect(Effect::Forget { generation: id });
        self.generations.remove(&id);
        self.say_if_stopped(turn);
        self.after_removal(turn);
    }
}
