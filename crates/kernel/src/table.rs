//! Descriptors that outlive the process that opened them.
//!
//! Guard and keeper share one descriptor table (`CLONE_FILES`). What is opened there stays open when either is killed, so
//! ownership in Rust's sense, where dropping closes, would be wrong: a [`TableFd`] is a number that means something until
//! [`TableFd::close`], in every process that shares the table, and can be written into the shared state.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// A descriptor in the shared table. Copying it copies the number; dropping it does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
#[expect(clippy::unsafe_derive_deserialize, reason = "a wrong number is a wrong result, not memory unsafety: see `as_fd`")]
pub struct TableFd(RawFd);

impl TableFd {
    /// Leaves a descriptor open in the table.
    pub fn keep(descriptor: OwnedFd) -> Self {
        Self(descriptor.into_raw_fd())
    }

    /// The descriptor with this number, which must not be negative.
    ///
    /// # Errors
    /// `EBADF` if no such descriptor is open.
    pub fn from_number(number: RawFd) -> Result<Self, Errno> {
        if number < 0 {
            return Err(Errno::BADF);
        }
        let descriptor = Self(number);
        rustix::io::fcntl_getfd(descriptor)?;
        Ok(descriptor)
    }

    /// Closes it for every process that shares the table. Copies of the number mean nothing from here on.
    pub fn close(self) {
        drop(self.take());
    }

    /// Takes it out of the table's keeping: the result closes it when dropped. Copies of the number are then only borrowed.
    pub fn take(self) -> OwnedFd {
        // SAFETY: the number was an open descriptor when `self` was made (`keep`, `from_number`), and the table's users close
        // it only through this function, once.
        unsafe { OwnedFd::from_raw_fd(self.0) }
    }
}

impl AsFd for TableFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the number is not -1. If the descriptor was closed meanwhile, calls on it give `EBADF` or reach another
        // descriptor of the table: a wrong result, but no memory unsafety (no code relies on the identity of a `TableFd` for that).
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl AsRawFd for TableFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Closes every descriptor above standard error that is not in `known`; returns how many there were. After the death of a
/// process that shared the table this ends what it had opened and not yet written down.
///
/// # Errors
/// When `/proc/self/fd` cannot be read.
pub fn sweep(known: &std::collections::BTreeSet<RawFd>) -> std::io::Result<usize> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) {
            open.push(number);
        }
    }
    let mut swept = 0;
    for number in open.into_iter().filter(|number| *number > 2 && !known.contains(number)) {
        // The directory's own descriptor is in the list and closed by now: `from_number` says so.
        if let Ok(descriptor) = TableFd::from_number(number) {
            descriptor.close();
            swept += 1;
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_means_open_until_closed() {
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        drop(read);
        let kept = TableFd::keep(write);
        assert_eq!(TableFd::from_number(kept.as_raw_fd()), Ok(kept));
        kept.close();
        assert_eq!(TableFd::from_number(-1), Err(Errno::BADF));
    }
}
