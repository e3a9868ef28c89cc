//! Time: the monotonic clock for everything that is decided, local wall time for what people read.

/// Nanoseconds of `CLOCK_MONOTONIC`: the same in every process until the next boot ([clock_gettime(2)]).
///
/// [clock_gettime(2)]: https://man7.org/linux/man-pages/man2/clock_gettime.2.html
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Seconds and nanoseconds since 1970-01-01 UTC of `CLOCK_REALTIME`.
pub fn wall() -> (i64, u32) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Hour, minute and second of a time in the local time zone ([localtime_r(3)]); UTC if the zone cannot be read.
///
/// [localtime_r(3)]: https://man7.org/linux/man-pages/man3/localtime.3.html
pub fn local_hms_at(seconds: i64) -> (u8, u8, u8) {
    // SAFETY: `libc::tm` is plain data for which all zero bytes are valid.
    let mut broken_down: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY:
    // * both pointers point to live, properly aligned values of the right types;
    // * `localtime_r` keeps neither.
    let result = unsafe { libc::localtime_r(&raw const seconds, &raw mut broken_down) };
    if result.is_null() {
        let day = seconds.rem_euclid(86_400);
        return ((day / 3600) as u8, (day / 60 % 60) as u8, (day % 60) as u8);
    }
    (broken_down.tm_hour as u8, broken_down.tm_min as u8, broken_down.tm_sec as u8)
}

/// The present local time as `HH:MM:SS`.
pub fn local_hms() -> String {
    let (hour, minute, second) = local_hms_at(wall().0);
    format!("{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_does_not_go_back() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first && first > 0);
    }

    #[test]
    fn local_time_has_its_shape() {
        let text = local_hms();
        assert_eq!(text.len(), 8);
        assert_eq!((&text[2..3], &text[5..6]), (":", ":"));
    }
}
