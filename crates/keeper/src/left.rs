//! What a life of this instance left behind whose guard and keeper were killed in one instant: its services run on, without a supervisor, and have
//! its ports. Their processes carry the mark of that life in their cookie, and the marks of earlier lives stand in a file of the instance's
//! directory, whose lock says that those lives are over. What is new is let stand beside them, on the very same port; when they are to go is told to us.

use crate::keeper::Keeper;
use crate::protocol::{GenerationId, Left};
use crate::strangers;
use crate::tree::Seen;
use rustix::io::Errno;
use stayput_kernel::cgroup;
use stayput_kernel::sock_diag::Socket;
use stayput_kernel::socket::{self, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Digits of a mark.
const MARK: usize = 16;
/// Lives that are remembered. One that ended in order leaves no file.
const LIVES_MAX: usize = 16;

/// Writes down that the life with this mark begins; gives the marks of those before. What cannot be read is not known, and what it left counts as
/// somebody else's.
pub(crate) fn begin(lives: &OwnedFd, mark: &str) -> Vec<String> {
    let mut bytes = [0; (LIVES_MAX + 1) * (MARK + 1)];
    let length = rustix::io::retry_on_intr(|| rustix::io::pread(lives, &mut bytes, 0)).unwrap_or(0);
    let is_mark = |line: &&str| line.len() == MARK && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    let before: Vec<String> = String::from_utf8_lossy(&bytes[..length]).lines().filter(is_mark).map(str::to_owned).collect();
    let before = before[before.len().saturating_sub(LIVES_MAX)..].to_vec();
    let text: String = before.iter().map(String::as_str).chain([mark]).flat_map(|mark| [mark, "\n"]).collect();
    // Without it the services of this life are somebody else's to the next one.
    if rustix::io::pwrite(lives, text.as_bytes(), 0) == Ok(text.len()) {
        let _ = rustix::fs::ftruncate(lives, text.len() as u64);
    }
    before
}

/// What the names of a life's cgroups begin with; the number of the generation follows.
pub(crate) fn cgroup_prefix(mark: &str) -> String {
    format!("stayput-{mark}-")
}

/// Processes that were left, by service and generation.
type Found = BTreeMap<(String, GenerationId), BTreeSet<Seen>>;

impl Keeper {
    /// Looks for what is left; when that is nothing, it is not looked for again.
    pub(crate) fn left(&mut self) -> Vec<Left> {
        let found = self.find_left();
        let listening = if found.is_empty() { Vec::new() } else { strangers::listening() };
        let left = |((service, generation), processes): (&(String, GenerationId), &BTreeSet<Seen>)| {
            let inodes = self.inodes_of(processes);
            let listeners: Vec<(SocketAddr, u32)> =
                listening.iter().filter(|socket| inodes.contains(&socket.inode)).map(|socket| (socket.local, socket.inode)).collect();
            let pids = processes.iter().map(|seen| seen.pid).collect();
            Left { service: service.clone(), generation: *generation, pids, listeners }
        };
        let all: Vec<Left> = found.iter().map(left).collect();
        if all.is_empty() {
            for mark in std::mem::take(&mut self.state.left) {
                cgroup::sweep(&cgroup_prefix(&mark));
            }
        }
        all
    }

    fn find_left(&self) -> Found {
        let mut found = Found::new();
        if self.state.left.is_empty() {
            return found;
        }
        for pid in self.proc.pids().unwrap_or_default() {
            let Ok(stat) = self.proc.stat(pid) else { continue };
            if stat.is_kernel_thread() || (stat.state == 'Z' && stat.threads <= 1) {
                continue;
            }
            // Whose environment we may not read is not known to be ours.
            let environ = self.proc.read_path(&format!("{pid}/environ")).unwrap_or_default();
            let value =
                |name: &[u8]| environ.split(|byte| *byte == 0).find_map(|entry| std::str::from_utf8(entry.strip_prefix(name)?).ok());
            let Some((mark, generation)) = value(b"STAYPUT_COOKIE=").and_then(|cookie| cookie.split_once('-')) else { continue };
            let Ok(generation) = generation.parse() else { continue };
            let Some(service) = value(b"STAYPUT_SERVICE=").filter(|_| self.state.left.iter().any(|left| left == mark)) else { continue };
            let seen = Seen { pid, start_ticks: stat.start_ticks };
            found.entry((service.to_owned(), GenerationId(generation))).or_default().insert(seen);
        }
        found
    }

    fn inodes_of(&self, processes: &BTreeSet<Seen>) -> BTreeSet<u32> {
        let of = |seen: &Seen| self.proc.socket_inodes(seen.pid).unwrap_or_default();
        processes.iter().flat_map(of).map(|socket| socket.inode).collect()
    }

    /// Signals a generation that was left.
    ///
    /// # Errors
    /// `ESRCH`: no process of it is there any more.
    pub(crate) fn signal_left(&self, service: &str, generation: GenerationId, signal: i32) -> Result<(), Errno> {
        let found = self.find_left().remove(&(service.to_owned(), generation)).ok_or(Errno::SRCH)?;
        for seen in found {
            self.signal_seen(seen, signal);
        }
        Ok(())
    }

    /// The instance ends: nothing of it stays.
    pub(crate) fn kill_left(&self) {
        for seen in self.find_left().into_values().flatten() {
            self.signal_seen(seen, rustix::process::Signal::KILL.as_raw());
        }
    }

    /// A socket beside those that were left on the port; nobody else may be on it, and they must be where we want to be: new connections could not
    /// be kept from another address.
    ///
    /// # Errors
    /// `EADDRINUSE`: it is not so.
    pub(crate) fn beside_left(&mut self, service: &str, key: &Key) -> Result<OwnedFd, Errno> {
        let uid = self.shares_with_left(service, key).ok_or(Errno::ADDRINUSE)?;
        socket::bound_as(key, true, uid)
    }

    /// The user of those that were left, if there is nobody on the port but them.
    pub(crate) fn shares_with_left(&mut self, service: &str, key: &Key) -> Option<u32> {
        if self.state.left.is_empty() {
            return None;
        }
        let there = strangers::listening_on(key.address.port());
        let there: Vec<&Socket> = there.iter().filter(|socket| strangers::key_of(socket).overlaps(key)).collect();
        let uid = there.first()?.uid;
        let of_service: BTreeSet<Seen> =
            self.find_left().into_iter().filter(|((name, _), _)| name == service).flat_map(|(_, processes)| processes).collect();
        let theirs = self.inodes_of(&of_service);
        if !there.iter().all(|socket| strangers::key_of(socket) == *key && theirs.contains(&socket.inode)) {
            return None;
        }
        // They are told of in another way.
        self.strangers.extend(there.iter().map(|socket| socket.inode));
        Some(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    #[test]
    fn lives_are_remembered_and_noise_is_not() {
        let lives = rustix::fs::memfd_create("lives", MemfdFlags::CLOEXEC).expect("a file");
        let mark = |number: usize| format!("{number:016x}");
        assert_eq!(begin(&lives, &mark(1)), Vec::<String>::new());
        assert_eq!(begin(&lives, &mark(2)), [mark(1)]);
        rustix::io::pwrite(&lives, b"noise\n", 34).expect("written");
        assert_eq!(begin(&lives, &mark(3)), [mark(1), mark(2)]);
        for number in 4..100 {
            begin(&lives, &mark(number));
        }
        let before = begin(&lives, &mark(100));
        assert_eq!((before.len(), before.last()), (LIVES_MAX, Some(&mark(99))));
        let size = rustix::fs::fstat(&lives).expect("its size").st_size;
        assert_eq!(size.unsigned_abs() as usize, (LIVES_MAX + 1) * (MARK + 1), "it does not grow");
    }
}
