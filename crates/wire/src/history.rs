//! How some values went over the last hour or day.

use serde::{Deserialize, Serialize};

/// How far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HistoryRange {
    /// An hour, a sample every ten seconds.
    Hour,
    /// A day, a sample every five minutes.
    Day,
}

/// The samples of some services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// How far back.
    pub range: HistoryRange,
    /// Least time between two samples, in milliseconds. More than that of the range if the samples of all services do not fit an answer.
    pub step_ms: u64,
    /// By service name.
    pub series: Vec<Series>,
}

/// The samples of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// Which service.
    pub service: String,
    /// Oldest first. Times at which nobody looked have no sample.
    pub samples: Vec<Sample>,
}

/// What was seen at one time. `None`: it was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// When, in milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// Open connections.
    #[serde(default)]
    pub connections: Option<u32>,
    /// Connections that waited in accept queues.
    #[serde(default)]
    pub queued: Option<u32>,
    /// Memory of its processes in bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Processor time used since the sample before, in thousandths of one processor.
    #[serde(default)]
    pub cpu_permille: Option<u32>,
    /// Generations started after the first, so far.
    #[serde(default)]
    pub restarts: u64,
}
