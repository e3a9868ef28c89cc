//! What there is to tell. Each notice is a fact with its evidence; the words are made elsewhere.

use crate::config::When;
use crate::event::{DrainReport, ExitStatus, GenerationId};
use crate::ledger::{Failure, LedgerId, Moved, Unequal};
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
    /// The new generation wants a port of the old one on another address, which cannot be had beside it: the old one goes first.
    Unequal {
        /// The new one, which failed.
        generation: GenerationId,
        /// The old one.
        serving: GenerationId,
        /// The restart it belongs to.
        ledger: Option<LedgerId>,
        /// The two addresses.
        unequal: Unequal,
    },
    /// The new generation does not listen everywhere where the old one does.
    Moved {
        /// The old one.
        from: GenerationId,
        /// The new one.
        to: GenerationId,
        /// The restart it belongs to.
        ledger: Option<LedgerId>,
        /// What changed.
        moved: Moved,
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
    /// Its start waits for other services.
    WaitsFor {
        /// For whom, and for what of them.
        services: Vec<(String, When)>,
    },
    /// It lives and listens nowhere, and is taken for one that never will.
    Alive {
        /// Which.
        generation: GenerationId,
        /// Time since it was forked.
        after: Duration,
    },
    /// A task ran to its end with status 0.
    Completed {
        /// Which run.
        generation: GenerationId,
        /// How long it ran.
        took: Duration,
    },
    /// A task ended otherwise.
    TaskFailed {
        /// Which run.
        generation: GenerationId,
        /// How.
        status: ExitStatus,
        /// How long it ran.
        took: Duration,
    },
    /// A run was due while the one before it went on: it was left out.
    RunSkipped {
        /// The run that goes on.
        generation: GenerationId,
        /// How long it has been running.
        running: Duration,
    },
    /// It was started so often that it is left alone.
    GaveUp {
        /// Starts.
        starts: u32,
        /// Within this time.
        within: Duration,
        /// How the last one ended.
        status: Option<ExitStatus>,
    },
    /// Its health check failed so often in a row that it counts.
    Unhealthy {
        /// Which.
        generation: GenerationId,
        /// Failures in a row.
        failures: u32,
        /// What the last one said.
        what: String,
        /// It is restarted now; else it was restarted for this so recently that it has to wait.
        restart: bool,
    },
    /// It passes its health check again.
    Healthy {
        /// Which.
        generation: GenerationId,
        /// The evidence.
        what: String,
    },
    /// Watched files changed: it is restarted.
    FilesChanged {
        /// The first that changed.
        path: String,
        /// How many did.
        count: u32,
    },
    /// A new generation gets a share of the new connections.
    Canary {
        /// Which.
        generation: GenerationId,
        /// Per mille.
        share: u16,
        /// For how long; `None`: until somebody decides.
        time: Option<Duration>,
    },
    /// It came into the configuration.
    Added,
    /// It is no longer in the configuration: it finishes what it has, and stops.
    Removed,
    /// Its configuration changed.
    Reconfigured {
        /// The names of the keys that changed.
        keys: Vec<String>,
        /// They take a new process.
        restart: bool,
    },
    /// Command and environment of before are its own again.
    Reverted,
    /// The dashboard leaves its port to who wants it.
    GaveWay {
        /// What is wanted, or taken.
        wanted: SocketAddr,
        /// The service that wants it; `None`: somebody else has it.
        service: Option<String>,
        /// Where the dashboard goes.
        to: SocketAddr,
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
    /// It is no longer in the configuration, or is disabled there.
    Removed,
}
