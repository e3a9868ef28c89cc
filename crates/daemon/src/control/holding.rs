//! `hold` and `release`: a port held now without a service that asks for it, and a held one let go. For people who debug.

use super::{Answers, failure};
use crate::reactor::{Message, Reactor};
use stayput_keeper::protocol::{Reply as KeeperReply, Request as KeeperRequest};
use stayput_model::event::ListenerFacts;
use stayput_model::service::{EADDRINUSE, Plan};
use stayput_wire::{Failure, FailureKind, Reply};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

/// Holds that somebody waits for, and the error that the keeper told of them.
pub(crate) type Holds = BTreeMap<(String, SocketAddr), Option<i32>>;

/// An address that somebody wants held, or let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    address: SocketAddr,
    /// Only a port was said.
    any_ip: bool,
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wanted = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
            Ok(port) => Some(Self { address: (Ipv4Addr::UNSPECIFIED, port).into(), any_ip: true }),
            Err(_) => text.parse().ok().map(|address| Self { address, any_ip: false }),
        };
        let hint = || Some("write 8000, 127.0.0.1:8000 or [::1]:8000".to_owned());
        match wanted {
            None => Err(Failure {
                kind: FailureKind::BadRequest,
                message: format!("{text:?} is neither a port nor an address with one"),
                hint: hint(),
            }),
            Some(wanted) if wanted.address.port() == 0 => Err(Failure {
                kind: FailureKind::BadRequest,
                message: "port 0 asks the kernel to choose one: there is nothing to hold".to_owned(),
                hint: hint(),
            }),
            Some(wanted) => Ok(wanted),
        }
    }

    fn is(self, address: SocketAddr) -> bool {
        if self.any_ip { address.port() == self.address.port() } else { address == self.address }
    }
}

impl Reactor {
    pub(super) fn asked_hold(&mut self, service: Option<String>, address: &str, answers: &Answers) -> Result<(), Failure> {
        let address = Wanted::parse(address)?.address;
        let name = self.one_service(service)?;
        self.not_ending()?;
        let service = &self.world.services[&name];
        if let Some(listener) = service.listeners.values().find(|listener| listener.address == address) {
            let who = match listener.owner {
                Some(generation) => format!("generation {generation} accepts on it"),
                None => "nobody accepts on it, connections wait".to_owned(),
            };
            answers.reply(Reply::Done { facts: vec![format!("{address} is held for {name} already: {who}")] });
            return Ok(());
        }
        let waits = matches!(&service.plan, Plan::Hold { waiting } if waiting.contains_key(&address));
        if waits || self.holds.contains_key(&(name.clone(), address)) {
            return Err(self.taken(&name, address, "it is waited for already"));
        }
        self.requested("hold", &format!(" of {address}"), std::slice::from_ref(&name), answers);
        self.holds.insert((name.clone(), address), None);
        let (link, to, answers) = (Rc::clone(&self.link), self.to.clone(), answers.clone());
        tokio::task::spawn_local(async move {
            let reply = link.call(KeeperRequest::Hold { service: name.clone(), address }).await;
            let failed = match reply {
                Some(KeeperReply::Done) => None,
                Some(KeeperReply::Failed { what, .. }) => Some(what),
                _ => Some("the keeper did not answer".to_owned()),
            };
            // What the keeper said of the hold itself is before its reply on the same wire: the reactor has heard it by now.
            let _ = to.send(Message::HoldAnswered { service: name, address, failed, answers });
        });
        Ok(())
    }

    /// The keeper tells that a port is not to be had. True: somebody who waits is told, and nobody else is to be.
    pub(crate) fn hold_refused(&mut self, service: &str, address: SocketAddr, errno: i32) -> bool {
        match self.holds.get_mut(&(service.to_owned(), address)) {
            Some(told) => {
                *told = Some(errno);
                true
            }
            None => false,
        }
    }

    /// The keeper has done what it could.
    pub(crate) fn hold_answered(&mut self, service: &str, address: SocketAddr, failed: Option<String>, answers: &Answers) {
        let told = self.holds.remove(&(service.to_owned(), address)).flatten();
        if let Some(why) = failed {
            return answers.refuse(failure(FailureKind::Failed, format!("{address} could not be held for {service}: {why}")));
        }
        match told {
            None => {
                self.tell_as(service, "held", &format!("{address} is held, as asked: connections wait"));
                answers.reply(Reply::Done {
                    facts: vec![
                        format!("{address} is held for {service}: connections to it are not refused, they wait until somebody accepts"),
                        format!("{service} gets the socket and what waits in it when it binds this address; nobody else can bind it"),
                        format!("`stayput release {address} {service}` lets it go; so does a stop of {service}"),
                    ],
                });
            }
            Some(errno) => {
                if errno == EADDRINUSE {
                    // A person wants to know now; what waits without being told would take the port by surprise later.
                    let request = KeeperRequest::Unhold { service: service.to_owned(), address };
                    self.link.ask(request, crate::link::Asked::Whatever);
                }
                let why = std::io::Error::from_raw_os_error(errno).to_string();
                let refusal = if errno == EADDRINUSE {
                    self.taken(service, address, "it is not waited for")
                } else {
                    failure(FailureKind::Failed, format!("{address} could not be held for {service}: bind: {why}"))
                };
                answers.refuse(refusal);
            }
        }
    }

    fn taken(&mut self, service: &str, address: SocketAddr, and: &str) -> Failure {
        let holder = self.observer.as_mut().and_then(|observer| observer.holder(address));
        let by = holder.map_or_else(String::new, |holder| format!(" by {holder}"));
        Failure {
            kind: FailureKind::Busy,
            message: format!("{address} cannot be held for {service}: it is taken{by}; {and}"),
            hint: Some(format!("stayput why {} says more, stayput free {} frees it", address.port(), address.port())),
        }
    }

    pub(super) fn asked_release(&mut self, service: Option<String>, address: &str, answers: &Answers) -> Result<(), Failure> {
        let wanted = Wanted::parse(address)?;
        let only = service.map(|service| self.one_service(Some(service))).transpose()?;
        let services = self.world.services.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name));
        let here: Vec<(String, ListenerFacts)> = services
            .flat_map(|(name, service)| service.listeners.values().map(|listener| (name.clone(), listener.clone())))
            .filter(|(_, listener)| wanted.is(listener.address))
            .collect();
        if let Some((name, listener, generation)) = here.iter().find_map(|(name, listener)| Some((name, listener, listener.owner?))) {
            let message = format!("generation {generation} of {name} accepts on {}: it would go on listening", listener.address);
            return Err(Failure {
                kind: FailureKind::Busy,
                message,
                hint: Some(format!("stayput stop {name} ends it and releases its ports")),
            });
        }
        let mut places: Vec<(String, SocketAddr)> = here.into_iter().map(|(name, listener)| (name, listener.address)).collect();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() {
            let waiting = self
                .world
                .services
                .values()
                .find(|service| matches!(&service.plan, Plan::Hold { waiting } if waiting.keys().any(|address| wanted.is(*address))));
            let message = match waiting {
                Some(service) => {
                    format!("{} waits for {address}, which somebody else has: there is nothing to release", service.config.name)
                }
                None => format!("nothing in this instance holds {address}"),
            };
            return Err(Failure { kind: FailureKind::BadRequest, message, hint: Some("stayput status shows what is held".to_owned()) });
        }
        for (name, address) in &places {
            self.requested("release", &format!(" of {address}"), std::slice::from_ref(name), answers);
            self.tell_as(name, "released", &format!("{address} is let go, as asked"));
        }
        let (link, answers) = (Rc::clone(&self.link), answers.clone());
        tokio::task::spawn_local(async move {
            let mut facts = Vec::new();
            for (service, address) in places {
                let reply = link.call(KeeperRequest::LetGo { service: service.clone(), address }).await;
                let Some(KeeperReply::Released { queued }) = reply else {
                    let message = format!("{address} was not released for {service}: the keeper says {reply:?}");
                    return answers.refuse(failure(FailureKind::Failed, message));
                };
                let lost = match queued {
                    0 => "nobody waited in its queue".to_owned(),
                    1 => "1 connection that waited was reset".to_owned(),
                    several => format!("{several} connections that waited were reset"),
                };
                facts.push(format!("{address} is no longer held for {service}; {lost}"));
                facts.push(format!(
                    "connections to it are refused until somebody binds it; {service} binds it anew at its next start, if it is free"
                ));
            }
            answers.reply(Reply::Done { facts });
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_addresses_are_understood() {
        let any = |text: &str| Wanted::parse(text).map(|wanted| (wanted.address.to_string(), wanted.any_ip));
        assert_eq!(any("8000").unwrap(), ("0.0.0.0:8000".to_owned(), true));
        assert_eq!(any(":8000").unwrap(), ("0.0.0.0:8000".to_owned(), true));
        assert_eq!(any("[::1]:80").unwrap(), ("[::1]:80".to_owned(), false));
        for wrong in ["0", "127.0.0.1:0", "", "web", "70000", "127.0.0.1", "::1", "-1", "80 "] {
            assert_eq!(any(wrong).unwrap_err().kind, FailureKind::BadRequest, "{wrong}");
        }
        let wanted = Wanted::parse("80").unwrap();
        assert!(wanted.is("[::1]:80".parse().unwrap()) && !wanted.is("[::1]:81".parse().unwrap()));
        assert!(!Wanted::parse("0.0.0.0:80").unwrap().is("[::]:80".parse().unwrap()));
    }
}
