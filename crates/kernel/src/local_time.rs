//! The wall clock in the user's time zone (localtime_r(3)): for people, never for decisions.

use std::time::{SystemTime, UNIX_EPOCH};

/// A point in local time, broken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime {
    /// Year, such as 2026.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day, 1 to 31.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 60.
    pub second: u8,
}

impl LocalTime {
    /// Breaks `time` down by the rules of `TZ` or /etc/localtime; `None` for times that do not fit.
    #[expect(unsafe_code, reason = "the C library alone knows the time zone")]
    pub fn at(time: SystemTime) -> Option<Self> {
        let seconds: libc::time_t = time.duration_since(UNIX_EPOCH).ok()?.as_secs().try_into().ok()?;
        // SAFETY: `tm` is plain old data (integers and a pointer), for which all zeroes is a valid value.
        let mut parts: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are valid for the call; localtime_r keeps none of them.
        let result = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
        if result.is_null() {
            return None;
        }
        let small = |number: libc::c_int| u8::try_from(number).ok();
        Some(Self {
            year: parts.tm_year.checked_add(1900)?,
            month: small(parts.tm_mon + 1)?,
            day: small(parts.tm_mday)?,
            hour: small(parts.tm_hour)?,
            minute: small(parts.tm_min)?,
            second: small(parts.tm_sec)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_is_broken_down() {
        // Noon: the same day from UTC-12 to UTC+11.
        let noon = LocalTime::at(UNIX_EPOCH + Duration::from_hours(277_788)).unwrap();
        assert_eq!((noon.year, noon.month), (2001, 9));
        assert!((8..=10).contains(&noon.day) && noon.minute < 60);
    }
}
