//! Monotonic time as a number. It owns no clock: callers bring the time.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `CLOCK_MONOTONIC` in nanoseconds since boot. One clock for all processes of a boot, so it survives the process that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// That much later; stops at the end of time (584 years) instead of wrapping.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
