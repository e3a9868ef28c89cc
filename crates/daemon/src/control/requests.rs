//! What each request does. A request that cannot be done is refused before anything is changed.

use super::rolling::{Kind, Rolling};
use super::waiting::{Awaited, Waiter};
use super::{Answers, Source, failure};
use crate::reactor::{Message, Reactor};
use stayput_keeper::protocol::{Reply as KeeperReply, Request as KeeperRequest, Scope};
use stayput_model::event::{Event as WorldEvent, StopWay};
use stayput_model::service::{Service, Target};
use stayput_wire::{Failure, FailureKind, Reply, Request, SignalScope, SignalledService, pattern};
use std::rc::Rc;
use std::time::Duration;

/// How long a status waits for the keeper's facts.
const KEEPER_TIME: Duration = Duration::from_millis(250);

impl Reactor {
    /// Somebody asks.
    pub(crate) fn asked(&mut self, request: Request, answers: &Answers) {
        if let Err(failure) = self.ask(request, answers) {
            answers.refuse(failure);
        }
    }

    fn ask(&mut self, request: Request, answers: &Answers) -> Result<(), Failure> {
        match request {
            Request::Hello { .. } => Err(failure(FailureKind::BadRequest, "hello was said already")),
            Request::Status {} => {
                self.asked_status(answers);
                Ok(())
            }
            Request::Start { services, wait } => self.asked_start(&services, wait, answers),
            Request::Restart { services, wait, parallel, canary } => {
                let services = self.services(&services)?;
                let kind = match canary {
                    None => Kind::Restart,
                    Some(_) if services.len() > 1 => {
                        return Err(failure(FailureKind::BadRequest, "a canary is for one service at a time"));
                    }
                    Some(canary) if !(1..1000).contains(&canary.permille) => {
                        return Err(failure(
                            FailureKind::BadRequest,
                            "a canary gets more than nothing and less than all: 1 to 999 per mille",
                        ));
                    }
                    Some(canary) => Kind::Canary { share: canary.permille, time: canary.for_ms.map(Duration::from_millis) },
                };
                self.asked_restart(kind, &services, parallel, wait, answers)
            }
            Request::Rollback { service, wait } => {
                let service = self.one_service(service)?;
                if self.world.services[&service].previous.is_none() {
                    let message = format!("{service}: its command and environment have not changed since it was first started");
                    let hint = Some("there is nothing to go back to".to_owned());
                    return Err(Failure { kind: FailureKind::Failed, message, hint });
                }
                self.asked_restart(Kind::Rollback, &[service], None, wait, answers)
            }
            Request::Stop { services, wait } => {
                let services = self.services(&services)?;
                let way = StopWay::Gentle;
                self.requested("stop", "", &services, answers);
                self.wait_or(wait, Awaited::Stop { services: services.clone() }, answers, || Reply::Stopping {});
                self.step(WorldEvent::StopSome { services, way });
                Ok(())
            }
            Request::Down { wait } => {
                let services = self.world.services.keys().cloned().collect();
                self.requested("down", "", &[], answers);
                self.wait_or(wait, Awaited::Stop { services }, answers, || Reply::Stopping {});
                self.step(WorldEvent::Shutdown { way: StopWay::Gentle, signal: None });
                Ok(())
            }
            Request::Signal { services, signal, scope } => self.asked_signal(&services, signal, scope, answers),
            Request::Events { since, follow, services } => {
                if !services.is_empty() {
                    self.services(&services)?;
                }
                answers.stream(Source::Events(self.events.read(since, follow, services)));
                Ok(())
            }
            Request::Logs(query) => {
                if !query.services.is_empty() {
                    self.services(&query.services)?;
                }
                answers.stream(Source::Lines(self.logs(query)?));
                Ok(())
            }
            Request::Metrics {} => {
                let text = self.metrics();
                answers.reply(Reply::Metrics { text });
                Ok(())
            }
            Request::Decide { service, switch } => self.asked_decide(service, switch, answers),
            Request::Plan {} => self.asked_plan(answers),
            Request::Reload { wait } => self.asked_reload(wait, answers),
            Request::Config { service } => self.asked_config(service, answers),
            Request::History { service, range } => {
                let service = service.map(|service| self.one_service(Some(service))).transpose()?;
                let history = self.history(service.as_deref(), range);
                answers.reply(Reply::History(Box::new(history)));
                Ok(())
            }
            Request::Processes { service } => {
                let service = self.one_service(service)?;
                answers.reply(Reply::Processes(Box::new(self.processes(&service))));
                Ok(())
            }
            Request::Hold { service, address } => self.asked_hold(service, &address, answers),
            Request::Release { service, address } => self.asked_release(service, &address, answers),
        }
    }

    /// Waits for it on behalf of the client, or answers at once.
    fn wait_or(&mut self, wait: bool, what: Awaited, answers: &Answers, reply: impl FnOnce() -> Reply) {
        if wait {
            self.waiters.push(Waiter { what, answers: answers.clone() });
        } else {
            answers.reply(reply());
        }
    }

    /// The keeper may be another one by now: it is asked first. If it is stuck, what we know is better than nothing. Who asks while
    /// another's answer is being made gets the same.
    fn asked_status(&mut self, answers: &Answers) {
        self.status_asked.push(answers.clone());
        if self.status_asked.len() > 1 {
            return;
        }
        let (link, to) = (Rc::clone(&self.link), self.to.clone());
        tokio::task::spawn_local(async move {
            let dump = match tokio::time::timeout(KEEPER_TIME, link.call(KeeperRequest::Dump)).await {
                Ok(Some(KeeperReply::Dump(dump))) => Some(dump),
                Ok(_) | Err(_) => None,
            };
            // The reactor is gone only when the daemon ends.
            let _ = to.send(Message::Status(dump));
        });
    }

    /// The keeper's facts are as fresh as they can be.
    pub(crate) fn answer_status(&mut self) {
        let mut asked: Vec<Answers> = std::mem::take(&mut self.status_asked).into_iter().filter(|answers| !answers.is_closed()).collect();
        let Some(last) = asked.pop() else { return };
        let status = Box::new(self.status());
        for answers in asked {
            answers.reply(Reply::Status(status.clone()));
        }
        last.reply(Reply::Status(status));
    }

    fn asked_start(&mut self, patterns: &[String], wait: bool, answers: &Answers) -> Result<(), Failure> {
        let named: Vec<&String> = patterns.iter().filter(|wanted| !pattern::is_glob(wanted)).collect();
        let mut services = self.services(patterns)?;
        // What the configuration says is not to be started is started only by its own name.
        services.retain(|name| !self.world.services[name].config.disabled || patterns.is_empty() || named.contains(&name));
        self.not_ending()?;
        // A task that is up waits for its time or has had its run: by its own name it is asked to run now.
        let is_asked_for = |name: &&String| {
            let service = &self.world.services[*name];
            service.target == Target::Down || (service.is_task() && named.contains(name))
        };
        let down: Vec<String> = services.iter().filter(is_asked_for).cloned().collect();
        if !down.is_empty() {
            self.requested("start", "", &down, answers);
        }
        self.wait_or(wait, Awaited::Start { services }, answers, || Reply::Starting { services: down.clone() });
        for service in down {
            self.step(WorldEvent::Start { service });
        }
        Ok(())
    }

    fn asked_restart(
        &mut self,
        kind: Kind,
        services: &[String],
        parallel: Option<u32>,
        wait: bool,
        answers: &Answers,
    ) -> Result<(), Failure> {
        self.not_ending()?;
        if parallel == Some(0) {
            return Err(failure(FailureKind::BadRequest, "none at a time would never end"));
        }
        if let [only] = services {
            self.may_restart(only)?;
            if let (Kind::Canary { .. }, Err(why)) = (kind, self.world.services[only].may_canary()) {
                return Err(failure(FailureKind::Failed, format!("{only} {why}")));
            }
        }
        let parallel = parallel.map_or(1, |parallel| usize::try_from(parallel).unwrap_or(usize::MAX));
        let services = self.in_order(services);
        let what = match kind {
            Kind::Restart => "",
            Kind::Canary { .. } => " by canary",
            Kind::Rollback => " to the command of before",
        };
        if !services.is_empty() {
            self.requested("restart", what, &services, answers);
        }
        let rolling = Rolling::new(kind, services.clone(), parallel, wait.then(|| answers.clone()));
        self.rollings.push(rolling);
        self.roll();
        if !wait {
            let services = services.into_iter().map(|name| self.restarting(name)).collect();
            answers.reply(Reply::Restarting { services });
        }
        Ok(())
    }

    fn asked_decide(&mut self, service: Option<String>, switch: bool, answers: &Answers) -> Result<(), Failure> {
        let name = self.one_service(service)?;
        let service = &self.world.services[&name];
        let (Some(canary), Some(serving)) = (service.canary(), service.serving()) else {
            let message = format!("{name}: no generation of it has a share of the connections: there is nothing to decide");
            let hint = Some(format!("stayput restart {name} --canary 5% --stay begins one"));
            return Err(Failure { kind: FailureKind::Failed, message, hint });
        };
        self.requested(if switch { "switch" } else { "abort" }, "", std::slice::from_ref(&name), answers);
        self.step(WorldEvent::Decide { service: name.clone(), switch });
        let fact = if switch {
            format!("{name}: all new connections go to generation {canary}; generation {serving} finishes what it has")
        } else {
            format!("{name}: all new connections go to generation {serving} again; generation {canary} finishes what it has, and stops")
        };
        answers.reply(Reply::Done { facts: vec![fact] });
        Ok(())
    }

    fn asked_signal(&mut self, patterns: &[String], signal: i32, scope: SignalScope, answers: &Answers) -> Result<(), Failure> {
        let services = self.services(patterns)?;
        if !(1..=64).contains(&signal) {
            return Err(failure(FailureKind::BadRequest, format!("there is no signal {signal}")));
        }
        let scope = match scope {
            SignalScope::Main => Scope::Main,
            SignalScope::Tree => Scope::Tree,
        };
        let mut sent = Vec::new();
        for name in services {
            let service = &self.world.services[&name];
            let generation = service.serving().or_else(|| service.incoming());
            let pid = generation.and_then(|id| service.generations[&id].main.pid());
            sent.push(SignalledService { name, generation: generation.map(|id| id.0), pid });
        }
        let reached: Vec<String> = sent.iter().filter(|one| one.generation.is_some()).map(|one| one.name.clone()).collect();
        if !reached.is_empty() {
            self.requested("signal", &format!(" SIG{}", crate::say::signal_name(signal)), &reached, answers);
        }
        for one in &sent {
            if let (Some(generation), Some(pid)) = (one.generation, one.pid) {
                self.tell_as(
                    &one.name,
                    "signalled",
                    &format!("SIG{} sent to generation {generation} (pid {pid}), as asked", crate::say::signal_name(signal)),
                );
            }
        }
        let (link, answers) = (Rc::clone(&self.link), answers.clone());
        tokio::task::spawn_local(async move {
            for one in &mut sent {
                let Some(generation) = one.generation else { continue };
                let generation = stayput_keeper::protocol::GenerationId(generation);
                let reply = link.call(KeeperRequest::Signal { generation, signal, scope }).await;
                if reply != Some(KeeperReply::Done) {
                    // It ended in between: nobody got it.
                    (one.generation, one.pid) = (None, None);
                }
            }
            answers.reply(Reply::Signalled { services: sent });
        });
        Ok(())
    }

    pub(super) fn not_ending(&self) -> Result<(), Failure> {
        if self.world.is_ending() { Err(failure(FailureKind::Busy, "the instance is stopping")) } else { Ok(()) }
    }

    /// The services that are meant by names and globs, in the order of their names; no pattern means the only one. What is stayput's own is meant
    /// by its name alone.
    pub(super) fn services(&self, patterns: &[String]) -> Result<Vec<String>, Failure> {
        fn names<'a>(services: &[&'a Service]) -> Vec<&'a str> {
            services.iter().map(|service| service.config.name.as_str()).collect()
        }
        let (own, theirs): (Vec<&Service>, Vec<&Service>) = self.world.services.values().partition(|service| service.config.own);
        choose(&names(&theirs), &names(&own), patterns)
    }

    /// The services that patterns can mean.
    pub(crate) fn pattern_names(&self) -> Vec<String> {
        self.world.services.values().filter(|service| !service.config.own).map(|service| service.config.name.clone()).collect()
    }

    pub(super) fn one_service(&self, name: Option<String>) -> Result<String, Failure> {
        let patterns: Vec<String> = name.into_iter().collect();
        let mut services = self.services(&patterns)?;
        match services.pop() {
            Some(only) if services.is_empty() => Ok(only),
            _ => Err(failure(FailureKind::BadRequest, "this is for one service at a time")),
        }
    }
}

/// The names that are meant by names and globs, each once and in the order of `names`; no pattern means the only one. Those of `own` are meant
/// by themselves alone.
fn choose(names: &[&str], own: &[&str], patterns: &[String]) -> Result<Vec<String>, Failure> {
    if patterns.is_empty() {
        return match names {
            [only] => Ok(vec![(*only).to_owned()]),
            [] => Err(failure(FailureKind::UnknownService, "this instance has no service")),
            several => {
                let hint = Some(format!("it has {}; * means all", several.join(", ")));
                let message = "this instance has several services: say which".to_owned();
                Err(Failure { kind: FailureKind::BadRequest, message, hint })
            }
        };
    }
    // `*` of nothing is nothing; a name or another glob that fits nothing is a mistake.
    for wanted in patterns.iter().filter(|wanted| *wanted != "*") {
        if !names.iter().any(|name| pattern::matches(wanted, name)) && !own.contains(&wanted.as_str()) {
            let message = format!("there is no service {wanted:?} in this instance");
            let close = pattern::closest(wanted, names).map(|name| format!("did you mean {name}?"));
            let hint = close.or_else(|| (!names.is_empty()).then(|| format!("it has {}", names.join(", "))));
            return Err(Failure { kind: FailureKind::UnknownService, message, hint });
        }
    }
    let wanted = |name: &&&str| patterns.iter().any(|wanted| pattern::matches(wanted, name));
    let by_name = |name: &&&str| patterns.iter().any(|wanted| wanted == **name);
    Ok(names.iter().filter(wanted).chain(own.iter().filter(by_name)).map(|name| (*name).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], patterns: &[&str]) -> Result<Vec<String>, Failure> {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        choose(names, &["dashboard"], &patterns)
    }

    #[test]
    fn names_and_globs_choose_services() {
        let names = ["api", "db", "web-1", "web-2"];
        assert_eq!(chosen(&names, &["web-*", "db"]).unwrap(), ["db", "web-1", "web-2"]);
        assert_eq!(chosen(&names, &["*"]).unwrap(), names);
        assert_eq!(chosen(&["only"], &[]).unwrap(), ["only"]);
        assert_eq!(chosen(&[], &["*"]).unwrap(), [""; 0]);
        assert_eq!(chosen(&names, &["d*", "dashboard"]).unwrap(), ["db", "dashboard"]);
        assert_eq!(chosen(&names, &["dash*"]).unwrap_err().kind, FailureKind::UnknownService);
        let several = chosen(&names, &[]).unwrap_err();
        assert_eq!(several.kind, FailureKind::BadRequest);
        assert!(several.hint.unwrap().contains("api, db"));
        let unknown = chosen(&names, &["db", "wbe-1"]).unwrap_err();
        assert_eq!((unknown.kind, unknown.hint.as_deref()), (FailureKind::UnknownService, Some("did you mean web-1?")));
        assert_eq!(chosen(&names, &["x*"]).unwrap_err().kind, FailureKind::UnknownService);
    }
}
