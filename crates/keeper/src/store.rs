//! The descriptor store of the service manager (sd_notify(3), `FDSTORE=1`): one listening socket of each port is with it as well, so that the ports
//! survive the end of everything that is ours, and an instance that is started after it finds them, with all who connected meanwhile.
//!
//! It owns what is said to the manager about it and what is taken back; it refuses to decide which sockets are a service's: what comes back was sorted
//! by who reads the configuration. Where the manager offers no store (`$FDSTORE`, systemd 254), nothing is said.

use crate::groups::{HELD_BACKLOG, Newcomer};
use crate::keeper::{Keeper, Source};
use crate::protocol::Origin;
use crate::state::{Listener, State};
use crate::strangers;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use stayput_kernel::sock_diag::DestroyEvents;
use stayput_kernel::socket::{self, Key};
use stayput_kernel::table::TableFd;
use stayput_kernel::{clock, reuseport};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

/// In front of a name in the store; the service and the inode follow. (No colon may be in it: it separates names in `LISTEN_FDNAMES`.)
const PREFIX: &str = "stayput-";
/// How long the sockets of processes that were killed with the instance before this one are waited for.
const LEFTOVERS_NS: u64 = 2_000_000_000;

/// A listening socket that the service manager keeps for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The service whose port it is.
    pub service: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its inode, by which it is one of its port's and no other.
    pub inode: u32,
}

impl Stored {
    /// What a socket is that we were given under this name; `None`: we have not stored it.
    pub fn of(name: &str, socket: impl AsFd) -> Option<Self> {
        let (service, inode) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
        let (inode, address) = (inode.parse().ok()?, socket::address(&socket).ok()?);
        let ours = socket::inode(&socket) == Ok(inode) && socket::is_tcp(&socket) == Ok(true) && socket::is_listening(&socket) == Ok(true);
        ours.then(|| Self { service: service.to_owned(), address, inode })
    }

    fn name(&self) -> String {
        format!("{PREFIX}{}-{}", self.service, self.inode)
    }

    fn same_port(&self, other: &Self) -> bool {
        self.service == other.service && self.address == other.address
    }
}

/// One message to the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Keep(Stored),
    Drop(Stored),
}

/// What makes what is `wanted` of what is `stored`, never more than `most` at a time: a port's new socket is kept before its old one is dropped, where there is
/// a place for both.
fn words(stored: &[Stored], wanted: &[Stored], most: usize) -> Vec<Word> {
    let has_successor = |one: &Stored| wanted.iter().any(|other| other.same_port(one));
    let (mut kept, gone): (Vec<Stored>, Vec<Stored>) = stored.iter().cloned().partition(has_successor);
    let mut words: Vec<Word> = gone.into_iter().map(Word::Drop).collect();
    for one in wanted {
        if kept.contains(one) {
            continue;
        }
        let (before, others): (Vec<Stored>, Vec<Stored>) = kept.into_iter().partition(|old| old.same_port(one) && !wanted.contains(old));
        kept = others;
        let dropped = before.iter().cloned().map(Word::Drop);
        match (kept.len() + before.len() < most, kept.len() < most) {
            (true, _) => words.extend([Word::Keep(one.clone())].into_iter().chain(dropped)),
            (false, true) => words.extend(dropped.chain([Word::Keep(one.clone())])),
            (false, false) => continue,
        }
        kept.push(one.clone());
    }
    words
}

/// The way to the manager.
#[derive(Debug)]
pub(crate) struct Store {
    socket: OwnedFd,
    /// Most descriptors that it keeps.
    most: usize,
    /// Versions of what was looked at last.
    seen: Option<(u64, u64)>,
}

impl Store {
    /// `None`: none is offered.
    pub(crate) fn from_environment() -> Option<Self> {
        let most = std::env::var("FDSTORE").ok()?.parse().ok().filter(|most| *most > 0)?;
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let address = match name.as_bytes().split_first()? {
            (b'@', name) => SocketAddrUnix::new_abstract_name(name).ok()?,
            (b'/', _) => SocketAddrUnix::new(name.as_bytes()).ok()?,
            _ => return None,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        // Connected, so that the kernel says when there is room in the manager's queue.
        rustix::net::connect(&socket, &address).ok()?;
        Some(Self { socket, most, seen: None })
    }

    pub(crate) fn number(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn say(&self, word: &Word, socket: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let text = match word {
            // FDPOLL=0: a listener has nothing to hang up, and is to stay whatever poll(2) makes of it.
            Word::Keep(stored) => format!("FDSTORE=1\nFDNAME={}\nFDPOLL=0", stored.name()),
            Word::Drop(stored) => format!("FDSTOREREMOVE=1\nFDNAME={}", stored.name()),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.socket, &[IoSlice::new(text.as_bytes())], &mut control, flags)).map(|_| ())
    }
}

impl State {
    pub(crate) fn is_stored(&self, inode: u32) -> bool {
        self.stored.iter().any(|stored| stored.inode == inode)
    }

    /// One listener of each port of a service: one that new connections go to, and no other than that which is stored if there are several.
    fn to_store(&self) -> Vec<(Stored, TableFd)> {
        let selected: BTreeSet<_> = self.groups.iter().flat_map(|group| group.order.selected()).copied().collect();
        let rank = |listener: &Listener| (selected.contains(&listener.id), self.is_stored(listener.inode), std::cmp::Reverse(listener.id));
        let mut best: BTreeMap<(&str, SocketAddr), &Listener> = BTreeMap::new();
        // In one that is shut nobody can wait.
        for listener in self.listeners.iter().filter(|listener| !listener.shut) {
            let place = best.entry((listener.service.as_str(), listener.key.address)).or_insert(listener);
            if rank(listener) > rank(place) {
                *place = listener;
            }
        }
        let stored =
            |listener: &Listener| Stored { service: listener.service.clone(), address: listener.key.address, inode: listener.inode };
        best.into_values().map(|listener| (stored(listener), listener.socket)).collect()
    }
}

impl Keeper {
    /// Tells the manager what has changed since it was last told.
    pub(crate) fn keep_store(&mut self) {
        let Some(store) = &mut self.store else { return };
        let now = (self.state.listeners.version(), self.state.groups.version());
        if self.state.ends || store.seen == Some(now) {
            return;
        }
        store.seen = Some(now);
        let sockets = self.state.to_store();
        let wanted: Vec<Stored> = sockets.iter().map(|(stored, _)| stored.clone()).collect();
        for word in words(&self.state.stored, &wanted, store.most) {
            let socket = match &word {
                Word::Keep(stored) => sockets.iter().find(|(wanted, _)| wanted == stored).map(|(_, socket)| socket.as_fd()),
                Word::Drop(_) => None,
            };
            match store.say(&word, socket) {
                Ok(()) => {}
                Err(Errno::AGAIN) => {
                    store.seen = None;
                    let data = epoll::EventData::new_u64(Source::Store.token());
                    let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
                    if epoll::add(&self.epoll, &store.socket, data, flags) == Err(Errno::EXIST) {
                        let _ = epoll::modify(&self.epoll, &store.socket, data, flags);
                    }
                    return;
                }
                // Nobody listens. What is not stored is not lost as long as we live, and is tried again with the next change.
                Err(_) => return,
            }
            match word {
                Word::Keep(stored) => self.state.stored.push(stored),
                Word::Drop(stored) => self.state.stored.retain(|other| *other != stored),
            }
        }
    }

    /// Holds what the manager has kept for us, before anything else happens.
    pub(crate) fn take_back(&mut self) {
        if !self.state.restored.is_empty() {
            self.close_doubles();
        }
        while let Some((service, kept)) = self.state.restored.first().cloned() {
            let held = socket::inode(kept).is_ok_and(|inode| self.state.listeners.iter().any(|listener| listener.inode == inode));
            if !held {
                // One that cannot be held is dropped from the store with the next word, and its port is held like any other.
                let _ = self.hold_again(&service, kept);
            }
            self.state.restored.remove(0);
            self.commit();
            kept.close();
        }
    }

    fn hold_again(&mut self, service: &str, kept: TableFd) -> Result<(), Errno> {
        let key = Key::of(kept, socket::address(kept)?)?;
        let inode = socket::inode(kept)?;
        await_leftovers(&key, inode);
        let socket = rustix::io::fcntl_dupfd_cloexec(kept, 0)?;
        let _ = reuseport::unmute(&socket);
        self.join(Newcomer { service, key, socket, owner: None, origin: Origin::Held, backlog: HELD_BACKLOG, binder: None }).map(|_| ())
    }

    /// Two sockets of one port were stored at the moment of a switch. The one with more connections in its queue is held; the other is shut, which ends it
    /// also for the manager: two in a group whose order nobody knows could not be steered.
    fn close_doubles(&mut self) {
        let mut by_queue: Vec<(String, TableFd)> = std::mem::take(&mut self.state.restored);
        by_queue.sort_by_key(|(_, socket)| std::cmp::Reverse(socket::accept_queue(*socket).unwrap_or(0)));
        for (service, socket) in by_queue {
            let at = socket::address(socket);
            if self.state.restored.iter().any(|(other, held)| *other == service && socket::address(*held) == at) {
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
                socket.close();
            } else {
                self.state.restored.push((service, socket));
            }
        }
        self.commit();
    }
}

/// Whoever was killed with the instance before this one may not have left the port's group yet, and would move the others in it as he goes: the end of such
/// sockets is waited for. What stays longer is somebody else's.
fn await_leftovers(key: &Key, inode: u32) {
    let Ok(mut ends) = DestroyEvents::subscribe(true, false) else { return };
    let deadline = clock::monotonic_ns() + LEFTOVERS_NS;
    loop {
        let others = strangers::listening_on(key.address.port());
        let left = deadline.saturating_sub(clock::monotonic_ns());
        if left == 0 || !others.iter().any(|found| found.inode != inode && found.local == key.address) {
            return;
        }
        let left = Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
        let _ = poll(&mut [PollFd::new(&ends, PollFlags::IN)], Some(&left));
        let _ = ends.drain(|_| ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(service: &str, port: u16, inode: u32) -> Stored {
        Stored { service: service.to_owned(), address: SocketAddr::from(([127, 0, 0, 1], port)), inode }
    }

    #[test]
    fn a_successor_is_kept_before_its_predecessor_is_dropped() {
        let (old, new) = (stored("web", 80, 1), stored("web", 80, 2));
        let other = stored("api", 81, 3);
        assert_eq!(words(&[], std::slice::from_ref(&old), 8), [Word::Keep(old.clone())]);
        let both = [old.clone(), other.clone()];
        assert_eq!(words(&both, &both, 8), []);
        assert_eq!(words(&both, &[new.clone(), other.clone()], 8), [Word::Keep(new.clone()), Word::Drop(old.clone())]);
        // What nobody follows goes first and makes room.
        assert_eq!(
            words(&both, std::slice::from_ref(&new), 2),
            [Word::Drop(other.clone()), Word::Keep(new.clone()), Word::Drop(old.clone())]
        );
        // No place for both at a time.
        assert_eq!(words(std::slice::from_ref(&old), std::slice::from_ref(&new), 1), [Word::Drop(old.clone()), Word::Keep(new)]);
        assert_eq!(words(std::slice::from_ref(&old), &both, 1), [], "no place for another");
    }

    #[test]
    fn a_name_is_a_service_and_this_very_socket() {
        let socket: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").into();
        let inode = socket::inode(&socket).expect("inode");
        let of = |name: &str| Stored::of(name, &socket);
        let found = of(&format!("stayput-my-web@2-{inode}")).expect("ours");
        assert_eq!((found.service.as_str(), found.address), ("my-web@2", socket::address(&socket).expect("address")));
        assert_eq!(of(&found.name()), Some(found));
        for other in [format!("web-{inode}"), format!("stayput-web-{}", inode + 1), "stayput-web".to_owned(), "connection".to_owned()] {
            assert_eq!(of(&other), None, "{other}");
        }
        let connected: OwnedFd = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port").into();
        let inode = socket::inode(&connected).expect("inode");
        assert_eq!(Stored::of(&format!("stayput-web-{inode}"), &connected), None, "no listener");
    }
}
