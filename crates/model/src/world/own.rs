//! When the dashboard gives way: it has no claim to its port, and whoever shows that they want it gets it.

use crate::dashboard::{beside, clash, listen_on};
use crate::event::{Effect, Event};
use crate::mono::Mono;
use crate::notice::What;
use crate::service::{EADDRINUSE, Plan, Service, Turn};
use crate::world::World;
use std::net::SocketAddr;

/// Somebody showed that they want an address.
#[derive(Debug)]
pub(super) struct Wanted {
    service: String,
    address: SocketAddr,
    /// The service cannot have it, because somebody else does.
    taken: bool,
}

impl World {
    /// Whether an event shows it; nobody asks where there is no dashboard.
    pub(super) fn wanted(&self, event: &Event) -> Option<Wanted> {
        self.dashboard.as_ref()?;
        match event {
            Event::Listener(facts) if facts.owner.is_some() => {
                Some(Wanted { service: facts.service.clone(), address: facts.address, taken: false })
            }
            Event::BindRefused { generation, address, errno: EADDRINUSE } => {
                let service = self.service_of(*generation)?.config.name.clone();
                Some(Wanted { service, address: *address, taken: true })
            }
            Event::HoldWaits { service, address, errno: EADDRINUSE } => {
                Some(Wanted { service: service.clone(), address: *address, taken: true })
            }
            _ => None,
        }
    }

    /// Whether a service waits for a port that the dashboard is about to leave.
    pub fn is_given_way(&self, service: &str) -> bool {
        let Some(Plan::Hold { waiting }) = self.services.get(service).map(|service| &service.plan) else { return false };
        let own = self.services.values().filter(|own| own.config.own);
        let mut left = own.flat_map(|own| own.listeners.values().map(move |listener| (own, listener.address)));
        left.any(|(own, at)| !own.config.ports.contains(&at) && waiting.keys().any(|wanted| clash(wanted, &at)))
    }

    /// Moves the dashboard away from what is wanted. From a port that somebody outside has it goes only if nobody said that it is to be there:
    /// one that was asked for is waited for.
    pub(super) fn give_way(&mut self, wanted: &Wanted, now: Mono, effects: &mut Vec<Effect>) {
        let Some(dashboard) = &self.dashboard else { return };
        let Some(own) = self.services.values().find(|service| service.config.own && !service.removed) else { return };
        let (name, is_own) = (own.config.name.clone(), own.config.name == wanted.service);
        if self.is_ending() || !own.config.ports.iter().any(|port| clash(port, &wanted.address)) {
            return;
        }
        let others = || self.services.values().filter(|service| service.config.name != name);
        let listens = |service: &Service, at: &SocketAddr| service.listeners.values().any(|listener| clash(&listener.address, at));
        let by = if is_own {
            others().find(|service| listens(service, &wanted.address)).map(|service| service.config.name.clone())
        } else {
            Some(wanted.service.clone())
        };
        if is_own && (!wanted.taken || (dashboard.declared && by.is_none())) {
            return;
        }
        let current = &own.config.ports;
        let next: Option<Vec<SocketAddr>> =
            current.iter().map(|port| Some(SocketAddr::new(port.ip(), port.port().checked_add(1)?))).collect();
        let is_wanted = |at: &SocketAddr| {
            others().any(|service| listens(service, at) || service.config.ports.iter().any(|declared| clash(declared, at)))
        };
        // So far and no farther: where nothing is free, it waits for what it was to have.
        let first = dashboard.listen.first().map_or(0, SocketAddr::port);
        let ports = next.and_then(|next| beside(&next, is_wanted));
        let Some(ports) = ports.filter(|ports| ports.iter().all(|port| port.port().abs_diff(first) <= FARTHEST)) else { return };
        let Some(to) = ports.first().copied() else { return };
        let env = self.env.clone();
        self.with(&name, now, effects, |service, turn| {
            service.say(What::GaveWay { wanted: wanted.address, service: by, to }, turn);
            service.move_to(ports, &env, turn);
        });
    }
}

/// As far as it goes.
const FARTHEST: u16 = 400;

impl Service {
    /// Its addresses are these from now on.
    fn move_to(&mut self, ports: Vec<SocketAddr>, env: &[Vec<u8>], turn: &mut Turn<'_>) {
        let mut config = self.config.clone();
        listen_on(&mut config, ports);
        if self.serving().is_some() || self.incoming().is_some() || !matches!(self.plan, Plan::Hold { .. }) {
            return self.reconfigure(config, env, env, turn);
        }
        // It waits for its first port: nothing of it runs that could be restarted.
        for address in std::mem::replace(&mut self.config, config).ports {
            turn.effect(Effect::Unhold { service: self.config.name.clone(), address });
        }
        self.proceed(turn);
    }
}
