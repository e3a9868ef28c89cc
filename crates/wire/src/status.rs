//! What is true of an instance: each value is measured, with its source and age where it can change by itself, or says that it
//! was not measured. The JSON that `stayput status --json` prints is these types, unchanged.

use crate::stream::Cursor;
use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A count, or the fact that nobody counted. In JSON a number or the string `"not measured"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Measured {
    /// Counted.
    Count(u64),
    /// It could not be looked at, or was not.
    #[default]
    NotMeasured,
}

/// What [`Measured::NotMeasured`] is called in JSON and in human words.
pub const NOT_MEASURED: &str = "not measured";

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::NotMeasured => f.write_str(NOT_MEASURED),
        }
    }
}

impl From<u64> for Measured {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<Option<u64>> for Measured {
    fn from(count: Option<u64>) -> Self {
        count.map_or(Self::NotMeasured, Self::Count)
    }
}

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::NotMeasured => serializer.serialize_str(NOT_MEASURED),
        }
    }
}

impl<'de> Deserialize<'de> for Measured {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl Visitor<'_> for Seen {
            type Value = Measured;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a count or \"{NOT_MEASURED}\"")
            }
            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Measured, E> {
                Ok(Measured::Count(count))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Measured, E> {
                if text == NOT_MEASURED { Ok(Measured::NotMeasured) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// One running instance: what `stayput run` or `stayput up` started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Its name.
    pub name: String,
    /// The process that everything else hangs on.
    pub guard: ProcessStatus,
    /// The process that holds the sockets.
    pub keeper: ProcessStatus,
    /// The process that decides and answers.
    pub daemon: ProcessStatus,
    /// Its services, by name.
    pub services: Vec<ServiceStatus>,
    /// How often a keeper died and was started again.
    pub keeper_deaths: u32,
    /// How often a daemon died and was started again.
    pub daemon_deaths: u32,
    /// Whether it is one of `stayput run` or of `stayput up`.
    #[serde(default)]
    pub mode: Mode,
    /// How long the present daemon has run, in milliseconds.
    #[serde(default)]
    pub daemon_ms: u64,
    /// The configuration that it was started with; `None`: none (`stayput run`).
    #[serde(default)]
    pub source: Option<ConfigSource>,
    /// The last event before this status: who follows the events from there misses nothing.
    #[serde(default)]
    pub cursor: Option<Cursor>,
}

/// What started an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `stayput run`: it ends with its service.
    #[default]
    Run,
    /// `stayput up`: it ends when it is told to.
    Up,
}

/// The configuration of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSource {
    /// Absolute path of the file; not valid UTF-8 replaced by U+FFFD.
    pub path: String,
    /// The profile, if one was chosen.
    #[serde(default)]
    pub profile: Option<String>,
    /// The services that were chosen; empty: all.
    #[serde(default)]
    pub only: Vec<String>,
}

/// Where in a configuration something is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigOrigin {
    /// In which file, if it is not the instance's own.
    #[serde(default)]
    pub path: Option<String>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One of stayput's own processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Process id.
    pub pid: i32,
}

/// Whether a service is meant to run. Apart from what it does now: [`ServicePhase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// It is meant to run.
    Up,
    /// It is meant to be stopped.
    Down,
}

/// What a service does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServicePhase {
    /// Nothing runs and nothing is under way.
    Stopped,
    /// It cannot start: somebody else has its port.
    WaitingForPort,
    /// It crashed; the next generation is started after a pause.
    BackingOff,
    /// Its first generation, or one after a crash, is being started: nobody accepts yet.
    Starting,
    /// A generation takes the connections.
    Ready,
    /// A generation takes the connections, and another is being started beside it.
    Restarting,
    /// A restart without overlap: the old generation finishes before the new one starts; connections wait.
    Handover,
    /// A new generation took over and is on probation; the old one is the way back.
    Soaking,
    /// It is being stopped.
    Stopping,
    /// It ended, and its restart policy does not start it again.
    Ended,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Whether it is meant to run.
    pub target: Target,
    /// What it does now.
    pub phase: ServicePhase,
    /// The fact behind the phase, as a sentence without a full stop: "waiting for port 5000, held by pid 991 nginx". Never empty.
    pub detail: String,
    /// Generations started after the first.
    pub restarts: u64,
    /// Generations that have a process or a connection left, newest first.
    pub generations: Vec<GenerationStatus>,
    /// Listeners on which nobody accepts: their connections wait.
    pub held: Vec<ListenerStatus>,
    /// The ledger of the last restart, if there was one.
    pub ledger: Option<Ledger>,
    /// What it is in one word. Never [`State::Running`] while a fact speaks against it.
    #[serde(default)]
    pub state: State,
    /// What is known of it, each fact apart.
    #[serde(default)]
    pub facts: Facts,
    /// Whether it is a task.
    #[serde(default)]
    pub kind: ServiceKind,
    /// Copies that share its ports.
    #[serde(default = "one")]
    pub replicas: u32,
    /// How long a generation has had the connections, in milliseconds; `None`: none has.
    #[serde(default)]
    pub uptime_ms: Option<u64>,
    /// Times that it ended by itself while it had the connections, since the instance began.
    #[serde(default)]
    pub crashes: u64,
    /// How the last main process that was to serve ended.
    #[serde(default)]
    pub last_exit: Option<LastExit>,
    /// Open connections.
    #[serde(default)]
    pub connections: Connections,
    /// Memory of its processes in bytes.
    #[serde(default)]
    pub memory: Measured,
    /// Processor time that its processes used since the status before (at least a second ago), in thousandths of one processor.
    #[serde(default)]
    pub cpu_permille: Measured,
    /// Where the memory and the processor time come from.
    #[serde(default)]
    pub usage: Option<Evidence>,
    /// Its processes; [`Measured::NotMeasured`] where they cannot be counted.
    #[serde(default)]
    pub processes: Measured,
    /// Ports it cannot start without, and who has them.
    #[serde(default)]
    pub waiting: Vec<WaitingPort>,
    /// What it starts after.
    #[serde(default)]
    pub after: Vec<AfterStatus>,
    /// Its health check; `None`: it has none.
    #[serde(default)]
    pub health: Option<HealthStatus>,
    /// How its files are watched; `None`: they are not to be.
    #[serde(default)]
    pub watch: Option<WatchStatus>,
    /// When its schedule starts it next, in milliseconds since 1970 (UTC).
    #[serde(default)]
    pub next_run_ms: Option<u64>,
    /// What will happen by itself, and in how many milliseconds.
    #[serde(default)]
    pub next: Option<NextStep>,
    /// Command and arguments as a person would type them, without control characters.
    #[serde(default)]
    pub command: String,
    /// Where it is defined.
    #[serde(default)]
    pub origin: Option<ConfigOrigin>,
    /// It is stayput's own, the dashboard: patterns do not mean it.
    #[serde(default)]
    pub own: bool,
}

impl ServiceStatus {
    /// A service of this name of which nothing is known: to be filled.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            target: Target::Down,
            phase: ServicePhase::Stopped,
            detail: String::new(),
            restarts: 0,
            generations: Vec::new(),
            held: Vec::new(),
            ledger: None,
            state: State::Stopped,
            facts: Facts::default(),
            kind: ServiceKind::Service,
            replicas: 1,
            uptime_ms: None,
            crashes: 0,
            last_exit: None,
            connections: Connections::default(),
            memory: Measured::NotMeasured,
            cpu_permille: Measured::NotMeasured,
            usage: None,
            processes: Measured::NotMeasured,
            waiting: Vec::new(),
            after: Vec::new(),
            health: None,
            watch: None,
            next_run_ms: None,
            next: None,
            command: String::new(),
            origin: None,
            own: false,
        }
    }
}

fn one() -> u32 {
    1
}

/// What a service is in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing runs and nothing is meant to.
    #[default]
    Stopped,
    /// The configuration says that it is not to be started.
    Disabled,
    /// It starts after something that has not happened yet.
    WaitingFor,
    /// Somebody else has its port.
    WaitingForPort,
    /// It ended by itself, and is started again after a pause.
    BackingOff,
    /// It has ended by itself again and again within a short time.
    Looping,
    /// Too many starts within the start limit: it waits for a person.
    GivenUp,
    /// It is being started, and nobody serves.
    Starting,
    /// It serves, and no fact speaks against it.
    Running,
    /// A new generation is being started beside the one that serves.
    Restarting,
    /// The old generation finishes before the new one starts.
    Handover,
    /// A new generation serves on probation.
    Soaking,
    /// Its process lives, and connections wait that nobody accepts.
    Deaf,
    /// Its process lives, and its health check or watchdog says that it does not work.
    Unhealthy,
    /// Its process lives, and it listens nowhere although it has to.
    NotListening,
    /// It is being stopped.
    Stopping,
    /// It was asked to stop, was killed after that, and is still there: the kernel cannot end it.
    Wedged,
    /// A task that runs.
    Working,
    /// A task that waits for its time.
    Scheduled,
    /// A task that ended well, or a service whose restart policy does not start it again.
    Done,
    /// It ended badly and is not started again.
    Failed,
}

/// Whether a service is to run all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// It is.
    #[default]
    Service,
    /// It runs, and is done.
    Task,
}

/// What is known of a service, each fact with its source and age.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// A main process of it lives.
    pub process: Fact,
    /// It has a listening socket on every port it is known to have.
    pub listening: Fact,
    /// Connections are accepted: a probe was, or none waits.
    pub accepting: Fact,
    /// Its last readiness or health check was passed.
    pub probe: Fact,
    /// It keeps ending by itself.
    pub looping: Fact,
}

/// Something that is true, or not, or not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Whether it is.
    pub is: Truth,
    /// What was seen, as a phrase: "pid 4790 python3", "3 connections have waited for 12 s". Or why it is not known.
    pub detail: String,
    /// Where that comes from and how old it is; `None`: nobody looked.
    pub evidence: Option<Evidence>,
}

impl Default for Fact {
    fn default() -> Self {
        Self { is: Truth::Unknown, detail: "not looked at".to_owned(), evidence: None }
    }
}

/// Yes, no, or not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// It is so.
    Yes,
    /// It is not so.
    No,
    /// It could not be looked at, or does not apply: the detail says which.
    #[default]
    Unknown,
}

/// How a main process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Which generation.
    pub generation: u64,
    /// How, as a phrase: "exited with status 1", "was ended by signal KILL".
    pub ended: String,
    /// As a shell says it: 128 + n for a signal.
    pub status: u8,
    /// Why, if it is known: "stop", "the kernel killed it for want of memory".
    #[serde(default)]
    pub why: Option<String>,
    /// When, in milliseconds since 1970 (UTC).
    #[serde(default)]
    pub at_ms: Option<u64>,
}

/// Open connections of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Connections {
    /// Of the generation that has the new ones.
    pub new: Measured,
    /// Of older generations, which finish them.
    pub old: Measured,
    /// Connections that wait in accept queues.
    pub queued: Measured,
}

/// A port that a service waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingPort {
    /// `address:port`.
    pub address: String,
    /// Who has it, as a phrase: "pid 991 nginx (LISTEN 0.0.0.0:80, inode 4711)"; `None`: nobody can be seen.
    pub holder: Option<String>,
}

/// What a service starts after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterStatus {
    /// Which service.
    pub service: String,
    /// When it is enough: `started`, `ready`, `completed`.
    pub when: String,
    /// It is.
    pub met: bool,
}

/// How a health check stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// The last check was passed; `None`: none is over yet.
    pub passing: Option<bool>,
    /// Failed checks in a row.
    pub failures: u32,
    /// What the last one said.
    pub detail: String,
    /// Where that comes from, and how old it is.
    pub evidence: Option<Evidence>,
}

/// How the files of a service are watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// Directories in which changes are seen.
    pub directories: u64,
    /// What cannot be watched and what helps, as a phrase; `None`: all is.
    pub problem: Option<String>,
}

/// What will happen by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    /// What, as a phrase: "the next start", "the end of the probation".
    pub what: String,
    /// In how many milliseconds.
    pub in_ms: u64,
}

/// Where a generation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationPhase {
    /// Forked; its command does not run yet.
    Spawning,
    /// Its command runs; it is not ready.
    Starting,
    /// It passed its readiness check.
    Ready,
    /// It gets no new connections and finishes those it has.
    Draining,
    /// Its stop signal was sent.
    Stopping,
    /// No process of it is left.
    Exited,
}

/// One run of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its number, unique within the instance.
    pub id: u64,
    /// Its main process.
    pub pid: i32,
    /// Where it is in its life.
    pub phase: GenerationPhase,
    /// How long it has been in this phase, in milliseconds.
    pub since_ms: u64,
    /// The sockets on which it listens and of which the keeper has a duplicate.
    pub listeners: Vec<ListenerStatus>,
    /// Whether its `bind` and `listen` are caught.
    pub trap: TrapStatus,
    /// By which means its ports are held.
    #[serde(default)]
    pub holding: Holding,
    /// Its established connections on the service's ports.
    pub connections: Measured,
    /// How its main process ended, if it has, as a sentence without a full stop.
    pub last_exit: Option<String>,
    /// What is not as it was asked for, each a sentence without a full stop: a limit that is not in force, connections that a hold wider than its
    /// own socket could not give it.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The address as a literal, IPv6 without brackets: `0.0.0.0`, `::1`.
    pub address: String,
    /// The TCP port.
    pub port: u16,
    /// Socket inode, as in `ss -e` and `/proc/PID/fd`.
    pub inode: u32,
    /// The keeper has a duplicate: the port outlives the process.
    pub held: bool,
    /// How the keeper came by it.
    pub origin: ListenerOrigin,
    /// New connections of the port go to it.
    pub selected: bool,
    /// Connections that wait in its accept queue.
    pub queue: Measured,
    /// Where `queue` comes from and how old it is.
    pub evidence: Evidence,
}

/// How the keeper came by a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerOrigin {
    /// The generation's own socket; the keeper has a duplicate.
    Adopted,
    /// The keeper's, or a dead generation's: put in the place of the generation's own.
    Swapped,
    /// The keeper's own; no generation has it yet.
    Held,
    /// The keeper's own, given to the generation as an open descriptor when it was started.
    Passed,
    /// The keeper's own, put in the place of the generation's at its bind, because that cannot be duplicated.
    Given,
}

/// By which means a generation's ports are held, best first; each is used where the one before it is not possible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holding {
    /// Its own sockets, found when it binds them, or held ones put in their place. All promises.
    Adopt,
    /// Sockets of ours, put in the place of its own when it binds them, because its own cannot be looked into (`pidfd_getfd` is refused). All
    /// promises; options that it sets before it binds are lost.
    Swap,
    /// Open sockets of its declared ports, passed in its environment or command. All promises for those ports; any other is not held.
    Environment,
    /// None: it binds by itself. The port closes between two generations (P1, P2 and the switch of P3 are gone); the rest stays.
    Plain,
    /// Its command does not run yet.
    #[default]
    Unknown,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The kernel interface: `sock_diag`, `procfs`, `keeper`.
    pub source: String,
    /// How long ago it was looked at, in milliseconds.
    pub age_ms: u64,
}

/// Whether a generation's `bind` and `listen` are caught. In JSON `"active"` or `"unavailable: <why>"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrapStatus {
    /// They are.
    Active,
    /// They are not, and this is why; its ports are not held.
    Unavailable(String),
}

const TRAP_UNAVAILABLE: &str = "unavailable: ";

impl std::fmt::Display for TrapStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Unavailable(why) => write!(f, "{TRAP_UNAVAILABLE}{why}"),
        }
    }
}

impl Serialize for TrapStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrapStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "active" {
            return Ok(Self::Active);
        }
        match text.strip_prefix(TRAP_UNAVAILABLE) {
            Some(why) => Ok(Self::Unavailable(why.to_owned())),
            None => Err(D::Error::invalid_value(Unexpected::Str(&text), &"\"active\" or \"unavailable: why\"")),
        }
    }
}

/// How a restart stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The new generation has the connections.
    Switched,
    /// It failed in its soak: the old one has them again.
    RolledBack,
    /// It never became ready: the old one was not touched.
    NotReady,
    /// Not decided yet.
    Running,
}

/// The account of one restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The generation that had the connections; `None`: none ran.
    pub from: Option<u64>,
    /// The generation that was started for it; `None`: none yet.
    pub to: Option<u64>,
    /// How it stands.
    pub outcome: Outcome,
    /// Why it failed, as a sentence without a full stop; `None` if it did not.
    pub reason: Option<String>,
    /// Connections that waited in the old generation's queues at the switch.
    pub queued: Measured,
    /// Old connections that ended by themselves after the switch.
    pub drained: Measured,
    /// Old connections in use (not idle) that were still open when the stop signal went out.
    pub cut: Measured,
    /// Old keep-alive connections that were idle and were closed by the old generation's stop.
    #[serde(default)]
    pub idle_closed: Measured,
    /// Connections that a failed generation took with it.
    pub lost: Measured,
    /// Longest time in which nobody accepted, in milliseconds.
    pub gap_ms: Measured,
    /// There was a time without any listener on a port of the service: connections may have been refused.
    pub listener_gap: bool,
    /// Connections that the new generation has accepted since the switch.
    pub accepted: Measured,
    /// Connections that were refused.
    pub refused: Measured,
    /// The new generation had a share of the connections first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryAccount>,
    /// What else there is to know of it, each a sentence without a full stop: why it went without overlap, which address moved.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The first step of a restart in two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryAccount {
    /// Of a thousand new connections.
    pub permille: u16,
    /// For how long it was to have them, in milliseconds; `None`: until somebody decides.
    pub for_ms: Option<u64>,
    /// How long it had them, or has had them so far, in milliseconds; `None`: it has not come so far.
    pub lasted_ms: Option<u64>,
}
