//! `struct unix_diag_msg` (linux/unix_diag.h). Total on arbitrary bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::States;
use crate::netlink::{Attributes, u32_at};

// Bits of `udiag_show` and attributes of replies.
const SHOW_NAME: u32 = 0x01;
const SHOW_RQLEN: u32 = 0x10;
const SHOW_UID: u32 = 0x40;
const NAME: u16 = 0;
const RQLEN: u16 = 4;
const UID: u16 = 7;

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// `SOCK_STREAM` 1, `SOCK_DGRAM` 2, `SOCK_SEQPACKET` 5.
    pub kind: u8,
    /// True if it listens.
    pub listening: bool,
    /// Inode in sockfs.
    pub inode: u32,
    /// The path as given to bind(), or the abstract name with its leading NUL; `None` if unbound. May be any bytes.
    pub name: Option<OsString>,
    /// Owner; `None` before Linux 5.3.
    pub uid: Option<u32>,
    /// Listener: connections waiting and the limit.
    pub queue: Option<(u32, u32)>,
}

/// `struct unix_diag_req`.
pub(super) fn encode(states: States) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0];
    out.extend_from_slice(&states.bits().to_ne_bytes());
    out.extend_from_slice(&0_u32.to_ne_bytes());
    out.extend_from_slice(&(SHOW_NAME | SHOW_RQLEN | SHOW_UID).to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out
}

/// Reads one reply. `None` if it is too short or of another family.
pub fn parse_unix(bytes: &[u8]) -> Option<UnixSocket> {
    let head: &[u8; 16] = bytes.first_chunk()?;
    if head[0] != 1 {
        return None;
    }
    let mut socket = UnixSocket {
        kind: head[1],
        listening: head[2] == 10,
        inode: u32_at(head, 4)?,
        name: None,
        uid: None,
        queue: None,
    };
    for (kind, value) in Attributes::new(bytes.get(16..).unwrap_or_default()) {
        match kind {
            NAME => socket.name = Some(OsString::from_vec(name(value).to_vec())),
            RQLEN => socket.queue = u32_at(value, 0).zip(u32_at(value, 4)),
            UID => socket.uid = u32_at(value, 0),
            _ => {}
        }
    }
    Some(socket)
}

/// A path may come with its terminating NUL; an abstract name starts with one and may hold any.
fn name(value: &[u8]) -> &[u8] {
    if value.first() == Some(&0) {
        value
    } else {
        value.strip_suffix(b"\0").unwrap_or(value)
    }
}
