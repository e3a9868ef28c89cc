//! The one error of the command line: what went wrong, why, what to do, and the exit code.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::output;

/// What kind of failure it is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The question was answered with no, or what was asked for did not happen: exit 1.
    Failed,
    /// The command line or a file it names makes no sense; nothing was changed: exit 2.
    BadInput,
    /// The rights at hand do not suffice: exit 3.
    NotPermitted,
}

impl Kind {
    /// The exit code that scripts see.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::NotPermitted => 3,
        }
    }
}

/// An error for a person to read.
#[derive(Debug)]
pub(crate) struct Error {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    /// Lines of somebody else, shown as they are but for control characters, below this title.
    quoted: Option<(&'static str, Vec<String>)>,
}

impl Error {
    /// An error whose sentence is `message` (lower-case, no full stop).
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hints: Vec::new(), quoted: None }
    }

    /// Adds an error and its sources as causes.
    pub(crate) fn because(mut self, cause: &dyn std::error::Error) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            let text = error.to_string();
            // Many errors already say their source: do not say it twice.
            if !self.causes.last().is_some_and(|last: &String| last.ends_with(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds a thing to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds lines that somebody else wrote.
    pub(crate) fn quote(mut self, title: &'static str, lines: &[String]) -> Self {
        if !lines.is_empty() {
            self.quoted = Some((title, lines.to_vec()));
        }
        self
    }

    /// The same of `whom`, which stands before the sentence.
    pub(crate) fn of(&self, whom: &str) -> Self {
        let Self { kind, message, causes, hints, quoted } = self;
        Self { kind: *kind, message: format!("{whom}{message}"), causes: causes.clone(), hints: hints.clone(), quoted: quoted.clone() }
    }

    /// Writes it to standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            let _ = writeln!(text, "  cause: {cause}");
        }
        if let Some((title, lines)) = &self.quoted {
            let _ = writeln!(text, "  {title}:");
            for line in lines {
                let _ = writeln!(text, "    | {}", stayput_model::text::printable(line));
            }
        }
        for hint in &self.hints {
            let _ = writeln!(text, "hint: {hint}");
        }
        output::complain(&text);
        ExitCode::from(self.kind.code())
    }
}
