//! What crosses the control socket: [`Request`] one way, [`Answer`] the other. Closed enums; the rules are in the crate's head.

use crate::status::{InstanceStatus, Ledger, Measured};
use serde::{Deserialize, Serialize};

/// Version of the control protocol. See the crate's head for when it changes.
pub const VERSION: u32 = 1;

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The first request on each connection. Answered by [`Reply::Hello`].
    Hello {
        /// The client's [`VERSION`].
        version: u32,
    },
    /// What is true now. Answered by [`Reply::Status`].
    Status {},
    /// Replace the running generation by a new one. Answered by [`Reply::Restarting`] at once, or with `wait` by
    /// [`Reply::Restarted`] when the soak is over or the new generation has failed, after events that tell the progress.
    Restart {
        /// Which service; `None`: the only one.
        service: Option<String>,
        /// Answer when it is over.
        wait: bool,
    },
    /// Stop a service, or the instance with all its services. Answered by [`Reply::Stopping`] at once, or with `wait` by
    /// [`Reply::Stopped`] when no process of it is left. The instance itself is gone when its lock is released
    /// ([`crate::runtime`]), a moment later.
    Stop {
        /// Which service; `None`: all, and the instance ends.
        service: Option<String>,
        /// Answer when it is over.
        wait: bool,
    },
}

/// A line from the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The one answer to a request.
    Reply(Reply),
    /// Progress of the request that is being answered.
    Event(Event),
}

/// Answers to requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// The server's [`VERSION`].
        version: u32,
        /// The server's release, for people.
        stayput: String,
        /// Name of the instance.
        instance: String,
        /// Process id of the guard.
        guard: i32,
    },
    /// To [`Request::Status`].
    Status(Box<InstanceStatus>),
    /// To [`Request::Restart`] without `wait`: it has begun.
    Restarting {
        /// Which service.
        service: String,
        /// The generation that runs; `None`: none does.
        from: Option<u64>,
        /// The generation that is being started; `None` while it cannot be started yet (its port is taken, or the old one has
        /// to end first).
        to: Option<u64>,
    },
    /// To [`Request::Restart`] with `wait`: it is over.
    Restarted {
        /// Which service.
        service: String,
        /// What happened, so far: old connections may go on draining after the soak.
        ledger: Box<Ledger>,
        /// Last output lines of the new generation if it failed, oldest first; not valid UTF-8 replaced by U+FFFD.
        #[serde(default)]
        last_output: Vec<String>,
    },
    /// To [`Request::Stop`] without `wait`: it has begun.
    Stopping {},
    /// To [`Request::Stop`] with `wait`: no process is left.
    Stopped {
        /// How each service's main process ended.
        services: Vec<StoppedService>,
    },
    /// It was refused or could not be done; nothing was changed.
    Failed(Failure),
}

/// How a stopped service ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedService {
    /// Its name.
    pub name: String,
    /// How its last main process ended, as the rest of a sentence that begins with it: "exited with status 0", "was ended by signal
    /// TERM", "never ran".
    pub ended: String,
    /// The exit status that the instance ends with because of it, 0 to 255.
    pub status: u8,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// What failed and why, lower-case, for people.
    pub message: String,
    /// What to do about it, if there is something.
    #[serde(default)]
    pub hint: Option<String>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The two sides speak different versions.
    Version,
    /// The line was no request of this version, or no hello came first.
    BadRequest,
    /// There is no such service in this instance.
    UnknownService,
    /// Not now: another restart has not switched yet, or the instance is stopping.
    Busy,
    /// It was tried and did not work.
    Failed,
}

/// Progress of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The new generation cannot be started yet.
    Waiting {
        /// Which service.
        service: String,
        /// What it waits for, as a sentence without a full stop: "waiting for port 5000, held by pid 991 nginx".
        detail: String,
    },
    /// The new generation was forked.
    Starting {
        /// Which service.
        service: String,
        /// The generation that runs; `None`: none does.
        from: Option<u64>,
        /// The new generation.
        to: u64,
        /// Its main process.
        pid: i32,
    },
    /// The new generation listens; it takes only probes so far.
    Listening {
        /// Which service.
        service: String,
        /// The new generation.
        generation: u64,
        /// Where, as `address:port`.
        address: String,
    },
    /// The new generation passed its readiness check.
    Ready {
        /// Which service.
        service: String,
        /// The new generation.
        generation: u64,
        /// Time since it was forked, in milliseconds.
        after_ms: u64,
    },
    /// All new connections go to the new generation.
    Switched {
        /// Which service.
        service: String,
        /// Who had them before; `None`: nobody.
        from: Option<u64>,
        /// Who has them now.
        to: u64,
        /// How long the old generation is kept as a way back, in milliseconds.
        soak_ms: u64,
        /// Connections that the old generation still had at the switch.
        draining: Measured,
    },
    /// The new generation did not become ready; the old one was not touched.
    NotReady {
        /// Which service.
        service: String,
        /// The new generation.
        generation: u64,
        /// Why, as a sentence without a full stop.
        reason: String,
    },
    /// The new generation failed in its soak; the old one has the connections again.
    RolledBack {
        /// Which service.
        service: String,
        /// The failed generation.
        from: u64,
        /// Who has the connections now.
        to: u64,
        /// Why, as a sentence without a full stop.
        reason: String,
    },
    /// A stop signal was sent.
    StopSignal {
        /// Which service.
        service: String,
        /// To which generation.
        generation: u64,
        /// Signal name without `SIG`.
        signal: String,
        /// When the rest of it will be killed, in milliseconds from now.
        grace_ms: u64,
    },
    /// No process of a generation is left.
    Exited {
        /// Which service.
        service: String,
        /// Which generation.
        generation: u64,
        /// How its main process ended, as a sentence without a full stop.
        ended: String,
    },
}
