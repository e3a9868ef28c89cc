//! seccomp user notification: a filter that makes `bind` and `listen` ask us, and the answering side.
//!
//! Source: [seccomp(2)], [seccomp_unotify(2)], linux/seccomp.h. It refuses to decide anything: who is asked what is the keeper's.
//!
//! [seccomp(2)]: https://man7.org/linux/man-pages/man2/seccomp.2.html
//! [seccomp_unotify(2)]: https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html

use crate::arch::{Arch, NATIVE};
use crate::memory::{SharedRegion, errno};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const SET_MODE_FILTER: libc::c_ulong = 1;
/// Else a kernel before 5.16 turns on mitigations in the service that it did not have without us, and that cost it speed.
const FLAG_SPEC_ALLOW: libc::c_ulong = 1 << 2;
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// One classic BPF instruction.
pub(crate) fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// The filter program: `bind` and `listen` of the native calling convention notify, all else is allowed.
fn program(arch: Arch) -> [libc::sock_filter; 7] {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let load = BPF_LD | BPF_W | BPF_ABS;
    let equal = BPF_JMP | BPF_JEQ | BPF_K;
    [
        instruction(load, 0, 0, 4), // seccomp_data.arch
        instruction(equal, 0, 3, arch.audit),
        instruction(load, 0, 0, 0), // seccomp_data.nr; x32 numbers have a bit set and match neither
        instruction(equal, 2, 0, arch.bind),
        instruction(equal, 1, 0, arch.listen),
        instruction(BPF_RET | BPF_K, 0, 0, RET_ALLOW),
        instruction(BPF_RET | BPF_K, 0, 0, RET_USER_NOTIF),
    ]
}

/// Installs the filter in the calling thread; it and all that it starts will ask the owner of the returned descriptor at
/// every `bind` and `listen`. Sets `no_new_privs` only if the kernel demands it (no `CAP_SYS_ADMIN`).
///
/// # Errors
/// `EBUSY`: a filter above this one has a listener already. `EINVAL`/`ENOSYS`: no support (Linux ≥ 5.0, not gVisor).
pub fn install() -> Result<OwnedFd, Errno> {
    // Since 5.19 a signal that the caller handles cannot interrupt a bind that is being answered.
    let install_best = || match install_once(Wait::Killable) {
        Err(Errno::INVAL) => install_once(Wait::Interruptible),
        other => other,
    };
    match install_best() {
        Err(Errno::ACCESS) => {
            rustix::thread::set_no_new_privs(true)?;
            install_best()
        }
        other => other,
    }
}

/// Puts the calling process and all that it starts where others put us: below a filter that fails these system calls with `EPERM`, as
/// container runtimes do (`listener` false), or below one that takes the only place of a listener and catches nothing, as another
/// supervisor of our kind does: the place is free again when the returned descriptor is closed. For rehearsals; it cannot be undone.
///
/// # Errors
/// As [`install`].
pub fn rehearse(refused: &[libc::c_long], listener: bool) -> Result<Option<OwnedFd>, Errno> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    const RET_ERRNO: u32 = 0x0005_0000;
    let mut instructions = vec![instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0)];
    for (left, number) in (0..refused.len()).rev().zip(refused) {
        instructions.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, left as u8 + 1, 0, *number as u32));
    }
    instructions.push(instruction(BPF_RET | BPF_K, 0, 0, RET_ALLOW));
    instructions.push(instruction(BPF_RET | BPF_K, 0, 0, RET_ERRNO | libc::EPERM as u32));
    let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_mut_ptr() };
    let flags = if listener { FLAG_NEW_LISTENER } else { 0 };
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: `program` points to live instructions that the kernel copies; the other arguments are numbers.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 {
        return Err(errno());
    }
    // SAFETY: with `FLAG_NEW_LISTENER` it is a new descriptor that nobody else owns.
    Ok(listener.then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }))
}

/// How a caught call waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Once it was received, only a deadly signal ends it (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`).
    Killable,
    /// Each signal that the caller handles ends it with `EINTR`.
    Interruptible,
}

/// Installs the filter in exactly this way, and sets nothing else.
///
/// # Errors
/// As [`install`]; `EACCES`: without `CAP_SYS_ADMIN` it needs `no_new_privs`.
pub(crate) fn install_once(wait: Wait) -> Result<OwnedFd, Errno> {
    let mut instructions = program(NATIVE);
    let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_mut_ptr() };
    let flags = match wait {
        Wait::Killable => FLAG_SPEC_ALLOW | FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV,
        Wait::Interruptible => FLAG_SPEC_ALLOW | FLAG_NEW_LISTENER,
    };
    // SAFETY: `program` points to live instructions that the kernel copies; the other arguments are numbers.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 {
        return Err(errno());
    }
    // SAFETY: `SECCOMP_FILTER_FLAG_NEW_LISTENER` returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// A system call that waits for our answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Cookie of this call; answers name it.
    pub id: u64,
    /// *Thread* id of the caller, in our pid namespace (0: not visible from here).
    pub tid: i32,
    /// Which call.
    pub call: Call,
    /// The call's first three arguments.
    pub arguments: [u64; 3],
}

/// The calls that the filter catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `bind(fd, address, length)`
    Bind,
    /// `listen(fd, backlog)`
    Listen,
    /// Another number: the filter is not ours.
    Other(i32),
}

/// `struct seccomp_notif`: id, pid, flags, then `struct seccomp_data` (nr, arch, ip, args[6]).
const NOTIF_SIZE: usize = 80;
/// Bytes of shared memory that [`receive`] needs.
pub const INBOX_SIZE: usize = NOTIF_SIZE;

const fn ioctl_number(direction: u64, size: u64, number: u64) -> libc::c_ulong {
    (direction << 30) | (size << 16) | ((b'!' as u64) << 8) | number
}
const IOCTL_RECV: libc::c_ulong = ioctl_number(3, NOTIF_SIZE as u64, 0);
const IOCTL_SEND: libc::c_ulong = ioctl_number(3, 24, 1);
const IOCTL_ID_VALID: libc::c_ulong = ioctl_number(1, 8, 2);
const IOCTL_ADDFD: libc::c_ulong = ioctl_number(1, 24, 3);

/// Takes the next waiting call. The kernel writes it into `region` at `offset`, so that a successor of a process that is
/// killed right after still finds the id there ([`peek`]): a call that was received is not notified again.
///
/// # Errors
/// `ENOENT`: the caller was interrupted or killed meanwhile (normal). `EAGAIN`/`EINTR`.
pub fn receive(listener: impl AsFd, region: SharedRegion, offset: usize) -> Result<Option<Notification>, Errno> {
    clear(region, offset);
    // SAFETY: `slot` checks that the kernel's 80 bytes lie within the region.
    let result = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), IOCTL_RECV, region.slot(offset, NOTIF_SIZE)) };
    if result < 0 {
        let error = errno();
        clear(region, offset);
        return Err(error);
    }
    Ok(peek(region, offset))
}

/// The call that was received into the slot and not yet cleared.
pub fn peek(region: SharedRegion, offset: usize) -> Option<Notification> {
    let bytes = region.read(offset, NOTIF_SIZE);
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let half = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    if word(0) == 0 {
        return None;
    }
    let call = match half(16) {
        number if number == NATIVE.bind => Call::Bind,
        number if number == NATIVE.listen => Call::Listen,
        number => Call::Other(number as i32),
    };
    Some(Notification { id: word(0), tid: half(8) as i32, call, arguments: [word(32), word(40), word(48)] })
}

/// Marks the slot as empty: the call in it was answered and what came of it is written down. The kernel wants zeroes there.
pub fn clear(region: SharedRegion, offset: usize) {
    region.write(offset, &[0; NOTIF_SIZE]);
}

/// Whether the caller still waits: to be asked after its memory or descriptors were read, before they are believed.
pub fn id_valid(listener: impl AsFd, id: u64) -> bool {
    // SAFETY: the kernel reads eight bytes of `id`.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), IOCTL_ID_VALID, &raw const id) == 0 }
}

/// An answer to a waiting call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It returns 0.
    Success,
    /// It fails with this error.
    Error(Errno),
    /// The kernel carries it out as it is. Only for calls that were not judged by their memory: it can change.
    Continue,
}

/// Answers a waiting call.
///
/// # Errors
/// `ENOENT`: it does not wait any more (normal).
pub fn answer(listener: impl AsFd, id: u64, answer: Answer) -> Result<(), Errno> {
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    let (error, flags) = match answer {
        Answer::Success => (0, 0),
        Answer::Error(error) => (-error.raw_os_error(), 0),
        Answer::Continue => (0, 1),
    };
    let mut response = Response { id, value: 0, error, flags };
    // SAFETY: `response` has the layout of `struct seccomp_notif_resp` and lives through the call.
    let result = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), IOCTL_SEND, &raw mut response) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Puts our descriptor in the place of the caller's `number`, as `dup2` would. The call still waits for its answer
/// (`SECCOMP_ADDFD_FLAG_SEND` would make `bind` return the number).
///
/// # Errors
/// `ENOENT`: the caller does not wait any more. `EINVAL`: Linux before 5.9.
pub fn replace_descriptor(listener: impl AsFd, id: u64, ours: impl AsFd, number: i32, close_on_exec: bool) -> Result<(), Errno> {
    #[repr(C)]
    struct AddFd {
        id: u64,
        flags: u32,
        source: u32,
        target: u32,
        target_flags: u32,
    }
    const SET_FD: u32 = 1;
    let request = AddFd {
        id,
        flags: SET_FD,
        source: ours.as_fd().as_raw_fd() as u32,
        target: number as u32,
        target_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: `request` has the layout of `struct seccomp_notif_addfd` and lives through the call.
    let result = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), IOCTL_ADDFD, &raw const request) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}
