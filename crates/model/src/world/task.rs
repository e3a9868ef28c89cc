//! Services that have an end: a task runs once, or whenever its schedule says so. Status 0 is success; it is never "crashed" by it.
//!
//! A run goes from "its command runs" to the end of its main process; what that leaves behind is ended with it. It
//! need not listen, and nothing is steered.

use crate::config::{Kind, RestartPolicy};
use crate::event::{Effect, ExitStatus, GenerationId};
use crate::generation::Phase;
use crate::ledger::Outcome;
use crate::notice::{StopReason, What};
use crate::service::{Plan, Run, Service, Target, Turn, correction_ms};
use std::time::Duration;

impl Service {
    fn cron(&self) -> Option<&String> {
        match &self.config.kind {
            Kind::Task { schedule } => schedule.as_ref(),
            Kind::Service => None,
        }
    }

    /// It is a task that runs at its times.
    pub fn is_scheduled(&self) -> bool {
        self.cron().is_some()
    }

    /// The run that goes on, if it is a task.
    pub fn running(&self) -> Option<GenerationId> {
        self.find(|generation| matches!(generation.phase, Phase::Spawning | Phase::Starting { .. } | Phase::Serving { .. }))
            .filter(|_| self.is_task())
    }

    /// Somebody wants a run now.
    pub(crate) fn run_task(&mut self, turn: &mut Turn<'_>) {
        if self.running().is_none() && matches!(self.plan, Plan::Rest | Plan::BackOff { .. } | Plan::GaveUp) {
            self.backoff.reset();
            self.recent.clear();
            self.waits_said = false;
            self.begin(turn);
        }
    }

    /// A restart of a task is another run: the one that goes on is stopped first.
    pub(crate) fn rerun(&mut self, turn: &mut Turn<'_>) {
        self.account(self.running(), true, turn);
        let Some(id) = self.running() else { return self.run_task(turn) };
        if !matches!(self.plan, Plan::Succeed { .. }) {
            self.plan = Plan::Succeed { after: id };
            self.stop_generation(id, StopReason::HandingOver, turn);
        }
    }

    /// Its command runs.
    pub(crate) fn task_runs(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        if !matches!(generation.phase, Phase::Starting { .. }) {
            return;
        }
        generation.enter(Phase::Serving { from: turn.now, soak: None }, turn.now);
        turn.effect(Effect::StopProbe { generation: id });
        let ledger = self.ledger_to_mut(id).filter(|ledger| ledger.outcome == Outcome::Running).map(|ledger| {
            ledger.outcome = Outcome::Settled;
            ledger.switched = Some(turn.now);
            ledger.id
        });
        self.say(What::Settled { probation: false, generation: id, ledger }, turn);
    }

    /// The main process of a run ended by itself.
    pub(crate) fn run_over(&mut self, id: GenerationId, status: ExitStatus, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get(&id) else { return };
        let took = turn.now.since(generation.spawned);
        self.last_run = Some(Run { generation: id, status, took, ended: turn.now });
        self.remember_exit(id, status);
        // What it left behind ends with it.
        self.stop_generation(id, StopReason::Leftover, turn);
        if status == ExitStatus::Exited(0) {
            self.backoff.reset();
            self.recent.clear();
            return self.say(What::Completed { generation: id, took }, turn);
        }
        self.say(What::TaskFailed { generation: id, status, took }, turn);
        if self.target == Target::Up && self.plan == Plan::Rest && self.config.restart != RestartPolicy::Never {
            self.start_later(Duration::ZERO, turn);
        }
    }

    /// A scheduled time has come.
    pub(crate) fn due(&mut self, at_ms: u64, turn: &mut Turn<'_>) {
        let Some(correction) = self.cron().filter(|_| self.target == Target::Up).map(|cron| correction_ms(cron)) else { return };
        self.asked.schedule = false;
        if self.asked.due_ms.is_some_and(|last| last >= at_ms && last - at_ms <= correction) {
            return;
        }
        self.asked.due_ms = Some(at_ms);
        if let Some(id) = self.running() {
            let running = self.generations.get(&id).map_or(Duration::ZERO, |generation| turn.now.since(generation.spawned));
            self.say(What::RunSkipped { generation: id, running }, turn);
        } else {
            self.run_task(turn);
        }
    }

    /// Its next run is waited for while it is to be up.
    pub(crate) fn keep_schedule(&mut self, turn: &mut Turn<'_>) {
        let cron = self.cron().filter(|_| self.target == Target::Up).cloned();
        match cron {
            Some(_) if self.asked.schedule => {}
            Some(cron) => {
                self.asked.schedule = true;
                self.next_run_ms = None;
                turn.effect(self.schedule(cron));
            }
            None if self.asked.schedule => {
                self.asked.schedule = false;
                self.next_run_ms = None;
                turn.effect(Effect::Unschedule { service: self.config.name.clone() });
            }
            None => {}
        }
    }

    /// Asks for its next time; again after the daemon died.
    pub(crate) fn schedule(&self, cron: String) -> Effect {
        Effect::Schedule { service: self.config.name.clone(), cron, after_ms: self.asked.due_ms, expected_ms: self.next_run_ms }
    }

    /// What to ask for again after the daemon died.
    pub(crate) fn schedule_again(&self) -> Option<Effect> {
        Some(self.schedule(self.cron().filter(|_| self.asked.schedule)?.clone()))
    }
}
