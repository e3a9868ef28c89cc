//! The story of the port that was taken, replayed on this machine: a maintenance loop restarts a web dashboard, once as it was *before*, once
//! with the cure of *after*, once under stayput, and the true causes besides. Real processes, real sockets, real clients; every number is a
//! measurement.
//!
//! It owns the processes that it starts and a directory of its own, and leaves neither behind. It refuses to touch a port that somebody else
//! has, and to talk to anything but 127.0.0.1.

mod cancel;
mod environment;
mod flask;
mod judge;
mod lab;
mod live;
mod place;
mod process;
pub mod render;
pub mod result;
mod run;
mod scenario;
pub mod story;
mod watch;

use std::ffi::OsString;

pub use cancel::Cancel;
pub use place::Place;
pub use run::run;

/// What to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port of the story; `None`: a free one.
    pub port: Option<u16>,
    /// At most 15 s: the wait for TIME_WAIT is cut.
    pub quick: bool,
    /// A command of the user's own, compared besides.
    pub command: Vec<OsString>,
    /// Version of stayput, for the record.
    pub version: String,
}

/// Why there is no comparison.
#[derive(Debug)]
pub enum Error {
    /// It was cancelled.
    Cancelled,
    /// The port that was asked for is taken: by whom.
    PortTaken(u16, String),
    /// No free port was found, or ports cannot be looked at.
    NoPort(String),
    /// The private directory could not be made: where.
    Place(String, std::io::Error),
    /// A process could not be started: which.
    Start(String, std::io::Error),
    /// The load client failed.
    Load(std::io::Error),
    /// A server did not do what it was to do: what, and its last words.
    Server(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cancelled => write!(f, "interrupted"),
            Self::PortTaken(port, who) => write!(f, "port {port} is taken: {who}"),
            Self::NoPort(why) => write!(f, "no free port: {why}"),
            Self::Place(path, error) => write!(f, "{path}: {error}"),
            Self::Start(what, error) => write!(f, "cannot start {what}: {error}"),
            Self::Load(error) => write!(f, "the load client: {error}"),
            Self::Server(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {}

/// How far a comparison is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// What happens now.
    pub doing: String,
    /// Time since the start, in milliseconds.
    pub at_ms: u64,
    /// About how long it will take in all.
    pub of_ms: u64,
}
