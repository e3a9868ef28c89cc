//! Times as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stayput_kernel::local_time::LocalTime;

use crate::commands::run::input;
use crate::error::{Error, Kind};

/// A time in milliseconds since 1970: a date, a time of day or both, in local time or with `Z` in UTC; `@` and seconds; or a time ago.
pub(super) fn parse(option: &str, text: &str, now: SystemTime) -> Result<u64, Error> {
    let wrong = || {
        Error::new(Kind::BadInput, format!("{option} {text:?}: not a time"))
            .hint("write it like 10m (ago), 14:05, 2026-11-23, '2026-11-23 14:05:30', 2026-11-23T14:05:30Z or @1795442730")
    };
    let ms = |time: SystemTime| u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    if let Some(seconds) = text.strip_prefix('@') {
        let seconds: u64 = seconds.parse().map_err(|_| wrong())?;
        return seconds.checked_mul(1000).ok_or_else(wrong);
    }
    if text.contains([':', '-']) {
        let (text, utc) = text.strip_suffix('Z').map_or((text, false), |text| (text, true));
        let today = LocalTime::at(now).ok_or_else(wrong)?;
        let fields = fields(text, today).ok_or_else(wrong)?;
        let seconds = if utc { Some(fields.seconds()) } else { local(fields) };
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).ok_or_else(wrong)?;
        return seconds.checked_mul(1000).ok_or_else(wrong);
    }
    let ago = input::duration(option, text).map_err(|_| wrong())?;
    Ok(ms(now.checked_sub(ago).unwrap_or(UNIX_EPOCH)))
}

/// A date and a time of day, without a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fields {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
}

impl Fields {
    /// Seconds since 1970 if they are in UTC. Days from the date: the year is counted from March, so that the leap day is its last.
    fn seconds(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * ((self.month + 9) % 12) + 2) / 5 + self.day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        days * 86_400 + self.second_of_day
    }
}

fn fields(text: &str, today: LocalTime) -> Option<Fields> {
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (Some(date), Some(time)),
        None if text.contains(':') => (None, Some(text)),
        None => (Some(text), None),
    };
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> {
        let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?;
        text.split(by).map(number).collect()
    };
    let (year, month, day) = match date {
        None => (i64::from(today.year), i64::from(today.month), i64::from(today.day)),
        Some(date) => match *numbers(date, '-')?.as_slice() {
            [year, month, day] => (year, month, day),
            _ => return None,
        },
    };
    let (hour, minute, second) = match time {
        None => (0, 0, 0),
        Some(time) => match *numbers(time, ':')?.as_slice() {
            [hour, minute] => (hour, minute, 0),
            [hour, minute, second] => (hour, minute, second),
            _ => return None,
        },
    };
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let right = (1970..10_000).contains(&year) && (1..=12).contains(&month) && (1..=last).contains(&day);
    (right && hour < 24 && minute < 60 && second < 60).then_some(Fields {
        year,
        month,
        day,
        second_of_day: (hour * 60 + minute) * 60 + second,
    })
}

/// Seconds since 1970 of a local time: the C library knows only the other way, so it is approached.
fn local(wanted: Fields) -> Option<i64> {
    let mut guess = wanted.seconds();
    for _ in 0..3 {
        let at = LocalTime::at(UNIX_EPOCH + Duration::from_secs(u64::try_from(guess).ok()?))?;
        let seen = Fields {
            year: i64::from(at.year),
            month: i64::from(at.month),
            day: i64::from(at.day),
            second_of_day: (i64::from(at.hour) * 60 + i64::from(at.minute)) * 60 + i64::from(at.second),
        };
        guess += wanted.seconds() - seen.seconds();
    }
    Some(guess)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<u64> {
        // 2026-11-23T14:05:30Z.
        parse("--since", text, UNIX_EPOCH + Duration::from_secs(1_795_442_730)).ok()
    }

    #[test]
    fn times_in_utc() {
        assert_eq!(at("2026-11-23T14:05:30Z"), Some(1_795_442_730_000));
        assert_eq!(at("2024-02-29 00:00Z"), Some(1_709_164_800_000));
        assert_eq!(at("1970-01-01Z"), Some(0));
        assert_eq!(at("@1795442730"), Some(1_795_442_730_000));
        assert_eq!(at("1h30m"), Some((1_795_442_730 - 5400) * 1000));
        assert_eq!(at("500ms"), Some(1_795_442_729_500));
    }

    #[test]
    fn local_times_are_what_the_clock_on_the_wall_showed() {
        for text in ["2026-11-23 14:05:30", "2026-07-01 00:00", "14:05"] {
            let ms = at(text).unwrap();
            let seen = LocalTime::at(UNIX_EPOCH + Duration::from_millis(ms)).unwrap();
            assert!(text.ends_with(&format!("{:02}:{:02}:{:02}", seen.hour, seen.minute, seen.second)[..5]) || text.contains("14:05:30"));
            assert!(!text.contains('-') || text.starts_with(&format!("{}-{:02}-{:02}", seen.year, seen.month, seen.day)));
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in
            ["", "now", "5", "25:00", "12:60", "2026-02-29", "2026-13-01", "2026-11", "1-2-3-4", "@", "@-1", "12:+1", "2026-11-23T"]
        {
            assert_eq!(at(wrong), None, "{wrong:?}");
        }
    }
}
