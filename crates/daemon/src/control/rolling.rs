//! Restarts of several services, one after the other: dependencies first, so many at a time, and no further after a failure.

use super::{Answers, failure};
use crate::reactor::Reactor;
use stayput_model::event::Event as WorldEvent;
use stayput_model::ledger::{Ledger, LedgerId, Outcome};
use stayput_model::service::{Plan, Service, Target};
use stayput_wire::{Answer, Event, Failure, FailureKind, Reply, RestartedService, RestartingService};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// What is done to each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Restart,
    Canary { share: u16, time: Option<Duration> },
    Rollback,
}

/// A restart of some services.
#[derive(Debug)]
pub(crate) struct Rolling {
    kind: Kind,
    queue: VecDeque<String>,
    parallel: usize,
    /// Under way; the ledger is the next that will be opened until it is known.
    running: Vec<(String, LedgerId)>,
    done: Vec<RestartedService>,
    failed: bool,
    /// Who waits for the end.
    answers: Option<Answers>,
}

impl Rolling {
    pub(super) fn new(kind: Kind, services: Vec<String>, parallel: usize, answers: Option<Answers>) -> Self {
        Self { kind, queue: services.into(), parallel, running: Vec::new(), done: Vec::new(), failed: false, answers }
    }

    /// Progress for who waits.
    pub(super) fn tell(&self, service: &str, event: &Event) {
        if let Some(answers) = &self.answers
            && self.running.iter().any(|(name, _)| name == service)
        {
            answers.send(Answer::Event(event.clone()));
        }
    }

    fn reply(&mut self) -> Reply {
        let services = std::mem::take(&mut self.done);
        Reply::Restarted { services, untouched: std::mem::take(&mut self.queue).into() }
    }
}

impl Reactor {
    /// Dependencies before what starts after them, by name otherwise.
    pub(super) fn in_order(&self, services: &[String]) -> Vec<String> {
        let after: BTreeMap<&str, BTreeSet<&str>> = services
            .iter()
            .filter_map(|name| self.world.services.get(name))
            .map(|service| (service.config.name.as_str(), service.config.after.iter().map(|after| after.service.as_str()).collect()))
            .collect();
        in_order(&after)
    }

    /// Whether a restart makes sense now.
    pub(super) fn may_restart(&self, name: &str) -> Result<(), Failure> {
        let service = &self.world.services[name];
        let open = service.open_ledger().is_some_and(|ledger| ledger.planned);
        if service.is_changing() && (open || service.serving().is_some()) {
            return Err(failure(FailureKind::Busy, format!("{name}: another restart has not switched yet")));
        }
        if let Plan::Hold { waiting } = &service.plan {
            let addresses: Vec<String> = waiting.keys().map(ToString::to_string).collect();
            let message = format!("{name}: it waits for {} and starts as soon as it can", addresses.join(", "));
            return Err(failure(FailureKind::Busy, message));
        }
        Ok(())
    }

    /// What a restart that has begun, or will, looks like.
    pub(super) fn restarting(&self, name: String) -> RestartingService {
        let rolling = self.rollings.iter().rev().find(|rolling| rolling.running.iter().any(|(running, _)| *running == name));
        let id = rolling.and_then(|rolling| rolling.running.iter().find(|(running, _)| *running == name)).map(|(_, id)| *id);
        let ledger = id.and_then(|id| self.ledger(&name, id));
        if let Some(ledger) = ledger {
            return RestartingService { name, from: ledger.from.map(|from| from.0), to: ledger.to.map(|to| to.0) };
        }
        let from = self.world.services.get(&name).and_then(Service::serving).map(|from| from.0);
        RestartingService { name, from, to: None }
    }

    fn ledger(&self, service: &str, id: LedgerId) -> Option<&Ledger> {
        self.world.services.get(service)?.ledgers.iter().find(|ledger| ledger.id == id)
    }

    /// The account that a service opened last.
    pub(super) fn newest_ledger(&self, service: &str) -> Option<LedgerId> {
        self.world.services.get(service)?.ledgers.back().map(|ledger| ledger.id)
    }

    /// Ends what is decided, and begins what is next.
    pub(super) fn roll(&mut self) {
        let mut index = 0;
        while index < self.rollings.len() {
            self.collect(index);
            while let Some(name) = self.next_of(index) {
                self.begin(index, name);
                self.collect(index);
            }
            let rolling = &self.rollings[index];
            let over = rolling.running.is_empty() && (rolling.queue.is_empty() || rolling.failed);
            if over {
                let mut rolling = self.rollings.remove(index);
                let reply = rolling.reply();
                if let Some(answers) = &rolling.answers {
                    answers.reply(reply);
                }
            } else {
                index += 1;
            }
        }
    }

    fn next_of(&mut self, index: usize) -> Option<String> {
        let ending = self.world.is_ending();
        self.rollings[index].failed |= ending;
        let rolling = &self.rollings[index];
        if rolling.failed || rolling.running.len() >= rolling.parallel {
            return None;
        }
        // Nobody before those that it starts after; in a circle the first has to begin.
        let ahead = |at: usize| {
            let after = self.world.services.get(&rolling.queue[at]).map(|service| &service.config.after);
            let waits = |name: &str| {
                rolling.running.iter().any(|(running, _)| running == name) || rolling.queue.iter().any(|queued| queued == name)
            };
            after.is_some_and(|after| after.iter().any(|after| waits(&after.service)))
        };
        let next = (0..rolling.queue.len()).find(|at| !ahead(*at));
        let next = next.or_else(|| rolling.running.is_empty().then_some(0))?;
        self.rollings[index].queue.remove(next)
    }

    fn begin(&mut self, index: usize, name: String) {
        if !self.world.services.contains_key(&name) {
            return;
        }
        if let Err(failure) = self.may_restart(&name) {
            let rolling = &mut self.rollings[index];
            rolling.failed = true;
            rolling.done.push(RestartedService { name, ledger: None, last_output: Vec::new(), problem: Some(failure.message) });
            return;
        }
        let before = self.world.services[&name].ledgers.back().map(|ledger| ledger.id);
        // The notices of the step belong to the answer, so it has to be there before; its ledger is the next one.
        let guess = self.world.next_ledger_id();
        self.rollings[index].running.push((name.clone(), guess));
        let service = name.clone();
        self.step(match self.rollings[index].kind {
            Kind::Restart => WorldEvent::Restart { service },
            Kind::Canary { share, time } => WorldEvent::Canary { service, share, time },
            Kind::Rollback => WorldEvent::Rollback { service },
        });
        let service = self.world.services.get(&name);
        let opened = service.and_then(|service| {
            let newest = service.ledgers.back().filter(|ledger| Some(ledger.id) != before);
            newest.or_else(|| service.open_ledger()).map(|ledger| ledger.id)
        });
        let rolling = &mut self.rollings[index];
        if let Some(id) = opened {
            if let Some(last) = rolling.running.last_mut() {
                last.1 = id;
            }
            return;
        }
        // Nothing to account for: a task was begun, or there is nothing to go back to.
        rolling.running.pop();
        let problem = match rolling.kind {
            Kind::Canary { .. } => Some("no generation of it can have a share of the connections now".to_owned()),
            // What is down was only configured.
            Kind::Restart | Kind::Rollback => None,
        };
        rolling.failed |= problem.is_some();
        rolling.done.push(RestartedService { name, ledger: None, last_output: Vec::new(), problem });
    }

    /// Takes those out that are decided.
    fn collect(&mut self, index: usize) {
        let running = std::mem::take(&mut self.rollings[index].running);
        let (over, running): (Vec<_>, Vec<_>) = running.into_iter().partition(|(name, id)| self.is_decided(name, *id));
        self.rollings[index].running = running;
        for (name, id) in over {
            let service = self.restarted(name, id);
            let rolling = &mut self.rollings[index];
            rolling.failed |= service.problem.is_some() || service.ledger.as_ref().is_none_or(|ledger| ledger.reason.is_some());
            rolling.done.push(service);
        }
    }

    pub(super) fn is_decided(&self, name: &str, id: LedgerId) -> bool {
        let Some(service) = self.world.services.get(name) else { return true };
        let Some(ledger) = self.ledger(name, id) else { return true };
        match ledger.outcome {
            Outcome::Settled => true,
            Outcome::RolledBack(_) | Outcome::NotReady(_) | Outcome::Abandoned => ledger.to.is_none_or(|to| self.has_said_all(to)),
            // It has its share, and what becomes of it is for somebody to say.
            Outcome::Running if ledger.canary.is_some_and(|canary| canary.time.is_none() && canary.began.is_some()) => true,
            // It was stopped: nothing more will come of it.
            Outcome::Running | Outcome::Switched => service.target == Target::Down && service.generations.is_empty(),
        }
    }

    pub(super) fn restarted(&self, name: String, id: LedgerId) -> RestartedService {
        let ledger = self.ledger(&name, id);
        let wire = ledger.map(crate::status::ledger);
        let failed = wire.as_ref().is_some_and(|wire| wire.reason.is_some());
        let last_output = ledger.and_then(|ledger| ledger.to).filter(|_| failed).map(|to| self.last_output(to)).unwrap_or_default();
        let problem = wire.is_none().then(|| "it was stopped before the restart was decided".to_owned());
        RestartedService { name, ledger: wire.map(Box::new), last_output, problem }
    }

    /// Nothing of a service's start is left that could end by itself: it had its time.
    pub(super) fn is_overdue(&self, name: &str) -> bool {
        use stayput_model::generation::Phase;
        let Some(service) = self.world.services.get(name) else { return true };
        let given_up = |phase: &Phase| matches!(phase, Phase::Starting { deadline: None, .. });
        service.generations.values().any(|generation| given_up(&generation.phase))
            || (service.target == Target::Up && service.plan == Plan::Rest && service.generations.is_empty())
    }
}

/// A topological order; what is in a circle comes last, by name.
fn in_order(after: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let mut order: Vec<String> = Vec::with_capacity(after.len());
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    let mut waiting: Vec<&str> = after.keys().copied().collect();
    while !waiting.is_empty() {
        let is_next = |name: &&str| after[*name].iter().all(|other| placed.contains(other) || !after.contains_key(other));
        let (mut next, rest): (Vec<&str>, Vec<&str>) = waiting.iter().partition(|name| is_next(name));
        waiting = rest;
        if next.is_empty() {
            next = std::mem::take(&mut waiting);
        }
        placed.extend(&next);
        order.extend(next.into_iter().map(str::to_owned));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_circles_end() {
        let order = |edges: &[(&'static str, &[&'static str])]| {
            let after = edges.iter().map(|(name, after)| (*name, after.iter().copied().collect())).collect();
            in_order(&after).join(" ")
        };
        assert_eq!(order(&[("api", &["db"]), ("db", &[]), ("web", &["api", "elsewhere"])]), "db api web");
        assert_eq!(order(&[("b", &[]), ("a", &[])]), "a b");
        assert_eq!(order(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]), "c a b");
        assert_eq!(order(&[]), "");
    }
}
