//! The rules that hold after every step, whatever the event was.

use crate::event::{Effect, GenerationId};
use crate::generation::Phase;
use crate::service::{Service, Target, Turn};
use std::time::Duration;

/// How long workers of a successor may take to bind after its first has become ready.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// Most rounds of timers within one step.
const ROUNDS: usize = 64;

impl Service {
    /// Does what is due, and what always holds.
    pub(crate) fn run(&mut self, turn: &mut Turn<'_>) {
        self.run_timers(turn);
        self.settle(turn);
        // Times of zero are allowed: what a timer sets may be due at once. Each round ends a phase, so there are few; the bound is
        // against a mistake of ours, which must cost a wrong wait and not the whole brain.
        for _ in 0..ROUNDS {
            if self.next_deadline().is_none_or(|at| at > turn.now) {
                break;
            }
            self.run_timers(turn);
            self.settle(turn);
        }
    }

    /// Forgets and releases the dead that hold nothing, and keeps count of how long nobody has accepted.
    pub(crate) fn settle(&mut self, turn: &mut Turn<'_>) {
        let gone: Vec<GenerationId> = self
            .generations
            .values()
            .filter(|generation| matches!(generation.phase, Phase::Gone { .. }))
            .map(|generation| generation.id)
            .collect();
        let succeeded = self.serving();
        let planned = self.open_ledger().is_some_and(|ledger| ledger.planned);
        for id in gone {
            let (mut any, mut selected) = (false, false);
            for listener in self.listeners_of(id) {
                any = true;
                selected |= listener.selected;
            }
            if !any {
                self.forget(id, turn);
            } else if !selected && let Some(generation) = self.generations.get_mut(&id) {
                match &mut generation.phase {
                    // What waits on its sockets still goes to the workers of its successor that have yet to bind.
                    Phase::Gone { until } if succeeded > Some(id) => *until = (*until).min(turn.now.plus(TAKE_OVER)),
                    // It crashed, and nobody serves yet: whoever comes may have as many workers. (One that was to replace it anyway
                    // has sockets of its own.)
                    Phase::Gone { .. } if succeeded.is_none() && !planned => {}
                    // An older one has its ports again: what is left in its queues goes with it, counted.
                    _ => {
                        generation.enter(Phase::Releasing, turn.now);
                        turn.effect(Effect::Release { generation: id });
                    }
                }
            }
        }
        if self.target == Target::Down || self.is_served() {
            self.unserved = None;
        } else if self.holds() {
            self.unserved.get_or_insert(turn.now);
        }
        self.keep_schedule(turn);
        self.keep_looking(turn);
    }
}
