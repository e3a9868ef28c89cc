//! What is counted of each service from the notices of the world, for the status and the metrics. It begins anew with each daemon.

use stayput_model::Mono;
use stayput_model::event::{ExitStatus, GenerationId};
use stayput_model::ledger::{Ledger, LedgerId, Outcome};
use stayput_model::notice::{Notice, What};
use stayput_model::service::Service;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Ends within this time are counted together.
const LOOP_TIME: Duration = Duration::from_mins(2);
/// So many of them are a loop.
const LOOP: usize = 3;
/// Upper bounds of the handover times that are counted, in milliseconds.
pub(crate) const HANDOVER_BOUNDS: [u64; 10] = [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 60_000, 300_000];

/// Counts of one service.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Times that it ended by itself while it had the connections.
    pub(crate) crashes: u64,
    /// Starts that failed.
    pub(crate) failed_starts: u64,
    /// When it ended, or failed to start, by itself: the latest few.
    ends: VecDeque<Mono>,
    /// The last readiness check that was passed.
    pub(crate) ready: Option<(GenerationId, Mono, String)>,
    /// How the last generation ended that was to serve, and when (wall, in milliseconds).
    pub(crate) last_exit: Option<LastExit>,
    /// It is over by its own doing.
    pub(crate) ended: bool,
    /// Restarts that somebody asked for, by how they ended.
    pub(crate) switched: u64,
    pub(crate) rolled_back: u64,
    pub(crate) not_ready: u64,
    /// Sums over the ledgers of decided restarts.
    pub(crate) totals: Totals,
    /// Handover times (asked until switched) by the bounds, not cumulative; the last one is for what is longer.
    pub(crate) handovers: [u64; HANDOVER_BOUNDS.len() + 1],
    pub(crate) handover_sum: Duration,
    /// Ledgers from here on are not summed up yet.
    summed: Option<LedgerId>,
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastExit {
    pub(crate) generation: GenerationId,
    pub(crate) status: ExitStatus,
    pub(crate) at_ms: u64,
    /// It was asked to.
    pub(crate) stopped: bool,
}

/// Sums of what ledgers counted, and how many counted it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) drained: u64,
    pub(crate) cut: u64,
    pub(crate) idle_closed: u64,
    pub(crate) lost: u64,
    pub(crate) gap: Duration,
    pub(crate) listener_gaps: u64,
}

impl Tally {
    /// It keeps ending by itself.
    pub(crate) fn is_looping(&self, now: Mono) -> Option<usize> {
        let recent = self.ends.iter().filter(|at| now.since(**at) < LOOP_TIME).count();
        (recent >= LOOP).then_some(recent)
    }

    fn end(&mut self, now: Mono) {
        self.ends.push_back(now);
        while self.ends.len() > 64 {
            self.ends.pop_front();
        }
    }

    fn exit(&mut self, generation: GenerationId, status: ExitStatus, stopped: bool) {
        if self.last_exit.is_none_or(|last| last.generation <= generation) {
            self.last_exit = Some(LastExit { generation, status, at_ms: crate::events::wall_ms(), stopped });
        }
    }

    fn note(&mut self, what: &What, now: Mono) {
        match what {
            What::Spawned { .. } | What::Stopped { .. } => self.ended = false,
            What::Ready { generation, evidence, .. } => self.ready = Some((*generation, now, evidence.clone())),
            What::Alive { generation, .. } => {
                self.ready = Some((*generation, now, "its process lives and listens nowhere".to_owned()));
            }
            What::Crashed { generation, status, .. } => {
                self.crashes += 1;
                self.end(now);
                self.exit(*generation, *status, false);
            }
            What::NotReady { .. } => {
                self.failed_starts += 1;
                self.end(now);
            }
            What::Switched { from: Some(_), took: Some(took), .. } => {
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                let place = HANDOVER_BOUNDS.iter().position(|bound| ms <= *bound).unwrap_or(HANDOVER_BOUNDS.len());
                self.handovers[place] += 1;
                self.handover_sum = self.handover_sum.saturating_add(*took);
            }
            What::Gone { generation, status, stopped } => self.exit(*generation, *status, *stopped),
            What::Ended { .. } => self.ended = true,
            _ => {}
        }
    }

    /// Adds up the ledgers of a service that are decided and of which nothing more is to be counted.
    fn sum(&mut self, service: &Service) {
        let summed = self.summed;
        for ledger in service.ledgers.iter().filter(|ledger| summed.is_none_or(|summed| ledger.id > summed)) {
            if !is_final(ledger, service) {
                break;
            }
            self.summed = Some(ledger.id);
            if ledger.planned {
                match ledger.outcome {
                    Outcome::Settled | Outcome::Switched => self.switched += 1,
                    Outcome::RolledBack(_) => self.rolled_back += 1,
                    Outcome::NotReady(_) => self.not_ready += 1,
                    Outcome::Running | Outcome::Abandoned => {}
                }
            }
            self.totals.drained += u64::from(ledger.drained().unwrap_or(0));
            self.totals.cut += u64::from(ledger.cut.unwrap_or(0));
            self.totals.idle_closed += u64::from(ledger.idle_closed.unwrap_or(0));
            self.totals.lost += u64::from(ledger.lost.unwrap_or(0));
            self.totals.gap = self.totals.gap.saturating_add(ledger.gap.unwrap_or_default());
            self.totals.listener_gaps += u64::from(ledger.released);
        }
    }
}

/// Decided, and the generation that was replaced is gone.
fn is_final(ledger: &Ledger, service: &Service) -> bool {
    let replaced = ledger.from.is_some_and(|from| service.generations.contains_key(&from));
    match ledger.outcome {
        Outcome::Running | Outcome::Switched => false,
        Outcome::Settled => !replaced,
        // One that was called off finishes what it has, and that is counted.
        Outcome::RolledBack(_) => ledger.to.is_none_or(|to| !service.generations.contains_key(&to)),
        Outcome::NotReady(_) | Outcome::Abandoned => true,
    }
}

/// The counts of all services.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    services: BTreeMap<String, Tally>,
}

impl Tallies {
    /// Counts a notice.
    pub(crate) fn note(&mut self, notice: &Notice, now: Mono) {
        self.services.entry(notice.service.clone()).or_default().note(&notice.what, now);
    }

    /// Adds up what is decided, and forgets services that are no longer there.
    pub(crate) fn settle(&mut self, services: &BTreeMap<String, Service>) {
        self.services.retain(|name, _| services.contains_key(name));
        for (name, service) in services {
            self.services.entry(name.clone()).or_default().sum(service);
        }
    }

    /// The counts of a service, if there are any.
    pub(crate) fn of(&self, service: &str) -> Option<&Tally> {
        self.services.get(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash(tally: &mut Tally, second: u64) {
        let status = ExitStatus::Exited(1);
        tally.note(&What::Crashed { generation: GenerationId(second), status, served: Duration::ZERO }, at(second));
    }

    fn at(second: u64) -> Mono {
        Mono(second * 1_000_000_000)
    }

    #[test]
    fn three_ends_within_two_minutes_are_a_loop_and_it_is_forgotten() {
        let mut tally = Tally::default();
        crash(&mut tally, 1);
        crash(&mut tally, 2);
        assert_eq!(tally.is_looping(at(3)), None);
        crash(&mut tally, 60);
        assert_eq!(tally.is_looping(at(61)), Some(3));
        assert_eq!(tally.is_looping(at(200)), None);
        assert_eq!(tally.crashes, 3);
        assert_eq!(tally.last_exit.map(|last| last.generation), Some(GenerationId(60)));
    }

    #[test]
    fn handover_times_fall_into_their_bounds() {
        let mut tally = Tally::default();
        for ms in [5, 10, 11, 400_000] {
            let took = Some(Duration::from_millis(ms));
            let (from, to) = (Some(GenerationId(1)), GenerationId(2));
            tally.note(&What::Switched { from, to, ledger: None, soak: Duration::ZERO, took }, at(1));
        }
        assert_eq!((tally.handovers[0], tally.handovers[1], tally.handovers[10]), (2, 1, 1));
    }
}
