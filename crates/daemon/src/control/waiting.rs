//! Requests whose reply follows their effect: who waits for what, and whether it has come.
//!
//! What was awaited is looked for in the world after each step, and not in the notices of the step: a notice that is left out somewhere
//! would leave a client waiting for ever. Notices are only what progress is told by.

use super::Answers;
use crate::perform::LAST_WORDS;
use crate::reactor::{Message, Reactor};
use crate::say;
use stayput_model::Notice;
use stayput_model::event::{ExitStatus, GenerationId};
use stayput_model::ledger::LedgerId;
use stayput_model::notice::What;
use stayput_model::service::Target;
use stayput_wire::plan::PlanReport;
use stayput_wire::{Answer, Event, Measured, Reply, RestartedService, StartedService, State, StoppedService};
use std::time::Duration;

/// Output lines in a failure report.
const LAST_OUTPUT: usize = 20;

/// A request whose reply follows its effect.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(super) what: Awaited,
    pub(super) answers: Answers,
}

#[derive(Debug)]
pub(super) enum Awaited {
    /// That these are down.
    Stop { services: Vec<String> },
    /// That these are started, or cannot be for now.
    Start { services: Vec<String> },
    /// That these restarts are decided and what was added is started, or cannot be for now.
    Reload { plan: Box<PlanReport>, restarts: Vec<(String, LedgerId)>, added: Vec<String> },
}

impl Waiter {
    fn concerns(&self, service: &String) -> bool {
        match &self.what {
            Awaited::Stop { services } | Awaited::Start { services } => services.contains(service),
            Awaited::Reload { plan, .. } => plan.changes.iter().any(|change| change.service == *service),
        }
    }
}

/// A reload is being applied.
pub(crate) fn are_reloading(reactor: &Reactor) -> bool {
    reactor.waiters.iter().any(|waiter| matches!(waiter.what, Awaited::Reload { .. }))
}

impl Reactor {
    /// Tells those who wait what happened.
    pub(crate) fn tell_waiters(&mut self, notice: &Notice, more: &str) {
        if self.waiters.is_empty() && self.rollings.is_empty() {
            return;
        }
        let Some(event) = self.event(notice, more) else { return };
        for waiter in self.waiters.iter().filter(|waiter| waiter.concerns(&notice.service)) {
            waiter.answers.send(Answer::Event(event.clone()));
        }
        for rolling in &self.rollings {
            rolling.tell(&notice.service, &event);
        }
    }

    /// Answers those whose wait is over, and goes on with what is restarted one after the other.
    pub(crate) fn answer_waiters(&mut self) {
        self.roll();
        if self.waiters.is_empty() {
            return;
        }
        self.waiters.retain(|waiter| !waiter.answers.is_closed());
        let (over, waiting) = std::mem::take(&mut self.waiters).into_iter().partition(|waiter: &Waiter| match &waiter.what {
            Awaited::Stop { services } => services.iter().all(|name| self.is_quiet(name)),
            Awaited::Start { services } => self.are_started(services),
            Awaited::Reload { restarts, added, .. } => {
                restarts.iter().all(|(name, id)| self.is_decided(name, *id)) && self.are_started(added)
            }
        });
        self.waiters = waiting;
        for waiter in over {
            waiter.answers.reply(match waiter.what {
                Awaited::Stop { services } => self.stopped(&services),
                Awaited::Reload { plan, restarts, added } => self.reloaded(plan, restarts, &added),
                Awaited::Start { services } => Reply::Started { services: services.iter().filter_map(|name| self.started(name)).collect() },
            });
        }
    }

    /// How it went: what was restarted with its account, and what was added and is not started.
    fn reloaded(&mut self, plan: Box<PlanReport>, restarts: Vec<(String, LedgerId)>, added: &[String]) -> Reply {
        let mut services: Vec<RestartedService> = restarts.into_iter().map(|(name, id)| self.restarted(name, id)).collect();
        for service in added.iter().filter_map(|name| self.started(name)).filter(|service| !service.started) {
            let problem = Some(format!("it is not started: {}", service.detail));
            services.push(RestartedService { name: service.name, ledger: None, last_output: service.last_output, problem });
        }
        Reply::Reloaded { plan, services }
    }

    fn is_quiet(&self, name: &str) -> bool {
        self.world.services.get(name).is_none_or(|service| service.target == Target::Down && service.generations.is_empty())
    }

    fn stopped(&self, services: &[String]) -> Reply {
        let services = services.iter().filter_map(|name| self.world.services.get(name)).map(|service| {
            let status = service.last_exit.map(|(_, status)| status);
            StoppedService {
                name: service.config.name.clone(),
                ended: status.map_or_else(|| "never ran".to_owned(), say::ended),
                status: status.map_or(0, ExitStatus::code),
            }
        });
        Reply::Stopped { services: services.collect() }
    }

    /// Each of them is started, or something speaks against it that does not pass by itself soon.
    pub(crate) fn are_started(&self, services: &[String]) -> bool {
        services.iter().all(|name| match self.state_of(name) {
            // Under way: its own time limits end it.
            Some(State::Starting | State::Restarting | State::Handover | State::Stopping) => self.is_overdue(name),
            Some(State::WaitingForPort) => !self.world.is_given_way(name),
            // It starts as soon as the others have come so far; they will not if they are stuck.
            Some(State::WaitingFor) => self.is_stuck(name, 0),
            Some(_) => self.newest(name).is_none_or(|newest| self.has_said_all(newest)),
            None => true,
        })
    }

    /// What it starts after does not come, for now.
    fn is_stuck(&self, name: &str, depth: usize) -> bool {
        const DEEPEST: usize = 64;
        let Some(service) = self.world.services.get(name) else { return false };
        let stayput_model::service::Plan::After { waiting } = &service.plan else { return false };
        waiting.iter().any(|after| match self.state_of(&after.service) {
            Some(State::WaitingFor) => depth < DEEPEST && self.is_stuck(&after.service, depth + 1),
            Some(State::Starting | State::Restarting | State::Handover) => self.is_overdue(&after.service),
            // What waits for the end of a task waits as long as the task works.
            Some(State::Working | State::Running | State::Soaking | State::Stopping) => false,
            Some(_) | None => true,
        })
    }

    /// How a start that was waited for stands.
    pub(super) fn started(&mut self, name: &str) -> Option<StartedService> {
        let state = self.state_of(name)?;
        let detail = self.detail_of(name);
        let started = matches!(
            state,
            State::Running | State::Soaking | State::Restarting | State::Working | State::Scheduled | State::Done | State::Disabled
        );
        let last_output = if started { Vec::new() } else { self.newest(name).map(|id| self.last_output(id)).unwrap_or_default() };
        Some(StartedService { name: name.to_owned(), started, state, detail, last_output })
    }

    /// The main process of a generation has ended: what it wrote last is still on its way to us. Who waits for an answer gets it with that, but does
    /// not wait for ever.
    pub(crate) fn await_last_words(&mut self, generation: GenerationId) {
        let nobody_waits = self.waiters.is_empty() && self.rollings.is_empty();
        let Some(output) = self.outputs.get_mut(&generation) else { return };
        if nobody_waits {
            output.given_up = true;
            return;
        }
        let to = self.to.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(LAST_WORDS).await;
            // The reactor is gone only when the daemon ends.
            let _ = to.send(Message::OutputGivenUp(generation));
        });
    }

    fn newest(&self, name: &str) -> Option<GenerationId> {
        let service = self.world.services.get(name)?;
        service.generations.keys().next_back().copied().or_else(|| service.last_exit.map(|(id, _)| id))
    }

    /// A stream of its output is at its end.
    pub(crate) fn output_ended(&mut self, generation: GenerationId) {
        if let Some(output) = self.outputs.get_mut(&generation) {
            output.open = output.open.saturating_sub(1);
        }
    }

    /// A generation that runs may say more at any time; of one that has ended we have all, or as much as is waited for.
    pub(super) fn has_said_all(&self, generation: GenerationId) -> bool {
        let service = self.world.service_of(generation);
        let runs = service.is_some_and(|service| service.generations.get(&generation).is_some_and(|it| it.main.status().is_none()));
        runs || self.outputs.get(&generation).is_none_or(|output| output.open == 0 || output.given_up)
    }

    /// The last lines that a generation wrote.
    pub(super) fn last_output(&self, generation: GenerationId) -> Vec<String> {
        self.outputs.get(&generation).map(|output| output.recent.borrow().last(LAST_OUTPUT)).unwrap_or_default()
    }

    /// A notice in the words of the wire; `None`: nothing that belongs to the progress of a request.
    fn event(&self, notice: &Notice, more: &str) -> Option<Event> {
        let service = notice.service.clone();
        let id = |generation: GenerationId| generation.0;
        Some(match &notice.what {
            What::PortTaken { .. }
            | What::HandingOver { .. }
            | What::Unequal { .. }
            | What::Moved { .. }
            | What::BackingOff { .. }
            | What::WaitsFor { .. }
            | What::GaveUp { .. } => {
                let (_, detail) = say::words(&notice.what)?;
                Event::Waiting { service, detail: format!("{detail}{more}") }
            }
            What::Spawned { generation, pid, from, .. } => Event::Starting { service, from: from.map(id), to: id(*generation), pid: *pid },
            What::Listening { generation, address, .. } => {
                Event::Listening { service, generation: id(*generation), address: address.to_string() }
            }
            What::Ready { generation, after, .. } => Event::Ready { service, generation: id(*generation), after_ms: milliseconds(*after) },
            What::Switched { from: None, to, soak, .. } => {
                Event::Switched { service, from: None, to: id(*to), soak_ms: milliseconds(*soak), draining: Measured::Count(0) }
            }
            // With its count, which follows at once.
            What::Counted { from, to, old, .. } => Event::Switched {
                service,
                from: Some(id(*from)),
                to: id(*to),
                soak_ms: self.world.services.get(&notice.service).map_or(0, |service| milliseconds(service.config.soak)),
                draining: old.map(|old| u64::from(old.open)).into(),
            },
            What::Canary { generation, share, time } => {
                Event::Canary { service, generation: id(*generation), permille: *share, for_ms: time.map(milliseconds) }
            }
            What::NotReady { generation: Some(generation), failure, .. } => {
                Event::NotReady { service, generation: id(*generation), reason: say::reason(failure) }
            }
            What::RollingBack { from, to, failure } => {
                Event::RolledBack { service, from: id(*from), to: id(*to), reason: say::reason(failure) }
            }
            What::StopSignal { generation, signal, grace, .. } => Event::StopSignal {
                service,
                generation: id(*generation),
                signal: say::signal_name(*signal),
                grace_ms: milliseconds(*grace),
            },
            What::Gone { generation, status, stopped } => {
                let how = if *stopped { ", as asked" } else { "" };
                Event::Exited { service, generation: id(*generation), ended: format!("{}{how}", say::ended(*status)) }
            }
            What::Switched { .. }
            | What::Untrapped { .. }
            | What::BindRefused { .. }
            | What::Held { .. }
            | What::HoldRefused { .. }
            | What::Overdue { .. }
            | What::Settled { .. }
            | What::NotReady { generation: None, .. }
            | What::RolledBack { .. }
            | What::Crashed { .. }
            | What::WentToBackground { .. }
            | What::RestartQueued
            | What::Killed { .. }
            | What::Lost { .. }
            | What::HoldOver { .. }
            | What::SteerFailed { .. }
            | What::Alive { .. }
            | What::Completed { .. }
            | What::TaskFailed { .. }
            | What::RunSkipped { .. }
            | What::Unhealthy { .. }
            | What::Healthy { .. }
            | What::FilesChanged { .. }
            | What::Added
            | What::Removed
            | What::Reconfigured { .. }
            | What::Reverted
            | What::GaveWay { .. }
            | What::Ended { .. }
            | What::Stopped { .. } => return None,
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
