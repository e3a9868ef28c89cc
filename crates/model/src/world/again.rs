//! How the next generation comes to be asked for: a restart, a start that failed, a crash; beside the old one, or after it.

use crate::config::{Mode, RestartPolicy};
use crate::event::{Effect, ExitStatus, GenerationId};
use crate::generation::{Drain, Generation, Phase, Trap, Way};
use crate::ledger::{Failure, Outcome, Unequal};
use crate::notice::{StopReason, What};
use crate::service::{EADDRINUSE, Plan, Service, Target, Turn};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// What was accepted right before may still have its request on the way, and nobody can tell it from one that never brings any.
const PARKED_FRESH: Duration = Duration::from_millis(100);
/// Longest drain of busy connections in a restart without overlap: everybody else waits meanwhile.
const PARKED_DRAIN: Duration = Duration::from_secs(5);

impl Service {
    /// A generation failed before it served.
    pub(crate) fn start_failed(&mut self, id: GenerationId, failure: &Failure, turn: &mut Turn<'_>) {
        let serving = self.serving();
        let ledger = self.ledger_to(id).map(|ledger| ledger.id);
        if let Some(serving) = serving.filter(|_| self.target == Target::Up && self.config.overlap)
            && let Some(unequal) = self.unequal(id, serving, failure)
        {
            if let Some(ledger) = self.ledger_to_mut(id) {
                ledger.unequal = Some(unequal);
            }
            self.say(What::Unequal { generation: id, serving, ledger, unequal }, turn);
            return self.park(true, turn);
        }
        // A crash has to be got over, however many tries that takes; what somebody asked for has failed.
        let close = serving.is_some() || self.open_ledger().is_some_and(|ledger| ledger.planned);
        if close && let Some(ledger) = self.ledger_to_mut(id).filter(|ledger| ledger.outcome == Outcome::Running) {
            ledger.outcome = Outcome::NotReady(failure.clone());
        }
        self.say(What::NotReady { generation: Some(id), serving, ledger, failure: failure.clone() }, turn);
        if self.target == Target::Down {
            return;
        }
        if serving.is_some() || self.going_back().is_some() {
            self.follow_up(turn);
        } else {
            self.recover(Some(failure), Duration::ZERO, turn);
        }
    }

    /// A restart that was asked for meanwhile.
    pub(crate) fn follow_up(&mut self, turn: &mut Turn<'_>) {
        if std::mem::take(&mut self.again) {
            self.restart(turn);
        }
    }

    /// Nobody serves and nobody is about to: starts the next one, now or later, or gives up.
    pub(crate) fn recover(&mut self, failure: Option<&Failure>, served: Duration, turn: &mut Turn<'_>) {
        let status = match failure {
            None => self.last_exit.map(|(_, status)| status),
            Some(Failure::Died { status, .. }) => Some(*status),
            Some(Failure::Exec(_)) if !self.was_ready => {
                // It never ran: trying again would run nothing again.
                return self.give_up_run(turn);
            }
            Some(_) => None,
        };
        if std::mem::take(&mut self.again) {
            self.account(None, true, turn);
            self.begin_again(turn);
            return;
        }
        if let Some(Failure::Died { refused, .. }) = failure {
            let taken: BTreeMap<SocketAddr, bool> = refused
                .iter()
                .filter(|(address, errno)| *errno == EADDRINUSE && !self.tried.contains(address))
                .map(|(address, _)| (*address, false))
                .collect();
            if !taken.is_empty() {
                // A taken port is no failure of the service: it waits, and burns no retry.
                self.tried.extend(taken.keys());
                return self.hold(taken, turn);
            }
        }
        let again = match self.config.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => status != Some(ExitStatus::Exited(0)),
            RestartPolicy::Never => false,
        };
        if !again {
            return self.give_up_run(turn);
        }
        self.start_later(served, turn);
    }

    /// Nothing is tried again; a task that has a schedule still has its next time.
    fn give_up_run(&mut self, turn: &mut Turn<'_>) {
        if !self.is_scheduled() {
            self.end(turn);
        }
    }

    /// Starts the next one, now or later, unless there were too many.
    pub(crate) fn start_later(&mut self, served: Duration, turn: &mut Turn<'_>) {
        if let Some(limit) = self.config.start_limit
            && self.recent.len() >= limit.starts as usize
            && self.recent.front().is_some_and(|first| turn.now.since(*first) < limit.within)
        {
            let status = self.last_exit.map(|(_, status)| status);
            self.say(What::GaveUp { starts: limit.starts, within: limit.within, status }, turn);
            self.plan = Plan::GaveUp;
            // `run` has nothing but this service: it ends with it.
            if turn.mode == Mode::Run {
                self.end(turn);
            }
            return;
        }
        let wait = self.backoff.after_run(served);
        if wait.is_zero() {
            self.spawn(turn);
            return;
        }
        self.plan = Plan::BackOff { until: turn.now.plus(wait) };
        self.say(What::BackingOff { wait, failures: self.backoff.failures() }, turn);
    }

    /// Somebody asked for a start while none serves.
    fn begin_again(&mut self, turn: &mut Turn<'_>) {
        self.backoff.reset();
        self.recent.clear();
        self.tried.clear();
        self.spawn(turn);
    }

    /// Replace the running generation.
    pub(crate) fn restart(&mut self, turn: &mut Turn<'_>) {
        if self.target == Target::Down {
            self.account(None, true, turn);
            return if self.is_scheduled() {
                self.start(turn);
                self.run_task(turn);
            } else {
                self.start(turn);
            };
        }
        if self.is_task() {
            return self.rerun(turn);
        }
        if let Some(id) = self.incoming().filter(|_| self.serving().is_none())
            && matches!(self.generations[&id].phase, Phase::Starting { deadline: None, .. })
        {
            // It is overdue, and nobody is better off if it goes on.
            self.again = true;
            return self.fail_start(id, &Failure::Superseded, turn);
        }
        if self.is_changing() {
            if !std::mem::replace(&mut self.again, true) {
                self.say(What::RestartQueued, turn);
            }
            return;
        }
        if let Some(serving) = self.serving() {
            self.account(Some(serving), true, turn);
            return self.replace(serving, turn);
        }
        match self.plan {
            Plan::Rest | Plan::BackOff { .. } | Plan::GaveUp => {
                self.account(None, true, turn);
                self.begin_again(turn);
            }
            // Held: it starts as soon as it can, which is all that a restart could do.
            Plan::Hold { .. } | Plan::After { .. } | Plan::Park { .. } | Plan::Succeed { .. } => {}
        }
    }

    pub(crate) fn replace(&mut self, serving: GenerationId, turn: &mut Turn<'_>) {
        let trapped = matches!(self.generations[&serving].trap, Trap::Active);
        if self.config.overlap && trapped {
            self.spawn(turn);
        } else if trapped {
            self.park(false, turn);
        } else {
            // Its sockets are not in our hands: it has to go before the next can bind.
            self.say(What::HandingOver { from: serving, parked: false }, turn);
            self.plan = Plan::Succeed { after: serving };
            self.stop_generation(serving, StopReason::HandingOver, turn);
        }
    }

    fn park(&mut self, elsewhere: bool, turn: &mut Turn<'_>) {
        self.plan = Plan::Park { elsewhere };
        turn.effect(Effect::Park { service: self.config.name.clone(), elsewhere });
    }

    /// A generation failed because it wanted a port of the serving one on another address, which cannot be had beside it: what they are.
    /// One that listened beside it as well (to see whether the port is free elsewhere) failed for another reason.
    fn unequal(&self, id: GenerationId, serving: GenerationId, failure: &Failure) -> Option<Unequal> {
        let refused = match failure {
            Failure::Died { refused, .. } => refused,
            Failure::TimedOut { listens: false, .. } => &self.generations.get(&id)?.refused,
            _ => return None,
        };
        let theirs = || self.listeners_of(serving);
        if self.listeners_of(id).any(|ours| theirs().any(|one| one.address == ours.address)) {
            return None;
        }
        refused.iter().filter(|(_, errno)| *errno == EADDRINUSE).find_map(|(new, _)| {
            let old = theirs().find(|one| one.address.port() == new.port() && one.address != *new)?.address;
            Some(Unequal { old, new: *new })
        })
    }

    pub(crate) fn parked(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.plan, Plan::Park { .. }) {
            return;
        }
        for listener in self.listeners.values_mut().filter(|listener| listener.owner.is_some()) {
            listener.selected = false;
        }
        let Some(serving) = self.serving() else {
            // It crashed meanwhile; its successor finds the parked sockets.
            self.spawn(turn);
            return;
        };
        let within = self.config.drain.min(PARKED_DRAIN);
        let deadline = turn.now.plus(within);
        if let Some(generation) = self.generations.get_mut(&serving) {
            let not_before = turn.now.plus(PARKED_FRESH.min(within));
            generation.enter(Phase::Draining { kind: Drain::Parked, deadline, not_before, report: None }, turn.now);
        }
        self.plan = Plan::Succeed { after: serving };
        self.say(What::HandingOver { from: serving, parked: true }, turn);
        turn.effect(Effect::Watch { generation: serving, within });
    }

    pub(crate) fn park_failed(&mut self, what: String, turn: &mut Turn<'_>) {
        if !matches!(self.plan, Plan::Park { .. }) {
            return;
        }
        self.plan = Plan::Rest;
        let failure = Failure::Park(what);
        let serving = self.serving();
        let ledger = self.open_ledger_mut().map(|ledger| {
            ledger.outcome = Outcome::NotReady(failure.clone());
            ledger.id
        });
        self.say(What::NotReady { generation: None, serving, ledger, failure }, turn);
        self.follow_up(turn);
    }

    /// Stops a generation that failed before it served; its start has failed.
    pub(crate) fn fail_start(&mut self, id: GenerationId, failure: &Failure, turn: &mut Turn<'_>) {
        let phase = self.generations.get(&id).map(|generation| &generation.phase);
        if matches!(phase, Some(Phase::Switching(Way::Canary { began: Some(_), .. }))) {
            return self.canary_failed(id, failure.clone(), turn);
        }
        let steered = matches!(phase, Some(Phase::Switching(_)));
        self.stop_generation(id, StopReason::NotReady, turn);
        if steered {
            self.keep_serving(turn);
        }
        self.start_failed(id, failure, turn);
    }

    /// The connections were about to go to a generation that failed: they stay where they were.
    pub(crate) fn keep_serving(&mut self, turn: &mut Turn<'_>) {
        if let Some(serving) = self.serving() {
            turn.effect(Effect::Steer { service: self.config.name.clone(), generation: serving, share: None });
        }
    }

    /// Why it died, with the binds it was refused.
    pub(crate) fn death(&self, id: GenerationId, status: ExitStatus) -> Failure {
        let refused = self.generations.get(&id).map(|generation| generation.refused.clone()).unwrap_or_default();
        Failure::Died { status, refused }
    }

    /// Its time to become ready is over.
    pub(crate) fn ready_timeout(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let listens = self.listeners.values().any(|listener| listener.owner == Some(id));
        let serving = self.serving().is_some();
        let after = self.config.ready_timeout;
        let Some(Generation { phase: Phase::Starting { deadline, last, .. }, .. }) = self.generations.get_mut(&id) else { return };
        *deadline = None;
        let failure = Failure::TimedOut { after, listens, last: last.clone() };
        if serving {
            self.fail_start(id, &failure, turn);
        } else {
            // There is nothing to go back to. To kill a slow starter again and again is the restart loop that we are here to end.
            self.say(What::Overdue { generation: id, failure }, turn);
        }
    }
}
