//! One service: its target, what is planned, its generations and its listeners. Data and questions; what happens is told in
//! [`crate::world`]'s modules.

use crate::backoff::Backoff;
use crate::config::{After, Kind, Mode, ServiceConfig};
use crate::event::{Effect, ExitStatus, GenerationId, ListenerFacts, ListenerId, Origin};
use crate::generation::{Generation, Phase, Way};
use crate::ledger::{Failure, Ledger, LedgerId, Outcome};
use crate::mono::Mono;
use crate::notice::{Notice, What};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// `EADDRINUSE` (asm-generic/errno.h).
pub const EADDRINUSE: i32 = 98;
/// A clock that is set back by more than this, in milliseconds, was wrong before: times that it has passed already count again. By less
/// than this it is adjusted, and nothing runs twice. The border is that of cron(8).
pub const CLOCK_CORRECTION_MS: u64 = 3 * 3600 * 1000;
/// The same for a schedule that means "every so often": it goes on by the new time, but no minute is run twice in a row.
const INTERVAL_CORRECTION_MS: u64 = 60 * 1000;
/// Ledgers kept.
const LEDGERS: usize = 16;

/// How far the clock may be set back, in milliseconds, so that a time of this schedule which was run is not run again. As in cron(8) a job at certain times
/// runs once at each of them whatever becomes of the clock; one with `*` in its minutes or hours would be silent for as long as the clock went back.
pub fn correction_ms(cron: &str) -> u64 {
    let often = cron.split_whitespace().take(2).any(|field| field.contains('*')) || cron.trim().eq_ignore_ascii_case("@hourly");
    if often { INTERVAL_CORRECTION_MS } else { CLOCK_CORRECTION_MS }
}

/// Whether a service is meant to run. What it does now is another question: its plan and its generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// What is to happen next without anybody's doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plan {
    /// Nothing.
    Rest,
    /// A generation is started when these addresses are held.
    Hold {
        /// Not held yet; `true`: somebody else has it.
        waiting: BTreeMap<SocketAddr, bool>,
    },
    /// A generation is started then.
    BackOff {
        /// When.
        until: Mono,
    },
    /// A generation is started when other services have come so far.
    After {
        /// What is not reached yet.
        waiting: Vec<After>,
    },
    /// Nothing: it was started too often in too short a time. A start by hand begins anew.
    GaveUp,
    /// The keeper was asked to let new connections wait (a restart without overlap).
    Park {
        /// For one that is about to listen on another address of the same port.
        elsewhere: bool,
    },
    /// A generation is started when this one has gone (a restart without overlap).
    Succeed {
        /// Whom.
        after: GenerationId,
    },
}

/// A run of a task that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    pub generation: GenerationId,
    /// How its main process ended.
    pub status: ExitStatus,
    /// How long it ran.
    pub took: Duration,
    /// When it ended.
    pub ended: Mono,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// What it is meant to be.
    pub config: ServiceConfig,
    /// Whether it is meant to run.
    pub target: Target,
    /// What happens next.
    pub plan: Plan,
    /// Its generations that are not forgotten.
    pub generations: BTreeMap<GenerationId, Generation>,
    /// Its listeners, as the keeper told.
    pub listeners: BTreeMap<ListenerId, ListenerFacts>,
    /// Failures in a row.
    pub backoff: Backoff,
    /// Its restarts, the latest last.
    pub ledgers: VecDeque<Ledger>,
    /// Generations started so far.
    pub starts: u64,
    /// Since when nobody accepts on its ports; goes on after they are released.
    pub unserved: Option<Mono>,
    /// The last generation that counted (was to serve), and how its main process ended.
    pub last_exit: Option<(GenerationId, ExitStatus)>,
    /// The last run of a task that came to its end.
    pub last_run: Option<Run>,
    /// When its next run is due, in milliseconds since 1970 (UTC).
    pub next_run_ms: Option<u64>,
    /// A generation was ready once.
    pub(crate) was_ready: bool,
    /// Another restart follows this one.
    pub(crate) again: bool,
    /// A start failed on these although we held them for it: they are not waited for a second time.
    pub(crate) tried: BTreeSet<SocketAddr>,
    /// That its start waits for others was said.
    pub(crate) waits_said: bool,
    /// One that never listens may be a worker: a service of `up`. Who types `run` means a server.
    pub(crate) workers: bool,
    /// A generation of it has listened.
    pub(crate) listened: bool,
    /// When it was started, as far as the start limit looks back.
    pub(crate) recent: VecDeque<Mono>,
    /// A person stopped it: nothing but a person starts it again.
    pub(crate) by_hand: bool,
    /// It is no longer in the configuration, and will be forgotten when nothing of it is left.
    pub removed: bool,
    /// What it was before its command or environment changed last, with the instance's environment of then.
    pub previous: Option<Box<ServiceConfig>>,
    /// Addresses that it no longer declares: they are not held for a successor.
    pub(crate) dropped: BTreeSet<SocketAddr>,
    /// By port: where the server itself listens, although the port was declared for all addresses. It is held there, and no wider.
    pub(crate) learned: BTreeMap<u16, SocketAddr>,
    /// Restarts for its health, and before when there is not to be another one.
    pub(crate) sick: Backoff,
    pub(crate) sick_until: Option<Mono>,
    /// Its times and checks, as they were asked for.
    pub(crate) asked: Asked,
}

/// What goes on in the daemon for a service without an end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// The next run is being waited for.
    pub(crate) schedule: bool,
    /// The health of these is checked: of the one that serves, and of one that has a share.
    pub(crate) health: BTreeSet<GenerationId>,
    /// Its files are watched.
    pub(crate) watch: bool,
    /// When the last run was due that was begun (or left out).
    pub(crate) due_ms: Option<u64>,
}

/// The state of one [`crate::World::step`] that goes through the services: the time, the counters, and what is to be done.
pub(crate) struct Turn<'a> {
    pub(crate) now: Mono,
    pub(crate) mode: Mode,
    pub(crate) next_generation: &'a mut u64,
    pub(crate) next_ledger: &'a mut u64,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

impl Service {
    /// A service that is down.
    pub(crate) fn new(config: ServiceConfig, mode: Mode, seed: u64) -> Self {
        Self {
            config,
            target: Target::Down,
            plan: Plan::Rest,
            generations: BTreeMap::new(),
            listeners: BTreeMap::new(),
            backoff: Backoff::new(seed),
            ledgers: VecDeque::new(),
            starts: 0,
            unserved: None,
            last_exit: None,
            last_run: None,
            next_run_ms: None,
            was_ready: false,
            again: false,
            tried: BTreeSet::new(),
            waits_said: false,
            workers: mode == Mode::Up,
            listened: false,
            recent: VecDeque::new(),
            by_hand: false,
            removed: false,
            previous: None,
            dropped: BTreeSet::new(),
            learned: BTreeMap::new(),
            sick: Backoff::new(!seed),
            sick_until: None,
            asked: Asked::default(),
        }
    }

    /// It has an end.
    pub fn is_task(&self) -> bool {
        matches!(self.config.kind, Kind::Task { .. })
    }

    /// The generation that has all new connections and whose main process lives.
    pub fn serving(&self) -> Option<GenerationId> {
        self.find(Generation::is_serving)
    }

    /// The generation that is on its way to take over.
    pub fn incoming(&self) -> Option<GenerationId> {
        self.find(Generation::is_incoming)
    }

    /// A restart is under way that has not switched yet, or a rollback.
    pub fn is_changing(&self) -> bool {
        self.incoming().is_some() || self.going_back().is_some() || matches!(self.plan, Plan::Park { .. } | Plan::Succeed { .. })
    }

    /// The old generation to which the connections are being steered back.
    pub fn going_back(&self) -> Option<GenerationId> {
        self.find(|generation| matches!(generation.phase, Phase::Switching(Way::Back { .. })))
    }

    /// The newest generation of which this is true.
    pub(crate) fn find(&self, is: impl Fn(&Generation) -> bool) -> Option<GenerationId> {
        self.generations.values().rev().find(|generation| is(generation)).map(|generation| generation.id)
    }

    /// The listeners of a generation: those it has, and those that it had last and nobody took over.
    pub fn listeners_of(&self, generation: GenerationId) -> impl Iterator<Item = &ListenerFacts> {
        self.listeners.values().filter(move |listener| {
            listener.owner == Some(generation) || (listener.owner.is_none() && listener.last_owner == Some(generation))
        })
    }

    /// Some generation accepts, as far as processes can tell.
    pub(crate) fn is_served(&self) -> bool {
        self.generations.values().any(|generation| match generation.phase {
            Phase::Serving { .. } | Phase::Orphaned => true,
            Phase::Spawning
            | Phase::Starting { .. }
            | Phase::Switching(_)
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => false,
        })
    }

    /// A port is held: connections to it are not refused.
    pub(crate) fn holds(&self) -> bool {
        self.listeners.values().any(|listener| listener.selected || listener.origin == Origin::Held)
    }

    /// The restart that is not decided yet.
    pub fn open_ledger(&self) -> Option<&Ledger> {
        self.ledgers.iter().rev().find(|ledger| ledger.outcome == Outcome::Running)
    }

    pub(crate) fn open_ledger_mut(&mut self) -> Option<&mut Ledger> {
        self.ledgers.iter_mut().rev().find(|ledger| ledger.outcome == Outcome::Running)
    }

    /// The ledger of the restart that this generation was started for.
    pub fn ledger_to(&self, generation: GenerationId) -> Option<&Ledger> {
        self.ledgers.iter().rev().find(|ledger| ledger.to == Some(generation))
    }

    pub(crate) fn ledger_to_mut(&mut self, generation: GenerationId) -> Option<&mut Ledger> {
        self.ledgers.iter_mut().rev().find(|ledger| ledger.to == Some(generation))
    }

    /// The ledger of the restart that replaced this generation.
    pub(crate) fn ledger_from_mut(&mut self, generation: GenerationId) -> Option<&mut Ledger> {
        self.ledgers.iter_mut().rev().find(|ledger| {
            match ledger.outcome {
                Outcome::Running | Outcome::Switched | Outcome::Settled => ledger.from == Some(generation),
                // Called off, it is the new one that goes.
                Outcome::RolledBack(Failure::CalledOff | Failure::Unhealthy { .. }) => ledger.to == Some(generation),
                Outcome::RolledBack(_) | Outcome::NotReady(_) | Outcome::Abandoned => false,
            }
        })
    }

    /// Opens a ledger, or goes on with the one that is open.
    pub(crate) fn account(&mut self, from: Option<GenerationId>, planned: bool, turn: &mut Turn<'_>) -> LedgerId {
        if let Some(ledger) = self.open_ledger_mut() {
            ledger.planned |= planned;
            return ledger.id;
        }
        *turn.next_ledger += 1;
        let id = LedgerId(*turn.next_ledger);
        self.ledgers.push_back(Ledger::open(id, from, planned, turn.now));
        while self.ledgers.len() > LEDGERS {
            self.ledgers.pop_front();
        }
        id
    }

    pub(crate) fn say(&self, what: What, turn: &mut Turn<'_>) {
        turn.effect(Effect::Say(Notice { service: self.config.name.clone(), what }));
    }

    /// Keeps how the newest generation that was to serve ended.
    pub(crate) fn remember_exit(&mut self, generation: GenerationId, status: ExitStatus) {
        if self.last_exit.is_none_or(|(last, _)| last <= generation) {
            self.last_exit = Some((generation, status));
        }
    }
}
