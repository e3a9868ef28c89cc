//! What guard and keeper share beside the descriptor table: a region of memory that outlives each of them.
//!
//! It holds what the keeper wrote down ([`crate::journal`]), the notification that is being answered, the exit statuses that the guard
//! reaped, and a few numbers. There are no locks: each word has one writer, and a state becomes valid by one store.

use crate::errand::Errand;
use crate::journal::{self, Journal, JournalError, Layout};
use rustix::io::Errno;
use stayput_kernel::memory::SharedRegion;
use stayput_kernel::process::Ended;
use stayput_kernel::seccomp;
use stayput_kernel::socket::ADDRESS_MAX;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

const GUARD_PID: usize = 0;
const KEEPER_PID: usize = 8;
const EXIT: usize = 16;
const KEEPER_DEATHS: usize = 24;
const ACTIVE: usize = 32;
const TAILS: [usize; 2] = [40, 48];
const GUARD_SIGNALS: usize = 56;
const PIPE_WRITE: usize = 64;
const PIPE_READ: usize = 72;
const RING_HEAD: usize = 80;
const RING_TAIL: usize = 88;
const INBOX_GENERATION: usize = 96;
const INBOX: usize = 128;
const ERRAND_WAKE: usize = 256;
const ERRAND_DONE: usize = 264;
const ERRAND_KIND: usize = 272;
const ERRAND_ARGUMENTS: [usize; 3] = [280, 288, 296];
const ERRAND_RESULT: usize = 304;
const ERRAND_DATA: usize = 320;
const RING: usize = 4096;
const RING_ENTRIES: u64 = 4096;
const JOURNAL: usize = 131_072;
const LAYOUT: Layout = Layout { active: ACTIVE, tails: TAILS, halves: [JOURNAL, JOURNAL + journal::HALF], half: journal::HALF };

/// Handle to the shared memory; copies mean the same memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    region: SharedRegion,
}

/// The descriptors of the guard that no keeper may sweep away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardDescriptors {
    pub(crate) signals: RawFd,
    pub(crate) pipe_write: RawFd,
    pub(crate) pipe_read: RawFd,
    pub(crate) errand_wake: RawFd,
    pub(crate) errand_done: RawFd,
}

impl GuardDescriptors {
    pub(crate) fn all(self) -> [RawFd; 5] {
        [self.signals, self.pipe_write, self.pipe_read, self.errand_wake, self.errand_done]
    }
}

impl Life {
    pub(crate) fn new() -> Result<Self, Errno> {
        SharedRegion::new(JOURNAL + 2 * journal::HALF).map(|region| Self { region })
    }

    fn get(self, offset: usize) -> u64 {
        self.region.word(offset).load(Ordering::Acquire)
    }

    fn set(self, offset: usize, value: u64) {
        self.region.word(offset).store(value, Ordering::Release);
    }

    pub(crate) fn guard_pid(self) -> i32 {
        self.get(GUARD_PID) as i32
    }

    pub(crate) fn set_guard(self, pid: i32, descriptors: GuardDescriptors) {
        self.set(GUARD_SIGNALS, descriptors.signals as u64);
        self.set(PIPE_WRITE, descriptors.pipe_write as u64);
        self.set(PIPE_READ, descriptors.pipe_read as u64);
        self.set(ERRAND_WAKE, descriptors.errand_wake as u64);
        self.set(ERRAND_DONE, descriptors.errand_done as u64);
        self.set(GUARD_PID, pid as u64);
    }

    pub(crate) fn guard_descriptors(self) -> GuardDescriptors {
        GuardDescriptors {
            signals: self.get(GUARD_SIGNALS) as RawFd,
            pipe_write: self.get(PIPE_WRITE) as RawFd,
            pipe_read: self.get(PIPE_READ) as RawFd,
            errand_wake: self.get(ERRAND_WAKE) as RawFd,
            errand_done: self.get(ERRAND_DONE) as RawFd,
        }
    }

    pub(crate) fn keeper_pid(self) -> i32 {
        self.get(KEEPER_PID) as i32
    }

    pub(crate) fn set_keeper_pid(self, pid: i32) {
        self.set(KEEPER_PID, pid as u64);
    }

    pub(crate) fn keeper_deaths(self) -> u32 {
        self.get(KEEPER_DEATHS) as u32
    }

    pub(crate) fn count_keeper_death(self) {
        self.region.word(KEEPER_DEATHS).fetch_add(1, Ordering::AcqRel);
    }

    /// The status that the instance shall end with, once it was decided.
    pub(crate) fn exit_status(self) -> Option<u8> {
        let word = self.get(EXIT);
        (word & 0x100 != 0).then_some(word as u8)
    }

    pub(crate) fn decide_exit(self, status: u8) {
        self.set(EXIT, 0x100 | u64::from(status));
    }

    /// What is written down: the last commit.
    ///
    /// # Errors
    /// It is not ours to read.
    pub(crate) fn journal(self) -> Result<Journal, JournalError> {
        Journal::open(self.region, LAYOUT)
    }

    /// Guard only. False: the ring is full; leave the child unreaped and try again later.
    pub(crate) fn push_exit(self, pid: i32, ended: Ended) -> bool {
        let (head, tail) = (self.get(RING_HEAD), self.get(RING_TAIL));
        if head - tail >= RING_ENTRIES {
            return false;
        }
        let (kind, value) = match ended {
            Ended::Exited(status) => (0_u64, status),
            Ended::Signalled(signal) => (1, signal),
        };
        let at = RING + (head % RING_ENTRIES) as usize * 16;
        self.set(at, pid as u64);
        self.set(at + 8, kind << 32 | u64::from(value as u32));
        self.set(RING_HEAD, head + 1);
        true
    }

    /// Keeper only: the oldest exit that the guard reaped, with its place, left there until [`Life::drop_exit`].
    pub(crate) fn first_exit(self) -> Option<(u64, i32, Ended)> {
        let (head, tail) = (self.get(RING_HEAD), self.get(RING_TAIL));
        if head == tail {
            return None;
        }
        let at = RING + (tail % RING_ENTRIES) as usize * 16;
        let (pid, word) = (self.get(at) as i32, self.get(at + 8));
        let value = word as u32 as i32;
        Some((tail, pid, if word >> 32 == 0 { Ended::Exited(value) } else { Ended::Signalled(value) }))
    }

    /// Keeper only: the exit at this place is dealt with. Saying so twice changes nothing.
    pub(crate) fn drop_exit(self, place: u64) {
        if self.get(RING_TAIL) == place {
            self.set(RING_TAIL, place + 1);
        }
    }

    /// Keeper only: what the guard shall do.
    pub(crate) fn put_errand(self, errand: Errand) {
        let (kind, arguments) = match errand {
            Errand::Duplicate { pidfd, number } => (1, [pidfd as u64, number as u64, 0]),
            Errand::Read { pid, address, length } => (2, [pid as u64, address, length as u64]),
        };
        for (offset, argument) in ERRAND_ARGUMENTS.into_iter().zip(arguments) {
            self.set(offset, argument);
        }
        self.set(ERRAND_KIND, kind);
    }

    /// Guard only.
    pub(crate) fn errand(self) -> Option<Errand> {
        let [first, second, third] = ERRAND_ARGUMENTS.map(|offset| self.get(offset));
        match self.get(ERRAND_KIND) {
            1 => Some(Errand::Duplicate { pidfd: first as i32, number: second as i32 }),
            2 => Some(Errand::Read { pid: first as i32, address: second, length: third as usize }),
            _ => None,
        }
    }

    /// Guard only: a number that is not negative, or an error.
    pub(crate) fn put_errand_result(self, result: Result<i32, Errno>) {
        self.set(ERRAND_RESULT, result.unwrap_or_else(|error| -error.raw_os_error()) as u64);
    }

    pub(crate) fn errand_result(self) -> Result<i32, Errno> {
        match self.get(ERRAND_RESULT) as i32 {
            number if number >= 0 => Ok(number),
            number => Err(Errno::from_raw_os_error(-number)),
        }
    }

    pub(crate) fn put_errand_data(self, data: &[u8]) {
        self.region.write(ERRAND_DATA, data);
    }

    pub(crate) fn errand_data(self, length: usize) -> Vec<u8> {
        self.region.read(ERRAND_DATA, length.min(ADDRESS_MAX))
    }

    /// Where a notification is received into, so that a successor finds it.
    pub(crate) fn inbox(self) -> (SharedRegion, usize) {
        (self.region, INBOX)
    }

    /// Which generation's notification the inbox holds.
    pub(crate) fn inbox_generation(self) -> &'static AtomicU64 {
        self.region.word(INBOX_GENERATION)
    }
}

const _: () = assert!(
    INBOX + seccomp::INBOX_SIZE <= ERRAND_WAKE && ERRAND_DATA + ADDRESS_MAX <= RING && RING + RING_ENTRIES as usize * 16 <= JOURNAL
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Record;
    use crate::state::State;

    #[test]
    fn the_last_commit_is_what_a_successor_finds() {
        let life = Life::new().expect("mmap");
        let restore = || State::restore(&life.journal().expect("readable")).expect("decodes");
        assert!(restore().is_none());
        let mut journal = life.journal().expect("empty");
        let mut state = State::for_test();
        for blob in [b"one".to_vec(), vec![7; 100_000], b"three".to_vec()] {
            state.new_blobs.insert(String::new(), blob.clone());
            state.next_listener += 1;
            journal.commit(&state.changes().expect("encodes")).expect("commit");
            assert_eq!(restore().expect("committed").next_listener, state.next_listener);
            assert_eq!(life.journal().expect("readable").get(&Record::Blob(String::new())), Some(blob));
        }
        assert_eq!(state.changes().expect("encodes"), [], "nothing has changed: nothing is written");
    }

    #[test]
    fn exits_come_out_in_order_and_a_full_ring_says_so() {
        let life = Life::new().expect("mmap");
        assert_eq!(life.first_exit(), None);
        for pid in 1..=RING_ENTRIES as i32 {
            assert!(life.push_exit(pid, if pid % 2 == 0 { Ended::Signalled(9) } else { Ended::Exited(pid % 256) }));
        }
        assert!(!life.push_exit(1, Ended::Exited(0)));
        assert_eq!(life.first_exit(), Some((0, 1, Ended::Exited(1))));
        life.drop_exit(0);
        life.drop_exit(0);
        assert_eq!(life.first_exit(), Some((1, 2, Ended::Signalled(9))));
        assert!(life.push_exit(5000, Ended::Exited(0)));
    }
}
