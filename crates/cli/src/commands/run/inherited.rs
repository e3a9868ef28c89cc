//! Listening sockets that this process was started with (`LISTEN_FDS`, sd_listen_fds(3)): those of a declared port are held from the first moment, and
//! whoever connected before is served.

use std::os::fd::OwnedFd;

use stayput_kernel::{socket, spawn};
use stayput_model::config::InstanceConfig;

use crate::output;

/// The first of them.
const FIRST: i32 = 3;
/// More than anybody passes; the number is a stranger's.
const MOST: i32 = 1024;
const VARIABLES: [&[u8]; 3] = [b"LISTEN_FDS=", b"LISTEN_PID=", b"LISTEN_FDNAMES="];

/// All of them, whatever they are. Before this process opens anything: the numbers say which they are, and would be those of our own files else.
pub(crate) fn claim() -> Vec<OwnedFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    if number("LISTEN_PID") != Some(std::process::id().cast_signed()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST);
    (FIRST..FIRST.saturating_add(count)).filter_map(|number| spawn::inherited(number).ok()).collect()
}

/// Those that a service declares; the others are closed. The variables are taken out of the configuration: no service was meant by them.
pub(super) fn wanted(sockets: Vec<OwnedFd>, config: &mut InstanceConfig) -> Vec<OwnedFd> {
    config.env.retain(|entry| !VARIABLES.iter().any(|variable| entry.starts_with(variable)));
    sockets.into_iter().filter(|socket| is_wanted(socket, config)).collect()
}

fn is_wanted(socket: &OwnedFd, config: &InstanceConfig) -> bool {
    let tcp = socket::is_tcp(socket).unwrap_or(false) && socket::is_listening(socket).unwrap_or(false);
    let Some(address) = socket::address(socket).ok().filter(|_| tcp) else {
        output::complain("a descriptor that was passed (LISTEN_FDS) is no listening TCP socket: it is closed\n");
        return false;
    };
    let service = config.services.iter().find(|service| service.ports.contains(&address));
    let Some(service) = service else {
        output::complain(&format!("the socket on {address} that was passed (LISTEN_FDS) is closed: no service has port = \"{address}\"\n"));
        return false;
    };
    if !socket::reuses_port(socket).unwrap_or(false) {
        let name = &service.name;
        let text = "it is held; but no other socket can stand beside it, so a restart stops the old generation first (ReusePort=yes helps)";
        output::complain(&format!("the socket on {address} of {name} was passed without SO_REUSEPORT: {text}\n"));
    }
    true
}
