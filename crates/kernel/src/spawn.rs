//! The steps between `fork` and the command, taken in the child; each failure is reported with its step.

use crate::memory::errno;
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
    /// `chdir`.
    WorkingDirectory,
    /// `execve`.
    Exec,
}

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
}

/// What a child tells over its report socket (`SOCK_SEQPACKET`). The end of the stream means: executed.
#[derive(Debug)]
pub enum Report {
    /// The filter is in; this descriptor answers its calls.
    Trapped(OwnedFd),
    /// The filter could not be installed; the command runs without.
    NotTrapped(Errno),
    /// A step failed; the child has exited.
    Failed(Stage, Errno),
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
    let floor = exec.descriptors.len() as i32 + 3;
    let Ok(report) = rustix::io::fcntl_dupfd_cloexec(report, floor) else { process::exit_now(127) };
    let (stage, error) = match steps(exec, &report, floor) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    send(&report, &encode(b'F', stage as u8, error), None);
    process::exit_now(127)
}

fn steps(exec: &Exec<'_>, report: &OwnedFd, floor: i32) -> Result<std::convert::Infallible, (Stage, Errno)> {
    process::default_signals();
    if let Some(door) = exec.cgroup {
        let _ = rustix::io::write(door, b"0");
    }
    rustix::process::setsid().map_err(|error| (Stage::Session, error))?;
    place(&exec.descriptors, floor).map_err(|error| (Stage::Stdio, error))?;
    rustix::process::chdir(exec.cwd.as_c_str()).map_err(|error| (Stage::WorkingDirectory, error))?;
    if exec.trap {
        match seccomp::install() {
            Ok(listener) => send(report, &encode(b'T', 0, Errno::from_raw_os_error(1)), Some(listener.as_fd())),
            Err(error) => send(report, &encode(b'N', 0, error), None),
        }
    }
    Err((Stage::Exec, execve(exec)))
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
fn execve(exec: &Exec<'_>) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(&exec.argv), pointers(&exec.env));
    let mut result = Errno::NOENT;
    for candidate in &exec.candidates {
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

fn encode(kind: u8, stage: u8, error: Errno) -> [u8; 6] {
    let error = error.raw_os_error().to_ne_bytes();
    [kind, stage, error[0], error[1], error[2], error[3]]
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
    let mut bytes = [0_u8; 6];
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
    let error = Errno::from_raw_os_error(i32::from_ne_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]));
    let stage = [Stage::Session, Stage::Stdio, Stage::WorkingDirectory, Stage::Exec];
    match (bytes[0], listener) {
        (b'T', Some(listener)) => Ok(Some(Some(Report::Trapped(listener)))),
        (b'N', None) => Ok(Some(Some(Report::NotTrapped(error)))),
        (b'F', None) => Ok(Some(Some(Report::Failed(*stage.get(bytes[1] as usize).ok_or(Errno::IO)?, error)))),
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
