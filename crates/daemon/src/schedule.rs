//! Times of tasks: which is next, and a timer for it. One timer of the wall clock for all of them, armed for the nearest alone; the kernel says
//! when the clock is set (`TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2)), and then all is found out anew.
//!
//! What was due while nobody looked (the machine slept, the daemon was dead, the clock was set forward) is due once, at once. What was run
//! is not run again because the clock is set back a little.

use crate::events::wall_ms;
use crate::reactor::{Message, Reactor};
use crate::say::Mark;
use crate::watch::watch;
use chrono::{DateTime, Local, TimeZone as _};
use croner::Cron;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use stayput_model::event::Event;
use stayput_model::service::CLOCK_CORRECTION_MS;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

/// The times that are waited for.
#[derive(Debug)]
pub(crate) struct Schedules {
    timer: AsyncFd<OwnedFd>,
    entries: RefCell<BTreeMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    cron: Cron,
    /// No run is due at that time or before.
    after_ms: Option<u64>,
    /// The next time; `None`: there is none.
    at_ms: Option<u64>,
}

/// The first time after both; `None`: the expression names none that ever comes.
fn next(cron: &Cron, now_ms: u64, after_ms: Option<u64>) -> Option<u64> {
    // Further ahead of the clock than any adjustment: the clock was wrong when that was written down.
    let after = after_ms.filter(|after| *after <= now_ms.saturating_add(CLOCK_CORRECTION_MS)).unwrap_or(0);
    let from: DateTime<Local> = Local.timestamp_millis_opt(i64::try_from(now_ms.max(after)).ok()?).single()?;
    let next = cron.find_next_occurrence(&from, false).ok()?;
    u64::try_from(next.timestamp_millis()).ok()
}

fn parse(cron: &str) -> Option<Cron> {
    croner::parser::CronParser::builder().seconds(croner::parser::Seconds::Disallowed).build().parse(cron).ok()
}

impl Schedules {
    fn start(to: UnboundedSender<Message>) -> io::Result<Rc<Self>> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let schedules = Rc::new(Self { timer: watch(timer, Interest::READABLE)?, entries: RefCell::default() });
        tokio::task::spawn_local(Rc::clone(&schedules).run(to));
        Ok(schedules)
    }

    async fn run(self: Rc<Self>, to: UnboundedSender<Message>) {
        loop {
            let Ok(mut ready) = self.timer.readable().await else { return };
            match rustix::io::read(self.timer.get_ref(), &mut [0_u8; 8]) {
                // It has come, or the clock was set.
                Ok(_) | Err(Errno::CANCELED) => {
                    for event in self.look(wall_ms()) {
                        // The reactor is gone only when the daemon ends.
                        let _ = to.send(Message::World(event));
                    }
                    self.arm();
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => {}
            }
        }
    }

    /// What is due now, and other next times than those that were told.
    fn look(&self, now_ms: u64) -> Vec<Event> {
        let mut events = Vec::new();
        self.entries.borrow_mut().retain(|service, entry| {
            if let Some(at_ms) = entry.at_ms.filter(|at| *at <= now_ms) {
                // The world asks for the next one when it has heard of this one.
                events.push(Event::Due { service: service.clone(), at_ms });
                return false;
            }
            let at_ms = next(&entry.cron, now_ms, entry.after_ms);
            if at_ms != entry.at_ms {
                entry.at_ms = at_ms;
                events.push(Event::Scheduled { service: service.clone(), at_ms });
            }
            true
        });
        events
    }

    /// Waits for the next time of a service in the place of what was waited for.
    fn set(&self, service: String, cron: Cron, after_ms: Option<u64>, now_ms: u64) -> Event {
        let at_ms = next(&cron, now_ms, after_ms);
        self.entries.borrow_mut().insert(service.clone(), Entry { cron, after_ms, at_ms });
        self.arm();
        Event::Scheduled { service, at_ms }
    }

    pub(crate) fn remove(&self, service: &str) {
        self.entries.borrow_mut().remove(service);
        self.arm();
    }

    /// For the nearest time; for none it is switched off.
    fn arm(&self) {
        let nearest = self.entries.borrow().values().filter_map(|entry| entry.at_ms).min().unwrap_or(0);
        let at = Timespec { tv_sec: (nearest / 1000) as i64, tv_nsec: (nearest % 1000 * 1_000_000) as i64 };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        // The values are in their bounds and the descriptor is a timer: it cannot fail.
        let _ = rustix::time::timerfd_settime(self.timer.get_ref(), flags, &Itimerspec { it_interval: zero, it_value: at });
    }
}

impl Reactor {
    /// Finds out when a task is due next; what was expected and is past is due now.
    pub(crate) fn schedule(&mut self, service: String, cron: &str, after_ms: Option<u64>, expected_ms: Option<u64>) -> Event {
        let now_ms = wall_ms();
        if let Some(at_ms) = expected_ms.filter(|at| *at <= now_ms) {
            return Event::Due { service, at_ms };
        }
        if self.schedules.is_none() {
            match Schedules::start(self.to.clone()) {
                Ok(schedules) => self.schedules = Some(schedules),
                Err(error) => self.tell(&service, Mark::Trouble, &format!("no timer for its schedule: timerfd_create: {error}")),
            }
        }
        // It was checked when the configuration was read.
        match (&self.schedules, parse(cron)) {
            (Some(schedules), Some(cron)) => {
                let told = schedules.set(service, cron, after_ms, now_ms);
                if let Event::Scheduled { service, at_ms: None } = &told {
                    let service = service.clone();
                    self.tell(&service, Mark::Trouble, "its schedule names no time that ever comes");
                }
                told
            }
            _ => Event::Scheduled { service, at_ms: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    /// 2026-11-23 12:00:30 UTC: half a minute past, in every zone.
    const NOW: u64 = 1_795_435_230_000;

    fn schedules() -> (tokio::runtime::Runtime, Rc<Schedules>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let schedules = runtime.block_on(async {
            let timer =
                rustix::time::timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).expect("timer");
            Rc::new(Schedules { timer: watch(timer, Interest::READABLE).expect("watch"), entries: RefCell::default() })
        });
        (runtime, schedules)
    }

    #[test]
    fn the_next_minute_is_the_next_minute() {
        let cron = parse("* * * * *").expect("cron");
        assert_eq!(next(&cron, NOW, None), Some(NOW + MINUTE / 2));
        // On the minute itself: that one has begun.
        assert_eq!(next(&cron, NOW + MINUTE / 2, None), Some(NOW + MINUTE * 3 / 2));
        assert_eq!(next(&parse("0 0 30 2 *").expect("cron"), NOW, None), None, "there is no such day");
    }

    #[test]
    fn what_was_run_is_not_run_again_when_the_clock_goes_back() {
        let cron = parse("* * * * *").expect("cron");
        let ran = NOW + MINUTE / 2;
        assert_eq!(next(&cron, NOW - 10 * MINUTE, Some(ran)), Some(ran + MINUTE));
        // By more than an adjustment: it was wrong before.
        let long_ago = NOW - CLOCK_CORRECTION_MS - MINUTE;
        assert_eq!(next(&cron, long_ago, Some(ran)), Some(long_ago + MINUTE / 2));
    }

    #[test]
    fn a_clock_that_is_set_changes_what_is_next() {
        let (_runtime, schedules) = schedules();
        let told = schedules.set("job".to_owned(), parse("* * * * *").expect("cron"), None, NOW);
        assert_eq!(told, Event::Scheduled { service: "job".to_owned(), at_ms: Some(NOW + MINUTE / 2) });
        assert_eq!(schedules.look(NOW + 1000), [], "nothing is due and nothing is another");
        let back = schedules.look(NOW - 10 * MINUTE);
        assert_eq!(back, [Event::Scheduled { service: "job".to_owned(), at_ms: Some(NOW - 10 * MINUTE + MINUTE / 2) }]);
        // Forward, over several times: one run.
        let ahead = schedules.look(NOW + 60 * MINUTE);
        assert_eq!(ahead, [Event::Due { service: "job".to_owned(), at_ms: NOW - 10 * MINUTE + MINUTE / 2 }]);
        assert_eq!(schedules.look(NOW + 120 * MINUTE), [], "it is asked for anew first");
    }
}
