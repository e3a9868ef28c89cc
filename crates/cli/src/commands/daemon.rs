//! The hidden command with which the keeper starts the daemon. It is not for people.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use stayput_kernel::spawn;

use crate::error::{Error, Kind};

/// Its name on the command line.
pub(crate) const NAME: &str = "__daemon";
/// The daemon's end of the packet socket to the keeper.
const CHANNEL: i32 = 3;
/// The listening control socket.
const CONTROL: i32 = 4;

/// Runs it on the two descriptors that the keeper leaves open.
pub(crate) fn run() -> Result<ExitCode, Error> {
    let typed = || Error::new(Kind::BadInput, format!("`stayput {NAME}` is started by stayput itself")).hint("stayput run --help");
    let (channel, control) = inherited().ok_or_else(typed)?;
    Ok(stayput_daemon::run(channel, control))
}

/// Both descriptors, if they are what they are to be: somebody who types the command has others there, or none.
fn inherited() -> Option<(OwnedFd, OwnedFd)> {
    let channel = spawn::inherited(CHANNEL).ok()?;
    let control = spawn::inherited(CONTROL).ok()?;
    let right = socket_type(&channel) == Ok(SocketType::SEQPACKET) && socket_acceptconn(&control) == Ok(true);
    right.then_some((channel, control))
}
