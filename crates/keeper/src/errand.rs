//! What the guard does for a keeper that may not: reach into a service.
//!
//! Under Yama (`ptrace_scope` 1, Ubuntu's default) only an *ancestor* may duplicate a process's descriptors or read its memory
//! without root. The first keeper is the services' parent; after its death only the guard is an ancestor of them. The two share
//! descriptors, so what the guard duplicates the keeper has.

use crate::life::Life;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
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
pub(crate) fn duplicate(life: Life, pidfd: &OwnedFd, number: i32) -> Result<OwnedFd, Errno> {
    match process::duplicate(pidfd, number) {
        Err(Errno::PERM) => {
            let errand = Errand::Duplicate { pidfd: pidfd.as_raw_fd(), number };
            TableFd::from_number(run(life, errand)?).map(TableFd::take)
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
            let length = run(life, Errand::Read { pid, address, length: buffer.len() })? as usize;
            let bytes = life.errand_data(length.min(buffer.len()));
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }
        other => other,
    }
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
    let result = match life.errand() {
        Some(Errand::Duplicate { pidfd, number }) => TableFd::from_number(pidfd)
            .and_then(|pidfd| process::duplicate(pidfd, number))
            .map(|descriptor| TableFd::keep(descriptor).as_raw_fd()),
        Some(Errand::Read { pid, address, length }) => {
            let mut buffer = [0; ADDRESS_MAX];
            let length = length.min(ADDRESS_MAX);
            memory::read_process(pid, address, &mut buffer[..length]).map(|length| {
                life.put_errand_data(&buffer[..length]);
                length as i32
            })
        }
        None => Err(Errno::INVAL),
    };
    life.put_errand_result(result);
    let _ = rustix::io::write(done, &1_u64.to_ne_bytes());
}

fn drain(event: TableFd) -> Result<(), Errno> {
    rustix::io::read(event, &mut [0_u8; 8]).map(|_| ())
}
