//! The restart as the story tells it: TERM, then a maintenance loop that checks the port and starts the server until it serves.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{BOOT, PATIENCE, Shared, Stage};
use crate::Error;
use crate::process::{Running, describe};
use crate::result::{Attempt, Cut, Scenario};
use crate::story::{Reuse, Server};
use crate::watch;

/// Between two attempts of the loop; with 15 s it makes the 3 to 5 attempts that the story counts in 60 s.
const PAUSE: Duration = Duration::from_secs(15);
const QUICK_PAUSE: Duration = Duration::from_millis(1500);
/// With --quick the wait for TIME_WAIT is cut after this time.
const QUICK_WAIT: Duration = Duration::from_secs(5);
/// Beyond this the kernel would have let go twice.
const FULL_WAIT: Duration = Duration::from_secs(82);
/// After the new server has answered.
pub(crate) const AFTERMATH: Duration = Duration::from_millis(700);

/// Which look the loop takes at the port before it starts the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Bind with SO_REUSEADDR, no listen.
    TestBind,
    /// Is there a process that listens?
    LiveProcess,
}

/// How a loop goes about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loop {
    pub(crate) look: Look,
    /// Between two attempts.
    pub(crate) pause: Duration,
    /// From the order on; then the scenario is cut.
    pub(crate) give_up: Duration,
}

/// Before: with the test bind, and a server whose bind lacks SO_REUSEADDR.
pub(crate) fn before(shared: &Shared<'_>, id: &str, title: &str, port: u16, reuse: Reuse) -> Result<Scenario, Error> {
    let (pause, give_up) = if shared.quick { (QUICK_PAUSE, QUICK_WAIT) } else { (PAUSE, FULL_WAIT) };
    told(shared, id, title, &server(port, reuse), &Loop { look: Look::TestBind, pause, give_up })
}

/// After: with the look for a live process, and both options before bind.
pub(crate) fn after(shared: &Shared<'_>, port: u16) -> Result<Scenario, Error> {
    let way = Loop { look: Look::LiveProcess, pause: Duration::from_secs(1), give_up: Duration::from_secs(10) };
    told(shared, "after", "after: SO_REUSEADDR and SO_REUSEPORT before bind, a look for live processes", &server(port, Reuse::Both), &way)
}

pub(crate) fn server(port: u16, reuse: Reuse) -> Server {
    Server { port, reuse, boot: BOOT, slow_exit: Duration::ZERO, child: None, tied: true }
}

fn told(shared: &Shared<'_>, id: &str, title: &str, server: &Server, way: &Loop) -> Result<Scenario, Error> {
    let mut stage = Stage::new(shared, id, title, server.port);
    stage.say("[WEB] Starting Web Dashboard...");
    say_check(&mut stage, way.look, server.reuse);
    let mut old = stage.old(server, Duration::from_secs(5))?;
    stage.say(format!("[✓] Web Dashboard running (PID: {})", old.pid()));
    stage.order();
    old.signal(Signal::TERM);
    stage.say(format!("[!] kill -TERM {}", old.pid()));
    if old.wait(PATIENCE, shared.cancel)? {
        stage.note_end(old.pid(), old.ended().map(describe));
        stage.say("[!] Web Dashboard stopped, restarting...");
    }
    let new = start_until_it_serves(&mut stage, server, way)?;
    if new.is_some() {
        stage.pause(AFTERMATH)?;
    }
    finish(stage, new.into_iter().chain([old]))
}

/// Ends the clients first: what the end of the servers does to them is no part of the story.
pub(crate) fn finish(mut stage: Stage<'_>, running: impl Iterator<Item = Running>) -> Result<Scenario, Error> {
    stage.stop_clients()?;
    drop(running.collect::<Vec<_>>());
    Ok(stage.scenario)
}

/// The loop. `None`: it gave up.
pub(crate) fn start_until_it_serves(stage: &mut Stage<'_>, server: &Server, way: &Loop) -> Result<Option<Running>, Error> {
    // What troubled the old one does not trouble the new one.
    let server = Server { child: None, slow_exit: Duration::ZERO, ..*server };
    loop {
        say_check(stage, way.look, server.reuse);
        let at_ms = stage.now_ms();
        let mut new = stage.launch(&server, "attempt")?;
        let pid = new.pid();
        let serves = stage.until_it_answers(&mut new, PATIENCE)?;
        if serves {
            stage.note_role(pid, "new");
            stage.scenario.attempts.push(Attempt { at_ms, pid, served: true, error: None });
            stage.scenario.turnover_ms = Some(stage.since_order_ms());
            stage.scenario.done_ms = stage.scenario.turnover_ms;
            stage.say(format!("[✓] Web Dashboard running (PID: {pid})"));
            return Ok(Some(new));
        }
        stage.note_end(pid, new.ended().map(describe));
        let error = new.last_words();
        if let Some(error) = &error {
            stage.say(format!("[Web Dashboard] {error}"));
        }
        stage.scenario.attempts.push(Attempt { at_ms, pid, served: false, error });
        if !wait_for_the_next(stage, server.reuse, way)? {
            return Ok(None);
        }
    }
}

/// The pause between two attempts, in which the kernel is asked four times a second whether it would let the server bind by now. False: time
/// is over.
fn wait_for_the_next(stage: &mut Stage<'_>, reuse: Reuse, way: &Loop) -> Result<bool, Error> {
    let start = Instant::now();
    let mut said = 0;
    loop {
        if stage.scenario.released_ms.is_none() && stage.is_free_for(reuse) {
            stage.scenario.released_ms = Some(stage.since_order_ms());
        }
        let since = Duration::from_millis(stage.since_order_ms());
        if since >= way.give_up {
            let left_ms = watch::time_wait_left(stage.port()).map(|left| left.as_millis() as u64);
            stage.scenario.cut = Some(Cut { after_ms: since.as_millis() as u64, left_ms });
            return Ok(false);
        }
        let Some(left) = way.pause.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { return Ok(true) };
        // As the story's log: a line a second, of which the first few tell enough.
        if way.pause > Duration::from_secs(5) && said < 2 && start.elapsed() >= Duration::from_secs(said) {
            stage.say(format!("[!] Web Dashboard stopped, but waiting {}s...", left.as_secs_f64().ceil()));
            said += 1;
        }
        stage.pause(left.min(Duration::from_millis(250)))?;
    }
}

fn say_check(stage: &mut Stage<'_>, look: Look, reuse: Reuse) {
    let port = stage.port();
    match look {
        Look::TestBind => {
            let free = stage.test_bind(reuse);
            stage.say(if free { format!("[✓] Port {port} is confirmed available") } else { format!("[!] Port {port} is in use") });
        }
        Look::LiveProcess => {
            let free = stage.live_process(reuse);
            if free {
                stage.say(format!("[INFO] Port {port} may be in TIME_WAIT state"));
                stage.say("[INFO] Web Dashboard will use SO_REUSEADDR");
            } else {
                stage.say(format!("[!] Port {port} has a live process"));
            }
        }
    }
}
