//! The control socket: who asks, what they ask, and the reply after the effect.
//!
//! A connection is a small task that reads requests and writes answers; the reactor decides. Peers that are neither root nor
//! our own user are hung up on, lines are bounded, and there are only so many connections.

use crate::reactor::{Identity, Message, Reactor};
use crate::say;
use stayput_keeper::protocol::{Reply as KeeperReply, Request as KeeperRequest};
use stayput_model::Notice;
use stayput_model::event::{Event as WorldEvent, ExitStatus, GenerationId, StopWay};
use stayput_model::ledger::LedgerId;
use stayput_model::notice::What;
use stayput_model::service::{Plan, Target};
use stayput_wire::codec::{self, ANSWER_LINE_MAX, LineBuffer, REQUEST_LINE_MAX};
use stayput_wire::{
    Answer, Event, Failure, FailureKind, Measured, Reply, Request, RestartedService, RestartingService, StoppedService, VERSION, pattern,
};
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// A peer that takes no answer for so long is hung up on.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// After an error of `accept` (out of descriptors, most likely) it is not tried again for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a status waits for the keeper's facts.
const KEEPER_TIME: Duration = Duration::from_millis(250);
/// Log lines that are not written yet at most.
const LINES_WAITING: usize = 256;
/// Output lines in a failure report.
const LAST_OUTPUT: usize = 20;

/// Where the answers to one request go. Counts those that are not written yet, so that the end can wait for them.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    to: UnboundedSender<Answer>,
    unwritten: Rc<Cell<usize>>,
}

impl Answers {
    fn send(&self, answer: Answer) {
        if self.to.send(answer).is_ok() {
            self.unwritten.set(self.unwritten.get() + 1);
        }
    }

    /// Passes lines on, no faster than they are written.
    fn lines(self, mut lines: Receiver<Answer>) {
        tokio::task::spawn_local(async move {
            while let Some(line) = lines.recv().await {
                while self.unwritten.get() > LINES_WAITING && !self.to.is_closed() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                if self.to.is_closed() {
                    return;
                }
                self.send(line);
            }
        });
    }

    fn reply(&self, reply: Reply) {
        self.send(Answer::Reply(reply));
    }

    fn failed(&self, kind: FailureKind, message: impl Into<String>) {
        self.reply(Reply::Failed(Failure { kind, message: message.into(), hint: None }));
    }
}

/// A request whose reply follows its effect.
#[derive(Debug)]
pub(crate) struct Waiter {
    what: Awaited,
    answers: Answers,
}

#[derive(Debug)]
enum Awaited {
    Restart { service: String, ledger: LedgerId },
    Stop { services: Vec<String> },
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

/// Accepts for ever.
pub(crate) async fn listen(listener: UnixListener, identity: Identity, to: UnboundedSender<Message>, unwritten: Rc<Cell<usize>>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        // Beyond the limit they wait in the kernel's queue.
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (identity, to, unwritten) = (identity.clone(), to.clone(), Rc::clone(&unwritten));
                tokio::task::spawn_local(async move {
                    // A connection that fails has nobody left to tell.
                    let _ = serve(stream, &identity, &to, &unwritten).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve(mut stream: UnixStream, identity: &Identity, to: &UnboundedSender<Message>, unwritten: &Rc<Cell<usize>>) -> io::Result<()> {
    if stayput_wire::peer::check(&stream).is_err() {
        return Ok(());
    }
    let mut lines = LineBuffer::new(REQUEST_LINE_MAX);
    let mut greeted = false;
    let mut bytes = [0_u8; 4096];
    loop {
        let line = match lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => {
                let length = stream.read(&mut bytes).await?;
                if length == 0 {
                    return Ok(());
                }
                lines.push(&bytes[..length]);
                continue;
            }
            Err(error) => return refuse(&mut stream, FailureKind::BadRequest, error.to_string()).await,
        };
        match codec::decode::<Request>(&line) {
            Ok(Request::Hello { version: VERSION }) => {
                greeted = true;
                let hello = Reply::Hello {
                    version: VERSION,
                    stayput: env!("CARGO_PKG_VERSION").to_owned(),
                    instance: identity.instance.clone(),
                    guard: identity.guard,
                };
                write(&mut stream, &Answer::Reply(hello)).await?;
            }
            Ok(Request::Hello { version }) => {
                let message = format!("this daemon speaks control protocol {VERSION}, not {version}");
                return refuse(&mut stream, FailureKind::Version, message).await;
            }
            Ok(_) if !greeted => {
                return refuse(&mut stream, FailureKind::BadRequest, "the first request has to be hello".to_owned()).await;
            }
            Ok(request) => {
                let (sender, receiver) = unbounded_channel();
                let answers = Answers { to: sender, unwritten: Rc::clone(unwritten) };
                if to.send(Message::Control(request, answers)).is_err() {
                    return Ok(());
                }
                pass_on(&mut stream, receiver, unwritten).await?;
            }
            Err(error) => return refuse(&mut stream, FailureKind::BadRequest, error.to_string()).await,
        }
    }
}

/// Writes the answers to one request, up to its reply.
async fn pass_on(stream: &mut UnixStream, mut answers: UnboundedReceiver<Answer>, unwritten: &Cell<usize>) -> io::Result<()> {
    let mut result = Ok(());
    while let Some(answer) = answers.recv().await {
        if result.is_ok() {
            result = write(stream, &answer).await;
        }
        unwritten.set(unwritten.get().saturating_sub(1));
        if matches!(answer, Answer::Reply(_)) {
            break;
        }
    }
    result
}

async fn refuse(stream: &mut UnixStream, kind: FailureKind, message: String) -> io::Result<()> {
    write(stream, &Answer::Reply(Reply::Failed(Failure { kind, message, hint: None }))).await
}

async fn write(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let line = codec::encode(answer, ANSWER_LINE_MAX).map_err(io::Error::other)?;
    tokio::time::timeout(WRITE_TIME, stream.write_all(&line)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Reactor {
    /// Somebody asks.
    pub(crate) fn asked(&mut self, request: Request, answers: Answers) {
        match request {
            Request::Hello { .. } => answers.failed(FailureKind::BadRequest, "hello was said already"),
            Request::Status {} => {
                // The keeper may be another one by now: it is asked first. If it is stuck, what we know is better than nothing.
                let (link, to) = (Rc::clone(&self.link), self.to.clone());
                tokio::task::spawn_local(async move {
                    let dump = match tokio::time::timeout(KEEPER_TIME, link.call(KeeperRequest::Dump)).await {
                        Ok(Some(KeeperReply::Dump(dump))) => Some(dump),
                        Ok(_) | Err(_) => None,
                    };
                    // The reactor is gone only when the daemon ends.
                    let _ = to.send(Message::Status(answers, dump));
                });
            }
            Request::Restart { services, wait, .. } => match self.one_service(&services) {
                Ok(service) => self.asked_restart(service, wait, &answers),
                Err(failure) => answers.reply(Reply::Failed(failure)),
            },
            Request::Stop { services, wait } => match self.services(&services) {
                Ok(services) => self.asked_stop(services, wait, answers),
                Err(failure) => answers.reply(Reply::Failed(failure)),
            },
            Request::Down { wait } => self.asked_down(wait, answers),
            Request::Logs(query) => match self.logs(query) {
                Ok(lines) => answers.lines(lines),
                Err(failure) => answers.reply(Reply::Failed(failure)),
            },
            Request::Start { .. }
            | Request::Signal { .. }
            | Request::Rollback { .. }
            | Request::Plan {}
            | Request::Reload { .. }
            | Request::Hold { .. }
            | Request::Release { .. }
            | Request::Events { .. }
            | Request::Metrics {}
            | Request::History { .. }
            | Request::Config { .. } => answers.failed(FailureKind::Failed, "not in this version"),
        }
    }

    /// The keeper's facts are as fresh as they can be.
    pub(crate) fn answer_status(&mut self, answers: &Answers) {
        let status = self.status();
        answers.reply(Reply::Status(Box::new(status)));
    }

    fn asked_restart(&mut self, name: String, wait: bool, answers: &Answers) {
        if self.world.is_ending() {
            return answers.failed(FailureKind::Busy, "the instance is stopping");
        }
        let service = &self.world.services[&name];
        let open = service.open_ledger().is_some_and(|ledger| ledger.planned);
        if service.is_changing() && (open || service.serving().is_some()) {
            return answers.failed(FailureKind::Busy, "another restart has not switched yet");
        }
        if let Plan::Hold { waiting } = &service.plan {
            let addresses: Vec<String> = waiting.keys().map(ToString::to_string).collect();
            return answers.failed(FailureKind::Busy, format!("it waits for {} and starts as soon as it can", addresses.join(", ")));
        }
        // The notices of the step belong to the answer, so the waiter has to be there before: it finds its ledger by being the next.
        let from = service.serving().map(|generation| generation.0);
        let before = service.ledgers.back().map(|ledger| ledger.id);
        let mark = self.waiters.len();
        if wait {
            let ledger = self.world.next_ledger_id();
            self.waiters.push(Waiter { what: Awaited::Restart { service: name.clone(), ledger }, answers: answers.clone() });
        }
        self.step(WorldEvent::Restart { service: name.clone() });
        let service = &self.world.services[&name];
        let ledger = service.ledgers.back().filter(|ledger| Some(ledger.id) != before).or_else(|| service.open_ledger());
        match ledger {
            Some(ledger) if wait => {
                if let Some(Waiter { what: Awaited::Restart { ledger: awaited, .. }, .. }) = self.waiters.get_mut(mark) {
                    *awaited = ledger.id;
                }
            }
            Some(ledger) => {
                let service = RestartingService { name, from, to: ledger.to.map(|to| to.0) };
                answers.reply(Reply::Restarting { services: vec![service] });
            }
            None => {
                self.waiters.truncate(mark);
                answers.failed(FailureKind::Busy, "a restart follows when the present one is decided");
            }
        }
    }

    fn asked_stop(&mut self, services: Vec<String>, wait: bool, answers: Answers) {
        if wait {
            self.waiters.push(Waiter { what: Awaited::Stop { services: services.clone() }, answers });
        } else {
            answers.reply(Reply::Stopping {});
        }
        for service in services {
            self.step(WorldEvent::Stop { service, way: StopWay::Gentle });
        }
        self.answer_stopped();
    }

    fn asked_down(&mut self, wait: bool, answers: Answers) {
        if wait {
            let services = self.world.services.keys().cloned().collect();
            self.waiters.push(Waiter { what: Awaited::Stop { services }, answers });
        } else {
            answers.reply(Reply::Stopping {});
        }
        self.step(WorldEvent::Shutdown { way: StopWay::Gentle, signal: None });
        self.answer_stopped();
    }

    /// The services that are meant by names and globs, in the order of their names; no pattern means the only one.
    fn services(&self, patterns: &[String]) -> Result<Vec<String>, Failure> {
        let names: Vec<&str> = self.world.services.keys().map(String::as_str).collect();
        choose(&names, patterns)
    }

    fn one_service(&self, patterns: &[String]) -> Result<String, Failure> {
        let mut services = self.services(patterns)?;
        match services.pop() {
            Some(only) if services.is_empty() => Ok(only),
            _ => Err(failure(FailureKind::Failed, "several services at once: not in this version")),
        }
    }

    /// Tells those who wait what happened, and answers those whose wait is over.
    pub(crate) fn answer_waiters(&mut self, notice: &Notice, more: &str) {
        if self.waiters.is_empty() {
            return;
        }
        let event = self.event(notice, more);
        let mut over = Vec::new();
        for (index, waiter) in self.waiters.iter().enumerate() {
            let concerns = match &waiter.what {
                Awaited::Restart { service, .. } => *service == notice.service,
                Awaited::Stop { services } => services.contains(&notice.service),
            };
            if !concerns {
                continue;
            }
            if let Some(event) = &event {
                waiter.answers.send(Answer::Event(event.clone()));
            }
            if let Awaited::Restart { ledger, .. } = &waiter.what
                && decides(&notice.what, *ledger)
            {
                over.push(index);
            }
        }
        for index in over.into_iter().rev() {
            let waiter = self.waiters.remove(index);
            if let Awaited::Restart { service, ledger } = &waiter.what {
                waiter.answers.reply(self.restarted(service, *ledger));
            }
        }
        self.answer_stopped();
    }

    fn restarted(&self, service: &str, id: LedgerId) -> Reply {
        let ledger = self.world.services.get(service).and_then(|service| service.ledgers.iter().find(|ledger| ledger.id == id));
        let wire = ledger.map(crate::status::ledger);
        let failed = wire.as_ref().is_some_and(|wire| wire.reason.is_some());
        let output = ledger.and_then(|ledger| ledger.to).filter(|_| failed).and_then(|to| self.outputs.get(&to));
        let last_output = output.map_or_else(Vec::new, |output| output.recent.borrow().last(LAST_OUTPUT));
        let service = RestartedService { name: service.to_owned(), ledger: wire.map(Box::new), last_output };
        Reply::Restarted { services: vec![service], untouched: Vec::new() }
    }

    /// Answers those who wait for a stop that is complete.
    fn answer_stopped(&mut self) {
        let quiet = |name: &String| {
            self.world.services.get(name).is_none_or(|service| service.target == Target::Down && service.generations.is_empty())
        };
        let (over, waiting) = std::mem::take(&mut self.waiters).into_iter().partition(|waiter: &Waiter| match &waiter.what {
            Awaited::Stop { services } => services.iter().all(quiet),
            Awaited::Restart { .. } => false,
        });
        self.waiters = waiting;
        for waiter in over {
            let Awaited::Stop { services } = &waiter.what else { continue };
            let services = services
                .iter()
                .filter_map(|name| self.world.services.get(name))
                .map(|service| {
                    let status = service.last_exit.map(|(_, status)| status);
                    StoppedService {
                        name: service.config.name.clone(),
                        ended: status.map_or_else(|| "never ran".to_owned(), say::ended),
                        status: status.map_or(0, ExitStatus::code),
                    }
                })
                .collect();
            waiter.answers.reply(Reply::Stopped { services });
        }
    }

    /// A notice in the words of the wire; `None`: nothing that belongs to the progress of a request.
    fn event(&self, notice: &Notice, more: &str) -> Option<Event> {
        let service = notice.service.clone();
        let id = |generation: GenerationId| generation.0;
        Some(match &notice.what {
            What::PortTaken { .. } | What::HandingOver { .. } | What::BackingOff { .. } => {
                let (_, detail) = say::words(&notice.what)?;
                Event::Waiting { service, detail: format!("{detail}{more}") }
            }
            What::Spawned { generation, pid, from, .. } => Event::Starting { service, from: from.map(id), to: id(*generation), pid: *pid },
            What::Listening { generation, address, .. } => {
                Event::Listening { service, generation: id(*generation), address: address.to_string() }
            }
            What::Ready { generation, after, .. } => Event::Ready { service, generation: id(*generation), after_ms: milliseconds(*after) },
            What::Switched { from: None, to, soak, .. } => {
                Event::Switched { service, from: None, to: id(*to), soak_ms: milliseconds(*soak), draining: Measured::Count(0) }
            }
            // With its count, which follows at once.
            What::Counted { from, to, old, .. } => Event::Switched {
                service,
                from: Some(id(*from)),
                to: id(*to),
                soak_ms: self.world.services.get(&notice.service).map_or(0, |service| milliseconds(service.config.soak)),
                draining: old.map(|old| u64::from(old.open)).into(),
            },
            What::NotReady { generation: Some(generation), failure, .. } => {
                Event::NotReady { service, generation: id(*generation), reason: say::reason(failure) }
            }
            What::RollingBack { from, to, failure } => {
                Event::RolledBack { service, from: id(*from), to: id(*to), reason: say::reason(failure) }
            }
            What::StopSignal { generation, signal, grace, .. } => Event::StopSignal {
                service,
                generation: id(*generation),
                signal: say::signal_name(*signal),
                grace_ms: milliseconds(*grace),
            },
            What::Gone { generation, status, stopped } => {
                let how = if *stopped { ", as asked" } else { "" };
                Event::Exited { service, generation: id(*generation), ended: format!("{}{how}", say::ended(*status)) }
            }
            What::Switched { .. }
            | What::Untrapped { .. }
            | What::BindRefused { .. }
            | What::Held { .. }
            | What::HoldRefused { .. }
            | What::Overdue { .. }
            | What::Settled { .. }
            | What::NotReady { generation: None, .. }
            | What::RolledBack { .. }
            | What::Crashed { .. }
            | What::WentToBackground { .. }
            | What::RestartQueued
            | What::Killed { .. }
            | What::Lost { .. }
            | What::HoldOver { .. }
            | What::SteerFailed { .. }
            | What::WaitsFor { .. }
            | What::Alive { .. }
            | What::Completed { .. }
            | What::TaskFailed { .. }
            | What::RunSkipped { .. }
            | What::GaveUp { .. }
            | What::Unhealthy { .. }
            | What::Healthy { .. }
            | What::FilesChanged { .. }
            | What::Canary { .. }
            | What::Added
            | What::Removed
            | What::Reconfigured { .. }
            | What::Reverted
            | What::Ended { .. }
            | What::Stopped { .. } => return None,
        })
    }
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into(), hint: None }
}

/// The names that are meant by names and globs, each once and in the order of `names`; no pattern means the only one.
fn choose(names: &[&str], patterns: &[String]) -> Result<Vec<String>, Failure> {
    if patterns.is_empty() {
        return match names {
            [only] => Ok(vec![(*only).to_owned()]),
            [] => Err(failure(FailureKind::UnknownService, "this instance has no service")),
            several => {
                let hint = Some(format!("it has {}; * means all", several.join(", ")));
                let message = "this instance has several services: say which".to_owned();
                Err(Failure { kind: FailureKind::BadRequest, message, hint })
            }
        };
    }
    for wanted in patterns {
        if !names.iter().any(|name| pattern::matches(wanted, name)) {
            let message = format!("there is no service {wanted:?} in this instance");
            let close = pattern::closest(wanted, names).map(|name| format!("did you mean {name}?"));
            let hint = close.or_else(|| (!names.is_empty()).then(|| format!("it has {}", names.join(", "))));
            return Err(Failure { kind: FailureKind::UnknownService, message, hint });
        }
    }
    let wanted = |name: &&&str| patterns.iter().any(|wanted| pattern::matches(wanted, name));
    Ok(names.iter().filter(wanted).map(|name| (*name).to_owned()).collect())
}

/// Whether the notice decides the restart.
fn decides(what: &What, id: LedgerId) -> bool {
    match what {
        What::Settled { ledger, .. } | What::NotReady { ledger, .. } | What::RolledBack { ledger, .. } => *ledger == Some(id),
        // It is stopped; nothing more will come of it.
        What::Ended { .. } | What::Stopped { .. } => true,
        _ => false,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
