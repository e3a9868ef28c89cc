//! What the world is told ([`Event`]) and what it asks for ([`Effect`]). Values only; the daemon translates them.

use crate::config::InstanceConfig;
use crate::notice::Notice;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// One run of a service; unique and increasing within an instance, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationId(pub u64);

/// A listening socket that the keeper has a duplicate of; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListenerId(pub u64);

impl std::fmt::Display for GenerationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It ended, and nobody can say how.
    Unknown,
}

impl ExitStatus {
    /// As a shell says it: 128 + n for a signal, 1 for what nobody can say.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(status) => status.to_le_bytes()[0],
            Self::Signalled(signal) => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
            Self::Unknown => 1,
        }
    }
}

/// How the keeper came by a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The generation's own socket.
    Adopted,
    /// The keeper's, or a dead generation's, put in the place of the generation's own.
    Swapped,
    /// The keeper's own, and no generation has it yet.
    Held,
    /// The keeper's own, given to the generation as an open descriptor.
    Passed,
    /// The keeper's own, put in the place of the generation's, which cannot be duplicated.
    Given,
}

/// What is known of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerFacts {
    /// Its id.
    pub id: ListenerId,
    /// Its service.
    pub service: String,
    /// Who accepts on it; `None`: nobody, connections wait in its queue.
    pub owner: Option<GenerationId>,
    /// Who had it last.
    pub last_owner: Option<GenerationId>,
    /// Where it listens.
    pub address: SocketAddr,
    /// `IPV6_V6ONLY`.
    pub v6only: bool,
    /// Socket inode.
    pub inode: u32,
    /// How the keeper came by it.
    pub origin: Origin,
    /// It takes new connections of its port.
    pub selected: bool,
}

/// Why a command did not run: the step between `fork` and `execve` that failed, as a phrase, and its error number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFailure {
    /// The step: "execve", "chdir".
    pub stage: String,
    /// The error number.
    pub errno: i32,
}

/// What a drain observer saw of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainReport {
    /// Connections that wait in the queues of its listeners, half-open ones included.
    pub queued: u32,
    /// Its open connections, all of them.
    pub open: u32,
    /// Those among `open` that are idle keep-alive: nothing unread, the server spoke last, quiet for five seconds.
    pub idle: u32,
    /// Those among `open` with unread data, or where the client spoke last.
    pub busy: u32,
}

/// What a person, a program or a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopWay {
    /// Stop signal, grace, kill.
    Gentle,
    /// Kill at once.
    Kill,
}

/// Something happened. Events about a generation or listener that the world does not know (any more) change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed; nothing else.
    Tick,
    /// Start a service that is down.
    Start {
        /// Which.
        service: String,
    },
    /// Replace the running generation by a new one.
    Restart {
        /// Which.
        service: String,
    },
    /// Replace the running generation by a new one, which gets a share of the new connections for some time before it gets all.
    Canary {
        /// Which.
        service: String,
        /// Share of new connections per mille, 1 to 999.
        share: u16,
        /// How long it has only the share; `None`: until somebody decides.
        time: Option<Duration>,
    },
    /// Somebody has decided about the generation that has a share: all connections to it, or none.
    Decide {
        /// Of which service.
        service: String,
        /// All; else none.
        switch: bool,
    },
    /// Command and environment of before the last change of them again; a restart if it runs.
    Rollback {
        /// Which.
        service: String,
    },
    /// Stop a service.
    Stop {
        /// Which.
        service: String,
        /// How.
        way: StopWay,
    },
    /// Stop several services; one that others of them start after is stopped when those are down.
    StopSome {
        /// Which.
        services: Vec<String>,
        /// How.
        way: StopWay,
    },
    /// The configuration is this from now on: what is new starts, what is no longer there stops, what changed is changed, and nothing
    /// else is touched. Name, mode and style of the instance stay.
    Configure(Box<InstanceConfig>),
    /// Stop all services and end the instance.
    Shutdown {
        /// How.
        way: StopWay,
        /// The signal that asked for it: 128 + it is the exit status if no service ever ran.
        signal: Option<i32>,
    },
    /// The keeper forked the generation.
    Spawned {
        /// Which.
        generation: GenerationId,
        /// Its main process.
        pid: i32,
    },
    /// The keeper could not fork it.
    SpawnFailed {
        /// Which.
        generation: GenerationId,
        /// What failed.
        what: String,
    },
    /// Its command runs.
    Executed {
        /// Which.
        generation: GenerationId,
        /// Error number of `seccomp` if its binds are not caught; `None` if they are.
        untrapped: Option<i32>,
    },
    /// Its command did not run; no process of it is left.
    ExecFailed {
        /// Which.
        generation: GenerationId,
        /// Why.
        failure: ExecFailure,
    },
    /// A listener came to be or changed.
    Listener(ListenerFacts),
    /// A listener is gone.
    ListenerGone {
        /// Which.
        listener: ListenerId,
    },
    /// A bind was refused with its real error.
    BindRefused {
        /// Whose.
        generation: GenerationId,
        /// What it asked for.
        address: SocketAddr,
        /// The error number it was given.
        errno: i32,
    },
    /// An address is held for the service.
    Held {
        /// Which service.
        service: String,
        /// Which address.
        address: SocketAddr,
    },
    /// Somebody else has the address (or with another error number than `EADDRINUSE`: it cannot be held at all).
    HoldWaits {
        /// Which service.
        service: String,
        /// Which address.
        address: SocketAddr,
        /// The error number of the bind.
        errno: i32,
    },
    /// Its main process ended.
    MainExited {
        /// Which.
        generation: GenerationId,
        /// How.
        status: ExitStatus,
    },
    /// No process of it is left.
    TreeEmpty {
        /// Which.
        generation: GenerationId,
    },
    /// It passed its readiness check.
    Ready {
        /// Which.
        generation: GenerationId,
        /// The evidence, as a phrase: "a probe connection to 127.0.0.1:5000 was accepted".
        evidence: String,
    },
    /// Why it is not ready yet, as far as the probe can tell.
    NotYetReady {
        /// Which.
        generation: GenerationId,
        /// What the last try said.
        what: String,
    },
    /// [`Effect::Steer`] is done.
    Steered {
        /// To whom.
        generation: GenerationId,
    },
    /// [`Effect::Steer`] could not be done; who had the connections still has them.
    SteerFailed {
        /// To whom.
        generation: GenerationId,
        /// What failed.
        what: String,
    },
    /// [`Effect::Park`] is done: new connections wait.
    Parked {
        /// Which service.
        service: String,
    },
    /// [`Effect::Park`] could not be done.
    ParkFailed {
        /// Which service.
        service: String,
        /// What failed.
        what: String,
    },
    /// The count right after the switch to `to`, as [`Effect::Snapshot`] asked.
    Snapshot {
        /// The new generation.
        to: GenerationId,
        /// What the old one still had; `None` if it could not be looked at.
        old: Option<DrainReport>,
    },
    /// What the drain observer sees.
    Drain {
        /// Which generation.
        generation: GenerationId,
        /// What it has left.
        report: DrainReport,
    },
    /// When the next run of a task is due, as [`Effect::Schedule`] asked; `None`: never.
    Scheduled {
        /// Which.
        service: String,
        /// Milliseconds since 1970 (UTC).
        at_ms: Option<u64>,
    },
    /// That time has come.
    Due {
        /// Which.
        service: String,
        /// When it was due, in milliseconds since 1970 (UTC).
        at_ms: u64,
    },
    /// A health check is done.
    Health {
        /// Whose.
        generation: GenerationId,
        /// It was passed.
        passed: bool,
        /// The evidence, as a phrase: "GET /health was answered with 503".
        what: String,
    },
    /// Watched files changed, and have been quiet since for the service's debounce time.
    FilesChanged {
        /// Whose.
        service: String,
        /// The first that changed, as a person reads it.
        path: String,
        /// How many did.
        count: u32,
    },
    /// Its listeners are released.
    Released {
        /// Which generation.
        generation: GenerationId,
        /// Connections that waited in them; `None` if it could not be done.
        queued: Option<u32>,
    },
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The main process.
    Main,
    /// Every process of the generation's tree.
    Tree,
}

/// Something is to be done. Effects are carried out in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Hold a port that no generation has. Comes back as [`Event::Held`] or [`Event::HoldWaits`].
    Hold {
        /// For which service.
        service: String,
        /// Which address.
        address: SocketAddr,
    },
    /// Hold this address no longer, if no generation has it; nor wait for it.
    Unhold {
        /// Which service.
        service: String,
        /// Which address.
        address: SocketAddr,
    },
    /// Fork a generation. Comes back as [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn {
        /// Of which service.
        service: String,
        /// Which.
        generation: GenerationId,
    },
    /// All new connections to this generation, or a share of them. Comes back as [`Event::Steered`] or [`Event::SteerFailed`].
    Steer {
        /// Which service.
        service: String,
        /// To whom.
        generation: GenerationId,
        /// Per mille of the new connections; the others stay where they are. `None`: all.
        share: Option<u16>,
    },
    /// Let new connections wait. Comes back as [`Event::Parked`] or [`Event::ParkFailed`].
    Park {
        /// Which service.
        service: String,
        /// The next generation listens on another address of the port: what waited in a queue could not be given to it, so connection
        /// requests are to go unanswered meanwhile, which makes clients repeat them.
        elsewhere: bool,
    },
    /// Send a signal.
    Signal {
        /// To whom.
        generation: GenerationId,
        /// Its number.
        signal: i32,
        /// To its main process or to all.
        scope: Scope,
    },
    /// Close the keeper's duplicates of its listeners. Comes back as [`Event::Released`].
    Release {
        /// Whose.
        generation: GenerationId,
    },
    /// Close everything held for the service.
    ReleaseService {
        /// Which.
        service: String,
    },
    /// Nothing of this generation matters any more.
    Forget {
        /// Which.
        generation: GenerationId,
    },
    /// Begin (or begin anew, with its listeners of now) to find out whether it is ready. Comes back as [`Event::Ready`].
    Probe {
        /// Which.
        generation: GenerationId,
    },
    /// The readiness check is no longer of interest.
    StopProbe {
        /// Whose.
        generation: GenerationId,
    },
    /// Count what `from` has right now. Comes back as [`Event::Snapshot`].
    Snapshot {
        /// Who had the connections until now.
        from: GenerationId,
        /// Who has the new ones from now on.
        to: GenerationId,
    },
    /// Observe its connections. Comes back as [`Event::Drain`], again and again.
    Watch {
        /// Which.
        generation: GenerationId,
        /// When it will be stopped at the latest, from now: the observer need not look longer.
        within: Duration,
    },
    /// Its connections are no longer of interest.
    StopWatch {
        /// Whose.
        generation: GenerationId,
    },
    /// Find out when its next run is due, say so by [`Event::Scheduled`], and then by [`Event::Due`]. Takes the place of an earlier one.
    Schedule {
        /// Which service.
        service: String,
        /// The cron expression, in local time.
        cron: String,
        /// When a run was due that has been begun: no run is due at that time or before. Milliseconds since 1970 (UTC).
        after_ms: Option<u64>,
        /// When the next one was due when that was last found out: past by now, it is due at once.
        expected_ms: Option<u64>,
    },
    /// No run of it is of interest any more.
    Unschedule {
        /// Which service.
        service: String,
    },
    /// Check its health as its service says from now on. Comes back as [`Event::Health`], again and again.
    CheckHealth {
        /// Whose.
        generation: GenerationId,
    },
    /// Its health is no longer of interest.
    StopHealth {
        /// Whose.
        generation: GenerationId,
    },
    /// Watch the service's files (anew, as its configuration says now). Comes back as [`Event::FilesChanged`].
    WatchFiles {
        /// Which service.
        service: String,
    },
    /// Its files are no longer of interest.
    UnwatchFiles {
        /// Which service.
        service: String,
    },
    /// Tell people and programs.
    Say(Notice),
    /// End the instance with this status.
    Exit {
        /// Exit status.
        status: u8,
    },
}
