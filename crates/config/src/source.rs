//! The files that a configuration was read from, and places in them.

use std::path::{Path, PathBuf};

/// Bytes `start..end` of the file of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    pub(crate) file: u16,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// One file that was read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Where it is, absolute.
    pub(crate) path: PathBuf,
    /// How it is called in messages.
    pub(crate) shown: String,
    pub(crate) text: String,
    /// Byte offsets at which lines begin.
    lines: Vec<u32>,
}

impl Source {
    pub(crate) fn new(path: PathBuf, start_dir: &Path, text: String) -> Self {
        let shown = shown(&path, start_dir);
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at as u32 + 1);
        let lines = std::iter::once(0).chain(breaks).collect();
        Self { path, shown, text, lines }
    }

    /// The directory that paths in it are relative to.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Line, and column in characters, of a byte, both from 1.
    pub(crate) fn position(&self, byte: u32) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines[line - 1] as usize;
        let before = self.text.get(start..self.boundary(byte)).unwrap_or_default();
        (line as u32, before.chars().count() as u32 + 1)
    }

    /// The bytes of a line, without its end.
    pub(crate) fn line(&self, line: u32) -> std::ops::Range<usize> {
        let index = (line as usize).clamp(1, self.lines.len()) - 1;
        let start = self.lines[index] as usize;
        let end = self.lines.get(index + 1).map_or(self.text.len(), |next| *next as usize - 1);
        start..end
    }

    /// The nearest start of a character at or before this byte.
    pub(crate) fn boundary(&self, byte: u32) -> usize {
        self.text.floor_char_boundary(byte as usize)
    }
}

/// A path as people call it who are in `start_dir`.
pub(crate) fn shown(path: &Path, start_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let short = path.strip_prefix(start_dir).ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path);
    stayput_model::text::printable_bytes(short.as_os_str().as_bytes())
}
