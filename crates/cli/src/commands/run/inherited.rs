//! Listening sockets that this process was started with (`LISTEN_FDS`, sd_listen_fds(3)): those of a declared port are held from the first moment, and
//! whoever connected before is served. So are those that an instance before this one has left with the service manager.

use std::os::fd::OwnedFd;

use stayput_keeper::store::Stored;
use stayput_kernel::{socket, spawn};
use stayput_model::config::InstanceConfig;

use crate::output;

/// The first of them.
const FIRST: i32 = 3;
/// More than anybody passes; the number is a stranger's.
const MOST: i32 = 65536;
const VARIABLES: [&[u8]; 3] = [b"LISTEN_FDS=", b"LISTEN_PID=", b"LISTEN_FDNAMES="];

/// What was passed.
#[derive(Debug)]
pub(crate) struct Passed {
    /// What the service manager calls it; empty if it has no names.
    name: String,
    socket: OwnedFd,
}

/// What is made of it.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Those of a socket unit that a service declares.
    pub(super) inherited: Vec<OwnedFd>,
    /// Those that we have left there, with the socket if its service may have it.
    pub(super) stored: Vec<(Stored, Option<OwnedFd>)>,
}

/// All of them, whatever they are. Before this process opens anything: the numbers say which they are, and would be those of our own files else.
pub(crate) fn claim() -> Vec<Passed> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    if number("LISTEN_PID") != Some(std::process::id().cast_signed()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(""));
    let each = (FIRST..FIRST.saturating_add(count)).zip(names);
    each.filter_map(|(number, name)| Some(Passed { name: name.to_owned(), socket: spawn::inherited(number).ok()? })).collect()
}

/// Sorts them; those that are nobody's are closed. The variables are taken out of the configuration: no service was meant by them.
pub(super) fn wanted(passed: Vec<Passed>, config: &mut InstanceConfig) -> Wanted {
    config.env.retain(|entry| !VARIABLES.iter().any(|variable| entry.starts_with(variable)));
    let mut wanted = Wanted::default();
    for Passed { name, socket } in passed {
        match Stored::of(&name, &socket) {
            Some(stored) => {
                let socket = is_a_services(&stored, &socket, config).then_some(socket);
                wanted.stored.push((stored, socket));
            }
            None if is_wanted(&socket, config) => wanted.inherited.push(socket),
            None => {}
        }
    }
    wanted
}

/// Whether the service that it was stored for is there and may still have this port: one that declares ports, only one of these; one that
/// declares none has had it by binding it, and gets it if it does so again. Whoever is in the unit can put something into its store: a socket of another user
/// is not ours.
fn is_a_services(stored: &Stored, socket: &OwnedFd, config: &InstanceConfig) -> bool {
    let service = config.services.iter().find(|service| service.name == stored.service && !service.disabled);
    // A port that was declared without an address is held where its server was seen to listen.
    let meant = |port: &std::net::SocketAddr| *port == stored.address || port.ip().is_unspecified() && port.port() == stored.address.port();
    let is = service.is_some_and(|service| {
        let users = [Some(rustix::process::geteuid().as_raw()), service.user.as_ref().map(|user| user.uid)];
        let owned = socket::owner(socket).is_ok_and(|owner| users.contains(&Some(owner)));
        owned && (service.ports.is_empty() || service.ports.iter().any(meant))
    });
    if !is {
        let (address, name) = (stored.address, &stored.service);
        output::complain(&format!("the socket on {address} that was kept for {name} is closed: the configuration has it no more\n"));
    }
    is
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
