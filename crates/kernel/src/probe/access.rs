//! Reaching into another process, as a caught `bind` needs it: a child, and a process that is no descendant.

use super::{Child, Failure, Try, call, hear, say, unword, word, wrong};
use crate::procfs::Proc;
use crate::socket;
use crate::{memory, process};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// A child with a pidfd could be made.
    pub clone: Try,
    /// A duplicate of a child's socket could be taken (`pidfd_getfd`), and is the same socket.
    pub duplicate: Try,
    /// A child's memory could be read (`process_vm_readv`).
    pub read: Try,
    /// The same two on a process that is not a descendant (Yama may forbid it).
    pub stranger: Try,
    /// A child's descriptors are seen in `/proc/PID/fd`.
    pub see: Try,
    /// A signal reaches a child by its pidfd.
    pub signal: Try,
    /// Descriptors could be marked close-on-exec in one call (`close_range`).
    pub close_range: Try,
}

/// What is read from the other's memory.
const TEXT: [u8; 16] = *b"stayput was here";

/// Tries it.
pub fn access() -> Access {
    // At the same address in parent and child, since the child is a copy.
    let text = Box::new(TEXT);
    let place = text.as_ptr() as u64;
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    let own = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
    let number = own.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    let child = Child::start(|channel| reached(channel, parent, number, place));
    let clone = child.as_ref().map(|_| ()).map_err(Clone::clone);
    child.and_then(|child| examine(&child, place)).unwrap_or_else(|failure| {
        let failed = || Err(failure.clone());
        Access { clone, duplicate: failed(), read: failed(), stranger: failed(), see: failed(), signal: failed(), close_range: failed() }
    })
}

fn examine(child: &Child, place: u64) -> Try<Access> {
    let ([number, closed, duplicated, read], _) = child.hear("the child to reach into")?;
    if number < 0 {
        return wrong("a child could not bind 127.0.0.1:0");
    }
    let duplicate = duplicate(child, number as i32);
    let see = see(child.pid, duplicate.as_ref().ok());
    Ok(Access {
        clone: Ok(()),
        duplicate: duplicate.map(|_| ()),
        read: read_text(child.pid, place).map_err(call("process_vm_readv")).and_then(same_text),
        stranger: unword(duplicated, "pidfd_getfd on a process that is no descendant")
            .and(unword(read, "process_vm_readv on a process that is no descendant")),
        see,
        signal: process::signal(&child.pidfd, 0).map_err(call("pidfd_send_signal")),
        close_range: unword(closed, "close_range(CLOSE_RANGE_CLOEXEC)"),
    })
}

/// The child: opens a socket, reaches into its parent, which is no descendant of it, and waits to be reached into.
fn reached(channel: &OwnedFd, parent: i32, parents_socket: i32, place: u64) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)
        .and_then(|socket| rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map(|()| socket));
    let number = socket.as_ref().map_or(-1, |socket| i64::from(socket.as_raw_fd()));
    let duplicated = word(process::pidfd(parent).and_then(|pidfd| process::duplicate(&pidfd, parents_socket)));
    let read = word(read_text(parent, place));
    let closed = word(crate::spawn::close_on_exec_from(channel.as_raw_fd() as u32 + 1));
    say(channel, [number, closed, duplicated, read], None);
    let _ = hear(channel);
}

fn duplicate(child: &Child, number: i32) -> Try<OwnedFd> {
    // As the keeper does: the caller of a caught bind is known by number.
    let pidfd = process::pidfd(child.pid).map_err(call("pidfd_open"))?;
    let copy = process::duplicate(&pidfd, number).map_err(call("pidfd_getfd"))?;
    match socket::address(&copy) {
        Ok(address) if address.port() != 0 => Ok(copy),
        other => wrong(format!("pidfd_getfd: the duplicate is not the child's socket: {other:?}")),
    }
}

fn read_text(pid: i32, place: u64) -> Result<[u8; 16], Errno> {
    let mut buffer = [0; 16];
    memory::read_process(pid, place, &mut buffer).map(|_| buffer)
}

fn same_text(text: [u8; 16]) -> Try {
    if text == TEXT { Ok(()) } else { wrong("process_vm_readv: other bytes than were there") }
}

/// With a duplicate at hand, whether the very socket is seen; else whether any is.
fn see(pid: i32, socket: Option<&OwnedFd>) -> Try {
    let failed = |error: crate::procfs::Error| Failure::Wrong(error.to_string());
    let inode = socket.and_then(|socket| socket::inode(socket).ok());
    let seen = Proc::open().and_then(|proc| proc.socket_inodes(pid)).map_err(failed)?;
    if seen.iter().any(|seen| inode.is_none_or(|inode| inode == seen.inode)) {
        Ok(())
    } else {
        wrong("/proc/PID/fd of a child does not show its socket")
    }
}
