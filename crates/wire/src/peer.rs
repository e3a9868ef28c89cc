//! Who is at the other end of the control socket.
//!
//! The directory already keeps other users out. This is the second lock on the door, for a socket whose directory was opened up,
//! and for a client that follows a path into somebody else's socket.

use rustix::io::Errno;
use std::os::fd::AsFd;

/// Why the other side is not spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerError {
    /// `getsockopt(SO_PEERCRED)` failed, or the other side lives in a PID namespace where it has no id of ours.
    Unknown(Errno),
    /// It belongs to this user, who is neither root nor us.
    Stranger {
        /// User id of the other side.
        uid: u32,
    },
}

impl std::fmt::Display for PeerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(error) => write!(f, "getsockopt SO_PEERCRED on the control socket: {error}"),
            Self::Stranger { uid } => write!(f, "the other side of the control socket belongs to user id {uid}"),
        }
    }
}

impl std::error::Error for PeerError {}

/// Who the other side is, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// The process that connected, or listened.
    pub pid: i32,
}

/// Asks the kernel who is at the other end (unix(7), `SO_PEERCRED`: as of `connect` for a client, as of `listen` for a server), and
/// refuses everyone but root and our own effective user.
///
/// # Errors
/// [`PeerError`]; the connection is to be closed.
pub fn check(socket: impl AsFd) -> Result<Peer, PeerError> {
    // A peer without a process id here (another PID namespace) reads as an error: refused, which is the safe side.
    let credentials = rustix::net::sockopt::socket_peercred(socket).map_err(PeerError::Unknown)?;
    allowed(credentials.uid.as_raw(), rustix::process::geteuid().as_raw())?;
    Ok(Peer { uid: credentials.uid.as_raw(), pid: credentials.pid.as_raw_nonzero().get() })
}

fn allowed(uid: u32, ours: u32) -> Result<(), PeerError> {
    if uid == ours || uid == 0 { Ok(()) } else { Err(PeerError::Stranger { uid }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_oneself_may_speak_and_nobody_else() {
        assert_eq!(allowed(1000, 1000), Ok(()));
        assert_eq!(allowed(0, 1000), Ok(()));
        assert_eq!(allowed(1001, 1000), Err(PeerError::Stranger { uid: 1001 }));
        assert_eq!(allowed(1000, 0), Err(PeerError::Stranger { uid: 1000 }));
    }

    #[test]
    fn the_kernel_is_asked() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (uid, pid) = (rustix::process::geteuid().as_raw(), rustix::process::getpid().as_raw_nonzero().get());
        assert_eq!(check(&one), Ok(Peer { uid, pid }));
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert_eq!(check(&file), Err(PeerError::Unknown(Errno::NOTSOCK)));
    }
}
