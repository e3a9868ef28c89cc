//! Resource limits of a process. Source: getrlimit(2), prlimit(2).

use crate::memory::errno;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A resource limit in its own unit (setrlimit(2)); `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::unsafe_derive_deserialize, reason = "no call relies on what is in it: the kernel refuses what makes no sense")]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: i32,
    /// What holds.
    pub soft: u64,
    /// To what the process may raise it.
    pub hard: u64,
}

/// `RLIMIT_NOFILE`: one more than the highest descriptor number.
pub const NOFILE: i32 = libc::RLIMIT_NOFILE as i32;

impl Rlimit {
    /// The limit of this process.
    ///
    /// # Errors
    /// `EINVAL`: no such resource.
    pub fn current(resource: i32) -> Result<Self, Errno> {
        let mut present = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `present` is writable; a null new limit means: only read. Pid 0 is this process.
        if unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &raw mut present) } < 0 {
            return Err(errno());
        }
        Ok(Self { resource, soft: present.rlim_cur, hard: present.rlim_max })
    }

    /// Makes it this process's, and that of all it starts.
    ///
    /// # Errors
    /// `EPERM`: the hard limit is above the present one, and we lack `CAP_SYS_RESOURCE` (or it is `RLIMIT_NOFILE` above `fs.nr_open`).
    /// `EINVAL`: no such resource, or soft above hard.
    pub fn set(&self) -> Result<(), Errno> {
        let wanted = libc::rlimit64 { rlim_cur: self.soft, rlim_max: self.hard };
        // SAFETY: `wanted` is only read; a null old limit is allowed.
        let result = unsafe { libc::prlimit64(0, self.resource as _, &raw const wanted, std::ptr::null_mut()) };
        if result < 0 { Err(errno()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_what_was_set() {
        let before = Rlimit::current(NOFILE).expect("get");
        let lower = Rlimit { soft: before.soft - 1, ..before };
        lower.set().expect("set");
        assert_eq!(Rlimit::current(NOFILE), Ok(lower));
        before.set().expect("back");
        assert_eq!(Rlimit { soft: 2, hard: 1, ..before }.set(), Err(Errno::INVAL));
        assert_eq!(Rlimit::current(9999).err(), Some(Errno::INVAL));
    }
}
