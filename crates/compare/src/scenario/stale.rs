//! What SO_REUSEPORT lets a stale copy do: nobody stopped the old server, the new one starts beside it without an error, and both answer. Then the
//! old one hangs (SIGSTOP), and its share of the clients with it.

use std::time::Duration;

use rustix::process::Signal;

use super::causes::{CLIENT_WAITS, share};
use super::restart::{finish, server};
use super::{PATIENCE, Shared, Stage};
use crate::Error;
use crate::result::{Attempt, Scenario};
use crate::story::Reuse;

pub(crate) fn stale(shared: &Shared<'_>, port: u16) -> Result<Scenario, Error> {
    let server = server(port, Reuse::Both);
    let mut stage = Stage::new(shared, "stale-copy", "after: a stale copy beside the new one (SO_REUSEPORT)", port);
    let old = stage.old(&server, CLIENT_WAITS)?;
    stage.order();
    let at_ms = stage.now_ms();
    let mut new = stage.launch(&server, "new")?;
    if !stage.until_it_answers(&mut new, PATIENCE)? {
        return Err(Error::Server(format!("the second copy did not start: {}", new.last_words().unwrap_or_default())));
    }
    let pid = new.pid();
    stage.scenario.attempts.push(Attempt { at_ms, pid, served: true, error: None });
    stage.scenario.turnover_ms = Some(stage.since_order_ms());
    stage.scenario.done_ms = stage.scenario.turnover_ms;
    let window = if shared.quick { Duration::from_millis(1200) } else { Duration::from_secs(3) };
    let both_from = stage.now_ms();
    stage.pause(window)?;
    let stopped_from = stage.now_ms();
    old.signal(Signal::STOP);
    stage.say(format!("[!] the old copy (PID: {}) hangs (SIGSTOP)", old.pid()));
    stage.pause(window)?;
    let stopped_to = stage.now_ms();
    let old_pid = old.pid();
    // What waits for the stopped copy waits until its client gives up; it must not be answered now.
    stage.stop_clients()?;
    old.signal(Signal::CONT);
    stage.note_end(old_pid, None);
    let mut scenario = finish(stage, [old, new].into_iter())?;
    let mut both = share(&scenario.timeline, both_from, stopped_from, pid);
    let stopped = share(&scenario.timeline, stopped_from, stopped_to, pid);
    (both.sent_stopped, both.by_nobody_stopped) = (stopped.sent, stopped.by_nobody);
    scenario.share = Some(both);
    Ok(scenario)
}
