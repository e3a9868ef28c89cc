//! What was measured. Types only: every number in them comes from a clock, a counter or the kernel, and what was not measured is absent.
//! `docs/COMPARE.md` describes the JSON that they become.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Version of the JSON; a field that changes its meaning changes this number.
pub const SCHEMA: u32 = 1;

/// The whole comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where and how it was measured.
    pub environment: Environment,
    /// Every scenario, in the order of the story.
    pub scenarios: Vec<Scenario>,
    /// What stands on the port when TIME_WAIT does, flag by flag.
    pub lab: Lab,
    /// Flask-SocketIO itself, where Python and it are installed.
    pub flask: Flask,
    /// What the story says and what was measured here, where they differ.
    pub corrections: Vec<Correction>,
    /// The main table.
    pub metrics: Vec<Metric>,
    /// One paragraph.
    pub verdict: String,
}

impl Comparison {
    /// The scenario with this id.
    pub fn scenario(&self, id: &str) -> Option<&Scenario> {
        self.scenarios.iter().find(|scenario| scenario.id == id)
    }
}

/// Where and how it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// Seconds since 1970 at the start.
    pub started_unix: u64,
    /// How long the whole run took, in milliseconds.
    pub took_ms: u64,
    /// `quick` or `full`.
    pub mode: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Model of the first processor; empty if the kernel does not say.
    pub cpu: String,
    /// One-minute load average at the start.
    pub load: String,
    /// Version of stayput.
    pub stayput: String,
    /// `release` or `debug`.
    pub build: &'static str,
    /// Effective uid.
    pub uid: u32,
    /// The address of all sockets.
    pub address: &'static str,
    /// How long the story's server "imports" before it binds, in milliseconds.
    pub boot_ms: u64,
    /// Requests a second, each on a fresh connection, sent whether or not earlier ones were answered.
    pub rate: u32,
    /// The command that was compared besides the story's server.
    pub command: Option<Vec<String>>,
    /// What differs from the full run, or was set for the sake of time.
    pub notes: Vec<String>,
}

/// One run of one way to restart.
#[derive(Debug, Clone, Serialize)]
pub struct Scenario {
    /// A fixed name: `before`, `after`, `stayput`, `stray-before` and so on.
    pub id: String,
    /// For people.
    pub title: String,
    /// The port that it had for itself.
    pub port: u16,
    /// When it began, in seconds since 1970.
    pub started_unix: f64,
    /// When the restart was ordered, in milliseconds since its start. All times below count from its start as well.
    pub ordered_ms: u64,
    /// From the order to the first answer of the new process; absent if that never came while it was watched.
    pub turnover_ms: Option<u64>,
    /// From the order until the tool that restarts said that it is done; for stayput this includes the soak time.
    pub done_ms: Option<u64>,
    /// The longest time without a good answer, counted by when the requests were due.
    pub outage_ms: u64,
    /// Requests by how they ended.
    pub requests: Requests,
    /// Connections that were meant to last.
    pub live: Live,
    /// Attempts to start the new server.
    pub attempts: Vec<Attempt>,
    /// What the port check said, and what was true.
    pub checks: Vec<Check>,
    /// When the kernel let a server with these very options bind again, in milliseconds after the order; absent if not watched or not within.
    pub released_ms: Option<u64>,
    /// Set if it was not watched to its end.
    pub cut: Option<Cut>,
    /// What `stayput why` says while the port is taken.
    pub why: Option<String>,
    /// Further counts that only this scenario has.
    pub share: Option<Share>,
    /// Memory that stayput's own processes took (proportional set size), in KiB.
    pub memory_kib: Option<u64>,
    /// The ledger that `stayput restart --json` printed.
    pub ledger: Option<serde_json::Value>,
    /// Something went otherwise than planned.
    pub trouble: Option<String>,
    /// Processes of the story.
    pub processes: Vec<Process>,
    /// Sockets in LISTEN on the port, by inode, as sock_diag showed them.
    pub listeners: Vec<Listener>,
    /// Every request.
    pub timeline: Vec<Dot>,
    /// The log, in the story's shape.
    pub log: Vec<Line>,
}

impl Scenario {
    /// One that begins now, and of which nothing was measured yet.
    pub(crate) fn new(id: &str, title: &str, port: u16) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            port,
            started_unix: wall.as_secs_f64(),
            ordered_ms: 0,
            turnover_ms: None,
            done_ms: None,
            outage_ms: 0,
            requests: Requests::default(),
            live: Live::default(),
            attempts: Vec::new(),
            checks: Vec::new(),
            released_ms: None,
            cut: None,
            why: None,
            share: None,
            memory_kib: None,
            ledger: None,
            trouble: None,
            processes: Vec::new(),
            listeners: Vec::new(),
            timeline: Vec::new(),
            log: Vec::new(),
        }
    }
}

/// Requests by how they ended. `total` is the sum of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// All that were sent.
    pub total: u64,
    /// Answered within [`WAITED_MS`].
    pub served: u64,
    /// Answered later.
    pub waited: u64,
    /// connect() said ECONNREFUSED.
    pub refused: u64,
    /// Connected, then reset or closed without a whole answer.
    pub reset: u64,
    /// No answer within the time that clients wait.
    pub hung: u64,
    /// Anything else: a wrong answer, no local port.
    pub other: u64,
    /// The longest good answer, in milliseconds.
    pub longest_ms: u64,
}

impl Requests {
    /// Those that came to nothing.
    pub fn lost(&self) -> u64 {
        self.refused + self.reset + self.hung + self.other
    }
}

/// From when on a request counts as one that waited.
pub const WAITED_MS: u64 = 100;

/// Connections that were meant to last, like a WebSocket's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Live {
    /// How many clients held one.
    pub clients: u32,
    /// Connections that the server's side ended.
    pub cut: u32,
    /// Attempts to connect again that were refused.
    pub refused: u32,
    /// The longest time a client was without its connection, in milliseconds.
    pub longest_without_ms: u64,
    /// The first time one was cut, after the order, in milliseconds.
    pub first_cut_ms: Option<u64>,
}

/// An attempt to start the new server.
#[derive(Debug, Clone, Serialize)]
pub struct Attempt {
    /// When.
    pub at_ms: u64,
    /// Its pid.
    pub pid: u32,
    /// Whether it answered in the end.
    pub served: bool,
    /// What it said when it ended.
    pub error: Option<String>,
}

/// A look at the port before a start.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// When.
    pub at_ms: u64,
    /// `test-bind` (SO_REUSEADDR, no listen) or `live-process`.
    pub kind: &'static str,
    /// Whether it called the port free.
    pub said_free: bool,
    /// Whether the server's own bind and listen, with its own options, would have worked at that moment.
    pub was_free: bool,
}

/// A scenario that was cut short for time.
#[derive(Debug, Clone, Serialize)]
pub struct Cut {
    /// How long after the order, in milliseconds.
    pub after_ms: u64,
    /// How long the kernel would have kept the port at least: its own TIME_WAIT timers, in milliseconds.
    pub left_ms: Option<u64>,
}

/// Who answered while two copies shared the port.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Share {
    /// Requests that were sent while two sockets listened on the port.
    pub sent: u64,
    /// Answered by the process that should have been gone.
    pub by_old: u64,
    /// Answered by the new one.
    pub by_new: u64,
    /// Of those sent: answered by nobody.
    pub by_nobody: u64,
    /// Sent while the old copy was stopped (SIGSTOP), if it was.
    pub sent_stopped: u64,
    /// Of these: answered by nobody.
    pub by_nobody_stopped: u64,
}

/// A process of the story.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// `old`, `attempt`, `new` or `left` (what the old one left behind).
    pub role: &'static str,
    /// From when.
    pub from_ms: u64,
    /// To when; absent if it lived to the end of the scenario.
    pub to_ms: Option<u64>,
    /// How it ended.
    pub end: Option<String>,
}

/// A socket in LISTEN.
#[derive(Debug, Clone, Serialize)]
pub struct Listener {
    /// Its inode.
    pub inode: u32,
    /// First seen.
    pub from_ms: u64,
    /// Last seen.
    pub to_ms: u64,
}

/// How one request ended, for the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Answered at once.
    Served,
    /// Answered after a wait.
    Waited,
    /// Refused.
    Refused,
    /// Reset or closed.
    Reset,
    /// Never answered.
    Hung,
    /// Anything else.
    Other,
}

/// One request.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Dot {
    /// When it was due.
    pub due_ms: f64,
    /// How long it took.
    pub took_ms: f64,
    /// How it ended.
    pub fate: Fate,
    /// Who answered; 0 if nobody, or if the server does not say.
    pub pid: u32,
}

/// A line of the log.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// When.
    pub at_ms: u64,
    /// Local time, `07:55:28`.
    pub time: String,
    /// What was said.
    pub text: String,
}

/// What a bind meets after a server closed first: rows are the old server's options, columns the new one's.
#[derive(Debug, Clone, Serialize)]
pub struct Lab {
    /// Options of the new socket, in the order of the columns.
    pub columns: [&'static str; 4],
    /// One row per kind of old server.
    pub rows: Vec<LabRow>,
    /// Why it could not be measured.
    pub trouble: Option<String>,
}

/// One kind of old server.
#[derive(Debug, Clone, Serialize)]
pub struct LabRow {
    /// What it set.
    pub old: &'static str,
    /// For each column: whether bind() and listen() worked.
    pub works: [bool; 4],
    /// Whether the story's check (SO_REUSEADDR, bind, no listen) called the port free.
    pub check_said_free: bool,
}

/// Flask-SocketIO itself.
#[derive(Debug, Clone, Serialize)]
pub struct Flask {
    /// Its version, if it is installed.
    pub version: Option<String>,
    /// SO_REUSEADDR on its listening socket, read with getsockopt.
    pub reuseaddr: Option<bool>,
    /// SO_REUSEPORT on the same.
    pub reuseport: Option<bool>,
    /// From the stop signal to the first answer of the next copy, with connections open, in milliseconds.
    pub turnover_ms: Option<u64>,
    /// Why something is absent.
    pub absent: Option<String>,
}

/// A statement of the story that the measurement does not bear out.
#[derive(Debug, Clone, Serialize)]
pub struct Correction {
    /// What the story says.
    pub told: &'static str,
    /// What was measured here.
    pub measured: String,
    /// False if the evidence could not be had on this machine.
    pub shown_here: bool,
}

/// A line of the main table. Numbers are also in the scenarios; this is how they are read.
#[derive(Debug, Clone, Serialize)]
pub struct Metric {
    /// What.
    pub name: &'static str,
    /// Before.
    pub before: String,
    /// After.
    pub after: String,
    /// With stayput.
    pub stayput: String,
    /// Before over after, and before over stayput.
    pub ratio: String,
}
