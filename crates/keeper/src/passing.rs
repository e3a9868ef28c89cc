//! Where binds cannot be caught: the declared ports are held by us and passed to the command as open sockets, in the ways that servers know.
//! Each generation gets sockets of its own in the ports' groups, so it is steered, probed and drained like any other.
//!
//! A command that does not take them cannot bind the ports either, because we have them: a generation that ends before it served counts as
//! a refusal, and the next one of its service gets nothing and binds by itself.

use crate::groups::{HELD_BACKLOG, Newcomer};
use crate::keeper::Keeper;
use crate::protocol::{GenerationId, ListenerId, Origin, SpawnSpec, Trap};
use rustix::fs::OFlags;
use rustix::io::Errno;
use stayput_kernel::socket::{self, Key};
use stayput_kernel::spawn::{self, PASSED_MAX, PIDS, Passed};
use stayput_kernel::table::TableFd;
use std::ffi::CString;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// The first descriptor that is passed, by the convention of sd_listen_fds(3).
const FIRST: usize = 3;

/// What a command is told of its sockets.
pub(crate) fn passed(spec: &SpawnSpec, env: &[CString], declines: bool) -> Result<Option<Passed>, Errno> {
    let named = spec.argv.iter().any(|word| contains(word, b"{fd}") || contains(word, b"{fd:"));
    let count = spec.declared.len();
    if !named && (!spec.pass_sockets || declines || count == 0 || count > PASSED_MAX) {
        return Ok(None);
    }
    if count == 0 || count > PASSED_MAX {
        return Err(Errno::BADF);
    }
    let argv = spec.argv.iter().map(|word| with_descriptors(word, &spec.declared)).collect::<Result<Vec<_>, _>>()?;
    let argv = spawn::c_strings(&argv)?;
    let ours = variables(&spec.declared);
    let name = |entry: &[u8]| entry.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    let names: Vec<Vec<u8>> = ours.iter().map(|entry| name(entry.as_bytes())).collect();
    let mut env: Vec<CString> = env.iter().filter(|entry| !names.contains(&name(entry.as_bytes()))).cloned().collect();
    env.extend(ours.into_iter().filter_map(|entry| CString::new(entry).ok()));
    Ok(Some(Passed { always: named, count, argv, env }))
}

fn contains(word: &[u8], part: &[u8]) -> bool {
    word.windows(part.len()).any(|window| window == part)
}

/// `{fd}` is the first socket, `{fd:PORT}` that of the port.
///
/// # Errors
/// `EBADF`: no such port is declared.
fn with_descriptors(word: &[u8], declared: &[SocketAddr]) -> Result<Vec<u8>, Errno> {
    let (mut rest, mut done) = (word, Vec::new());
    while let Some(at) = rest.windows(3).position(|window| window == b"{fd") {
        let Some(length) = rest[at..].iter().position(|byte| *byte == b'}') else { break };
        let inside = &rest[at + 3..at + length];
        let index = match inside.strip_prefix(b":") {
            None if inside.is_empty() => Some(0),
            None => None,
            Some(port) => {
                let port: u16 = std::str::from_utf8(port).ok().and_then(|port| port.parse().ok()).ok_or(Errno::BADF)?;
                Some(declared.iter().position(|address| address.port() == port).ok_or(Errno::BADF)?)
            }
        };
        done.extend_from_slice(&rest[..at]);
        match index {
            Some(index) => done.extend_from_slice((FIRST + index).to_string().as_bytes()),
            None => done.extend_from_slice(&rest[at..=at + length]), // something else in braces
        }
        rest = &rest[at + length + 1..];
    }
    done.extend_from_slice(rest);
    Ok(done)
}

/// systemd, Werkzeug (which takes a socket only as its reloader's child does), Einhorn, Server::Starter.
fn variables(declared: &[SocketAddr]) -> Vec<String> {
    let count = declared.len();
    let numbered = || declared.iter().zip(FIRST..);
    let join = |separator: &str, parts: Vec<String>| parts.join(separator);
    let mut all = vec![
        format!("LISTEN_FDS={count}"),
        format!("LISTEN_FDNAMES={}", join(":", declared.iter().map(|address| format!("port-{}", address.port())).collect())),
        format!("WERKZEUG_SERVER_FD={FIRST}"),
        "WERKZEUG_RUN_MAIN=true".to_owned(),
        format!("EINHORN_FD_COUNT={count}"),
        format!("EINHORN_FDS={}", join(" ", numbered().map(|(_, number)| number.to_string()).collect())),
        format!("SERVER_STARTER_PORT={}", join(";", numbered().map(|(address, number)| format!("{address}={number}")).collect())),
    ];
    all.extend(numbered().map(|(_, number)| format!("EINHORN_FD_{}={number}", number - FIRST)));
    all.extend(PIDS.map(str::to_owned));
    all
}

impl Keeper {
    /// A child waits for its sockets.
    pub(crate) fn on_asks(&mut self, id: GenerationId) {
        let Some(generation) = self.state.generation_mut(id) else { return };
        generation.asked = true;
        if let Some(Trap::Unavailable { errno }) = generation.trap {
            generation.trap = Some(Trap::Environment { errno });
        }
        self.answer_ask(id);
    }

    /// Gives them; for a second time if a predecessor died on the way: the child reads one answer only.
    pub(crate) fn answer_ask(&mut self, id: GenerationId) {
        let Some(generation) = self.state.generation(id).filter(|generation| generation.asked).cloned() else { return };
        let Some(report) = generation.report else { return };
        let sockets: Result<Vec<TableFd>, Errno> =
            generation.declared.iter().map(|address| self.socket_for(id, &generation.service, *address)).collect();
        self.commit();
        // Who is not there any more needs none.
        let _ = match &sockets {
            Ok(sockets) => {
                let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
                spawn::pass(report, Ok(&sockets))
            }
            Err(error) => spawn::pass(report, Err(*error)),
        };
    }

    /// A listener at a declared address for a generation: one that it was given before, one that waits for somebody, or a new one beside
    /// those of the generations before it.
    fn socket_for(&mut self, id: GenerationId, service: &str, address: SocketAddr) -> Result<TableFd, Errno> {
        let key = Key::new(address, false);
        let here = |owner: Option<GenerationId>| {
            let mut all = self.state.listeners.iter().filter(|listener| listener.service == service && listener.key == key);
            all.find(|listener| listener.owner == owner).map(|listener| (listener.id, listener.socket))
        };
        if let Some((_, socket)) = here(Some(id)) {
            return Ok(socket);
        }
        if let Some((waiting, socket)) = here(None) {
            self.pass_on(waiting, id);
            return Ok(socket);
        }
        let socket = if self.state.group(service, &key).is_some() {
            self.sibling(service, &key)?
        } else {
            drop(socket::bound(&key, false)?); // sharing with a stranger is not holding
            socket::bound(&key, true)?
        };
        let newcomer = Newcomer { service, key, socket, owner: Some(id), origin: Origin::Passed, backlog: HELD_BACKLOG, binder: None };
        let listener = self.join(newcomer)?;
        self.state.listener(listener).map(|listener| listener.socket).ok_or(Errno::BADF)
    }

    fn pass_on(&mut self, listener: ListenerId, id: GenerationId) {
        if let Some(listener) = self.state.listener_mut(listener) {
            listener.owner = Some(id);
            listener.last_owner = Some(id);
            listener.origin = Origin::Passed;
            // What the one before it made of the socket is not what the next expects.
            if let Ok(flags) = rustix::fs::fcntl_getfl(listener.socket) {
                let _ = rustix::fs::fcntl_setfl(listener.socket, flags - OFlags::NONBLOCK);
            }
        }
        self.commit();
        self.watch_listener(listener);
        self.tell_listener(listener);
    }

    /// The main process of a generation has ended. One that was passed sockets and never served did not take them.
    pub(crate) fn learn_from_end(&mut self, id: GenerationId) {
        let Some(generation) = self.state.generation(id) else { return };
        if matches!(generation.trap, Some(Trap::Environment { .. })) && generation.executed && !generation.served {
            let service = generation.service.clone();
            self.state.declines.insert(service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Vec<SocketAddr> {
        ["127.0.0.1:80", "[::1]:443"].map(|address| address.parse().expect("address")).to_vec()
    }

    #[test]
    fn a_command_names_its_sockets() {
        let words = |word: &str| with_descriptors(word.as_bytes(), &declared()).map(|word| String::from_utf8(word).expect("utf-8"));
        assert_eq!(words("fd://{fd}"), Ok("fd://3".into()));
        assert_eq!(words("{fd:443},{fd:80}"), Ok("4,3".into()));
        assert_eq!(words("{fdx} {fd"), Ok("{fdx} {fd".into()));
        assert_eq!(words("plain {}"), Ok("plain {}".into()));
        assert_eq!(words("{fd:81}"), Err(Errno::BADF));
    }

    #[test]
    fn each_convention_is_told() {
        let told = variables(&declared());
        for one in [
            "LISTEN_FDS=2",
            "LISTEN_PID=",
            "LISTEN_FDNAMES=port-80:port-443",
            "WERKZEUG_SERVER_FD=3",
            "EINHORN_FDS=3 4",
            "EINHORN_FD_1=4",
            "SERVER_STARTER_PORT=127.0.0.1:80=3;[::1]:443=4",
        ] {
            assert!(told.iter().any(|entry| entry == one), "{one}: {told:?}");
        }
    }
}
