//! What is true of an instance: each value is measured, with its source and age where it can change by itself, or says that it
//! was not measured. The JSON that `stayput status --json` prints is these types, unchanged.

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

/// One running instance: what `stayput run` started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// One of stayput's own processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Its established connections on the service's ports.
    pub connections: Measured,
    /// How its main process ended, if it has, as a sentence without a full stop.
    pub last_exit: Option<String>,
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
}
