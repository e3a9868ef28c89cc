//! One file per subcommand: `Args` says what it takes, `run` does it.

pub(crate) mod free;
pub(crate) mod ports;
pub(crate) mod wait;
pub(crate) mod why;
