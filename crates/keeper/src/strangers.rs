//! Sockets of the same user that are not the service's and share or shadow its port. The kernel lets them; we tell, and count them in
//! when we say which index is whose.

use crate::keeper::Keeper;
use crate::protocol::{Event, ListenerId};
use crate::state::Listener;
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, Socket, States};
use stayput_kernel::socket::{self, Key};
use std::collections::BTreeSet;

/// Inodes of strangers that are remembered, so as to tell of each once.
const REMEMBERED: usize = 1024;

impl Keeper {
    /// Looks who else listens on a group's port, tells of those that are new, and takes note of those that are in the group.
    /// There is no kernel event for a new listener: it is called before each change of a group.
    pub(crate) fn meet_strangers(&mut self, service: &str, key: &Key) {
        // What was shut down has left the group before whatever is done to it now.
        let shut = |listener: &&Listener| listener.service == service && listener.key == *key && self.has_left(listener);
        let shut: Vec<ListenerId> = self.state.listeners.iter().filter(shut).map(|listener| listener.id).collect();
        for id in shut {
            self.on_shut(id);
        }
        if self.state.group(service, key).is_none() {
            return;
        }
        let listening = listening_on(key.address.port());
        let held = self.state.listeners.iter().map(|listener| listener.inode);
        let same_port = self.state.groups.iter().filter(|group| group.key.address.port() == key.address.port());
        let own = same_port.flat_map(|group| group.fillers.iter().map(|(_, filler)| *filler).chain([group.anchor]));
        let own = own.filter_map(|socket| socket::inode(socket).ok());
        let ours: BTreeSet<u32> = held.chain(own).collect();
        let strange: Vec<&Socket> = listening.iter().filter(|found| !ours.contains(&found.inode) && key_of(found).overlaps(key)).collect();
        let new: Vec<Event> = strange
            .iter()
            .filter(|found| !self.strangers.contains(&found.inode))
            .map(|found| Event::Stranger { service: service.to_owned(), address: found.local, inode: found.inode })
            .collect();
        let members: Vec<u32> = strange.iter().filter(|found| key_of(found) == *key).map(|found| found.inode).collect();
        if self.strangers.len() > REMEMBERED {
            self.strangers.clear(); // a stranger that stays is then told of once more
        }
        self.strangers.extend(strange.iter().map(|found| found.inode));
        if let Some(group) = self.state.group_mut(service, key) {
            let steps = group.order.meet(&members);
            let _ = self.carry_out(service, key, &steps, 0);
        }
        for event in new {
            self.tell(event);
        }
    }
}

impl Keeper {
    /// It is a member of its group to us and not to the kernel.
    fn has_left(&self, listener: &Listener) -> bool {
        let member = self.state.group(&listener.service, &listener.key).is_some_and(|group| group.order.has(listener.id));
        member && !socket::is_listening(listener.socket).unwrap_or(true)
    }
}

/// All TCP listeners on a port, of whomever.
pub(crate) fn listening_on(port: u16) -> Vec<Socket> {
    listeners(|query| query.port(port))
}

/// All TCP listeners.
pub(crate) fn listening() -> Vec<Socket> {
    listeners(|query| query)
}

fn listeners(narrow: impl Fn(Query) -> Query) -> Vec<Socket> {
    let mut diag = SockDiag::open_or_listed();
    let mut found = Vec::new();
    for family in Family::ALL {
        let query = narrow(Query::new(family, Protocol::Tcp, States::LISTEN));
        // What cannot be listed cannot be told of; nothing else depends on it.
        if let Ok((sockets, _)) = diag.sockets(&query) {
            found.extend(sockets);
        }
    }
    found
}

pub(crate) fn key_of(found: &Socket) -> Key {
    Key { device: found.interface.map_or(0, |index| index.get() as i32), ..Key::new(found.local, found.v6only.unwrap_or(false)) }
}
