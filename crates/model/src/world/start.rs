//! How a generation comes to serve: asked for, forked, executed, listening, ready. And how that fails.

use crate::config::{Mode, Readiness, RestartPolicy};
use crate::event::{Effect, ExecFailure, ExitStatus, GenerationId, ListenerFacts, ListenerId, Origin};
use crate::generation::{Drain, Generation, Main, Phase, Trap, Way};
use crate::ledger::{Failure, Outcome, Unequal};
use crate::notice::{StopReason, What};
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

    /// A generation failed before it served.
    pub(crate) fn start_failed(&mut self, id: GenerationId, failure: &Failure, turn: &mut Turn<'_>) {
        let serving = self.serving();
        let ledger = self.ledger_to(id).map(|ledger| ledger.id);
        if let Some(serving) = serving.filter(|_| self.target == Target::Up && self.config.overlap)
            && let Some(unequal) = self.unequal(id, serving, failure)
        {
            if let Some(ledger) = self.ledger_to_mut(id) {
                ledger.unequal = Some(unequal);
            }
            self.say(What::Unequal { generation: id, serving, ledger, unequal }, turn);
            return self.park(true, turn);
        }
        // A crash has to be got over, however many tries that takes; what somebody asked for has failed.
        let close = serving.is_some() || self.open_ledger().is_some_and(|ledger| ledger.planned);
        if close && let Some(ledger) = self.ledger_to_mut(id).filter(|ledger| ledger.outcome == Outcome::Running) {
            ledger.outcome = Outcome::NotReady(failure.clone());
        }
        self.say(What::NotReady { generation: Some(id), serving, ledger, failure: failure.clone() }, turn);
        if self.target == Target::Down {
            return;
        }
        if serving.is_some() || self.going_back().is_some() {
            self.follow_up(turn);
        } else {
            self.recover(Some(failure), Duration::ZERO, turn);
        }
    }

    /// A restart that was asked for meanwhile.
    pub(crate) fn follow_up(&mut self, turn: &mut Turn<'_>) {
        if std::mem::take(&mut self.again) {
            self.restart(turn);
        }
    }

    /// Nobody serves and nobody is about to: starts the next one, now or later, or gives up.
    pub(crate) fn recover(&mut self, failure: Option<&Failure>, served: Duration, turn: &mut Turn<'_>) {
        let status = match failure {
            None => self.last_exit.map(|(_, status)| status),
            Some(Failure::Died { status, .. }) => Some(*status),
            Some(Failure::Exec(_)) if !self.was_ready => {
                // It never ran: trying again would run nothing again.
                return self.give_up_run(turn);
            }
            Some(_) => None,
        };
        if std::mem::take(&mut self.again) {
            self.account(None, true, turn);
            self.begin_again(turn);
            return;
        }
        if let Some(Failure::Died { refused, .. }) = failure {
            let taken: BTreeMap<SocketAddr, bool> = refused
                .iter()
                .filter(|(address, errno)| *errno == EADDRINUSE && !self.tried.contains(address))
                .map(|(address, _)| (*address, false))
                .collect();
            if !taken.is_empty() {
                // A taken port is no failure of the service: it waits, and burns no retry.
                self.tried.extend(taken.keys());
                return self.hold(taken, turn);
            }
        }
        let again = match self.config.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => status != Some(ExitStatus::Exited(0)),
            RestartPolicy::Never => false,
        };
        if !again {
            return self.give_up_run(turn);
        }
        self.start_later(served, turn);
    }

    /// Nothing is tried again; a task that has a schedule still has its next time.
    fn give_up_run(&mut self, turn: &mut Turn<'_>) {
        if !self.is_scheduled() {
            self.end(turn);
        }
    }

    /// Starts the next one, now or later, unless there were too many.
    pub(crate) fn start_later(&mut self, served: Duration, turn: &mut Turn<'_>) {
        if let Some(limit) = self.config.start_limit
            && self.recent.len() >= limit.starts as usize
            && self.recent.front().is_some_and(|first| turn.now.since(*first) < limit.within)
        {
            let status = self.last_exit.map(|(_, status)| status);
            self.say(What::GaveUp { starts: limit.starts, within: limit.within, status }, turn);
            self.plan = Plan::GaveUp;
            // `run` has nothing but this service: it ends with it.
            if turn.mode == Mode::Run {
                self.end(turn);
            }
            return;
        }
        let wait = self.backoff.after_run(served);
        if wait.is_zero() {
            self.spawn(turn);
            return;
        }
        self.plan = Plan::BackOff { until: turn.now.plus(wait) };
        self.say(What::BackingOff { wait, failures: self.backoff.failures() }, turn);
    }

    /// Somebody asked for a start while none serves.
    fn begin_again(&mut self, turn: &mut Turn<'_>) {
        self.backoff.reset();
        self.recent.clear();
        self.tried.clear();
        self.spawn(turn);
    }

    /// Replace the running generation.
    pub(crate) fn restart(&mut self, turn: &mut Turn<'_>) {
        if self.target == Target::Down {
            self.account(None, true, turn);
            return if self.is_scheduled() {
                self.start(turn);
                self.run_task(turn);
            } else {
                self.start(turn);
            };
        }
        if self.is_task() {
            return self.rerun(turn);
        }
        if let Some(id) = self.incoming().filter(|_| self.serving().is_none())
            && matches!(self.generations[&id].phase, Phase::Starting { deadline: None, .. })
        {
            // It is overdue, and nobody is better off if it goes on.
            self.again = true;
            return self.fail_start(id, &Failure::Superseded, turn);
        }
        if self.is_changing() {
            if !std::mem::replace(&mut self.again, true) {
                self.say(What::RestartQueued, turn);
            }
            return;
        }
        if let Some(serving) = self.serving() {
            self.account(Some(serving), true, turn);
            return self.replace(serving, turn);
        }
        match self.plan {
            Plan::Rest | Plan::BackOff { .. } | Plan::GaveUp => {
                self.account(None, true, turn);
                self.begin_again(turn);
            }
            // Held: it starts as soon as it can, which is all that a restart could do.
            Plan::Hold { .. } | Plan::After { .. } | Plan::Park { .. } | Plan::Succeed { .. } => {}
        }
    }

    pub(crate) fn replace(&mut self, serving: GenerationId, turn: &mut Turn<'_>) {
        let trapped = matches!(self.generations[&serving].trap, Trap::Active);
        if self.config.overlap && trapped {
            self.spawn(turn);
        } else if trapped {
            self.park(false, turn);
        } else {
            // Its sockets are not in our hands: it has to go before the next can bind.
            self.say(What::HandingOver { from: serving, parked: false }, turn);
            self.plan = Plan::Succeed { after: serving };
            self.stop_generation(serving, StopReason::HandingOver, turn);
        }
    }

    fn park(&mut self, elsewhere: bool, turn: &mut Turn<'_>) {
        self.plan = Plan::Park { elsewhere };
        turn.effect(Effect::Park { service: self.config.name.clone(), elsewhere });
    }

    /// A generation failed because it wanted a port of the serving one on another address, which cannot be had beside it: what they are.
    /// One that listened beside it as well (to see whether the port is free elsewhere) failed for another reason.
    fn unequal(&self, id: GenerationId, serving: GenerationId, failure: &Failure) -> Option<Unequal> {
        let refused = match failure {
            Failure::Died { refused, .. } => refused,
            Failure::TimedOut { listens: false, .. } => &self.generations.get(&id)?.refused,
            _ => return None,
        };
        let theirs = || self.listeners_of(serving);
        if self.listeners_of(id).any(|ours| theirs().any(|one| one.address == ours.address)) {
            return None;
        }
        refused.iter().filter(|(_, errno)| *errno == EADDRINUSE).find_map(|(new, _)| {
            let old = theirs().find(|one| one.address.port() == new.port() && one.address != *new)?.address;
            Some(Unequal { old, new: *new })
        })
    }

    pub(crate) fn parked(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.plan, Plan::Park { .. }) {
            return;
        }
        for listener in self.listeners.values_mut().filter(|listener| listener.owner.is_some()) {
            listener.selected = false;
        }
        let Some(serving) = self.serving() else {
            // It crashed meanwhile; its successor finds the parked sockets.
            self.spawn(turn);
            return;
        };
        let within = self.config.drain.min(PARKED_DRAIN);
        let deadline = turn.now.plus(within);
        if let Some(generation) = self.generations.get_mut(&serving) {
            let not_before = turn.now.plus(PARKED_FRESH.min(within));
            generation.enter(Phase::Draining { kind: Drain::Parked, deadline, not_before, report: None }, turn.now);
        }
        self.plan = Plan::Succeed { after: serving };
        self.say(What::HandingOver { from: serving, parked: true }, turn);
        turn.effect(Effect::Watch { generation: serving, within });
    }

    pub(crate) fn park_failed(&mut self, what: String, turn: &mut Turn<'_>) {
        if !matches!(self.plan, Plan::Park { .. }) {
            return;
        }
        self.plan = Plan::Rest;
        let failure = Failure::Park(what);
        let serving = self.serving();
        let ledger = self.open_ledger_mut().map(|ledger| {
            ledger.outcome = Outcome::NotReady(failure.clone());
            ledger.id
        });
        self.say(What::NotReady { generation: None, serving, ledger, failure }, turn);
        self.follow_up(turn);
    }

    /// Stops a generation that failed before it served; its start has failed.
    pub(crate) fn fail_start(&mut self, id: GenerationId, failure: &Failure, turn: &mut Turn<'_>) {
        let phase = self.generations.get(&id).map(|generation| &generation.phase);
        if matches!(phase, Some(Phase::Switching(Way::Canary { began: Some(_), .. }))) {
            return self.canary_failed(id, failure.clone(), turn);
        }
        let steered = matches!(phase, Some(Phase::Switching(_)));
        self.stop_generation(id, StopReason::NotReady, turn);
        if steered {
            self.keep_serving(turn);
        }
        self.start_failed(id, failure, turn);
    }

    /// The connections were about to go to a generation that failed: they stay where they were.
    pub(crate) fn keep_serving(&mut self, turn: &mut Turn<'_>) {
        if let Some(serving) = self.serving() {
            turn.effect(Effect::Steer { service: self.config.name.clone(), generation: serving, share: None });
        }
    }

    /// Why it died, with the binds it was refused.
    pub(crate) fn death(&self, id: GenerationId, status: ExitStatus) -> Failure {
        let refused = self.generations.get(&id).map(|generation| generation.refused.clone()).unwrap_or_default();
        Failure::Died { status, refused }
    }

    /// Its time to become ready is over.
    pub(crate) fn ready_timeout(&mut self, id: GenerationId, turn: &mut Turn<'_>) {
        let listens = self.listeners.values().any(|listener| listener.owner == Some(id));
        let serving = self.serving().is_some();
        let after = self.config.ready_timeout;
        let Some(Generation { phase: Phase::Starting { deadline, last, .. }, .. }) = self.generations.get_mut(&id) else { return };
        *deadline = None;
        let failure = Failure::TimedOut { after, listens, last: last.clone() };
        if serving {
            self.fail_start(id, &failure, turn);
        } else {
            // There is nothing to go back to. To kill a slow starter again and again is the restart loop that we are here to end.
            self.say(What::Overdue { generation: id, failure }, turn);
        }
    }
}

/// What was accepted right before may still have its request on the way, and nobody can tell it from one that never brings any.
const PARKED_FRESH: Duration = Duration::from_millis(100);
/// Longest drain of busy connections in a restart without overlap: everybody else waits meanwhile.
const PARKED_DRAIN: Duration = Duration::from_secs(5);
