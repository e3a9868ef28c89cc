//! How some values of each service went over the last hour and the last day.
//!
//! **When it looks.** Nothing wakes up for the fine samples: whoever asks for a status, the metrics or the history itself (a dashboard with a
//! page open does so each second) has the kernel looked at anyway, and what was seen is kept if ten seconds have gone by since it was
//! kept last. While nobody asks there is one look every five minutes ([`Ring::DAY`]'s step), so that a leak of last night can be seen in the morning:
//! the only wake-ups of an idle daemon (measured: none in two minutes without a look, five in two minutes with one, because tokio's timer comes near
//! a far deadline in steps), and none for the first minutes of its life. A finer tick would wake an idle machine for charts that nobody opens.
//!
//! **What it keeps.** The differences between samples, a byte for a service of which nothing changed. [`BUDGET`] bounds all of it together:
//! beyond it the oldest samples go first. Like the events it begins anew with each daemon.

use crate::reactor::{Reactor, now};
use stayput_model::Mono;
use stayput_wire::{History, HistoryRange, Sample, Series};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes that all samples may take together: some 20 for each sample of a hundred busy services, hundreds of thousands of quiet ones.
const BUDGET: usize = 6 << 20;
/// Samples that fit an answer (4 MiB, some 150 bytes each); of more every second is left out, or more.
const MOST: usize = 25_000;
/// Memory is kept in pages of this size: finer changes are noise.
const PAGE: u64 = 4096;

/// What was seen of a service at one time. `None`: it was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Observation {
    pub(crate) connections: Option<u64>,
    pub(crate) queued: Option<u64>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Processor time of its processes so far.
    pub(crate) cpu: Option<Duration>,
    pub(crate) restarts: u64,
}

/// Connections, queued, pages, thousandths of a processor, restarts; each 0 if not measured, else one more than its value.
type Values = [u64; 5];

/// Both ranges.
#[derive(Debug)]
pub(crate) struct Chronicle {
    started: Mono,
    hour: Ring,
    day: Ring,
}

impl Chronicle {
    pub(crate) fn new(started: Mono) -> Self {
        Self { started, hour: Ring::new(Ring::HOUR), day: Ring::new(Ring::DAY) }
    }

    /// When to look, if nobody has made us do so until then.
    pub(crate) fn next_look(&self) -> Mono {
        self.day.times.back().map_or(self.started, |moment| moment.at).plus(self.day.step)
    }

    /// Whether what is seen now will be kept.
    pub(crate) fn wants(&self, now: Mono) -> bool {
        self.hour.wants(now) || self.day.wants(now)
    }

    /// Keeps what was seen, if it is time. What is not in it is forgotten.
    pub(crate) fn note(&mut self, now: Mono, wall_ms: u64, seen: &BTreeMap<String, Observation>) {
        for ring in [&mut self.hour, &mut self.day] {
            if ring.wants(now) {
                ring.push(Moment { at: now, wall_ms }, seen);
            }
        }
        while self.hour.bytes + self.day.bytes > BUDGET {
            let larger = if self.hour.bytes >= self.day.bytes { &mut self.hour } else { &mut self.day };
            larger.pop();
        }
    }

    /// The samples of one service, or of all.
    pub(crate) fn tell(&self, service: Option<&str>, range: HistoryRange, now: Mono) -> History {
        let ring = match range {
            HistoryRange::Hour => &self.hour,
            HistoryRange::Day => &self.day,
        };
        let series = ring.tracks.iter().filter(|(name, _)| service.is_none_or(|service| service == *name));
        let series = series.map(|(name, track)| Series { service: name.clone(), samples: ring.samples(track, now) });
        let mut series: Vec<Series> = series.collect();
        let each = series.iter().map(|series| series.samples.len()).sum::<usize>().div_ceil(MOST).max(1);
        for series in series.iter_mut().filter(|_| each > 1) {
            // Counted from the newest, which everybody wants.
            let (length, mut at) = (series.samples.len(), 0);
            series.samples.retain(|_| {
                at += 1;
                (length - at) % each == 0
            });
        }
        let step = u64::try_from(ring.step.as_millis()).unwrap_or(u64::MAX);
        History { range, step_ms: step.saturating_mul(each as u64), series }
    }
}

/// When a sample was taken: by the clock that never jumps, and by the one that people read.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Mono,
    wall_ms: u64,
}

/// The samples of one range. All services are sampled at the same moments.
#[derive(Debug)]
struct Ring {
    step: Duration,
    most: usize,
    times: VecDeque<Moment>,
    /// The number of the oldest moment.
    first: u64,
    tracks: BTreeMap<String, Track>,
    /// Of all tracks.
    bytes: usize,
}

impl Ring {
    const HOUR: (Duration, usize) = (Duration::from_secs(10), 360);
    const DAY: (Duration, usize) = (Duration::from_mins(5), 288);

    fn new((step, most): (Duration, usize)) -> Self {
        Self { step, most, times: VecDeque::new(), first: 0, tracks: BTreeMap::new(), bytes: 0 }
    }

    fn wants(&self, now: Mono) -> bool {
        self.times.back().is_none_or(|last| now.since(last.at) >= self.step)
    }

    fn range(&self) -> Duration {
        self.step.saturating_mul(u32::try_from(self.most).unwrap_or(u32::MAX))
    }

    fn push(&mut self, moment: Moment, seen: &BTreeMap<String, Observation>) {
        let range = self.range();
        while self.times.front().is_some_and(|oldest| self.times.len() >= self.most || moment.at.since(oldest.at) > range) {
            self.pop();
        }
        let bytes = &mut self.bytes;
        self.tracks.retain(|name, track| {
            let stays = seen.contains_key(name);
            if !stays {
                *bytes -= track.bytes.len();
            }
            stays
        });
        let number = self.first + self.times.len() as u64;
        self.times.push_back(moment);
        for (name, observation) in seen {
            let track = match self.tracks.get_mut(name) {
                Some(track) => track,
                None => self.tracks.entry(name.clone()).or_insert_with(|| Track { first: number, ..Track::default() }),
            };
            self.bytes += track.push(*observation, moment.at);
        }
    }

    /// Forgets the oldest moment.
    fn pop(&mut self) {
        if self.times.pop_front().is_none() {
            return;
        }
        for track in self.tracks.values_mut().filter(|track| track.first == self.first) {
            self.bytes -= track.pop();
        }
        self.first += 1;
    }

    fn samples(&self, track: &Track, now: Mono) -> Vec<Sample> {
        let skip = usize::try_from(track.first - self.first).unwrap_or(usize::MAX);
        let moments = self.times.iter().skip(skip);
        let range = self.range();
        moments
            .zip(track.values())
            .filter(|(moment, _)| now.since(moment.at) <= range)
            .map(|(moment, values)| sample(*moment, values))
            .collect()
    }
}

fn sample(moment: Moment, values: Values) -> Sample {
    let [connections, queued, pages, cpu, restarts] = values.map(|value| value.checked_sub(1));
    let small = |value: Option<u64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    Sample {
        at_ms: moment.wall_ms,
        connections: small(connections),
        queued: small(queued),
        memory: pages.map(|pages| pages.saturating_mul(PAGE)),
        cpu_permille: small(cpu),
        restarts: restarts.unwrap_or(0),
    }
}

/// The samples of one service: a bit for each value that changed, and then those changes, as variable-length numbers.
#[derive(Debug, Default)]
struct Track {
    /// The number of its oldest moment.
    first: u64,
    /// The values before the oldest sample.
    base: Values,
    last: Values,
    bytes: VecDeque<u8>,
    /// Processor time at the last sample.
    cpu: Option<(Duration, Mono)>,
}

impl Track {
    /// Returns the bytes it took.
    fn push(&mut self, seen: Observation, at: Mono) -> usize {
        // Less than before: processes have gone with what they had used.
        let permille = seen.cpu.zip(self.cpu).and_then(|(cpu, (before, since))| {
            let used = cpu.checked_sub(before)?.as_micros();
            u64::try_from(used * 1000 / at.since(since).as_micros().max(1)).ok()
        });
        self.cpu = seen.cpu.map(|cpu| (cpu, at));
        let values = [seen.connections, seen.queued, seen.memory.map(|bytes| bytes / PAGE), permille, Some(seen.restarts)]
            .map(|value| value.map_or(0, |value| value.saturating_add(1)));
        let before = self.bytes.len();
        let changed = (0..values.len()).filter(|&index| values[index] != self.last[index]);
        self.bytes.push_back(changed.clone().fold(0, |flags, index| flags | (1 << index)));
        for index in changed {
            put(&mut self.bytes, values[index].wrapping_sub(self.last[index]).cast_signed());
        }
        self.last = values;
        self.bytes.len() - before
    }

    /// Forgets the oldest sample; returns the bytes that are free now.
    fn pop(&mut self) -> usize {
        let mut rest = self.bytes.iter().copied();
        self.base = step(self.base, &mut rest).unwrap_or(self.base);
        let taken = self.bytes.len() - rest.len();
        self.bytes.drain(..taken);
        self.first += 1;
        taken
    }

    /// Oldest first.
    fn values(&self) -> impl Iterator<Item = Values> {
        let (mut at, mut rest) = (self.base, self.bytes.iter().copied());
        std::iter::from_fn(move || {
            at = step(at, &mut rest)?;
            Some(at)
        })
    }
}

/// The values of the next sample.
fn step(mut values: Values, bytes: &mut impl Iterator<Item = u8>) -> Option<Values> {
    let flags = bytes.next()?;
    for (index, value) in values.iter_mut().enumerate() {
        if flags & (1 << index) != 0 {
            *value = value.wrapping_add(take(bytes)?.cast_unsigned());
        }
    }
    Some(values)
}

/// Seven bits a byte, the sign folded into the lowest: small changes either way take one byte.
fn put(bytes: &mut VecDeque<u8>, number: i64) {
    let mut left = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while left >= 0x80 {
        bytes.push_back((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    bytes.push_back((left & 0x7f) as u8);
}

fn take(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let (mut folded, mut shift) = (0_u64, 0);
    loop {
        let byte = bytes.next()?;
        folded |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed());
        }
        shift += 7;
    }
}

impl Reactor {
    /// It is time to look although nobody has asked.
    pub(crate) fn look_for_history(&mut self) {
        if self.chronicle.next_look() <= now() {
            // What is seen is noted on the way.
            let _ = self.status();
        }
    }

    /// What was kept, with what is true now at its end.
    pub(crate) fn history(&mut self, service: Option<&str>, range: HistoryRange) -> History {
        if self.chronicle.wants(now()) {
            let _ = self.status();
        }
        self.chronicle.tell(service, range, now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn of(connections: u64) -> BTreeMap<String, Observation> {
        BTreeMap::from([("web".to_owned(), Observation { connections: Some(connections), ..Observation::default() })])
    }

    fn connections(chronicle: &Chronicle, range: HistoryRange, now: u64) -> Vec<u32> {
        let history = chronicle.tell(Some("web"), range, at(now));
        history.series.iter().flat_map(|series| &series.samples).filter_map(|sample| sample.connections).collect()
    }

    #[test]
    fn a_busy_hour_is_ten_seconds_apart_and_a_day_five_minutes() {
        let mut chronicle = Chronicle::new(at(0));
        for second in 0..7200 {
            chronicle.note(at(second), second * 1000, &of(second));
        }
        let hour = connections(&chronicle, HistoryRange::Hour, 7200);
        assert_eq!((hour.len(), hour.first(), hour.last()), (360, Some(&3600), Some(&7190)));
        let day = connections(&chronicle, HistoryRange::Day, 7200);
        assert_eq!((day.len(), day[1]), (24, 300));
    }

    #[test]
    fn an_hour_in_which_nobody_looked_is_not_filled_with_older_samples() {
        let mut chronicle = Chronicle::new(at(0));
        chronicle.note(at(10), 10_000, &of(1));
        assert_eq!(chronicle.next_look(), at(310));
        chronicle.note(at(310), 310_000, &of(2));
        assert_eq!(connections(&chronicle, HistoryRange::Hour, 3615), [2]);
        assert_eq!(connections(&chronicle, HistoryRange::Day, 3615), [1, 2]);
    }

    #[test]
    fn the_processor_is_measured_between_two_samples_and_not_across_the_end_of_processes() {
        let mut chronicle = Chronicle::new(at(0));
        let seen =
            |ms| BTreeMap::from([("web".to_owned(), Observation { cpu: Some(Duration::from_millis(ms)), ..Observation::default() })]);
        for (second, ms) in [(0, 100), (10, 5_100), (20, 5_100), (30, 50)] {
            chronicle.note(at(second), second * 1000, &seen(ms));
        }
        let history = chronicle.tell(None, HistoryRange::Hour, at(30));
        let cpu: Vec<_> = history.series[0].samples.iter().map(|sample| sample.cpu_permille).collect();
        assert_eq!(cpu, [None, Some(500), Some(0), None]);
    }

    #[test]
    fn a_service_that_came_later_has_its_own_times_and_one_that_went_is_forgotten() {
        let mut chronicle = Chronicle::new(at(0));
        chronicle.note(at(0), 0, &of(1));
        let both: BTreeMap<_, _> = of(2).into_iter().chain([("db".to_owned(), Observation::default())]).collect();
        chronicle.note(at(10), 10_000, &both);
        let history = chronicle.tell(Some("db"), HistoryRange::Hour, at(10));
        assert_eq!(history.series[0].samples, [Sample { at_ms: 10_000, ..Sample::default() }]);
        chronicle.note(at(20), 20_000, &of(3));
        assert!(chronicle.tell(Some("db"), HistoryRange::Hour, at(20)).series.is_empty());
        let left: usize = chronicle.hour.tracks.values().map(|track| track.bytes.len()).sum();
        assert_eq!(chronicle.hour.bytes, left);
    }

    #[test]
    fn a_thousand_services_stay_within_the_budget() {
        let names: Vec<String> = (0..1000).map(|number| format!("service-{number}")).collect();
        let mut quiet = Chronicle::new(at(0));
        let mut busy = Chronicle::new(at(0));
        let mut noise = 1_u64;
        for step in 0..720 {
            let idle = names.iter().map(|name| (name.clone(), Observation { memory: Some(1 << 24), ..Observation::default() })).collect();
            quiet.note(at(step * 10), step * 10_000, &idle);
            let wild = names.iter().map(|name| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let some = Some(noise >> 12);
                (name.clone(), Observation { connections: some, queued: some, memory: some, cpu: None, restarts: noise >> 12 })
            });
            busy.note(at(step * 10), step * 10_000, &wild.collect());
        }
        let bytes = |chronicle: &Chronicle| chronicle.hour.bytes + chronicle.day.bytes;
        assert!(bytes(&quiet) < 1 << 20, "{}", bytes(&quiet));
        assert!(bytes(&busy) <= BUDGET && bytes(&busy) > BUDGET / 2, "{}", bytes(&busy));
        let all = quiet.tell(None, HistoryRange::Hour, at(7200));
        let bytes = stayput_wire::codec::encode(&all, stayput_wire::codec::ANSWER_LINE_MAX).map(|line| line.len());
        assert!(bytes.is_ok_and(|bytes| bytes > 1 << 20), "an answer is not too long, and not empty");
        assert_eq!((all.step_ms, all.series[3].samples.len()), (150_000, 24));
        assert_eq!(all.series[3].samples.last().map(|sample| sample.at_ms), Some(7_190_000), "the newest is among them");
        assert_eq!(quiet.tell(Some("service-7"), HistoryRange::Hour, at(7200)).series[0].samples.len(), 360);
    }

    fn any_observation() -> impl Strategy<Value = Observation> {
        let number = || proptest::option::of(prop_oneof![0_u64..10, any::<u64>()]);
        (number(), number(), number(), any::<u64>()).prop_map(|(connections, queued, memory, restarts)| Observation {
            connections,
            queued,
            memory,
            cpu: None,
            restarts,
        })
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out(seen in proptest::collection::vec(any_observation(), 1..30), popped in 0_usize..30) {
            let mut track = Track::default();
            let kept: Vec<Values> = seen
                .iter()
                .enumerate()
                .map(|(index, observation)| {
                    track.push(*observation, at(index as u64));
                    track.last
                })
                .collect();
            let popped = popped.min(seen.len());
            for _ in 0..popped {
                track.pop();
            }
            prop_assert_eq!(track.values().collect::<Vec<_>>(), &kept[popped..]);
        }
    }
}
