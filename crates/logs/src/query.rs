//! Which lines are wanted.

use crate::directory::Entry;
use crate::line::{Item, Line};
use crate::name::{Stream, Track};
use regex_lite::Regex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Of which services.
    pub services: Services,
    /// Not before this time (unix ns).
    pub since: Option<u64>,
    /// Not after this time (unix ns).
    pub until: Option<u64>,
    /// Only so many of them, the last ones. What comes while it is followed is not counted.
    pub last: Option<usize>,
    /// Only lines that match.
    pub grep: Option<Grep>,
    /// Of which generations.
    pub generation: Which,
    /// The present generation (run, number) of services, where it is known: it may have written nothing yet.
    pub present: BTreeMap<String, (u64, u64)>,
    /// Of which stream; `None`: of both.
    pub stream: Option<Stream>,
    /// More is waited for: a line without an end is not given out before it is known that it stays so.
    pub follow: bool,
}

type Wanted = dyn Fn(&str) -> bool + Send + Sync;

/// Of which services lines are wanted.
#[derive(Clone, Default)]
pub struct Services {
    /// `None`: of all.
    wanted: Option<Arc<Wanted>>,
}

impl Services {
    /// Of those for whose name it is true, also if they come later.
    pub fn which(wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { wanted: Some(Arc::new(wanted)) }
    }

    /// Of this one.
    pub fn one(name: &str) -> Self {
        let name = name.to_owned();
        Self::which(move |other| other == name)
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.wanted.is_some() { "some services" } else { "all services" })
    }
}

/// Of which generations lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// Of all.
    #[default]
    All,
    /// Of the one with this number, in the newest run that has it.
    Number(u64),
    /// Of the newest one that has written something.
    Newest,
    /// Of the one before the present one: that of [`Query::present`], or the newest one that has written something.
    Previous,
    /// Of this one.
    One {
        /// When its run began.
        run: u64,
        /// Its number.
        generation: u64,
    },
}

/// Which generations are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// All.
    All,
    /// This one.
    One {
        /// When its run began.
        run: u64,
        /// Its number.
        generation: u64,
    },
    /// There is no such generation.
    Nothing,
}

impl Chosen {
    fn has(self, track: Track) -> bool {
        match self {
            Self::All => true,
            Self::One { run, generation } => (run, generation) == (track.run, track.generation),
            Self::Nothing => false,
        }
    }
}

impl Which {
    /// Which generations are meant among these segments of a service, whose present one is `present` (run, number).
    pub fn choose(self, entries: &[Entry], present: Option<(u64, u64)>) -> Chosen {
        let mut all: Vec<(u64, u64)> = entries.iter().map(|entry| (entry.name.track.run, entry.name.track.generation)).collect();
        all.sort_unstable();
        all.dedup();
        let one = match self {
            Self::All => return Chosen::All,
            Self::Number(number) => all.iter().rev().find(|(_, generation)| *generation == number),
            Self::Newest => all.last(),
            Self::One { run, generation } => return Chosen::One { run, generation },
            Self::Previous => {
                let present = present.or(all.last().copied());
                all.iter().rev().find(|one| Some(**one) < present)
            }
        };
        one.copied().map_or(Chosen::Nothing, |(run, generation)| Chosen::One { run, generation })
    }
}

impl Query {
    /// Whether lines of this service are wanted.
    pub fn wants_service(&self, name: &str) -> bool {
        self.services.wanted.as_ref().is_none_or(|wanted| wanted(name))
    }

    /// Whether lines of this track are wanted, if those of these generations are.
    pub(crate) fn wants_track(&self, track: Track, chosen: Chosen) -> bool {
        self.stream.is_none_or(|stream| stream == track.stream) && chosen.has(track)
    }

    /// Whether it is wanted, as far as its time and its text go. Gaps are.
    pub(crate) fn wants(&self, item: &Item) -> bool {
        let in_time = self.since.is_none_or(|since| item.at() >= since) && self.until.is_none_or(|until| item.at() <= until);
        let matches = match (item, &self.grep) {
            (Item::Line(line), Some(grep)) => grep.matches(line),
            (Item::Line(_), None) | (Item::Gap(_), _) => true,
        };
        in_time && matches
    }
}

/// A regular expression (in the syntax of the `regex-lite` crate) that is looked for in lines. Its time is linear in the line.
#[derive(Debug, Clone)]
pub struct Grep {
    pattern: Pattern,
}

#[derive(Debug, Clone)]
enum Pattern {
    /// Nothing in it is special: found much faster.
    Plain(String),
    Regex(Regex),
}

impl Grep {
    /// Reads the expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(pattern: &str) -> Result<Self, regex_lite::Error> {
        let regex = Regex::new(pattern)?;
        let plain = regex_lite::escape(pattern) == pattern;
        Ok(Self { pattern: if plain { Pattern::Plain(pattern.to_owned()) } else { Pattern::Regex(regex) } })
    }

    /// Whether the line matches. What is not UTF-8 in it counts as U+FFFD.
    pub fn matches(&self, line: &Line) -> bool {
        match &self.pattern {
            Pattern::Plain(text) => line.text().contains(text),
            Pattern::Regex(regex) => regex.is_match(&line.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::SegmentName;

    #[test]
    fn generations_are_found() {
        let entry = |run, generation| Entry {
            name: SegmentName { track: Track { run, generation, stream: Stream::Stdout }, base: 0 },
            packed: false,
        };
        let entries = [entry(1, 1), entry(1, 7), entry(2, 1), entry(2, 4), entry(2, 4)];
        let one = |run, generation| Chosen::One { run, generation };
        assert_eq!(Which::All.choose(&entries, None), Chosen::All);
        assert_eq!(Which::Newest.choose(&entries, None), one(2, 4));
        assert_eq!(Which::Number(1).choose(&entries, None), one(2, 1), "of the newest run");
        assert_eq!(Which::Number(7).choose(&entries, None), one(1, 7));
        assert_eq!(Which::Number(3).choose(&entries, None), Chosen::Nothing);
        assert_eq!(Which::Previous.choose(&entries, None), one(2, 1));
        assert_eq!(Which::Previous.choose(&entries, Some((2, 9))), one(2, 4), "the present one has said nothing yet");
        assert_eq!(Which::Previous.choose(&entries, Some((2, 1))), one(1, 7), "of the run before");
        assert_eq!(Which::Newest.choose(&[], None), Chosen::Nothing);
    }
}
