//! What has happened: a bounded ring of records, and readers that follow it.
//!
//! The ring is the only buffer. A reader is a place in it; one that is too slow, or asks too late, finds that the ring has gone on
//! without it and is told how much it missed. So a reader costs its place and nothing else, and can slow nobody.

use rustix::rand::GetRandomFlags;
use stayput_wire::{Answer, Cursor, EventRecord, Level, Reply, pattern};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;

/// Records kept at most.
const RECORDS: usize = 4096;
/// Bytes kept at most.
const BYTES: usize = 2 << 20;

/// The ring, shared by the reactor and its readers. Never borrowed across an await.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    ring: Rc<RefCell<Ring>>,
    changed: Rc<Notify>,
}

#[derive(Debug)]
struct Ring {
    boot: u64,
    /// Number of the newest record; the numbers are without gaps.
    last: u64,
    records: VecDeque<Kept>,
    bytes: usize,
}

/// A record as its line: read seldom, kept long, and a tenth of what its facts take as values.
#[derive(Debug)]
struct Kept {
    service: Option<Box<str>>,
    line: Box<[u8]>,
}

/// What is to be told; the ring adds the rest.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) service: Option<String>,
    pub(crate) kind: String,
    pub(crate) generation: Option<u64>,
    pub(crate) level: Level,
    pub(crate) text: String,
    pub(crate) data: serde_json::Value,
}

impl Events {
    /// An empty ring of a daemon that starts.
    pub(crate) fn new() -> Self {
        let mut random = [0_u8; 8];
        // Without randomness a reader may take this daemon's events for those of the one before: the time sets them apart then.
        let drawn = rustix::rand::getrandom(&mut random, GetRandomFlags::NONBLOCK).is_ok();
        let boot = if drawn { u64::from_ne_bytes(random) } else { stayput_kernel::clock::monotonic_ns() };
        let ring = Ring { boot: boot.max(1), last: 0, records: VecDeque::new(), bytes: 0 };
        Self { ring: Rc::new(RefCell::new(ring)), changed: Rc::default() }
    }

    /// Tells it.
    pub(crate) fn push(&self, news: News) {
        let mut ring = self.ring.borrow_mut();
        ring.last += 1;
        let record = EventRecord {
            cursor: Cursor { boot: ring.boot, seq: ring.last },
            at_ms: wall_ms(),
            service: news.service,
            kind: news.kind,
            generation: news.generation,
            level: news.level,
            text: news.text,
            data: news.data,
        };
        let line = serde_json::to_vec(&record).unwrap_or_default().into_boxed_slice();
        let kept = Kept { service: record.service.map(String::into_boxed_str), line };
        ring.bytes += kept.weight();
        ring.records.push_back(kept);
        while ring.records.len() > RECORDS || ring.bytes > BYTES {
            let Some(first) = ring.records.pop_front() else { break };
            ring.bytes -= first.weight();
        }
        drop(ring);
        self.changed.notify_waiters();
    }

    /// The newest record's place.
    pub(crate) fn cursor(&self) -> Cursor {
        let ring = self.ring.borrow();
        Cursor { boot: ring.boot, seq: ring.last }
    }

    /// A reader from there on. `services` are patterns; none: everything.
    pub(crate) fn read(&self, since: Option<Cursor>, follow: bool, services: Vec<String>) -> Reader {
        let ring = self.ring.borrow();
        let (next, reset) = match since {
            None => (ring.oldest(), false),
            Some(Cursor::NOW) => (ring.last + 1, false),
            Some(cursor) if cursor.boot == ring.boot && cursor.seq <= ring.last => (cursor.seq + 1, false),
            Some(_) => (ring.oldest(), true),
        };
        // Without `follow` the end is where it is now: whoever tells faster than this reader reads must not keep it for ever.
        let end = if follow { u64::MAX } else { ring.last };
        Reader { events: self.clone(), next, end, reset, services }
    }
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.last + 1 - self.records.len() as u64
    }

    fn get(&self, seq: u64) -> Option<&Kept> {
        let index = usize::try_from(seq.checked_sub(self.oldest())?).ok()?;
        self.records.get(index)
    }
}

impl Kept {
    /// About the bytes that it takes.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.line.len() + self.service.as_ref().map_or(0, |service| service.len())
    }

    /// `None` if it could not be written when it was told: its facts had keys that are no texts, which nobody tells.
    fn record(&self) -> Option<EventRecord> {
        serde_json::from_slice(&self.line).ok()
    }
}

/// A place in the ring.
#[derive(Debug)]
pub(crate) struct Reader {
    events: Events,
    next: u64,
    end: u64,
    reset: bool,
    services: Vec<String>,
}

impl Reader {
    /// The next line for the client; waits for it if it follows.
    pub(crate) async fn next(&mut self) -> Answer {
        loop {
            // Before the look: what is told between the look and the wait wakes it.
            let changed = Rc::clone(&self.events.changed);
            let changed = changed.notified();
            if let Some(answer) = self.look() {
                return answer;
            }
            changed.await;
        }
    }

    fn look(&mut self) -> Option<Answer> {
        if std::mem::take(&mut self.reset) {
            return Some(Answer::Reset {});
        }
        let ring = self.events.ring.borrow();
        let oldest = ring.oldest();
        if self.next < oldest {
            let missed = oldest - self.next;
            self.next = oldest;
            return Some(Answer::Gap { missed: Some(missed) });
        }
        while self.next <= self.end {
            let kept = ring.get(self.next)?;
            self.next += 1;
            if self.wants(kept)
                && let Some(record) = kept.record()
            {
                return Some(Answer::Record(record));
            }
        }
        Some(Answer::Reply(Reply::End {}))
    }

    fn wants(&self, kept: &Kept) -> bool {
        let of = |service: &str| self.services.iter().any(|wanted| pattern::matches(wanted, service));
        self.services.is_empty() || kept.service.as_deref().is_some_and(of)
    }
}

/// Milliseconds since 1970 (UTC).
pub(crate) fn wall_ms() -> u64 {
    let (seconds, nanos) = stayput_kernel::clock::wall();
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000) + u64::from(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &Events, service: &str, text: &str) {
        events.push(News {
            service: Some(service.to_owned()),
            kind: "test".to_owned(),
            generation: None,
            level: Level::Info,
            text: text.to_owned(),
            data: serde_json::Value::Null,
        });
    }

    /// All that is there, up to the end or the first wait.
    fn drain(reader: &mut Reader) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(answer) = reader.look() {
            match answer {
                Answer::Record(record) => seen.push(record.text),
                Answer::Gap { missed } => seen.push(format!("gap {missed:?}")),
                Answer::Reset {} => seen.push("reset".to_owned()),
                Answer::Reply(Reply::End {}) => {
                    seen.push("end".to_owned());
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        seen
    }

    #[test]
    fn a_reader_gets_what_was_told_and_then_the_end() {
        let events = Events::new();
        tell(&events, "web", "one");
        let mark = events.cursor();
        tell(&events, "db", "two");
        assert_eq!(drain(&mut events.read(None, false, vec![])), ["one", "two", "end"]);
        assert_eq!(drain(&mut events.read(Some(mark), false, vec![])), ["two", "end"]);
        assert_eq!(drain(&mut events.read(None, false, vec!["w*".to_owned()])), ["one", "end"]);
        let mut follower = events.read(Some(Cursor::NOW), true, vec![]);
        assert_eq!(drain(&mut follower), [""; 0]);
        tell(&events, "web", "three");
        assert_eq!(drain(&mut follower), ["three"]);
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed_and_the_ring_stays_small() {
        let events = Events::new();
        let mut slow = events.read(None, true, vec![]);
        for n in 0..RECORDS + 10 {
            tell(&events, "web", &n.to_string());
        }
        let seen = drain(&mut slow);
        assert_eq!(seen[..2], ["gap Some(10)", "10"]);
        assert_eq!(seen.len(), RECORDS + 1);
        for _ in 0..100 {
            tell(&events, "web", &"x".repeat(100_000));
        }
        let ring = events.ring.borrow();
        assert!(ring.bytes <= BYTES, "{}", ring.bytes);
        assert_eq!(ring.bytes, ring.records.iter().map(Kept::weight).sum::<usize>());
    }

    #[test]
    fn a_cursor_of_another_daemon_is_a_reset() {
        let (before, now) = (Events::new(), Events::new());
        tell(&before, "web", "old");
        tell(&now, "web", "new");
        assert_eq!(drain(&mut now.read(Some(before.cursor()), false, vec![])), ["reset", "new", "end"]);
        let future = Cursor { seq: 99, ..now.cursor() };
        assert_eq!(drain(&mut now.read(Some(future), false, vec![])), ["reset", "new", "end"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_waits_is_woken() {
        let events = Events::new();
        let mut reader = events.read(Some(Cursor::NOW), true, vec![]);
        let told = async {
            tokio::task::yield_now().await;
            tell(&events, "web", "hello");
        };
        let (answer, ()) = tokio::join!(reader.next(), told);
        assert!(matches!(answer, Answer::Record(record) if record.text == "hello"));
    }
}
