//! The catch: what happens when a service calls `bind` or `listen`.
//!
//! The address is copied once and bound by us, on a duplicate of the process's own socket; CONTINUE is only answered for what
//! is not held anyhow, so a process that changes its memory meanwhile gains nothing. What is bound is bound with the rights of
//! the keeper, so it is asked first whether the service may (`rights.rs`).

use crate::errand;
use crate::groups::Newcomer;
use crate::keeper::Keeper;
use crate::protocol::{Event, GenerationId, ListenerId, Origin, Trap};
use crate::state::Listener;
use rustix::io::Errno;
use stayput_kernel::epoll::{self, Registration};
use stayput_kernel::options;
use stayput_kernel::process;
use stayput_kernel::seccomp::{self, Answer, Call, Notification};
use stayput_kernel::socket::{self, ADDRESS_MAX, Key};
use stayput_kernel::table::TableFd;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

impl Keeper {
    /// Receives one waiting call of a generation and answers it.
    pub(crate) fn on_call(&mut self, generation: GenerationId) {
        let Some(calls) = self.state.generation(generation).and_then(|generation| generation.calls) else { return };
        let (region, offset) = self.life.inbox();
        self.life.inbox_generation().store(generation.0, std::sync::atomic::Ordering::Release);
        // ENOENT: the caller was interrupted or killed meanwhile. Nothing is owed to anybody then.
        if let Ok(Some(notification)) = seccomp::receive(calls, region, offset) {
            self.answer_call(generation, &notification);
        }
    }

    /// Answers the call that a dead predecessor had received.
    pub(crate) fn answer_left_call(&mut self) {
        let (region, offset) = self.life.inbox();
        let generation = GenerationId(self.life.inbox_generation().load(std::sync::atomic::Ordering::Acquire));
        if let Some(notification) = seccomp::peek(region, offset) {
            self.answer_call(generation, &notification);
        }
    }

    fn answer_call(&mut self, generation: GenerationId, notification: &Notification) {
        let Some(calls) = self.state.generation(generation).and_then(|generation| generation.calls) else { return };
        let answer = self.with_arguments(notification).and_then(|notification| match notification.call {
            Call::Bind => self.on_bind(generation, &notification),
            Call::Listen => self.on_listen(generation, &notification),
            Call::SetOption => {
                self.on_option(generation, &notification);
                Ok(Answer::Continue)
            }
            Call::Other(_) => Ok(Answer::Continue),
        });
        let answer = match answer {
            Err(Errno::PERM | Errno::NOSYS) => {
                self.with_arguments(notification).and_then(|notification| self.answer_blind(generation, &notification))
            }
            other => other,
        };
        if matches!(answer, Err(Errno::PERM | Errno::NOSYS)) {
            self.cannot_look(generation);
        }
        // An error here means that the caller's socket or memory could not be had: the kernel's own answer is the right one.
        let answer = answer.unwrap_or(Answer::Continue);
        self.commit();
        let _ = seccomp::answer(calls, notification.id, answer);
        let (region, offset) = self.life.inbox();
        seccomp::clear(region, offset);
    }

    /// The call with its arguments beside it: older 32-bit programs have them in their memory (`socketcall`).
    fn with_arguments(&self, notification: &Notification) -> Result<Notification, Errno> {
        let Some(address) = notification.indirect else { return Ok(*notification) };
        let mut bytes = [0_u8; 12];
        if errand::read(self.life, notification.tid, address, &mut bytes)? < bytes.len() {
            return Err(Errno::FAULT);
        }
        let mut arguments = [0; 5];
        for (argument, word) in arguments.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *argument = u64::from(u32::from_ne_bytes(*word));
        }
        Ok(Notification { arguments, indirect: None, ..*notification })
    }

    /// We may not reach into the service (no ptrace access, or a filter above us): it binds by itself, and what was held for it
    /// must not stand in its way.
    fn cannot_look(&mut self, id: GenerationId) {
        let trap = Trap::Unavailable { errno: Errno::PERM.raw_os_error() };
        let Some(generation) = self.state.generation_mut(id).filter(|generation| generation.trap != Some(trap)) else { return };
        generation.trap = Some(trap);
        let (service, executed) = (generation.service.clone(), generation.executed);
        self.release_unowned(&service);
        if executed {
            self.tell(Event::Executed { generation: id, trap });
        }
    }

    /// Lets go of what nobody of the service has: it will not be handed to anybody.
    pub(crate) fn release_unowned(&mut self, service: &str) {
        let unowned: Vec<ListenerId> = self
            .state
            .listeners
            .iter()
            .filter(|listener| listener.service == service && listener.owner.is_none())
            .map(|listener| listener.id)
            .collect();
        for id in unowned {
            self.release(id);
        }
    }

    /// The caller's socket, if it is one that can be held, and the process it belongs to.
    fn callers_socket(&mut self, generation: GenerationId, notification: &Notification) -> Result<Option<(OwnedFd, i32)>, Errno> {
        let main = self.state.generation(generation).map_or(0, |generation| generation.pid);
        let number = i32::try_from(notification.arguments[0]).map_err(|_| Errno::BADF)?;
        let process = if notification.tid == main { main } else { self.proc.status(notification.tid).map_err(|_| Errno::SRCH)?.tgid };
        let pidfd = process::pidfd(process)?;
        let socket = errand::duplicate(self.life, process, &pidfd, number)?;
        Ok((socket::is_tcp(&socket)? && socket::same_network(&socket)).then_some((socket, process)))
    }

    fn on_bind(&mut self, generation: GenerationId, call: &Notification) -> Result<Answer, Errno> {
        let Some((socket, process)) = self.callers_socket(generation, call)? else { return Ok(Answer::Continue) };
        let mut buffer = [0_u8; ADDRESS_MAX];
        let length = usize::try_from(call.arguments[2] as u32).unwrap_or(usize::MAX);
        let Some(buffer) = buffer.get_mut(..length) else { return Ok(Answer::Error(Errno::INVAL)) };
        if errand::read(self.life, process, call.arguments[1], buffer)? < length {
            return Ok(Answer::Error(Errno::FAULT));
        }
        let calls = self.state.generation(generation).and_then(|generation| generation.calls).ok_or(Errno::SRCH)?;
        if !seccomp::id_valid(calls, call.id) {
            return Err(Errno::NOENT);
        }
        let Some(address) = socket::parse_address(buffer) else {
            // Not an internet address by its family. The kernel has its own view of some of those (AF_UNSPEC is one to it), so it must
            // be with the rights of the caller.
            return Ok(Answer::Continue);
        };
        if is_done(&socket, address) {
            return Ok(Answer::Success);
        }
        if address.port() == 0 {
            return Ok(answer_of(socket::bind_raw(&socket, buffer))); // any free port: needs no right, and is not held
        }
        let Some(service) = self.state.generation(generation).map(|generation| generation.service.clone()) else {
            return Ok(Answer::Continue);
        };
        if !self.may_bind(generation, call.tid, address) {
            self.tell(Event::BindRefused { generation, address, errno: Errno::ACCESS.raw_os_error() });
            return Ok(Answer::Error(Errno::ACCESS));
        }
        let key = Key::of(&socket, address)?;
        // One that means to share its port may bind without listening, so that its workers can (Granian): it must not be given a socket
        // on which connections wait already. It gets it at its listen.
        if !socket::reuses_port(&socket)?
            && let Some(offer) = self.offer(&service, &key, generation)
            && let Ok(waiting) = self.epolls(process, call.arguments[0] as i32)
        {
            match self.swap(generation, call, &socket, process, offer, &waiting) {
                // Nothing can be put in its place: it binds its own beside what is held, which ends when it listens.
                Answer::Error(error) if lacks_addfd(error) => {}
                answer => return Ok(answer),
            }
        }
        let result = self.bind_beside(&service, &key, (generation, process), &socket, buffer);
        if let Err(error) = result {
            self.tell(Event::BindRefused { generation, address, errno: error.raw_os_error() });
        }
        Ok(answer_of(result))
    }

    /// Binds the process's own socket so that other generations' may stand beside it. Where the service has nothing yet, it
    /// first learns whether the bind would succeed as the process meant it: nobody's port is shared by our doing.
    fn bind_beside(
        &mut self,
        service: &str,
        key: &Key,
        (generation, process): (GenerationId, i32),
        socket: &OwnedFd,
        address: &[u8],
    ) -> Result<(), Errno> {
        let asked_to_share = socket::reuses_port(socket)?;
        let own = |listener: &Listener| listener.service == service && listener.owner == Some(generation) && listener.key == *key;
        if self.state.listeners.iter().any(own) && !asked_to_share && !self.is_another_copy(generation, process, key) {
            return socket::bind_raw(socket, address); // it has this port already: the kernel says so
        }
        let first = self.stands_beside(service, key, generation)?;
        let uid = socket::owner(socket)?;
        if first
            && let Err(error) = socket::bound_as(key, asked_to_share, uid)
            && !(error == Errno::ADDRINUSE && self.shares_with_left(service, key) == Some(uid))
        {
            return Err(error);
        }
        self.give(service, key, uid);
        socket::set_reuse(socket, true)?;
        socket::bind_raw(socket, address).inspect_err(|_| {
            let _ = socket::set_reuse(socket, asked_to_share);
        })
    }

    /// Whether the service has nothing on the port yet.
    ///
    /// # Errors
    /// `EADDRINUSE`: beside an older generation on an overlapping address of another group nothing could be steered, and the new one would get
    /// connections before it is ready. The older one goes on.
    pub(crate) fn stands_beside(&self, service: &str, key: &Key, generation: GenerationId) -> Result<bool, Errno> {
        let same_port = |listener: &&Listener| listener.service == service && listener.key.address.port() == key.address.port();
        let present: Vec<_> = self.state.listeners.iter().filter(same_port).collect();
        let equal = present.iter().any(|listener| listener.key == *key);
        let foreign = |owner: Option<GenerationId>| owner.is_some_and(|owner| owner != generation);
        if !equal && present.iter().any(|listener| foreign(listener.owner) && listener.key.overlaps(key)) {
            return Err(Errno::ADDRINUSE);
        }
        Ok(present.is_empty())
    }

    /// One copy of several that has not bound this itself: the port that its generation has is another copy's.
    fn is_another_copy(&self, generation: GenerationId, process: i32, key: &Key) -> bool {
        if !self.state.generation(generation).is_some_and(|generation| generation.copies) {
            return false;
        }
        let open = self.proc.socket_inodes(process).unwrap_or_default();
        let own = |listener: &Listener| listener.owner == Some(generation) && listener.key == *key;
        !self.state.listeners.iter().any(|listener| own(listener) && open.iter().any(|socket| socket.inode == listener.inode))
    }

    /// A listener that nobody accepts on and that can stand in for the process's own: held for the service, or left by a
    /// generation that died, or closed by this one.
    pub(crate) fn offer(&self, service: &str, key: &Key, generation: GenerationId) -> Option<ListenerId> {
        let candidates = self.state.listeners.iter().filter(|listener| listener.service == service && listener.key == *key);
        let free = |listener: &&Listener| match listener.owner {
            None => true,
            Some(owner) => owner == generation && self.nobody_has(generation, listener.inode),
        };
        // Where connections wait, somebody is needed most.
        let need = |listener: &&Listener| (self.state.is_selected(listener), socket::accept_queue(listener.socket).unwrap_or(0));
        candidates.filter(free).max_by_key(need).map(|listener| listener.id)
    }

    /// A descriptor of the process that binds, if it is another than the main process (whose end is known anyhow).
    pub(crate) fn binder(&self, generation: GenerationId, process: i32) -> Option<OwnedFd> {
        let main = self.state.generation(generation)?.pid;
        if process == main { None } else { process::pidfd(process).ok() }
    }

    /// Duplicates of the epoll instances with which the process registered its socket before it bound it (as Netty does): the
    /// registration is to be made for what takes the socket's place.
    ///
    /// # Errors
    /// One cannot be had: then nothing may take its place.
    fn epolls(&self, process: i32, number: i32) -> Result<Vec<(OwnedFd, Registration)>, Errno> {
        let registrations = epoll::registrations(&self.proc, process, number);
        if registrations.is_empty() {
            return Ok(Vec::new());
        }
        let pidfd = process::pidfd(process)?;
        registrations.into_iter().map(|found| Ok((errand::duplicate(self.life, process, &pidfd, found.epoll)?, found))).collect()
    }

    /// Puts a held listener in the place of the process's own socket.
    pub(crate) fn swap(
        &mut self,
        generation: GenerationId,
        call: &Notification,
        own: &OwnedFd,
        process: i32,
        offer: ListenerId,
        waiting: &[(OwnedFd, Registration)],
    ) -> Answer {
        let Some(calls) = self.state.generation(generation).and_then(|generation| generation.calls) else {
            return Answer::Continue;
        };
        let Some(listener) = self.state.listener(offer) else { return Answer::Continue };
        let number = call.arguments[0] as i32;
        if let Ok(uid) = socket::owner(own) {
            self.give(&listener.service, &listener.key, uid);
        }
        let (held, address) = (listener.socket, listener.key.address);
        let not_copied = options::copy(own, held);
        let close_on_exec = self.proc.close_on_exec(process, number);
        if let Err(error) = seccomp::replace_descriptor(calls, call.id, listener.socket, number, close_on_exec) {
            return Answer::Error(error);
        }
        for (instance, found) in waiting {
            // It was ours to duplicate, so it can be added to; EEXIST from a predecessor that died here.
            let _ = epoll::register(instance, listener.socket, number, found.events, found.data);
        }
        let (service, key) = (listener.service.clone(), listener.key);
        let beside_its_own = self.selected_owners(&service, &key).contains(&generation);
        let binder = self.binder(generation, process).map(TableFd::keep);
        let given = socket::inode(own).is_ok_and(|inode| self.is_given(generation, inode));
        let mut before = None;
        if let Some(listener) = self.state.listener_mut(offer) {
            listener.owner = Some(generation);
            listener.last_owner = Some(generation);
            listener.origin = if given { Origin::Given } else { Origin::Swapped };
            before = std::mem::replace(&mut listener.binder, binder);
        }
        let own = self.state.listeners_of(generation);
        if beside_its_own && let Some(group) = self.state.group_mut(&service, &key) {
            group.order.shares_with(offer, &own);
            let steps = group.order.select_also(offer);
            let _ = self.carry_out(&service, &key, &steps, 0);
        }
        self.commit();
        if let Some(before) = before {
            before.close();
        }
        self.watch_listener(offer);
        self.tell_listener(offer);
        self.tell_not_copied(generation, address, &not_copied);
        Answer::Success
    }

    fn on_listen(&mut self, generation: GenerationId, call: &Notification) -> Result<Answer, Errno> {
        let Some((socket, process)) = self.callers_socket(generation, call)? else { return Ok(Answer::Continue) };
        let backlog = call.arguments[1] as i32;
        let inode = socket::inode(&socket)?;
        if let Some(answer) = self.listen_again(generation, inode, backlog) {
            return Ok(answer);
        }
        let address = socket::address(&socket)?;
        if address.port() == 0 || !socket::reuses_port(&socket)? {
            return Ok(Answer::Continue); // any free port, or bound before we could see it: not held
        }
        let Some(service) = self.state.generation(generation).map(|generation| generation.service.clone()) else {
            return Ok(Answer::Continue);
        };
        let key = Key::of(&socket, address)?;
        let offer = self.offer(&service, &key, generation);
        if let Some(offer) = offer
            && let Ok(waiting) = self.epolls(process, call.arguments[0] as i32)
        {
            let answer = self.swap(generation, call, &socket, process, offer, &waiting);
            if let (Answer::Success, Some(listener)) = (&answer, self.state.listener(offer)) {
                // What the call would have done to its own.
                let _ = rustix::net::listen(listener.socket, backlog);
                self.release_own_probes(generation, &key);
            }
            if !matches!(answer, Answer::Error(error) if lacks_addfd(error)) {
                return Ok(answer);
            }
        }
        let binder = self.binder(generation, process);
        let newcomer = Newcomer { service: &service, key, socket, owner: Some(generation), origin: Origin::Adopted, backlog, binder };
        match self.join(newcomer) {
            Ok(own) => {
                if let Some(offer) = offer {
                    self.end_hold(generation, offer, own, &key);
                }
                self.release_unequal_holds(generation, &service, &key);
                self.release_own_probes(generation, &key);
                Ok(Answer::Success)
            }
            Err(error) => Ok(Answer::Error(error)),
        }
    }

    /// What is held could not be put in the place of the server's own socket, which listens beside it now: who connects from here on reaches the
    /// server, and ours is let go. What waited on it is reset, unless the kernel moves it (`net.ipv4.tcp_migrate_req`).
    fn end_hold(&mut self, generation: GenerationId, hold: ListenerId, own: ListenerId, key: &Key) {
        let Some(listener) = self.state.listener(hold) else { return };
        let (service, selected) = (listener.service.clone(), self.state.is_selected(listener));
        if selected && let Some(group) = self.state.group_mut(&service, key) {
            let steps = group.order.select_also(own);
            let _ = self.carry_out(&service, key, &steps, 0);
        }
        let waited = self.release(hold);
        self.tell_listener(own);
        let moved = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1");
        let count = if moved { 0 } else { waited };
        self.tell(Event::Reset { generation, held: key.address, own: key.address, count });
    }

    /// A listen on a socket that we have already.
    pub(crate) fn listen_again(&mut self, generation: GenerationId, inode: u32, backlog: i32) -> Option<Answer> {
        let listener = self.state.listeners.iter().find(|listener| listener.inode == inode)?;
        let (id, result) = (listener.id, rustix::net::listen(listener.socket, backlog));
        if let Some(listener) = self.state.listener_mut(id) {
            listener.owner = listener.owner.or(Some(generation));
            listener.last_owner = listener.owner;
        }
        self.tell_listener(id);
        Some(answer_of(result))
    }

    /// The server listens elsewhere than where the port was held for it (another address or family): a socket wider than
    /// what it asked for is never handed over. Its own is held from now on, ours is let go.
    pub(crate) fn release_unequal_holds(&mut self, generation: GenerationId, service: &str, key: &Key) {
        let unequal = |listener: &&Listener| {
            listener.service == service
                && listener.origin == Origin::Held
                && listener.key.address.port() == key.address.port()
                && listener.key != *key
        };
        let unequal: Vec<(ListenerId, SocketAddr, bool)> =
            self.state.listeners.iter().filter(unequal).map(|listener| (listener.id, listener.key.address, listener.shut)).collect();
        for (id, held, shut) in unequal {
            let count = self.release(id);
            if count > 0 && !shut {
                self.tell(Event::Reset { generation, held, own: key.address, count });
            }
        }
    }

    /// Some servers listen on other addresses of their port for a moment, to see whether it is free there (Vite: `0.0.0.0`, then `::`). What the
    /// generation itself has closed again, and now listens beside, is let go: nobody would ever accept on it.
    pub(crate) fn release_own_probes(&mut self, generation: GenerationId, key: &Key) {
        let closed = |listener: &&Listener| {
            listener.last_owner == Some(generation)
                && listener.key.address.port() == key.address.port()
                && listener.key != *key
                && self.nobody_has(generation, listener.inode)
        };
        let closed: Vec<ListenerId> = self.state.listeners.iter().filter(closed).map(|listener| listener.id).collect();
        for id in closed {
            self.release(id);
        }
    }
}

pub(crate) fn answer_of(result: Result<(), Errno>) -> Answer {
    match result {
        Ok(()) => Answer::Success,
        Err(error) => Answer::Error(error),
    }
}

/// Whether this very call was carried out before and its caller has not heard of it: we died over it, or a signal interrupted the caller while we
/// worked (before Linux 5.19, which lacks `WAIT_KILLABLE_RECV`; Go signals its own threads), and its kernel makes the call again (signal(7),
/// `SA_RESTART`). By itself a second bind of a socket is an error (`EINVAL`), which no server can want.
fn is_done(socket: &OwnedFd, address: SocketAddr) -> bool {
    let Ok(bound) = socket::address(socket) else { return false };
    bound == address || (address.port() == 0 && bound.port() != 0 && bound.ip() == address.ip())
}

/// Whether it is the answer of a kernel that cannot put a descriptor into another process (`SECCOMP_IOCTL_NOTIF_ADDFD`, Linux 5.9).
fn lacks_addfd(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOTTY)
}
