//! Trying, here and now, what stayput stands on: each function does the thing in small, with throw-away children and sockets on
//! ephemeral loopback ports, and says what came of it.
//!
//! Owns the single tries. Refuses to conclude anything from version numbers, and to judge what a failure means: that is
//! `stayput_model::host`. Nothing is left behind, no other process is touched, and every wait has an end.
//!
//! All of it needs a process with a single thread (see [`crate::process::clone`]).

pub mod access;
pub mod place;
pub mod steer;
pub mod trap;
pub mod watch;

use crate::process::{self, Cloned};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What came of a try: it works, or why not.
pub type Try<T = ()> = Result<T, Failure>;

/// Why a try failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A system call failed.
    Call {
        /// Which, as people know it.
        call: &'static str,
        /// With what.
        errno: Errno,
    },
    /// All calls succeeded, and what they did is not what they should have done.
    Wrong(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call { call, errno } => write!(f, "{call}: {errno}"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

/// For `map_err`: the call that failed.
fn call(call: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure::Call { call, errno }
}

fn wrong<T>(what: impl Into<String>) -> Try<T> {
    Err(Failure::Wrong(what.into()))
}

/// How long a child or the kernel may take for a step that takes microseconds.
const PATIENCE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// Waits until there is something to read.
fn readable(descriptor: impl AsFd, what: &'static str) -> Try {
    let mut wanted = [PollFd::new(&descriptor, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut wanted, Some(&PATIENCE))).map_err(call("poll"))?;
    if ready == 0 {
        return wrong(format!("{what}: nothing came within {} s", PATIENCE.tv_sec));
    }
    if wanted[0].revents().contains(PollFlags::IN) { Ok(()) } else { wrong(format!("{what}: the other side is gone")) }
}

/// A message between a throw-away child and us: numbers whose meaning the two agree on.
type Words = [i64; 4];

/// A child that plays one part of a try, and is killed when this is dropped.
struct Child {
    pid: i32,
    pidfd: OwnedFd,
    channel: OwnedFd,
}

impl Child {
    /// Starts a child that runs `part` with its end of the channel and ends.
    fn start(part: impl FnOnce(&OwnedFd)) -> Try<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(call("socketpair"))?;
        match process::clone().map_err(call("clone"))? {
            Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd, channel: ours }),
            Cloned::Child => {
                drop(ours);
                // Whatever happens to the parent, nothing stays behind.
                let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
                part(&theirs);
                process::exit_now(0)
            }
        }
    }

    /// The next message, and the descriptor that came with it.
    fn hear(&self, what: &'static str) -> Try<(Words, Option<OwnedFd>)> {
        readable(&self.channel, what)?;
        hear(&self.channel).ok_or_else(|| Failure::Wrong(format!("{what}: the throw-away child ended too early")))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // By number, which is safe for a child that is not reaped yet: its pidfd is one of the things that are tried.
        let pid = rustix::process::Pid::from_raw(self.pid);
        if pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()) {
            let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
        }
    }
}

/// Sends a message. If that fails the reader is gone, and will say so.
fn say(channel: &OwnedFd, words: Words, descriptor: Option<BorrowedFd<'_>>) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let _ = sendmsg(channel, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
}

/// Waits for a message; `None`: the other side is gone.
fn hear(channel: &OwnedFd) -> Option<(Words, Option<OwnedFd>)> {
    let mut bytes = [0_u8; size_of::<Words>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        recvmsg(channel, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    if received.ok()?.bytes != size_of::<Words>() {
        return None;
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    });
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = i64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    Some((words, descriptor))
}

/// An error number as a word: 0 for success.
fn word<T>(result: Result<T, Errno>) -> i64 {
    result.map_or_else(|errno| i64::from(errno.raw_os_error()), |_| 0)
}

/// What a word says.
fn unword(word: i64, what: &'static str) -> Try {
    if word == 0 { Ok(()) } else { Err(Failure::Call { call: what, errno: Errno::from_raw_os_error(word as i32) }) }
}
