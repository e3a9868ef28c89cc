//! Ports that are held for a service before it has them, now or as soon as a stranger lets go.

use crate::groups::{HELD_BACKLOG, Newcomer};
use crate::keeper::{Keeper, Source};
use crate::protocol::{Event, Origin, WaitingHold};
use rustix::io::Errno;
use stayput_kernel::sock_diag::DestroyEvents;
use stayput_kernel::socket::{self, Key};
use std::collections::BTreeSet;
use std::net::SocketAddr;

impl Keeper {
    /// Holds a port, now or when it is released.
    pub(crate) fn hold(&mut self, service: String, address: SocketAddr) {
        let same = |hold: &WaitingHold| hold.service == service && hold.address == address;
        // What was held of the port for the service before it was started, and is narrower than what is asked for, stands in for it.
        let narrower = |held: SocketAddr| address.ip().is_unspecified() && held.port() == address.port();
        let held = self.state.listeners.iter().any(|listener| {
            let at = listener.key.address;
            listener.service == service && listener.origin == Origin::Held && (at == address || listener.owner.is_none() && narrower(at))
        });
        if held {
            self.tell(Event::Held { service, address });
        } else if !self.state.waiting.iter().any(same) {
            self.state.waiting.push(WaitingHold { service, address });
            self.subscribe();
            self.try_holds();
            let waits = self.state.waiting.last().cloned();
            if let Some(hold) = waits.filter(|_| !self.state.waiting.is_empty()) {
                self.tell(Event::HoldWaits { service: hold.service, address: hold.address, errno: Errno::ADDRINUSE.raw_os_error() });
            }
        }
    }

    /// Ends a hold, unless a generation has the port; returns how many connections waited.
    pub(crate) fn unhold(&mut self, service: &str, address: SocketAddr) -> u32 {
        self.state.waiting.retain(|hold| hold.service != service || hold.address != address);
        let ours = |listener: &&crate::state::Listener| {
            listener.service == service && listener.key.address == address && listener.origin == Origin::Held && listener.owner.is_none()
        };
        let held: Vec<_> = self.state.listeners.iter().filter(ours).map(|listener| listener.id).collect();
        held.into_iter().map(|id| self.release(id)).sum()
    }

    /// Closes every listener of the address on which no generation accepts; returns how many connections waited.
    pub(crate) fn let_go(&mut self, service: &str, address: SocketAddr) -> u32 {
        self.state.waiting.retain(|hold| hold.service != service || hold.address != address);
        let idle =
            |listener: &&crate::state::Listener| listener.service == service && listener.key.address == address && listener.owner.is_none();
        let idle: Vec<_> = self.state.listeners.iter().filter(idle).map(|listener| listener.id).collect();
        idle.into_iter().map(|id| self.release(id)).sum()
    }

    /// Before the first try, so that no release falls between the try and the waiting.
    pub(crate) fn subscribe(&mut self) {
        if self.releases.is_none()
            && let Ok(releases) = DestroyEvents::subscribe(true, false)
        {
            self.watch(Source::PortReleases, &releases);
            self.releases = Some(releases);
        }
    }

    pub(crate) fn on_port_release(&mut self) {
        let ports: BTreeSet<u16> = self.state.waiting.iter().map(|hold| hold.address.port()).collect();
        let mut ours = false;
        if let Some(releases) = &mut self.releases {
            let complete = releases.drain(|socket| ours |= ports.contains(&socket.local.port()));
            ours |= !matches!(complete, Ok(true));
        }
        if ours {
            self.try_holds();
        }
    }

    pub(crate) fn try_holds(&mut self) {
        for hold in self.state.waiting.clone() {
            match self.try_hold(&hold.service, hold.address) {
                Ok(()) => {
                    self.state.waiting.retain(|waiting| *waiting != hold);
                    self.tell(Event::Held { service: hold.service, address: hold.address });
                }
                Err(Errno::ADDRINUSE) => {}
                Err(error) => {
                    self.state.waiting.retain(|waiting| *waiting != hold);
                    self.tell(Event::HoldWaits { service: hold.service, address: hold.address, errno: error.raw_os_error() });
                }
            }
        }
        if self.state.waiting.is_empty() {
            self.releases = None; // dropping it takes it out of the epoll
        } else {
            self.subscribe();
        }
    }

    /// A duplicate of the socket with this address that the instance was started with. Who started it has the socket for as long as we run (systemd), so
    /// that the port could never be bound anew: it stays ours, for the next hold of it.
    fn inherited(&self, address: SocketAddr) -> Option<std::os::fd::OwnedFd> {
        let socket = self.state.inherited.iter().find(|socket| socket::address(socket) == Ok(address))?;
        rustix::io::fcntl_dupfd_cloexec(socket, 0).ok()
    }

    pub(crate) fn try_hold(&mut self, service: &str, address: SocketAddr) -> Result<(), Errno> {
        if let Some(socket) = self.inherited(address) {
            // When it was let go before, its other duplicate was kept from connections; it has no filter else.
            let _ = stayput_kernel::reuseport::unmute(&socket);
            let key = Key::of(&socket, address)?;
            let backlog = HELD_BACKLOG;
            return self.join(Newcomer { service, key, socket, owner: None, origin: Origin::Held, backlog, binder: None }).map(|_| ());
        }
        let key = Key::new(address, false);
        // Without SO_REUSEPORT first: sharing with a stranger is not holding.
        let socket = match socket::bound(&key, false) {
            Ok(alone) => {
                drop(alone);
                socket::bound(&key, true)?
            }
            Err(Errno::ADDRINUSE) => self.beside_left(service, &key)?,
            Err(error) => return Err(error),
        };
        let backlog = HELD_BACKLOG;
        self.join(Newcomer { service, key, socket, owner: None, origin: Origin::Held, backlog, binder: None }).map(|_| ())
    }
}
