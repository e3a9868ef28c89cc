//! What the two streams of the API carry: events and log lines.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A place in the stream of events: which daemon, and how many it had told. In JSON and on the command line `<boot>-<seq>`, the first
/// in hexadecimal, or `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// Drawn at random by each daemon when it starts; 0 in [`Cursor::NOW`] alone.
    pub boot: u64,
    /// Number of the event, from 1.
    pub seq: u64,
}

impl Cursor {
    /// The end of the stream, wherever that is.
    pub const NOW: Self = Self { boot: 0, seq: 0 };
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::NOW { f.write_str("now") } else { write!(f, "{:x}-{}", self.boot, self.seq) }
    }
}

/// A text is no cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorError(String);

impl std::fmt::Display for CursorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is no cursor: it looks like 1f3a-42", self.0)
    }
}

impl std::error::Error for CursorError {}

impl std::str::FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text == "now" {
            return Ok(Self::NOW);
        }
        let wrong = || CursorError(text.chars().take(64).collect());
        let (boot, seq) = text.split_once('-').ok_or_else(wrong)?;
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !plain(boot) || !plain(seq) {
            return Err(wrong());
        }
        match (u64::from_str_radix(boot, 16), seq.parse()) {
            (Ok(boot), Ok(seq)) if boot != 0 => Ok(Self { boot, seq }),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its place.
    pub cursor: Cursor,
    /// When, in milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// Which service it is about; `None`: the instance.
    pub service: Option<String>,
    /// What it is, for programs: `ready`, `switched`, `crashed`, `port-taken`. New kinds may come in any release.
    pub kind: String,
    /// Which generation it is about.
    #[serde(default)]
    pub generation: Option<u64>,
    /// How much it matters.
    pub level: Level,
    /// The fact in words for people, without control characters.
    pub text: String,
    /// The fact for programs: an object whose keys depend on `kind`; durations in milliseconds, in keys that end with `_ms`.
    #[serde(default)]
    pub data: serde_json::Value,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something was reached: ready, switched.
    Good,
    /// It is as it should be.
    Info,
    /// It is not as it should be.
    Trouble,
}

/// Which log lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogsQuery {
    /// Of these services (names or globs); empty: of all.
    #[serde(default)]
    pub services: Vec<String>,
    /// Go on with what is written from now on.
    #[serde(default)]
    pub follow: bool,
    /// Only the last so many of those that fit; with `follow` the new ones come after them.
    #[serde(default)]
    pub lines: Option<u32>,
    /// Not before this time, in milliseconds since 1970 (UTC).
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Not after this time.
    #[serde(default)]
    pub until_ms: Option<u64>,
    /// Only lines that match this regular expression, in the syntax of the `regex-lite` crate.
    #[serde(default)]
    pub grep: Option<String>,
    /// Only of this generation.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Of the generation before the newest one of each service.
    #[serde(default)]
    pub previous: bool,
    /// Only of this stream.
    #[serde(default)]
    pub stream: Option<Stream>,
}

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a service wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Who.
    pub service: String,
    /// Which generation.
    pub generation: u64,
    /// Where to.
    pub stream: Stream,
    /// When it came, in milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// The part of that time below a millisecond, in nanoseconds: 0 to 999999.
    #[serde(default)]
    pub at_ns: u32,
    /// The line without its end; what is not valid UTF-8 is replaced by U+FFFD. Control characters are as they were written.
    pub text: String,
    /// The bytes in base64 (RFC 4648, with padding) if they are not valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
    /// It was longer than a line may be, and this is a part of it: the rest follows.
    #[serde(default)]
    pub truncated: bool,
    /// Its place in the service's log, opaque and only of use for comparison and debugging.
    #[serde(default)]
    pub position: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cursors_are_text() {
        let cursor = Cursor { boot: 0xbeef, seq: 42 };
        assert_eq!(serde_json::to_string(&cursor).unwrap(), "\"beef-42\"");
        assert_eq!("beef-42".parse(), Ok(cursor));
        assert_eq!("now".parse(), Ok(Cursor::NOW));
        assert_eq!(Cursor::NOW.to_string().parse(), Ok(Cursor::NOW));
        for wrong in ["", "-", "beef", "beef-", "-1", "+1-2", "beef-+2", "beef-4x", "0-1", "1-99999999999999999999", "g-1"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_round_trip(boot in 1_u64.., seq: u64) {
            let cursor = Cursor { boot, seq };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Cursor>();
        }
    }
}
