//! The one place where everything meets: it owns the world, waits for whatever happens next, and carries out what the world wants.

use crate::commands::is_command;
use crate::connections::{Observer, Question};
use crate::console::Console;
use crate::control;
use crate::events::{Events, News};
use crate::history::Chronicle;
use crate::link::{Asked, Incoming, Link};
use crate::logs::Recent;
use crate::notify::Said;
use crate::say::{self, Mark};
use crate::status::Pace;
use crate::tally::Tallies;
use crate::translate::{self, Meaning};
use crate::usage::Gauge;
use stayput_keeper::client::ChannelError;
use stayput_keeper::protocol::{DescriptorKind, Dump, GenerationId as GenerationIdOfKeeper, Reply, Request, Scope};
use stayput_model::blob::{self, BlobError, INSTANCE};
use stayput_model::event::{Effect, Event, GenerationId};
use stayput_model::{Blob, Mono, World};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinHandle};

/// Why the daemon cannot go on.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This call failed at the start.
    Setup(&'static str, io::Error),
    /// The keeper keeps what we cannot read.
    Blob(BlobError),
    /// The keeper's socket failed.
    Channel(ChannelError),
    /// The keeper answered something else.
    Protocol(&'static str),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setup(call, error) => write!(f, "{call}: {error}"),
            Self::Blob(error) => error.fmt(f),
            Self::Channel(error) => error.fmt(f),
            Self::Protocol(what) => f.write_str(what),
        }
    }
}

/// What tasks tell the reactor.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened.
    World(Event),
    /// Somebody asks over the control socket.
    Control(stayput_wire::Request, control::Answers),
    /// The keeper's facts of now, for those who asked for the status; `None`: it did not say.
    Status(Option<Box<Dump>>),
    /// The keeper has answered a hold that somebody asked for.
    HoldAnswered {
        service: String,
        address: std::net::SocketAddr,
        /// Why it could not even try.
        failed: Option<String>,
        answers: control::Answers,
    },
    /// The configuration was read again.
    ConfigRead(Box<control::ConfigRead>),
    /// A generation said something over its notify socket.
    Said(GenerationId, Said),
    /// There is something to say of a service.
    Tell(String, Mark, String),
    /// The keeper's facts after the guard has ended.
    Guard(Box<Dump>),
    /// The next health check of a generation is due.
    CheckHealth(GenerationId),
    /// Something happened to the logs on disk.
    Logs(stayput_logs::PumpEvent),
    /// A stream of a generation's output is at its end.
    OutputEnded(GenerationId),
    /// The rest of a generation's output is not waited for any longer.
    OutputGivenUp(GenerationId),
}

/// `SIGABRT` (asm-generic/signal.h): a wedged process may leave a core.
const SIGABRT: i32 = 6;

/// What the keeper said of the instance.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) instance: String,
    pub(crate) guard: i32,
    pub(crate) keeper: i32,
    pub(crate) keeper_deaths: u32,
    pub(crate) daemon_deaths: u32,
}

impl Identity {
    pub(crate) fn of(dump: &Dump) -> Self {
        Self {
            instance: dump.instance.clone(),
            guard: dump.guard_pid,
            keeper: dump.keeper_pid,
            keeper_deaths: dump.keeper_deaths,
            daemon_deaths: dump.daemon_deaths,
        }
    }
}

/// The output of a generation and who reads it.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) recent: Rc<RefCell<Recent>>,
    pub(crate) readers: Vec<JoinHandle<()>>,
    pub(crate) notify: Option<AbortHandle>,
    /// Streams of it that are not at their end.
    pub(crate) open: usize,
    /// Their end is not waited for: a process that goes on may have them for ever.
    pub(crate) given_up: bool,
}

/// Everything that the daemon has.
#[derive(Debug)]
pub(crate) struct Reactor {
    pub(crate) world: World,
    pub(crate) link: Rc<Link>,
    pub(crate) console: Console,
    pub(crate) identity: Identity,
    /// The guard, as whoever says hello is told.
    pub(crate) guard: Rc<Cell<i32>>,
    pub(crate) to: UnboundedSender<Message>,
    pub(crate) observer: Option<Observer>,
    pub(crate) probes: BTreeMap<GenerationId, AbortHandle>,
    pub(crate) watches: BTreeMap<GenerationId, AbortHandle>,
    pub(crate) outputs: BTreeMap<GenerationId, Output>,
    /// What is not as it was asked for, of each generation.
    pub(crate) notes: BTreeMap<GenerationId, Vec<String>>,
    /// Times that are waited for, once there was one.
    pub(crate) schedules: Option<Rc<crate::schedule::Schedules>>,
    /// The service manager, if one is to be told.
    pub(crate) manager: Option<crate::manager::Manager>,
    /// Files that are watched, once there were some.
    pub(crate) watcher: Option<Rc<crate::files::Watcher>>,
    /// Health checks that go on.
    pub(crate) checkings: BTreeMap<GenerationId, crate::health::Checking>,
    /// Commands of theirs.
    pub(crate) commands: crate::commands::Commands,
    /// Where output is kept, if it is.
    pub(crate) disk: Option<crate::logs_disk::Disk>,
    /// What has happened.
    pub(crate) events: Events,
    /// When this daemon started.
    pub(crate) started: Mono,
    pub(crate) tallies: Tallies,
    pub(crate) gauge: Option<Gauge>,
    /// Processor time of each service.
    pub(crate) paces: BTreeMap<String, Pace>,
    /// How values went.
    pub(crate) chronicle: Chronicle,
    pub(crate) paces_of_processes: crate::processes::Paces,
    pub(crate) waiters: Vec<control::Waiter>,
    pub(crate) rollings: Vec<control::Rolling>,
    /// Ports that somebody asked to be held.
    pub(crate) holds: control::Holds,
    /// Who reads the configuration.
    pub(crate) config_turn: Rc<tokio::sync::Mutex<()>>,
    /// Those who asked for the status while the keeper is being asked.
    pub(crate) status_asked: Vec<control::Answers>,
    /// Path of the control socket; empty if it has none.
    pub(crate) socket: PathBuf,
    /// Answers that are not written to their sockets yet.
    pub(crate) unwritten: Rc<Cell<usize>>,
    pending: VecDeque<Event>,
}

/// The time.
pub(crate) fn now() -> Mono {
    Mono(stayput_kernel::clock::monotonic_ns())
}

/// Runs until the keeper is gone.
pub(crate) async fn run(channel: OwnedFd, control: OwnedFd, console: &Console) -> Result<(), Failure> {
    let link = Rc::new(Link::new(channel).map_err(|error| Failure::Setup("the keeper's socket", error))?);
    let listener = control::listener(control).map_err(|error| Failure::Setup("the control socket", error))?;
    let Some(dump) = first_dump(&link).await? else { return Ok(()) };
    let (to, mut from) = unbounded_channel();
    let mut reactor = Reactor::start(link, console.clone(), to, dump)?;
    reactor.socket = listener.local_addr().ok().and_then(|at| Some(at.as_pathname()?.to_owned())).unwrap_or_default();
    let identity = (reactor.identity.clone(), Rc::clone(&reactor.guard));
    tokio::task::spawn_local(control::listen(listener, identity, reactor.to.clone(), Rc::clone(&reactor.unwritten)));
    reactor.serve(&mut from).await
}

/// The keeper's facts, before anything else: events that come earlier are in them. `None`: it hung up.
async fn first_dump(link: &Link) -> Result<Option<Dump>, Failure> {
    link.ask(Request::Dump, Asked::Dump);
    loop {
        let incoming = tokio::select! {
            incoming = link.next() => incoming,
            error = link.drive() => Err(error),
        };
        match incoming {
            Ok(Incoming::Reply(Asked::Dump, Reply::Dump(dump), _)) => return Ok(Some(*dump)),
            Ok(Incoming::Reply(..)) => return Err(Failure::Protocol("the keeper did not answer with its facts")),
            Ok(Incoming::Event(_) | Incoming::Nothing) => {}
            Err(ChannelError::Closed) => return Ok(None),
            Err(error) => return Err(Failure::Channel(error)),
        }
    }
}

impl Reactor {
    fn start(link: Rc<Link>, console: Console, to: UnboundedSender<Message>, mut dump: Dump) -> Result<Self, Failure> {
        let blobs = std::mem::take(&mut dump.blobs);
        let (world, fresh) = match Blob::decode(&blobs).map_err(Failure::Blob)? {
            // Services that failed for one reason retry at different times: the seed is theirs alone.
            Blob::Start(config) => (World::new(*config, now().0 ^ u64::from(dump.guard_pid.unsigned_abs())), true),
            Blob::State(world) => (*world, false),
        };
        let identity = Identity::of(&dump);
        let mut reactor = Self {
            world,
            link,
            console,
            guard: Rc::new(Cell::new(identity.guard)),
            identity,
            to,
            observer: Observer::open().ok(),
            probes: BTreeMap::new(),
            watches: BTreeMap::new(),
            outputs: BTreeMap::new(),
            notes: BTreeMap::new(),
            schedules: None,
            manager: crate::manager::Manager::from_environment(dump.guard_pid),
            watcher: None,
            checkings: BTreeMap::new(),
            commands: crate::commands::Commands::default(),
            disk: None,
            events: Events::new(),
            started: now(),
            tallies: Tallies::default(),
            gauge: Gauge::open(),
            paces: BTreeMap::new(),
            chronicle: Chronicle::new(now()),
            paces_of_processes: crate::processes::Paces::default(),
            waiters: Vec::new(),
            rollings: Vec::new(),
            holds: control::Holds::new(),
            config_turn: Rc::default(),
            status_asked: Vec::new(),
            socket: PathBuf::new(),
            unwritten: Rc::default(),
            pending: VecDeque::new(),
        };
        reactor.watch_guard();
        reactor.open_logs(fresh);
        reactor.end_left(std::mem::take(&mut dump.left), fresh);
        if fresh {
            reactor.take_back(dump);
            let enabled = reactor.world.services.values().filter(|service| !service.config.disabled);
            let names: Vec<String> = enabled.map(|service| service.config.name.clone()).collect();
            for service in names {
                reactor.step(Event::Start { service });
            }
        } else {
            reactor.carry_on(dump);
        }
        Ok(reactor)
    }

    /// What the service manager has kept of an instance before this one counts as held before anything is started.
    fn take_back(&mut self, dump: Dump) {
        for listener in translate::facts(dump).listeners.into_iter().filter(|listener| listener.owner.is_none()) {
            let text = format!("port {} was kept by the service manager, with all who connected meanwhile", listener.address);
            self.tell(&listener.service, Mark::Good, &text);
            self.step(Event::Listener(listener));
        }
    }

    /// A daemon before this one died.
    fn carry_on(&mut self, mut dump: Dump) {
        let deaths = dump.daemon_deaths;
        self.end_orphaned_commands(&mut dump);
        for generation in &dump.generations {
            self.link.ask(Request::Fetch { generation: generation.id }, Asked::Fetch(generation.id));
        }
        let effects = self.world.reconcile(&translate::facts(dump), now());
        let names: Vec<String> = self.world.services.keys().cloned().collect();
        for service in names {
            let text = format!("stayput's daemon was started again (its death number {deaths}); services and ports were not touched");
            self.tell(&service, Mark::Plain, &text);
        }
        self.carry_out(effects);
        self.work_off();
    }

    async fn serve(&mut self, from: &mut UnboundedReceiver<Message>) -> Result<(), Failure> {
        let link = Rc::clone(&self.link);
        loop {
            let wake = async {
                let look = self.chronicle.next_look();
                let deadline = self.world.next_deadline().map_or(look, |deadline| deadline.min(look));
                tokio::time::sleep(deadline.since(now())).await;
            };
            tokio::select! {
                incoming = link.next() => match incoming {
                    Ok(incoming) => self.incoming(incoming),
                    Err(ChannelError::Closed) => return Ok(()),
                    Err(error) => return Err(Failure::Channel(error)),
                },
                error = link.drive() => match error {
                    ChannelError::Closed => return Ok(()),
                    error => return Err(Failure::Channel(error)),
                },
                Some(message) = from.recv() => self.message(message),
                () = wake => self.wake(),
                () = crate::manager::next_due(self.manager.as_ref()) => self.tell_manager(),
            }
            self.answer_waiters();
            if self.manager.is_some() {
                self.note_for_manager();
            }
        }
    }

    fn wake(&mut self) {
        if self.world.next_deadline().is_some_and(|deadline| deadline <= now()) {
            self.step(Event::Tick);
        }
        self.look_for_history();
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::World(event) => self.step(event),
            Message::Control(request, answers) => self.asked(request, &answers),
            Message::Status(dump) => {
                if let Some(dump) = dump {
                    self.guard_is(&dump);
                    self.identity = Identity::of(&dump);
                }
                self.answer_status();
            }
            Message::HoldAnswered { service, address, failed, answers } => self.hold_answered(&service, address, failed, &answers),
            Message::ConfigRead(read) => self.config_read(*read),
            Message::Said(generation, said) => self.said(generation, said),
            Message::Tell(service, mark, text) => self.tell(&service, mark, &text),
            Message::Guard(dump) => self.guard_is(&dump),
            Message::CheckHealth(generation) => self.check_health(generation),
            Message::Logs(event) => self.logs_told(event),
            Message::OutputEnded(generation) => self.output_ended(generation),
            Message::OutputGivenUp(generation) => {
                if let Some(output) = self.outputs.get_mut(&generation) {
                    output.given_up = true;
                }
            }
        }
    }

    /// What a service says of itself is told as its own words.
    fn said(&mut self, generation: GenerationId, said: Said) {
        let Some(service) = self.world.service_of(generation).map(|service| service.config.name.clone()) else { return };
        match said {
            Said::Status(text) => self.tell(&service, Mark::Plain, &format!("generation {generation} says: {text}")),
            Said::Stopping => self.tell(&service, Mark::Plain, &format!("generation {generation} says that it is stopping")),
            Said::Wedged(silent) => {
                let why = silent
                    .map_or_else(|| "asked for its watchdog".to_owned(), |interval| format!("has not said WATCHDOG=1 for {interval:?}"));
                self.tell(&service, Mark::Trouble, &format!("generation {generation} {why}: it gets SIGABRT"));
                let generation = GenerationIdOfKeeper(generation.0);
                let abort = Request::Signal { generation, signal: SIGABRT, scope: Scope::Main };
                self.link.ask(abort, Asked::Other("the watchdog's SIGABRT could not be sent"));
            }
            Said::Ready | Said::Alive | Said::Watchdog(_) => {} // dealt with where they are read
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Nothing => {}
            Incoming::Event(event) => match self.command_told(event).map(translate::event) {
                None => {}
                Some(meaning) => self.meant(meaning),
            },
            Incoming::Reply(Asked::Spawn(command), reply, descriptors) if is_command(command) => {
                self.command_replied(command, reply, descriptors);
            }
            Incoming::Reply(asked, reply, descriptors) => self.replied(asked, reply, descriptors),
        }
    }

    fn meant(&mut self, meaning: Meaning) {
        match meaning {
            Meaning::World(Event::HoldWaits { service, address, errno }) if self.hold_refused(&service, address, errno) => {}
            Meaning::World(event) => {
                if let Event::MainExited { generation, .. } = event {
                    self.await_last_words(generation);
                }
                self.step(event);
            }
            Meaning::RestartAll => {
                for service in self.pattern_names() {
                    self.step(Event::Restart { service });
                }
            }
            Meaning::Forward(signal) => self.forward(signal),
            Meaning::Unlimited { generation, limits } => {
                for (file, errno) in limits {
                    self.note(generation, &say::unlimited(&file, errno));
                }
            }
            Meaning::NotCopied { generation, address, options } => self.note(generation, &say::not_copied(address, &options)),
            Meaning::NotHeld { generation, address, ring } => self.note(generation, &say::not_held(address, ring)),
            Meaning::Reset { generation, held, own, count } => self.note(generation, &say::reset(held, own, count)),
            Meaning::Stranger { service, address, inode } => {
                let owner = self.observer.as_ref().and_then(|observer| observer.owner_of(inode));
                self.tell(&service, Mark::Trouble, &say::stranger(owner.as_deref(), address, inode));
            }
        }
    }

    /// Told once, and in the status as long as the generation is.
    fn note(&mut self, generation: GenerationId, text: &str) {
        let service = self.world.service_of(generation).map(|service| service.config.name.clone()).unwrap_or_default();
        let present: std::collections::BTreeSet<GenerationId> =
            self.world.services.values().flat_map(|service| service.generations.keys().copied()).collect();
        self.notes.retain(|generation, _| present.contains(generation));
        let notes = self.notes.entry(generation).or_default();
        if notes.iter().all(|note| note != text) {
            notes.push(text.to_owned());
            self.tell(&service, Mark::Trouble, &format!("generation {generation}: {text}"));
        }
    }

    fn replied(&mut self, asked: Asked, reply: Reply, descriptors: Vec<OwnedFd>) {
        let failed = match &reply {
            Reply::Failed { what, errno: 0 } => Some(what.clone()),
            Reply::Failed { what, errno } => Some(format!("{what}: {}", io::Error::from_raw_os_error(*errno))),
            Reply::Done | Reply::Dump(_) | Reply::Spawned { .. } | Reply::Output { .. } | Reply::Released { .. } => None,
        };
        let event = match (asked, reply, failed) {
            (Asked::Spawn(generation), Reply::Spawned { pid, descriptors: kinds }, _) => {
                let generation = translate::from_keeper(generation);
                self.attach(generation, kinds, descriptors);
                Event::Spawned { generation, pid }
            }
            (Asked::Spawn(generation), _, failed) => {
                Event::SpawnFailed { generation: translate::from_keeper(generation), what: failed.unwrap_or_default() }
            }
            (Asked::Fetch(generation), Reply::Output { descriptors: kinds }, _) => {
                return self.attach(translate::from_keeper(generation), kinds, descriptors);
            }
            (Asked::Steer(generation), Reply::Done, _) => Event::Steered { generation: translate::from_keeper(generation) },
            (Asked::Steer(generation), _, failed) => {
                Event::SteerFailed { generation: translate::from_keeper(generation), what: failed.unwrap_or_default() }
            }
            (Asked::Park(service), Reply::Done, _) => Event::Parked { service },
            (Asked::Park(service), _, failed) => Event::ParkFailed { service, what: failed.unwrap_or_default() },
            (Asked::Release(generation), Reply::Released { queued }, _) => {
                Event::Released { generation: translate::from_keeper(generation), queued: Some(queued) }
            }
            (Asked::Release(generation), ..) => Event::Released { generation: translate::from_keeper(generation), queued: None },
            (Asked::Hold(service, address), Reply::Failed { errno, .. }, _) => Event::HoldWaits { service, address, errno },
            (Asked::Other(what), _, Some(failed)) => {
                let service = self.world.name.clone();
                return self.tell(&service, Mark::Trouble, &format!("{what}: {failed}"));
            }
            (Asked::Dump | Asked::Fetch(_) | Asked::Hold(..) | Asked::Other(_) | Asked::Whatever, ..) => return,
        };
        self.step(event);
    }

    /// Tells the world, and does what it wants.
    pub(crate) fn step(&mut self, event: Event) {
        self.pending.push_back(event);
        self.work_off();
    }

    fn work_off(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            let effects = self.world.step(event, now());
            self.carry_out(effects);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        // The state first, on the same wire: whatever of the effects a crash leaves undone, the next daemon knows that it was meant.
        let changed = self.changed();
        if !changed.is_empty() {
            self.link.ask(Request::SetBlobs(changed), Asked::Other("the state could not be kept"));
        }
        for effect in effects {
            let known = self.perform(effect);
            self.pending.extend(known);
        }
    }

    /// The parts of the world that are not what the keeper keeps; from here on they are. Only what was touched is looked at.
    fn changed(&mut self) -> Vec<(String, Vec<u8>)> {
        let changed = self.world.take_changed();
        let part = |key: String| {
            let bytes = match self.world.services.get(&key) {
                _ if key == INSTANCE => blob::instance_part(&self.world),
                Some(service) => blob::service_part(service),
                None => Vec::new(),
            };
            (key, bytes)
        };
        changed.into_iter().map(part).collect()
    }

    /// Writes a sentence of our own.
    pub(crate) fn tell(&self, service: &str, mark: Mark, text: &str) {
        self.tell_of(service, mark, "message", text);
    }

    /// Writes a sentence that programs know by its kind.
    pub(crate) fn tell_as(&self, service: &str, kind: &str, text: &str) {
        self.tell_of(service, Mark::Plain, kind, text);
    }

    fn tell_of(&self, service: &str, mark: Mark, kind: &str, text: &str) {
        self.console.line(&say::line(service, mark, text, self.world.report));
        self.events.push(News {
            service: self.world.services.contains_key(service).then(|| service.to_owned()),
            kind: kind.to_owned(),
            generation: None,
            level: mark.level(),
            text: stayput_model::text::printable(text).into_owned(),
            data: serde_json::Value::Object(serde_json::Map::new()),
        });
    }

    /// Reads what a generation writes.
    fn attach(&mut self, generation: GenerationId, kinds: Vec<DescriptorKind>, descriptors: Vec<OwnedFd>) {
        let Some(service) = self.world.service_of(generation) else { return };
        let (sink, notifies) = self.sink(service, generation);
        let user = service.config.user.as_ref().map(|user| user.uid);
        let given_up = service.generations.get(&generation).is_some_and(|generation| generation.main.status().is_some());
        let mut output = Output { recent: Rc::clone(&sink.recent), readers: Vec::new(), notify: None, open: 0, given_up };
        for (kind, descriptor) in kinds.into_iter().zip(descriptors) {
            match kind {
                DescriptorKind::Output | DescriptorKind::Error => {
                    output.open += 1;
                    let descriptor = match self.keep(generation, kind, descriptor) {
                        Ok(place) => {
                            output.recent.replace(crate::logs::Recent::on_disk(place));
                            continue;
                        }
                        Err(descriptor) => descriptor,
                    };
                    let (read, to) = (crate::logs::read(descriptor, sink.clone()), self.to.clone());
                    output.readers.push(tokio::task::spawn_local(async move {
                        read.await;
                        // The reactor is gone only when the daemon ends.
                        let _ = to.send(Message::OutputEnded(generation));
                    }));
                }
                DescriptorKind::Notify => {
                    let task = crate::notify::read(descriptor, generation, notifies, user, self.to.clone());
                    output.notify = Some(tokio::task::spawn_local(task).abort_handle());
                }
            }
        }
        self.outputs.insert(generation, output);
    }

    /// What is to be asked about a generation's connections.
    pub(crate) fn question(&self, generation: GenerationId) -> Option<Question> {
        let service = self.world.service_of(generation)?;
        let roots = service.generations.values().filter_map(|other| Some((other.main.pid()?, other.id.0))).collect();
        Some(Question {
            generation: generation.0,
            addresses: service.listeners.values().map(|listener| listener.address).collect(),
            listeners: service.listeners_of(generation).map(|listener| listener.inode).collect(),
            roots,
            outside: Vec::new(),
            guard: self.identity.guard,
            instance: self.identity.instance.clone(),
        })
    }
}
