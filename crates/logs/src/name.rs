//! Names of segment files: what is in them, and where it belongs.

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output; with a pseudo-terminal both.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
        }
    }
}

/// One stream of one generation: what the bytes of a sequence of segments belong to. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Track {
    /// When the run of the instance began, in nanoseconds since 1970. Generations are counted anew in each run.
    pub run: u64,
    /// Number of the generation.
    pub generation: u64,
    /// Which of its outputs.
    pub stream: Stream,
}

/// What the name of a segment says.
///
/// ```
/// use stayput_logs::{SegmentName, Stream, Track};
/// let track = Track { run: 1795425930123456789, generation: 3, stream: Stream::Stdout };
/// let name = SegmentName { track, base: 8388608 };
/// assert_eq!(name.stem(), "1795425930123456789-3-8388608-out");
/// assert_eq!(SegmentName::parse(&name.stem()), Some(name));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Whose bytes.
    pub track: Track,
    /// How many bytes of the track were written before this segment. Bytes that were dropped do not count.
    pub base: u64,
}

impl SegmentName {
    /// The name without its ending.
    pub fn stem(&self) -> String {
        let Track { run, generation, stream } = self.track;
        format!("{run}-{generation}-{}-{}", self.base, stream.short())
    }

    /// The name again. Only what [`SegmentName::stem`] writes is one: no signs, no leading zeros.
    pub fn parse(stem: &str) -> Option<Self> {
        let mut parts = stem.split('-');
        let run = number(parts.next()?)?;
        let generation = number(parts.next()?)?;
        let base = number(parts.next()?)?;
        let stream = match parts.next()? {
            "out" => Stream::Stdout,
            "err" => Stream::Stderr,
            _ => return None,
        };
        parts.next().is_none().then_some(Self { track: Track { run, generation, stream }, base })
    }
}

fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Which file of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Raw bytes.
    Raw,
    /// Compressed bytes.
    Packed,
    /// The index.
    Index,
}

impl FileKind {
    /// The ending of its name.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Raw => ".log",
            Self::Packed => ".log.gz",
            Self::Index => ".idx",
        }
    }

    /// Splits the name of a file.
    pub fn of(file: &str) -> Option<(SegmentName, Self)> {
        [Self::Raw, Self::Packed, Self::Index]
            .into_iter()
            .find_map(|kind| Some((SegmentName::parse(file.strip_suffix(kind.ending())?)?, kind)))
    }
}

/// Whether it may be the name of a service's directory: 1 to 64 of `A-Z a-z 0-9 _ . @ -`, not starting with a dot.
pub fn is_service(name: &str) -> bool {
    let right = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_names_are_none() {
        for wrong in [
            "",
            "1-2-3",
            "1-2-3-out-",
            "1-2-3-both",
            "01-2-3-out",
            "+1-2-3-out",
            "1--3-out",
            "1-2-99999999999999999999-out",
            "../1-2-3-out",
        ] {
            assert_eq!(SegmentName::parse(wrong), None, "{wrong}");
        }
        assert_eq!(FileKind::of("1-2-3-out.log.gz.tmp"), None);
        assert_eq!(FileKind::of("1-2-3-err.idx").map(|(name, kind)| (name.stem(), kind)), Some(("1-2-3-err".to_owned(), FileKind::Index)));
    }

    #[test]
    fn services_are_names_and_no_paths() {
        for right in ["web", "a.b@c_d-9", "-x"] {
            assert!(is_service(right), "{right}");
        }
        for wrong in ["", ".", "..", ".x", "a/b", "a b", "a\0", "\u{e9}", &"x".repeat(65)] {
            assert!(!is_service(wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn names_come_back_and_sort_by_age(one: (u64, u64, u64, bool), other: (u64, u64, u64, bool)) {
            let name = |(run, generation, base, out): (u64, u64, u64, bool)| {
                let stream = if out { Stream::Stdout } else { Stream::Stderr };
                SegmentName { track: Track { run, generation, stream }, base }
            };
            prop_assert_eq!(SegmentName::parse(&name(one).stem()), Some(name(one)));
            if one.0 != other.0 {
                prop_assert_eq!(name(one) < name(other), one.0 < other.0);
            }
        }

        #[test]
        fn any_text_is_a_name_or_none(text: String) {
            if let Some(name) = SegmentName::parse(&text) {
                prop_assert_eq!(name.stem(), text);
            }
        }
    }
}
