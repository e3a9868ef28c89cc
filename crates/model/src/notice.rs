//! What there is to tell. Each notice is a fact with its evidence; the words are made elsewhere.

use crate::event::{DrainReport, ExitStatus, GenerationId};
use crate::ledger::{Failure, LedgerId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Something that a person or a program may want to know, about one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Which service.
    pub service: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A generation was forked.
    Spawned {
        /// Which.
        generation: GenerationId,
        /// Its main process.
        pid: i32,
        /// Who has the connections meanwhile.
        from: Option<GenerationId>,
        /// The restart it belongs to.
        ledger: Option<LedgerId>,
    },
    /// Its binds are not caught: its ports are not held.
    Untrapped {
        /// Which.
        generation: GenerationId,
        /// Error number of `seccomp(2)`.
        errno: i32,
    },
    /// A generation listens.
    Listening {
        /// Which.
        generation: GenerationId,
        /// Its main process.
        pid: Option<i32>,
        /// Where.
        address: SocketAddr,
        /// The socket.
        inode: u32,
        /// It takes new connections already.
        selected: bool,
    },
    /// A bind was refused.
    BindRefused {
        /// Whose.
        generation: GenerationId,
        /// Where.
        address: SocketAddr,
        /// Error number.
        errno: i32,
    },
    /// A port is held before its service runs.
    Held {
        /// Which.
        address: SocketAddr,
    },
    /// Somebody else has the port: the start waits for its release.
    PortTaken {
        /// Which.
        address: SocketAddr,
    },
    /// The port cannot be held at all.
    HoldRefused {
        /// Which.
        address: SocketAddr,
        /// Error number.
        errno: i32,
    },
    /// A generation passed its readiness check.
    Ready {
        /// Which.
        generation: GenerationId,
        /// Time since it was forked.
        after: Duration,
        /// The evidence.
        evidence: String,
    },
    /// The first generation is not ready in time; it is left alone, for there is nothing to go back to.
    Overdue {
        /// Which.
        generation: GenerationId,
        /// Why.
        failure: Failure,
    },
    /// A generation has all new connections.
    Switched {
        /// Who had them.
        from: Option<GenerationId>,
        /// Who has them.
        to: GenerationId,
        /// The restart it belongs to.
        ledger: Option<LedgerId>,
        /// How long the old one stays as the way back; zero if there is none.
        soak: Duration,
        /// Time since the restart was asked for.
        took: Option<Duration>,
    },
    /// What the old generation had right after the switch.
    Counted {
        /// Who had the connections.
        from: GenerationId,
        /// Who has them.
        to: GenerationId,
        /// The restart it belongs to.
        ledger: LedgerId,
        /// What it had; `None` if it could not be looked at.
        old: Option<DrainReport>,
    },
    /// The new generation has the connections for good.
    Settled {
        /// It was on probation.
        probation: bool,
        /// Which.
        generation: GenerationId,
        /// The restart it belongs to.
        ledger: Option<LedgerId>,
    },
    /// A new generation failed before it was ready.
    NotReady {
        /// Which; `None` if none was started.
        generation: Option<GenerationId>,
        /// Who goes on, untouched; `None`: nobody had the connections.
        serving: Option<GenerationId>,
        /// The restart it belongs to.
        ledger: Option<LedgerId>,
        /// Why.
        failure: Failure,
    },
    /// A generation failed on probation: the connections go back.
    RollingBack {
        /// The failed one.
        from: GenerationId,
        /// Who gets them.
        to: GenerationId,
        /// Why.
        failure: Failure,
    },
    /// The old generation has the connections again.
    RolledBack {
        /// The failed one.
        from: GenerationId,
        /// Who has them.
        to: GenerationId,
        /// The restart it belongs to.
        ledger: Option<LedgerId>,
    },
    /// The generation that had the connections ended by itself.
    Crashed {
        /// Which.
        generation: GenerationId,
        /// How.
        status: ExitStatus,
        /// How long it had served.
        served: Duration,
    },
    /// Its main process ended with status 0 before it was ready, and its children go on: it made itself a daemon.
    WentToBackground {
        /// Which.
        generation: GenerationId,
    },
    /// The next start is put off.
    BackingOff {
        /// For so long.
        wait: Duration,
        /// Failures in a row.
        failures: u32,
    },
    /// A restart cannot overlap: new connections wait while the old generation finishes.
    HandingOver {
        /// Who finishes.
        from: GenerationId,
        /// New connections wait in held queues (else they are refused: the ports are not held).
        parked: bool,
    },
    /// A restart was asked for while another had not switched yet: it follows.
    RestartQueued,
    /// A stop signal was sent.
    StopSignal {
        /// To whom.
        generation: GenerationId,
        /// Which.
        signal: i32,
        /// When what is left is killed.
        grace: Duration,
        /// Why.
        why: StopReason,
        /// What it still had, if it drained.
        left: Option<DrainReport>,
    },
    /// What was left after the grace was killed.
    Killed {
        /// Of which generation.
        generation: GenerationId,
        /// After this grace.
        grace: Duration,
    },
    /// No process of a generation is left.
    Gone {
        /// Which.
        generation: GenerationId,
        /// How its main process ended.
        status: ExitStatus,
        /// It was stopped by us.
        stopped: bool,
    },
    /// Connections that a generation took with it.
    Lost {
        /// Which.
        generation: GenerationId,
        /// How many.
        count: u32,
    },
    /// Nobody accepted for so long: the ports were released.
    HoldOver {
        /// The time.
        after: Duration,
    },
    /// A steer could not be done.
    SteerFailed {
        /// To whom.
        generation: GenerationId,
        /// What failed.
        what: String,
    },
    /// The service ended and is not started again.
    Ended {
        /// How.
        status: Option<ExitStatus>,
    },
    /// The service is stopped: no process of it is left.
    Stopped {
        /// How its last main process ended.
        status: Option<ExitStatus>,
    },
}

/// Why a generation is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The service is to be down.
    Stop,
    /// It has drained.
    Drained,
    /// It has not drained within its time.
    DrainDeadline,
    /// Too many generations drain.
    TooMany,
    /// It is not ready.
    NotReady,
    /// It failed on probation.
    Failed,
    /// A restart without overlap.
    HandingOver,
    /// What its main process left behind.
    Leftover,
}
