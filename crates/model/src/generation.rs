//! One run of a service and where it is in its life. The data of a phase lives in the phase.

use crate::event::{DrainReport, ExitStatus, GenerationId};
use crate::ledger::Failure;
use crate::mono::Mono;
use crate::notice::StopReason;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// One run of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its id.
    pub id: GenerationId,
    /// Its main process.
    pub main: Main,
    /// Whether its binds are caught.
    pub trap: Trap,
    /// Binds that were refused, the latest few.
    pub refused: Vec<(SocketAddr, i32)>,
    /// What its health checks say, once there was one.
    pub health: Option<HealthState>,
    /// When it was forked (or asked for).
    pub spawned: Mono,
    /// When its phase began.
    pub since: Mono,
    /// Where it is.
    pub phase: Phase,
}

/// What the health checks of a generation say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    /// Failures in a row; 0: the last check was passed.
    pub failures: u32,
    /// The evidence of the last check.
    pub what: String,
    /// When it was done.
    pub at: Mono,
    /// When the first of the failures in a row was.
    pub failing_since: Option<Mono>,
}

/// The main process of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Main {
    /// Not forked yet.
    Unborn,
    /// It lives.
    Alive {
        /// Its process id.
        pid: i32,
    },
    /// It ended.
    Ended {
        /// Its process id, if we were told.
        pid: Option<i32>,
        /// How.
        status: ExitStatus,
    },
}

impl Main {
    /// Its process id.
    pub fn pid(self) -> Option<i32> {
        match self {
            Self::Unborn => None,
            Self::Alive { pid } => Some(pid),
            Self::Ended { pid, .. } => pid,
        }
    }

    /// How it ended, if it has.
    pub fn status(self) -> Option<ExitStatus> {
        match self {
            Self::Unborn | Self::Alive { .. } => None,
            Self::Ended { status, .. } => Some(status),
        }
    }
}

/// Whether a generation's binds are caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trap {
    /// Its command does not run yet.
    Unknown,
    /// They are.
    Active,
    /// They are not; the error number of `seccomp(2)`.
    Unavailable(i32),
}

/// Where a generation is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The keeper was asked to fork it.
    Spawning,
    /// Forked, not ready.
    Starting {
        /// When its time to become ready is over; `None` once that was said of a generation which replaces nobody.
        deadline: Option<Mono>,
        /// It passed its readiness check, but lacks a port that the generation before it has; it is waited for until then.
        covers_by: Option<Mono>,
        /// What the last try of the readiness check said.
        last: Option<String>,
    },
    /// The keeper was asked to steer all new connections to it.
    Switching(Way),
    /// It has all new connections.
    Serving {
        /// Since when it served at all (a rollback does not begin a new run).
        from: Mono,
        /// On probation.
        soak: Option<Soak>,
    },
    /// Its main process ended; its other processes, if any, still accept. Nobody has taken over yet.
    Orphaned,
    /// It gets no new connections, and finishes those it has.
    Draining {
        /// What the drain is for.
        kind: Drain,
        /// When it is over at the latest.
        deadline: Mono,
        /// Not before this: it is the way back.
        not_before: Mono,
        /// What the observer saw last.
        report: Option<DrainReport>,
    },
    /// Its stop signal was sent.
    Stopping {
        /// Why.
        why: StopReason,
        /// Its main process lived then: it ends because it was asked to.
        asked: bool,
        /// Further steps of its stop that were taken.
        steps: u32,
        /// When the next step is due, or the kill of what is left; `None`: it was killed.
        kill_at: Option<Mono>,
    },
    /// No process is left; its sockets hold the ports until somebody takes over, at most until then.
    Gone {
        /// Until when.
        until: Mono,
    },
    /// No process is left; the keeper was asked to close its sockets.
    Releasing,
}

/// Which way a switch goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// To the new generation.
    Forward,
    /// A share of them to the new generation, the second step to follow.
    Canary {
        /// Per mille of the new connections.
        share: u16,
        /// For how long; `None`: until somebody decides.
        time: Option<Duration>,
        /// Since when it has them; `None`: the keeper has not done it yet.
        began: Option<Mono>,
    },
    /// Back to the old one.
    Back {
        /// Since when it served.
        from: Mono,
        /// Who failed.
        failed: GenerationId,
        /// Why.
        failure: Failure,
    },
}

/// Probation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Soak {
    /// When it is over.
    pub until: Mono,
}

/// What a drain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Drain {
    /// Another generation has taken over: all connections may finish.
    Handover {
        /// Since when it served: it may be the way back.
        from: Mono,
    },
    /// New connections wait for its end: only busy connections may finish.
    Parked,
}

impl Generation {
    /// A generation that the keeper is asked for now.
    pub fn new(id: GenerationId, now: Mono) -> Self {
        Self {
            id,
            main: Main::Unborn,
            trap: Trap::Unknown,
            refused: Vec::new(),
            health: None,
            spawned: now,
            since: now,
            phase: Phase::Spawning,
        }
    }

    /// Goes over to another phase.
    pub(crate) fn enter(&mut self, phase: Phase, now: Mono) {
        self.phase = phase;
        self.since = now;
    }

    /// It is on its way to become the one that has the connections.
    pub fn is_incoming(&self) -> bool {
        match &self.phase {
            Phase::Spawning | Phase::Starting { .. } | Phase::Switching(Way::Forward | Way::Canary { .. }) => true,
            Phase::Switching(Way::Back { .. })
            | Phase::Serving { .. }
            | Phase::Orphaned
            | Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Gone { .. }
            | Phase::Releasing => false,
        }
    }

    /// Its main process has the connections.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving { .. })
    }

    /// It may be gone back to: it is kept for that, and is trusted.
    pub(crate) fn is_way_back(&self, now: Mono) -> bool {
        let waits = matches!(self.phase, Phase::Draining { kind: Drain::Handover { .. }, not_before, .. } if not_before > now);
        waits && self.is_trusted()
    }

    /// Its sockets are in our hands, and its main process lives or made a daemon of itself: it may be gone back to.
    pub(crate) fn is_trusted(&self) -> bool {
        let main = match self.main {
            Main::Alive { .. } => true,
            Main::Ended { status, .. } => status == ExitStatus::Exited(0),
            Main::Unborn => false,
        };
        main && self.trap == Trap::Active
    }
}
