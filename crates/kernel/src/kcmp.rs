//! Whether two fds of any two processes are the same open file (kcmp(2), Linux 3.5, CONFIG_KCMP).
//!
//! The cheap way to find out who shares a socket once one owner is known: no file of the processes is touched, nothing is
//! duplicated, nothing in /proc has to be instantiated. Needs the right to read both processes, as `/proc/PID/fd` does.

use rustix::io::Errno;

use crate::procfs::Pid;

/// An fd of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdOf {
    /// The process.
    pub pid: Pid,
    /// Its fd.
    pub fd: i32,
}

/// True if both are the same open file description.
///
/// # Errors
/// EBADF: one of the fds is not open. ESRCH: a process is gone. EPERM: not ours to look at. ENOSYS: no CONFIG_KCMP.
#[expect(unsafe_code, reason = "neither rustix nor libc has a wrapper for kcmp")]
pub fn same_file(one: FdOf, other: FdOf) -> Result<bool, Errno> {
    const KCMP_FILE: libc::c_long = 0;
    let long = |number: i32| libc::c_long::from(number);
    // SAFETY: kcmp takes five integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, long(one.pid), long(other.pid), KCMP_FILE, long(one.fd), long(other.fd)) };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOSYS));
    }
    // 1 and 2 give an order, 3 only says "different".
    Ok(result == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn duplicates_are_the_same_file_and_others_are_not() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let of = |fd: &std::net::TcpListener| FdOf { pid, fd: fd.as_raw_fd() };
        let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let two = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        match same_file(of(&one), of(&one.try_clone().unwrap())) {
            Err(Errno::NOSYS) => return println!("NOT RUN: this kernel has no kcmp"),
            same => assert_eq!(same, Ok(true)),
        }
        assert_eq!(same_file(of(&one), of(&two)), Ok(false));
        assert_eq!(same_file(of(&one), FdOf { pid, fd: 1_000_000 }), Err(Errno::BADF));
    }
}
