//! How a generation comes to serve: asked for, forked, executed, listening, ready. And how that fails.

use crate::config::Readiness;
use crate::event::{Effect, ExecFailure, ExitStatus, GenerationId, ListenerFacts, ListenerId, Origin};
use crate::generation::{Generation, Main, Phase, Trap, Way};
use crate::ledger::Failure;
use crate::notice::What;
use crate::service::{EADDRINUSE, Plan, Service, Target, Turn};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a generation that is ready is waited for to listen on the remaining ports of the one before it. A server that binds
/// several ports does it within milliseconds; one whose new version has a port less must not wait for long.
const COVER_WAIT: Duration = Duration::from_secs(2);
/// Refused binds remembered per generation.
const REFUSALS: usize = 8;
/// `ENOENT` (asm-generic/errno-base.h).
const ENOENT: i32 = 2;

impl Service {
    /// It is to be up.
    pub(crate) fn start(&mut self, turn: &mut Turn<'_>) {
        if self.target == Target::Up {
            if self.is_task() {
                self.run_task(turn);
            }
            return;
        }
        self.target = Target::Up;
        self.by_hand = false;
        self.last_exit = None;
        self.last_run = None;
        self.waits_said = false;
        self.backoff.reset();
        self.recent.clear();
        if !self.is_scheduled() {
            self.begin(turn);
        }
    }

    /// Starts a generation, after those that it waits for and after the declared ports are held. The ports are held from now on:
    /// whoever connects meanwhile waits too.
    pub(crate) fn begin(&mut self, turn: &mut Turn<'_>) {
        if self.config.after.is_empty() {
            return self.proceed(turn);
        }
        for address in self.not_held().into_keys() {
            turn.effect(Effect::Hold { service: self.config.name.clone(), address });
        }
        self.plan = Plan::After { waiting: self.config.after.clone() };
    }

    /// The declared addresses that are not held.
    pub(crate) fn not_held(&self) -> BTreeMap<SocketAddr, bool> {
        let held = |address: &SocketAddr| self.listeners.values().any(|listener| listener.address == *address);
        let learned = |address: &SocketAddr| match self.learned.get(&address.port()) {
            Some(learned) if address.ip().is_unspecified() => *learned,
            _ => *address,
        };
        self.config.ports.iter().map(learned).filter(|address| !held(address)).map(|address| (address, false)).collect()
    }

    /// The address that the server itself binds decides where its port is held from now on: a hold that is wider than that could not be handed
    /// over.
    fn learn(&mut self, facts: &ListenerFacts) {
        let port = facts.address.port();
        let of_all = |address: &SocketAddr| address.port() == port && address.ip().is_unspecified();
        if self.config.ports.contains(&facts.address) {
            self.learned.remove(&port);
        } else if matches!(facts.origin, Origin::Adopted | Origin::Given)
            && self.config.ports.iter().any(of_all)
            // A hold of ours would take IPv4 as well.
            && !(facts.v6only && facts.address.ip().is_unspecified())
            && !self.listeners.values().any(|other| other.owner == facts.owner && self.config.ports.contains(&other.address))
        {
            self.learned.insert(port, facts.address);
        }
    }

    /// Nothing that it starts after is in the way.
    pub(crate) fn proceed(&mut self, turn: &mut Turn<'_>) {
        let missing = self.not_held();
        if missing.is_empty() {
            self.spawn(turn);
            return;
        }
        self.hold(missing, turn);
    }

    pub(crate) fn hold(&mut self, waiting: BTreeMap<SocketAddr, bool>, turn: &mut Turn<'_>) {
        for address in waiting.keys() {
            turn.effect(Effect::Hold { service: self.config.name.clone(), address: *address });
        }
        self.plan = Plan::Hold { waiting };
    }

    pub(crate) fn held(&mut self, address: SocketAddr, turn: &mut Turn<'_>) {
        if matches!(self.plan, Plan::After { .. }) {
            return self.say(What::Held { address }, turn);
        }
        let Plan::Hold { waiting } = &mut self.plan else { return };
        if waiting.remove(&address).is_none() {
            return;
        }
        self.say(What::Held { address }, turn);
        self.hold_is_complete(turn);
    }

    /// Starts a generation when nothing is to be held any more: the first one, or the next one if a reload moves a port.
    pub(crate) fn hold_is_complete(&mut self, turn: &mut Turn<'_>) {
        if !matches!(&self.plan, Plan::Hold { waiting } if waiting.is_empty()) {
            return;
        }
        self.plan = Plan::Rest;
        match self.serving() {
            Some(serving) => self.replace(serving, turn),
            None => drop(self.spawn(turn)),
        }
    }

    pub(crate) fn hold_waits(&mut self, address: SocketAddr, errno: i32, turn: &mut Turn<'_>) {
        let Plan::Hold { waiting } = &mut self.plan else { return };
        let Some(taken) = waiting.get_mut(&address) else { return };
        if errno == EADDRINUSE {
            if !std::mem::replace(taken, true) {
                self.say(What::PortTaken { address }, turn);
            }
            return;
        }
        // Not ours to hold (a low port, an address of another machine): the server is asked, and says it in its own words.
        waiting.remove(&address);
        self.say(What::HoldRefused { address, errno }, turn);
        self.hold_is_complete(turn);
    }

    /// Asks for a new generation now.
    pub(crate) fn spawn(&mut self, turn: &mut Turn<'_>) -> GenerationId {
        *turn.next_generation += 1;
        let id = GenerationId(*turn.next_generation);
        self.plan = Plan::Rest;
        self.starts += 1;
        if let Some(limit) = self.config.start_limit {
            self.recent.push_back(turn.now);
            while self.recent.len() > limit.starts as usize {
                self.recent.pop_front();
            }
        }
        self.generations.insert(id, Generation::new(id, turn.now));
        if let Some(ledger) = self.open_ledger_mut() {
            ledger.to = Some(id);
        }
        turn.effect(Effect::Spawn { service: self.config.name.clone(), generation: id });
        id
    }

    pub(crate) fn spawned(&mut self, id: GenerationId, pid: i32, turn: &mut Turn<'_>) {
        let deadline = turn.now.plus(self.config.ready_timeout);
        let from = self.serving();
        let ledger = self.ledger_to(id).map(|ledger| ledger.id);
        let Some(generation) = self.generations.get_mut(&id) else { return };
        if generation.main == Main::Unborn {
            generation.main = Main::Alive { pid };
        }
        match generation.phase {
            Phase::Spawning => {
                generation.enter(Phase::Starting { deadline: Some(deadline), covers_by: None, last: None }, turn.now);
                self.say(What::Spawned { generation: id, pid, from, ledger }, turn);
                turn.effect(Effect::Probe { generation: id });
            }
            // Stopped before the reply came: the stop signal is already on its way behind the request. The rest is an echo.
            Phase::Starting { .. }
            | Phase::Switching(_)
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => {}
        }
    }

    pub(crate) fn spawn_failed(&mut self, id: GenerationId, what: String, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get(&id) else { return };
        match generation.phase {
            Phase::Spawning => {
                self.generations.remove(&id);
                turn.effect(Effect::Forget { generation: id });
                self.start_failed(id, &Failure::Spawn(what), turn);
            }
            Phase::Stopping { .. } => {
                self.generations.remove(&id);
                turn.effect(Effect::Forget { generation: id });
            }
            Phase::Starting { .. }
            | Phase::Switching(_)
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => {}
        }
    }

    pub(crate) fn executed(&mut self, id: GenerationId, untrapped: Option<i32>, turn: &mut Turn<'_>) {
        // What cannot be caught cannot be probed by listener; its command runs, and that is all that can be known.
        let blind = untrapped.is_some() && matches!(self.config.readiness, Readiness::Accept | Readiness::Http { .. });
        let Some(generation) = self.generations.get_mut(&id) else { return };
        // Known already, unless the keeper found out at the first bind that it may not look into it.
        let known = generation.trap != Trap::Unknown;
        if known && !(generation.trap == Trap::Active && untrapped.is_some()) {
            return;
        }
        generation.trap = untrapped.map_or(Trap::Active, Trap::Unavailable);
        let starting = matches!(generation.phase, Phase::Starting { .. });
        if let Some(errno) = untrapped {
            self.say(What::Untrapped { generation: id, errno }, turn);
        }
        if self.is_task() {
            return self.task_runs(id, turn);
        }
        if starting && blind {
            self.ready(id, "its command runs; its binds cannot be caught, so nothing more is known".to_owned(), turn);
        }
    }

    pub(crate) fn exec_failed(&mut self, id: GenerationId, failure: ExecFailure, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let status = ExitStatus::Exited(if failure.errno == ENOENT { 127 } else { 126 });
        let pid = generation.main.pid();
        let counted = match generation.phase {
            Phase::Spawning | Phase::Starting { .. } => true,
            Phase::Stopping { .. } => false,
            Phase::Switching(_)
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => return,
        };
        generation.main = Main::Ended { pid, status };
        generation.enter(Phase::Releasing, turn.now);
        turn.effect(Effect::StopProbe { generation: id });
        turn.effect(Effect::Release { generation: id });
        if counted {
            self.remember_exit(id, status);
            self.start_failed(id, &Failure::Exec(failure), turn);
        }
    }

    pub(crate) fn bind_refused(&mut self, id: GenerationId, address: SocketAddr, errno: i32, turn: &mut Turn<'_>) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        if generation.refused.contains(&(address, errno)) {
            return;
        }
        if generation.refused.len() == REFUSALS {
            generation.refused.remove(0);
        }
        generation.refused.push((address, errno));
        self.say(What::BindRefused { generation: id, address, errno }, turn);
    }

    /// A listener came to be or changed.
    pub(crate) fn listener(&mut self, facts: &ListenerFacts, turn: &mut Turn<'_>) {
        let before = self.listeners.insert(facts.id, facts.clone());
        if let Some(loser) = before.as_ref().and_then(|before| before.owner).filter(|loser| facts.owner != Some(*loser)) {
            self.listens_less(loser, turn);
        }
        let Some(owner) = facts.owner else { return };
        if before.is_some_and(|before| before.owner == Some(owner)) {
            return;
        }
        self.listened = true;
        self.learn(facts);
        let Some(generation) = self.generations.get(&owner) else { return };
        let (main, phase) = (generation.main, &generation.phase);
        let what =
            What::Listening { generation: owner, pid: main.pid(), address: facts.address, inode: facts.inode, selected: facts.selected };
        match phase {
            Phase::Spawning => self.say(what, turn),
            Phase::Starting { .. } => {
                self.say(what, turn);
                turn.effect(Effect::Probe { generation: owner });
            }
            // A port more, after it became ready: it gets its connections too.
            Phase::Serving { .. } | Phase::Switching(Way::Forward) => {
                self.say(what, turn);
                if !facts.selected {
                    turn.effect(Effect::Steer { service: self.config.name.clone(), generation: owner, share: None });
                }
            }
            Phase::Switching(Way::Canary { share, .. }) => {
                let share = Some(*share);
                self.say(what, turn);
                if !facts.selected {
                    turn.effect(Effect::Steer { service: self.config.name.clone(), generation: owner, share });
                }
            }
            Phase::Switching(Way::Back { .. })
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => {}
        }
    }

    pub(crate) fn listener_gone(&mut self, id: ListenerId, turn: &mut Turn<'_>) {
        if let Some(loser) = self.listeners.remove(&id).and_then(|listener| listener.owner) {
            self.listens_less(loser, turn);
        }
    }

    /// A probe must not wait for ever on a socket that the server has closed while it starts: some listen on other addresses for a moment,
    /// to see whether the port is free there.
    fn listens_less(&self, id: GenerationId, turn: &mut Turn<'_>) {
        if self.generations.get(&id).is_some_and(|generation| matches!(generation.phase, Phase::Starting { .. })) {
            turn.effect(Effect::Probe { generation: id });
        }
    }

    pub(crate) fn not_yet_ready(&mut self, id: GenerationId, what: String) {
        if let Some(Generation { phase: Phase::Starting { last, .. }, .. }) = self.generations.get_mut(&id) {
            *last = Some(what);
        }
    }

    /// It passed its readiness check.
    pub(crate) fn ready(&mut self, id: GenerationId, evidence: String, turn: &mut Turn<'_>) {
        let covered = self.covers(id);
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let after = turn.now.since(generation.spawned);
        match &mut generation.phase {
            Phase::Starting { covers_by, .. } => {
                let first = covers_by.is_none();
                let by = *covers_by.get_or_insert(turn.now.plus(COVER_WAIT));
                if first {
                    self.say(What::Ready { generation: id, after, evidence }, turn);
                }
                if covered || by <= turn.now {
                    self.switch_to(id, turn);
                }
            }
            Phase::Spawning
            | Phase::Switching(_)
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => {}
        }
    }

    /// It listens wherever the serving generation listens.
    fn covers(&self, id: GenerationId) -> bool {
        let Some(serving) = self.serving() else { return true };
        self.listeners
            .values()
            .filter(|listener| listener.owner == Some(serving) && !self.dropped.contains(&listener.address))
            .all(|theirs| self.listeners.values().any(|ours| ours.owner == Some(id) && ours.address == theirs.address))
    }

    /// All new connections to it.
    pub(crate) fn switch_to(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        turn.effect(Effect::StopProbe { generation: id });
        let listens = self.listeners.values().any(|listener| listener.owner == Some(id));
        let first = self.first_share(id);
        let Some(generation) = self.generations.get_mut(&id) else { return };
        let way = first.map_or(Way::Forward, |first| Way::Canary { share: first.share, time: first.time, began: None });
        generation.enter(Phase::Switching(way), turn.now);
        if generation.main.status().is_some() {
            self.say(What::WentToBackground { generation: id }, turn);
        }
        if listens {
            let share = first.map(|first| first.share);
            turn.effect(Effect::Steer { service: self.config.name.clone(), generation: id, share });
        } else {
            // It has no socket in our hands: there is nothing to steer.
            self.steered(id, turn);
        }
    }
}
