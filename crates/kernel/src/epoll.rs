//! epoll registrations of another process: what it registered for a descriptor, and the same registration for another file.
//!
//! An epoll instance knows a *file and a number* (fs/eventpoll.c). When another file is put at a number, the registration made for
//! the old one is worth nothing: the process would wait for ever. Source: epoll(7), proc_pid_fdinfo(5).

use crate::memory::errno;
use crate::process;
use crate::procfs::{Pid, Proc};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// One registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// Number of the epoll instance in that process.
    pub epoll: i32,
    /// `EPOLL*` bits.
    pub events: u32,
    /// What the process gets back with an event.
    pub data: u64,
}

/// The registrations of a process for one of its descriptors. What cannot be read is passed over.
pub fn registrations(proc: &Proc, pid: Pid, number: i32) -> Vec<Registration> {
    let mut instances = Vec::new();
    if let Ok(scan) = proc.scan_fds(pid) {
        // What was listed before an error is as good.
        let _ = scan.links(|fd, link| {
            if link == b"anon_inode:[eventpoll]" {
                instances.push(fd);
            }
        });
    }
    let of = |epoll: i32| {
        let text = proc.fdinfo(pid, epoll).unwrap_or_default();
        parse(&String::from_utf8_lossy(&text), number).map(|(events, data)| Registration { epoll, events, data })
    };
    instances.into_iter().filter_map(of).collect()
}

/// Events and data of a number in the text of an epoll instance's fdinfo: lines `tfd: 5 events: 19 data: 5 pos:…`.
fn parse(text: &str, number: i32) -> Option<(u32, u64)> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let mut after = |key: &str| words.find(|word| *word == key).and_then(|_| words.next());
        if after("tfd:")?.parse::<i32>().ok()? != number {
            return None;
        }
        let events = u32::from_str_radix(after("events:")?, 16).ok()?;
        let data = u64::from_str_radix(after("data:")?, 16).ok()?;
        Some((events, data))
    })
}

/// Registers a file at a number with (a duplicate of) another process's epoll instance, as that process would have. A helper
/// process does it, which has the file at that number for a moment.
///
/// # Errors
/// Those of `epoll_ctl(2)` as far as a helper can tell: `EIO`. Those of `clone(2)`.
///
/// # Panics
/// As [`process::clone`].
pub fn register(epoll: impl AsFd, file: impl AsFd, number: i32, events: u32, data: u64) -> Result<(), Errno> {
    match process::clone()? {
        process::Cloned::Child => process::exit_now(i32::from(register_here(epoll, file, number, events, data).is_err())),
        process::Cloned::Parent { pid, pidfd: _ } => {
            let mut status = 0;
            // SAFETY: `status` is writable and lives through the call.
            while unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } < 0 {
                if errno() != Errno::INTR {
                    return Err(errno());
                }
            }
            if status == 0 { Ok(()) } else { Err(Errno::IO) }
        }
    }
}

/// In the helper, which shares no descriptors with anybody.
fn register_here(epoll: impl AsFd, file: impl AsFd, number: i32, events: u32, data: u64) -> Result<(), Errno> {
    let epoll = rustix::io::fcntl_dupfd_cloexec(epoll, number + 1)?;
    // SAFETY: dup2 takes numbers; what it replaces at `number` is not used by the helper.
    if unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) } < 0 {
        return Err(errno());
    }
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: `event` lives through the call.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, number, &raw mut event) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_registration_is_found() {
        use rustix::event::epoll;
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC).expect("create");
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        let data = epoll::EventData::new_u64(0x1234_5678_9abc);
        epoll::add(&instance, &one, data, epoll::EventFlags::IN | epoll::EventFlags::ET).expect("add");
        let proc = Proc::open().expect("proc");
        let pid = std::process::id() as i32;
        let expected = Registration { epoll: instance.as_raw_fd(), events: 0x8000_0019, data: 0x1234_5678_9abc };
        assert_eq!(registrations(&proc, pid, one.as_raw_fd()), [expected]);
        assert_eq!(registrations(&proc, pid, instance.as_raw_fd()), []);
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "tfd:", "tfd: x events: 1 data: 1", "tfd:        5 events:", "pos:\t0\nflags:\t02\n"] {
            assert_eq!(parse(text, 5), None);
        }
        assert_eq!(parse("tfd:        5 events:       19 data:                5  pos:0 ino:1 sdev:8\n", 5), Some((0x19, 5)));
    }
}
