//! The open sockets of processes: the one expensive question that /proc answers.
//!
//! `/proc/PID/fd/N` links to `socket:[inode]`. Reading the links costs about 1–2 µs each, listing the directory as much
//! again. A list misses nothing that stays open while it is read. [`FdScan::sockets_in`] and [`FdScan::sockets_from`] count
//! through small numbers instead, for who looks at thousands of processes: a process that opens one file and closes another
//! meanwhile can end the counting early, so that what they did not find is to be looked for in lists before it is said to be nowhere.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, fstat, openat, readlinkat_raw};
use rustix::io::Errno;

use super::parse::{socket_inode, unix_scm_fds, uring_sockets};
use super::{Error, Pid, Proc, failed};

/// A socket that a process has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFd {
    /// The fd's number.
    pub fd: i32,
    /// The socket's inode.
    pub inode: u32,
}

/// The fd directory of one thread, open.
#[derive(Debug)]
pub struct FdScan {
    dir: OwnedFd,
    /// Number of open fds (`st_size` of the directory since Linux 6.2), 0 if unknown.
    open: usize,
}

impl Proc {
    /// Opens `/proc/PID/fd`. For a process whose main thread has exited it is empty: see [`Proc::scan_task_fds`].
    ///
    /// # Errors
    /// It is gone, or not ours to read (needs the same user or CAP_SYS_PTRACE).
    pub fn scan_fds(&self, pid: Pid) -> Result<FdScan, Error> {
        self.fd_dir(pid, &format!("{pid}/fd"))
    }

    /// Opens `/proc/PID/task/TID/fd`: the fds of one thread, which lives on when the main thread has exited, and which can
    /// differ from the main thread's after unshare(CLONE_FILES).
    ///
    /// # Errors
    /// As [`Proc::scan_fds`].
    pub fn scan_task_fds(&self, pid: Pid, tid: Pid) -> Result<FdScan, Error> {
        self.fd_dir(pid, &format!("{pid}/task/{tid}/fd"))
    }

    /// Whether this kernel says how many fds a process has ([`FdScan::count`], Linux 6.2): then no count means none.
    pub fn counts_fds(&self) -> bool {
        self.fd_dir(0, "self/fd").is_ok_and(|scan| scan.count().is_some())
    }

    fn fd_dir(&self, pid: Pid, path: &str) -> Result<FdScan, Error> {
        let wrap = |errno| failed(pid, path.trim_start_matches(|c: char| c.is_ascii_digit() || c == '/'), errno);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = openat(&self.root, path, flags, Mode::empty()).map_err(wrap)?;
        let open = fstat(&dir).map_or(0, |stat| usize::try_from(stat.st_size).unwrap_or(0));
        Ok(FdScan { dir, open })
    }

    /// All sockets that a process has open, through every thread, io_uring's registered files included (with fd -1).
    ///
    /// # Errors
    /// It is gone, or not ours to read.
    pub fn socket_inodes(&self, pid: Pid) -> Result<Vec<SocketFd>, Error> {
        let mut found = Vec::new();
        let scan = self.scan_fds(pid)?;
        scan.sockets(|socket| found.push(socket)).map_err(|errno| failed(pid, "fd", errno))?;
        for tid in self.tasks(pid)?.into_iter().filter(|tid| *tid != pid) {
            match self.scan_task_fds(pid, tid) {
                Ok(scan) => {
                    let other = |socket| {
                        if !found.contains(&socket) {
                            found.push(socket);
                        }
                    };
                    scan.sockets(other).map_err(|errno| failed(pid, "task/fd", errno))?;
                }
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        for inode in self.uring_sockets(pid)? {
            if found.iter().all(|socket| socket.inode != inode) {
                found.push(SocketFd { fd: -1, inode });
            }
        }
        Ok(found)
    }

    /// Whether a process has an io_uring; false if that cannot be seen.
    pub fn has_uring(&self, pid: Pid) -> bool {
        let mut found = false;
        // What could not be read to its end was seen as far as it was.
        let _ = self.scan_fds(pid).map(|scan| scan.links(|_, link| found |= link == b"anon_inode:[io_uring]"));
        found
    }

    /// Inodes of sockets that are registered with an io_uring of this process: open even when no fd is.
    ///
    /// # Errors
    /// It is gone, or not ours to read.
    pub fn uring_sockets(&self, pid: Pid) -> Result<Vec<u32>, Error> {
        let mut rings = Vec::new();
        self.scan_fds(pid)?
            .links(|fd, link| {
                if link == b"anon_inode:[io_uring]" {
                    rings.push(fd);
                }
            })
            .map_err(|errno| failed(pid, "fd", errno))?;
        let mut found = Vec::new();
        for ring in rings {
            match self.fdinfo(pid, ring) {
                Ok(text) => found.extend(uring_sockets(&text)),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// How many fds wait in the receive queue of a unix socket (`SCM_RIGHTS` in flight); `None` before Linux 5.6.
    ///
    /// # Errors
    /// It is gone, or not ours to read.
    pub fn fds_in_flight(&self, pid: Pid, fd: i32) -> Result<Option<u64>, Error> {
        Ok(unix_scm_fds(&self.fdinfo(pid, fd)?))
    }

    /// Whether a descriptor of a process is close-on-exec; true if it cannot be seen. Source: the octal `flags` of
    /// `/proc/PID/fdinfo/N`.
    pub fn close_on_exec(&self, pid: Pid, fd: i32) -> bool {
        let Ok(text) = self.fdinfo(pid, fd) else { return true };
        let text = String::from_utf8_lossy(&text);
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).is_none_or(|flags| flags & libc::O_CLOEXEC != 0)
    }

    /// Whether a descriptor's open file is non-blocking (`O_NONBLOCK`); false if it cannot be seen. Source: as [`Proc::close_on_exec`].
    pub fn non_blocking(&self, pid: Pid, fd: i32) -> bool {
        let Ok(text) = self.fdinfo(pid, fd) else { return false };
        let text = String::from_utf8_lossy(&text);
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & libc::O_NONBLOCK != 0)
    }

    /// The inode of the socket behind a descriptor.
    ///
    /// # Errors
    /// The process or the descriptor is gone, or not ours to read; `ENOTSOCK`.
    pub fn socket_inode(&self, pid: Pid, fd: i32) -> Result<u32, Error> {
        let link = rustix::fs::readlinkat(&self.root, format!("{pid}/fd/{fd}"), Vec::new()).map_err(|errno| failed(pid, "fd", errno))?;
        socket_inode(link.to_bytes()).ok_or_else(|| failed(pid, "fd", Errno::NOTSOCK))
    }

    /// The name of the protocol of a socket of another process (`TCP`, `TCPv6`, `MPTCP`, `UDP`), without having the socket: its attribute
    /// `system.sockprotoname` (net/socket.c, `sockfs_xattr_get`). `None`: it is no socket.
    ///
    /// # Errors
    /// The process or the descriptor is gone, or not ours to read.
    pub fn socket_protocol(&self, pid: Pid, fd: i32) -> Result<Option<String>, Error> {
        let mut name = [0_u8; 64];
        match rustix::fs::getxattr(format!("/proc/{pid}/fd/{fd}"), "system.sockprotoname", &mut name) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(&name[..length.min(name.len())]).trim_end_matches('\0').to_owned())),
            Err(Errno::NOTSUP | Errno::NODATA) => Ok(None),
            Err(errno) => Err(failed(pid, "fd", errno)),
        }
    }

    /// `/proc/PID/fdinfo/FD`.
    ///
    /// # Errors
    /// The process or the fd is gone, or not ours to read.
    pub fn fdinfo(&self, pid: Pid, fd: i32) -> Result<Vec<u8>, Error> {
        self.read_path(&format!("{pid}/fdinfo/{fd}"))
    }
}

impl FdScan {
    /// Number of open fds, if the kernel says it (Linux 6.2 and later).
    pub fn count(&self) -> Option<usize> {
        (self.open > 0).then_some(self.open)
    }

    /// Hands the socket at each number of `numbers` to `on`; returns how many of the numbers were open files of any kind.
    /// A process that vanishes has no more fds.
    ///
    /// # Errors
    /// The links cannot be read.
    pub fn sockets_in(&self, numbers: impl IntoIterator<Item = i32>, on: impl FnMut(SocketFd)) -> Result<usize, Errno> {
        let mut on = only_sockets(on);
        let mut open = 0;
        for fd in numbers {
            open += usize::from(self.link(fd, &mut on)?);
        }
        Ok(open)
    }

    /// Hands every socket to `on`, in no order. None that stays open is missed, whatever the process opens and closes meanwhile.
    ///
    /// # Errors
    /// The directory or its links cannot be read.
    pub fn sockets(&self, on: impl FnMut(SocketFd)) -> Result<(), Errno> {
        self.list(0, only_sockets(on))
    }

    /// Hands the sockets at `start` and above to `on`; `found` is how many open files below `start` the caller has seen
    /// (see [`FdScan::sockets_in`]). Continues a scan that began with the small numbers.
    ///
    /// # Errors
    /// The directory or its links cannot be read.
    pub fn sockets_from(&self, start: i32, found: usize, on: impl FnMut(SocketFd)) -> Result<(), Errno> {
        self.walk(start, found, only_sockets(on))
    }

    /// Hands every fd and its link (`socket:[1]`, `anon_inode:[io_uring]`, a path) to `on`.
    ///
    /// # Errors
    /// The directory or its links cannot be read.
    pub fn links(&self, on: impl FnMut(i32, &[u8])) -> Result<(), Errno> {
        self.list(0, on)
    }

    /// Hands the number of every open fd at `start` and above to `on`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn numbers_from(&self, start: i32, mut on: impl FnMut(i32)) -> Result<(), Errno> {
        each_number(&self.dir, |fd| {
            if fd >= start {
                on(fd);
            }
        })
    }

    fn walk(&self, start: i32, mut found: usize, mut on: impl FnMut(i32, &[u8])) -> Result<(), Errno> {
        // Most processes use the lowest numbers without many holes: then no directory needs to be listed.
        let reach = i32::try_from(self.open + self.open / 8 + 4).unwrap_or(i32::MAX);
        let mut holes = 0;
        let mut next = start;
        while self.open > found && next < reach && holes < 4 {
            if self.link(next, &mut on)? {
                found += 1;
                holes = 0;
            } else {
                holes += 1;
            }
            next += 1;
        }
        if self.open > 0 && found >= self.open {
            return Ok(());
        }
        self.list(next, on)
    }

    fn list(&self, start: i32, mut on: impl FnMut(i32, &[u8])) -> Result<(), Errno> {
        let mut failed = None;
        self.numbers_from(start, |fd| {
            if failed.is_none() {
                failed = self.link(fd, &mut on).err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Reads one link; false if that fd is not open.
    fn link(&self, fd: i32, on: &mut impl FnMut(i32, &[u8])) -> Result<bool, Errno> {
        let mut digits = [0; 12];
        // Long enough for every link to a socket; a longer path comes cut, and is no socket.
        let mut target = [MaybeUninit::uninit(); 64];
        match readlinkat_raw(self.dir.as_fd(), decimal(fd, &mut digits), &mut target) {
            Ok((link, _)) => {
                on(fd, link);
                Ok(true)
            }
            Err(Errno::NOENT | Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

fn only_sockets(mut on: impl FnMut(SocketFd)) -> impl FnMut(i32, &[u8]) {
    move |fd, link| {
        if let Some(inode) = socket_inode(link) {
            on(SocketFd { fd, inode });
        }
    }
}

/// A small number in decimal digits without an allocation.
fn decimal(number: i32, digits: &mut [u8; 12]) -> &std::ffi::CStr {
    let mut rest = number.unsigned_abs();
    let mut start = digits.len() - 1;
    digits[start] = 0;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    std::ffi::CStr::from_bytes_with_nul(&digits[start..]).unwrap_or_default()
}

/// Hands every entry of a directory that is a number to `on`.
pub(super) fn each_number(dir: impl AsFd, mut on: impl FnMut(i32)) -> Result<(), Errno> {
    let dir: BorrowedFd<'_> = dir.as_fd();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                if let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
                    on(number);
                }
            }
            // The process went away while its directory was read.
            Err(Errno::NOENT | Errno::SRCH) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
