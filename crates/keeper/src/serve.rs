//! The keeper's side of its protocol: requests of the brain carried out, events told.
//!
//! A request leaves the socket's queue only after it was acted on and written down, so the successor of a keeper that dies
//! meanwhile finds it there. It is then carried out again, which changes nothing.

use crate::client::{self, ChannelError, Take};
use crate::keeper::Keeper;
use crate::protocol::{Dump, Event, FromKeeper, GenerationId, ListenerId, Reply, Request, ToKeeper};
use crate::records::Record;
use crate::spawn::borrowed;
use crate::state::Generation;
use rustix::event::epoll;
use rustix::io::Errno;
use stayput_kernel::process;
use std::collections::BTreeSet;

/// Most messages that are kept for a daemon that does not read. One that is so far behind is replaced: its successor starts from a dump.
const OUTBOX_MAX: usize = 100_000;

/// A message that waits until the daemon can take it.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(FromKeeper),
    /// The reply with this number, with a generation's output beside it: the descriptors are those that it has when it is sent.
    Output {
        seq: u64,
        generation: GenerationId,
        spawned: bool,
    },
}

/// What a request is answered with.
pub(crate) enum Answer {
    Reply(Reply),
    /// The output of a generation, after a spawn or again.
    Output {
        generation: GenerationId,
        spawned: bool,
    },
}

impl Keeper {
    /// Tells the brain, if there is one; if not, the next one's dump says it.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.state.daemon.channel.is_some() {
            self.send(FromKeeper::Event(event));
        }
    }

    pub(crate) fn send(&mut self, message: FromKeeper) {
        self.outbox.push_back(Outgoing::Message(message));
        self.flush();
    }

    /// Sends what waits, as far as the daemon's queue takes it; the rest goes when there is room.
    pub(crate) fn flush(&mut self) {
        let Some(channel) = self.state.daemon.channel else {
            self.outbox.clear();
            return;
        };
        while let Some(first) = self.outbox.front() {
            let sent = match first {
                Outgoing::Message(message) => client::send(channel, message, &[]),
                Outgoing::Output { seq, generation, spawned } => {
                    let (reply, table) = self.output_reply(*generation, *spawned);
                    client::send(channel, &FromKeeper::Reply { seq: *seq, reply }, &borrowed(&table))
                }
            };
            match sent {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(ChannelError::Io(Errno::AGAIN)) if self.outbox.len() <= OUTBOX_MAX => {
                    self.watch_channel();
                    return;
                }
                Err(_) => {
                    self.replace_daemon();
                    return;
                }
            }
        }
        if self.awaits_room {
            self.watch_channel();
        }
        self.drop_answered();
    }

    /// A daemon that does not read or does not speak our language: its successor starts from a dump.
    pub(crate) fn replace_daemon(&mut self) {
        self.outbox.clear();
        if let Some(pidfd) = self.state.daemon.pidfd {
            let _ = process::signal(pidfd, rustix::process::Signal::KILL.as_raw());
        }
    }

    pub(crate) fn on_channel(&mut self, flags: epoll::EventFlags) {
        self.flush();
        match self.take_request() {
            Ok(true) => {}
            Ok(false) if !flags.contains(epoll::EventFlags::HUP) => {}
            // Its exit may follow or, if a dead guard was its parent, not be told to us at all.
            Ok(false) | Err(ChannelError::Closed) => {
                self.replace_daemon();
                self.on_daemon_exit();
            }
            Err(_) => self.replace_daemon(),
        }
    }

    /// Acts on the next request; false if there is none. While the daemon's queue is full none is taken: so a keeper that dies has at
    /// most one reply that was not sent, and its request is still there.
    pub(crate) fn take_request(&mut self) -> Result<bool, ChannelError> {
        let Some(channel) = self.state.daemon.channel.filter(|_| self.outbox.is_empty()) else { return Ok(false) };
        let Some((message, _)) = client::receive::<ToKeeper>(channel, Take::Look)? else { return Ok(false) };
        self.on_request(message);
        self.commit();
        self.unanswered = true;
        self.drop_answered();
        Ok(true)
    }

    /// A request that was acted on, written down and answered may leave the queue.
    fn drop_answered(&mut self) {
        if let Some(channel) = self.state.daemon.channel.filter(|_| self.unanswered && self.outbox.is_empty()) {
            let _ = client::drop_first(channel);
            self.unanswered = false;
        }
    }

    /// What a daemon asked for before it died is still done.
    pub(crate) fn take_last_requests(&mut self) {
        self.outbox.clear();
        self.drop_answered();
        while matches!(self.take_request(), Ok(true)) {
            self.outbox.clear();
            self.drop_answered();
        }
    }

    pub(crate) fn on_request(&mut self, message: ToKeeper) {
        let outgoing = match self.perform(message.request) {
            Answer::Reply(reply) => Outgoing::Message(FromKeeper::Reply { seq: message.seq, reply }),
            Answer::Output { generation, spawned } => Outgoing::Output { seq: message.seq, generation, spawned },
        };
        self.outbox.push_back(outgoing);
        self.flush();
        self.pass_signals(); // after its first dump, what came before it
    }

    pub(crate) fn perform(&mut self, request: Request) -> Answer {
        let reply = match request {
            Request::Dump => {
                self.state.daemon.greeted = true;
                let blobs = self.journal.all().filter_map(|(record, bytes)| match record {
                    Record::Blob(key) => Some((key.clone(), bytes)),
                    Record::Root | Record::Generation(_) | Record::Listener(_) | Record::Group(_) => None,
                });
                let pids = (self.life.guard_pid(), self.life.keeper_pid());
                let dump = self.state.dump(blobs.collect(), pids, self.life.keeper_deaths());
                Reply::Dump(Box::new(Dump { left: self.left(), ..dump }))
            }
            Request::SetBlobs(blobs) => {
                // What is ours to write down must always find room.
                if blobs.iter().map(|(key, bytes)| key.len() + bytes.len()).sum::<usize>() > self.journal.room() / 2 {
                    Reply::Failed { what: "there is no room for what is to be kept".to_owned(), errno: Errno::NOSPC.raw_os_error() }
                } else {
                    self.state.new_blobs.extend(blobs);
                    Reply::Done
                }
            }
            Request::Hold { service, address } => {
                self.hold(service, address);
                Reply::Done
            }
            Request::Spawn(spec) => match self.spawn(&spec) {
                Ok(()) => return Answer::Output { generation: spec.generation, spawned: true },
                Err(error) => Reply::Failed { what: error.what, errno: error.errno.raw_os_error() },
            },
            Request::Steer { service, generation, share } => {
                let groups = || self.state.groups.iter().filter(|group| group.service == service);
                let member = |group: &crate::state::Group| self.state.listeners_of(generation).iter().any(|id| group.order.has(*id));
                if share.is_some() && !groups().any(member) {
                    let what = format!("generation {} of {service} has no listener whose connections can be shared out", generation.0);
                    Reply::Failed { what, errno: 0 }
                } else {
                    self.steer(&service, generation, share);
                    Reply::Done
                }
            }
            Request::Park { service, elsewhere } => match self.park(&service, elsewhere) {
                Ok(()) => Reply::Done,
                Err(errno) => Reply::Failed { what: format!("park {service}"), errno: errno.raw_os_error() },
            },
            Request::Route { generation, source_port } => {
                self.route(generation, source_port);
                Reply::Done
            }
            Request::Signal { generation, signal, scope } => match self.signal(generation, signal, scope) {
                Ok(()) => Reply::Done,
                Err(errno) => {
                    Reply::Failed { what: format!("signal {signal} to generation {}", generation.0), errno: errno.raw_os_error() }
                }
            },
            Request::SignalLeft { service, generation, signal } => match self.signal_left(&service, generation, signal) {
                Ok(()) => Reply::Done,
                Err(errno) => {
                    let what = format!("signal {signal} to what an earlier life left of {service}, generation {}", generation.0);
                    Reply::Failed { what, errno: errno.raw_os_error() }
                }
            },
            Request::Release { generation } => {
                let listeners: Vec<ListenerId> = self
                    .state
                    .listeners
                    .iter()
                    .filter(|listener| {
                        listener.owner == Some(generation) || (listener.owner.is_none() && listener.last_owner == Some(generation))
                    })
                    .map(|listener| listener.id)
                    .collect();
                Reply::Released { queued: listeners.into_iter().map(|id| self.release(id)).sum() }
            }
            Request::Unhold { service, address } => Reply::Released { queued: self.unhold(&service, address) },
            Request::LetGo { service, address } => Reply::Released { queued: self.let_go(&service, address) },
            Request::ReleaseService { service, ends } => {
                self.state.ends |= ends;
                Reply::Released { queued: self.release_service(&service) }
            }
            Request::Fetch { generation } => return Answer::Output { generation, spawned: false },
            Request::Forget { generation } => {
                self.forget(generation);
                Reply::Done
            }
            Request::Exit { status } => {
                self.end(status);
                Reply::Done
            }
        };
        Answer::Reply(reply)
    }

    pub(crate) fn end(&mut self, status: u8) {
        self.state.ends = true;
        let services: BTreeSet<String> = self.state.listeners.iter().map(|listener| listener.service.clone()).collect();
        for service in services {
            self.release_service(&service);
        }
        self.kill_left();
        let generations: Vec<GenerationId> = self.state.generations.iter().map(|generation| generation.id).collect();
        for id in generations {
            if !self.state.generation(id).is_some_and(|generation| generation.tree_empty) {
                self.kill_tree(id);
            }
            self.forget(id);
        }
        self.life.decide_exit(status);
        self.ended = true;
    }

    /// All facts again, for a daemon that may have missed some. They repeat what it may know already.
    pub(crate) fn tell_everything(&mut self) {
        let listeners: Vec<ListenerId> = self.state.listeners.iter().map(|listener| listener.id).collect();
        for id in listeners {
            self.tell_listener(id);
        }
        let generations: Vec<Generation> = self.state.generations.iter().cloned().collect();
        for generation in generations {
            if let (true, Some(trap)) = (generation.executed, generation.trap) {
                self.tell(Event::Executed { generation: generation.id, trap });
            }
            if !generation.unlimited.is_empty() {
                self.tell(Event::Unlimited { generation: generation.id, limits: generation.unlimited.clone() });
            }
            if let Some((stage, errno)) = generation.exec_failed {
                self.tell(Event::ExecFailed { generation: generation.id, stage, errno });
            }
            if let Some(status) = generation.exit {
                self.tell(Event::MainExited { generation: generation.id, status });
            }
            if generation.tree_empty {
                self.tell(Event::TreeEmpty { generation: generation.id });
            }
        }
    }
}
