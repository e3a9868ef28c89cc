//! The brain's end of the keeper's socket: packets in, packets out, descriptors beside them.
//!
//! A message of more than [`PACKET_MAX`] bytes is put into a sealed memfd, which goes beside a packet of one byte. No message has less
//! than two, so they cannot be confused.
//!
//! It owns the socket and the codec; it refuses to know what the requests mean, and it does no waiting: the caller watches
//! the descriptor ([`std::os::fd::AsFd`]) for readability.

use crate::protocol::{FromKeeper, ToKeeper};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest message in bytes that is a packet of its own: some fit into the kernel's default socket buffer.
pub const PACKET_MAX: usize = 32 * 1024;
/// Largest message in bytes at all: a length beyond it is a mistake.
pub const MESSAGE_MAX: usize = 256 << 20;
/// The packet beside which the message is.
const BESIDE: [u8; 1] = [0xff];
/// Most descriptors beside one packet; one more is the message itself.
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
    /// [`ChannelError::Closed`] if the other end is gone; [`ChannelError::Io`] with `AGAIN` if its queue is full, `MSGSIZE` beyond
    /// [`MESSAGE_MAX`].
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
    let beside = if bytes.len() > PACKET_MAX { Some(sealed(&bytes).map_err(ChannelError::Io)?) } else { None };
    let packet = if beside.is_some() { &BESIDE } else { bytes.as_slice() };
    let descriptors: Vec<BorrowedFd<'_>> = beside.iter().map(AsFd::as_fd).chain(descriptors.iter().copied()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)).map_err(
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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
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
    bytes.truncate(length);
    if bytes == BESIDE && !descriptors.is_empty() {
        bytes = unsealed(&descriptors.remove(0)).map_err(ChannelError::Io)?;
    }
    let message = postcard::from_bytes(&bytes).map_err(ChannelError::Codec)?;
    Ok(Some((message, descriptors)))
}

/// A memory file with these bytes that nobody can change any more.
fn sealed(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    if bytes.len() > MESSAGE_MAX {
        return Err(Errno::MSGSIZE);
    }
    let file = rustix::fs::memfd_create("stayput-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::retry_on_intr(|| rustix::io::write(&file, &bytes[written..]))?;
    }
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// The bytes of such a file. Its offset is not used: it is shared with whoever looks at the packet a second time.
fn unsealed(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let length = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(usize::MAX);
    if length > MESSAGE_MAX {
        return Err(Errno::MSGSIZE);
    }
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut bytes[read..], read as u64))? {
            0 => return Err(Errno::IO), // shorter than it said
            more => read += more,
        }
    }
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Request;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_message_of_any_size_arrives_with_what_is_beside_it_and_can_be_looked_at_first() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).expect("socketpair");
        for size in [1, PACKET_MAX - 64, PACKET_MAX, 5_000_000] {
            let blobs = vec![("web".to_owned(), vec![7; size])];
            let sent = ToKeeper { seq: 3, request: Request::SetBlobs(blobs) };
            let beside: Vec<OwnedFd> = (0..DESCRIPTORS_MAX).map(|_| ours.try_clone().expect("dup")).collect();
            let borrowed: Vec<BorrowedFd<'_>> = beside.iter().map(AsFd::as_fd).collect();
            send(&ours, &sent, &borrowed).expect("send");
            for take in [Take::Look, Take::Remove] {
                let (received, descriptors) = receive::<ToKeeper>(&theirs, take).expect("receive").expect("a packet");
                assert_eq!(received, sent);
                assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
            }
            assert!(receive::<ToKeeper>(&theirs, Take::Look).expect("receive").is_none());
        }
    }

    #[test]
    fn what_is_larger_than_any_message_is_refused() {
        assert_eq!(sealed(&vec![0; MESSAGE_MAX + 1]).map(drop), Err(Errno::MSGSIZE));
    }
}
