//! What happens to a generation that serves, and to the one before it: switch, probation, rollback, crash, drain.

use crate::config::RestartPolicy;
use crate::event::{DrainReport, Effect, ExitStatus, GenerationId};
use crate::generation::{Drain, Generation, Phase, Soak, Trap, Way};
use crate::ledger::{Failure, LedgerId, Moved, Outcome};
use crate::notice::{StopReason, What};
use crate::service::{Plan, Service, Target, Turn};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Generations that may drain at once. Each is a whole server in memory; a deploy a minute with a day of drain must not fill it.
const DRAINING_MAX: usize = 4;

impl Service {
    /// The keeper steered all new connections to it.
    pub(crate) fn steered(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get(&id) else { return };
        let all = !matches!(generation.phase, Phase::Switching(Way::Canary { .. }));
        self.mirror_steer(id, all);
        let Some(generation) = self.generations.get(&id) else { return };
        match generation.phase.clone() {
            Phase::Switching(Way::Forward) => self.take_over(id, turn),
            Phase::Switching(Way::Canary { .. }) => self.canary_began(id, turn),
            Phase::Switching(Way::Back { from, failed, failure }) => {
                if let Some(generation) = self.generations.get_mut(&id) {
                    generation.enter(Phase::Serving { from, soak: None }, turn.now);
                }
                let ledger = self.ledger_to_mut(failed).map(|ledger| {
                    ledger.outcome = Outcome::RolledBack(failure);
                    ledger.id
                });
                self.say(What::RolledBack { from: failed, to: id, ledger }, turn);
                self.follow_up(turn);
            }
            // Steered to early because the one before it crashed: its queue is where connections wait until it is ready.
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => {}
        }
    }

    /// What the keeper has just done to `selected`, before it tells of each listener.
    fn mirror_steer(&mut self, id: GenerationId, all: bool) {
        let addresses: Vec<_> = self.listeners.values().filter(|listener| listener.owner == Some(id)).map(|l| l.address).collect();
        for listener in self.listeners.values_mut().filter(|listener| addresses.contains(&listener.address)) {
            listener.selected = listener.owner == Some(id) || (!all && listener.selected);
        }
    }

    fn take_over(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let before: Vec<GenerationId> = self
            .generations
            .values()
            .filter(|generation| {
                // One that the connections were on their way back to is overtaken.
                let had = matches!(generation.phase, Phase::Serving { .. } | Phase::Orphaned | Phase::Switching(Way::Back { .. }));
                generation.id != id && had
            })
            .map(|generation| generation.id)
            .collect();
        // The way back is for connections: of two workers the new one has proved all that it can, and the old one goes.
        let listens = |id: GenerationId| self.listeners_of(id).next().is_some();
        let way_back = before
            .iter()
            .any(|old| self.generations[old].is_serving() && self.generations[old].is_trusted() && (listens(*old) || listens(id)));
        let mute = !listens(id) && !before.iter().any(|old| listens(*old));
        let soak = if way_back { self.config.soak } else { Duration::ZERO };
        let until = turn.now.plus(soak);
        for old in &before {
            self.drain(*old, soak, turn);
        }
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.enter(Phase::Serving { from: turn.now, soak: way_back.then_some(Soak { until }) }, turn.now);
        }
        self.was_ready = true;
        self.tried.clear();
        // With nobody before it and no port in our hands meanwhile, nobody knows.
        let gap = match self.unserved.take() {
            Some(since) => Some(turn.now.since(since)),
            None => before.iter().any(|old| self.generations[old].trap == Trap::Active).then_some(Duration::ZERO),
        };
        let from = before.last().copied();
        let mut closed = None;
        if let Some(ledger) = self.ledger_to_mut(id).filter(|ledger| ledger.outcome == Outcome::Running) {
            ledger.from = ledger.from.or(from);
            ledger.switched = Some(turn.now);
            ledger.gap = gap;
            ledger.outcome = Outcome::Switched;
            closed = Some((ledger.id, turn.now.since(ledger.asked)));
        }
        let (ledger, took) = (closed.map(|(id, _)| id), closed.map(|(_, took)| took));
        if !mute {
            self.say(What::Switched { from, to: id, ledger, soak, took }, turn);
        }
        if let Some(from) = from.filter(|from| *from < id) {
            self.say_if_moved(from, id, ledger, turn);
        }
        if let Some(from) = from.filter(|_| !mute) {
            turn.effect(Effect::Snapshot { from, to: id });
        }
        if !way_back {
            self.settled(id, turn);
        }
        self.limit_drains(turn);
        self.follow_up(turn);
    }

    /// Names what the new generation has left and what it has beside. What it left is the old one's until that has drained.
    fn say_if_moved(&mut self, from: GenerationId, to: GenerationId, ledger: Option<LedgerId>, turn: &mut Turn<'_>) {
        let of = |id: GenerationId| -> BTreeSet<SocketAddr> { self.listeners_of(id).map(|listener| listener.address).collect() };
        let (old, new) = (of(from), of(to));
        let moved = Moved { left: old.difference(&new).copied().collect(), new: new.difference(&old).copied().collect() };
        // Whatever it left before.
        self.dropped.retain(|address| !new.contains(address));
        if moved.left.is_empty() || new.is_empty() {
            return;
        }
        // What was replaced is not waited for by anybody when the old one has drained; what merely went may come again.
        if !moved.new.is_empty() {
            self.dropped.extend(moved.left.iter().filter(|address| !self.config.ports.contains(address)));
        }
        if let Some(ledger) = self.ledger_to_mut(to) {
            ledger.moved = Some(moved.clone());
        }
        self.say(What::Moved { from, to, ledger, moved }, turn);
    }

    /// The old generation finishes what it has.
    fn drain(&mut self, id: GenerationId, soak: Duration, turn: &mut Turn<'_>) {
        let within = self.config.drain.max(soak);
        let Some(phase) = self.generations.get(&id).map(|generation| generation.phase.clone()) else { return };
        let (from, not_before) = match phase {
            Phase::Serving { from, .. } => (from, turn.now.plus(soak)),
            Phase::Switching(Way::Back { from, failed, failure }) => {
                if let Some(ledger) = self.ledger_to_mut(failed) {
                    ledger.outcome = Outcome::RolledBack(failure);
                }
                (from, turn.now)
            }
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Switching(Way::Forward | Way::Canary { .. })
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => (turn.now, turn.now),
        };
        let phase =
            Phase::Draining { kind: Drain::Handover { from }, deadline: turn.now.plus(self.config.drain), not_before, report: None };
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.enter(phase, turn.now);
        }
        turn.effect(Effect::Watch { generation: id, within });
    }

    fn limit_drains(&mut self, turn: &mut Turn<'_>) {
        let draining: Vec<GenerationId> = self
            .generations
            .values()
            .filter(|generation| matches!(generation.phase, Phase::Draining { .. }))
            .map(|generation| generation.id)
            .collect();
        for id in draining.iter().take(draining.len().saturating_sub(DRAINING_MAX)) {
            self.stop_generation(*id, StopReason::TooMany, turn);
        }
    }

    /// Probation is over, or there was none.
    pub(crate) fn settled(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let mut probation = false;
        if let Some(Generation { phase: Phase::Serving { soak, .. }, .. }) = self.generations.get_mut(&id)
            && soak.take().is_some()
        {
            probation = true;
        }
        let ledger = self.ledger_to_mut(id).filter(|ledger| ledger.outcome == Outcome::Switched).map(|ledger| {
            ledger.outcome = Outcome::Settled;
            ledger.id
        });
        self.say(What::Settled { probation, generation: id, ledger }, turn);
    }

    pub(crate) fn steer_failed(&mut self, id: GenerationId, what: String, turn: &mut Turn<'_>) {
        let serving = self.serving().is_some();
        let Some(generation) = self.generations.get_mut(&id) else { return };
        match generation.phase.clone() {
            Phase::Switching(Way::Forward | Way::Canary { .. }) if serving => self.fail_start(id, &Failure::Steer(what), turn),
            Phase::Switching(Way::Forward | Way::Canary { .. }) => {
                // Nobody else could have the connections.
                self.say(What::SteerFailed { generation: id, what }, turn);
                self.take_over(id, turn);
            }
            Phase::Switching(Way::Back { from, .. }) => {
                let phase = Phase::Draining {
                    kind: Drain::Handover { from },
                    deadline: turn.now.plus(self.config.drain),
                    not_before: turn.now,
                    report: None,
                };
                generation.enter(phase, turn.now);
                self.say(What::SteerFailed { generation: id, what }, turn);
                if self.target == Target::Up && self.incoming().is_none() {
                    self.recover(None, Duration::ZERO, turn);
                }
            }
            Phase::Serving { .. } => self.say(What::SteerFailed { generation: id, what }, turn),
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => {}
        }
    }

    /// The generation that had the connections ended by itself (its main process, or all of a generation whose main process
    /// had ended before).
    pub(crate) fn crashed(&mut self, id: GenerationId, status: ExitStatus, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let (from, soak) = match generation.phase {
            Phase::Serving { from, soak } => (from, soak),
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Switching(_)
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => (turn.now, None),
        };
        let served = turn.now.since(from);
        generation.enter(Phase::Orphaned, turn.now);
        self.remember_exit(id, status);
        self.say(What::Crashed { generation: id, status, served }, turn);
        let way_back = self.find(|generation| generation.is_way_back(turn.now)).filter(|_| soak.is_some());
        if let Some(old) = way_back {
            let failure = self.death(id, status);
            return self.roll_back(id, old, failure, turn);
        }
        if let Some(incoming) = self.incoming() {
            if self.canary() == Some(incoming) {
                return self.promote(incoming, turn);
            }
            // Connections wait in the queue of the new one from now on, if it has one yet; else the dead one's queue is handed to it.
            if self.listeners.values().any(|listener| listener.owner == Some(incoming)) {
                turn.effect(Effect::Steer { service: self.config.name.clone(), generation: incoming, share: None });
            }
            return;
        }
        match self.plan {
            // It was to go anyway; its successor need not wait any more.
            Plan::Park { .. } | Plan::Succeed { .. } => {
                self.spawn(turn);
            }
            Plan::Rest | Plan::Hold { .. } | Plan::BackOff { .. } | Plan::After { .. } | Plan::GaveUp => {
                if self.restarts_after(status) {
                    self.account(Some(id), false, turn);
                }
                self.recover(None, served, turn);
            }
        }
    }

    fn restarts_after(&self, status: ExitStatus) -> bool {
        match self.config.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => status != ExitStatus::Exited(0),
            RestartPolicy::Never => false,
        }
    }

    /// The old generation gets the connections back.
    pub(crate) fn roll_back(&mut self, failed: GenerationId, old: GenerationId, failure: Failure, turn: &mut Turn<'_>) {
        if let Some(generation) = self.generations.get_mut(&old)
            && let Phase::Draining { kind: Drain::Handover { from }, .. } = generation.phase
        {
            let way = Way::Back { from, failed, failure: failure.clone() };
            generation.enter(Phase::Switching(way), turn.now);
            turn.effect(Effect::StopWatch { generation: old });
        }
        if let Some(moved) = self.ledger_to(failed).and_then(|ledger| ledger.moved.clone()) {
            self.dropped.retain(|address| !moved.left.contains(address));
        }
        self.say(What::RollingBack { from: failed, to: old, failure }, turn);
        turn.effect(Effect::Steer { service: self.config.name.clone(), generation: old, share: None });
        self.stop_generation(failed, StopReason::Failed, turn);
    }

    /// What the old generation had right after the switch.
    pub(crate) fn snapshot(&mut self, to: GenerationId, old: Option<DrainReport>, turn: &mut Turn<'_>) {
        let Some(ledger) = self.ledger_to_mut(to) else { return };
        if ledger.at_switch.is_some() {
            return;
        }
        ledger.at_switch = old;
        if matches!(ledger.outcome, Outcome::RolledBack(_)) {
            return; // what is counted is what the one has that was called off
        }
        let (Some(from), ledger) = (ledger.from, ledger.id) else { return };
        self.say(What::Counted { from, to, ledger, old }, turn);
    }

    /// What the observer sees.
    pub(crate) fn drain_report(&mut self, id: GenerationId, seen: DrainReport) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        match &mut generation.phase {
            Phase::Draining { kind: Drain::Parked, report, .. } => {
                *report = Some(seen);
                // There is no switch at which to count: what it has when nothing comes any more is what it had.
                if let Some(ledger) = self.ledger_from_mut(id) {
                    ledger.at_switch.get_or_insert(seen);
                }
            }
            Phase::Draining { kind: Drain::Handover { .. }, report, .. } => *report = Some(seen),
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Switching(_)
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => {}
        }
    }
}
