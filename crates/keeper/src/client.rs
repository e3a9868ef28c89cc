//! The brain's end of the keeper's socket: packets in, packets out, descriptors beside them.
//!
//! It owns the socket and the codec; it refuses to know what the requests mean, and it does no waiting: the caller watches
//! the descriptor ([`std::os::fd::AsFd`]) for readability.

use crate::protocol::{FromKeeper, ToKeeper};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest packet in bytes. A dump of some thousand listeners fits; the kernel's default socket buffer allows it.
pub const PACKET_MAX: usize = 192 * 1024;
/// Most descriptors beside one packet.
pub const DESCRIPTORS_MAX: usize = 8;

/// Why a packet could not be sent or received.
#[derive(Debug)]
pub enum ChannelError {
    /// The other side is gone.
    Closed,
    /// `sendmsg` or `recvmsg` on the keeper's socket failed.
    Io(Errno),
    /// A packet did not decode: the other side speaks another version.
    Codec(postcard::Error),
}

impl std::fmt::Display for ChannelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the other side of the keeper's socket is gone"),
            Self::Io(error) => write!(f, "the keeper's socket: {error}"),
            Self::Codec(error) => write!(f, "a packet on the keeper's socket does not decode: {error}"),
        }
    }
}

impl std::error::Error for ChannelError {}

/// One end of the socket pair. `Out` is what this end sends, `In` what it receives.
#[derive(Debug)]
pub struct Channel<Out, In> {
    socket: OwnedFd,
    types: std::marker::PhantomData<fn(Out) -> In>,
}

/// The daemon's end.
pub type KeeperClient = Channel<ToKeeper, FromKeeper>;

impl<Out: serde::Serialize, In: serde::de::DeserializeOwned> Channel<Out, In> {
    /// Takes one end of a `SOCK_SEQPACKET` pair (non-blocking).
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, types: std::marker::PhantomData }
    }

    /// Sends one packet with descriptors beside it.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] if the other end is gone; [`ChannelError::Io`] with `AGAIN` if its queue is full.
    pub fn send(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        send(&self.socket, message, descriptors)
    }

    /// Receives one packet; `None` if there is none now. Received descriptors are close-on-exec.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] at the end of the stream.
    pub fn receive(&self) -> Result<Option<(In, Vec<OwnedFd>)>, ChannelError> {
        receive(&self.socket, Take::Remove)
    }
}

/// Whether a received packet leaves the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// It does.
    Remove,
    /// It stays first: who is killed while acting on it leaves it to his successor.
    Look,
}

/// [`Channel::send`] on a socket that the caller keeps.
pub(crate) fn send(socket: impl AsFd, message: &impl serde::Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    let bytes = postcard::to_stdvec(message).map_err(ChannelError::Codec)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)).map_err(
        |error| match error {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => ChannelError::Closed,
            error => ChannelError::Io(error),
        },
    )?;
    Ok(())
}

/// [`Channel::receive`] on a socket that the caller keeps.
pub(crate) fn receive<In: serde::de::DeserializeOwned>(socket: impl AsFd, take: Take) -> Result<Option<(In, Vec<OwnedFd>)>, ChannelError> {
    let mut bytes = vec![0_u8; PACKET_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    if take == Take::Look {
        flags |= RecvFlags::PEEK;
    }
    let received = retry_after_reset(|| rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags));
    let length = match received {
        Ok(message) if message.bytes == 0 => return Err(ChannelError::Closed),
        Ok(message) => message.bytes,
        Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(ChannelError::Io(error)),
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    let message = postcard::from_bytes(&bytes[..length]).map_err(ChannelError::Codec)?;
    Ok(Some((message, descriptors)))
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes the first packet out of the queue without looking at it.
pub(crate) fn drop_first(socket: impl AsFd) -> Result<(), Errno> {
    let mut byte = [0_u8; 1];
    retry_after_reset(|| rustix::net::recv(&socket, &mut byte, RecvFlags::DONTWAIT)).map(|_| ())
}

/// A peer that closed with packets of ours unread makes the kernel say ECONNRESET once, before what it had sent itself.
fn retry_after_reset<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR | Errno::CONNRESET) => {}
            other => return other,
        }
    }
}
