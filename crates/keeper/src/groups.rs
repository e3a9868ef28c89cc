//! Groups of listeners in the kernel: carrying out the steering plan, joining, selecting, parking, releasing.

use crate::keeper::Keeper;
use crate::protocol::{Event, GenerationId, ListenerId, Origin};
use crate::state::{Group, Listener};
use crate::steering::{Member, Order, Step};
use crate::strangers;
use rustix::io::Errno;
use stayput_kernel::reuseport;
use stayput_kernel::socket::{self, Key};
use stayput_kernel::table::TableFd;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// Length of a queue in which connections wait while nobody accepts. The kernel cuts it to net.core.somaxconn.
pub(crate) const HELD_BACKLOG: i32 = 4096;

/// A socket that is about to listen.
pub(crate) struct Newcomer<'a> {
    pub(crate) service: &'a str,
    pub(crate) key: Key,
    pub(crate) socket: OwnedFd,
    pub(crate) owner: Option<GenerationId>,
    pub(crate) origin: Origin,
    pub(crate) backlog: i32,
    /// Descriptor of the process that bound it.
    pub(crate) binder: Option<OwnedFd>,
}

impl Keeper {
    /// Makes a bound socket listen as a member of its group, which is founded if need be.
    ///
    /// # Errors
    /// That of `listen(2)`; nothing is kept then.
    pub(crate) fn join(&mut self, newcomer: Newcomer<'_>) -> Result<ListenerId, Errno> {
        let (service, key) = (newcomer.service.to_owned(), newcomer.key);
        let inode = socket::inode(&newcomer.socket)?;
        self.meet_strangers(&service, &key);
        let id = ListenerId(self.state.next_listener);
        self.state.next_listener += 1;
        let listening = TableFd::keep(newcomer.socket);
        self.state.listeners.push(Listener {
            id,
            service: service.clone(),
            key,
            socket: listening,
            inode,
            owner: newcomer.owner,
            last_owner: newcomer.owner,
            origin: newcomer.origin,
            shut: newcomer.backlog == 0 && newcomer.owner.is_none(),
            binder: newcomer.binder.map(TableFd::keep),
        });
        let result = if self.state.group(&service, &key).is_none() {
            self.found(&service, &key, id, newcomer.backlog)
        } else {
            let beside_its_own = newcomer.owner.is_some_and(|owner| self.selected_owners(&service, &key).contains(&owner));
            let own = newcomer.owner.map(|owner| self.state.listeners_of(owner)).unwrap_or_default();
            let steps = self.state.group_mut(&service, &key).map_or_else(Vec::new, |group| {
                group.order.shares_with(id, &own);
                if beside_its_own { group.order.join_selected(id) } else { group.order.join(id) }
            });
            // Before the kernel's order changes, so that a successor knows whom to look for.
            self.commit();
            self.carry_out(&service, &key, &steps, newcomer.backlog)
        };
        if let Err(error) = result {
            self.state.listeners.remove(id.0);
            if let Some(group) = self.state.group_mut(&service, &key) {
                group.order.not_joined(id);
            }
            listening.close();
            self.drop_empty_groups();
            return Err(error);
        }
        self.end_fillers(&service, &key);
        self.add_fillers(&service, &key, 0);
        self.watch_listener(id);
        self.tell_listener(id);
        Ok(id)
    }

    /// Founds a group with its first listener. Without an anchor (no right to bind the port ourselves, or to listen on it) the
    /// socket is held all the same, but cannot be steered.
    ///
    /// # Errors
    /// That of the listener's `listen(2)`.
    fn found(&mut self, service: &str, key: &Key, first: ListenerId, backlog: i32) -> Result<(), Errno> {
        let Some(member) = self.state.listener(first).map(|listener| listener.socket) else { return Ok(()) };
        let owner = socket::owner(member).unwrap_or(0);
        let Ok(anchor) = socket::bound_as(key, true, owner).map(TableFd::keep) else {
            self.commit();
            return rustix::net::listen(member, backlog);
        };
        let mut order = Order::default();
        let steps = order.found_beside(&self.already_there(key), first);
        let number = self.state.next_group;
        self.state.next_group += 1;
        self.state.groups.push(Group { number, service: service.to_owned(), key: *key, anchor, fillers: Vec::new(), order });
        self.commit();
        let (with_member, with_anchor) = steps.split_at(2);
        for step in with_member {
            match step {
                Step::Listen(_) => rustix::net::listen(member, backlog)?,
                // Through the member, while the anchor is not in the group. An MPTCP member cannot carry it: then chance decides until
                // the anchor does, some microseconds later.
                Step::Program(selection) => drop(reuseport::select(member, selection)),
                Step::Mute(..) | Step::Unmute(_) | Step::Close(_) => {}
            }
        }
        if self.carry_out(service, key, with_anchor, 0).is_err() {
            self.state.groups.remove(number);
            self.commit();
            anchor.close();
        } else if reuseport::mute(anchor, None).is_err() {
            self.fill_anchor(service, key);
        }
        Ok(())
    }

    /// Members that the kernel's group has already: there are none, but for what an earlier life left.
    fn already_there(&self, key: &Key) -> Vec<u32> {
        if self.state.left.is_empty() {
            return Vec::new();
        }
        let ours: BTreeSet<u32> = self.state.listeners.iter().map(|listener| listener.inode).collect();
        let there = strangers::listening_on(key.address.port());
        let members = there.iter().filter(|socket| strangers::key_of(socket) == *key && !ours.contains(&socket.inode));
        members.map(|socket| socket.inode).collect()
    }

    /// An ordinary user may not mute (CAP_NET_ADMIN on recent kernels): the anchor's queue, of length 0, is filled with one
    /// connection of ours, which is routed to it.
    fn fill_anchor(&self, service: &str, key: &Key) {
        self.fill(service, key, Member::Anchor);
    }

    fn fill(&self, service: &str, key: &Key, member: Member) {
        let Some(group) = self.state.group(service, key) else { return };
        let selection = group.order.selection();
        let Some(index) = group.order.members().iter().position(|present| *present == member).map(|index| index as u32) else { return };
        let anchor = group.anchor;
        let socket = match member {
            Member::Listener(id) => self.state.listener(id).map(|listener| listener.socket),
            Member::Anchor | Member::Filler(_) | Member::Foreign(_) => Some(anchor),
        };
        let Some(socket) = socket else { return };
        // What fails here leaves one lock instead of two.
        let _ = socket::fill_queue(socket, |port| {
            if socket != anchor {
                let _ = reuseport::mute(socket, Some(port));
            }
            let _ = reuseport::select(anchor, &reuseport::Selection { route: Some((port, index)), ..selection.clone() });
        });
        let _ = reuseport::select(anchor, &selection);
    }

    /// A socket that can be in a group: bound like its members, and of the same user.
    pub(crate) fn sibling(&self, service: &str, key: &Key) -> Result<OwnedFd, Errno> {
        let anchor = self.state.group(service, key).map(|group| group.anchor);
        match anchor.map(socket::owner) {
            Some(Ok(owner)) => socket::bound_as(key, true, owner),
            _ => socket::bound(key, true),
        }
    }

    /// Gives all sockets of a group to one user. Sockets of different users cannot share a port, and it is the owner of the
    /// moment that counts, not the one who bound it.
    pub(crate) fn give(&self, service: &str, key: &Key, uid: u32) {
        let listeners = self.state.listeners.iter().filter(|listener| listener.service == service && listener.key == *key);
        let group = self.state.group(service, key);
        let ours = group.iter().flat_map(|group| group.fillers.iter().map(|(_, filler)| *filler).chain([group.anchor]));
        for socket in listeners.map(|listener| listener.socket).chain(ours) {
            // Refused without CAP_CHOWN: then the kernel says that the port is taken.
            let _ = socket::set_owner(socket, uid);
        }
    }

    fn end_fillers(&mut self, service: &str, key: &Key) {
        let Some(group) = self.state.group_mut(service, key) else { return };
        let steps = group.order.end_fillers();
        let ended = |member: Member| steps.contains(&Step::Close(member));
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut group.fillers).into_iter().partition(|(member, _)| ended(*member));
        group.fillers = kept;
        self.commit();
        // In the order of the plan: with each that leaves the last one moves.
        for step in &steps {
            if let Step::Close(member) = step
                && let Some((_, filler)) = gone.iter().find(|(ended, _)| ended == member)
            {
                filler.close();
            }
        }
        let _ = self.carry_out(service, key, &steps, 0);
    }

    /// Keeps the places of the selected, so that neither so many leavings of ours nor those of strangers at any time make a
    /// program name a wrong index.
    pub(crate) fn add_fillers(&mut self, service: &str, key: &Key, leavings: usize) {
        loop {
            let Some((filler, steps)) = self.state.group_mut(service, key).and_then(|group| group.order.filler(leavings)) else { return };
            let socket = self.sibling(service, key).map(TableFd::keep);
            if let (Ok(socket), Some(group)) = (socket, self.state.group_mut(service, key)) {
                group.fillers.push((filler, socket));
                self.commit();
            }
            let listens = socket.is_ok() && self.carry_out(service, key, &steps, 1).is_ok();
            if !listens && let Some(group) = self.state.group_mut(service, key) {
                group.fillers.retain(|(member, _)| *member != filler);
                group.order.no_filler(filler);
                self.commit();
                if let Ok(socket) = socket {
                    socket.close();
                }
                return;
            }
        }
    }

    /// The generations whose listeners take the new connections of a group.
    pub(crate) fn selected_owners(&self, service: &str, key: &Key) -> Vec<GenerationId> {
        let selected = self.state.group(service, key).map_or(&[][..], |group| group.order.selected());
        selected.iter().filter_map(|id| self.state.listener(*id)?.owner).collect()
    }

    /// Carries out a plan. Only a failing `listen` of a member stops it: a program or a mute that the kernel refuses (an MPTCP
    /// member cannot be muted) leaves the other lock in place.
    pub(crate) fn carry_out(&self, service: &str, key: &Key, steps: &[Step], backlog: i32) -> Result<(), Errno> {
        let anchor = self.state.group(service, key).map(|group| group.anchor);
        let socket_of = |member: Member| match member {
            Member::Anchor => anchor,
            Member::Listener(id) => self.state.listener(id).map(|listener| listener.socket),
            Member::Filler(_) => {
                let fillers = &self.state.group(service, key)?.fillers;
                fillers.iter().find(|(filler, _)| *filler == member).map(|(_, socket)| *socket)
            }
            Member::Foreign(_) => None,
        };
        for step in steps {
            match step {
                Step::Program(selection) => {
                    if let Some(anchor) = anchor {
                        // Fails only without kernel support, when the group cannot be steered at all.
                        let _ = reuseport::select(anchor, selection);
                    }
                }
                Step::Mute(member, except) => {
                    if let Some(socket) = socket_of(*member) {
                        let _ = reuseport::mute(socket, *except);
                    }
                }
                Step::Unmute(listener) => {
                    if let Some(socket) = socket_of(Member::Listener(*listener)) {
                        let _ = reuseport::unmute(socket);
                    }
                }
                Step::Listen(member) => {
                    if let Some(socket) = socket_of(*member) {
                        rustix::net::listen(socket, backlog)?;
                    }
                }
                Step::Close(_) => {} // `release` closes when the mirror no longer has it
            }
        }
        Ok(())
    }

    /// Lets all new connections of the service, or so many of a thousand, go to the generation's listeners, where it has any.
    pub(crate) fn steer(&mut self, service: &str, generation: GenerationId, share: Option<u16>) {
        if let Some(generation) = self.state.generation_mut(generation) {
            generation.served = true;
        }
        let own = self.state.listeners_of(generation);
        self.select_where(service, share, |listener| own.contains(&listener));
    }

    fn select_where(&mut self, service: &str, share: Option<u16>, wanted: impl Fn(ListenerId) -> bool) {
        let keys: Vec<Key> = self.state.groups.iter().filter(|group| group.service == service).map(|group| group.key).collect();
        for key in keys {
            self.meet_strangers(service, &key);
            let Some(group) = self.state.group_mut(service, &key) else { continue };
            let before = group.order.selected().to_vec();
            let targets: Vec<ListenerId> = group
                .order
                .members()
                .iter()
                .filter_map(|member| match member {
                    Member::Listener(id) if wanted(*id) => Some(*id),
                    Member::Listener(_) | Member::Anchor | Member::Filler(_) | Member::Foreign(_) => None,
                })
                .collect();
            let steps = match share {
                Some(permille) => group.order.select_share(permille, &targets),
                None => group.order.select(&targets),
            };
            let after = group.order.selected().to_vec();
            let _ = self.carry_out(service, &key, &steps, 0);
            self.add_fillers(service, &key, 0);
            for id in before.into_iter().chain(after) {
                self.tell_listener(id);
            }
        }
    }

    /// A held queue beside each group's listeners; it takes all new connections until the next generation is given it. If that is about to
    /// listen `elsewhere`, it cannot be given it, so the queue takes nothing: connection requests are neither refused nor answered, and
    /// the clients' kernels send them again, after a second for the first time, until somebody listens (RFC 6298).
    ///
    /// # Errors
    /// Those of `bind` and `listen`.
    pub(crate) fn park(&mut self, service: &str, elsewhere: bool) -> Result<(), Errno> {
        let keys: Vec<Key> = self.state.groups.iter().filter(|group| group.service == service).map(|group| group.key).collect();
        let mut parked = Vec::new();
        for key in keys {
            let socket = self.sibling(service, &key)?;
            let backlog = if elsewhere { 0 } else { HELD_BACKLOG };
            let id = self.join(Newcomer { service, key, socket, owner: None, origin: Origin::Held, backlog, binder: None })?;
            if elsewhere {
                self.fill(service, &key, Member::Listener(id));
            }
            parked.push(id);
        }
        self.select_where(service, None, |listener| parked.contains(&listener));
        Ok(())
    }

    /// The generation is about to be told to end. Some servers shut their listeners down then, which leave their groups at once: whoever is moved into
    /// their places must not be one that is selected.
    pub(crate) fn prepare_for_end(&mut self, generation: GenerationId) {
        for id in self.state.listeners_of(generation) {
            let Some(listener) = self.state.listener(id) else { continue };
            let (service, key) = (listener.service.clone(), listener.key);
            self.meet_strangers(&service, &key);
            if let Some(group) = self.state.group_mut(&service, &key) {
                group.order.may_leave(id);
                self.add_fillers(&service, &key, 0);
            }
        }
    }

    /// Routes a probe to the generation.
    pub(crate) fn route(&mut self, generation: GenerationId, source_port: Option<u16>) {
        for id in self.state.listeners_of(generation) {
            let Some(listener) = self.state.listener(id) else { continue };
            let (service, key) = (listener.service.clone(), listener.key);
            self.meet_strangers(&service, &key);
            if let Some(group) = self.state.group_mut(&service, &key) {
                let steps = group.order.route(source_port.map(|port| (port, id)));
                let _ = self.carry_out(&service, &key, &steps, 0);
            }
        }
    }

    /// Closes our duplicate of a listener; returns how many connections waited in its queue.
    pub(crate) fn release(&mut self, id: ListenerId) -> u32 {
        let Some(listener) = self.state.listener(id).cloned() else { return 0 };
        self.meet_strangers(&listener.service, &listener.key);
        // It may have been shut down, and was let go of just now.
        let Some(listener) = self.state.listener(id).cloned() else { return 0 };
        let (service, key) = (&listener.service, &listener.key);
        self.add_fillers(service, key, 1);
        if let Some(group) = self.state.group_mut(service, key) {
            let steps = group.order.begin_leave(id);
            let _ = self.carry_out(service, key, &steps, 0);
        }
        let queued = socket::accept_queue(listener.socket).unwrap_or(0);
        self.state.listeners.remove(id.0);
        // The successor of a keeper that dies here sweeps the socket away and ends the leave.
        self.commit();
        listener.socket.close();
        if let Some(binder) = listener.binder {
            binder.close();
        }
        let lingers = strangers::listening_on(key.address.port()).iter().any(|found| found.inode == listener.inode);
        self.strangers.insert(listener.inode); // known: not to be told of
        if let Some(group) = self.state.group_mut(service, key) {
            let steps = group.order.end_leave(id, lingers.then_some(listener.inode));
            let _ = self.carry_out(service, key, &steps, 0);
        }
        self.drop_empty_groups();
        self.tell(Event::ListenerGone { listener: id });
        queued
    }

    /// Ends every hold of the service; returns how many connections waited.
    pub(crate) fn release_service(&mut self, service: &str) -> u32 {
        self.state.waiting.retain(|hold| hold.service != service);
        let listeners: Vec<ListenerId> =
            self.state.listeners.iter().filter(|listener| listener.service == service).map(|listener| listener.id).collect();
        // Anchors first: a process that keeps its own socket is then alone in its group, and the kernel finds nobody else.
        let gone = self.state.groups.extract(|group| group.service == service);
        for listener in &self.state.listeners {
            if listener.service == service {
                let _ = reuseport::unmute(listener.socket);
                if self.state.ends && self.state.is_stored(listener.inode) {
                    // Whoever comes after its server has ended waits in it until the instance is started again.
                    let _ = rustix::net::listen(listener.socket, HELD_BACKLOG);
                }
            }
        }
        self.commit();
        gone.into_iter().for_each(Group::close);
        listeners.into_iter().map(|id| self.release(id)).sum()
    }

    fn drop_empty_groups(&mut self) {
        let empty = self.state.groups.extract(|group| !group.is_used());
        if !empty.is_empty() {
            self.commit();
        }
        empty.into_iter().for_each(Group::close);
    }

    /// Tells the brain what is now known of a listener.
    pub(crate) fn tell_listener(&mut self, id: ListenerId) {
        if let Some(listener) = self.state.listener(id) {
            let facts = self.state.facts(listener);
            self.tell(Event::Listener(facts));
        }
    }

    /// Makes the kernel agree with the mirror after a predecessor's death: a join that did not happen is forgotten, and
    /// every program and mute is stated again.
    pub(crate) fn restate_groups(&mut self) {
        let listening = |socket: TableFd| socket::is_listening(socket).unwrap_or(false);
        let absent: Vec<ListenerId> =
            self.state.listeners.iter().filter(|listener| !listening(listener.socket)).map(|listener| listener.id).collect();
        for id in absent {
            let Some(listener) = self.state.listener(id).cloned() else { continue };
            if let Some(group) = self.state.group_mut(&listener.service, &listener.key) {
                group.order.not_joined(id);
            }
            self.state.listeners.remove(id.0);
            listener.socket.close();
            if let Some(binder) = listener.binder {
                binder.close();
            }
        }
        let gone = |group: &Group| {
            let members = group.order.members().iter();
            let gone = members.filter_map(|member| match member {
                Member::Listener(id) if self.state.listener(*id).is_none() => Some(*id),
                Member::Listener(_) | Member::Anchor | Member::Filler(_) | Member::Foreign(_) => None,
            });
            (group.number, gone.collect::<Vec<_>>())
        };
        let left: Vec<(u64, Vec<ListenerId>)> = self.state.groups.iter().map(gone).filter(|(_, gone)| !gone.is_empty()).collect();
        for (number, gone) in left {
            if let Some(group) = self.state.groups.get_mut(number) {
                for id in gone {
                    group.order.end_leave(id, None);
                }
            }
        }
        for group in &self.state.groups {
            let mut steps = group.order.restate();
            if !listening(group.anchor) {
                steps.splice(0..0, [Step::Mute(Member::Anchor, None), Step::Listen(Member::Anchor)]);
            }
            let _ = self.carry_out(&group.service, &group.key, &steps, 0);
        }
        self.drop_empty_groups();
    }
}
