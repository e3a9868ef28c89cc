//! What a service sets of its sockets before it binds them, where nobody may look at the sockets (`blind.rs`): the few options that are set of
//! listeners alone are caught as they are set, and set again for the socket that takes the place. The rest is lost: to catch what is set of each
//! connection as well (`TCP_NODELAY`, `SO_KEEPALIVE`) would cost each connection a way to us and back.

use crate::errand;
use crate::keeper::Keeper;
use crate::protocol::{Event, GenerationId};
use stayput_kernel::options::{SetOption, VALUE_MAX};
use stayput_kernel::seccomp::Notification;
use std::net::SocketAddr;

/// Of a generation. A socket that is closed before it is bound leaves its options behind.
const REMEMBERED: usize = 64;

impl Keeper {
    /// An option is being set. The kernel does it, or refuses; what it refuses the service it refuses us as well. (A value that changes while it is
    /// read gives the service another than it wanted, by its own doing.)
    pub(crate) fn on_option(&mut self, id: GenerationId, call: &Notification) {
        let Ok(number) = i32::try_from(call.arguments[0]) else { return };
        let Ok(process) = self.proc.status(call.tid).map(|status| status.tgid) else { return };
        let Ok(inode) = self.proc.socket_inode(process, number) else { return };
        let mut value = vec![0; (call.arguments[4] as u32 as usize).min(VALUE_MAX)];
        if errand::read(self.life, process, call.arguments[3], &mut value) != Ok(value.len()) {
            return;
        }
        let set = SetOption { level: call.arguments[1] as i32, name: call.arguments[2] as i32, value };
        let Some(generation) = self.state.generation_mut(id) else { return };
        generation.options.retain(|(own, before)| *own != inode || (before.level, before.name) != (set.level, set.name));
        if generation.options.len() >= REMEMBERED {
            generation.options.remove(0);
        }
        generation.options.push((inode, set));
    }

    /// What was set of a socket.
    pub(crate) fn options_of(&self, id: GenerationId, inode: u32) -> Vec<SetOption> {
        let all = self.state.generation(id).map_or(&[][..], |generation| generation.options.as_slice());
        all.iter().filter(|(own, _)| *own == inode).map(|(_, set)| set.clone()).collect()
    }

    /// Another socket is in its place.
    pub(crate) fn forget_options(&mut self, id: GenerationId, inode: u32) {
        if let Some(generation) = self.state.generation_mut(id) {
            generation.options.retain(|(own, _)| *own != inode);
        }
    }

    /// Tells what the socket that took the place of a service's own does not have.
    pub(crate) fn tell_not_copied(&mut self, generation: GenerationId, address: SocketAddr, options: &[&str]) {
        if !options.is_empty() {
            let options = options.iter().map(|&name| name.to_owned()).collect();
            self.tell(Event::NotCopied { generation, address, options });
        }
    }
}

/// Whether an IPv6 socket of which nothing was said takes IPv6 alone (ipv6(7)).
pub(crate) fn v6only_by_default() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1")
}
