//! The hidden command with which the keeper starts the daemon. It is not for people.

use std::process::ExitCode;

use stayput_kernel::spawn;

use crate::error::{Error, Kind};

/// Its name on the command line.
pub(crate) const NAME: &str = "__daemon";

/// Runs it on the two descriptors that the keeper leaves open: 3, its channel, and 4, the control socket.
pub(crate) fn run() -> Result<ExitCode, Error> {
    match (spawn::inherited(3), spawn::inherited(4)) {
        (Ok(channel), Ok(control)) => Ok(stayput_daemon::run(channel, control)),
        _ => Err(Error::new(Kind::BadInput, format!("`stayput {NAME}` is started by stayput itself")).hint("stayput run --help")),
    }
}
