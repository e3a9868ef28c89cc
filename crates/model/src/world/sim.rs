//! A keeper and processes made of nothing, for tests: it answers every effect as the real ones would, and time is moved by hand.

use crate::config::{InstanceConfig, Mode, ReportStyle, ServiceConfig};
use crate::event::{DrainReport, Effect, Event, ExecFailure, ExitStatus, GenerationId, ListenerFacts, ListenerId, Origin, Scope, StopWay};
use crate::generation::{Drain, Generation, Phase, Way};
use crate::mono::Mono;
use crate::notice::{Notice, What};
use crate::reconcile::{Facts, GenerationFacts};
use crate::service::{EADDRINUSE, Plan, Service, Target};
use crate::world::World;
use crate::{Blob, event};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// One generation's processes.
#[derive(Debug, Clone)]
pub(super) struct Proc {
    pub(super) service: String,
    pub(super) main: Option<ExitStatus>,
    pub(super) main_lives: bool,
    pub(super) others_live: bool,
    pub(super) executed: bool,
}

pub(super) struct Sim {
    pub(super) world: World,
    pub(super) now: Mono,
    pub(super) procs: BTreeMap<GenerationId, Proc>,
    pub(super) listeners: BTreeMap<ListenerId, ListenerFacts>,
    pub(super) queue: VecDeque<Event>,
    pub(super) said: Vec<What>,
    pub(super) forgotten: BTreeSet<GenerationId>,
    pub(super) exit: Option<u8>,
    /// Addresses that a stranger has.
    pub(super) taken: BTreeSet<SocketAddr>,
    pub(super) waiting: BTreeSet<(String, SocketAddr)>,
    /// Whether processes heed the stop signal.
    pub(super) obey: bool,
    /// The next steers and parks fail.
    pub(super) refuse: bool,
    /// The next commands cannot be executed, with this error number.
    pub(super) exec_errno: Option<i32>,
    /// Who has a share beside another one, until somebody has all.
    pub(super) sharing: BTreeSet<GenerationId>,
    /// What goes on besides: schedules, health checks, watches.
    pub(super) schedules: BTreeMap<String, Effect>,
    pub(super) checked: BTreeSet<GenerationId>,
    pub(super) watched: BTreeSet<String>,
    /// Notices with their services.
    pub(super) told: Vec<Notice>,
    /// Signals sent, for the tests that look.
    pub(super) signals: Vec<(GenerationId, i32, Scope)>,
    next_listener: u64,
}

pub(super) const WEB: &str = "web";

pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

impl Sim {
    /// An instance of `run` whose service is changed by `change`.
    pub(super) fn new(change: impl FnOnce(&mut ServiceConfig)) -> Self {
        let mut config = ServiceConfig::new(WEB, vec![b"server".to_vec()]);
        change(&mut config);
        let mut sim = Self::of(InstanceConfig { services: vec![config], ..InstanceConfig::new(WEB, Mode::Run, ReportStyle::Plain) });
        sim.step(Event::Start { service: WEB.to_owned() });
        sim
    }

    /// An instance of `up` with these services, started in this order; what follows is not delivered yet.
    pub(super) fn host(services: Vec<ServiceConfig>) -> Self {
        let names: Vec<String> = services.iter().filter(|config| !config.disabled).map(|config| config.name.clone()).collect();
        let mut sim = Self::of(InstanceConfig { services, ..InstanceConfig::new("host", Mode::Up, ReportStyle::Plain) });
        for service in names {
            sim.step(Event::Start { service });
        }
        sim
    }

    fn of(config: InstanceConfig) -> Self {
        Self {
            world: World::new(config, 1),
            now: Mono(1_000_000_000),
            procs: BTreeMap::new(),
            listeners: BTreeMap::new(),
            queue: VecDeque::new(),
            said: Vec::new(),
            forgotten: BTreeSet::new(),
            exit: None,
            taken: BTreeSet::new(),
            waiting: BTreeSet::new(),
            obey: true,
            refuse: false,
            exec_errno: None,
            sharing: BTreeSet::new(),
            schedules: BTreeMap::new(),
            checked: BTreeSet::new(),
            watched: BTreeSet::new(),
            told: Vec::new(),
            signals: Vec::new(),
            next_listener: 0,
        }
    }

    pub(super) fn service(&self) -> &Service {
        &self.world.services[WEB]
    }

    /// One event and its effects; what they cause is queued.
    pub(super) fn step(&mut self, event: Event) {
        let before = self.world.clone();
        let effects = self.world.step(event, self.now);
        for effect in effects {
            self.perform(effect, &before);
        }
        self.check();
    }

    /// One event, and everything that follows from it.
    pub(super) fn tell(&mut self, event: Event) {
        self.step(event);
        self.deliver();
    }

    pub(super) fn deliver(&mut self) {
        while let Some(event) = self.queue.pop_front() {
            self.step(event);
        }
    }

    /// Time passes; whatever is due on the way happens in its order.
    pub(super) fn pass(&mut self, time: Duration) {
        self.deliver();
        let end = self.now.plus(time);
        while let Some(deadline) = self.world.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.tell(Event::Tick);
        }
        self.now = end;
        self.tell(Event::Tick);
    }

    fn check(&self) {
        assert!(self.world.next_deadline().is_none_or(|deadline| deadline > self.now), "a deadline in the past: {}", self.pictures());
        for service in self.world.services.values() {
            let count = |is: fn(&Generation) -> bool| service.generations.values().filter(|generation| is(generation)).count();
            assert!(count(Generation::is_serving) <= 1, "two serve: {}", self.pictures());
            assert!(count(Generation::is_incoming) <= 1, "two come in: {}", self.pictures());
            let draining = count(|generation| matches!(generation.phase, Phase::Draining { .. }));
            assert!(draining <= 4, "too many drain: {}", self.pictures());
        }
        // What the index says is what a search finds.
        for (id, proc) in &self.procs {
            let known = self.world.services.get(&proc.service).is_some_and(|service| service.generations.contains_key(id));
            assert_eq!(self.world.service_of(*id).is_some(), known, "the index is wrong about generation {id}: {}", self.pictures());
        }
        let deadline = self.world.services.values().filter_map(Service::next_deadline).min();
        assert_eq!(self.world.next_deadline(), deadline, "the index is wrong about the next deadline: {}", self.pictures());
        let mut selected = BTreeSet::new();
        let shares = |listener: &&ListenerFacts| listener.owner.or(listener.last_owner).is_some_and(|owner| self.sharing.contains(&owner));
        for listener in self.listeners.values().filter(|listener| listener.selected && !shares(listener)) {
            assert!(selected.insert(listener.address), "two are selected on {}: {}", listener.address, self.pictures());
        }
    }

    fn perform(&mut self, effect: Effect, before: &World) {
        match effect {
            Effect::Hold { service, address } => {
                let others = self.listeners.values().any(|listener| listener.service != service && listener.address == address);
                if others || self.taken.contains(&address) {
                    self.waiting.insert((service.clone(), address));
                    self.queue.push_back(Event::HoldWaits { service, address, errno: EADDRINUSE });
                } else {
                    self.hold(&service, address);
                }
            }
            Effect::Unhold { service, address } => {
                self.waiting.remove(&(service.clone(), address));
                let theirs =
                    |l: &&ListenerFacts| l.service == service && l.address == address && l.owner.is_none() && l.origin == Origin::Held;
                let theirs = self.listeners.values().filter(theirs).map(|l| l.id).collect();
                self.close(theirs);
            }
            Effect::Spawn { service, generation } => {
                let fails = self.exec_errno;
                let proc = Proc { service, main: None, main_lives: fails.is_none(), others_live: false, executed: fails.is_none() };
                assert!(self.procs.insert(generation, proc).is_none(), "an id was used twice");
                let pid = 1000 + i32::try_from(generation.0).unwrap();
                self.queue.push_back(Event::Spawned { generation, pid });
                self.queue.push_back(match fails {
                    None => Event::Executed { generation, untrapped: None },
                    Some(errno) => Event::ExecFailed { generation, failure: ExecFailure { stage: "execve".to_owned(), errno } },
                });
            }
            Effect::Steer { generation, share, .. } => self.steer(generation, share),
            Effect::Park { service, .. } => {
                if std::mem::take(&mut self.refuse) {
                    self.queue.push_back(Event::ParkFailed { service, what: "refused".to_owned() });
                    return;
                }
                let of = |l: &&ListenerFacts| l.selected && l.service == service;
                let addresses: Vec<SocketAddr> = self.listeners.values().filter(of).map(|l| l.address).collect();
                for listener in self.listeners.values_mut().filter(|l| l.service == service) {
                    listener.selected = false;
                }
                for address in addresses {
                    self.make(&service, address, None, Origin::Held, true);
                }
                self.queue.push_back(Event::Parked { service });
            }
            Effect::Signal { generation, signal, scope } => {
                self.signals.push((generation, signal, scope));
                self.signal(generation, signal, scope);
            }
            Effect::Release { generation } => {
                let theirs: Vec<ListenerId> = self.listeners.values().filter(|l| belongs(l, generation)).map(|l| l.id).collect();
                self.check_release(generation, &theirs, before);
                self.close(theirs);
                self.queue.push_back(Event::Released { generation, queued: Some(0) });
            }
            Effect::ReleaseService { service } => {
                let hold = self.world.services.get(&service).map(|service| service.config.hold).unwrap_or_default();
                let since = before.services.get(&service).and_then(|service| service.unserved);
                let hold_over = since.is_some_and(|since| since.plus(hold) <= self.now);
                let down = self.world.services.get(&service).is_none_or(|service| service.target == Target::Down);
                assert!(down || hold_over, "released while up: {}", self.pictures());
                self.waiting.retain(|(waiting, _)| *waiting != service);
                let theirs: Vec<ListenerId> = self.listeners.values().filter(|l| l.service == service).map(|l| l.id).collect();
                self.close(theirs);
            }
            Effect::Forget { generation } => {
                let dead = self.procs.get(&generation).is_none_or(|proc| !proc.main_lives && !proc.others_live);
                assert!(dead, "forgot generation {generation}, which lives: {}", self.picture());
                assert!(self.forgotten.insert(generation), "forgot generation {generation} twice");
            }
            Effect::Snapshot { to, .. } => {
                self.queue.push_back(Event::Snapshot { to, old: Some(DrainReport { queued: 1, open: 5, idle: 0, busy: 2 }) });
            }
            Effect::Say(notice) => {
                self.said.push(notice.what.clone());
                self.told.push(notice);
            }
            Effect::Exit { status } => {
                assert!(self.exit.replace(status).is_none(), "told to exit twice");
            }
            Effect::Schedule { ref service, .. } => drop(self.schedules.insert(service.clone(), effect)),
            Effect::Unschedule { service } => drop(self.schedules.remove(&service)),
            Effect::CheckHealth { generation } => drop(self.checked.insert(generation)),
            Effect::StopHealth { generation } => {
                assert!(self.checked.remove(&generation), "the health of generation {generation} was not checked: {}", self.pictures());
            }
            Effect::WatchFiles { service } => drop(self.watched.insert(service)),
            Effect::UnwatchFiles { service } => drop(self.watched.remove(&service)),
            Effect::Probe { .. } | Effect::StopProbe { .. } | Effect::Watch { .. } | Effect::StopWatch { .. } => {}
        }
    }

    /// Listeners are closed; who waits for their ports gets them.
    fn close(&mut self, listeners: Vec<ListenerId>) {
        for id in listeners {
            let Some(listener) = self.listeners.remove(&id) else { continue };
            self.queue.push_back(Event::ListenerGone { listener: id });
            self.try_holds(listener.address);
        }
    }

    /// A socket that holds a port is closed only at stop or after the hold time.
    fn check_release(&self, generation: GenerationId, listeners: &[ListenerId], before: &World) {
        let dropped = |address| self.world.services.values().any(|service| service.dropped.contains(address));
        let selected = listeners.iter().map(|id| &self.listeners[id]).any(|listener| listener.selected && !dropped(&listener.address));
        let name = &self.procs[&generation].service;
        let was = before.services.get(name);
        let phase = was.and_then(|service| service.generations.get(&generation)).map(|generation| &generation.phase);
        let due = matches!(phase, Some(Phase::Gone { until }) if *until <= self.now);
        let is = self.world.services.get(name);
        let may = is.is_none_or(|service| service.target == Target::Down || service.is_task());
        assert!(!selected || due || may, "a port was closed by releasing generation {generation}: {}", self.pictures());
    }

    fn hold(&mut self, service: &str, address: SocketAddr) {
        if !self.listeners.values().any(|listener| listener.address == address && listener.selected) {
            self.make(service, address, None, Origin::Held, true);
        }
        self.queue.push_back(Event::Held { service: service.to_owned(), address });
    }

    fn try_holds(&mut self, address: SocketAddr) {
        if self.taken.contains(&address) || self.listeners.values().any(|listener| listener.address == address) {
            return;
        }
        let waiting = self.waiting.iter().find(|(_, at)| *at == address).cloned();
        if let Some((service, address)) = waiting {
            self.waiting.remove(&(service.clone(), address));
            self.hold(&service, address);
        }
    }

    fn make(&mut self, service: &str, address: SocketAddr, owner: Option<GenerationId>, origin: Origin, selected: bool) -> ListenerId {
        self.next_listener += 1;
        let id = ListenerId(self.next_listener);
        let facts = ListenerFacts {
            id,
            service: service.to_owned(),
            owner,
            last_owner: None,
            address,
            v6only: false,
            inode: u32::try_from(self.next_listener).unwrap() + 100,
            origin,
            selected,
        };
        self.listeners.insert(id, facts.clone());
        self.queue.push_back(Event::Listener(facts));
        id
    }

    fn steer(&mut self, generation: GenerationId, share: Option<u16>) {
        let theirs: Vec<SocketAddr> = self.listeners.values().filter(|l| l.owner == Some(generation)).map(|l| l.address).collect();
        if std::mem::take(&mut self.refuse) || theirs.is_empty() {
            return self.queue.push_back(Event::SteerFailed { generation, what: "refused".to_owned() });
        }
        match share {
            Some(_) => drop(self.sharing.insert(generation)),
            None => self.sharing.clear(),
        }
        for listener in self.listeners.values_mut().filter(|listener| theirs.contains(&listener.address)) {
            listener.selected = listener.owner == Some(generation) || (share.is_some() && listener.selected);
            self.queue.push_back(Event::Listener(listener.clone()));
        }
        self.queue.push_back(Event::Steered { generation });
    }

    fn signal(&mut self, generation: GenerationId, signal: i32, scope: Scope) {
        let Some(proc) = self.procs.get_mut(&generation) else { return };
        if signal != 9 && !self.obey {
            return;
        }
        let main = proc.main_lives;
        let others = proc.others_live && scope == Scope::Tree;
        if main {
            self.end_main(generation, ExitStatus::Signalled(signal));
        }
        if others {
            self.end_others(generation);
        }
    }

    /// The main process ends.
    pub(super) fn end_main(&mut self, generation: GenerationId, status: ExitStatus) {
        let Some(proc) = self.procs.get_mut(&generation).filter(|proc| proc.main_lives) else { return };
        proc.main_lives = false;
        proc.main = Some(status);
        self.queue.push_back(Event::MainExited { generation, status });
        self.empty(generation);
    }

    /// All other processes of the tree end.
    pub(super) fn end_others(&mut self, generation: GenerationId) {
        let Some(proc) = self.procs.get_mut(&generation).filter(|proc| proc.others_live) else { return };
        proc.others_live = false;
        self.empty(generation);
    }

    fn empty(&mut self, generation: GenerationId) {
        let proc = &self.procs[&generation];
        if proc.main_lives || proc.others_live {
            return;
        }
        for listener in self.listeners.values_mut().filter(|listener| listener.owner == Some(generation)) {
            listener.owner = None;
            listener.last_owner = Some(generation);
            self.queue.push_back(Event::Listener(listener.clone()));
        }
        self.queue.push_back(Event::TreeEmpty { generation });
    }

    /// The generation listens: on the socket that waits for it, else on one of its own.
    pub(super) fn listen(&mut self, generation: GenerationId, port: u16) {
        let lives = self.procs.get(&generation).is_some_and(|proc| proc.executed && (proc.main_lives || proc.others_live));
        let address = address(port);
        if !lives || self.listeners.values().any(|l| l.owner == Some(generation) && l.address == address) {
            return;
        }
        let service = self.procs[&generation].service.clone();
        if self.listeners.values().any(|listener| listener.address == address && listener.service != service) {
            return self.queue.push_back(Event::BindRefused { generation, address, errno: EADDRINUSE });
        }
        let waits =
            self.listeners.values_mut().find(|listener| listener.address == address && listener.owner.is_none() && listener.selected);
        if let Some(listener) = waits {
            listener.owner = Some(generation);
            listener.last_owner = None;
            listener.origin = Origin::Swapped;
            self.queue.push_back(Event::Listener(listener.clone()));
            return;
        }
        let first = !self.listeners.values().any(|listener| listener.address == address && listener.selected);
        self.make(&service, address, Some(generation), Origin::Adopted, first);
    }

    /// The stranger lets go.
    pub(super) fn free(&mut self, port: u16) {
        let address = address(port);
        self.taken.remove(&address);
        self.try_holds(address);
    }

    /// The daemon dies and a new one carries on. What it was told and had not handled yet is lost.
    pub(super) fn daemon_dies(&mut self) {
        self.queue.clear();
        let Ok(Blob::State(world)) = Blob::decode(&Blob::State(Box::new(self.world.clone())).parts()) else { panic!("not a state") };
        self.world = *world;
        let facts = Facts {
            generations: self
                .procs
                .iter()
                .filter(|(id, _)| !self.forgotten.contains(id))
                .map(|(id, proc)| GenerationFacts {
                    service: proc.service.clone(),
                    id: *id,
                    pid: 1000 + i32::try_from(id.0).unwrap(),
                    executed: proc.executed.then_some(None),
                    exec_failed: (!proc.executed).then(|| ExecFailure { stage: "execve".to_owned(), errno: 2 }),
                    exit: proc.main,
                    tree_empty: !proc.main_lives && !proc.others_live,
                })
                .collect(),
            listeners: self.listeners.values().cloned().collect(),
            waiting: self.waiting.iter().cloned().collect(),
        };
        let before = self.world.clone();
        self.schedules.clear();
        self.checked.clear();
        self.watched.clear();
        self.exit = None;
        for effect in self.world.reconcile(&facts, self.now) {
            self.perform(effect, &before);
        }
        self.check();
    }

    /// What there is of the one service, in one line.
    pub(super) fn picture(&self) -> String {
        self.picture_of(WEB)
    }

    /// What there is of all services, in one line.
    pub(super) fn pictures(&self) -> String {
        let pictures: Vec<String> = self.world.services.keys().map(|name| format!("{name}: {}", self.picture_of(name))).collect();
        pictures.join("; ")
    }

    pub(super) fn picture_of(&self, name: &str) -> String {
        let Some(service) = self.world.services.get(name) else { return "none".to_owned() };
        let mut text = match service.target {
            Target::Up => "up".to_owned(),
            Target::Down => "down".to_owned(),
        };
        match &service.plan {
            Plan::Rest => {}
            Plan::Hold { .. } => text.push_str(" hold"),
            Plan::BackOff { .. } => text.push_str(" backoff"),
            Plan::After { .. } => text.push_str(" after"),
            Plan::GaveUp => text.push_str(" gave-up"),
            Plan::Park { .. } => text.push_str(" park"),
            Plan::Succeed { after } => {
                let _ = write!(text, " after-{after}");
            }
        }
        for generation in service.generations.values() {
            let phase = match &generation.phase {
                Phase::Spawning => "spawning",
                Phase::Starting { deadline: None, .. } => "overdue",
                Phase::Starting { .. } => "starting",
                Phase::Switching(Way::Forward) => "switching",
                Phase::Switching(Way::Canary { .. }) => "canary",
                Phase::Switching(Way::Back { .. }) => "back",
                Phase::Serving { soak: Some(_), .. } => "soaking",
                Phase::Serving { soak: None, .. } => "serving",
                Phase::Orphaned => "orphaned",
                Phase::Draining { kind: Drain::Handover { .. }, .. } => "draining",
                Phase::Draining { kind: Drain::Parked, .. } => "finishing",
                Phase::Stopping { kill_at: Some(_), .. } => "stopping",
                Phase::Stopping { kill_at: None, .. } => "killed",
                Phase::Gone { .. } => "gone",
                Phase::Releasing => "releasing",
            };
            let _ = write!(text, " {}:{phase}", generation.id);
        }
        text
    }
}

fn belongs(listener: &ListenerFacts, generation: GenerationId) -> bool {
    listener.owner == Some(generation) || (listener.owner.is_none() && listener.last_owner == Some(generation))
}

/// The words of the scenarios.
impl Sim {
    fn id(n: u64) -> GenerationId {
        event::GenerationId(n)
    }

    pub(super) fn listens(&mut self, n: u64, port: u16) -> &mut Self {
        self.listen(Self::id(n), port);
        self.deliver();
        self
    }

    /// It listens on 127.0.0.1, whatever is held for it; as the keeper does, that is let go.
    pub(super) fn listens_narrow(&mut self, n: u64, port: u16) -> &mut Self {
        let service = self.procs[&Self::id(n)].service.clone();
        let held: Vec<ListenerId> =
            self.listeners.values().filter(|l| l.owner.is_none() && l.address.port() == port).map(|l| l.id).collect();
        self.make(&service, SocketAddr::from(([127, 0, 0, 1], port)), Some(Self::id(n)), Origin::Adopted, true);
        for id in held {
            self.listeners.remove(&id);
            self.queue.push_back(Event::ListenerGone { listener: id });
        }
        self.deliver();
        self
    }

    pub(super) fn is_ready(&mut self, n: u64) -> &mut Self {
        self.tell(Event::Ready { generation: Self::id(n), evidence: "test".to_owned() });
        self
    }

    pub(super) fn up(&mut self, n: u64) -> &mut Self {
        self.deliver();
        self.listens(n, 80).is_ready(n)
    }

    pub(super) fn dies(&mut self, n: u64, status: i32) -> &mut Self {
        self.end_main(Self::id(n), ExitStatus::Exited(status));
        self.deliver();
        self
    }

    pub(super) fn workers(&mut self, n: u64) -> &mut Self {
        self.procs.get_mut(&Self::id(n)).unwrap().others_live = true;
        self
    }

    pub(super) fn workers_end(&mut self, n: u64) -> &mut Self {
        self.end_others(Self::id(n));
        self.deliver();
        self
    }

    pub(super) fn restart(&mut self) -> &mut Self {
        self.tell(Event::Restart { service: WEB.to_owned() });
        self
    }

    pub(super) fn ctrl_c(&mut self) -> &mut Self {
        self.tell(Event::Shutdown { way: StopWay::Gentle, signal: Some(2) });
        self
    }

    pub(super) fn has_left(&mut self, n: u64, open: u32, idle: u32) -> &mut Self {
        self.tell(Event::Drain { generation: Self::id(n), report: DrainReport { queued: 0, open, idle, busy: open - idle } });
        self
    }

    pub(super) fn refused(&mut self, n: u64, port: u16) -> &mut Self {
        self.tell(Event::BindRefused { generation: Self::id(n), address: address(port), errno: EADDRINUSE });
        self
    }

    pub(super) fn seconds(&mut self, seconds: u64) -> &mut Self {
        self.pass(Duration::from_secs(seconds));
        self
    }

    pub(super) fn millis(&mut self, millis: u64) -> &mut Self {
        self.pass(Duration::from_millis(millis));
        self
    }

    #[track_caller]
    pub(super) fn is(&mut self, picture: &str) -> &mut Self {
        assert_eq!(self.picture(), picture);
        self
    }

    #[track_caller]
    pub(super) fn said(&mut self, is: impl Fn(&What) -> bool) -> &mut Self {
        assert!(self.said.iter().any(is), "not said: {:#?}", self.said);
        self
    }

    /// The newest generation of a service.
    #[track_caller]
    pub(super) fn newest(&self, service: &str) -> GenerationId {
        *self.procs.iter().rev().find(|(_, proc)| proc.service == service).expect("no generation").0
    }

    /// The newest generation of a service listens there and is ready.
    pub(super) fn serves(&mut self, service: &str, port: u16) -> &mut Self {
        self.deliver();
        let id = self.newest(service);
        self.up_on(id.0, port)
    }

    fn up_on(&mut self, n: u64, port: u16) -> &mut Self {
        self.listens(n, port).is_ready(n)
    }

    /// The main process of a service's newest generation ends.
    pub(super) fn ends(&mut self, service: &str, status: i32) -> &mut Self {
        self.deliver();
        let id = self.newest(service);
        self.dies(id.0, status)
    }

    pub(super) fn start(&mut self, service: &str) -> &mut Self {
        self.tell(Event::Start { service: service.to_owned() });
        self
    }

    pub(super) fn stop(&mut self, services: &[&str]) -> &mut Self {
        let services = services.iter().map(|name| (*name).to_owned()).collect();
        self.tell(Event::StopSome { services, way: StopWay::Gentle });
        self
    }

    #[track_caller]
    pub(super) fn are(&mut self, pictures: &str) -> &mut Self {
        assert_eq!(self.pictures(), pictures);
        self
    }

    #[track_caller]
    pub(super) fn is_of(&mut self, service: &str, picture: &str) -> &mut Self {
        assert_eq!(self.picture_of(service), picture, "{}", self.pictures());
        self
    }
}
