//! Waiting for a condition with a deadline. The conditions of the tests live in other processes and have no common event, so they are looked at every
//! few milliseconds; no test waits for time alone.

use std::time::{Duration, Instant};

/// Between two looks: far below anything that a test measures, and cheap.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Until `look` gives a value.
///
/// # Errors
/// The deadline passed: `what` was waited for, and the last thing that `look` saw instead.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= deadline => {
                return Err(format!("waited {deadline:?} for {what}; last seen: {seen}"));
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Until `is` holds.
///
/// # Errors
/// The deadline passed.
pub fn until_true(what: &str, deadline: Duration, mut is: impl FnMut() -> bool) -> Result<(), String> {
    until(what, deadline, || if is() { Ok(()) } else { Err("not so".to_owned()) })
}
