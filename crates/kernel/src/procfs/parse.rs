//! The texts of /proc. Total on arbitrary bytes: what does not fit gives `None` or fewer items.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::{Pid, bracketed};

/// The fields of `/proc/PID/stat` that we use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process.
    pub pid: Pid,
    /// Short name. Any bytes, `)` and newline included.
    pub comm: OsString,
    /// `R`, `S`, `D`, `T` (stopped), `t` (traced), `Z` (zombie), `X`.
    pub state: char,
    /// Parent; 0 if it is outside of this pid namespace.
    pub ppid: Pid,
    /// Process group.
    pub pgrp: Pid,
    /// Session.
    pub session: Pid,
    /// Processor time so far, user and system together, in clock ticks ([`super::USER_HZ`] a second).
    pub cpu_ticks: u64,
    /// Number of threads.
    pub threads: u32,
    /// When it started, in clock ticks since boot. With the pid it names a process for good.
    pub start_ticks: u64,
    /// Resident set in pages. The kernel counts it in batches: off by some pages for each processor.
    pub resident_pages: u64,
    /// `PF_*` flags; bit 21 marks a kernel thread.
    pub flags: u32,
}

impl Stat {
    /// A thread of the kernel: it has no fds.
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }
}

/// Reads `/proc/PID/stat`. The name ends at the **last** parenthesis: it may contain others.
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let pid = text(bytes.get(..open)?)?.trim().parse().ok()?;
    let comm = OsStr::from_bytes(bytes.get(open + 1..close)?).to_owned();
    // fields[0] is the file's third field (proc_pid_stat(5) counts from 1); none behind the 24th is wanted.
    let mut fields = [""; 24 - 2];
    for (field, text) in fields.iter_mut().zip(text(bytes.get(close + 1..)?)?.split_ascii_whitespace()) {
        *field = text;
    }
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        pid,
        comm,
        state: field(3)?.chars().next()?,
        ppid: field(4)?.parse().ok()?,
        pgrp: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        flags: field(9)?.parse().ok()?,
        cpu_ticks: field(14)?.parse::<u64>().ok()?.saturating_add(field(15)?.parse().ok()?),
        threads: field(20)?.parse().ok()?,
        start_ticks: field(22)?.parse().ok()?,
        resident_pages: field(24)?.parse().ok()?,
    })
}

/// The fields of `/proc/PID/status` that we use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Thread group: the process of a thread.
    pub tgid: Pid,
    /// Parent.
    pub ppid: Pid,
    /// Real, effective, saved and filesystem user.
    pub uids: [u32; 4],
    /// Real, effective, saved and filesystem group.
    pub gids: [u32; 4],
    /// Effective capabilities.
    pub cap_eff: u64,
    /// Who traces it, 0 for nobody.
    pub tracer: Pid,
}

/// Reads `/proc/PID/status`. The kernel escapes newlines in `Name:`, so no line can be forged.
pub fn parse_status(bytes: &[u8]) -> Option<Status> {
    let text = String::from_utf8_lossy(bytes);
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    let four = |name: &str| {
        let mut numbers = value(name)?.split_ascii_whitespace().map(|number| number.parse().ok());
        Some([numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??])
    };
    Some(Status {
        tgid: value("Tgid")?.parse().ok()?,
        ppid: value("PPid")?.parse().ok()?,
        uids: four("Uid")?,
        gids: four("Gid")?,
        cap_eff: u64::from_str_radix(value("CapEff")?, 16).ok()?,
        tracer: value("TracerPid")?.parse().ok()?,
    })
}

/// The strings of `cmdline` or `environ`: each ends with NUL, the last one perhaps not.
pub fn split_nul(bytes: &[u8]) -> Vec<OsString> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|part| OsStr::from_bytes(part).to_owned()).collect()
}

/// Socket inodes among the registered files in `/proc/PID/fdinfo/RING` of an io_uring:
/// lines `    0: socket:[123]` after `UserFiles:`. Such a file stays open after its fd was closed.
pub fn uring_sockets(fdinfo: &[u8]) -> Vec<u32> {
    let mut lines = fdinfo.split(|byte| *byte == b'\n').skip_while(|line| !line.starts_with(b"UserFiles:"));
    let _head = lines.next();
    lines
        .take_while(|line| line.first().is_some_and(u8::is_ascii_whitespace))
        .filter_map(|line| {
            let name = line.splitn(2, |byte| *byte == b':').nth(1)?.trim_ascii();
            socket_inode(name)
        })
        .collect()
}

/// Number of fds in flight in a unix socket's receive queue: `scm_fds: N` of its fdinfo (Linux 5.6).
pub fn unix_scm_fds(fdinfo: &[u8]) -> Option<u64> {
    let line = fdinfo.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"scm_fds:"))?;
    text(line)?.trim().parse().ok()
}

/// The inode in `socket:[N]`.
pub(crate) fn socket_inode(link: &[u8]) -> Option<u32> {
    bracketed(link, b"socket:[")?.try_into().ok()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
