//! What a service is meant to be. Values only: reading files and arguments is the caller's business.

use serde::{Deserialize, Serialize};
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
    /// Its services; names are unique.
    pub services: Vec<ServiceConfig>,
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
    /// The whole environment as `NAME=value`.
    pub env: Vec<Vec<u8>>,
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
        }
    }
}
