//! What a service may bind. The keeper binds in its name and may have more rights than it: it never binds what the service itself could not
//! have bound, unless that was declared for it.

use crate::keeper::Keeper;
use crate::protocol::GenerationId;
use stayput_kernel::credentials::{CAP_NET_BIND_SERVICE, has_capability};
use std::net::SocketAddr;

/// The lowest port for which no right is needed (ip(7)), where nothing else is said.
const UNPRIVILEGED: u16 = 1024;

impl Keeper {
    /// Whether a thread of a generation may bind an address: the port is for everybody, or declared, or the thread has the right itself.
    pub(crate) fn may_bind(&self, generation: GenerationId, tid: i32, address: SocketAddr) -> bool {
        let declared = || {
            let declared = self.state.generation(generation).map(|generation| generation.declared.as_slice());
            declared.is_some_and(|declared| is_declared(declared, address))
        };
        // Without the right ourselves it is the kernel that says no.
        address.port() >= unprivileged() || !has_capability(CAP_NET_BIND_SERVICE) || declared() || self.has_right(tid)
    }

    /// Its rights count in our network namespace if it has them in our user namespace: those of one of its own are worth nothing there.
    fn has_right(&self, tid: i32) -> bool {
        let user_namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        self.proc.status(tid).is_ok_and(|status| status.cap_eff >> CAP_NET_BIND_SERVICE & 1 == 1)
            && user_namespace(tid).is_some_and(|theirs| user_namespace(own) == Some(theirs))
    }
}

/// A declared port on any address (`0.0.0.0`, `::`) is the port, on whatever address the server wants it.
fn is_declared(declared: &[SocketAddr], address: SocketAddr) -> bool {
    declared.iter().any(|one| one.port() == address.port() && (one.ip().is_unspecified() || one.ip() == address.ip()))
}

fn unprivileged() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(UNPRIVILEGED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_address_is_no_wider_than_it_says() {
        let declared = ["127.0.0.1:80", "0.0.0.0:443"].map(|address| address.parse().expect("address"));
        for (address, expected) in [
            ("127.0.0.1:80", true),
            ("127.0.0.2:80", false),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("127.0.0.1:443", true),
            ("[::]:443", true),
            ("127.0.0.1:81", false),
        ] {
            assert_eq!(is_declared(&declared, address.parse().expect("address")), expected, "{address}");
        }
    }
}
