//! What the guard does for a keeper that may not: reach into a service.
//!
//! Under Yama (`ptrace_scope` 1, Ubuntu's default) only an *ancestor* may duplicate a process's descriptors or read its memory
//! without root. The first keeper is the services' parent; after its death only the guard is an ancestor of them. The two share
//! descriptors, so what the guard duplicates the keeper has.
//!
//! Root without `CAP_SYS_PTRACE` (Kubernetes and podman by default) may not reach into a service of another user either, but that user may: a
//! short-lived clone that shares our descriptors becomes the user and does it. It cannot be looked into meanwhile, having been root
//! (and it says so: not dumpable). Under Yama it would have to be an ancestor, and gains nothing.

use crate::life::Life;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use stayput_kernel::credentials::{self, Credentials};
use stayput_kernel::process::Cloned;
use stayput_kernel::procfs::Proc;
use stayput_kernel::socket::ADDRESS_MAX;
use stayput_kernel::table::TableFd;
use stayput_kernel::{memory, process};
use std::os::fd::{AsRawFd, OwnedFd};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    /// `pidfd_getfd`.
    Duplicate { pidfd: i32, number: i32 },
    /// `process_vm_readv`, at most [`ADDRESS_MAX`] bytes.
    Read { pid: i32, address: u64, length: usize },
}

/// How long the keeper waits for the guard, which has nothing else to do. Longer means that it is stopped or dying.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A duplicate of another process's descriptor, by ourselves or, if that is not permitted, by the guard.
///
/// # Errors
/// As [`process::duplicate`]; `EPERM` also if the guard does not answer.
pub(crate) fn duplicate(life: Life, pid: i32, pidfd: &OwnedFd, number: i32) -> Result<OwnedFd, Errno> {
    match process::duplicate(pidfd, number) {
        Err(Errno::PERM) => {
            let errand = Errand::Duplicate { pidfd: pidfd.as_raw_fd(), number };
            TableFd::from_number(by_others(life, pid, errand)?).map(TableFd::take)
        }
        other => other,
    }
}

/// Reads another process's memory, by ourselves or by the guard.
///
/// # Errors
/// As [`memory::read_process`]; `EPERM` also if the guard does not answer.
pub(crate) fn read(life: Life, pid: i32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    match memory::read_process(pid, address, buffer) {
        Err(Errno::PERM) => {
            let length = by_others(life, pid, Errand::Read { pid, address, length: buffer.len() })? as usize;
            let bytes = life.errand_data(length.min(buffer.len()));
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }
        other => other,
    }
}

/// By the guard or, if that is not permitted either, by the service's own user.
fn by_others(life: Life, pid: i32, errand: Errand) -> Result<i32, Errno> {
    match run(life, errand) {
        Err(Errno::PERM) => as_user(life, pid, errand),
        other => other,
    }
}

fn as_user(life: Life, pid: i32, errand: Errand) -> Result<i32, Errno> {
    let status = Proc::open().and_then(|proc| proc.status(pid)).map_err(|error| error.errno)?;
    let [uid, gid] = [status.uids[0], status.gids[0]];
    let own = rustix::process::geteuid();
    if !own.is_root() || uid == own.as_raw() || status.uids != [uid; 4] || status.gids != [gid; 4] {
        return Err(Errno::PERM);
    }
    life.put_errand_result(Err(Errno::PERM));
    let Cloned::Parent { pid: clone, pidfd: ended } = process::clone_helper()? else {
        let done = credentials::set_dumpable(false)
            .and_then(|()| Credentials { uid, gid, groups: Vec::new() }.assume())
            .and_then(|()| credentials::set_dumpable(false))
            .and_then(|()| perform(life, errand));
        life.put_errand_result(done);
        process::exit_now(0)
    };
    let in_time = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&PATIENCE)) == Ok(1);
    if !in_time {
        // Stopped by somebody of its user.
        let _ = process::signal(&ended, rustix::process::Signal::KILL.as_raw());
        return Err(Errno::PERM);
    }
    process::reap(clone);
    life.errand_result()
}

fn run(life: Life, errand: Errand) -> Result<i32, Errno> {
    let descriptors = life.guard_descriptors();
    let (wake, done) = (TableFd::from_number(descriptors.errand_wake)?, TableFd::from_number(descriptors.errand_done)?);
    let _ = drain(done);
    life.put_errand(errand);
    rustix::io::write(wake, &1_u64.to_ne_bytes())?;
    match poll(&mut [PollFd::new(&done, PollFlags::IN)], Some(&PATIENCE)) {
        Ok(1) => life.errand_result(),
        _ => Err(Errno::PERM),
    }
}

/// In the guard: does what is asked and says that it is done.
pub(crate) fn serve(life: Life) {
    let descriptors = life.guard_descriptors();
    let (Ok(wake), Ok(done)) = (TableFd::from_number(descriptors.errand_wake), TableFd::from_number(descriptors.errand_done)) else {
        return;
    };
    if drain(wake).is_err() {
        return;
    }
    let result = life.errand().ok_or(Errno::INVAL).and_then(|errand| perform(life, errand));
    life.put_errand_result(result);
    let _ = rustix::io::write(done, &1_u64.to_ne_bytes());
}

fn perform(life: Life, errand: Errand) -> Result<i32, Errno> {
    match errand {
        Errand::Duplicate { pidfd, number } => TableFd::from_number(pidfd)
            .and_then(|pidfd| process::duplicate(pidfd, number))
            .map(|descriptor| TableFd::keep(descriptor).as_raw_fd()),
        Errand::Read { pid, address, length } => {
            let mut buffer = [0; ADDRESS_MAX];
            let length = length.min(ADDRESS_MAX);
            memory::read_process(pid, address, &mut buffer[..length]).map(|length| {
                life.put_errand_data(&buffer[..length]);
                length as i32
            })
        }
    }
}

fn drain(event: TableFd) -> Result<(), Errno> {
    rustix::io::read(event, &mut [0_u8; 8]).map(|_| ())
}
