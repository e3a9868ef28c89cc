//! What is asked about ports and what comes back: options, report, error. Types only.

use std::net::SocketAddr;

use serde::Serialize;
use stayput_kernel::{netlink, procfs};

use crate::bind::Server;
use crate::facts::{ElsewhereListener, Holder, PortSocket, Unreadable};
use crate::verdict::{Outcome, Verdict};

/// Why nothing could be collected.
#[derive(Debug)]
pub enum Error {
    /// The kernel's list of sockets cannot be had.
    Sockets(netlink::Error),
    /// /proc cannot be read.
    Proc(procfs::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sockets(_) => write!(f, "the kernel's list of sockets cannot be read"),
            Self::Proc(_) => write!(f, "the list of processes cannot be read"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sockets(error) => Some(error),
            Self::Proc(error) => Some(error),
        }
    }
}

impl From<netlink::Error> for Error {
    fn from(error: netlink::Error) -> Self {
        Self::Sockets(error)
    }
}

impl From<procfs::Error> for Error {
    fn from(error: procfs::Error) -> Self {
        Self::Proc(error)
    }
}

/// What to find out, and how far one may go for it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The servers to judge for; the first is the one that counts. Empty: with and without SO_REUSEADDR on 0.0.0.0, and
    /// with it on `[::]`, as the caller.
    pub servers: Vec<Server>,
    /// Whether verdicts may be confirmed by a bind() that is undone at once.
    pub probe: bool,
    /// Whether other network namespaces are looked into (root only; others are told that they were not).
    pub elsewhere: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { servers: Vec::new(), probe: true, elsewhere: true }
    }
}

/// The socket that decides the first verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decides {
    /// Index into the report's sockets.
    pub socket: usize,
    /// Its state.
    pub state: &'static str,
    /// Its address.
    pub local: SocketAddr,
    /// The errno it causes.
    pub errno: Option<&'static str>,
    /// Who has it.
    pub pids: Vec<i32>,
}

/// A command to copy, and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The command.
    pub command: String,
    /// What it does.
    pub why: String,
}

/// Everything about one port.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The port.
    pub port: u16,
    /// The whole truth in one sentence.
    pub summary: String,
    /// One judgement per server asked for; the first one counts.
    pub verdicts: Vec<Verdict>,
    /// The socket that decides the first verdict, if any does.
    pub decides: Option<Decides>,
    /// All sockets on the port.
    pub sockets: Vec<PortSocket>,
    /// The processes that have them.
    pub holders: Vec<Holder>,
    /// Listeners on the same number in other network namespaces.
    pub elsewhere: Vec<ElsewhereListener>,
    /// Things one should know.
    pub notes: Vec<String>,
    /// What to do.
    pub next: Vec<Step>,
    /// What could not be looked at.
    pub unreadable: Vec<Unreadable>,
}

impl Report {
    /// The verdict that counts.
    pub fn outcome(&self) -> Outcome {
        self.verdicts.first().map_or(Outcome::Unknown, |verdict| verdict.outcome)
    }

    /// A holder's description by pid.
    pub fn holder(&self, pid: i32) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.process.pid == pid)
    }
}
