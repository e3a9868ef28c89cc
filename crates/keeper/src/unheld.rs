//! Listeners of a service that came to be without a call that we could catch: bound by `io_uring` (Linux 6.11 and later), which passes no filter,
//! or open before the command began. They are found by looking, and told of; what cannot be held is not called held.

use crate::keeper::Keeper;
use crate::protocol::{Event, GenerationId, Trap};
use crate::strangers;
use rustix::io::Errno;
use stayput_kernel::clock;
use std::collections::BTreeSet;

/// When is looked after a command was executed. The kernel has no event for such a bind; most servers bind within the first time, and the second
/// is for the slow ones. Then no more: an instance at rest wakes nobody.
const LOOKS_NS: [u64; 2] = [2_000_000_000, 15_000_000_000];

impl Keeper {
    /// The generation's command runs: it is looked at twice.
    pub(crate) fn look_later(&mut self, id: GenerationId) {
        let now = clock::monotonic_ns();
        self.looks.extend(LOOKS_NS.map(|after| (now + after, id)));
    }

    /// Does the looks that are due.
    pub(crate) fn do_looks(&mut self) {
        let now = clock::monotonic_ns();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.looks).into_iter().partition(|(at, _)| *at <= now);
        self.looks = later;
        for (_, id) in due {
            self.look_for_unheld(id);
        }
    }

    fn look_for_unheld(&mut self, id: GenerationId) {
        // Of one whose binds cannot be caught it is known that nothing is held.
        let caught = |found: &crate::state::Generation| found.trap == Some(Trap::Active) && !found.tree_empty;
        if !self.state.generation(id).is_some_and(caught) {
            return;
        }
        let mut own = BTreeSet::new();
        let mut ring = false;
        for seen in self.members(id) {
            // What cannot be seen cannot be told of.
            own.extend(self.proc.socket_inodes(seen.pid).unwrap_or_default().into_iter().map(|socket| socket.inode));
            ring |= self.proc.has_uring(seen.pid);
        }
        let held: BTreeSet<u32> = self.state.listeners.iter().map(|listener| listener.inode).collect();
        let unheld: Vec<_> =
            strangers::listening().into_iter().filter(|found| own.contains(&found.inode) && !held.contains(&found.inode)).collect();
        for found in &unheld {
            self.tell(Event::NotHeld { generation: id, address: found.local, inode: found.inode, ring });
        }
        if ring && !unheld.is_empty() && self.state.listeners_of(id).is_empty() {
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
