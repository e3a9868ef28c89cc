//! Signals by name, as kill(1) takes them.

use crate::error::{Error, Kind};

/// Numbers as on every architecture that stayput is built for: signal(7).
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// A name with or without `SIG`, in any case, or a number from 1 to 64.
pub(super) fn parse(text: &str) -> Result<i32, Error> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let number = || text.parse().ok().filter(|number| (1..=64).contains(number));
    named.or_else(number).ok_or_else(|| {
        let error = Error::new(Kind::BadInput, format!("{text:?} is no signal"));
        let names = SIGNALS.map(|(name, _)| name);
        match stayput_wire::pattern::closest(name, &names) {
            Some(closest) => error.hint(format!("did you mean {closest}?")),
            None => error.hint("a name such as HUP, TERM or USR1, or a number from 1 to 64"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_as_people_write_them() {
        for (text, expected) in [("HUP", 1), ("sighup", 1), ("15", 15), ("SIGUSR2", 12), ("64", 64)] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for wrong in ["", "0", "65", "-9", "SIGWHAT", "+1x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(format!("{:?}", parse("USR3")).contains("did you mean USR1?"));
    }
}
