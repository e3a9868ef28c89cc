//! /proc: what a process is, and which sockets it has open (proc(5)).
//!
//! Owns reading and parsing of `/proc/PID/*`. Tolerates what is normal there: a process that vanishes while it is read
//! ([`Error::is_gone`]), one that hides (hidepid, another user: [`Error::is_denied`]), names that hold newlines, parentheses or
//! escape codes (all text is returned as the bytes it is; sanitising is the business of who prints).
//! Refuses: caching. A pid is a number that can be used again; who keeps one should keep [`Stat::start_ticks`] beside it.

mod fds;
mod parse;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

pub use fds::{FdScan, SocketFd};
pub(crate) use parse::socket_inode;
pub use parse::{Stat, Status, parse_stat, parse_status, split_nul, unix_scm_fds, uring_sockets};

/// A process id as the kernel counts it in the namespace of the mounted /proc.
pub type Pid = i32;

/// Clock ticks per second in /proc: 100 on every architecture that Rust's Linux targets have (asm-generic/param.h).
pub const USER_HZ: u64 = 100;

/// A file in /proc that could not be read.
#[derive(Debug)]
pub struct Error {
    /// Path below /proc.
    pub path: String,
    /// Why; `INVAL` for contents that have not the expected shape.
    pub errno: Errno,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "read /proc/{}: {}", self.path, std::io::Error::from(self.errno))
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The process (or thread, or fd) is not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self.errno, Errno::NOENT | Errno::SRCH)
    }

    /// It is there, and the caller may not look.
    pub fn is_denied(&self) -> bool {
        matches!(self.errno, Errno::ACCESS | Errno::PERM)
    }
}

/// A mounted /proc (or a directory that looks like one, in tests).
#[derive(Debug)]
pub struct Proc {
    root: OwnedFd,
}

impl AsFd for Proc {
    /// The directory itself.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Proc {
    /// The machine's /proc.
    ///
    /// # Errors
    /// It is not mounted.
    pub fn open() -> Result<Self, Error> {
        Self::at("/proc")
    }

    /// A /proc elsewhere.
    ///
    /// # Errors
    /// `root` is not a directory that can be opened.
    pub fn at(root: impl AsRef<Path>) -> Result<Self, Error> {
        let root = openat(CWD, root.as_ref(), OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error { path: String::new(), errno })?;
        Ok(Self { root })
    }

    /// All processes that are visible, in the order of /proc (by pid).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn pids(&self) -> Result<Vec<Pid>, Error> {
        self.numbers(".")
    }

    /// The threads of a process.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn tasks(&self, pid: Pid) -> Result<Vec<Pid>, Error> {
        self.numbers(&format!("{pid}/task"))
    }

    /// How many threads it has, by the link count of `/proc/PID/task`: cheaper than a list.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn thread_count(&self, pid: Pid) -> Result<usize, Error> {
        let stat = statat(&self.root, format!("{pid}/task"), AtFlags::empty()).map_err(|errno| failed(pid, "task", errno))?;
        // Two links are those of any directory.
        Ok((stat.st_nlink as usize).saturating_sub(2))
    }

    /// Who `/proc/PID` belongs to: the effective user, or root for a process that is not dumpable. One cheap call.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn owner(&self, pid: Pid) -> Result<u32, Error> {
        let stat = statat(&self.root, pid.to_string(), AtFlags::empty()).map_err(|errno| failed(pid, "", errno))?;
        Ok(stat.st_uid)
    }

    /// An fd for its network namespace, for setns(2).
    ///
    /// # Errors
    /// It is gone, or not ours to enter.
    pub fn open_net_namespace(&self, pid: Pid) -> Result<OwnedFd, Error> {
        openat(&self.root, format!("{pid}/ns/net"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(pid, "ns/net", errno))
    }

    /// `/proc/PID/stat`.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn stat(&self, pid: Pid) -> Result<Stat, Error> {
        self.parsed(pid, "stat", parse_stat)
    }

    /// `/proc/PID/status`. `pid` may be a thread's id: [`Status::tgid`] is then its process.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn status(&self, pid: Pid) -> Result<Status, Error> {
        self.parsed(pid, "status", parse_status)
    }

    /// The arguments it was started with. Empty for kernel threads and zombies; a process can write anything there.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn cmdline(&self, pid: Pid) -> Result<Vec<OsString>, Error> {
        Ok(split_nul(&self.read(pid, "cmdline")?))
    }

    /// The short name (at most 15 bytes), without the newline that ends the file.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn comm(&self, pid: Pid) -> Result<OsString, Error> {
        let bytes = self.read(pid, "comm")?;
        Ok(OsStr::from_bytes(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).to_owned())
    }

    /// The environment it was started with, as `NAME=value` strings. Secrets live there: take the names you need.
    ///
    /// # Errors
    /// It is gone, or not ours to read (needs the same user or CAP_SYS_PTRACE).
    pub fn environ(&self, pid: Pid) -> Result<Vec<OsString>, Error> {
        Ok(split_nul(&self.read(pid, "environ")?))
    }

    /// Its working directory.
    ///
    /// # Errors
    /// It is gone, or not ours to read.
    pub fn cwd(&self, pid: Pid) -> Result<PathBuf, Error> {
        self.link(pid, "cwd")
    }

    /// The program it runs; ` (deleted)` is appended by the kernel when the file was replaced.
    ///
    /// # Errors
    /// It is gone, a kernel thread, or not ours to read.
    pub fn exe(&self, pid: Pid) -> Result<PathBuf, Error> {
        self.link(pid, "exe")
    }

    /// Inode of its network namespace.
    ///
    /// # Errors
    /// It is gone, or not ours to read.
    pub fn net_namespace(&self, pid: Pid) -> Result<u64, Error> {
        self.namespace(&format!("{pid}/ns/net"))
    }

    /// Inode of the calling thread's network namespace: setns(2) and unshare(2) change it for one thread alone.
    ///
    /// # Errors
    /// The link is not there.
    pub fn own_net_namespace(&self) -> Result<u64, Error> {
        self.namespace("thread-self/ns/net")
    }

    fn namespace(&self, path: &str) -> Result<u64, Error> {
        let wrap = |errno| Error { path: path.to_owned(), errno };
        let link = readlinkat(&self.root, path, Vec::new()).map_err(wrap)?;
        bracketed(link.as_bytes(), b"net:[").ok_or_else(|| wrap(Errno::INVAL))
    }

    /// Its path in the cgroup v2 hierarchy (the `0::` line of `/proc/PID/cgroup`), `None` on a machine without one.
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn cgroup(&self, pid: Pid) -> Result<Option<PathBuf>, Error> {
        let bytes = self.read(pid, "cgroup")?;
        let line = bytes.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
        Ok(line.map(|path| PathBuf::from(OsStr::from_bytes(path))))
    }

    /// All lines of `/proc/PID/cgroup`, v1 controllers included (containers on old machines are named only there).
    ///
    /// # Errors
    /// It is gone, or hidden.
    pub fn cgroup_lines(&self, pid: Pid) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.read(pid, "cgroup")?).into_owned())
    }

    /// When the machine booted (`btime` of /proc/stat; whole seconds).
    ///
    /// # Errors
    /// The file is not there or has another shape.
    pub fn boot_time(&self) -> Result<SystemTime, Error> {
        let bytes = self.read_path("stat")?;
        let seconds = bytes
            .split(|byte| *byte == b'\n')
            .find_map(|line| std::str::from_utf8(line.strip_prefix(b"btime ")?).ok()?.trim().parse().ok())
            .ok_or_else(|| Error { path: "stat".to_owned(), errno: Errno::INVAL })?;
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// The wall-clock time at which a process started: accurate to about a second, for people.
    ///
    /// # Errors
    /// As [`Proc::boot_time`].
    pub fn started(&self, stat: &Stat) -> Result<SystemTime, Error> {
        Ok(self.boot_time()? + Duration::from_millis(stat.start_ticks.saturating_mul(1000 / USER_HZ)))
    }

    /// A number in a file below /proc/sys, such as `net/ipv4/ip_unprivileged_port_start`.
    ///
    /// # Errors
    /// This kernel does not have it, or it is not a list of numbers.
    pub fn sysctl(&self, name: &str) -> Result<Vec<u32>, Error> {
        let path = format!("sys/{name}");
        let bytes = self.read_path(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(|_| Error { path, errno: Errno::INVAL })
    }

    /// A whole file below /proc, such as `sys/net/ipv4/ip_local_reserved_ports`.
    ///
    /// # Errors
    /// It is not there, or not ours to read.
    pub fn read_path(&self, path: &str) -> Result<Vec<u8>, Error> {
        let wrap = |errno| Error { path: path.to_owned(), errno };
        let fd = openat(&self.root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(wrap)?;
        let mut bytes = Vec::with_capacity(1024);
        loop {
            bytes.reserve(1024);
            match rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes)) {
                Ok(0) => return Ok(bytes),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(wrap(errno)),
            }
        }
    }

    fn read(&self, pid: Pid, name: &str) -> Result<Vec<u8>, Error> {
        self.read_path(&format!("{pid}/{name}"))
    }

    fn parsed<T>(&self, pid: Pid, name: &str, parse: fn(&[u8]) -> Option<T>) -> Result<T, Error> {
        parse(&self.read(pid, name)?).ok_or_else(|| failed(pid, name, Errno::INVAL))
    }

    fn link(&self, pid: Pid, name: &str) -> Result<PathBuf, Error> {
        let target = readlinkat(&self.root, format!("{pid}/{name}"), Vec::new()).map_err(|errno| failed(pid, name, errno))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// The entries of a directory that are numbers, sorted.
    fn numbers(&self, path: &str) -> Result<Vec<i32>, Error> {
        let wrap = |errno| Error { path: path.to_owned(), errno };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = openat(&self.root, path, flags, Mode::empty()).map_err(wrap)?;
        let mut found = Vec::new();
        fds::each_number(&dir, |number| found.push(number)).map_err(wrap)?;
        found.sort_unstable();
        Ok(found)
    }
}

fn failed(pid: Pid, name: &str, errno: Errno) -> Error {
    Error { path: format!("{pid}/{name}"), errno }
}

/// The number in `prefix` + digits + `]`, the shape of links to sockets and namespaces.
fn bracketed(bytes: &[u8], prefix: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes.strip_prefix(prefix)?.strip_suffix(b"]")?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
