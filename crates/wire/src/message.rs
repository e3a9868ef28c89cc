//! What crosses the control socket: [`Request`] one way, [`Answer`] the other. Closed enums; the rules are in the crate's head.

use crate::history::{History, HistoryRange};
use crate::plan::{ConfigReport, PlanReport};
use crate::processes::Processes;
use crate::status::{InstanceStatus, Ledger, Measured};
use crate::stream::{Cursor, EventRecord, LogLine, LogsQuery};
use serde::{Deserialize, Serialize};

/// Version of the control protocol. See the crate's head for when it changes.
pub const VERSION: u32 = 2;

/// What a client may ask.
///
/// Where a request names `services`, each entry is a name or a glob (`*`, `?`, `[abc]`); an entry that fits no service of the
/// instance fails the whole request with [`FailureKind::UnknownService`], and nothing is done. An empty list means the only
/// service of the instance, and is [`FailureKind::BadRequest`] if there are several: `*` means all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The first request on each connection. Answered by [`Reply::Hello`].
    Hello {
        /// The client's [`VERSION`].
        version: u32,
        /// On whose behalf what follows is asked for, for the events that tell it: "dashboard: operate from 127.0.0.1". The server adds
        /// what the kernel says of the connection, which needs no trust. `None`: the client's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// What is true now. Answered by [`Reply::Status`].
    Status {},
    /// Start services that are stopped; those that are meant to run already are left alone. Answered by [`Reply::Starting`] at
    /// once, or with `wait` by [`Reply::Started`] when each of them is started or cannot be for now: it waits for a port, its
    /// start failed.
    Start {
        /// Which.
        services: Vec<String>,
        /// Answer when it is over.
        wait: bool,
    },
    /// Replace the running generations by new ones. Several services are restarted in the order of their dependencies, so many at
    /// a time; the first that fails ends it, and the rest is left as it is. Answered by [`Reply::Restarting`] at once, or with
    /// `wait` by [`Reply::Restarted`] when every soak is over or a new generation has failed, after events that tell the progress.
    Restart {
        /// Which.
        services: Vec<String>,
        /// Answer when it is over.
        wait: bool,
        /// How many at a time; `None`: one.
        #[serde(default)]
        parallel: Option<u32>,
        /// Give the new generation a share of the connections first. Only with one service.
        #[serde(default)]
        canary: Option<Canary>,
    },
    /// Stop services; in an instance of `stayput run` the instance ends with its service. Answered by [`Reply::Stopping`] at once,
    /// or with `wait` by [`Reply::Stopped`] when no process of them is left.
    Stop {
        /// Which.
        services: Vec<String>,
        /// Answer when it is over.
        wait: bool,
    },
    /// Stop all services and end the instance. Answered as [`Request::Stop`]. The instance itself is gone when its lock is released
    /// ([`crate::runtime`]), a moment after the reply.
    Down {
        /// Answer when no process of a service is left.
        wait: bool,
    },
    /// Send a signal to the generations that have the connections. Answered by [`Reply::Signalled`].
    Signal {
        /// Which.
        services: Vec<String>,
        /// Signal number, 1 to 64.
        signal: i32,
        /// To whom of each.
        scope: SignalScope,
    },
    /// Go back to the command and environment that the service had before its last change. Answered as [`Request::Restart`].
    Rollback {
        /// Which; `None`: the only one.
        service: Option<String>,
        /// Answer when it is over.
        wait: bool,
    },
    /// About a generation that has a share of the connections: all to it now, or none any more; then it finishes what it has, and stops.
    /// Answered by [`Reply::Done`] at once; events and the ledger tell the rest.
    Decide {
        /// Of which service; `None`: the only one.
        service: Option<String>,
        /// All; else none.
        switch: bool,
    },
    /// What a reload would change. Answered by [`Reply::Plan`]; nothing is changed.
    Plan {},
    /// Read the configuration again and apply what changed. A configuration with errors changes nothing and is answered by
    /// [`Reply::Reloaded`] with those errors.
    Reload {
        /// Answer when the restarts that it takes are over.
        wait: bool,
    },
    /// Hold a port for a service although nothing declares it, until [`Request::Release`] or the service's next start. Answered by
    /// [`Reply::Done`].
    Hold {
        /// For which service; `None`: the only one.
        service: Option<String>,
        /// `PORT` (every IPv4 address), `ADDRESS:PORT` or `[ADDRESS]:PORT`.
        address: String,
    },
    /// Let go of a port that is held and that nobody accepts on: a debugger or another program can bind it. Answered by
    /// [`Reply::Done`].
    Release {
        /// Whose; `None`: whoever holds it.
        service: Option<String>,
        /// As in [`Request::Hold`].
        address: String,
    },
    /// What has happened, and what happens. Answered by [`Answer::Record`]s, [`Answer::Gap`] where some are lost, and
    /// [`Answer::Reset`] if `since` is from before the present daemon; in the end by [`Reply::End`], which with `follow` never
    /// comes while the instance lives.
    Events {
        /// Those after this one; `None`: all that are kept. With `follow` and [`Cursor::NOW`]: only new ones.
        #[serde(default)]
        since: Option<Cursor>,
        /// Go on with what happens from now on.
        #[serde(default)]
        follow: bool,
        /// Only of these services (names or globs); empty: all, and what concerns none.
        #[serde(default)]
        services: Vec<String>,
    },
    /// What services wrote. Answered by [`Answer::Log`] lines in the order of their times, [`Answer::LogGap`] where bytes are
    /// missing, and in the end by [`Reply::End`], which with `follow` never comes while the instance lives.
    Logs(LogsQuery),
    /// All counters and gauges. Answered by [`Reply::Metrics`].
    Metrics {},
    /// How some values went. Answered by [`Reply::History`].
    History {
        /// Of which service; `None`: of all, as one series each.
        service: Option<String>,
        /// How far back.
        range: HistoryRange,
    },
    /// The processes of a service, one by one. Answered by [`Reply::Processes`].
    Processes {
        /// Which; `None`: the only one.
        service: Option<String>,
    },
    /// How a service is configured. Answered by [`Reply::Config`]. Values of its environment are never told.
    Config {
        /// Which; `None`: the only one.
        service: Option<String>,
    },
}

/// A share of the new connections for a new generation, before it gets all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Of a thousand new connections, 1 to 999.
    pub permille: u16,
    /// For so long, in milliseconds; then it gets all, if it has not failed. `None`: until [`Request::Decide`]; who waits for the restart
    /// is answered when it has its share.
    pub for_ms: Option<u64>,
}

/// Who of a generation gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignalScope {
    /// The main process.
    Main,
    /// Every process of its tree.
    Tree,
}

/// A line from the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The one answer to a request.
    Reply(Reply),
    /// Progress of the request that is being answered.
    Event(Event),
    /// Something happened ([`Request::Events`]).
    Record(EventRecord),
    /// Events are missing here: this reader was too slow, or asked too late.
    Gap {
        /// How many; `None`: not known.
        missed: Option<u64>,
    },
    /// The cursor belongs to another daemon, which is gone with its events: what follows is all that is kept now.
    Reset {},
    /// A line that a service wrote ([`Request::Logs`]).
    Log(LogLine),
    /// Bytes of a service's output are missing here.
    LogGap {
        /// Whose.
        service: String,
        /// How many bytes; `None`: not known.
        dropped_bytes: Option<u64>,
        /// Why, as a phrase: "the disk was full", "this reader was too slow".
        why: String,
    },
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
    /// To [`Request::Start`] without `wait`: it has begun.
    Starting {
        /// Which were not meant to run until now.
        services: Vec<String>,
    },
    /// To [`Request::Start`] with `wait`.
    Started {
        /// Each of them.
        services: Vec<StartedService>,
    },
    /// To [`Request::Restart`] and [`Request::Rollback`] without `wait`: it has begun.
    Restarting {
        /// Each of them, in their order. Those whose turn has not come have no `to`.
        services: Vec<RestartingService>,
    },
    /// To [`Request::Restart`] and [`Request::Rollback`] with `wait`: it is over.
    Restarted {
        /// Each of them, in the order in which they were restarted.
        services: Vec<RestartedService>,
        /// Services that were not touched because one before them failed.
        #[serde(default)]
        untouched: Vec<String>,
    },
    /// To [`Request::Stop`] and [`Request::Down`] without `wait`: it has begun.
    Stopping {},
    /// To [`Request::Stop`] and [`Request::Down`] with `wait`: no process is left.
    Stopped {
        /// How each service's main process ended.
        services: Vec<StoppedService>,
    },
    /// To [`Request::Signal`].
    Signalled {
        /// Who got it.
        services: Vec<SignalledService>,
    },
    /// To [`Request::Plan`].
    Plan(Box<PlanReport>),
    /// To [`Request::Reload`].
    Reloaded {
        /// What was to be changed, or the errors because of which nothing was.
        plan: Box<PlanReport>,
        /// With `wait`: how the restarts went.
        #[serde(default)]
        services: Vec<RestartedService>,
    },
    /// Done.
    Done {
        /// What was done, as sentences without a full stop.
        facts: Vec<String>,
    },
    /// To [`Request::Events`] and [`Request::Logs`]: all was sent.
    End {},
    /// To [`Request::Metrics`].
    Metrics {
        /// In the Prometheus text format 0.0.4.
        text: String,
    },
    /// To [`Request::History`].
    History(Box<History>),
    /// To [`Request::Processes`].
    Processes(Box<Processes>),
    /// To [`Request::Config`].
    Config(Box<ConfigReport>),
    /// It was refused or could not be done; nothing was changed.
    Failed(Failure),
}

/// How a service stands after a start was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedService {
    /// Its name.
    pub name: String,
    /// It is what it is meant to be: it takes connections, a task has ended well or waits for its time, it is disabled.
    pub started: bool,
    /// Its state.
    pub state: crate::status::State,
    /// The fact behind it, as a sentence without a full stop.
    pub detail: String,
    /// Last output lines if it failed, oldest first; not valid UTF-8 replaced by U+FFFD.
    #[serde(default)]
    pub last_output: Vec<String>,
}

/// A restart that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartingService {
    /// Which service.
    pub name: String,
    /// The generation that runs; `None`: none does.
    pub from: Option<u64>,
    /// The generation that is being started; `None` while it cannot be started yet (its port is taken, the old one has to end first,
    /// or it is not its turn).
    pub to: Option<u64>,
}

/// A restart that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartedService {
    /// Which service.
    pub name: String,
    /// What happened, so far: old connections may go on draining after the soak. `None`: there is nothing to account for (a task was
    /// begun), or `problem` says why there is none.
    pub ledger: Option<Box<Ledger>>,
    /// Last output lines of the new generation if it failed, oldest first; not valid UTF-8 replaced by U+FFFD.
    #[serde(default)]
    pub last_output: Vec<String>,
    /// Why it was not restarted, or why nobody knows how it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Who got a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalledService {
    /// Which service.
    pub name: String,
    /// Which generation; `None`: none runs, and nobody got it.
    pub generation: Option<u64>,
    /// Its main process.
    pub pid: Option<i32>,
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
    /// A share of the new connections goes to the new generation.
    Canary {
        /// Which service.
        service: String,
        /// The new generation.
        generation: u64,
        /// Of a thousand new connections.
        permille: u16,
        /// For how long, in milliseconds; `None`: until somebody decides.
        for_ms: Option<u64>,
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
