//! The word to end everything, and the waits that hear it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::Error;

/// Tells a running comparison to end.
#[derive(Debug)]
pub struct Cancel {
    flag: AtomicBool,
    /// Readable once it was said.
    event: OwnedFd,
}

impl Cancel {
    /// A comparison that goes on until [`Cancel::cancel`].
    ///
    /// # Errors
    /// Those of eventfd(2): no more descriptors.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { flag: AtomicBool::new(false), event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Everything ends within moments.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
        // It cannot fail but by a counter of 2^64 - 2.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Whether it was said.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Lets so much time pass.
    ///
    /// # Errors
    /// [`Error::Cancelled`], at once.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Error> {
        readable(&[self.event.as_fd()], time);
        self.check()
    }

    /// Until the descriptor is readable, which a pidfd is when its process has ended. False: not within the time.
    ///
    /// # Errors
    /// [`Error::Cancelled`], at once.
    pub(crate) fn until_readable(&self, descriptor: impl AsFd, within: Duration) -> Result<bool, Error> {
        let is_readable = readable(&[descriptor.as_fd(), self.event.as_fd()], within);
        self.check()?;
        Ok(is_readable)
    }
}

/// Until one of the descriptors is readable. False: none was within the time.
pub(crate) fn readable(descriptors: &[BorrowedFd<'_>], within: Duration) -> bool {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut all: Vec<PollFd<'_>> = descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
        match poll(&mut all, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return matches!(ready, Ok(1..)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_by_its_event_by_its_time_or_by_the_word() {
        let cancel = Cancel::new().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!cancel.until_readable(&reader, Duration::from_millis(1)).unwrap());
        rustix::io::write(&writer, b"x").unwrap();
        assert!(cancel.until_readable(&reader, Duration::from_mins(1)).unwrap());
        assert!(cancel.pause(Duration::from_millis(1)).is_ok());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| cancel.pause(Duration::from_mins(1)));
            cancel.cancel();
            assert!(matches!(waits.join().unwrap(), Err(Error::Cancelled)));
        });
        assert!(cancel.until_readable(&reader, Duration::ZERO).is_err(), "the word counts more than what happened");
    }
}
