//! How long to wait before the next start: exponential, capped, with jitter, and forgotten after a good run.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Wait before the second try in a row.
pub const FIRST: Duration = Duration::from_millis(100);
/// Longest wait, before jitter, after runs that never became ready.
pub const CAP: Duration = Duration::from_secs(30);
/// Longest wait, before jitter, after a run that had become ready. It can serve, and connections wait for it: a pause that
/// keeps a crash loop from being tight is enough.
pub const CAP_AFTER_READY: Duration = Duration::from_secs(1);
/// A run that served for so long was good: the count starts anew, and the next start is immediate.
pub const GOOD_RUN: Duration = Duration::from_secs(10);

/// Failures in a row, and the seed of the jitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    failures: u32,
    /// Those of them, the last in a row, that never became ready.
    unready: u32,
    seed: u64,
}

impl Backoff {
    /// No failure yet. The seed spreads the retries of services that failed for one reason.
    pub fn new(seed: u64) -> Self {
        Self { failures: 0, unready: 0, seed }
    }

    /// Failures since the last good run.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A run ended that had served for `served` (zero if it never became ready). Returns the wait before the next start: zero
    /// after a good run and after the first crash of one that was ready, else ±20 % around 100 ms, 200 ms, … up to its cap.
    pub fn after_run(&mut self, served: Duration) -> Duration {
        let was_ready = served > Duration::ZERO;
        let unready = self.unready;
        self.unready = if was_ready { 0 } else { unready.saturating_add(1) };
        if served >= GOOD_RUN {
            self.failures = 0;
            return Duration::ZERO;
        }
        let before = self.failures;
        self.failures = self.failures.saturating_add(1);
        if was_ready && before == 0 {
            return Duration::ZERO;
        }
        let (exponent, cap) = if was_ready { (before - 1, CAP_AFTER_READY) } else { (unready, CAP) };
        let wait = FIRST.saturating_mul(1 << exponent.min(16)).min(cap);
        // 80 % to 120 % in steps of 1/1024.
        wait * (819 + (self.random() % 411) as u32) / 1024
    }

    /// It was told to start again by a person: what failed before no longer counts.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.unready = 0;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): tiny, and good enough to spread retries.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_within_a_fifth() {
        let mut backoff = Backoff::new(7);
        for n in 0..40_u32 {
            let wait = backoff.after_run(Duration::ZERO);
            let ideal = FIRST.saturating_mul(1 << n.min(16)).min(CAP);
            assert!(wait >= ideal * 79 / 100 && wait <= ideal * 121 / 100, "try {n}: {wait:?} around {ideal:?}");
        }
        assert_eq!(backoff.failures(), 40);
    }

    #[test]
    fn a_good_run_is_followed_by_an_immediate_start_and_a_short_wait() {
        let mut backoff = Backoff::new(7);
        for _ in 0..9 {
            backoff.after_run(Duration::ZERO);
        }
        assert_eq!(backoff.after_run(GOOD_RUN), Duration::ZERO);
        assert!(backoff.after_run(Duration::from_secs(1)) <= FIRST * 121 / 100);
    }

    #[test]
    fn what_was_ready_comes_back_soon_however_often_it_is_killed() {
        let mut backoff = Backoff::new(7);
        let served = Duration::from_millis(1500);
        assert_eq!(backoff.after_run(served), Duration::ZERO);
        for n in 0..20_u32 {
            let ideal = FIRST.saturating_mul(1 << n.min(16)).min(CAP_AFTER_READY);
            let wait = backoff.after_run(served);
            assert!(wait >= ideal * 79 / 100 && wait <= ideal * 121 / 100, "crash {n}: {wait:?} around {ideal:?}");
        }
    }

    #[test]
    fn one_start_that_fails_among_many_crashes_waits_no_longer_than_a_first_one() {
        let mut backoff = Backoff::new(7);
        for _ in 0..20 {
            backoff.after_run(Duration::from_secs(1));
        }
        assert!(backoff.after_run(Duration::ZERO) <= FIRST * 121 / 100);
    }

    #[test]
    fn different_seeds_spread() {
        let waits: std::collections::BTreeSet<_> = (0..32).map(|seed| Backoff::new(seed).after_run(Duration::ZERO)).collect();
        assert!(waits.len() > 16, "{waits:?}");
    }
}
