//! The keeper's side of its protocol: requests of the brain carried out, events told.
//!
//! A request leaves the socket's queue only after it was acted on and written down, so the successor of a keeper that dies
//! meanwhile finds it there. It is then carried out again, which changes nothing.

use crate::client::{self, ChannelError, Take};
use crate::keeper::Keeper;
use crate::protocol::{Event, FromKeeper, GenerationId, ListenerId, Reply, Request, ToKeeper};
use crate::records::Record;
use crate::spawn::borrowed;
use crate::state::Generation;
use rustix::event::epoll;
use rustix::io::Errno;
use stayput_kernel::process;
use stayput_kernel::table::TableFd;
use std::collections::BTreeSet;

/// Most events that are kept for a daemon that does not read. One that is so far behind is replaced: its successor starts from a dump.
const OUTBOX_MAX: usize = 10_000;

impl Keeper {
    /// Tells the brain, if there is one; if not, the next one's dump says it.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.state.daemon.channel.is_some() {
            self.send(FromKeeper::Event(event));
        }
    }

    pub(crate) fn send(&mut self, message: FromKeeper) {
        self.outbox.push_back(message);
        self.flush();
    }

    pub(crate) fn flush(&mut self) {
        let Some(channel) = self.state.daemon.channel else {
            self.outbox.clear();
            return;
        };
        while let Some(message) = self.outbox.front() {
            match client::send(channel, message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(ChannelError::Io(Errno::AGAIN)) if self.outbox.len() <= OUTBOX_MAX => return,
                Err(_) => {
                    self.replace_daemon();
                    return;
                }
            }
        }
    }

    /// A daemon that does not read or does not speak our language: its successor starts from a dump.
    pub(crate) fn replace_daemon(&mut self) {
        self.outbox.clear();
        if let Some(pidfd) = self.state.daemon.pidfd {
            let _ = process::signal(pidfd, rustix::process::Signal::KILL.as_raw());
        }
    }

    pub(crate) fn on_channel(&mut self, flags: epoll::EventFlags) {
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

    /// Acts on the next request; false if there is none.
    pub(crate) fn take_request(&mut self) -> Result<bool, ChannelError> {
        let Some(channel) = self.state.daemon.channel else { return Ok(false) };
        let Some((message, _)) = client::receive::<ToKeeper>(channel, Take::Look)? else { return Ok(false) };
        self.on_request(message);
        self.commit();
        // Acted on and written down: now it may leave the queue.
        let _ = client::drop_first(channel);
        Ok(true)
    }

    /// What a daemon asked for before it died is still done.
    pub(crate) fn take_last_requests(&mut self) {
        while matches!(self.take_request(), Ok(true)) {}
    }

    pub(crate) fn on_request(&mut self, message: ToKeeper) {
        let (reply, table) = self.perform(message.request);
        let reply = FromKeeper::Reply { seq: message.seq, reply };
        self.flush();
        let Some(channel) = self.state.daemon.channel else { return };
        if self.outbox.is_empty() && client::send(channel, &reply, &borrowed(&table)).is_ok() {
            self.pass_signals(); // after its first dump, what came before it
            return;
        }
        if table.is_empty() {
            self.send(reply);
        } else {
            self.replace_daemon(); // descriptors cannot wait in the outbox
        }
    }

    pub(crate) fn perform(&mut self, request: Request) -> (Reply, Vec<TableFd>) {
        let reply = match request {
            Request::Dump => {
                self.state.daemon.greeted = true;
                let blobs = self.journal.all().filter_map(|(record, bytes)| match record {
                    Record::Blob(key) => Some((key.clone(), bytes)),
                    Record::Root | Record::Generation(_) | Record::Listener(_) | Record::Group(_) => None,
                });
                let pids = (self.life.guard_pid(), self.life.keeper_pid());
                Reply::Dump(Box::new(self.state.dump(blobs.collect(), pids, self.life.keeper_deaths())))
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
                Ok(()) => return self.output_reply(spec.generation, true),
                Err(error) => Reply::Failed { what: error.what, errno: error.errno.raw_os_error() },
            },
            Request::Steer { service, generation } => {
                self.steer(&service, generation);
                Reply::Done
            }
            Request::Park { service } => match self.park(&service) {
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
            Request::ReleaseService { service } => Reply::Released { queued: self.release_service(&service) },
            Request::Fetch { generation } => return self.output_reply(generation, false),
            Request::Forget { generation } => {
                self.forget(generation);
                Reply::Done
            }
            Request::Exit { status } => {
                self.end(status);
                Reply::Done
            }
        };
        (reply, Vec::new())
    }

    pub(crate) fn end(&mut self, status: u8) {
        let services: BTreeSet<String> = self.state.listeners.iter().map(|listener| listener.service.clone()).collect();
        for service in services {
            self.release_service(&service);
        }
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
