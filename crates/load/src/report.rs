//! What a load counted. Each request has exactly one [`Outcome`]; the sum of all counts is the number of requests offered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::{Latencies, Summary};

/// How many failures are kept in full; all are counted.
const KEPT_FAILURES: usize = 50;

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 200 with the body that this very request asked for.
    Ok,
    /// connect() said ECONNREFUSED.
    Refused,
    /// Connected, then reset or closed before the first byte of an answer.
    ResetBeforeFirstByte,
    /// Reset or closed in the middle of an answer.
    ResetAfterFirstByte,
    /// Not finished by the deadline.
    TimedOut,
    /// A complete answer, but not the one to this request: another status, another `n`, no JSON.
    WrongBody,
    /// The race that keep-alive cannot avoid: a request written to a connection used before, which the server closed without a byte.
    KeepAliveRace,
    /// connect() failed in another way (out of local ports, unreachable).
    ConnectOther,
}

/// How many requests ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// See [`Outcome::Ok`].
    pub ok: u64,
    /// See [`Outcome::Refused`].
    pub refused: u64,
    /// See [`Outcome::ResetBeforeFirstByte`].
    pub reset_before_first_byte: u64,
    /// See [`Outcome::ResetAfterFirstByte`].
    pub reset_after_first_byte: u64,
    /// See [`Outcome::TimedOut`].
    pub timed_out: u64,
    /// See [`Outcome::WrongBody`].
    pub wrong_body: u64,
    /// See [`Outcome::KeepAliveRace`].
    pub keep_alive_race: u64,
    /// See [`Outcome::ConnectOther`].
    pub connect_other: u64,
}

impl Counts {
    fn slot(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Ok => &mut self.ok,
            Outcome::Refused => &mut self.refused,
            Outcome::ResetBeforeFirstByte => &mut self.reset_before_first_byte,
            Outcome::ResetAfterFirstByte => &mut self.reset_after_first_byte,
            Outcome::TimedOut => &mut self.timed_out,
            Outcome::WrongBody => &mut self.wrong_body,
            Outcome::KeepAliveRace => &mut self.keep_alive_race,
            Outcome::ConnectOther => &mut self.connect_other,
        }
    }

    /// Everything but the good answers.
    pub fn failed(&self) -> u64 {
        self.total() - self.ok
    }

    /// Every request offered.
    pub fn total(&self) -> u64 {
        self.ok
            + self.refused
            + self.reset_before_first_byte
            + self.reset_after_first_byte
            + self.timed_out
            + self.wrong_body
            + self.keep_alive_race
            + self.connect_other
    }
}

/// One failure, in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Milliseconds from the start of the load to the end of the request.
    pub at_ms: u64,
    /// Which kind.
    pub outcome: Outcome,
    /// The error or the offending body, shortened.
    pub detail: String,
    /// How long the request took, in microseconds.
    pub took_us: u64,
}

/// One request of a traced load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Microseconds from the start of the load to the moment when it was due.
    pub due_us: u64,
    /// How long it took from then.
    pub took_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Who answered; 0 if nobody did or it did not say.
    pub pid: u32,
}

/// A process that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answerer {
    /// Its generation as it says itself; empty when it runs without stayput.
    pub generation: String,
    /// Its process id.
    pub pid: u32,
    /// Good answers.
    pub ok: u64,
    /// Milliseconds from the start of the load to its first good answer.
    pub first_ms: u64,
    /// The same for its last.
    pub last_ms: u64,
}

/// All that a load saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `fresh` or `keep-alive`.
    pub connections: String,
    /// Connections opened (with keep-alive fewer than requests).
    pub opened: u64,
    /// Idle keep-alive connections that the server closed between two requests: no request was lost.
    pub idle_closed: u64,
    /// How long the load ran, in milliseconds.
    pub duration_ms: u64,
    /// Every request, once.
    pub counts: Counts,
    /// Latency of the good answers, in microseconds.
    pub latency_us: Summary,
    /// The longest time without any good answer, in milliseconds.
    pub longest_gap_ms: u64,
    /// Who answered, in order of first appearance.
    pub answerers: Vec<Answerer>,
    /// The first failures in full.
    pub failures: Vec<Failure>,
    /// Every request in the order in which they ended, if the plan asked for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exchanges: Vec<Exchange>,
}

impl Report {
    /// Requests a second that were answered well.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn throughput(&self) -> f64 {
        self.counts.ok as f64 * 1000.0 / self.duration_ms.max(1) as f64
    }

    /// # Panics
    /// When a single request failed, or none was made: with the whole report.
    pub fn assert_nothing_lost(&self) {
        assert!(self.counts.ok > 0, "no request was answered: {self:#?}");
        assert_eq!(self.counts.failed(), 0, "requests were lost: {self:#?}");
    }
}

/// Collects while the load runs.
#[derive(Debug)]
pub(crate) struct Tally {
    counts: Counts,
    latencies: Latencies,
    answerers: Vec<Answerer>,
    failures: Vec<Failure>,
    exchanges: Option<Vec<Exchange>>,
    last_ok: Duration,
    longest_gap: Duration,
    pub(crate) opened: u64,
    pub(crate) idle_closed: u64,
}

impl Tally {
    pub(crate) fn new(trace: bool) -> Self {
        Self {
            exchanges: trace.then(Vec::new),
            counts: Counts::default(),
            latencies: Latencies::new(),
            answerers: Vec::new(),
            failures: Vec::new(),
            last_ok: Duration::ZERO,
            longest_gap: Duration::ZERO,
            opened: 0,
            idle_closed: 0,
        }
    }

    /// `at`: since the start of the load; `took`: of this request.
    pub(crate) fn ok(&mut self, at: Duration, took: Duration, generation: &str, pid: u32) {
        *self.counts.slot(Outcome::Ok) += 1;
        self.keep(at, took, Outcome::Ok, pid);
        self.latencies.record(took);
        self.longest_gap = self.longest_gap.max(at.saturating_sub(self.last_ok));
        self.last_ok = at;
        let at_ms = at.as_millis() as u64;
        let known = self.answerers.iter_mut().rev().find(|known| known.pid == pid && known.generation == generation);
        if let Some(known) = known {
            known.ok += 1;
            known.last_ms = at_ms;
        } else {
            self.answerers.push(Answerer { generation: generation.to_owned(), pid, ok: 1, first_ms: at_ms, last_ms: at_ms });
        }
    }

    pub(crate) fn failed(&mut self, at: Duration, took: Duration, outcome: Outcome, detail: String) {
        *self.counts.slot(outcome) += 1;
        self.keep(at, took, outcome, 0);
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(Failure { at_ms: at.as_millis() as u64, outcome, detail, took_us: took.as_micros() as u64 });
        }
    }

    fn keep(&mut self, at: Duration, took: Duration, outcome: Outcome, pid: u32) {
        if let Some(all) = &mut self.exchanges {
            let (due_us, took_us) = (at.saturating_sub(took).as_micros() as u64, took.as_micros() as u64);
            all.push(Exchange { due_us, took_us, outcome, pid });
        }
    }

    /// `offered`: when the last request was offered; waiting for stragglers is no gap.
    pub(crate) fn report(self, keep_alive: bool, ran: Duration, offered: Duration) -> Report {
        let gap = self.longest_gap.max(offered.saturating_sub(self.last_ok));
        Report {
            connections: if keep_alive { "keep-alive" } else { "fresh" }.to_owned(),
            opened: self.opened,
            idle_closed: self.idle_closed,
            duration_ms: ran.as_millis() as u64,
            counts: self.counts,
            latency_us: self.latencies.summary(),
            longest_gap_ms: gap.as_millis() as u64,
            answerers: self.answerers,
            failures: self.failures,
            exchanges: self.exchanges.unwrap_or_default(),
        }
    }
}
