//! The steps between `fork` and the command, taken in the child; each failure is reported with its step.

use crate::credentials::Credentials;
use crate::limits::Rlimit;
use crate::memory::errno;
use crate::seccomp::Catch;
use crate::{process, seccomp};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The steps, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// A session of its own, default signals.
    Session,
    /// Standard input, output and error, and inherited descriptors.
    Stdio,
    /// File mode creation mask and resource limits.
    Limits,
    /// The sockets that are passed where no filter could be installed.
    Filter,
    /// Groups and user.
    Credentials,
    /// `chdir`, with the rights of the user.
    WorkingDirectory,
    /// `execve`.
    Exec,
}

const STAGES: [Stage; 7] =
    [Stage::Session, Stage::Stdio, Stage::Limits, Stage::Filter, Stage::Credentials, Stage::WorkingDirectory, Stage::Exec];

/// Sockets that a child gets from its parent, and what it executes then.
#[derive(Debug)]
pub struct Passed {
    /// Ask for them even if the filter is in.
    pub always: bool,
    /// How many there will be: descriptors 3, 4, ….
    pub count: usize,
    /// Arguments, instead of [`Exec::argv`].
    pub argv: Vec<CString>,
    /// The whole environment, instead of [`Exec::env`]. `NAME=` of a name in [`PIDS`] is completed by the child.
    pub env: Vec<CString>,
}

/// Variables whose values only the child knows: its process id, and that of its parent.
pub const PIDS: [&str; 2] = ["LISTEN_PID=", "EINHORN_MASTER_PID="];

/// What to execute, and with what.
#[derive(Debug)]
pub struct Exec<'fd> {
    /// Files to try in this order; only `ENOENT`, `ENOTDIR` and `EACCES` lead to the next.
    pub candidates: Vec<CString>,
    /// Arguments, the first being the name.
    pub argv: Vec<CString>,
    /// The whole environment.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// Descriptors for 0, 1, 2, 3, …: at least three. All others are closed at `execve`.
    pub descriptors: Vec<BorrowedFd<'fd>>,
    /// Catch `bind` and `listen`.
    pub trap: bool,
    /// The door of a cgroup to go through first. One that does not open is passed by.
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// File mode creation mask; `None`: as it is.
    pub umask: Option<u32>,
    /// Resource limits to set.
    pub rlimits: Vec<Rlimit>,
    /// The user to become; `None`: as it is.
    pub credentials: Option<Credentials>,
    /// Sockets to ask for; [`Report::Asks`] follows.
    pub passed: Option<Passed>,
}

/// What a child tells over its report socket (`SOCK_SEQPACKET`). The end of the stream means: executed.
#[derive(Debug)]
pub enum Report {
    /// The filter is in; this descriptor answers its calls; whether options of sockets are among them ([`Catch::Options`]).
    Trapped(OwnedFd, bool),
    /// The filter could not be installed; the command runs without. True: [`Report::Asks`] follows.
    NotTrapped(Errno, bool),
    /// It waits for the sockets ([`pass`]).
    Asks,
    /// A step failed; the child has exited. The number is the resource whose limit could not be set.
    Failed(Stage, Errno, i32),
}

/// The files that a command name may mean: itself if it has a slash, else one in each directory of `path`.
pub fn candidates(command: &[u8], path: &[u8]) -> Vec<CString> {
    if command.contains(&b'/') {
        return CString::new(command).into_iter().collect();
    }
    let directories = path.split(|byte| *byte == b':').map(|directory| if directory.is_empty() { b"." } else { directory });
    directories.filter_map(|directory| CString::new([directory, b"/", command].concat()).ok()).collect()
}

/// Becomes the command; to be called in a child made by [`process::clone`]. Never returns: it is executed, or the child
/// reports a [`Report::Failed`] and exits with 127.
pub fn exec(exec: &Exec<'_>, report: BorrowedFd<'_>) -> ! {
    // Above every number that is about to be assigned.
    let floor = (exec.descriptors.len() + exec.passed.as_ref().map_or(0, |passed| passed.count)) as i32 + 3;
    let Ok(report) = rustix::io::fcntl_dupfd_cloexec(report, floor) else { process::exit_now(127) };
    let (stage, error, detail) = match steps(exec, &report, floor) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    send(&report, &encode(b'F', stage as u8, error, detail), None);
    process::exit_now(127)
}

/// Step, error, and for [`Stage::Limits`] the resource (-1: the mask).
type Failed = (Stage, Errno, i32);

fn steps(exec: &Exec<'_>, report: &OwnedFd, floor: i32) -> Result<std::convert::Infallible, Failed> {
    let at = |stage: Stage| move |error: Errno| (stage, error, 0);
    process::default_signals();
    if let Some(door) = exec.cgroup {
        let _ = rustix::io::write(door, b"0");
    }
    rustix::process::setsid().map_err(at(Stage::Session))?;
    place(&exec.descriptors, floor).map_err(at(Stage::Stdio))?;
    if let Some(mask) = exec.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    // Before the user changes: who has the right to needs no no_new_privs for it.
    let mut asks = exec.passed.as_ref().is_some_and(|passed| passed.always);
    if exec.trap {
        // Where nobody may look at its sockets, what it sets of them is to be seen.
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let blind = process::pidfd(own).and_then(|own| process::duplicate(&own, 0)).is_err();
        match seccomp::install(if blind { Catch::Options } else { Catch::Listeners }) {
            Ok(listener) => send(report, &encode(b'T', 0, Errno::from_raw_os_error(1), i32::from(blind)), Some(listener.as_fd())),
            Err(error) => {
                asks = exec.passed.is_some();
                send(report, &encode(b'N', 0, error, i32::from(asks)), None);
            }
        }
    }
    let passed = exec.passed.as_ref().filter(|_| asks);
    if let Some(passed) = passed {
        take_passed(passed, report, floor).map_err(at(Stage::Filter))?;
    }
    // After the filter: the descriptor that answers it gets a number above all of the keeper's, which are still open here, and the command's own
    // limit may be lower.
    for limit in &exec.rlimits {
        limit.set().map_err(|error| (Stage::Limits, error, limit.resource))?;
    }
    if let Some(credentials) = &exec.credentials {
        credentials.assume().map_err(at(Stage::Credentials))?;
    }
    rustix::process::chdir(exec.cwd.as_c_str()).map_err(at(Stage::WorkingDirectory))?;
    Err(at(Stage::Exec)(match passed {
        Some(passed) => execve(&exec.candidates, &passed.argv, &with_pids(&passed.env)),
        None => execve(&exec.candidates, &exec.argv, &exec.env),
    }))
}

/// Asks for the sockets, waits for them, and puts them at 3, 4, ….
fn take_passed(passed: &Passed, report: &OwnedFd, floor: i32) -> Result<(), Errno> {
    send(report, &encode(b'A', 0, Errno::from_raw_os_error(1), 0), None);
    rustix::event::poll(&mut [rustix::event::PollFd::new(report, rustix::event::PollFlags::IN)], None)?;
    let (refused, sockets) = receive_passed(report)?;
    if let Some(error) = refused {
        return Err(error);
    }
    if sockets.len() != passed.count {
        return Err(Errno::PROTO);
    }
    let moved: Vec<OwnedFd> = sockets.iter().map(|socket| rustix::io::fcntl_dupfd_cloexec(socket, floor)).collect::<Result<_, _>>()?;
    drop(sockets);
    for (number, socket) in (3..).zip(&moved) {
        // SAFETY: dup2 takes numbers; nothing that is used in this process again is at `number`: all that is, is above `floor`.
        if unsafe { libc::dup2(socket.as_raw_fd(), number) } < 0 {
            return Err(errno());
        }
    }
    Ok(())
}

fn with_pids(env: &[CString]) -> Vec<CString> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let complete = |entry: &CString| {
        let at = PIDS.iter().position(|name| entry.as_bytes() == name.as_bytes())?;
        CString::new(format!("{}{}", PIDS[at], [own, parent][at])).ok()
    };
    env.iter().map(|entry| complete(entry).unwrap_or_else(|| entry.clone())).collect()
}

/// linux/close_range.h
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Puts the descriptors at 0, 1, 2, … and marks all above as close-on-exec, whoever opened them.
fn place(descriptors: &[BorrowedFd<'_>], floor: i32) -> Result<(), Errno> {
    // First out of the way of each other, then to their places.
    let moved: Vec<OwnedFd> =
        descriptors.iter().map(|descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, floor)).collect::<Result<_, _>>()?;
    for (number, descriptor) in moved.iter().enumerate() {
        // SAFETY: dup2 takes numbers; what it replaces at `number` is not owned by any value that is used in this process again.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), number as i32) } < 0 {
            return Err(errno());
        }
    }
    // Linux before 5.11 lacks it: what we opened ourselves is marked already.
    let _ = close_on_exec_from(descriptors.len() as u32);
    Ok(())
}

/// Marks this descriptor number and all above as close-on-exec (close_range(2), Linux 5.11 with the flag).
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: marks descriptors, closes none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Tries the candidates; returns only with an error: the first that says more than "not there", as the shell does.
fn execve(candidates: &[CString], argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    let mut result = Errno::NOENT;
    for candidate in candidates {
        // SAFETY: null-terminated arrays of null-terminated strings that live until the process image is replaced.
        unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        match errno() {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => result = Errno::ACCESS,
            error => return error,
        }
    }
    result
}

/// What a name resolves to without executing it: the first candidate that is an executable file.
///
/// # Errors
/// `ENOENT`: none exists. `EACCES`: one exists and is no executable file.
pub fn resolve(command: &[u8], path: &[u8], cwd: &Path) -> Result<std::path::PathBuf, Errno> {
    use std::os::unix::ffi::OsStrExt;
    let mut result = Errno::NOENT;
    for candidate in candidates(command, path) {
        let file = cwd.join(std::ffi::OsStr::from_bytes(candidate.as_bytes()));
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() && rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok() => return Ok(file),
            Ok(_) => result = Errno::ACCESS,
            Err(_) => {}
        }
    }
    Err(result)
}

const PACKET: usize = 10;

fn encode(kind: u8, stage: u8, error: Errno, detail: i32) -> [u8; PACKET] {
    let mut packet = [kind, stage, 0, 0, 0, 0, 0, 0, 0, 0];
    packet[2..6].copy_from_slice(&error.raw_os_error().to_ne_bytes());
    packet[6..].copy_from_slice(&detail.to_ne_bytes());
    packet
}

/// Most sockets that are passed to one child.
pub const PASSED_MAX: usize = 64;

/// Gives a child that asked the sockets, or the error for which it gets none.
///
/// # Errors
/// Those of `sendmsg(2)`: the child is gone.
pub fn pass(report: impl AsFd, sockets: Result<&[BorrowedFd<'_>], Errno>) -> Result<(), Errno> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let error = sockets.err().map_or(0, Errno::raw_os_error);
    if let Ok(sockets) = sockets
        && !control.push(SendAncillaryMessage::ScmRights(sockets))
    {
        return Err(Errno::TOOBIG);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(report, &[IoSlice::new(&error.to_ne_bytes())], &mut control, flags).map(|_| ())
}

fn receive_passed(report: &OwnedFd) -> Result<(Option<Errno>, Vec<OwnedFd>), Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut bytes = [0_u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [std::io::IoSliceMut::new(&mut bytes)];
    if recvmsg(report, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes != 4 {
        return Err(Errno::PIPE); // nobody is there to give any
    }
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            sockets.extend(passed);
        }
    }
    let error = i32::from_ne_bytes(bytes);
    Ok(((error != 0).then(|| Errno::from_raw_os_error(error)), sockets))
}

fn send(report: &OwnedFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    // If it fails the reader is gone, and with it everybody who could be told.
    let _ = sendmsg(report, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
}

/// Reads one report. `Ok(None)`: nothing there now. `Ok(Some(None))`: the command was executed (or the child was killed).
///
/// # Errors
/// `EIO` if the packet is not one of ours; those of `recvmsg(2)`.
pub fn receive(report: impl AsFd) -> Result<Option<Option<Report>>, Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut bytes = [0_u8; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [std::io::IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let length = match rustix::io::retry_on_intr(|| recvmsg(&report, &mut buffers, &mut control, flags)) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN) => return Ok(None),
        Err(Errno::CONNRESET) => 0,
        Err(error) => return Err(error),
    };
    if length == 0 {
        return Ok(Some(None));
    }
    let listener = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    });
    let number = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (error, detail) = (Errno::from_raw_os_error(number(2)), number(6));
    match (bytes[0], listener) {
        (b'T', Some(listener)) => Ok(Some(Some(Report::Trapped(listener, detail != 0)))),
        (b'N', None) => Ok(Some(Some(Report::NotTrapped(error, detail != 0)))),
        (b'A', None) => Ok(Some(Some(Report::Asks))),
        (b'F', None) => Ok(Some(Some(Report::Failed(*STAGES.get(bytes[1] as usize).ok_or(Errno::IO)?, error, detail)))),
        _ => Err(Errno::IO),
    }
}

/// Strings for `execve` from bytes.
///
/// # Errors
/// `EINVAL` if one has a NUL within.
pub fn c_strings(strings: &[Vec<u8>]) -> Result<Vec<CString>, Errno> {
    strings.iter().map(|string| CString::new(string.as_slice()).map_err(|_| Errno::INVAL)).collect()
}

/// The value of a variable in an environment of `NAME=value` strings.
pub fn variable<'env>(env: &'env [CString], name: &str) -> Option<&'env [u8]> {
    env.iter().map(CString::as_c_str).map(CStr::to_bytes).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Takes over a descriptor that the parent process left open at this number, and marks it close-on-exec.
///
/// # Errors
/// `EBADF`: there is none.
pub fn inherited(number: i32) -> Result<OwnedFd, Errno> {
    let descriptor = crate::table::TableFd::from_number(number)?;
    rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: open (just checked); the caller is the program that was executed with this descriptor for its use.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_as_a_shell_does() {
        let names = |command: &[u8]| -> Vec<String> {
            candidates(command, b"/bin::/usr/bin").into_iter().map(|name| name.into_string().expect("utf-8")).collect()
        };
        assert_eq!(names(b"sh"), ["/bin/sh", "./sh", "/usr/bin/sh"]);
        assert_eq!(names(b"./sh"), ["./sh"]);
        assert_eq!(resolve(b"sh", b"/nowhere:/bin", Path::new("/")), Ok("/bin/sh".into()));
        assert_eq!(resolve(b"no-such-command", b"/bin", Path::new("/")), Err(Errno::NOENT));
        assert_eq!(resolve(b"/etc/passwd", b"", Path::new("/")), Err(Errno::ACCESS));
        assert_eq!(resolve(b"/etc", b"", Path::new("/")), Err(Errno::ACCESS));
    }
}
