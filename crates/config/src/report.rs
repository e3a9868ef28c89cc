//! What is wrong with a configuration: every problem with its place, for people and for programs.
//!
//! No message quotes a value: values may come from the environment, and may be secrets. The text of the file is shown instead, but for values of
//! variables (`secret`), and for what a command line has to hide.

use crate::source::{Source, Span};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write as _;

/// Most problems that are kept: a file that is no configuration at all has thousands.
const MOST: usize = 50;
/// Most characters of a line that are shown, around the place.
const WIDTH: usize = 160;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it is; `None`: in the request, not in a file.
    pub place: Option<Place>,
    /// What is wrong: one sentence, lower-case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The other place that it is about, with what is there.
    pub related: Option<(Place, String)>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, relative to where the search began if it is below.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters on this line.
    pub length: u32,
    /// The line (long ones only around the place), with what a terminal could act upon replaced by `�`.
    pub text: String,
    /// Characters of `text` before the place.
    #[serde(skip)]
    offset: usize,
}

/// All that is wrong with a configuration. Its text is for people; serialised it is the list of problems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
    more: usize,
    nothing_found: bool,
}

impl Report {
    /// The problems, in the order of the files and of the places in them; at most fifty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// There is no configuration at all: neither a path was given, nor was a file found.
    pub fn nothing_found(&self) -> bool {
        self.nothing_found
    }

    /// A report of one problem that is in no file.
    pub(crate) fn of(message: impl Into<String>, hint: impl Into<String>) -> Self {
        let problem = Problem { place: None, message: message.into(), hint: Some(hint.into()), related: None };
        Self { problems: vec![problem], more: 0, nothing_found: false }
    }

    pub(crate) fn nothing(message: String, hint: &str) -> Self {
        Self { nothing_found: true, ..Self::of(message, hint) }
    }

    /// The text for people, with terminal colours or without. Several lines, the last one ended.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() }.term_width(WIDTH + 20);
        let mut text = String::new();
        for problem in &self.problems {
            // Without a place there is no frame to draw.
            let framed = if problem.place.is_some() { renderer.render(&groups(problem)) } else { plain(problem) };
            let _ = writeln!(text, "{framed}\n");
        }
        let count = self.problems.len() + self.more;
        if count > 1 {
            let hidden = if self.more > 0 { format!(", the first {MOST} are shown") } else { String::new() };
            let _ = writeln!(text, "{count} errors{hidden}; nothing was changed");
        } else {
            text.pop();
        }
        text
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}

impl Serialize for Report {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.problems.serialize(serializer)
    }
}

fn plain(problem: &Problem) -> String {
    let hint = problem.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("error: {}{hint}", problem.message)
}

fn groups(problem: &Problem) -> Vec<Group<'_>> {
    let snippet = |place: &'_ Place, kind: AnnotationKind, label: Option<&'_ str>| {
        let byte = |characters: usize| place.text.char_indices().nth(characters).map_or(place.text.len(), |(at, _)| at);
        let span = byte(place.offset)..byte(place.offset + place.length as usize);
        let annotation = kind.span(span).label(label.map(str::to_owned));
        Snippet::source(place.text.clone()).line_start(place.line as usize).path(place.file.clone()).annotation(annotation)
    };
    let title = Level::ERROR.primary_title(problem.message.as_str());
    let mut first = match &problem.place {
        Some(place) => title.element(snippet(place, AnnotationKind::Primary, None)),
        None => Group::with_title(title),
    };
    if let Some((place, label)) = &problem.related {
        first = first.element(snippet(place, AnnotationKind::Context, Some(label)));
    }
    let hint = problem.hint.as_deref().map(|hint| Group::with_title(Level::HELP.with_name("hint").secondary_title(hint)));
    std::iter::once(first).chain(hint).collect()
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Found>,
}

/// A problem on its way into a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    at: Option<Span>,
    message: String,
    hint: Option<String>,
    related: Option<(Span, String)>,
}

impl Found {
    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn related(&mut self, at: Span, what: impl Into<String>) -> &mut Self {
        self.related = Some((at, what.into()));
        self
    }
}

impl Problems {
    /// Adds a problem at a place; hint and related place can follow.
    pub(crate) fn add(&mut self, at: impl Into<Option<Span>>, message: impl Into<String>) -> &mut Found {
        let found = Found { at: at.into(), message: message.into(), hint: None, related: None };
        self.found.push(found);
        let last = self.found.len() - 1;
        &mut self.found[last]
    }

    /// Adds what a parser of values says.
    pub(crate) fn wrong(&mut self, at: Span, wrong: crate::value::Wrong) {
        let found = self.add(at, wrong.message);
        found.hint = wrong.hint;
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Drops what was found since there were `from` problems on lines in which one before that is: it follows from that.
    pub(crate) fn drop_followers(&mut self, from: usize, sources: &[Source]) {
        let line = |found: &Found| found.at.map(|at| (at.file, sources[usize::from(at.file)].position(at.start).0));
        let before: Vec<_> = self.found[..from].iter().map(line).collect();
        let mut index = 0;
        self.found.retain(|found| {
            index += 1;
            index <= from || !before.contains(&line(found))
        });
    }

    /// The report: in order, each once.
    pub(crate) fn report(mut self, sources: &[Source]) -> Report {
        self.found.sort_by(|a, b| (a.at, &a.message).cmp(&(b.at, &b.message)));
        self.found.dedup_by(|a, b| a.at == b.at && a.message == b.message);
        let more = self.found.len().saturating_sub(MOST);
        self.found.truncate(MOST);
        let place = |at: Span| place(at, &sources[usize::from(at.file)]);
        let problem = |found: Found| Problem {
            place: found.at.map(place),
            message: found.message,
            hint: found.hint,
            related: found.related.map(|(at, what)| (place(at), what)),
        };
        Report { problems: self.found.into_iter().map(problem).collect(), more, nothing_found: false }
    }
}

fn place(at: Span, source: &Source) -> Place {
    let (line, column) = source.position(at.start);
    let whole = &source.text[source.line(line)];
    let whole = whole.strip_suffix('\r').unwrap_or(whole);
    let masked = crate::secret::masked(&source.text, line).map_or_else(|| stayput_model::secrets::starred(whole), Cow::Owned);
    let whole = masked.as_ref();
    let start = column as usize - 1;
    let end = source.boundary(at.end).max(source.boundary(at.start));
    let length = source.text[source.boundary(at.start)..end].lines().next().unwrap_or_default().chars().count().clamp(1, WIDTH / 2);
    // Around the place only: a line can have a million characters.
    let skip = (start + length).saturating_sub(WIDTH * 3 / 4).min(start);
    let text: String = whole.chars().skip(skip).take(WIDTH).map(|character| if acts(character) { '�' } else { character }).collect();
    Place { file: source.shown.clone(), line, column, length: length as u32, text, offset: start - skip }
}

/// Whether a terminal could act upon it. A tab is shown as it is.
fn acts(character: char) -> bool {
    character != '\t' && matches!(stayput_model::text::printable(character.encode_utf8(&mut [0; 4])), std::borrow::Cow::Owned(_))
}
