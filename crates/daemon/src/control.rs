//! The control socket: who asks, what they ask, and the reply after the effect.
//!
//! A connection is a small task that reads requests and writes answers; the reactor decides (`requests`), and what takes time is
//! waited for there (`waiting`, `rolling`). Peers that are neither root nor our own user are hung up on, lines are bounded, and there
//! are only so many connections, of which only so many may be streams: when there are more, who asks for nothing, or does not read, makes room (`room`).
//! A connection has one request at work: who asks faster than it is answered waits in the kernel's buffer, and slows nobody else.

mod asker;
mod config;
mod holding;
mod requests;
mod rolling;
mod room;
mod waiting;

pub(crate) use config::ConfigRead;
pub(crate) use holding::Holds;
pub(crate) use rolling::Rolling;
pub(crate) use waiting::{Waiter, are_reloading};

use self::asker::Asker;
use self::room::{Idle, Room};
use crate::events::Reader;
use crate::reactor::{Identity, Message};
use stayput_wire::codec::{self, ANSWER_LINE_MAX, LineBuffer, REQUEST_LINE_MAX};
use stayput_wire::{Answer, Failure, FailureKind, Reply, Request, VERSION};
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// Streams among them.
const STREAMS: usize = 48;
/// A peer that takes no answer for so long is hung up on, also if nobody needs its place.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// A reader of a stream may be put to sleep for a while (Ctrl-Z, a full pipe): it holds nothing but its place.
const STREAM_WRITE_TIME: Duration = Duration::from_mins(5);
/// After an error of `accept` (out of descriptors, most likely) it is not tried again for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the answers to one request go. Counts those that are not written yet, so that the end can wait for them.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    to: UnboundedSender<Outgoing>,
    asker: Rc<Asker>,
    unwritten: Rc<Cell<usize>>,
}

/// What a connection is to write.
#[derive(Debug)]
enum Outgoing {
    Answer(Box<Answer>),
    /// The lines of a stream, one after the other as they are taken.
    Stream(Source),
}

/// Where the lines of a stream come from. A source is asked for a line when the one before it is written, and keeps nothing for a
/// reader that does not read.
#[derive(Debug)]
pub(crate) enum Source {
    Events(Reader),
    /// A task that makes them; the channel is bounded. Its end is the stream's.
    Lines(Receiver<Answer>),
}

impl Source {
    async fn next(&mut self) -> Answer {
        match self {
            Self::Events(reader) => reader.next().await,
            Self::Lines(lines) => lines.recv().await.unwrap_or(Answer::Reply(Reply::End {})),
        }
    }
}

impl Answers {
    fn push(&self, outgoing: Outgoing) {
        if self.to.send(outgoing).is_ok() {
            self.unwritten.set(self.unwritten.get() + 1);
        }
    }

    pub(crate) fn send(&self, answer: Answer) {
        self.push(Outgoing::Answer(Box::new(answer)));
    }

    pub(crate) fn stream(&self, source: Source) {
        self.push(Outgoing::Stream(source));
    }

    pub(crate) fn reply(&self, reply: Reply) {
        self.send(Answer::Reply(reply));
    }

    pub(crate) fn refuse(&self, failure: Failure) {
        self.reply(Reply::Failed(failure));
    }

    /// The client went away: nobody reads what is sent.
    fn is_closed(&self) -> bool {
        self.to.is_closed()
    }
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into(), hint: None }
}

/// Returns when every answer is written.
pub(crate) async fn written(unwritten: &Cell<usize>) {
    while unwritten.get() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The inherited listening socket.
pub(crate) fn listener(socket: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// What all connections share.
#[derive(Debug, Clone)]
struct Desk {
    identity: Identity,
    /// The process that stands for the instance now.
    guard: Rc<Cell<i32>>,
    to: UnboundedSender<Message>,
    unwritten: Rc<Cell<usize>>,
    streams: Rc<Room>,
    room: Rc<Room>,
}

/// Accepts for ever.
pub(crate) async fn listen(
    listener: UnixListener,
    (identity, guard): (Identity, Rc<Cell<i32>>),
    to: UnboundedSender<Message>,
    unwritten: Rc<Cell<usize>>,
) {
    let (streams, room) = (Rc::new(Room::new(STREAMS)), Rc::new(Room::new(CONNECTIONS)));
    let desk = Desk { identity, guard, to, unwritten, streams, room };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Those after this one wait in the kernel's queue meanwhile.
                let Some(place) = desk.room.place().await else { return };
                let desk = desk.clone();
                tokio::task::spawn_local(async move {
                    // A connection that fails has nobody left to tell.
                    let _ = serve(stream, &desk).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The two directions of a connection.
struct Peer<'a> {
    read: ReadHalf<'a>,
    write: WriteHalf<'a>,
    lines: LineBuffer,
}

async fn serve(mut stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let Ok(who) = stayput_wire::peer::check(&stream) else { return Ok(()) };
    let mut asker = Rc::new(Asker::new(who, None));
    let (read, write) = stream.split();
    let mut peer = Peer { read, write, lines: LineBuffer::new(REQUEST_LINE_MAX) };
    let mut greeted = false;
    loop {
        let line = tokio::select! {
            biased;
            line = peer.line() => line,
            () = desk.room.is_needed(if greeted { Idle::BetweenRequests } else { Idle::BeforeHello }) => {
                let message = format!("{CONNECTIONS} connections are open, and this one asked for nothing: another gets its place");
                return refuse(&mut peer.write, FailureKind::Busy, message, desk).await;
            }
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) => return refuse(&mut peer.write, FailureKind::BadRequest, error.to_string(), desk).await,
        };
        match codec::decode::<Request>(&line) {
            Ok(Request::Hello { version: VERSION, by }) => {
                greeted = true;
                asker = Rc::new(Asker::new(who, by));
                let hello = Reply::Hello {
                    version: VERSION,
                    stayput: env!("CARGO_PKG_VERSION").to_owned(),
                    instance: desk.identity.instance.clone(),
                    guard: desk.guard.get(),
                };
                write_answer(&mut peer.write, &Answer::Reply(hello), desk).await?;
            }
            Ok(Request::Hello { version, .. }) => {
                let message = format!("this daemon speaks control protocol {VERSION}, not {version}");
                return refuse(&mut peer.write, FailureKind::Version, message, desk).await;
            }
            Ok(_) if !greeted => {
                return refuse(&mut peer.write, FailureKind::BadRequest, "the first request has to be hello".to_owned(), desk).await;
            }
            Ok(request) => {
                let (sender, receiver) = unbounded_channel();
                let answers = Answers { to: sender, asker: Rc::clone(&asker), unwritten: Rc::clone(&desk.unwritten) };
                if desk.to.send(Message::Control(request, answers)).is_err() {
                    return Ok(());
                }
                pass_on(&mut peer, receiver, desk).await?;
            }
            Err(error) => return refuse(&mut peer.write, FailureKind::BadRequest, error.to_string(), desk).await,
        }
    }
}

impl Peer<'_> {
    /// The next line; `None`: the client has said all.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = [0_u8; 4096];
        loop {
            if let Some(line) = self.lines.next_line().map_err(io::Error::other)? {
                return Ok(Some(line));
            }
            self.read.readable().await?;
            match self.read.try_read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(length) => self.lines.push(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns when the client is gone: it has closed, or, for a stream, its sending side. What it sends meanwhile is kept up to a bound.
async fn gone(read: &mut ReadHalf<'_>, lines: &mut LineBuffer, stream: bool) {
    let mut bytes = [0_u8; 4096];
    while lines.len() <= REQUEST_LINE_MAX {
        // Called off at any time this loses nothing: what was taken is kept.
        if read.readable().await.is_err() {
            return;
        }
        match read.try_read(&mut bytes) {
            Ok(0) => {
                // unix(7): a closed peer shuts both directions down, shutdown(SHUT_WR) only one.
                let closed = read.ready(Interest::READABLE).await.is_ok_and(tokio::io::Ready::is_write_closed);
                if stream || closed {
                    return;
                }
                break;
            }
            Ok(length) => lines.push(&bytes[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    // The rest stays in the kernel. That the client is gone is seen all the same: EPOLLRDHUP waits for no byte to be read. Tokio tells it, with
    // no interest in bytes, to those that wait for what has priority.
    while let Ok(ready) = read.ready(Interest::PRIORITY).await {
        if stream || ready.is_write_closed() {
            return;
        }
        if ready.is_read_closed() {
            // It has said all, and waits for its answer: if it goes meanwhile, the write tells.
            break;
        }
    }
    std::future::pending::<()>().await;
}

/// Writes the answers to one request, up to its reply.
async fn pass_on(peer: &mut Peer<'_>, mut answers: UnboundedReceiver<Outgoing>, desk: &Desk) -> io::Result<()> {
    let mut result = Ok(());
    while result.is_ok() {
        let outgoing = tokio::select! {
            outgoing = answers.recv() => outgoing,
            () = gone(&mut peer.read, &mut peer.lines, false) => {
                result = Err(io::ErrorKind::BrokenPipe.into());
                None
            }
        };
        let Some(outgoing) = outgoing else { break };
        let last = match outgoing {
            Outgoing::Answer(answer) => {
                result = write_answer(&mut peer.write, &answer, desk).await;
                matches!(*answer, Answer::Reply(_))
            }
            Outgoing::Stream(source) => {
                result = pass_stream(peer, source, desk).await;
                true
            }
        };
        desk.unwritten.set(desk.unwritten.get().saturating_sub(1));
        if last {
            break;
        }
    }
    // What is left is for nobody.
    answers.close();
    while answers.try_recv().is_ok() {
        desk.unwritten.set(desk.unwritten.get().saturating_sub(1));
    }
    result
}

/// Writes the lines of a stream up to its end, or until the client is gone.
async fn pass_stream(peer: &mut Peer<'_>, mut source: Source, desk: &Desk) -> io::Result<()> {
    // The end of the instance does not wait for streams.
    desk.unwritten.set(desk.unwritten.get().saturating_sub(1));
    let result = match desk.streams.place_soon().await {
        Some(_place) => {
            let Peer { read, write, lines } = peer;
            let work = async {
                loop {
                    let answer = source.next().await;
                    tokio::select! {
                        biased;
                        written = write_within(write, &answer, STREAM_WRITE_TIME, desk) => written?,
                        () = desk.streams.is_needed(Idle::Unread) => return Err(io::ErrorKind::TimedOut.into()),
                    }
                    if matches!(answer, Answer::Reply(_)) {
                        return Ok(());
                    }
                    // A source that always has a line must not keep the thread from everybody else.
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                result = work => result,
                () = gone(read, lines, true) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        None => refuse(&mut peer.write, FailureKind::Busy, format!("{STREAMS} streams are open already"), desk).await,
    };
    desk.unwritten.set(desk.unwritten.get() + 1);
    result
}

async fn refuse(write: &mut WriteHalf<'_>, kind: FailureKind, message: String, desk: &Desk) -> io::Result<()> {
    write_answer(write, &Answer::Reply(Reply::Failed(failure(kind, message))), desk).await
}

async fn write_answer(write: &mut WriteHalf<'_>, answer: &Answer, desk: &Desk) -> io::Result<()> {
    write_within(write, answer, WRITE_TIME, desk).await
}

async fn write_within(write: &mut WriteHalf<'_>, answer: &Answer, within: Duration, desk: &Desk) -> io::Result<()> {
    let line = match codec::encode(answer, ANSWER_LINE_MAX) {
        Ok(line) => line,
        // The client is owed a reply.
        Err(error) => {
            let reply = Answer::Reply(Reply::Failed(failure(FailureKind::Failed, format!("the answer cannot be sent: {error}"))));
            codec::encode(&reply, ANSWER_LINE_MAX).map_err(io::Error::other)?
        }
    };
    tokio::select! {
        biased;
        written = tokio::time::timeout(within, write.write_all(&line)) => written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        // It does not read: nobody could tell it why.
        () = desk.room.is_needed(Idle::Unread) => Err(io::ErrorKind::TimedOut.into()),
    }
}
