//! What a reader gets: lines, and places where something is missing.

use crate::name::Track;
use std::sync::Arc;

/// Longest piece of a line, in bytes; a longer line comes in pieces, of which all but the last are marked.
pub const LINE_MAX: usize = 64 * 1024;

/// A line, or a place where something is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A line.
    Line(Line),
    /// Something is missing here.
    Gap(Gap),
}

impl Item {
    /// Whose it is.
    pub fn service(&self) -> &Arc<str> {
        match self {
            Self::Line(line) => &line.service,
            Self::Gap(gap) => &gap.service,
        }
    }

    /// When it was written, in nanoseconds since 1970.
    pub fn at(&self) -> u64 {
        match self {
            Self::Line(line) => line.at,
            Self::Gap(gap) => gap.at,
        }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Name of the service.
    pub service: Arc<str>,
    /// Generation and stream.
    pub track: Track,
    /// When its first byte was taken from the pipe, in nanoseconds since 1970, to a millisecond. If the index of its segment is lost:
    /// the last time that is known before it, at least the beginning of the run.
    pub at: u64,
    /// Where its first byte is in its track.
    pub position: u64,
    /// The bytes, without the end of the line (`\n` or `\r\n`). Anything but `\n` may be in them.
    pub bytes: Vec<u8>,
    /// It does not end here: it is longer than [`LINE_MAX`] and goes on in the next one, or what follows was dropped.
    pub cut: bool,
}

impl Line {
    /// The bytes as text; what is not UTF-8 becomes U+FFFD.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// A place where something is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Name of the service.
    pub service: Arc<str>,
    /// Generation and stream.
    pub track: Track,
    /// When it began, in nanoseconds since 1970, as far as it is known.
    pub at: u64,
    /// How many bytes are missing.
    pub bytes: u64,
    /// Why.
    pub cause: GapCause,
}

/// Why something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// It could not be written (the disk was full, most likely).
    NotWritten,
    /// It was deleted, by the limits of size and age, before it was read.
    Deleted,
    /// It could not be read: a segment is damaged.
    Unreadable,
    /// The reader was too far behind, and went on at the end.
    Skipped,
}

impl GapCause {
    /// As the rest of a sentence: "12 bytes of output are missing: …".
    pub fn words(self) -> &'static str {
        match self {
            Self::NotWritten => "they could not be written to disk",
            Self::Deleted => "the limits of size or age deleted them before they were read",
            Self::Unreadable => "their file is damaged",
            Self::Skipped => "they came faster than they were read",
        }
    }
}
