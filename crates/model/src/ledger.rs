//! The account of one restart: what was asked, what happened, and what each connection came to. Counts, or the fact that nobody counted.

use crate::event::{DrainReport, ExecFailure, ExitStatus, GenerationId};
use crate::mono::Mono;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Number of a restart within its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LedgerId(pub u64);

/// How a restart stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Not decided yet.
    Running,
    /// The new generation has the connections, and is on probation.
    Switched,
    /// It has them for good.
    Settled,
    /// It failed on probation; the old one has the connections again.
    RolledBack(Failure),
    /// It never became ready; the old one was not touched.
    NotReady(Failure),
    /// It was stopped before it was decided.
    Abandoned,
}

/// Why a generation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The keeper could not fork it.
    Spawn(String),
    /// Its command did not run.
    Exec(ExecFailure),
    /// Its main process ended.
    Died {
        /// How.
        status: ExitStatus,
        /// Addresses whose bind it was refused, with the error numbers.
        refused: Vec<(SocketAddr, i32)>,
    },
    /// It was not ready in time.
    TimedOut {
        /// The time it had.
        after: Duration,
        /// Whether it listens at all.
        listens: bool,
        /// What the last try of the readiness check said.
        last: Option<String>,
    },
    /// The connections could not be steered to it.
    Steer(String),
    /// Its health check failed so often in a row.
    Unhealthy {
        /// Failures in a row.
        failures: u32,
        /// What the last check said.
        last: String,
    },
    /// New connections could not be parked.
    Park(String),
    /// A newer restart took its place.
    Superseded,
    /// Somebody called it off while it had a share of the connections.
    CalledOff,
}

/// Two addresses of one port that cannot be bound beside each other so that connections could be steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unequal {
    /// The one that is served.
    pub old: SocketAddr,
    /// The one that the new generation wants.
    pub new: SocketAddr,
}

/// Addresses that changed with a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Where the new generation does not listen.
    pub left: Vec<SocketAddr>,
    /// Where only the new one does.
    pub new: Vec<SocketAddr>,
}

/// The account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Its number.
    pub id: LedgerId,
    /// Who had the connections when it began.
    pub from: Option<GenerationId>,
    /// Who was started for it.
    pub to: Option<GenerationId>,
    /// How it stands.
    pub outcome: Outcome,
    /// Somebody asked for it; else a crash did.
    pub planned: bool,
    /// When it was asked for.
    pub asked: Mono,
    /// When the switch was done.
    pub switched: Option<Mono>,
    /// What the old generation had right after the switch.
    pub at_switch: Option<DrainReport>,
    /// Open connections when the old one's stop signal went out, those among them that were idle left out.
    pub cut: Option<u32>,
    /// Idle keep-alive connections that were closed by the old one's stop.
    pub idle_closed: Option<u32>,
    /// Connections that waited in the old generation's queues when they were closed. `None`: not known, or a generation died with what it
    /// had accepted.
    pub lost: Option<u32>,
    /// How long nobody accepted before the switch; `None` until the switch.
    pub gap: Option<Duration>,
    /// The ports were released in between: connections may have been refused.
    pub released: bool,
    /// The new generation had a share of the connections before it had all, or was to have it.
    pub canary: Option<Canary>,
    /// Why it went without overlap, although that was not wanted.
    pub unequal: Option<Unequal>,
    /// The addresses that changed at the switch.
    pub moved: Option<Moved>,
}

/// The first step of a switch in two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Of a thousand new connections.
    pub share: u16,
    /// For how long; `None`: until somebody decides.
    pub time: Option<Duration>,
    /// When it got them.
    pub began: Option<Mono>,
    /// When it got all of them, or none any more.
    pub ended: Option<Mono>,
}

impl Ledger {
    /// Opens the account.
    pub fn open(id: LedgerId, from: Option<GenerationId>, planned: bool, now: Mono) -> Self {
        Self {
            id,
            from,
            to: None,
            outcome: Outcome::Running,
            planned,
            asked: now,
            switched: None,
            at_switch: None,
            cut: None,
            idle_closed: None,
            lost: None,
            gap: None,
            released: false,
            canary: None,
            unequal: None,
            moved: None,
        }
    }

    /// Old connections that ended by themselves: what there was at the switch less what the stop ended. `None` while the drain runs.
    pub fn drained(&self) -> Option<u32> {
        let had = self.at_switch?;
        Some((had.open + had.queued).saturating_sub(self.cut?).saturating_sub(self.idle_closed?))
    }

    /// The old generation gets its stop signal now with this left.
    pub(crate) fn stop_old(&mut self, left: Option<DrainReport>) {
        if self.cut.is_none() {
            self.cut = left.map(|left| left.open.saturating_sub(left.idle));
            self.idle_closed = left.map(|left| left.idle);
        }
    }
}
