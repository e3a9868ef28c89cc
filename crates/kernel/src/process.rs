//! Processes: cloning with a shared descriptor table, subreaping, reaping without losing a status, pidfds.
//!
//! Source: clone(2), pidfd_open(2), pidfd_getfd(2), waitid(2), prctl(2).

use crate::memory::errno;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The one that called, with a pidfd of the new one (close-on-exec).
    Parent {
        /// Process id of the child.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
}

/// `fork`, with a pidfd from the start (`CLONE_PIDFD`, Linux 5.2).
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
///
/// # Panics
/// If the process has more than one thread: locks held by the others would stay locked in the child.
pub fn clone() -> Result<Cloned, Errno> {
    let mut pidfd: i32 = -1;
    match raw_clone(libc::CLONE_PIDFD, &mut pidfd)? {
        0 => Ok(Cloned::Child),
        // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
        pid => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// `fork`, but both processes share one descriptor table (`CLONE_FILES`): what either opens or closes, both do, and it outlives each
/// of them. `None` in the child, its pid in the parent.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
///
/// # Panics
/// As [`clone`].
pub fn clone_sharing_descriptors() -> Result<Option<i32>, Errno> {
    let pid = raw_clone(libc::CLONE_FILES, &mut -1)?;
    Ok((pid != 0).then_some(pid))
}

/// As [`clone_sharing_descriptors`], with a pidfd of the new process, which both have: for a helper that is waited for. (`CLONE_PIDFD` is older than
/// `pidfd_open`, and not refused where that is.)
///
/// # Errors
/// As [`clone`].
///
/// # Panics
/// As [`clone`].
pub fn clone_helper() -> Result<Cloned, Errno> {
    let mut pidfd: i32 = -1;
    match raw_clone(libc::CLONE_FILES | libc::CLONE_PIDFD, &mut pidfd)? {
        0 => Ok(Cloned::Child),
        // SAFETY: CLONE_PIDFD stored a new descriptor; the child, which has it as well, knows nothing of it.
        pid => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

fn raw_clone(flags: libc::c_int, pidfd: &mut i32) -> Result<i32, Errno> {
    assert_eq!(threads(), 1, "clone needs a process with a single thread");
    let nothing: libc::c_ulong = 0;
    // Not clone3: a seccomp filter cannot look into its struct, so container runtimes refuse it (Docker's default answers ENOSYS).
    // The flags, stack and third argument stand in this order on every architecture of `arch.rs`; with CLONE_PIDFD the third
    // takes the pidfd.
    // SAFETY:
    // * no CLONE_VM: the child gets a copy of the memory, as with `fork`, and continues on a copy of this stack (stack 0);
    // * the process has one thread (asserted), so no lock is held by a thread that the child lacks;
    // * `pidfd` is writable through the call.
    let result = unsafe {
        let flags = (flags | libc::SIGCHLD) as libc::c_ulong;
        libc::syscall(libc::SYS_clone, flags, nothing, std::ptr::from_mut(pidfd), nothing, nothing)
    };
    if result < 0 { Err(errno()) } else { Ok(result as i32) }
}

/// The directory of our threads has a link from each of them, from itself, and from its parent (fs/proc/base.c).
fn threads() -> usize {
    let links = |directory: rustix::fs::Stat| usize::try_from(directory.st_nlink).unwrap_or(usize::MAX);
    rustix::fs::stat("/proc/self/task").map_or(1, |directory| links(directory).saturating_sub(2))
}

/// Ends the process at once: no destructors, no exit handlers, no flushing. For a clone that must not touch what it shares.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Orphans below this process become its children (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// None known on Linux ≥ 3.4.
pub fn become_subreaper() -> Result<(), Errno> {
    // SAFETY: a number in, nothing out.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// The next child that has ended and is not reaped yet, left as it is: [`reap`] it after what it means is written down, so that
/// a kill between the two loses nothing (our own reaper gets it then). `None`: none, or no children.
///
/// # Errors
/// `EINTR` is retried; others are not known.
pub fn next_ended() -> Result<Option<(i32, Ended)>, Errno> {
    // SAFETY: `siginfo_t` is plain data for which all zero bytes are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is writable and lives through the call.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL) };
        if result < 0 {
            match errno() {
                Errno::INTR => continue,
                Errno::CHILD => return Ok(None),
                error => return Err(error),
            }
        }
        // SAFETY: `waitid` filled the SIGCHLD fields, or left them zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let ended = if info.si_code == libc::CLD_EXITED { Ended::Exited(status) } else { Ended::Signalled(status) };
        return Ok(Some((pid, ended)));
    }
}

/// Whether this child has ended and is not reaped yet.
pub fn has_ended(pid: i32) -> bool {
    // SAFETY: `siginfo_t` is plain data for which all zero bytes are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is writable and lives through the call.
    let result = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, flags) };
    // SAFETY: `waitid` filled the SIGCHLD fields, or left them zero.
    result == 0 && unsafe { info.si_pid() } == pid
}

/// Reaps a child that [`next_ended`] returned.
pub fn reap(pid: i32) {
    // SAFETY: a null status pointer is allowed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
}

/// A descriptor that refers to the process with this id now (`pidfd_open`, Linux 5.3): for [`signal`] and [`duplicate`], and readable when it has ended.
///
/// # Errors
/// `ESRCH`: there is none. `ENOSYS`, `EPERM`: no such call here (an older kernel, or a filter above us).
pub fn pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// A descriptor that refers to the process with this id now, for [`signal`] alone: a pidfd or, where none can be opened, the process's
/// directory in `/proc`, which stands for it as well (pidfd_send_signal(2), Linux 5.1). Only a pidfd becomes readable when the process ends.
///
/// # Errors
/// `ESRCH`: there is none.
pub fn addressee(pid: i32) -> Result<OwnedFd, Errno> {
    match pidfd(pid) {
        Err(Errno::NOSYS | Errno::PERM) => by_directory(pid),
        other => other,
    }
}

fn by_directory(pid: i32) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).map_err(|error| if error == Errno::NOENT { Errno::SRCH } else { error })
}

/// Sends this process a signal when its parent ends (`PR_SET_PDEATHSIG`). A parent that has ended already is not told of: ask for it afterwards.
///
/// # Errors
/// `EINVAL`: no such signal.
pub fn signal_at_parents_end(signal: i32) -> Result<(), Errno> {
    // SAFETY: a number in, nothing out.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// A duplicate of another process's descriptor (`pidfd_getfd`, Linux 5.6), close-on-exec.
///
/// # Errors
/// `EPERM` without ptrace access, `EBADF` if it has no such descriptor, `ESRCH` if it is gone.
pub fn duplicate(pidfd: impl AsFd, number: i32) -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_getfd(pidfd, number, rustix::process::PidfdGetfdFlags::empty())
}

/// Sends a signal to the process that the descriptor refers to, and to no other.
///
/// # Errors
/// `ESRCH`: it is gone. `EINVAL`: no such signal.
pub fn signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    let nothing: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: numbers and a null pointer, which means: as `kill` would.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, nothing, 0) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Signals that arrive by [`signals`] instead of interrupting.
pub const WATCHED: [i32; 7] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain data; `sigemptyset` initialises it, `sigaddset` adds valid numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Blocks the given signals in this thread and returns a descriptor that delivers them (signalfd(2)), non-blocking, close-on-exec.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn signals(signals: &[i32]) -> Result<OwnedFd, Errno> {
    let set = set_of(signals);
    // SAFETY: `set` is initialised; a null old set is allowed.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } < 0 {
        return Err(errno());
    }
    // SAFETY: `set` is initialised.
    let number = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if number < 0 {
        return Err(errno());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The next signal from [`signals`], and whether the kernel itself sent it (`SI_KERNEL`), as it does when a terminal hangs up. The pid of
/// the sender would not tell: it is 0 as well for a process outside of our pid namespace. `None`: there is none now.
///
/// # Errors
/// `EBADF`.
pub fn next_signal(signals: impl AsFd) -> Result<Option<(i32, bool)>, Errno> {
    let mut bytes = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::retry_on_intr(|| rustix::io::read(signals.as_fd(), &mut bytes)) {
        Ok(length) if length == bytes.len() => {
            let field = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
            Ok(Some((field(0) as i32, field(8) as i32 == libc::SI_KERNEL))) // ssi_signo, ssi_code
        }
        Ok(_) | Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ignores the given signals.
pub fn ignore(signals: &[i32]) {
    for signal in signals {
        // SAFETY: SIG_IGN is a valid disposition; no handler of ours is replaced.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Handles a signal by doing nothing, and lets it interrupt system calls (no `SA_RESTART`), as runtimes do that signal themselves.
pub(crate) fn note(signal: i32) {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: `sigaction` is plain data for which all zero bytes are valid (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler touches nothing, so it is safe at any moment; a null old action is allowed.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// As a new program expects it: every signal at its default, none blocked.
pub fn default_signals() {
    for signal in 1..=64 {
        if !matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            // SAFETY: SIG_DFL is a valid disposition. Numbers that libc reserves (32, 33) are refused by it, without harm.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    let none = set_of(&[]);
    // SAFETY: `none` is initialised; a null old set is allowed.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_signals_its_own_process_only() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawn");
        let handle = pidfd(child.id() as i32).expect("pidfd");
        signal(&handle, libc::SIGTERM).expect("signal");
        rustix::event::poll(&mut [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)], None).expect("poll");
        assert!(has_ended(child.id() as i32) && !has_ended(std::process::id() as i32));
        let status = child.wait().expect("wait");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
        assert_eq!(signal(&handle, libc::SIGTERM), Err(Errno::SRCH));
    }

    #[test]
    fn a_directory_in_proc_takes_signals_for_its_process_only() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawn");
        let pid = child.id() as i32;
        let handle = by_directory(pid).expect("open");
        signal(&handle, libc::SIGTERM).expect("signal");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().expect("wait")), Some(libc::SIGTERM));
        assert_eq!(signal(&handle, libc::SIGTERM), Err(Errno::SRCH));
        assert_eq!(by_directory(pid).err(), Some(Errno::SRCH));
    }

    #[test]
    fn a_sender_outside_of_our_pid_namespace_is_not_the_kernel() {
        let watched = signals(&[libc::SIGHUP]).expect("signalfd");
        // What the receiver sees of such a sender: SI_USER, pid 0. To this thread alone, which has the signal blocked.
        // SAFETY: `siginfo_t` is plain data for which all zero bytes are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        (info.si_signo, info.si_code) = (libc::SIGHUP, libc::SI_USER);
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        // SAFETY: `info` is initialised and lives through the call.
        let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, std::process::id(), thread, libc::SIGHUP, &raw const info) };
        assert_eq!(sent, 0);
        assert_eq!(next_signal(&watched), Ok(Some((libc::SIGHUP, false))));
        info.si_code = libc::SI_KERNEL;
        // SAFETY: as above.
        let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, std::process::id(), thread, libc::SIGHUP, &raw const info) };
        assert_eq!(sent, 0);
        assert_eq!(next_signal(&watched), Ok(Some((libc::SIGHUP, true))));
    }

    #[test]
    fn duplicates_are_the_same_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let own = pidfd(std::process::id() as i32).expect("pidfd");
        let copy = duplicate(&own, listener.as_raw_fd()).expect("duplicate");
        assert_eq!(crate::socket::inode(&copy), crate::socket::inode(&listener));
        assert_eq!(duplicate(&own, 9999).err(), Some(Errno::BADF));
    }
}
