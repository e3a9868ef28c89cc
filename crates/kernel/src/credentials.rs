//! Users and capabilities of a process: becoming somebody else for good, and what a thread may do.
//!
//! Source: credentials(7), setresuid(2), setgroups(2), capabilities(7), capget(2).

use crate::memory::errno;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// A user by number: user id, group id and supplementary groups of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Those of the calling thread, if its real, effective and saved ids are the same.
    ///
    /// # Errors
    /// `EPERM`: they differ, as in a setuid program. Those of `getgroups(2)`.
    pub fn current() -> Result<Self, Errno> {
        let (mut uids, mut gids) = ([0; 3], [0; 3]);
        let [real, effective, saved] = &mut uids;
        // SAFETY: three writable numbers.
        if unsafe { libc::getresuid(real, effective, saved) } < 0 {
            return Err(errno());
        }
        let [real, effective, saved] = &mut gids;
        // SAFETY: three writable numbers.
        if unsafe { libc::getresgid(real, effective, saved) } < 0 {
            return Err(errno());
        }
        if uids != [uids[0]; 3] || gids != [gids[0]; 3] {
            return Err(Errno::PERM);
        }
        let mut groups: Vec<u32> = rustix::process::getgroups()?.into_iter().map(Gid::as_raw).collect();
        groups.sort_unstable();
        groups.dedup();
        Ok(Self { uid: uids[0], gid: gids[0], groups })
    }

    /// Makes them the calling thread's, for good, and looks whether they are: the order is groups, group, user, because each step takes the
    /// right to the one before it. What is left to an ordinary user of rights (capabilities, a way back to the user before) is an error.
    /// To be called in a process with a single thread.
    ///
    /// # Errors
    /// `EPERM`: no right to, or the look found something else. `EINVAL`: an id that this user namespace does not know.
    pub fn assume(&self) -> Result<(), Errno> {
        if self.uid == u32::MAX || self.gid == u32::MAX || self.groups.contains(&u32::MAX) {
            return Err(Errno::INVAL); // to the kernel it means: leave as it is
        }
        let before = rustix::process::getuid();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        self.verify(before)
    }

    fn verify(&self, before: Uid) -> Result<(), Errno> {
        let mut wanted = self.clone();
        wanted.groups.sort_unstable();
        wanted.groups.dedup();
        if Self::current()? != wanted {
            return Err(Errno::PERM);
        }
        if self.uid == 0 {
            return Ok(());
        }
        let way_back = self.uid != before.as_raw() && rustix::thread::set_thread_res_uid(before, before, before).is_ok();
        if way_back || capabilities()? != (Capabilities { effective: 0, permitted: 0 }) {
            return Err(Errno::PERM);
        }
        Ok(())
    }
}

/// Capability sets of a thread, a bit for each capability (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What is checked.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
}

/// `CAP_NET_BIND_SERVICE`: ports below `net.ipv4.ip_unprivileged_port_start`.
pub const CAP_NET_BIND_SERVICE: u32 = 10;
/// `CAP_SYS_PTRACE`: reaching into processes of other users.
pub const CAP_SYS_PTRACE: u32 = 19;
/// `CAP_SYS_RESOURCE`: raising hard resource limits.
pub const CAP_SYS_RESOURCE: u32 = 24;

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn halves() -> Result<[Half; 2], Errno> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Half::default(); 2];
    // SAFETY: a header and, as version 3 demands, two data structs of the kernel's layout, writable through the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if result < 0 { Err(errno()) } else { Ok(data) }
}

/// The capabilities of the calling thread.
///
/// # Errors
/// None known on Linux ≥ 2.6.26.
pub fn capabilities() -> Result<Capabilities, Errno> {
    let [low, high] = halves()?;
    let whole = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Capabilities { effective: whole(low.effective, high.effective), permitted: whole(low.permitted, high.permitted) })
}

/// Whether the calling thread has a capability that is in effect.
pub fn has_capability(capability: u32) -> bool {
    capabilities().is_ok_and(|own| own.effective >> capability & 1 == 1)
}

/// Gives up capabilities of the calling thread and of all that it starts, root included: out of the bounding set and out of its own
/// sets. To be without a right is what a container's processes are.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn give_up(capabilities: &[u32]) -> Result<(), Errno> {
    for capability in capabilities {
        // SAFETY: numbers in, nothing out.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(*capability), 0, 0, 0) } < 0 {
            return Err(errno());
        }
    }
    let mut data = halves()?;
    for capability in capabilities {
        let half = &mut data[(*capability / 32) as usize & 1];
        let others = !(1 << (capability % 32));
        half.effective &= others;
        half.permitted &= others;
        half.inheritable &= others;
    }
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: as in `halves`; the kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Whether others of the same user may reach into this process (`PR_SET_DUMPABLE`). Executing a program sets it to yes.
///
/// # Errors
/// None known.
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    // SAFETY: numbers in, nothing out.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) } < 0 { Err(errno()) } else { Ok(()) }
}
