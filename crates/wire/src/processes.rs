//! The processes of a service, one by one: asked for on its own, because looking at each of them costs more than a status may.

use crate::status::{Evidence, Measured};
use serde::{Deserialize, Serialize};

/// The processes of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// Which service.
    pub service: String,
    /// Generation by generation, the newest first; in each the main process, then by process id.
    pub processes: Vec<ProcessFacts>,
    /// Processes beyond the bound, which are not told.
    #[serde(default)]
    pub left_out: u32,
    /// Where the facts come from and how old they are.
    pub evidence: Evidence,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Process id.
    pub pid: i32,
    /// Its parent; 0 if that is outside of this pid namespace.
    pub parent: i32,
    /// The generation it belongs to.
    pub generation: u64,
    /// It is the generation's main process.
    pub main: bool,
    /// Command and arguments as a person would type them, without control characters and cut where they are long; its short name in
    /// brackets if it has none or they cannot be read.
    pub command: String,
    /// The user it runs as: a name of `/etc/passwd`, else the number. `None`: it cannot be read.
    pub user: Option<String>,
    /// The kernel's letter: `R`, `S`, `D`, `T`, `t`, `Z`.
    pub state: char,
    /// When it was started, in milliseconds since 1970 (UTC), exact to about a second.
    pub started_ms: Option<u64>,
    /// Threads.
    pub threads: u32,
    /// Resident memory in bytes; pages that it shares with others count for each.
    pub memory: Measured,
    /// Processor time since the look before (at least a second ago), in thousandths of one processor.
    pub cpu_permille: Measured,
    /// Listening sockets of the service that it has open, as `address:port`. `None`: its descriptors cannot be read.
    pub listeners: Option<Vec<ListenerOpen>>,
    /// Connections of the service that it has open.
    pub connections: Measured,
}

/// A listening socket that a process has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerOpen {
    /// `address:port`.
    pub address: String,
    /// Its inode, as in the status and in `ss -e`.
    pub inode: u32,
}
