//! Holding the ports of a process whose descriptors we cannot duplicate: `pidfd_getfd` is refused by a filter above us (Docker's default
//! profile) or missing. A descriptor can still be *put into* it (`SECCOMP_IOCTL_NOTIF_ADDFD` needs no ptrace access), so at its bind it gets a
//! socket of ours in the place of its own, bound as it asked. From there on all is as with an adopted one.
//!
//! What cannot be seen is not guessed: of the options that were set before the bind only those that were caught are set again (`options.rs`), and
//! where one decides who can connect (a device, `IPV6_V6ONLY` of a wildcard if it could not be caught) or who is told of it (an epoll
//! registration), the process's own socket stays, unheld.

use crate::catch::answer_of;
use crate::errand;
use crate::groups::Newcomer;
use crate::keeper::Keeper;
use crate::options::v6only_by_default;
use crate::protocol::{Event, GenerationId, Origin};
use rustix::fs::OFlags;
use rustix::io::Errno;
use stayput_kernel::epoll;
use stayput_kernel::options::SetOption;
use stayput_kernel::seccomp::{self, Answer, Call, Notification};
use stayput_kernel::socket::{self, ADDRESS_MAX, Key};
use stayput_kernel::table::TableFd;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

/// The names of protocols whose stream sockets a TCP listener can stand for (`struct proto` in net/).
const STREAMS: [&str; 4] = ["TCP", "TCPv6", "MPTCP", "MPTCPv6"];

impl Keeper {
    /// Answers a call without the caller's socket.
    ///
    /// # Errors
    /// `EPERM`: it cannot be held by these means either.
    pub(crate) fn answer_blind(&mut self, generation: GenerationId, call: &Notification) -> Result<Answer, Errno> {
        let number = i32::try_from(call.arguments[0]).map_err(|_| Errno::BADF)?;
        let process = self.proc.status(call.tid).map_err(|_| Errno::SRCH)?.tgid;
        let protocol = self.proc.socket_protocol(process, number).map_err(|_| Errno::PERM)?;
        if !protocol.is_some_and(|name| STREAMS.contains(&name.as_str())) || !same_network(process) {
            return Ok(Answer::Continue);
        }
        match call.call {
            Call::Bind => self.bind_blind(generation, call, process, number),
            Call::Listen => self.listen_blind(generation, call, process, number),
            Call::SetOption | Call::Other(_) => Ok(Answer::Continue),
        }
    }

    fn bind_blind(&mut self, generation: GenerationId, call: &Notification, process: i32, number: i32) -> Result<Answer, Errno> {
        let mut buffer = [0_u8; ADDRESS_MAX];
        let length = usize::try_from(call.arguments[2] as u32).unwrap_or(usize::MAX);
        let Some(buffer) = buffer.get_mut(..length) else { return Ok(Answer::Error(Errno::INVAL)) };
        if errand::read(self.life, process, call.arguments[1], buffer)? < length {
            return Ok(Answer::Error(Errno::FAULT));
        }
        let Some(found) = self.state.generation(generation) else { return Ok(Answer::Continue) };
        let (service, calls) = (found.service.clone(), found.calls.ok_or(Errno::SRCH)?);
        if !seccomp::id_valid(calls, call.id) {
            return Err(Errno::NOENT);
        }
        let Some(address) = socket::parse_address(buffer).filter(|address| address.port() != 0) else { return Ok(Answer::Continue) };
        let wildcard = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unspecified());
        let unknown = wildcard && !(found.sees_options && call.native);
        let own = self.proc.socket_inode(process, number).map_err(|_| Errno::PERM)?;
        if unknown || !epoll::registrations(&self.proc, process, number).is_empty() {
            return Err(Errno::PERM);
        }
        // Once more, because we died over it, or because a signal interrupted the caller before it heard (catch.rs, `is_done`).
        if let Some((_, key, _)) = found.given.iter().find(|(given, _, _)| *given == own) {
            return Ok(if key.address == address { Answer::Success } else { Answer::Error(Errno::INVAL) });
        }
        if !self.may_bind(generation, call.tid, address) {
            self.tell(Event::BindRefused { generation, address, errno: Errno::ACCESS.raw_os_error() });
            return Ok(Answer::Error(Errno::ACCESS));
        }
        let set = self.options_of(generation, own);
        if set.iter().any(SetOption::names_device) {
            return Err(Errno::PERM); // ours would be wider
        }
        let v6only = address.is_ipv6() && set.iter().find_map(SetOption::v6only).unwrap_or_else(v6only_by_default);
        let key = Key::new(address, v6only);
        let uid = self.proc.status(call.tid).map_err(|_| Errno::SRCH)?.uids[3];
        self.drop_closed(generation);
        let beside_ours = self.state.generations.iter().any(|other| other.given.iter().any(|(_, given, _)| *given == key));
        let made = self.stands_beside(&service, &key, generation).and_then(|first| {
            if first && !beside_ours {
                drop(socket::bound_as(&key, false, uid)?); // nobody's port is shared by our doing
            }
            self.give(&service, &key, uid);
            socket::bound_as(&key, true, uid)
        });
        let socket = match made {
            Ok(socket) => socket,
            Err(error) => {
                self.tell(Event::BindRefused { generation, address, errno: error.raw_os_error() });
                return Ok(Answer::Error(error));
            }
        };
        let refused: Vec<&str> = set.iter().filter_map(|option| option.repeat(&socket).err()).collect();
        self.tell_not_copied(generation, address, &refused);
        if self.proc.non_blocking(process, number) {
            rustix::fs::fcntl_setfl(&socket, rustix::fs::fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
        }
        let inode = socket::inode(&socket)?;
        let socket = TableFd::keep(socket);
        if let Some(generation) = self.state.generation_mut(generation) {
            generation.given.push((inode, key, socket));
        }
        // Before the process has it: a successor of ours that finds it there must know it.
        self.commit();
        let close_on_exec = self.proc.close_on_exec(process, number);
        let Err(error) = seccomp::replace_descriptor(calls, call.id, socket, number, close_on_exec) else {
            self.forget_options(generation, own);
            return Ok(Answer::Success);
        };
        // Ours, bound there, would be in the way of its own.
        if let Some(generation) = self.state.generation_mut(generation) {
            generation.given.retain(|(given, _, _)| *given != inode);
        }
        self.commit();
        socket.close();
        // Without ADDFD (before Linux 5.9) there is nothing left to try. Who does not wait any more (a signal) calls again.
        Err(if error == Errno::NOENT { error } else { Errno::PERM })
    }

    fn listen_blind(&mut self, generation: GenerationId, call: &Notification, process: i32, number: i32) -> Result<Answer, Errno> {
        let backlog = call.arguments[1] as i32;
        let inode = self.proc.socket_inode(process, number).map_err(|_| Errno::PERM)?;
        if let Some(answer) = self.listen_again(generation, inode, backlog) {
            return Ok(answer);
        }
        let Some(found) = self.state.generation_mut(generation) else { return Ok(Answer::Continue) };
        let Some(at) = found.given.iter().position(|(given, _, _)| *given == inode) else { return Ok(Answer::Continue) };
        let (_, key, ours) = found.given[at];
        let service = found.service.clone();
        let socket = ours.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        // Registered with an epoll of its own since: that follows the socket, not the descriptor.
        let movable = epoll::registrations(&self.proc, process, number).is_empty();
        let answer = if let Some(offer) = self.offer(&service, &key, generation).filter(|_| movable) {
            let answer = self.swap(generation, call, &socket, process, offer, &[]);
            if let (Answer::Success, Some(listener)) = (&answer, self.state.listener(offer)) {
                let _ = rustix::net::listen(listener.socket, backlog);
            }
            answer
        } else {
            let binder = self.binder(generation, process);
            let newcomer = Newcomer { service: &service, key, socket, owner: Some(generation), origin: Origin::Given, backlog, binder };
            answer_of(self.join(newcomer).map(|_| ()))
        };
        if answer == Answer::Success {
            self.release_unequal_holds(generation, &service, &key);
            self.release_own_probes(generation, &key);
            if let Some(generation) = self.state.generation_mut(generation) {
                generation.given.retain(|(given, _, _)| *given != inode);
            }
            self.commit();
            ours.close();
        }
        Ok(answer)
    }

    /// Closes what the generation was given, never listened on, and has closed (it only asked whether the port is free): bound, ours would be in the
    /// way of its next.
    fn drop_closed(&mut self, generation: GenerationId) {
        let given: Vec<u32> =
            self.state.generation(generation).map(|found| found.given.iter().map(|(inode, _, _)| *inode).collect()).unwrap_or_default();
        for inode in given {
            if self.nobody_has(generation, inode)
                && let Some(found) = self.state.generation_mut(generation)
                && let Some(at) = found.given.iter().position(|(given, _, _)| *given == inode)
            {
                let (_, _, socket) = found.given.remove(at);
                self.commit();
                socket.close();
            }
        }
    }

    /// Whether it is a socket of ours that the generation does not listen on yet.
    pub(crate) fn is_given(&self, generation: GenerationId, inode: u32) -> bool {
        self.state.generation(generation).is_some_and(|generation| generation.given.iter().any(|(given, _, _)| *given == inode))
    }
}

/// Whether a process is in our network namespace. (A socket of another one that it was handed cannot be told apart here.)
fn same_network(process: i32) -> bool {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).ok();
    of(&process.to_string()).is_some_and(|theirs| of("self") == Some(theirs))
}
