//! Netlink sockets: one request, its replies, and the framing of both.
//!
//! Owns the message and attribute framing of netlink(7) (RFC 3549) and the loop that reads a dump to its end.
//! Knows nothing of what a payload means: see [`crate::sock_diag`].
//! Every parser here is total: arbitrary bytes give fewer items, never a panic.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLM_F_REQUEST`: every message from user space has it.
pub const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`: answer with an error message, code 0 when all went well.
pub const ACK: u16 = 0x04;
/// `NLM_F_ROOT | NLM_F_MATCH`: everything that matches.
pub const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: the tables changed while the dump ran; it may lack or repeat entries.
const DUMP_INTERRUPTED: u16 = 0x10;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
/// Large enough for the biggest skb that a dump uses (32 KiB, `NLMSG_GOODSIZE` doubled for those who ask with a big buffer).
const BUFFER: usize = 64 * 1024;

/// What went wrong on a netlink socket.
#[derive(Debug)]
pub enum Error {
    /// A system call on the socket failed.
    Call {
        /// Which call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// The kernel answered the request with an error.
    Refused {
        /// What was asked.
        what: &'static str,
        /// The errno in the reply.
        source: io::Error,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call { call, source } => write!(f, "netlink socket: {call}: {source}"),
            Self::Refused { what, source } => write!(f, "the kernel refused to {what}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Call { source, .. } | Self::Refused { source, .. } => Some(source),
        }
    }
}

impl Error {
    /// The errno, from the call or from the kernel's reply.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
        }
    }
}

fn call(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |errno| Error::Call {
        call,
        source: errno.into(),
    }
}

/// One netlink message, borrowed from a receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: that of the request it answers, 0 for a multicast event.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages in a datagram. Stops at the first header that does not fit.
#[derive(Debug, Clone)]
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// The messages in `bytes`, as received.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER)?;
        let length = u32_at(header, 0)? as usize;
        let payload = self.0.get(HEADER..length)?;
        let message = Message {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            sequence: u32_at(header, 8)?,
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes (`struct nlattr`) in a payload's tail, as (type, value). Stops at the first that does not fit.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        // The two top bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The native-endian u16 at `offset`, if it is there.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The native-endian u32 at `offset`, if it is there.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The native-endian u64 at `offset`, if it is there.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Appends one attribute, padded to four bytes.
pub fn push_attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    buffer.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// How complete a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dump {
    /// The kernel walked its tables without a change in between.
    Consistent,
    /// The tables changed while the kernel walked them (`NLM_F_DUMP_INTR`): entries may be missing or double.
    Interrupted,
}

/// A netlink socket of the family `NETLINK_SOCK_DIAG`.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netlink {
    /// Opens a socket; `groups` is the mask of multicast groups to join (bit n-1 for group n), 0 for requests only.
    ///
    /// # Errors
    /// socket(2) or bind(2) failed: out of fds, or a sandbox without netlink.
    pub fn open(groups: u32) -> Result<Self, Error> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(SOCK_DIAG),
        )
        .map_err(call("socket"))?;
        bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(call("bind"))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Sends one request.
    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend_from_slice(&((HEADER + payload.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(payload);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| sendto(&self.fd, &message, SendFlags::empty(), &kernel))
            .map_err(call("sendto"))?;
        Ok(())
    }

    /// Reads one datagram; returns its length in the buffer.
    fn receive(&mut self, flags: RecvFlags) -> Result<usize, Error> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC) {
                // Cannot happen with a dump (32 KiB at most); said aloud rather than parsed in half.
                Ok((read, whole)) if whole > read => {
                    return Err(call("recv")(rustix::io::Errno::MSGSIZE));
                }
                Ok((read, _)) => return Ok(read),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(call("recv")(errno)),
            }
        }
    }

    /// Sends a dump request and hands every reply to `on`, until the kernel says it is done.
    ///
    /// `what` completes "the kernel refused to …" in an error.
    ///
    /// # Errors
    /// A call failed, or the kernel refused the request (ENOENT or EINVAL: it lacks this diagnostic).
    pub fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        payload: &[u8],
        mut on: impl FnMut(Message<'_>),
    ) -> Result<Dump, Error> {
        self.send(kind, DUMP, payload)?;
        let mut state = Dump::Consistent;
        loop {
            let read = self.receive(RecvFlags::empty())?;
            for message in Messages::new(self.buffer.get(..read).unwrap_or_default()) {
                if message.sequence != self.sequence {
                    continue;
                }
                if message.flags & DUMP_INTERRUPTED != 0 {
                    state = Dump::Interrupted;
                }
                match message.kind {
                    TYPE_DONE | TYPE_ERROR => {
                        return reply_code(what, message.payload).map(|()| state);
                    }
                    _ => on(message),
                }
            }
        }
    }

    /// Sends a request and waits for its acknowledgement.
    ///
    /// # Errors
    /// A call failed, or the kernel refused: the reply's errno.
    pub fn request(&mut self, what: &'static str, kind: u16, payload: &[u8]) -> Result<(), Error> {
        self.send(kind, ACK, payload)?;
        loop {
            let read = self.receive(RecvFlags::empty())?;
            for message in Messages::new(self.buffer.get(..read).unwrap_or_default()) {
                if message.sequence == self.sequence && message.kind == TYPE_ERROR {
                    return reply_code(what, message.payload);
                }
            }
        }
    }

    /// Reads what has arrived without waiting and hands every message to `on`; false if nothing was there.
    ///
    /// # Errors
    /// recv(2) failed. `ENOBUFS` means that events were lost because nobody read them in time.
    pub fn poll_events(&mut self, mut on: impl FnMut(Message<'_>)) -> Result<bool, Error> {
        match self.receive(RecvFlags::DONTWAIT) {
            Ok(read) => {
                Messages::new(self.buffer.get(..read).unwrap_or_default()).for_each(&mut on);
                Ok(true)
            }
            Err(Error::Call { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// The result in an `NLMSG_ERROR` or `NLMSG_DONE` payload: a negative errno, or 0.
fn reply_code(what: &'static str, payload: &[u8]) -> Result<(), Error> {
    match u32_at(payload, 0).unwrap_or(0) as i32 {
        0 => Ok(()),
        code => Err(Error::Refused {
            what,
            source: io::Error::from_raw_os_error(code.saturating_abs()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_round_trip() {
        let mut buffer = Vec::new();
        push_attribute(&mut buffer, 3, &[1, 2, 3]);
        push_attribute(&mut buffer, 9, &[]);
        push_attribute(&mut buffer, 4, &[7; 8]);
        let read: Vec<_> = Attributes::new(&buffer).collect();
        assert_eq!(
            read,
            vec![(3, &[1, 2, 3][..]), (9, &[][..]), (4, &[7; 8][..])]
        );
    }

    #[test]
    fn an_unknown_request_is_refused_by_name() {
        let mut netlink = Netlink::open(0).unwrap();
        let error = netlink
            .request("do the impossible", 99, &[0; 56])
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the kernel refused to do the impossible"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn framing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            for message in Messages::new(&bytes) {
                prop_assert!(message.payload.len() < bytes.len());
                Attributes::new(message.payload).for_each(drop);
                let _ = reply_code("x", message.payload);
            }
            let items = Attributes::new(&bytes).count();
            prop_assert!(items <= bytes.len() / 4);
        }
    }
}
