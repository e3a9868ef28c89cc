//! A new generation that gets a share of the new connections before it gets all: the switch in two steps, the second of which may be called
//! off. While it has its share the old generation serves, and is what everything goes back to at once.

use crate::event::{Effect, GenerationId};
use crate::generation::{Drain, Phase, Way};
use crate::ledger::{Canary, Failure, Outcome};
use crate::notice::{StopReason, What};
use crate::service::{Service, Turn};
use std::time::Duration;

impl Service {
    /// The generation that has a share of the new connections, or is about to get it.
    pub fn canary(&self) -> Option<GenerationId> {
        self.find(|generation| matches!(generation.phase, Phase::Switching(Way::Canary { .. })))
    }

    /// The generation that has its share by now.
    pub(crate) fn sharing(&self) -> Option<GenerationId> {
        self.find(|generation| matches!(generation.phase, Phase::Switching(Way::Canary { began: Some(_), .. })))
    }

    /// Whether a share of its connections can be given to a new generation: two have to be able to live side by side, on sockets that are in our
    /// hands. The reason if not, as the rest of a sentence that begins with its name.
    ///
    /// # Errors
    /// Why not.
    pub fn may_canary(&self) -> Result<(), &'static str> {
        let Some(serving) = self.serving() else { return Err("does not serve: there is nothing to compare a new generation with") };
        if self.is_task() {
            Err("is a task: it takes no connections")
        } else if !self.config.overlap {
            Err("has overlap = false: two generations of it cannot serve beside each other")
        } else if !self.generations[&serving].is_trusted() || !self.listeners.values().any(|listener| listener.owner == Some(serving)) {
            Err("has no listening socket that is held: its connections cannot be shared out")
        } else {
            Ok(())
        }
    }

    /// Replace the running generation, in two steps.
    pub(crate) fn start_canary(&mut self, share: u16, time: Option<Duration>, turn: &mut Turn<'_>) {
        let Some(serving) = self.serving().filter(|_| self.may_canary().is_ok() && !self.is_changing()) else { return };
        self.account(Some(serving), true, turn);
        if let Some(ledger) = self.open_ledger_mut() {
            ledger.canary = Some(Canary { share, time, began: None, ended: None });
        }
        self.replace(serving, turn);
    }

    /// It is ready: what it gets first, if that is not all.
    pub(crate) fn first_share(&self, id: GenerationId) -> Option<Canary> {
        let canary = self.ledger_to(id)?.canary.filter(|canary| canary.began.is_none())?;
        let listens = |id: GenerationId| self.listeners.values().any(|listener| listener.owner == Some(id));
        let serving = self.serving()?;
        (listens(id) && listens(serving)).then_some(canary)
    }

    /// It has its share.
    pub(crate) fn canary_began(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        if self.serving().is_none() {
            // There is nobody to share with any more.
            return self.promote(id, turn);
        }
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let Phase::Switching(Way::Canary { share, time, began: began @ None }) = &mut generation.phase else { return };
        *began = Some(turn.now);
        let (share, time) = (*share, *time);
        if let Some(canary) = self.ledger_to_mut(id).and_then(|ledger| ledger.canary.as_mut()) {
            canary.began = Some(turn.now);
        }
        self.say(What::Canary { generation: id, share, time }, turn);
    }

    fn canary_ended(&mut self, id: GenerationId, turn: &Turn<'_>) {
        if let Some(canary) = self.ledger_to_mut(id).and_then(|ledger| ledger.canary.as_mut()) {
            canary.ended = canary.began.map(|_| turn.now);
        }
    }

    /// It gets all new connections now.
    pub(crate) fn promote(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        self.canary_ended(id, turn);
        let Some(generation) = self.generations.get_mut(&id) else { return };
        generation.enter(Phase::Switching(Way::Forward), turn.now);
        turn.effect(Effect::Steer { service: self.config.name.clone(), generation: id, share: None });
    }

    /// Somebody has decided: all to it, or none.
    pub(crate) fn decide_canary(&mut self, switch: bool, turn: &mut Turn<'_>) {
        let Some(id) = self.canary() else { return };
        if switch {
            return self.promote(id, turn);
        }
        self.call_off(id, Failure::CalledOff, turn);
    }

    /// It gets no more connections, and lives.
    pub(crate) fn call_off(&mut self, id: GenerationId, failure: Failure, turn: &mut Turn<'_>) {
        let Some(serving) = self.serving() else { return };
        self.canary_ended(id, turn);
        // What it has it finishes, as well as it can.
        let within = self.config.drain;
        let kind = Drain::Handover { from: turn.now };
        let phase = Phase::Draining { kind, deadline: turn.now.plus(within), not_before: turn.now, report: None };
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.enter(phase, turn.now);
        }
        turn.effect(Effect::Steer { service: self.config.name.clone(), generation: serving, share: None });
        // Counted before the drain is watched: what it has now is what `drained` is measured against.
        turn.effect(Effect::Snapshot { from: id, to: id });
        turn.effect(Effect::Watch { generation: id, within });
        self.goes_back(id, serving, failure, turn);
        self.follow_up(turn);
    }

    /// It failed while it had its share. What it had accepted is lost with it.
    pub(crate) fn canary_failed(&mut self, id: GenerationId, failure: Failure, turn: &mut Turn<'_>) {
        self.canary_ended(id, turn);
        self.stop_generation(id, StopReason::Failed, turn);
        self.keep_serving(turn);
        match self.serving() {
            Some(serving) => self.goes_back(id, serving, failure, turn),
            None => return self.start_failed(id, &failure, turn),
        }
        self.follow_up(turn);
    }

    fn goes_back(&mut self, from: GenerationId, to: GenerationId, failure: Failure, turn: &mut Turn<'_>) {
        let ledger = self.ledger_to_mut(from).map(|ledger| {
            ledger.outcome = Outcome::RolledBack(failure.clone());
            ledger.id
        });
        self.say(What::RollingBack { from, to, failure }, turn);
        self.say(What::RolledBack { from, to, ledger }, turn);
    }
}
