//! Latencies in microseconds, from 1 µs to 10 minutes, three significant digits.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// 10 minutes in microseconds: above every timeout that a plan may have.
const HIGHEST: u64 = 600_000_000;

/// A recorder of latencies.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// The figures people ask for, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(HIGHEST, 3).expect("constant bounds are valid"))
    }

    pub(crate) fn record(&mut self, latency: std::time::Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(HIGHEST);
        self.0.saturating_record(micros.max(1));
    }

    pub(crate) fn summary(&self) -> Summary {
        if self.0.is_empty() {
            return Summary::default();
        }
        Summary {
            p50: self.0.value_at_quantile(0.5),
            p90: self.0.value_at_quantile(0.9),
            p99: self.0.value_at_quantile(0.99),
            p999: self.0.value_at_quantile(0.999),
            max: self.0.max(),
        }
    }
}
