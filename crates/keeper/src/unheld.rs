//! Listeners of a service that came to be without a call that we could catch: bound by `io_uring` (Linux 6.11 and later), which passes no filter,
//! or open before the command began. They are found by looking, and told of; what cannot be held is not called held.

use crate::keeper::Keeper;
use crate::protocol::{Event, GenerationId, Trap};
use crate::strangers;
use rustix::io::Errno;
use stayput_kernel::clock;
use stayput_kernel::sock_diag::Socket;
use std::collections::{BTreeMap, BTreeSet};

/// When is looked after a command was executed. The kernel has no event for such a bind; most servers bind within the first time, and the second
/// is for the slow ones. Then no more: an instance at rest wakes nobody.
const LOOKS_NS: [u64; 2] = [2_000_000_000, 15_000_000_000];

/// Looks wait for others of the same second: one reads as much of `/proc` as all of them.
const TOGETHER_NS: u64 = 1_000_000_000;

impl Keeper {
    /// The generation's command runs: it is looked at twice.
    pub(crate) fn look_later(&mut self, id: GenerationId) {
        let now = clock::monotonic_ns();
        for after in LOOKS_NS {
            self.looks.entry((now + after).next_multiple_of(TOGETHER_NS)).or_default().insert(id);
        }
    }

    /// Does the looks that are due.
    pub(crate) fn do_looks(&mut self) {
        let later = self.looks.split_off(&(clock::monotonic_ns() + 1));
        let due = std::mem::replace(&mut self.looks, later);
        // Of one whose binds cannot be caught it is known that nothing is held.
        let caught = |found: &crate::state::Generation| found.trap == Some(Trap::Active) && !found.tree_empty;
        let due: BTreeSet<GenerationId> = due.into_values().flatten().filter(|id| self.state.generation(*id).is_some_and(caught)).collect();
        if due.is_empty() {
            return;
        }
        let held: BTreeSet<u32> = self.state.listeners.iter().map(|listener| listener.inode).collect();
        let suspects: Vec<Socket> = strangers::listening().into_iter().filter(|found| !held.contains(&found.inode)).collect();
        if suspects.is_empty() {
            return;
        }
        let mut members: BTreeMap<GenerationId, Vec<i32>> = BTreeMap::new();
        for (pid, id) in self.owners() {
            if due.contains(&id) {
                members.entry(id).or_default().push(pid);
            }
        }
        for (id, pids) in members {
            self.look_for_unheld(id, &pids, &suspects);
        }
    }

    /// Tells of those among the listeners that the generation's processes have.
    fn look_for_unheld(&mut self, id: GenerationId, pids: &[i32], suspects: &[Socket]) {
        // What cannot be seen cannot be told of.
        let open = |pid: &i32| self.proc.socket_inodes(*pid).unwrap_or_default();
        let own: BTreeSet<u32> = pids.iter().flat_map(open).map(|socket| socket.inode).collect();
        let unheld: Vec<&Socket> = suspects.iter().filter(|found| own.contains(&found.inode)).collect();
        let ring = !unheld.is_empty() && pids.iter().any(|pid| self.proc.has_uring(*pid));
        for found in unheld {
            self.tell(Event::NotHeld { generation: id, address: found.local, inode: found.inode, ring });
        }
        if ring && self.state.listeners_of(id).is_empty() {
            // Its next generation could not bind beside it, for nobody shares its port: it is restarted like one whose binds cannot be caught.
            let trap = Trap::Unavailable { errno: Errno::OPNOTSUPP.raw_os_error() };
            if let Some(generation) = self.state.generation_mut(id) {
                generation.trap = Some(trap);
            }
            self.commit();
            self.tell(Event::Executed { generation: id, trap });
        }
    }
}
