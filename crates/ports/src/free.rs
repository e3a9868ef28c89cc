//! Freeing a port gently: whom to stop, in which way, and doing it.
//!
//! Only who *holds* the port is stopped: never a client that is connected to it, nor one that has the number as its own
//! source port. What a manager (systemd, docker, stayput) would start again is left to that manager, with the command.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stayput_kernel::procfs::Proc;
use stayput_kernel::sock_diag::{SockDiag, State};

use crate::bind::Transport;
use crate::explain;
use crate::facts::{Holder, Manager, PortSocket, Process, Role, Via};
use crate::report::{Report, Step};
use crate::verdict::Outcome;
use crate::wait::{self, wait_released};

/// What freeing a port would take.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The port.
    pub port: u16,
    /// Processes to stop by SIGTERM.
    pub stop: Vec<Holder>,
    /// Processes that somebody manages, with the right command.
    pub managed: Vec<(Holder, Step)>,
    /// Connections that only the kernel has; destroying them frees the port.
    pub ownerless: Vec<PortSocket>,
    /// Clients that use the port for themselves; they are left alone.
    pub clients: Vec<Holder>,
    /// Sockets that hold the port while their owner cannot be seen.
    pub unseen: Vec<PortSocket>,
    /// Inodes of the sockets that hold the port.
    pub inodes: HashSet<u32>,
}

impl Plan {
    /// Nobody holds the port.
    pub fn is_empty(&self) -> bool {
        self.stop.is_empty() && self.managed.is_empty() && self.ownerless.is_empty() && self.unseen.is_empty() && self.clients.is_empty()
    }
}

/// Makes the plan for one port space from a report; `whatever` stops processes by signal even if they are managed,
/// but for pid 1 and stayput's.
pub fn plan(report: &Report, transport: Transport, whatever: bool) -> Plan {
    let mut plan = Plan {
        port: report.port,
        stop: Vec::new(),
        managed: Vec::new(),
        ownerless: Vec::new(),
        clients: Vec::new(),
        unseen: Vec::new(),
        inodes: HashSet::new(),
    };
    let blocks = |index: usize| report.verdicts.iter().any(|verdict| verdict.outcome != Outcome::Free && verdict.blockers.contains(&index));
    let mut holding = HashSet::new();
    for (index, socket) in report.sockets.iter().enumerate().filter(|(_, socket)| socket.transport == transport) {
        // A server's connections go with it. Without a listener they count if they stop somebody.
        let left_over = socket.role == Role::Accepted && socket.inode != 0 && blocks(index);
        if socket.role.holds() || left_over {
            holding.insert(index);
            plan.inodes.insert(socket.inode);
            if socket.pids.value().is_none() {
                plan.unseen.push(socket.clone());
            }
        } else if socket.inode == 0 && !matches!(socket.raw.state, State::NewSynRecv | State::SynRecv | State::Established) {
            plan.ownerless.push(socket.clone());
        }
    }
    let us = rustix::process::getpid().as_raw_nonzero().get();
    for holder in report.holders.iter().filter(|holder| holder.process.pid != us) {
        if holder.sockets.iter().any(|index| holding.contains(index)) {
            match explain::managed(&holder.process, report.port).filter(|_| !whatever || only_by_manager(&holder.process)) {
                Some((command, why)) => plan.managed.push((holder.clone(), Step { command, why: why.to_owned() })),
                // Whoever may receive the fd is only suspected.
                None if holder.via == Via::InFlight => {
                    plan.unseen.extend(holder.sockets.iter().map(|index| report.sockets[*index].clone()));
                }
                None => plan.stop.push(holder.clone()),
            }
        } else if holder.sockets.iter().any(|index| report.sockets[*index].role == Role::Outgoing && blocks(*index)) {
            plan.clients.push(holder.clone());
        }
    }
    plan
}

/// Those that a signal must not reach, whatever one asks for: pid 1, and what stayput guards.
fn only_by_manager(process: &Process) -> bool {
    process.pid == 1 || matches!(process.manager, Some(Manager::Stayput(_)))
}

/// How stopping the holders went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// All sockets that held the port are gone.
    Released {
        /// Processes that needed SIGKILL.
        killed: Vec<i32>,
    },
    /// The grace period passed; these did not let go.
    StillHeld(Vec<i32>),
    /// These may not be signalled by the caller; nobody was killed.
    NotPermitted(Vec<i32>),
}

/// Sends SIGTERM to the plan's processes and waits for the kernel's event that their sockets are gone; after `grace`,
/// SIGKILL if `force`. Each process is named by a pidfd and its start time: never a stranger with the same number.
///
/// # Errors
/// The kernel's events cannot be had.
pub fn stop(plan: &Plan, grace: Duration, force: bool) -> Result<Stopped, wait::Error> {
    let mut open: Vec<(i32, OwnedFd)> = Vec::new();
    let mut denied = Vec::new();
    let proc = Proc::open().ok();
    for holder in &plan.stop {
        let pid = holder.process.pid;
        let Some(fd) = same_process(proc.as_ref(), holder) else { continue };
        match pidfd_send_signal(&fd, Signal::TERM) {
            Ok(()) => {
                if holder.process.is_stopped() {
                    // A stopped process takes its SIGTERM only when it runs again.
                    let _ = pidfd_send_signal(&fd, Signal::CONT);
                }
                open.push((pid, fd));
            }
            Err(Errno::PERM) => denied.push(pid),
            // Gone in the meantime: nothing to stop.
            Err(_) => {}
        }
    }
    if !denied.is_empty() {
        return Ok(Stopped::NotPermitted(denied));
    }
    if wait_released(plan.port, &plan.inodes, Some(Instant::now() + grace))? {
        return Ok(Stopped::Released { killed: Vec::new() });
    }
    let alive: Vec<&(i32, OwnedFd)> = open.iter().filter(|(_, fd)| is_alive(fd)).collect();
    if !force {
        return Ok(Stopped::StillHeld(alive.iter().map(|(pid, _)| *pid).collect()));
    }
    let killed: Vec<i32> = alive.iter().filter(|(_, fd)| pidfd_send_signal(fd, Signal::KILL).is_ok()).map(|(pid, _)| *pid).collect();
    if wait_released(plan.port, &plan.inodes, Some(Instant::now() + Duration::from_secs(5)))? {
        return Ok(Stopped::Released { killed });
    }
    Ok(Stopped::StillHeld(killed))
}

/// A pidfd for the process that was described, if it still is that one.
fn same_process(proc: Option<&Proc>, holder: &Holder) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(holder.process.pid).filter(|pid| pid.as_raw_nonzero().get() > 1)?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Read after the pidfd was opened: from here on the number cannot change its meaning for us.
    let stat = proc?.stat(holder.process.pid).ok()?;
    (Some(stat.start_ticks) == holder.process.start_ticks).then_some(fd)
}

fn is_alive(fd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)), Ok(0))
}

/// How destroying ownerless connections went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Destroyed {
    /// So many are gone.
    pub destroyed: usize,
    /// The kernel refused for lack of rights (CAP_NET_ADMIN).
    pub denied: bool,
    /// The kernel cannot do it (CONFIG_INET_DIAG_DESTROY).
    pub unsupported: bool,
}

/// Destroys connections that only the kernel has (TIME_WAIT, FIN_WAIT, LAST_ACK). Never a listener, never one with an owner.
///
/// # Errors
/// The netlink socket cannot be had.
pub fn destroy_ownerless(plan: &Plan) -> Result<Destroyed, wait::Error> {
    let mut diag = SockDiag::open()?;
    let mut result = Destroyed::default();
    for socket in plan.ownerless.iter().filter(|socket| socket.raw.is_ownerless() && socket.raw.state != State::Listen) {
        match diag.destroy(&socket.raw).map_err(|error| error.errno().map(Errno::from_raw_os_error)) {
            // ENOENT: its time was up.
            Ok(()) | Err(Some(Errno::NOENT)) => result.destroyed += 1,
            Err(Some(Errno::PERM)) => result.denied = true,
            Err(_) => result.unsupported = true,
        }
    }
    Ok(result)
}
