//! The wire to the keeper: requests in their order, replies to whom they belong.

use crate::watch::{Channel, watch};
use rustix::io::Errno;
use stayput_keeper::client::{ChannelError, KeeperClient};
use stayput_keeper::protocol::{FromKeeper, GenerationId, Reply, Request, ToKeeper};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, MutexGuard, Notify, oneshot};

/// What a request was about, for the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Dump,
    Spawn(GenerationId),
    Fetch(GenerationId),
    Steer(GenerationId),
    Park(String),
    Release(GenerationId),
    Hold(String, SocketAddr),
    /// Nothing follows from its reply, but a failure is worth a line.
    Other(&'static str),
    /// Nothing follows from its reply.
    Whatever,
}

#[derive(Debug)]
enum Pending {
    Asked(Asked),
    Waits(oneshot::Sender<Reply>),
}

#[derive(Debug, Default)]
struct State {
    seq: u64,
    queue: VecDeque<ToKeeper>,
    pending: BTreeMap<u64, Pending>,
    /// Replies of our own to requests that no packet can hold.
    refused: VecDeque<(Asked, Reply)>,
}

impl State {
    /// The request is larger than a packet may be: it was never sent.
    fn refuse(&mut self, seq: u64) {
        let reply = Reply::Failed { what: "the request is larger than a packet to the keeper may be".to_owned(), errno: 0 };
        match self.pending.remove(&seq) {
            Some(Pending::Asked(asked)) => self.refused.push_back((asked, reply)),
            // The task may have been called off.
            Some(Pending::Waits(sender)) => drop(sender.send(reply)),
            None => {}
        }
    }
}

/// The keeper's socket.
#[derive(Debug)]
pub(crate) struct Link {
    socket: AsyncFd<Channel>,
    state: RefCell<State>,
    queued: Notify,
    routing: Mutex<()>,
}

/// What came from the keeper.
#[derive(Debug)]
pub(crate) enum Incoming {
    Reply(Asked, Reply, Vec<OwnedFd>),
    Event(stayput_keeper::protocol::Event),
    /// A reply for a task, delivered.
    Nothing,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: watch(Channel(KeeperClient::new(socket)), Interest::READABLE | Interest::WRITABLE)?,
            state: RefCell::default(),
            queued: Notify::new(),
            routing: Mutex::new(()),
        })
    }

    /// Sends a request; its reply comes back from [`Link::next`].
    pub(crate) fn ask(&self, request: Request, asked: Asked) {
        self.push(request, Pending::Asked(asked));
    }

    /// Sends a request and waits for its reply (in a task: somebody has to go on calling [`Link::next`]). `None`: the keeper is gone.
    pub(crate) async fn call(&self, request: Request) -> Option<Reply> {
        let (sender, receiver) = oneshot::channel();
        self.push(request, Pending::Waits(sender));
        receiver.await.ok()
    }

    /// Whoever wants a connection of its own routed has this until the connection was asked for: the keeper routes one at a time.
    pub(crate) async fn routing(&self) -> MutexGuard<'_, ()> {
        self.routing.lock().await
    }

    fn push(&self, request: Request, pending: Pending) {
        let mut state = self.state.borrow_mut();
        state.seq += 1;
        let seq = state.seq;
        state.pending.insert(seq, pending);
        state.queue.push_back(ToKeeper { seq, request });
        if self.send_queued(&mut state).is_err() {
            // That the keeper is gone shows when we read.
            state.queue.clear();
        }
        if !state.queue.is_empty() {
            self.queued.notify_one();
        }
    }

    fn send_queued(&self, state: &mut State) -> Result<(), ChannelError> {
        while let Some(message) = state.queue.front() {
            match self.socket.get_ref().0.send(message, &[]) {
                Ok(()) => drop(state.queue.pop_front()),
                Err(ChannelError::Io(Errno::AGAIN)) => return Ok(()),
                Err(ChannelError::Io(Errno::MSGSIZE)) => {
                    let seq = message.seq;
                    state.queue.pop_front();
                    state.refuse(seq);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what the socket did not take at once. Never returns; to be polled beside [`Link::next`].
    pub(crate) async fn drive(&self) -> ChannelError {
        loop {
            let idle = self.state.borrow().queue.is_empty();
            if idle {
                self.queued.notified().await;
                continue;
            }
            let Ok(mut ready) = self.socket.writable().await else { return ChannelError::Closed };
            let mut state = self.state.borrow_mut();
            if let Err(error) = self.send_queued(&mut state) {
                return error;
            }
            if !state.queue.is_empty() {
                ready.clear_ready();
            }
        }
    }

    /// The next thing from the keeper.
    pub(crate) async fn next(&self) -> Result<Incoming, ChannelError> {
        loop {
            let refused = self.state.borrow_mut().refused.pop_front();
            if let Some((asked, reply)) = refused {
                return Ok(Incoming::Reply(asked, reply, Vec::new()));
            }
            let Ok(mut ready) = self.socket.readable().await else { return Err(ChannelError::Closed) };
            match self.socket.get_ref().0.receive()? {
                None => ready.clear_ready(),
                Some((FromKeeper::Event(event), _)) => return Ok(Incoming::Event(event)),
                Some((FromKeeper::Reply { seq, reply }, descriptors)) => {
                    let pending = self.state.borrow_mut().pending.remove(&seq);
                    return Ok(match pending {
                        Some(Pending::Asked(asked)) => Incoming::Reply(asked, reply, descriptors),
                        Some(Pending::Waits(sender)) => {
                            // The task may have been called off.
                            let _ = sender.send(reply);
                            Incoming::Nothing
                        }
                        None => Incoming::Nothing,
                    });
                }
            }
        }
    }
}
