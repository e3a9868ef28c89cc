//! One file per subcommand: `Args` says what it takes, `run` does it.

pub(crate) mod canary;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod daemon;
pub(crate) mod dashboard;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod free;
pub(crate) mod history;
pub(crate) mod hold;
pub(crate) mod instances;
pub(crate) mod logs;
mod number;
pub(crate) mod ports;
pub(crate) mod reload;
pub(crate) mod replicas;
pub(crate) mod restart;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod story;
pub(crate) mod up;
pub(crate) mod wait;
pub(crate) mod why;
