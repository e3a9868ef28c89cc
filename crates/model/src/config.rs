//! What a service is meant to be. Values only: reading files and arguments is the caller's business.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

/// What an instance is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// Name of the instance.
    pub name: String,
    /// When it ends.
    pub mode: Mode,
    /// How it speaks on standard output.
    pub report: ReportStyle,
    /// Environment of all services as `NAME=value`; each lays its own over it ([`ServiceConfig::environment`]).
    pub env: Vec<Vec<u8>>,
    /// The file that it was read from; `None`: a command line.
    pub source: Option<Source>,
    /// The dashboard, if it has one.
    pub dashboard: Option<Dashboard>,
    /// Where output is kept; `None`: only the last lines, in memory.
    pub logs: Option<LogsConfig>,
    /// Its services; names are unique.
    pub services: Vec<ServiceConfig>,
}

/// Where a configuration came from, so that it can be read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file, absolute.
    pub path: Vec<u8>,
    /// The profile that was asked for.
    pub profile: Option<String>,
    /// The services named on the command line; empty: all.
    pub only: Vec<String>,
    /// It is a Procfile.
    pub procfile: bool,
}

/// The dashboard of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dashboard {
    /// Addresses, not empty.
    pub listen: Vec<SocketAddr>,
    /// The configuration names the addresses; else they are the default, and give way to a service that wants them.
    pub declared: bool,
    /// Nothing can be changed through it.
    pub read_only: bool,
}

/// Where output is kept, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsConfig {
    /// Directory of the instance's logs, absolute; one directory per service is made in it.
    pub directory: Vec<u8>,
    /// Most bytes kept per service.
    pub max_size: u64,
    /// Age at which output is removed; `None`: never by age.
    pub max_age: Option<Duration>,
    /// Bytes after which a new segment is begun.
    pub segment: u64,
    /// Whether closed segments are compressed.
    pub compress: bool,
}

/// When an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// `stayput run`: when its service is stopped or is not started again. It ends with the service's exit status.
    Run,
    /// `stayput up`: when it is told to.
    Up,
}

/// How an instance speaks on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportStyle {
    /// Lines for people, without colours.
    Plain,
    /// Lines for people, with colours (standard output is a terminal and colours are wanted).
    Colour,
    /// One JSON object per line.
    Json,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Name, `[A-Za-z0-9_.@-]+`.
    pub name: String,
    /// Command and arguments, not empty; the command is looked up in `PATH` if it has no slash.
    pub argv: Vec<Vec<u8>>,
    /// Environment of its own as `NAME=value`, laid over that of the instance.
    pub env: Vec<Vec<u8>>,
    /// The environment of the instance that `env` is laid over, if it is not the present one: after a rollback, that of then.
    pub base: Option<Vec<Vec<u8>>>,
    /// Working directory, absolute.
    pub cwd: Vec<u8>,
    /// Declared addresses, held before the first start.
    pub ports: Vec<SocketAddr>,
    /// How to tell that a generation is ready.
    pub readiness: Readiness,
    /// How long a generation may take to become ready.
    pub ready_timeout: Duration,
    /// How long old connections may live on after a restart.
    pub drain: Duration,
    /// How long after the stop signal what is left is killed.
    pub grace: Duration,
    /// The stop signal's number.
    pub stop_signal: i32,
    /// How long a new generation is on probation, with the old one as the way back.
    pub soak: Duration,
    /// How long a port is held while nobody accepts.
    pub hold: Duration,
    /// Whether the new generation starts beside the old one; else it starts when the old one has gone.
    pub overlap: bool,
    /// What to do when it ends by itself.
    pub restart: RestartPolicy,
    /// Kind of its standard output.
    pub output: OutputKind,
    /// Whether it stays, or has an end.
    pub kind: Kind,
    /// What must be so far before it starts.
    pub after: Vec<After>,
    /// Copies that share its ports, at least 1.
    pub replicas: u32,
    /// It is not started unless asked for by name.
    pub disabled: bool,
    /// When too many starts are enough; `None`: it is started again for ever, ever more slowly.
    pub start_limit: Option<StartLimit>,
    /// Who it runs as; `None`: as stayput does.
    pub user: Option<UserSpec>,
    /// File mode creation mask; `None`: stayput's.
    pub umask: Option<u32>,
    /// Resource limits of its main process, inherited by all of the tree.
    pub rlimits: Vec<Rlimit>,
    /// Limits of the whole process tree.
    pub limits: Limits,
    /// A check that goes on while it serves.
    pub health: Option<Health>,
    /// Globs of files, relative to `cwd`, whose change restarts it.
    pub watch: Vec<String>,
    /// Globs of files that are never watched.
    pub watch_ignore: Vec<String>,
    /// How long after the last change it is restarted.
    pub watch_debounce: Duration,
    /// Further steps of a stop after `stop_signal` and `grace`, before SIGKILL; each is taken only if something is left.
    pub stop: Vec<StopStep>,
    /// What of its output is kept.
    pub log: LogPolicy,
    /// Where it is defined in the configuration.
    pub origin: Option<Origin>,
    /// It is stayput's own, the dashboard ([`crate::dashboard`]): patterns do not mean it, its name does.
    pub own: bool,
}

/// Whether a service stays, or has an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It runs until it is stopped.
    Service,
    /// It runs to its end; status 0 is success.
    Task {
        /// When it is started, as a checked cron expression of five fields in local time; `None`: once, with the instance.
        schedule: Option<String>,
    },
}

/// What another service must have reached before this one starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// Name of the other one.
    pub service: String,
    /// What it must have reached.
    pub when: When,
}

/// How far a service must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Its command was executed.
    Started,
    /// A generation of it serves.
    Ready,
    /// It is a task and ended with status 0.
    Completed,
}

/// More starts than this within this time are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartLimit {
    /// Starts, at least 1.
    pub starts: u32,
    /// Within this time.
    pub within: Duration,
}

/// Who a service runs as, resolved to numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Name of the user, if it has one: `USER` and `LOGNAME`.
    pub name: Option<String>,
    /// Home directory of the user: `HOME`.
    pub home: Option<Vec<u8>>,
    /// Login shell of the user: `SHELL`.
    pub shell: Option<Vec<u8>>,
}

/// One resource limit, as `setrlimit(2)` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: i32,
    /// Soft limit in the resource's unit; [`u64::MAX`]: none.
    pub soft: u64,
    /// Hard limit in the resource's unit; [`u64::MAX`]: none.
    pub hard: u64,
}

/// Limits of a whole process tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Per cent of one core.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub tasks: Option<u32>,
}

/// A check that goes on while a service serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is asked.
    pub check: HealthCheck,
    /// Time between two checks.
    pub every: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row after which it is restarted, at least 1.
    pub failures: u32,
    /// Time after readiness before the first check.
    pub start_after: Duration,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthCheck {
    /// A `GET` of this path is answered with 2xx or 3xx.
    Http {
        /// Path and query, beginning with a slash.
        path: String,
        /// `Host` header; `None`: the address asked.
        host: Option<String>,
        /// Which of its ports; `None`: the first.
        port: Option<u16>,
    },
    /// A connection is accepted.
    Tcp {
        /// Which of its ports; `None`: each.
        port: Option<u16>,
    },
    /// A command ends with status 0.
    Exec {
        /// Command and arguments, not empty.
        argv: Vec<Vec<u8>>,
    },
}

/// A further step of a stop: this signal, then this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopStep {
    /// Signal number.
    pub signal: i32,
    /// Time to wait before the next step.
    pub wait: Duration,
}

/// What of a service's output is kept; `None` is what the instance says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// Most bytes kept.
    pub max_size: Option<u64>,
    /// Age at which it is removed.
    pub max_age: Option<Duration>,
    /// The service waits when its output cannot be written fast enough; else output is dropped and counted.
    pub block: bool,
}

/// A place in a configuration file, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Line.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
}

/// How to tell that a generation is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// A probe connection to each of its listeners was accepted.
    Accept,
    /// A `GET` of this path on one of its listeners is answered with 2xx or 3xx.
    Http {
        /// Path and query, beginning with a slash.
        path: String,
        /// `Host` header; `None`: the address probed.
        host: Option<String>,
    },
    /// It says `READY=1` on its `NOTIFY_SOCKET`.
    Notify,
    /// A line of its output matches this regular expression.
    Log {
        /// The expression, in the syntax of the `regex-lite` crate.
        pattern: String,
    },
}

/// What to do when a service ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Start it again.
    Always,
    /// Start it again unless it exited with status 0.
    OnFailure,
    /// Leave it.
    Never,
}

/// Kind of a service's standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputKind {
    /// Two pipes.
    Pipes,
    /// One pseudo-terminal of this size.
    Pty {
        /// Rows in characters.
        rows: u16,
        /// Columns in characters.
        columns: u16,
    },
}

impl ServiceConfig {
    /// A service of this name and command with every default: `/` as working directory, no environment, no declared port.
    pub fn new(name: impl Into<String>, argv: Vec<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            argv,
            env: Vec::new(),
            base: None,
            cwd: b"/".to_vec(),
            ports: Vec::new(),
            readiness: Readiness::Accept,
            ready_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            stop_signal: 15,
            soak: Duration::from_secs(10),
            hold: Duration::from_mins(1),
            overlap: true,
            restart: RestartPolicy::Always,
            output: OutputKind::Pipes,
            kind: Kind::Service,
            after: Vec::new(),
            replicas: 1,
            disabled: false,
            start_limit: None,
            user: None,
            umask: None,
            rlimits: Vec::new(),
            limits: Limits::default(),
            health: None,
            watch: Vec::new(),
            watch_ignore: Vec::new(),
            watch_debounce: Duration::from_millis(300),
            stop: Vec::new(),
            log: LogPolicy::default(),
            origin: None,
            own: false,
        }
    }

    /// How long a stop may take until what is left is killed.
    pub fn longest_stop(&self) -> Duration {
        self.stop.iter().fold(self.grace, |sum, step| sum.saturating_add(step.wait))
    }

    /// What its environment is laid over where the instance has `present`.
    pub fn base<'a>(&'a self, present: &'a [Vec<u8>]) -> &'a [Vec<u8>] {
        self.base.as_deref().unwrap_or(present)
    }

    /// The environment that it is started with: its own laid over `base`, each name once, the last one of a name wins.
    pub fn environment(&self, base: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let name = |entry: &'_ [u8]| entry.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
        let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut merged: Vec<Vec<u8>> = Vec::new();
        for entry in base.iter().chain(&self.env) {
            match places.entry(name(entry)) {
                Entry::Occupied(place) => merged[*place.get()].clone_from(entry),
                Entry::Vacant(place) => {
                    place.insert(merged.len());
                    merged.push(entry.clone());
                }
            }
        }
        merged
    }
}

impl InstanceConfig {
    /// An instance without services: no environment, no file, no dashboard, output kept in memory only.
    pub fn new(name: impl Into<String>, mode: Mode, report: ReportStyle) -> Self {
        Self { name: name.into(), mode, report, env: Vec::new(), source: None, dashboard: None, logs: None, services: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_the_last_word_about_its_environment() {
        let text = |entries: &[&str]| entries.iter().map(|entry| entry.as_bytes().to_vec()).collect::<Vec<_>>();
        let mut service = ServiceConfig::new("web", text(&["server"]));
        service.env = text(&["PORT=1", "B=x=y", "PORT=2"]);
        assert_eq!(service.environment(&text(&["A=1", "PORT=0", "A=2"])), text(&["A=2", "PORT=2", "B=x=y"]));
        assert_eq!(service.environment(&[]), text(&["PORT=2", "B=x=y"]));
    }
}
