//! What the world wants, done: requests to the keeper, tasks, lines.

use crate::control;
use crate::drain;
use crate::events::News;
use crate::link::Asked;
use crate::logs::Sink;
use crate::reactor::{Reactor, now};
use crate::readiness::{self, Check, Probe};
use crate::say;
use crate::translate::{self, to_keeper};
use stayput_keeper::protocol::{Request, Scope};
use stayput_model::config::Readiness;
use stayput_model::event::{Effect, Event, GenerationId};
use stayput_model::ledger::Failure;
use stayput_model::notice::{Notice, What};
use stayput_model::service::Service;
use std::rc::Rc;
use std::time::Duration;

/// How long the end waits for the last output and the last answers.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(300);

impl Reactor {
    /// Does it, and returns what is known at once.
    pub(crate) fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Hold { service, address } => {
                self.link.ask(Request::Hold { service: service.clone(), address }, Asked::Hold(service, address));
            }
            Effect::Unhold { service, address } => {
                self.link.ask(Request::Unhold { service, address }, Asked::Other("the port could not be released"));
            }
            Effect::Spawn { service, generation } => {
                let config = &self.world.services.get(&service)?.config;
                let spec = translate::spawn_spec(config, &self.world.env, generation);
                self.link.ask(Request::Spawn(Box::new(spec)), Asked::Spawn(to_keeper(generation)));
            }
            Effect::Steer { service, generation, share } => {
                let generation = to_keeper(generation);
                self.link.ask(Request::Steer { service, generation, share }, Asked::Steer(generation));
            }
            Effect::Park { service, elsewhere } => {
                self.link.ask(Request::Park { service: service.clone(), elsewhere }, Asked::Park(service));
            }
            // ESRCH is the usual failure: it is gone already, and that is told on its own.
            Effect::Signal { generation, signal, scope } => {
                let request = Request::Signal { generation: to_keeper(generation), signal, scope: translate::scope(scope) };
                self.link.ask(request, Asked::Whatever);
            }
            Effect::Release { generation } => {
                self.link.ask(Request::Release { generation: to_keeper(generation) }, Asked::Release(to_keeper(generation)));
            }
            Effect::ReleaseService { service } => {
                let ends = self.world.is_ending();
                self.link.ask(Request::ReleaseService { service, ends }, Asked::Other("the ports could not be released"));
            }
            Effect::Forget { generation } => self.forget(generation),
            Effect::Probe { generation } => self.probe(generation),
            Effect::StopProbe { generation } => self.stop_probe(generation),
            Effect::Snapshot { from, to } => {
                let question = self.question(from)?;
                // At once, not in a task: the count is of this moment.
                let old = self.observer.as_mut().and_then(|observer| observer.look(&question, true).ok());
                return Some(Event::Snapshot { to, old });
            }
            Effect::Watch { generation, within } => {
                let question = self.question(generation)?;
                let task = tokio::task::spawn_local(drain::watch(question, within, self.to.clone()));
                if let Some(before) = self.watches.insert(generation, task.abort_handle()) {
                    before.abort();
                }
            }
            Effect::StopWatch { generation } => {
                if let Some(task) = self.watches.remove(&generation) {
                    task.abort();
                }
            }
            Effect::Schedule { service, cron, after_ms, expected_ms } => {
                return Some(self.schedule(service, &cron, after_ms, expected_ms));
            }
            Effect::Unschedule { service } => {
                if let Some(schedules) = &self.schedules {
                    schedules.remove(&service);
                }
            }
            Effect::CheckHealth { generation } => self.start_health(generation),
            Effect::StopHealth { generation } => self.stop_health(generation),
            Effect::WatchFiles { service } => self.watch_files(&service),
            Effect::UnwatchFiles { service } => {
                if let Some(watcher) = &self.watcher {
                    watcher.remove(&service);
                }
            }
            Effect::Say(notice) => self.say(&notice),
            Effect::Exit { status } => self.exit(status),
        }
        None
    }

    fn forget(&mut self, generation: GenerationId) {
        self.stop_probe(generation);
        if let Some(task) = self.watches.remove(&generation) {
            task.abort();
        }
        if let Some(output) = self.outputs.get(&generation)
            && let Some(notify) = &output.notify
        {
            notify.abort();
        }
        // The readers end by themselves at the end of the stream; the last lines of the newest few stay for those who ask.
        while self.outputs.len() > KEPT_OUTPUTS {
            let Some(oldest) = self.outputs.keys().copied().find(|id| self.world.service_of(*id).is_none()) else { break };
            self.outputs.remove(&oldest);
        }
        self.link.ask(Request::Forget { generation: to_keeper(generation) }, Asked::Whatever);
    }

    /// Starts the readiness check (anew), with the listeners of now.
    fn probe(&mut self, generation: GenerationId) {
        let Some(service) = self.world.service_of(generation) else { return };
        let check = match &service.config.readiness {
            Readiness::Accept => Check::Accept,
            Readiness::Http { path, host } => Check::Http { path: path.clone(), host: host.clone() },
            // They say it by themselves: notify and output are read anyway.
            Readiness::Notify | Readiness::Log { .. } => return,
        };
        let listeners: Vec<_> = service
            .listeners
            .values()
            .filter(|listener| listener.owner == Some(generation))
            .map(|listener| (listener.address, listener.selected))
            .collect();
        if let Some(before) = self.probes.remove(&generation) {
            before.abort();
        }
        if listeners.is_empty() {
            return;
        }
        let probe = Probe { generation: to_keeper(generation), listeners, check };
        let task = tokio::task::spawn_local(readiness::run(probe, Rc::clone(&self.link), self.to.clone()));
        self.probes.insert(generation, task.abort_handle());
    }

    fn stop_probe(&mut self, generation: GenerationId) {
        if let Some(task) = self.probes.remove(&generation) {
            task.abort();
            let request = Request::Route { generation: to_keeper(generation), source_port: None };
            self.link.ask(request, Asked::Whatever);
        }
    }

    fn say(&mut self, notice: &Notice) {
        let more = match &notice.what {
            What::PortTaken { address } => {
                let holder = self.observer.as_mut().and_then(|observer| observer.holder(*address));
                holder.map_or_else(String::new, |holder| format!(" by {holder}"))
            }
            What::NotReady { generation: Some(failed), serving: Some(_), failure: Failure::Died { .. }, .. } => self.clash(*failed),
            _ => String::new(),
        };
        if let Some(line) = say::notice(notice, &more, self.world.report) {
            self.console.line(&line);
        }
        self.tallies.note(notice, now());
        self.record(notice, &more);
        self.tell_waiters(notice, &more);
    }

    /// Keeps it for those who follow the events.
    fn record(&self, notice: &Notice, more: &str) {
        let Some((mark, text)) = say::words(&notice.what) else { return };
        let (kind, facts) = say::facts(&notice.what);
        self.events.push(News {
            service: Some(notice.service.clone()),
            kind,
            generation: facts.get("generation").or_else(|| facts.get("to")).and_then(serde_json::Value::as_u64),
            level: mark.level(),
            text: stayput_model::text::printable(&format!("{text}{more}")).into_owned(),
            data: serde_json::Value::Object(facts),
        });
    }

    /// What to do about a generation that could not live beside the one before it, if its last words say so.
    fn clash(&self, failed: GenerationId) -> String {
        const SIGNS: [&str; 5] = ["already in use", "already running", "lock", "EADDRINUSE", "temporarily unavailable"];
        let lines = self.outputs.get(&failed).map(|output| output.recent.borrow().last(CLASH_LINES)).unwrap_or_default();
        let sign = lines.iter().rev().find(|line| SIGNS.iter().any(|sign| line.contains(sign)));
        sign.map_or_else(String::new, |line| format!("; it said \"{line}\": with --no-overlap the old generation stops first"))
    }

    /// Passes a signal on to the generations that serve.
    pub(crate) fn forward(&mut self, signal: i32) {
        let theirs = self.world.services.values().filter(|service| !service.config.own);
        for generation in theirs.filter_map(Service::serving) {
            let request = Request::Signal { generation: to_keeper(generation), signal, scope: Scope::Main };
            self.link.ask(request, Asked::Other("the signal could not be passed on"));
        }
    }

    /// Where the output of a generation goes, and whether its notifications matter.
    pub(crate) fn sink(&self, service: &Service, generation: GenerationId) -> (Sink, bool) {
        let ready = match &service.config.readiness {
            Readiness::Log { pattern } => match regex_lite::Regex::new(pattern) {
                Ok(pattern) => Some(Rc::new(pattern)),
                Err(error) => {
                    self.tell(
                        &service.config.name,
                        say::Mark::Trouble,
                        &format!("its readiness pattern is no regular expression: {error}"),
                    );
                    None
                }
            },
            Readiness::Accept | Readiness::Http { .. } | Readiness::Notify => None,
        };
        let sink = Sink {
            service: service.config.name.clone(),
            generation,
            style: self.world.report,
            console: self.console.clone(),
            recent: Rc::default(),
            ready,
            to: self.to.clone(),
        };
        (sink, matches!(service.config.readiness, Readiness::Notify))
    }

    /// Ends the instance, after the last output and the last answers.
    fn exit(&mut self, status: u8) {
        let readers: Vec<_> = std::mem::take(&mut self.outputs).into_values().flat_map(|output| output.readers).collect();
        let (link, console, unwritten) = (Rc::clone(&self.link), self.console.clone(), Rc::clone(&self.unwritten));
        let shown = self.disk.as_ref().map(|disk| disk.show.finish());
        tokio::task::spawn_local(async move {
            let last_words = async {
                for reader in readers {
                    // One that panicked has nothing left to say.
                    let _ = reader.await;
                }
                if let Some(shown) = shown {
                    // The thread is gone only when the process ends.
                    let _ = shown.await;
                }
                control::written(&unwritten).await;
            };
            let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
            console.flush(LAST_WORDS);
            link.ask(Request::Exit { status }, Asked::Other("the instance could not be ended"));
        });
    }
}

/// Lines in which the reason of a clash is looked for.
const CLASH_LINES: usize = 20;
/// Outputs kept of generations that are gone.
const KEPT_OUTPUTS: usize = 8;
