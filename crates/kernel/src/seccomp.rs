//! seccomp user notification: a filter that makes `bind` and `listen` ask us, and the answering side.
//!
//! Source: [seccomp(2)], [seccomp_unotify(2)], linux/seccomp.h. It refuses to decide anything: who is asked what is the keeper's.
//!
//! [seccomp(2)]: https://man7.org/linux/man-pages/man2/seccomp.2.html
//! [seccomp_unotify(2)]: https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html

use crate::arch::{Convention, NATIVE, SOCKETCALL_BIND, SOCKETCALL_LISTEN, X32};
use crate::memory::{SharedRegion, errno};
use crate::options::OF_LISTENERS;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const SET_MODE_FILTER: libc::c_ulong = 1;
/// Else a kernel before 5.16 turns on mitigations in the service that it did not have without us, and that cost it speed.
const FLAG_SPEC_ALLOW: libc::c_ulong = 1 << 2;
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// Offsets in `struct seccomp_data`.
const DATA_NUMBER: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGUMENTS: u32 = 16;

/// One classic BPF instruction.
pub(crate) fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// The filter program: `bind` and `listen` of these calling conventions notify, all else is allowed. Each audit number has a block of
/// its own, which begins with the system call number and ends with both answers.
fn program(conventions: &[Convention]) -> Vec<libc::sock_filter> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset);
    let equal = |value, then, otherwise| instruction(BPF_JMP | BPF_JEQ | BPF_K, then, otherwise, value);
    let answer = |value| instruction(BPF_RET | BPF_K, 0, 0, value);
    let mut code = vec![load(DATA_ARCH)];
    let audits: BTreeSet<u32> = conventions.iter().map(|convention| convention.audit).collect();
    for audit in audits {
        let ours: Vec<&Convention> = conventions.iter().filter(|convention| convention.audit == audit).collect();
        let mut numbers: Vec<u32> = ours.iter().flat_map(|convention| [convention.bind, convention.listen]).collect();
        let indirect = ours.iter().find_map(|convention| convention.socketcall);
        let mut block = vec![load(DATA_NUMBER)];
        // What follows the direct calls: up to four for an indirect one, then the answer "allowed", then "notify".
        let rest = if indirect.is_some() { 4 } else { 0 };
        while let Some(number) = numbers.pop() {
            block.push(equal(number, (numbers.len() + rest + 1) as u8, 0));
        }
        if let Some(socketcall) = indirect {
            block.push(equal(socketcall, 0, 3));
            block.push(load(DATA_ARGUMENTS)); // its lower half, little endian: all that a 32-bit program has
            block.push(equal(SOCKETCALL_BIND, 2, 0));
            block.push(equal(SOCKETCALL_LISTEN, 1, 0));
        }
        block.extend([answer(RET_ALLOW), answer(RET_USER_NOTIF)]);
        code.push(equal(audit, 0, block.len() as u8));
        code.append(&mut block);
    }
    code.push(answer(RET_ALLOW));
    code
}

/// What lets `setsockopt` notify for [`OF_LISTENERS`] alone, in the native convention; all else goes on behind it. Level and name are compared as
/// one number.
fn options_program() -> Vec<libc::sock_filter> {
    use libc::{BPF_ABS, BPF_ALU, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LSH, BPF_MISC, BPF_OR, BPF_RET, BPF_TAX, BPF_W, BPF_X};
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset);
    let equal = |value, then, otherwise| instruction(BPF_JMP | BPF_JEQ | BPF_K, then, otherwise, value);
    let answer = |value| instruction(BPF_RET | BPF_K, 0, 0, value);
    let mut body = vec![
        load(DATA_ARGUMENTS + 8),
        instruction(BPF_ALU | BPF_LSH | BPF_K, 0, 0, 16),
        instruction(BPF_MISC | BPF_TAX, 0, 0, 0),
        load(DATA_ARGUMENTS + 16),
        instruction(BPF_ALU | BPF_OR | BPF_X, 0, 0, 0),
    ];
    for (left, (level, name, _)) in (1..=OF_LISTENERS.len() as u8).rev().zip(OF_LISTENERS) {
        body.push(equal((level as u32) << 16 | name as u32, left, 0));
    }
    body.extend([answer(RET_ALLOW), answer(RET_USER_NOTIF)]);
    let length = body.len() as u8;
    let mut code = vec![load(DATA_ARCH), equal(NATIVE[0].audit, 0, length + 2), load(DATA_NUMBER), equal(SETSOCKOPT, 0, length)];
    code.append(&mut body);
    code
}

/// The native `setsockopt(2)`.
const SETSOCKOPT: u32 = libc::SYS_setsockopt as u32;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catch {
    /// `bind` and `listen`.
    Listeners,
    /// The options of [`OF_LISTENERS`] as well: for where the socket itself cannot be looked at.
    Options,
}

/// Installs the filter in the calling thread; it and all that it starts will ask the owner of the returned descriptor at
/// every `bind` and `listen`, and at what else is to be caught. Sets `no_new_privs` only if the kernel demands it (no `CAP_SYS_ADMIN`).
///
/// # Errors
/// `EBUSY`: a filter above this one has a listener already. `EINVAL`/`ENOSYS`: no support (Linux ≥ 5.0, not gVisor).
pub fn install(catch: Catch) -> Result<OwnedFd, Errno> {
    // Since 5.19 a signal that the caller handles cannot interrupt a bind that is being answered.
    let install_best = || match install_once(Wait::Killable, catch) {
        Err(Errno::INVAL) => install_once(Wait::Interruptible, catch),
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
pub(crate) fn install_once(wait: Wait, catch: Catch) -> Result<OwnedFd, Errno> {
    let mut instructions = match catch {
        Catch::Listeners => Vec::new(),
        Catch::Options => options_program(),
    };
    instructions.extend(program(NATIVE));
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
    /// The call's first five arguments.
    pub arguments: [u64; 5],
    /// Instead, the first three are 32-bit numbers at this address of the caller's memory, which may change: to be read once.
    pub indirect: Option<u64>,
    /// It was made in the native convention, the one in which options are caught.
    pub native: bool,
}

/// The calls that the filter catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `bind(fd, address, length)`
    Bind,
    /// `listen(fd, backlog)`
    Listen,
    /// `setsockopt(fd, level, name, value, length)`
    SetOption,
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
    let arguments = [word(32), word(40), word(48), word(56), word(64)];
    let (call, indirect) = decode(half(16), half(20), arguments);
    let native = half(20) == NATIVE[0].audit && half(16) & X32 == 0;
    Some(Notification { id: word(0), tid: half(8) as i32, call, arguments, indirect, native })
}

/// What a system call is, by number, audit number and arguments, and where its own arguments are if not there.
fn decode(number: u32, audit: u32, arguments: [u64; 5]) -> (Call, Option<u64>) {
    if (audit, number) == (NATIVE[0].audit, SETSOCKOPT) {
        return (Call::SetOption, None);
    }
    for convention in NATIVE.iter().filter(|convention| convention.audit == audit) {
        if number == convention.bind {
            return (Call::Bind, None);
        }
        if number == convention.listen {
            return (Call::Listen, None);
        }
        if Some(number) == convention.socketcall {
            match arguments[0] as u32 {
                SOCKETCALL_BIND => return (Call::Bind, Some(arguments[1])),
                SOCKETCALL_LISTEN => return (Call::Listen, Some(arguments[1])),
                _ => {}
            }
        }
    }
    (Call::Other(number as i32), None)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{AARCH64, X86_64};

    /// Runs the few instructions that a filter has over `struct seccomp_data`, in which arguments are what `arguments` says.
    fn run(code: &[libc::sock_filter], number: u32, audit: u32, arguments: [u64; 3]) -> u32 {
        use libc::{BPF_ABS, BPF_ALU, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LSH, BPF_MISC, BPF_OR, BPF_RET, BPF_TAX, BPF_W, BPF_X};
        let (load, equal, answer) = ((BPF_LD | BPF_W | BPF_ABS) as u16, (BPF_JMP | BPF_JEQ | BPF_K) as u16, (BPF_RET | BPF_K) as u16);
        let (shift, keep, or) = ((BPF_ALU | BPF_LSH | BPF_K) as u16, (BPF_MISC | BPF_TAX) as u16, (BPF_ALU | BPF_OR | BPF_X) as u16);
        let (mut at, mut accumulator, mut kept) = (0, 0_u32, 0);
        loop {
            let instruction = code[at];
            at += 1;
            match instruction.code {
                code if code == load => {
                    accumulator = match instruction.k {
                        DATA_NUMBER => number,
                        DATA_ARCH => audit,
                        16 => arguments[0] as u32,
                        24 => arguments[1] as u32,
                        32 => arguments[2] as u32,
                        other => panic!("offset {other}"),
                    }
                }
                code if code == equal => at += usize::from(if accumulator == instruction.k { instruction.jt } else { instruction.jf }),
                code if code == shift => accumulator <<= instruction.k,
                code if code == keep => kept = accumulator,
                code if code == or => accumulator |= kept,
                code if code == answer => return instruction.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// With the options caught, all else is as without; of them, exactly those.
    #[test]
    fn exactly_the_options_of_listeners_notify() {
        let (without, with) = (program(NATIVE), [options_program(), program(NATIVE)].concat());
        let audits: Vec<u32> = NATIVE.iter().map(|convention| convention.audit).chain([0]).collect();
        for audit in audits {
            for number in (0..600).filter(|number| (audit, *number) != (NATIVE[0].audit, SETSOCKOPT)) {
                assert_eq!(run(&with, number, audit, [2, 0, 0]), run(&without, number, audit, [2, 0, 0]), "call {number} of {audit:#x}");
            }
        }
        for level in 0..300 {
            for name in 0..300 {
                let ours = OF_LISTENERS.iter().any(|(known, one, _)| (i64::from(*known), i64::from(*one)) == (level, name));
                let wanted = if ours { RET_USER_NOTIF } else { RET_ALLOW };
                let arguments = [7, level as u64, name as u64];
                assert_eq!(run(&with, SETSOCKOPT, NATIVE[0].audit, arguments), wanted, "level {level}, name {name}");
                assert_eq!(run(&without, SETSOCKOPT, NATIVE[0].audit, arguments), RET_ALLOW);
            }
        }
        assert_eq!(decode(SETSOCKOPT, NATIVE[0].audit, [0; 5]), (Call::SetOption, None));
    }

    #[test]
    fn exactly_bind_and_listen_notify_in_every_convention() {
        for conventions in [X86_64, AARCH64] {
            let code = program(conventions);
            let audits = conventions.iter().map(|convention| convention.audit).chain([0, 0xc000_00f3]);
            for audit in audits {
                let known: Vec<&Convention> = conventions.iter().filter(|convention| convention.audit == audit).collect();
                for number in (0..600).flat_map(|number| [number, 0x4000_0000 | number]) {
                    for first in 0..8 {
                        let direct = known.iter().any(|known| number == known.bind || number == known.listen);
                        let indirect = known.iter().any(|known| Some(number) == known.socketcall) && [2, 4].contains(&first);
                        let wanted = if direct || indirect { RET_USER_NOTIF } else { RET_ALLOW };
                        assert_eq!(run(&code, number, audit, [first, 0, 0]), wanted, "call {number:#x} of {audit:#x} with {first}");
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_call_is_known_by_its_convention_and_its_arguments_are_found() {
        let (x86_64, i386) = (0xc000_003e, 0x4000_0003);
        let direct = [3, 4096, 16, 0, 0];
        assert_eq!(decode(49, x86_64, direct), (Call::Bind, None));
        assert_eq!(decode(0x4000_0000 + 50, x86_64, direct), (Call::Listen, None));
        assert_eq!(decode(361, i386, direct), (Call::Bind, None));
        assert_eq!(decode(102, i386, [2, 4096, 16, 0, 0]), (Call::Bind, Some(4096)));
        assert_eq!(decode(102, i386, [4, 4096, 16, 0, 0]), (Call::Listen, Some(4096)));
        assert_eq!(decode(49, i386, direct), (Call::Other(49), None), "another call in that convention");
        assert_eq!(decode(102, i386, [1, 4096, 16, 0, 0]), (Call::Other(102), None));
    }
}
