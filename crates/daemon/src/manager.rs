//! The service manager that started the instance, if one did and wants to know (`NOTIFY_SOCKET`, sd_notify(3)): when everything is started, what goes
//! on, that a reload or the end has begun, that we are alive, and which process stands for the instance.
//!
//! The daemon tells, for it alone knows; it is not the main process, so the manager has to listen to all of the unit (`NotifyAccess=all`, as in
//! `dist/stayput.service`). A daemon that starts anew says again what is so.

use crate::control::are_reloading;
use crate::reactor::{Message, Reactor};
use stayput_keeper::protocol::{Reply, Request};
use stayput_wire::State;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::time::Instant;

/// Between two looks at what there is to say; what changes more often is said once.
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// Services named in the status.
const NAMED: usize = 5;

/// What was said, and to whom.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How often it wants to hear that we are alive, halved so that one late word is no silence.
    watchdog: Option<Duration>,
    alive_due: Option<Instant>,
    status_due: Option<Instant>,
    ready: bool,
    reloading: bool,
    stopping: bool,
    status: String,
    guard: i32,
}

impl Manager {
    /// `guard`: the main process.
    pub(crate) fn from_environment(guard: i32) -> Option<Self> {
        let address = address(&std::env::var_os("NOTIFY_SOCKET")?)?;
        let watchdog = watchdog(std::env::var("WATCHDOG_USEC").ok().as_deref(), std::env::var("WATCHDOG_PID").ok().as_deref(), guard);
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self {
            socket,
            address,
            watchdog,
            alive_due: watchdog.map(|_| Instant::now()),
            status_due: None,
            ready: false,
            reloading: false,
            stopping: false,
            status: String::new(),
            guard,
        })
    }

    /// A manager that does not read is no reason to wait or to fail.
    fn say(&self, words: &str) {
        let _ = self.socket.send_to_addr(words.as_bytes(), &self.address);
    }

    fn next_due(&self) -> Option<Instant> {
        self.alive_due.into_iter().chain(self.status_due).min()
    }
}

/// A path, or with `@` a name in the abstract namespace.
fn address(name: &OsString) -> Option<SocketAddr> {
    match name.as_bytes().split_first()? {
        (b'@', name) => SocketAddr::from_abstract_name(name).ok(),
        (b'/', _) => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}

/// Half of the time that the manager gives, if it means us: the guard, or one before it that is gone by now.
fn watchdog(microseconds: Option<&str>, pid: Option<&str>, guard: i32) -> Option<Duration> {
    let time = microseconds?.parse().ok().filter(|time| *time > 0).map(Duration::from_micros)?;
    let ours = |pid: i32| pid == guard || stayput_kernel::process::addressee(pid).is_err();
    let meant = pid.is_none_or(|pid| pid.parse().is_ok_and(ours));
    meant.then_some(time / 2)
}

/// Waits for the next time at which there is something to say; for ever without a manager.
pub(crate) async fn next_due(manager: Option<&Manager>) {
    match manager.and_then(Manager::next_due) {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Reactor {
    /// Something may have changed.
    pub(crate) fn note_for_manager(&mut self) {
        let ending = self.world.is_ending();
        let reloading = are_reloading(self);
        let started = self.manager.as_ref().is_some_and(|manager| manager.ready) || self.all_started();
        let Some(manager) = &mut self.manager else { return };
        if ending && !std::mem::replace(&mut manager.stopping, true) {
            manager.say("STOPPING=1\nSTATUS=stopping all services");
        }
        if manager.stopping {
            return;
        }
        if started && !manager.ready {
            manager.ready = true;
            manager.say(&format!("READY=1\nMAINPID={}", manager.guard));
        }
        if manager.ready && reloading != manager.reloading {
            manager.reloading = reloading;
            let now = stayput_kernel::clock::monotonic_ns() / 1000;
            manager.say(&if reloading { format!("RELOADING=1\nMONOTONIC_USEC={now}") } else { "READY=1".to_owned() });
        }
        if manager.status_due.is_none() {
            manager.status_due = Some(Instant::now() + if manager.status.is_empty() { Duration::ZERO } else { STATUS_EVERY });
        }
    }

    /// A time has come.
    pub(crate) fn tell_manager(&mut self) {
        let now = Instant::now();
        let status = self.status_for_manager();
        let Some(manager) = &mut self.manager else { return };
        if manager.alive_due.is_some_and(|due| due <= now) {
            manager.alive_due = manager.watchdog.map(|time| now + time);
            manager.say("WATCHDOG=1");
        }
        if manager.status_due.take_if(|due| *due <= now).is_some() && !manager.stopping && manager.status != status {
            manager.say(&format!("STATUS={status}"));
            manager.status = status;
        }
    }

    /// Everything that starts at once is started, or cannot be for now: then the manager need not wait for it.
    fn all_started(&self) -> bool {
        self.manager.is_some() && {
            let names: Vec<String> =
                self.world.services.values().filter(|it| !it.config.disabled).map(|it| it.config.name.clone()).collect();
            self.are_started(&names)
        }
    }

    /// "3 of 4 services are up; api: backing-off".
    fn status_for_manager(&self) -> String {
        let (mut all, mut bad) = (0, Vec::new());
        for name in self.world.services.keys() {
            let Some(state) = self.state_of(name) else { continue };
            match state {
                State::Disabled | State::Stopped => {}
                State::Running | State::Soaking | State::Restarting | State::Handover | State::Working | State::Scheduled | State::Done => {
                    all += 1;
                }
                other => {
                    all += 1;
                    // An enum without fields is a string.
                    let word = serde_json::to_value(other).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
                    bad.push(format!("{name}: {word}"));
                }
            }
        }
        let services = if all == 1 { "service is" } else { "services are" };
        if bad.is_empty() {
            return format!("{all} {services} up");
        }
        let good = all - bad.len();
        let more = if bad.len() > NAMED { format!(", and {} more", bad.len() - NAMED) } else { String::new() };
        bad.truncate(NAMED);
        format!("{good} of {all} {services} up; {}{more}", bad.join(", "))
    }

    /// Asks who the guard is when the one that we know has ended.
    pub(crate) fn watch_guard(&mut self) {
        let Ok(guard) = stayput_kernel::process::pidfd(self.identity.guard) else { return };
        let (link, to) = (Rc::clone(&self.link), self.to.clone());
        tokio::task::spawn_local(async move {
            let Ok(guard) = crate::watch::watch(guard, Interest::READABLE) else { return };
            if guard.readable().await.is_err() {
                return;
            }
            if let Some(Reply::Dump(dump)) = link.call(Request::Dump).await {
                let _ = to.send(Message::Guard(dump));
            }
        });
    }

    /// The facts after a guard has ended: the keeper stands for the instance now.
    pub(crate) fn guard_is(&mut self, dump: &stayput_keeper::protocol::Dump) {
        if dump.guard_pid == self.identity.guard {
            return;
        }
        self.identity = crate::reactor::Identity::of(dump);
        self.guard.set(dump.guard_pid);
        if let Some(manager) = &mut self.manager {
            manager.guard = dump.guard_pid;
            manager.say(&format!("MAINPID={}", manager.guard));
        }
        self.watch_guard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_counts_if_it_is_ours() {
        let own = std::process::id().cast_signed();
        let half = Some(Duration::from_millis(500));
        assert_eq!(watchdog(Some("1000000"), Some(&own.to_string()), own), half);
        assert_eq!(watchdog(Some("1000000"), None, own), half);
        // That of a service manager which started somebody above us.
        assert_eq!(watchdog(Some("1000000"), Some(&own.to_string()), own + 1), None);
        for wrong in [None, Some(""), Some("0"), Some("soon")] {
            assert_eq!(watchdog(wrong, None, own), None);
        }
    }

    #[test]
    fn addresses_are_paths_or_abstract_names() {
        let of = |name: &str| address(&name.into());
        assert!(of("/run/notify").is_some_and(|address| address.as_pathname().is_some()));
        assert!(of("@notify").is_some_and(|address| address.as_abstract_name() == Some(b"notify")));
        for wrong in ["", "notify", "vsock:2:1"] {
            assert!(of(wrong).is_none());
        }
    }
}
