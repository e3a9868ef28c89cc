//! What really takes a port on a restart: a child that inherited the listener, a reloader's child after SIGKILL of its parent, a slow exit. What
//! the loops of before and after make of each.

use std::time::Duration;

use rustix::process::Signal;

use super::restart::{Look, Loop, finish, server, start_until_it_serves};
use super::{PATIENCE, Shared, Stage};
use crate::Error;
use crate::process::describe;
use crate::result::{Dot, Fate, Scenario, Share};
use crate::story::{Child, Reuse, Server};

/// How long a client waits for its answer here: long enough that nobody who is served is counted as hung.
pub(crate) const CLIENT_WAITS: Duration = Duration::from_secs(1);

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A child inherited the listening socket (Werkzeug makes it inheritable; `os.system("... &")`, multiprocessing).
    Stray,
    /// SIGKILL of a reloader leaves its child, which serves on.
    Reloader,
    /// The server takes its time.
    SlowExit,
}

impl Cause {
    pub(crate) const ALL: [Self; 3] = [Self::Stray, Self::Reloader, Self::SlowExit];

    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Stray => "stray",
            Self::Reloader => "reloader",
            Self::SlowExit => "slow-exit",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Stray => "a child inherited the listener",
            Self::Reloader => "the reloader's child after SIGKILL of its parent",
            Self::SlowExit => "a slow exit",
        }
    }

    /// The server with this trouble.
    pub(crate) fn server(self, port: u16, reuse: Reuse, quick: bool) -> Server {
        let slow = if quick { Duration::from_millis(1500) } else { Duration::from_secs(6) };
        let (child, slow_exit) = match self {
            Self::Stray => (Some(Child::Stray), Duration::ZERO),
            Self::Reloader => (Some(Child::Worker), Duration::ZERO),
            Self::SlowExit => (None, slow),
        };
        Server { slow_exit, child, ..server(port, reuse) }
    }

    /// What ends the old server in this tale.
    pub(crate) fn signal(self) -> Signal {
        if self == Self::Reloader { Signal::KILL } else { Signal::TERM }
    }
}

/// Whose loop meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// SO_REUSEADDR, as nearly every server has it, and the test bind.
    Before,
    /// SO_REUSEADDR and SO_REUSEPORT, and the look for live processes.
    After,
}

pub(crate) fn cause(shared: &Shared<'_>, cause: Cause, way: Way, port: u16) -> Result<Scenario, Error> {
    let (name, reuse, look) = match way {
        Way::Before => ("before", Reuse::Addr, Look::TestBind),
        Way::After => ("after", Reuse::Both, Look::LiveProcess),
    };
    let server = cause.server(port, reuse, shared.quick);
    let mut stage = Stage::new(shared, &format!("{}-{name}", cause.id()), &format!("{}, {name}", cause.title()), port);
    let mut old = old(&mut stage, cause, &server)?;
    stage.order();
    old.signal(cause.signal());
    stage.say(format!("[!] kill -{} {}", if cause == Cause::Reloader { "KILL" } else { "TERM" }, old.pid()));
    if cause != Cause::SlowExit {
        old.wait(PATIENCE, shared.cancel)?;
        stage.note_end(old.pid(), old.ended().map(describe));
    }
    stage.ask_why();
    let watched = if shared.quick { Duration::from_millis(2200) } else { Duration::from_secs(5) };
    let way = Loop { look, pause: Duration::from_millis(700), give_up: watched + server.slow_exit };
    let new = start_until_it_serves(&mut stage, &server, &way)?;
    let shared_from = stage.now_ms();
    if new.is_some() {
        stage.pause(if shared.quick { Duration::from_millis(1500) } else { Duration::from_secs(3) })?;
    }
    let shared_to = stage.now_ms().saturating_sub(20);
    if old.ended().is_some() {
        stage.note_end(old.pid(), old.ended().map(describe));
    }
    let new_pid = new.as_ref().map(crate::process::Running::pid);
    let mut scenario = finish(stage, new.into_iter().chain([old]))?;
    if let Some(new_pid) = new_pid {
        scenario.share = Some(share(&scenario.timeline, shared_from, shared_to, new_pid));
    }
    Ok(scenario)
}

/// As [`Stage::old`], but the one who answers may be a child.
fn old(stage: &mut Stage<'_>, cause: Cause, server: &Server) -> Result<crate::process::Running, Error> {
    if cause != Cause::Reloader {
        return stage.old(server, CLIENT_WAITS);
    }
    let mut old = stage.launch(server, "old")?;
    let start = std::time::Instant::now();
    while !super::answers(stage.port(), None) {
        if old.ended().is_some() || start.elapsed() > PATIENCE {
            return Err(Error::Server(format!("the story's server did not start: {}", old.last_words().unwrap_or_default())));
        }
        stage.pause(crate::process::LOOK)?;
    }
    stage.clients(CLIENT_WAITS, true, stayput_load::Expect::Echo)?;
    Ok(old)
}

/// Who answered what was due between `from` and `to`.
pub(crate) fn share(dots: &[Dot], from: u64, to: u64, new: u32) -> Share {
    let window = Duration::from_millis(from).as_secs_f64() * 1000.0..Duration::from_millis(to).as_secs_f64() * 1000.0;
    let mut share = Share::default();
    for dot in dots.iter().filter(|dot| window.contains(&dot.due_ms)) {
        share.sent += 1;
        match dot.fate {
            Fate::Served | Fate::Waited if dot.pid == new => share.by_new += 1,
            Fate::Served | Fate::Waited => share.by_old += 1,
            Fate::Refused | Fate::Reset | Fate::Hung | Fate::Other => share.by_nobody += 1,
        }
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_its_window_alone() {
        let dot = |due_ms: f64, fate, pid| Dot { due_ms, took_ms: 1.0, fate, pid };
        let dots = [
            dot(0.0, Fate::Served, 1),
            dot(10.0, Fate::Served, 1),
            dot(20.0, Fate::Waited, 2),
            dot(30.0, Fate::Hung, 0),
            dot(40.0, Fate::Served, 2),
        ];
        let share = share(&dots, 10, 40, 2);
        assert_eq!((share.sent, share.by_old, share.by_new, share.by_nobody), (3, 1, 1, 1));
    }
}
