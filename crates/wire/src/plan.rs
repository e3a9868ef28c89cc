//! What a reload would change, and how a service is configured. Environment values are never in here: names only.

use crate::status::ConfigOrigin;
use serde::{Deserialize, Serialize};

/// What a reload would change, or why it would change nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlanReport {
    /// The file that was read; `None`: the instance was started without one (`stayput run`).
    pub path: Option<String>,
    /// Why it cannot be applied, all reasons at once; empty: it can.
    #[serde(default)]
    pub errors: Vec<ConfigProblem>,
    /// What would change, by service; services that stay as they are are not in it.
    #[serde(default)]
    pub changes: Vec<ServiceChange>,
    /// Changes of the instance itself.
    #[serde(default)]
    pub instance: Vec<FieldChange>,
}

/// An error in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigProblem {
    /// What is wrong, lower-case.
    pub message: String,
    /// In which file.
    #[serde(default)]
    pub path: Option<String>,
    /// Line, from 1.
    #[serde(default)]
    pub line: Option<u32>,
    /// Column in characters, from 1.
    #[serde(default)]
    pub column: Option<u32>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// The whole message with the offending text underlined, without colours.
    #[serde(default)]
    pub rendered: Option<String>,
}

/// What happens to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceAction {
    /// It is new: it is started.
    Add,
    /// It is gone from the configuration: it is drained and stopped.
    Remove,
    /// A new generation replaces the running one.
    Restart,
    /// The changes are policy: they hold from now on, no process is touched.
    Live,
}

/// The changes of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    /// Which.
    pub service: String,
    /// What happens to it.
    pub action: ServiceAction,
    /// Why, as a sentence without a full stop.
    pub why: String,
    /// Field by field; empty for one that is added or removed.
    #[serde(default)]
    pub fields: Vec<FieldChange>,
}

/// The change of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its name as in the file: `command`, `env.NAME`, `limits.memory`.
    pub field: String,
    /// What it was, as it would be written in the file; `None`: it was not set. Of an environment variable never the value.
    pub from: Option<String>,
    /// What it is to be; `None`: it is not set any more.
    pub to: Option<String>,
    /// It takes a new generation.
    pub restart: bool,
    /// Why it does, or why it does not.
    #[serde(default)]
    pub why: String,
}

/// How a service is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// Which service.
    pub service: String,
    /// Where that stands.
    #[serde(default)]
    pub origin: Option<ConfigOrigin>,
    /// Every field with its present value, by its name in the file; durations in milliseconds, in fields that end with `_ms`. The
    /// environment is a list of names.
    pub fields: serde_json::Map<String, serde_json::Value>,
}
