//! Tries everything, once, and writes down what came of it.

use std::path::Path;

use stayput_kernel::probe::{self, Try, access, place, steer, trap, watch};
use stayput_model::host::{Facts, Failure, Mptcp, Tried};

fn tried<T>(outcome: Try<T>) -> Tried<T> {
    outcome.map_err(|failure| {
        let errno = match failure {
            probe::Failure::Call { errno, .. } => Some(errno.raw_os_error()),
            probe::Failure::Wrong(_) => None,
        };
        Failure { said: failure.to_string(), errno }
    })
}

/// The facts of this host.
pub(super) fn look() -> Facts {
    let access = access::access();
    let trap = trap::trap();
    let here = place::place(Path::new("/"));
    Facts {
        system: format!("Linux {} {}", here.release, std::env::consts::ARCH),
        uid: rustix::process::geteuid().as_raw(),
        clone: tried(access.clone),
        itself: tried(place::itself()),
        trap: tried(trap.answered),
        needs_no_new_privs: trap.needs_no_new_privs,
        unbroken: tried(trap.unbroken),
        replaced: tried(trap.replaced),
        duplicate: tried(access.duplicate),
        read: tried(access.read),
        stranger: tried(access.stranger),
        see: tried(access.see),
        signal: tried(access.signal),
        close_range: tried(access.close_range),
        subreaper: tried(place::subreaper()),
        steering: tried(steer::steering()),
        muting: tried(steer::muting()),
        migrating: tried(steer::migrating()),
        mptcp: match steer::mptcp() {
            steer::Mptcp::Absent(errno) => Mptcp::Absent(errno.to_string()),
            steer::Mptcp::Present(outcome) => Mptcp::Present(tried(outcome)),
        },
        held_queue: tried(steer::held_queue()),
        refuses_on_overflow: here.refuses_on_overflow,
        listing: tried(watch::listing()),
        listed: tried(watch::listed()),
        release_event: tried(watch::release_event()),
        uring_binds: tried(place::uring_binds()),
        cgroup: tried(place::cgroup()),
        ptrace_scope: here.ptrace_scope,
        low_port: tried(place::low_port()),
        first_free_port: here.first_free_port,
        open_files: place::open_files(),
        systemd: here.systemd,
        container: here.container,
        wsl: here.wsl,
        gvisor: here.gvisor,
    }
}
