//! The ends of processes: statuses that no death of ours loses, and what they mean for listeners.

use crate::groups::HELD_BACKLOG;
use crate::keeper::{Keeper, Source};
use crate::protocol::{Event, ExitStatus, GenerationId, ListenerId, Scope, Trap};
use crate::spawn::exit_status;
use crate::state::Generation;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::process::Signal;
use stayput_kernel::process::{self, Ended};
use stayput_kernel::table::TableFd;
use stayput_kernel::{clock, socket};
use std::collections::BTreeSet;

/// How long a queue may be non-empty before it is asked whether anybody still has the socket.
const QUEUE_PATIENCE_NS: u64 = 1_000_000_000;
const QUEUE_PATIENCE_MAX_NS: u64 = 60_000_000_000;

/// So many daemons died in a row, each at once, that a stop is not left to the next one.
const HOPELESS: u32 = 5;
/// Between SIGTERM and the kill when the keeper itself stops the instance.
const HEADLESS_GRACE_NS: u64 = 10_000_000_000;

/// A second look at a queue in which a connection waited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueCheck {
    listener: ListenerId,
    pub(crate) due: u64,
    patience: u64,
}

impl Keeper {
    pub(crate) fn on_guard_pipe(&mut self) {
        let mut bytes = [0_u8; 256];
        let Ok(pipe) = TableFd::from_number(self.life.guard_descriptors().pipe_read) else { return };
        while let Ok(length) = rustix::io::read(pipe, &mut bytes) {
            if length == 0 {
                break;
            }
            for byte in &bytes[..length] {
                let (signal, hangup) = (i32::from(byte & 0x7f), byte & 0x80 != 0);
                if signal != 0 {
                    self.state.signals.push((signal, hangup));
                }
            }
        }
        self.reap();
        self.pass_signals();
    }

    /// Signals wait for a daemon that can take them.
    pub(crate) fn pass_signals(&mut self) {
        if self.state.daemon.channel.is_some() && self.state.daemon.greeted && !self.state.signals.is_empty() {
            for (signal, hangup) in std::mem::take(&mut self.state.signals) {
                self.tell(Event::Signalled { signal, hangup });
            }
        }
    }

    /// A stop that no daemon can carry out, because none can be started: the keeper does it, without finesse. All processes get
    /// SIGTERM, and what is left after the grace is killed.
    pub(crate) fn stop_headless(&mut self) {
        let now = clock::monotonic_ns();
        if let Some((at, status)) = self.headless_end {
            if at <= now || self.state.generations.iter().all(|generation| generation.tree_empty) {
                self.end(status);
            }
            return;
        }
        let stops = [Signal::TERM, Signal::INT, Signal::QUIT].map(Signal::as_raw);
        let stop = self.state.signals.iter().find(|(signal, hangup)| stops.contains(signal) || *hangup).map(|(signal, _)| *signal);
        let Some(signal) = stop.filter(|_| self.state.daemon.quick_deaths > HOPELESS) else { return };
        self.state.ends = true;
        self.headless_end = Some((now + HEADLESS_GRACE_NS, 128 + signal as u8));
        let services: BTreeSet<String> = self.state.listeners.iter().map(|listener| listener.service.clone()).collect();
        for service in services {
            self.release_service(&service);
        }
        let living: Vec<GenerationId> =
            self.state.generations.iter().filter(|generation| !generation.tree_empty).map(|generation| generation.id).collect();
        for id in living {
            let _ = self.signal(id, Signal::TERM.as_raw(), Scope::Tree);
        }
    }

    /// Our own children and those that the guard reaped.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some((pid, ended))) = process::next_ended() {
            self.on_exit(pid, ended);
            self.commit();
            process::reap(pid);
        }
        while let Some((place, pid, ended)) = self.life.first_exit() {
            self.on_exit(pid, ended);
            self.commit();
            self.life.drop_exit(place);
        }
    }

    pub(crate) fn on_exit(&mut self, pid: i32, ended: Ended) {
        if pid == self.state.daemon.pid {
            self.on_daemon_exit();
            return;
        }
        let generation = self.state.generations.iter().find(|generation| generation.pid == pid && generation.exit.is_none());
        if let Some(id) = generation.map(|generation| generation.id) {
            self.on_main_exit(id, exit_status(ended));
        } else {
            self.look_at_untrapped_trees();
        }
    }

    pub(crate) fn on_main_exit(&mut self, id: GenerationId, status: ExitStatus) {
        self.on_report(id);
        let Some(generation) = self.state.generation_mut(id) else { return };
        generation.exit = Some(status);
        let hung_up = generation.calls.is_none();
        // Whoever else of it may still accept: the queue must be long from now on.
        for listener in self.state.listeners.iter().filter(|listener| listener.owner == Some(id)) {
            let _ = rustix::net::listen(listener.socket, HELD_BACKLOG);
        }
        self.learn_from_end(id);
        self.tell(Event::MainExited { generation: id, status });
        if hung_up {
            self.look_at_tree(id);
        } else if self.has_hung_up(id) {
            self.close_calls(id);
        } else {
            self.disown_abandoned(id);
        }
    }

    fn has_hung_up(&self, id: GenerationId) -> bool {
        let Some(calls) = self.state.generation(id).and_then(|generation| generation.calls) else { return true };
        let mut sources = [PollFd::new(&calls, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut sources, Some(&at_once)).is_ok() && sources[0].revents().contains(PollFlags::HUP)
    }

    /// The filter's descriptor hung up: no process is left under it.
    pub(crate) fn on_tree_empty(&mut self, id: GenerationId) {
        self.reap();
        self.close_calls(id);
    }

    /// What reaping itself calls: it must not reap. An exit that the guard handed over would be dropped twice, and the one after
    /// it with it.
    fn close_calls(&mut self, id: GenerationId) {
        let Some(generation) = self.state.generation_mut(id) else { return };
        if let Some(calls) = generation.calls.take() {
            self.commit();
            calls.close();
        }
        if self.state.generation(id).is_some_and(|generation| generation.exit.is_some()) {
            self.tree_is_empty(id);
        }
    }

    pub(crate) fn tree_is_empty(&mut self, id: GenerationId) {
        let Some(generation) = self.state.generation_mut(id).filter(|generation| !generation.tree_empty) else { return };
        generation.tree_empty = true;
        self.disown(&self.state.listeners_of(id));
        self.tell(Event::TreeEmpty { generation: id });
    }

    /// For a generation without a filter the end of its tree is found by looking, whenever one of our children ended.
    pub(crate) fn look_at_untrapped_trees(&mut self) {
        let untrapped = |generation: &&Generation| generation.exit.is_some() && !generation.tree_empty && generation.calls.is_none();
        let ids: Vec<GenerationId> = self.state.generations.iter().filter(untrapped).map(|generation| generation.id).collect();
        for id in ids {
            self.look_at_tree(id);
        }
    }

    pub(crate) fn look_at_tree(&mut self, id: GenerationId) {
        let trapped = self.state.generation(id).is_some_and(|generation| generation.trap == Some(Trap::Active));
        if trapped || self.members(id).is_empty() {
            self.tree_is_empty(id);
        }
    }

    /// Listeners of which no living process of the generation has a copy any more.
    pub(crate) fn disown_abandoned(&mut self, id: GenerationId) {
        let held = self.state.listeners_of(id);
        if held.is_empty() {
            return;
        }
        let members = self.members(id);
        if members.is_empty() && !self.has_hung_up(id) {
            // Somebody lives, and forked while we looked. Where a connection waits it is looked again.
            return;
        }
        let mut present = BTreeSet::new();
        for seen in members {
            match self.proc.socket_inodes(seen.pid) {
                Ok(sockets) => present.extend(sockets.into_iter().map(|socket| socket.inode)),
                Err(error) if error.is_gone() => {}
                Err(_) => return, // cannot be seen: assume that it has them
            }
        }
        let abandoned = |id: &ListenerId| self.state.listener(*id).is_some_and(|listener| !present.contains(&listener.inode));
        let abandoned: Vec<ListenerId> = held.into_iter().filter(abandoned).collect();
        self.disown(&abandoned);
    }

    /// Nobody accepts on these any more. Their queues are long from now on and go to the next who binds; new connections go
    /// to the other workers of the generation, if it has any.
    pub(crate) fn disown(&mut self, listeners: &[ListenerId]) {
        for id in listeners {
            let Some(listener) = self.state.listener_mut(*id) else { continue };
            listener.owner = None;
            let (socket, binder) = (listener.socket, listener.binder.take());
            let (service, key) = (listener.service.clone(), listener.key);
            let _ = rustix::net::listen(socket, HELD_BACKLOG);
            if !self.selected_owners(&service, &key).is_empty()
                && let Some(group) = self.state.group_mut(&service, &key)
            {
                let steps = group.order.deselect(*id);
                let _ = self.carry_out(&service, &key, &steps, 0);
            }
            self.commit();
            if let Some(binder) = binder {
                binder.close();
            }
            self.tell_listener(*id);
        }
    }

    // --- listeners that nobody has any more although their generation lives ---

    /// Watches for the end of the process that bound it, and for connections that wait on it.
    pub(crate) fn watch_listener(&self, id: ListenerId) {
        if let Some(listener) = self.state.listener(id) {
            if let Some(binder) = listener.binder {
                self.watch(Source::Binder(id), binder);
            }
            self.watch_once(Source::Queue(id), listener.socket);
        }
    }

    /// The process that bound it has ended.
    pub(crate) fn on_binder_exit(&mut self, id: ListenerId) {
        if let Some(binder) = self.state.listener_mut(id).and_then(|listener| listener.binder.take()) {
            self.commit();
            binder.close();
        }
        if let Some(owner) = self.state.listener(id).and_then(|listener| listener.owner) {
            self.disown_abandoned(owner);
        }
    }

    /// Its server has called `shutdown(2)` on the listener (as WEBrick does when it is told to end), which ends it for everybody who has it. The kernel
    /// took it out of the group and moved the last member into its place. Nothing that waited is left.
    ///
    /// If new connections went there, ours listens again at once, for the next who binds.
    pub(crate) fn on_shut(&mut self, id: ListenerId) {
        let Some(listener) = self.state.listener(id).cloned() else { return };
        if socket::is_listening(listener.socket).unwrap_or(true) {
            return;
        }
        let (service, key) = (&listener.service, &listener.key);
        if let Some(group) = self.state.group_mut(service, key) {
            group.order.begin_leave(id);
            let steps = group.order.end_leave(id, None);
            let alone = group.order.selected().is_empty();
            let _ = self.carry_out(service, key, &steps, 0);
            if alone && let Some(group) = self.state.group_mut(service, key) {
                let steps = group.order.join(id);
                if let Some(listener) = self.state.listener_mut(id) {
                    listener.owner = None;
                }
                self.commit();
                if self.carry_out(service, key, &steps, HELD_BACKLOG).is_ok() {
                    self.add_fillers(service, key, 0);
                    self.watch_listener(id);
                    self.tell_listener(id);
                    return;
                }
            }
        }
        self.release(id);
    }

    /// A connection waits. That is no news yet: it is looked at again a while later.
    pub(crate) fn on_queue(&mut self, id: ListenerId) {
        if self.state.listener(id).is_some_and(|listener| !socket::is_listening(listener.socket).unwrap_or(true)) {
            return self.on_shut(id);
        }
        let due = clock::monotonic_ns() + QUEUE_PATIENCE_NS;
        self.queue_checks.retain(|check| check.listener != id);
        self.queue_checks.push(QueueCheck { listener: id, due, patience: QUEUE_PATIENCE_NS });
    }

    /// Queues that were not empty a while ago and are not now: has somebody the socket? A server that is merely slow does, and is
    /// looked at ever more rarely.
    pub(crate) fn check_queues(&mut self) {
        let now = clock::monotonic_ns();
        let (due, later): (Vec<QueueCheck>, Vec<QueueCheck>) =
            std::mem::take(&mut self.queue_checks).into_iter().partition(|check| check.due <= now);
        self.queue_checks = later;
        for check in due {
            let Some(listener) = self.state.listener(check.listener).cloned() else { continue };
            let Some(owner) = listener.owner else { continue };
            if socket::accept_queue(listener.socket).unwrap_or(0) == 0 {
                self.watch_once(Source::Queue(check.listener), listener.socket);
                continue;
            }
            self.disown_abandoned(owner);
            if self.state.listener(check.listener).is_some_and(|listener| listener.owner.is_some()) {
                let patience = (check.patience * 2).min(QUEUE_PATIENCE_MAX_NS);
                self.queue_checks.push(QueueCheck { due: now + patience, patience, ..check });
            }
        }
    }

    /// A child that was forked and not yet written down is found by its cookie; one that is not there was never forked.
    pub(crate) fn find_lost_children(&mut self) {
        let lost: Vec<GenerationId> =
            self.state.generations.iter().filter(|generation| generation.pid == 0).map(|generation| generation.id).collect();
        for id in lost {
            let oldest = self.members(id).into_iter().map(|seen| seen.pid).min();
            let pidfd = oldest.and_then(|pid| process::addressee(pid).ok());
            let Some(generation) = self.state.generation_mut(id) else { continue };
            if let (Some(pid), Some(pidfd)) = (oldest, pidfd) {
                generation.pid = pid;
                generation.pidfd = Some(TableFd::keep(pidfd));
            } else {
                generation.exit = Some(ExitStatus::Unknown);
                generation.tree_empty = true;
            }
        }
    }

    /// A main process that is gone and whose status died with our predecessor.
    pub(crate) fn find_lost_exits(&mut self) {
        let gone = |generation: &Generation| generation.exit.is_none() && generation.pid != 0 && self.proc.stat(generation.pid).is_err();
        let gone: Vec<GenerationId> =
            self.state.generations.iter().filter(|generation| gone(generation)).map(|generation| generation.id).collect();
        for id in gone {
            self.on_main_exit(id, ExitStatus::Unknown);
        }
        // Children of a guard that died belong to somebody else now: only their descriptors tell us of their end.
        let ours = [self.life.guard_pid(), self.life.keeper_pid()];
        for generation in self.state.generations.iter().filter(|generation| generation.exit.is_none()) {
            let stray = self.proc.stat(generation.pid).is_ok_and(|stat| !ours.contains(&stat.ppid));
            if let (true, Some(pidfd)) = (stray, generation.pidfd) {
                self.watch(Source::Stray(generation.id), pidfd);
            }
        }
    }

    pub(crate) fn on_stray_exit(&mut self, id: GenerationId) {
        if let Some(pidfd) = self.state.generation(id).and_then(|generation| generation.pidfd) {
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        if self.state.generation(id).is_some_and(|generation| generation.exit.is_none()) {
            self.on_main_exit(id, ExitStatus::Unknown);
        }
    }
}
