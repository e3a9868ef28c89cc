//! Times of tasks: which is next, and a timer for it. One timer of the wall clock for all of them, armed for the nearest alone; the kernel says
//! when the clock is set (`TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2)), and then all is found out anew.
//!
//! What was due while nobody looked (the machine slept, the daemon was dead, the clock was set forward) is due once, at once, and it is said how often it
//! would have been. What was run is not run again because the clock is set back a little ([`correction_ms`]). Summer time moves no instant: the times of
//! a schedule are found in the zone, and waited for in UTC.

use crate::events::wall_ms;
use crate::reactor::{Message, Reactor};
use crate::say::Mark;
use crate::watch::watch;
use chrono::{DateTime, Local, TimeZone};
use croner::Cron;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use stayput_model::event::Event;
use stayput_model::service::correction_ms;
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
    cron: Schedule,
    /// No run is due at that time or before.
    after_ms: Option<u64>,
    /// The next time; `None`: there is none.
    at_ms: Option<u64>,
}

/// Most times that were passed over and are counted: one for each minute of some days.
const COUNTED: usize = 10_000;

/// A cron expression that was read.
#[derive(Debug, Clone)]
struct Schedule {
    cron: Cron,
    /// How far the clock may go back.
    correction_ms: u64,
}

impl Schedule {
    fn parse(text: &str) -> Option<Self> {
        let cron = croner::parser::CronParser::builder().seconds(croner::parser::Seconds::Disallowed).build().parse(text).ok()?;
        Some(Self { cron, correction_ms: correction_ms(text) })
    }

    /// The first time after both; `None`: the expression names none that ever comes.
    fn next<Z: TimeZone>(&self, zone: &Z, now_ms: u64, after_ms: Option<u64>) -> Option<u64> {
        // Further ahead of the clock than any adjustment: the clock was wrong when that was written down.
        let after = after_ms.filter(|after| *after <= now_ms.saturating_add(self.correction_ms)).unwrap_or(0);
        let from: DateTime<Z> = zone.timestamp_millis_opt(i64::try_from(now_ms.max(after)).ok()?).single()?;
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        u64::try_from(next.timestamp_millis()).ok()
    }

    /// How many of its times have come between its time `at_ms` and now, which is run for all of them.
    fn passed<Z: TimeZone>(&self, zone: &Z, at_ms: u64, now_ms: u64) -> usize {
        let later = std::iter::successors(Some(at_ms), |at| self.next(zone, *at, None));
        later.skip(1).take_while(|at| *at <= now_ms).take(COUNTED).count()
    }
}

/// What is said of times that were passed over.
fn of_passed(count: usize) -> Option<String> {
    let times = match count {
        0 => return None,
        1 => "another time of its schedule has".to_owned(),
        COUNTED.. => format!("more than {COUNTED} other times of its schedule have"),
        count => format!("{count} other times of its schedule have"),
    };
    Some(format!("{times} passed since this one was due (the clock was set forward, or the machine slept): it runs once for all of them"))
}

/// What a look has found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Looked {
    events: Vec<Event>,
    /// What is to be said of which service.
    said: Vec<(String, String)>,
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
                    let looked = self.look(&Local, wall_ms());
                    // The reactor is gone only when the daemon ends.
                    for (service, text) in looked.said {
                        let _ = to.send(Message::Tell(service, Mark::Trouble, text));
                    }
                    for event in looked.events {
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
    fn look(&self, zone: &impl TimeZone, now_ms: u64) -> Looked {
        let mut looked = Looked::default();
        self.entries.borrow_mut().retain(|service, entry| {
            if let Some(at_ms) = entry.at_ms.filter(|at| *at <= now_ms) {
                // The world asks for the next one when it has heard of this one.
                looked.events.push(Event::Due { service: service.clone(), at_ms });
                looked.said.extend(of_passed(entry.cron.passed(zone, at_ms, now_ms)).map(|text| (service.clone(), text)));
                return false;
            }
            let at_ms = entry.cron.next(zone, now_ms, entry.after_ms);
            if at_ms != entry.at_ms {
                entry.at_ms = at_ms;
                looked.events.push(Event::Scheduled { service: service.clone(), at_ms });
            }
            true
        });
        looked
    }

    /// Waits for the next time of a service in the place of what was waited for.
    fn set(&self, service: String, cron: Schedule, after_ms: Option<u64>, now_ms: u64) -> Event {
        let at_ms = cron.next(&Local, now_ms, after_ms);
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
        // It was checked when the configuration was read.
        let cron = Schedule::parse(cron);
        if let Some(at_ms) = expected_ms.filter(|at| *at <= now_ms) {
            if let Some(text) = cron.and_then(|cron| of_passed(cron.passed(&Local, at_ms, now_ms))) {
                self.tell(&service, Mark::Trouble, &text);
            }
            return Event::Due { service, at_ms };
        }
        if self.schedules.is_none() {
            match Schedules::start(self.to.clone()) {
                Ok(schedules) => self.schedules = Some(schedules),
                Err(error) => self.tell(&service, Mark::Trouble, &format!("no timer for its schedule: timerfd_create: {error}")),
            }
        }
        match (&self.schedules, cron) {
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
    use chrono::{FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    /// 2026-11-23 12:00:30 UTC: half a minute past, in every zone.
    const NOW: u64 = 1_795_435_230_000;

    /// The zone of Berlin, in 2026: UTC+1, and UTC+2 from 29 March to 25 October, 1:00 UTC.
    #[derive(Debug, Clone, Copy)]
    struct Berlin;

    const SPRING: u64 = 1_774_746_000_000;
    const AUTUMN: u64 = 1_792_890_000_000;

    fn winter() -> FixedOffset {
        FixedOffset::east_opt(3600).expect("an offset")
    }

    fn summer() -> FixedOffset {
        FixedOffset::east_opt(7200).expect("an offset")
    }

    impl TimeZone for Berlin {
        type Offset = FixedOffset;

        fn from_offset(_: &FixedOffset) -> Self {
            Self
        }

        fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<FixedOffset> {
            self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
        }

        fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
            let fits = |offset: &FixedOffset| self.offset_from_utc_datetime(&(*local - *offset)) == *offset;
            match [summer(), winter()].into_iter().filter(fits).collect::<Vec<_>>()[..] {
                [one] => MappedLocalTime::Single(one),
                [earlier, later] => MappedLocalTime::Ambiguous(earlier, later),
                _ => MappedLocalTime::None,
            }
        }

        fn offset_from_utc_date(&self, utc: &NaiveDate) -> FixedOffset {
            self.offset_from_utc_datetime(&utc.and_time(NaiveTime::MIN))
        }

        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
            let at = u64::try_from(utc.and_utc().timestamp_millis()).expect("after 1970");
            if (SPRING..AUTUMN).contains(&at) { summer() } else { winter() }
        }
    }

    fn parse(cron: &str) -> Schedule {
        Schedule::parse(cron).expect("cron")
    }

    /// When it runs in this time, if each run asks for the next one, as local time.
    fn runs(cron: &str, from: u64, to: u64) -> Vec<String> {
        let cron = parse(cron);
        let times = std::iter::successors(cron.next(&Berlin, from, None), |at| cron.next(&Berlin, *at, Some(*at)));
        let local = |at| Berlin.timestamp_millis_opt(i64::try_from(at).expect("small")).single().expect("one");
        times.take_while(|at| *at <= to).map(|at| local(at).format("%d %H:%M%:z").to_string()).collect()
    }

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
        let cron = parse("* * * * *");
        assert_eq!(cron.next(&Local, NOW, None), Some(NOW + MINUTE / 2));
        // On the minute itself: that one has begun.
        assert_eq!(cron.next(&Local, NOW + MINUTE / 2, None), Some(NOW + MINUTE * 3 / 2));
        assert_eq!(parse("0 0 30 2 *").next(&Local, NOW, None), None, "there is no such day");
    }

    #[test]
    fn what_was_run_is_not_run_again_when_the_clock_goes_back() {
        // A job at certain times: not in the hours that come again.
        let daily = parse("1 12 * * *");
        let ran = NOW + MINUTE / 2;
        assert_eq!(daily.next(&Utc, NOW - HOUR, Some(ran)), Some(ran + 24 * HOUR));
        // By more than an adjustment: it was wrong before.
        assert_eq!(daily.next(&Utc, NOW - 4 * HOUR, Some(ran)), Some(ran));
        // A job every so often goes on by the new time, but for the minute that it was run in.
        let often = parse("* * * * *");
        assert_eq!(often.next(&Utc, NOW - MINUTE / 2, Some(ran)), Some(ran + MINUTE));
        assert_eq!(often.next(&Utc, NOW - HOUR, Some(ran)), Some(ran - HOUR));
    }

    #[test]
    fn summer_time_runs_nothing_twice_and_leaves_out_nothing_but_what_is_not_there() {
        // 2:30 is not there: at the first moment that is, and on the next day as ever.
        assert_eq!(runs("30 2 * * *", SPRING - 12 * HOUR, SPRING + 30 * HOUR), ["29 03:00+02:00", "30 02:30+02:00"]);
        // 2:30 is there twice: it runs at the first.
        assert_eq!(runs("30 2 * * *", AUTUMN - 12 * HOUR, AUTUMN + 30 * HOUR), ["25 02:30+02:00", "26 02:30+01:00"]);
        // What is meant to run every half hour does, in each hour that passes.
        assert_eq!(
            runs("*/30 * * * *", SPRING - HOUR, SPRING + HOUR),
            ["29 01:30+01:00", "29 03:00+02:00", "29 03:30+02:00", "29 04:00+02:00"]
        );
        let all = runs("*/30 * * * *", AUTUMN - HOUR, AUTUMN + HOUR);
        assert_eq!(all, ["25 02:30+02:00", "25 02:00+01:00", "25 02:30+01:00", "25 03:00+01:00"]);
    }

    #[test]
    fn a_clock_that_is_set_changes_what_is_next() {
        let (_runtime, schedules) = schedules();
        let told = schedules.set("job".to_owned(), parse("* * * * *"), None, NOW);
        let scheduled = |at_ms| Event::Scheduled { service: "job".to_owned(), at_ms: Some(at_ms) };
        assert_eq!(told, scheduled(NOW + MINUTE / 2));
        let look = |now| schedules.look(&Local, now);
        assert_eq!(look(NOW + 1000), Looked::default(), "nothing is due and nothing is another");
        let back = look(NOW - 10 * MINUTE);
        assert_eq!(back.events, [scheduled(NOW - 10 * MINUTE + MINUTE / 2)]);
        // Forward, over several times: one run, and it is said how many it stands for.
        let ahead = look(NOW + 60 * MINUTE);
        assert_eq!(ahead.events, [Event::Due { service: "job".to_owned(), at_ms: NOW - 10 * MINUTE + MINUTE / 2 }]);
        assert!(ahead.said[0].1.starts_with("69 other times of its schedule have passed"), "{ahead:?}");
        assert_eq!(look(NOW + 120 * MINUTE), Looked::default(), "it is asked for anew first");
    }

    #[test]
    fn a_time_that_comes_when_it_should_stands_for_itself_alone() {
        let (_runtime, schedules) = schedules();
        schedules.set("job".to_owned(), parse("* * * * *"), None, NOW);
        let looked = schedules.look(&Local, NOW + MINUTE / 2 + 5);
        assert_eq!((looked.events.len(), looked.said), (1, vec![]));
        // A day of which nobody was awake, by the minute: counted up to a bound.
        let minute = parse("* * * * *");
        assert_eq!((minute.passed(&Utc, NOW + MINUTE / 2, NOW + 2 * MINUTE), minute.passed(&Utc, NOW, NOW + 30 * 24 * HOUR)), (1, COUNTED));
        assert!(of_passed(COUNTED).is_some_and(|text| text.starts_with("more than 10000 ")));
    }
}
